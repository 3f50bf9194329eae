"""Fine-tune a model with `model.fit`: all its weights, its last layers, or a LoRA adapter.

KERAS_BACKEND=jax python examples/finetune.py MODEL DATA OUT_DIR [--method lora] [--steps 200]
"""

import argparse
import math

import kgpt

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("data", help="made by kgpt data prepare --tokenizer MODEL")
parser.add_argument("out")
parser.add_argument("--method", choices=["full", "last-layers", "lora"], default="lora")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--int8", action="store_true", help="keep the frozen weights in int8 (QLoRA)")
options = parser.parse_args()

data = kgpt.TokenDataset(options.data)
model = kgpt.GPT.from_pretrained(options.model, weight_format="int8" if options.int8 else None)
if options.method == "lora":
    kgpt.add_lora(model, rank=8, alpha=16, dropout=0.05)
elif options.method == "last-layers":
    kgpt.freeze(model, layers=model.config.num_layers - 1)
trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
print(f"{trained:,} trained parameters; the model has {model.config.num_parameters():,}")

rate = 2e-4 if options.method == "lora" else 5e-5
model.compile(optimizer=kgpt.AdamW(rate), loss=kgpt.NextTokenLoss())
model.fit(
    kgpt.TrainDataset(
        data,
        batch_size=8,
        length=model.config.max_length,
        num_batches=options.steps,
        assistant_only_loss=data.has_conversations,
    ),
    callbacks=[kgpt.WarmupCosine(max_lr=rate, warmup_steps=20, decay_steps=options.steps)],
    shuffle=False,
    verbose=2,
)
print(model.generate("The", tokenizer=data.tokenizer, max_tokens=20, temperature=0.8, seed=7))
if options.method == "lora":
    kgpt.save_adapter(model, options.out)
else:
    model.save_pretrained(options.out, data.tokenizer)
