"""Train a LoRA adapter of a model on a data set, generate with it, and save it for PEFT.

KERAS_BACKEND=jax python examples/lora.py MODEL DATA OUT_DIR [--steps 200] [--int8]
"""

import argparse
import math

import kgpt

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("data", help="made by kgpt data prepare --tokenizer MODEL")
parser.add_argument("out")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--int8", action="store_true", help="keep the frozen weights in int8 (QLoRA)")
options = parser.parse_args()

data = kgpt.TokenDataset(options.data)
model = kgpt.GPT.from_pretrained(options.model, weight_format="int8" if options.int8 else None)
kgpt.add_lora(model, rank=8, alpha=16, dropout=0.05)
trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
print(f"{trained:,} trained parameters beside {model.config.num_parameters():,} frozen ones")

model.compile(optimizer=kgpt.AdamW(2e-4), loss=kgpt.NextTokenLoss())
model.fit(
    kgpt.TrainDataset(
        data, batch_size=8, length=model.config.max_length, num_batches=options.steps
    ),
    callbacks=[kgpt.WarmupCosine(max_lr=2e-4, warmup_steps=20, decay_steps=options.steps)],
    shuffle=False,
    verbose=2,
)
print(model.generate("The", tokenizer=data.tokenizer, max_tokens=20, temperature=0.8, seed=7))
kgpt.save_adapter(model, options.out)
