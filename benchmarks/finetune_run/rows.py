"""The rows of the table of fine-tuning on the small world: a `kgpt` command each, and its goals."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

STORIES, CHAT = "tinyworld-stories", "data/tinyworld-chat.jsonl"
REPLAY = "data/tinyworld-replay.jsonl"
PAIRS, PROMPTS = "data/tinyworld-preferences.jsonl", "data/tinyworld-prompts.jsonl"
TALKS = f"--data {CHAT} --data {REPLAY}"
ADAPTERS = """--lora.rank 1 --lora.alpha 4 --lora.dropout 0
    --lora.rank-pattern "{q_proj: 3, k_proj: 3, v_proj: 3, o_proj: 3}"
    --lora.alpha-pattern "{q_proj: 12, k_proj: 12, v_proj: 12, o_proj: 12}" --train.max-steps 1500
    --train.batch-size 16 --train.learning-rate 0.005 --train.min-learning-rate 0.0002
    --train.warmup-steps 50 --train.beta-2 0.98 --train.eval-every 500 --train.checkpoint-every 500
    --train.sample-every 0"""


Measure = Literal["value", "growth", "gain", "share"]


@dataclass(frozen=True)
class Goal:
    """What a row's figure must be.

    Attributes:
        metric: "right", "chosen", "perplexity" or "trained".
        measure: the "value"; its "growth" in percent or "gain" since the model that the row starts
            from; or its "share" of the model's parameters in percent.
        at_least, at_most: bounds; None is none.
        than: the row to compare with in place of that model.
    """

    metric: str
    measure: Measure
    at_least: float = -math.inf
    at_most: float = math.inf
    than: str | None = None

    def is_met(self, value: float) -> bool:
        return self.at_least <= value <= self.at_most

    def __str__(self) -> str:
        bounds = [f"at least {self.at_least:g}"] * (self.at_least > -math.inf)
        bounds += [f"at most {self.at_most:g}"] * (self.at_most < math.inf)
        than = f" over {self.than}" if self.than else ""
        return f"{self.metric} ({self.measure}{than}) must be {' and '.join(bounds)}"


@dataclass(frozen=True)
class Row:
    """A model of the table.

    Attributes:
        name: its run.
        command: `kgpt` arguments that train it, without --run.
        base: the row it starts from; None for a model trained from nothing.
        data: names of what `kgpt data get` makes for it.
    """

    name: str
    command: str
    data: Sequence[str]
    base: str | None = None
    goals: Sequence[Goal] = ()

    @property
    def words(self) -> list[str]:
        """The command, as words after `kgpt`."""
        start = [] if self.base is None else ["--model", self.base]
        first, second, *rest = shlex.split(self.command)
        return [first, second, *start, *rest, "--run", self.name]


ROWS = (
    Row(
        "base",
        "train tinyworld-stories",
        (STORIES,),
        goals=(Goal("right", "value", at_most=10),),
    ),
    Row(
        "lora",
        f"finetune lora {TALKS} {ADAPTERS}",
        (STORIES,),
        "base",
        (
            Goal("right", "value", at_least=80),
            Goal("trained", "share", at_most=2),
            Goal("perplexity", "growth", at_most=15),
        ),
    ),
    Row(
        "qlora",
        f"finetune qlora {TALKS} {ADAPTERS}",
        (STORIES,),
        "base",
        (Goal("right", "gain", at_least=-3, at_most=3, than="lora"),),
    ),
    Row(
        "full",
        f"""finetune full {TALKS} --train.max-steps 1200 --train.batch-size 16
        --train.optimizer muon --train.learning-rate 0.002 --train.min-learning-rate 0.0001
        --train.warmup-steps 50 --train.weight-decay 0.1 --train.beta-2 0.98
        --train.eval-every 400 --train.checkpoint-every 400 --train.sample-every 0""",
        (STORIES,),
        "base",
        (Goal("right", "value", at_least=90),),
    ),
    Row(
        "half",
        "train tinyworld --model.qk-norm false --data.packing stream --train.learning-rate 0.004 "
        "--train.max-steps 900 --train.decay-steps 1500 --train.eval-every 300 "
        "--train.checkpoint-every 300 --train.sample-every 0",
        ("tinyworld",),
    ),
    Row(
        "dpo",
        f"finetune dpo --data {PAIRS} --train.max-steps 300 --train.batch-size 16 "
        "--train.learning-rate 0.003 --train.min-learning-rate 0.0003 --train.sample-every 0",
        ("tinyworld-preferences",),
        "half",
        (Goal("chosen", "value", at_least=80),),
    ),
    Row(
        "grpo",
        f"finetune grpo --data {PROMPTS} --reward tinyworld --train.max-steps 200 "
        "--train.batch-size 256 --grpo.num-generations 16 --grpo.temperature 1.2 "
        "--grpo.max-num-seqs 256 --train.optimizer muon --train.learning-rate 0.001 "
        "--train.min-learning-rate 0.0001 --train.warmup-steps 5 --train.sample-every 0",
        ("tinyworld-prompts",),
        "half",
        (Goal("right", "gain", at_least=15),),
    ),
)


def chosen_rows(names: Sequence[str], rows: Sequence[Row] = ROWS) -> list[Row]:
    """The rows of these names, all if there are none, each after its base."""
    known = {row.name: row for row in rows}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"There is no row {unknown[0]}; choose from {', '.join(known)}.")
    wanted = set(names or known)
    wanted |= {base for name in wanted if (base := known[name].base)}
    return [row for row in rows if row.name in wanted]


def has_data(name: str, folder: Path) -> bool:
    """Whether `kgpt data get NAME` has been run in `folder`."""
    return (folder / "data" / f"{name}.jsonl").exists()
