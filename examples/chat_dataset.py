"""Fine-tune a model on conversations with model.fit, several of them packed into a row.

KERAS_BACKEND=jax python examples/chat_dataset.py MODEL CONVERSATIONS OUT_DIR [--epochs 3]
"""

import argparse

import kgpt

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("conversations", help="rows with messages, prompt and completion, ...")
parser.add_argument("out")
parser.add_argument("--epochs", type=int, default=3)
options = parser.parse_args()

model = kgpt.GPT.from_pretrained(options.model)
tokenizer = kgpt.Tokenizer.load(options.model)

# The text is that of the model's chat template; only what the assistant generates is learned.
batches = {"batch_size": 8, "length": model.config.max_length, "packing": True}
train = kgpt.ChatDataset(options.conversations, tokenizer, split="train", **batches)
val = kgpt.ChatDataset(options.conversations, tokenizer, split="val", shuffle=False, **batches)
print(f"{train.num_conversations} conversations, {train.truncated} of them truncated")
print(f"{train.sampler.utilization:.0%} of the tokens are no padding")

model.compile(optimizer=kgpt.AdamW(1e-4), loss=kgpt.NextTokenLoss())
model.fit(train, validation_data=val, epochs=options.epochs, shuffle=False, verbose=2)
model.save_pretrained(options.out, tokenizer=tokenizer)
