"""`kgpt distill`: train a student, or a draft model, to predict what a teacher predicts."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from kgpt.cli.options import MemoryFraction
from kgpt.cli.train import named_run, run_to_resume, run_training
from kgpt.config import Config, draft_of, parse_overrides, preset_path
from kgpt.errors import KgptError, UsageError
from kgpt.runs import Run, resolve_model

FLAGS = (
    "--teacher", "--student", "--data", "--draft", "--run", "--resume", "--memory-fraction",
    "--quiet", "--debug",
)  # fmt: skip
PRESET = "distill"


def distill(
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    teacher: str | None = None,
    student: str | None = None,
    data: str | None = None,
    draft: Annotated[bool, Parameter(negative="")] = False,
    run: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    memory_fraction: MemoryFraction = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Distill a model: train a student to predict what a teacher predicts, or resume such a run.

    Any key of a configuration can be set, as with `kgpt train`: --distill.temperature,
    --distill.alpha, --distill.top-k, --train.max-steps, ...

    Parameters
    ----------
    teacher
        The model to learn from: a model directory, a run, run@step, or a hub id.
    student
        The preset or YAML file of a new model; or a model to train on, as for --teacher. The
        preset distill when not given.
    data
        A data set made by `kgpt data prepare` with the teacher's tokenizer.
    draft
        Train a small draft model of the teacher's kind, with a quarter of its layers and half its
        width, and measure what it gains in speculative decoding.
    run
        The name of the run; "distill" and the time if not given.
    resume
        Resume the run from its latest valid checkpoint, as its run.yaml says.
    quiet
        Print nothing.
    """
    changes = parse_overrides(overrides, FLAGS)
    changes |= {"distill.teacher": teacher} if teacher is not None else {}
    changes |= {"data.dir": data} if data is not None else {}
    if draft and student is not None:
        raise UsageError("--draft chooses the student's architecture; leave --student out.")
    if resume:
        directory = run_to_resume(run)
        resolved = Config.resume(directory.path / "run.yaml", None, changes)
    else:
        resolved = _resolved(student, draft, changes)
        directory = named_run(run, PRESET)
    resolved.data.check_named()
    code = run_training(resolved, directory, resume, quiet, memory_fraction)
    if draft and code == 0 and not quiet:
        _report(directory)
    return code


def _resolved(student: str | None, draft: bool, changes: dict[str, Any]) -> Config:
    """The configuration: a student's own, or the preset `distill` with a student from elsewhere."""
    preset = student or PRESET
    if student is not None and not _is_config(student):
        changes, preset = {"finetune.model": student, **changes}, PRESET
    teacher = changes.get("distill.teacher")
    if draft and teacher is not None:
        changes = _architecture_of_draft(teacher) | changes
    config = Config.load(preset, changes)
    if config.distill.teacher is None:
        raise UsageError("No teacher is named; give the model to learn from with --teacher.")
    if config.finetune.model is not None:  # its own architecture, not that of the preset
        config = config.model_copy(update={"model": type(config.model)()})
    config.finetune.objective = "distill"
    return config


def _is_config(student: str) -> bool:
    """Is it a preset or a YAML file? False for a model; `UsageError` if it is neither."""
    try:
        preset_path(student)
    except UsageError as error:
        from kgpt.checkpoints.hub import is_hub_id

        try:
            resolve_model(student)
        except KgptError:
            if not is_hub_id(student):
                raise error from None
        return False
    return True


def _architecture_of_draft(teacher: str) -> dict[str, Any]:
    from kgpt.checkpoints.hub import resolve_source
    from kgpt.checkpoints.pretrained import load_config

    small = draft_of(load_config(resolve_source(teacher)))
    return {f"model.{key}": value for key, value in small.model_dump().items()}


def _report(run: Run) -> None:
    """Print what the draft of a finished run gains on its own data."""
    from kgpt.checkpoints.hub import resolve_source
    from kgpt.cli.bench_draft import describe_draft, draft_figures

    config = Config.load(str(run.path / "run.yaml"))
    folder = resolve_source(config.distill.teacher or "")
    sizes = (8, max(1, config.model.max_length // 4), max(2, config.model.max_length // 2))
    print(
        describe_draft(draft_figures(folder, resolve_model(run.name), config.data.dir or "", sizes))
    )
