"""`kgpt finetune`: resolve the model and the data, lock the run directory, train."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from kgpt.cli.options import MaxLength, MemoryFraction, Truncate
from kgpt.cli.train import named_run, run_to_resume, run_training, split_flags
from kgpt.config import PREFERENCE_OBJECTIVES, Config, parse_overrides
from kgpt.errors import UsageError
from kgpt.runs import Run

if TYPE_CHECKING:
    from kgpt.text.tokenizer import Tokenizer

FLAGS = (
    "--model", "--data", "--skip-invalid", "--max-length", "--truncate", "--reward", "--method",
    "--run", "--resume", "--memory-fraction", "--quiet", "--debug",
)  # fmt: skip
DEFAULT_PRESET = "lora"


def finetune(
    config: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    model: str | None = None,
    data: Annotated[list[str] | None, Parameter(negative="")] = None,
    skip_invalid: Annotated[bool, Parameter(negative="")] = False,
    max_length: MaxLength = None,
    truncate: Truncate | None = None,
    reward: Annotated[list[str] | None, Parameter(negative="")] = None,
    method: str | None = None,
    run: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    memory_fraction: MemoryFraction = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Fine-tune a model on texts or conversations, or resume such a run.

    Parameters
    ----------
    config
        The name of a preset, or a YAML file; the preset of the method when not given.
    model
        The model to fine-tune: a model directory, a run, run@step, or a hub id.
    data
        A data set made by `kgpt data prepare` with the model's tokenizer; or the files themselves
        (repeat --data for several), which are prepared into the run's directory. For the presets
        dpo, ipo and orpo, files of rows with prompt, chosen and rejected; for kto also with prompt,
        completion and label; for grpo, with a prompt.
    skip_invalid
        Leave out rows of the files that cannot be used, and count them; without it the first one is
        refused.
    max_length
        The longest conversation of the files, in tokens; any if not given.
    truncate
        What happens to a longer one: keep-start, the default, cuts it at its end, skip leaves it
        out.
    reward
        For the preset grpo: tinyworld, an installed reward, or file.py:function, whose code is run,
        also when the run is resumed (repeat --reward for several).
    method
        The weights that are trained: full, lora, dora, adapter or prefix.
    run
        The name of the run; the configuration's name and the time if not given.
    resume
        Resume the run from its latest valid checkpoint, as its run.yaml says. What CONFIG and
        flags state changes it, where it may change.
    quiet
        Print nothing.
    """
    config, flags = split_flags(config, overrides)
    changes = parse_overrides(flags, FLAGS)
    changes |= {"finetune.model": model} if model is not None else {}
    changes |= {"finetune.method": method} if method is not None else {}
    changes |= {"grpo.reward": reward} if reward else {}
    files = data or []
    if len(files) == 1 and (Path(files[0]) / "manifest.json").is_file():
        changes["data.dir"], files = files[0], []
    options = {"skip_invalid": skip_invalid, "max_length": max_length, "truncate": truncate}
    if resume:
        if files:
            raise UsageError("A resumed run goes on with the data that it has; leave --data out.")
        _check_preparation(options, "of a run that is resumed")
        directory = run_to_resume(run)
        resolved = Config.resume(directory.path / "run.yaml", config, changes)
        return run_training(resolved, directory, resume, quiet, memory_fraction)
    preset = config or str(changes.get("finetune.method", DEFAULT_PRESET))
    resolved = _resolved(preset, changes)
    if resolved.finetune.objective in ("grpo", *PREFERENCE_OBJECTIVES):
        _check_preparation(options, f"for {resolved.finetune.objective}")
    elif not files:
        _check_preparation(options, "made by `kgpt data prepare`")
    if resolved.finetune.objective == "grpo":  # whose files are read as they are
        resolved.grpo.prompts = files or resolved.grpo.prompts
        return run_training(resolved, named_run(run, preset), resume, quiet, memory_fraction)
    directory = named_run(run, preset)
    if not files and resolved.data.dir is None:
        raise UsageError("No data is named; give --data with a data set, or with files.")

    def prepare(console: Console) -> Config:
        return _prepared(resolved, files, directory, console, options) if files else resolved

    return run_training(resolved, directory, resume, quiet, memory_fraction, prepare)


def _resolved(preset: str, changes: dict[str, object]) -> Config:
    """The configuration, which learns by `sft` if it states no other objective."""
    config = Config.load(preset, changes)
    if config.finetune.objective is None:
        config.finetune.objective = "sft"
    if config.finetune.model is None:
        raise UsageError("No model is named; give the model to fine-tune with --model.")
    return config


def _check_preparation(options: dict[str, Any], which: str) -> None:
    """Raise `UsageError` if an option of the preparation is given for data that has none."""
    if given := [f"--{name.replace('_', '-')}" for name, value in options.items() if value]:
        raise UsageError(
            f"{', '.join(given)}: the data {which} is not prepared from texts or conversations "
            "here; leave it out."
        )


def _prepared(
    config: Config, files: list[str], run: Run, console: Console, options: dict[str, Any]
) -> Config:
    """`config` with a data set in the run's data/, made of files with the model's tokenizer."""
    from kgpt.checkpoints.hub import resolve_source
    from kgpt.checkpoints.pretrained import load_tokenizer
    from kgpt.training.base_model import with_base_model
    from kgpt.training.preference import prepare_preferences

    folder = run.path / "data"
    whole = with_base_model(config)
    tokenizer = load_tokenizer(resolve_source(whole.finetune.model or ""))
    if folder.exists():  # of a run that made no step
        shutil.rmtree(folder)
    if config.finetune.objective in PREFERENCE_OBJECTIVES:
        notes = prepare_preferences(whole, files, tokenizer, folder)
    else:
        notes = _prepare(files, tokenizer, folder, **options)
    for line in notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    data = config.data.model_copy(update={"dir": str(folder)})
    return config.model_copy(update={"data": data})


def _prepare(
    files: list[str],
    tokenizer: Tokenizer,
    folder: Path,
    skip_invalid: bool,
    max_length: int | None,
    truncate: Truncate | None,
) -> list[str]:
    """The data set `folder`, of texts or conversations in files; returns lines for people."""
    from kgpt.data.prepare import prepare
    from kgpt.data.sources import Corpus

    corpus = Corpus(files, skip_invalid=skip_invalid)
    manifest = prepare(
        corpus, tokenizer, folder, max_length=max_length, truncate=truncate or "keep-start"
    )
    counts = ", ".join(f"{info.tokens:,} {split}" for split, info in manifest.splits.items())
    notes = [f"recognized {note}" for note in corpus.notes]
    notes += [f"prepared {', '.join(corpus.names)}: {counts} tokens, in {folder}"]
    return [*notes, *corpus.invalid.notes, *manifest.notes]
