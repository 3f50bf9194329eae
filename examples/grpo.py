"""Train a model by rewards with `model.fit`: it learns to give short answers.

KERAS_BACKEND=jax python examples/grpo.py MODEL OUT_DIR [--steps 50]
"""

import argparse

import kgpt

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("out")
parser.add_argument("--steps", type=int, default=50)
options = parser.parse_args()


def brief(prompts, completions, **columns):
    """1 for an empty completion, 0 for one of 100 characters or more."""
    return [1 - min(len(text), 100) / 100 for text in completions]


model = kgpt.GPT.from_pretrained(options.model)
tokenizer = kgpt.Tokenizer.load(options.model)
model.compile(optimizer=kgpt.AdamW(5e-4), loss=kgpt.GRPOLoss())
data = kgpt.RolloutDataset(
    model,
    tokenizer,
    prompts=["Where is Anna?", "What day is it?", "Who has a boat?"],
    rewards=[brief],
    config=kgpt.GRPOConfig(num_generations=4, max_completion_length=16),
    batch_size=12,
)
for step in range(1, options.steps + 1):
    model.fit(data, shuffle=False, verbose=0)  # an epoch is one update, on new completions
    if step % 10 == 0 or step == options.steps:
        print(f"step {step}: mean reward {data.rollout.metrics['reward']:.3f}")
model.save_pretrained(options.out, tokenizer)
