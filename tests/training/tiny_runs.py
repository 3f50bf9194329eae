"""Small training runs in this process."""

import io
from pathlib import Path

from rich.console import Console

from kgpt.config import Config
from kgpt.runs import Run, new_run

TINY = {
    "model": {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_length": 16},
    "train": {
        "max_steps": 6, "batch_size": 4, "learning_rate": 0.01, "min_learning_rate": 0.001,
        "warmup_steps": 2, "log_every": 1, "eval_every": 0, "checkpoint_every": 2,
        "sample_every": 0, "seed": 5,
    },
    "sampling": {"max_tokens": 5},
}  # fmt: skip
DROPOUT = {"model": {"dropout": 0.2}}


def make_config(data: Path, /, **changes) -> Config:
    """The tiny configuration with changes such as `train={"max_steps": 3}`."""
    values: dict = {section: {**TINY.get(section, {})} for section in Config.model_fields}
    values["data"]["dir"] = str(data)
    for section, keys in changes.items():
        values[section] |= keys
    return Config.parse(values)


class Trained:
    """A run that was trained in this process: its directory, its outcome, what was shown."""

    def __init__(
        self, config: Config, name="run", resume=False, quiet=False, fork_of=None, stop_at=None
    ):
        from kgpt.training.task import make_task
        from kgpt.training.trainer import train

        self.run: Run = new_run(name)
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.output = io.StringIO()
        console = Console(file=self.output, width=200)
        self.task = make_task(config)
        options = {"fork_of": fork_of, "stop_at": stop_at}
        self.outcome = train(self.task, self.run, resume, console, quiet, **options)

    @property
    def losses(self) -> dict[int, float]:
        """The loss of each step."""
        return {row["step"]: row["loss"] for row in self.run.metrics()}

    @property
    def shown(self) -> str:
        return self.output.getvalue()


def contents(run: Run) -> dict[str, bytes]:
    """The bytes of every file of a run, by path; not of its lock."""
    files = (path for path in run.path.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
