"""Train a small GPT with model.fit, generate text, and save a Hugging Face directory.

KERAS_BACKEND=jax python examples/train_script.py TEXT_FILE OUT_DIR [--steps 500]
"""

import argparse
from pathlib import Path

import kgpt
from kgpt.data.prepare import prepare
from kgpt.data.sources import Corpus

parser = argparse.ArgumentParser()
parser.add_argument("text", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--steps", type=int, default=500)
options = parser.parse_args()

# Tokenize the text into memory-mapped shards, with the last part as validation set.
corpus = Corpus([str(options.text)])
tokenizer = kgpt.Tokenizer.train_bpe(corpus.texts(), vocab_size=512)
prepare(corpus, tokenizer, options.out / "data")
data = kgpt.TokenDataset(options.out / "data")

# GPT-2's architecture; position="rotary", norm="rms", activation="swiglu" would make it a Llama.
config = kgpt.ModelConfig(
    vocab_size=data.manifest.vocab_size, num_layers=2, num_heads=4, hidden_dim=64, max_length=64
)
model = kgpt.GPT(config, seed=1)
model.compile(optimizer=kgpt.AdamW(1e-3, weight_decay=0.1), loss=kgpt.NextTokenLoss())
model.fit(
    kgpt.TrainDataset(data, batch_size=12, length=64, num_batches=options.steps),
    validation_data=kgpt.EvaluationDataset(data, batch_size=12, length=64),
    callbacks=[kgpt.WarmupCosine(max_lr=1e-3, warmup_steps=20, decay_steps=options.steps)],
    shuffle=False,  # the batches are in random order already, and reproducible
    verbose=2,
)

prompt = data.tokenizer.encode("The")
ids = model.generate(prompt, max_tokens=40, temperature=0.8, seed=7)
print(data.tokenizer.decode(ids))

model.save_pretrained(options.out / "model", tokenizer=data.tokenizer)
