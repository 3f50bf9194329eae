"""kgpt's names for metrics that other trainers log under other names."""

from __future__ import annotations

from collections.abc import Sequence

from kgpt.lab.trackers.tracked_run import BASE, Row

# For each name of kgpt, those of others: Keras, transformers, Lightning, nanoGPT and their like.
METRICS: dict[str, tuple[str, ...]] = {
    "loss": ("train/loss", "train_loss", "train.loss", "training/loss", "training_loss",
             "loss/train", "epoch_loss"),
    "val_loss": ("val/loss", "validation/loss", "valid/loss", "eval/loss", "valid_loss",
                 "validation_loss", "eval_loss", "val.loss", "eval.loss", "loss/val",
                 "loss/validation", "val_epoch_loss"),
    "lr": ("learning_rate", "train/learning_rate", "train/lr", "epoch_learning_rate",
           "lr-adamw", "lr-adam", "lr-sgd", "optim/lr"),
    "grad_norm": ("train/grad_norm", "gradient_norm", "train/gradient_norm"),
    "tokens_per_s": ("tokens_per_sec", "tokens_per_second", "train/tokens_per_sec",
                     "train/tokens_per_second", "train/tok_per_sec", "tok_per_sec"),
    "val_perplexity": ("val/perplexity", "eval/perplexity", "eval_perplexity"),
    "val_bits_per_byte": ("val/bpb", "val_bpb"),
}  # fmt: skip
# Where a row has one of these, it is the step of the optimizer, and the tracker's own is a counter.
STEPS = ("train/global_step", "trainer/global_step", "global_step", "iter")


def map_names(metrics: Sequence[str]) -> dict[str, str]:
    """For each metric of a run its name in kgpt, where that differs.

    A name of kgpt is given once, to the first in the order of `METRICS`, and not where the run
    has that name already.

    >>> map_names(["train/loss", "eval_loss", "accuracy"])
    {'train/loss': 'loss', 'eval_loss': 'val_loss'}
    """
    lower: dict[str, str] = {}
    for name in metrics:
        lower.setdefault(name.lower(), name)
    renamed = {}
    for name, others in METRICS.items():
        found = next((lower[other] for other in others if other in lower), None)
        if name not in metrics and found is not None:
            renamed[found] = name
    return renamed


def rename(rows: list[Row], names: dict[str, str]) -> list[Row]:
    """The rows with the names of `map_names`, the step first, and steps by `STEPS`."""
    renamed = []
    for row in rows:
        step = next((row[key] for key in STEPS if key in row), row["step"])
        values = {names.get(key, key): v for key, v in row.items() if key not in (*STEPS, *BASE)}
        renamed.append({"step": int(step), "time": row["time"], **values})
    return renamed
