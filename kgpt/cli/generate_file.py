"""`kgpt generate --input-file`: completions of a file of prompts; resumable, with progress."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kgpt.cli.streams import read_standard_input
from kgpt.config import SamplingConfig
from kgpt.errors import DataError, UsageError
from kgpt.files import describe_damage, is_lfs_pointer
from kgpt.generation.generator import TextGenerator
from kgpt.generation.seeds import seed_of, with_seed

CHUNK_SIZE = 64  # prompts per batch, whose completions are saved before the next begins


def complete_file(
    engine: TextGenerator, sampling: SamplingConfig, source: str, target: str
) -> None:
    """Complete the prompts of `source` in order, one JSON line each.

    Completions already in `target` are kept, and the job resumes after them.

    Raises:
        DataError: the source cannot be read. UsageError: the target is of other prompts.
    """
    prompts = read_prompts(source)
    sampling = with_seed(sampling)
    done = 0 if target == "-" else _num_completed(Path(target), prompts)
    with _open(target) as out, _progress(target) as bar:
        task = bar.add_task("generating", total=len(prompts), completed=done)
        for first in range(done, len(prompts), CHUNK_SIZE):
            chunk = prompts[first : first + CHUNK_SIZE]
            seeded = sampling.model_copy(update={"seed": seed_of(sampling, first)})

            def write(number: int, completion: Any, chunk: list[str] = chunk) -> None:
                line = json.dumps(completion.as_dict(chunk[number]), ensure_ascii=False)
                out.write(line + "\n")
                out.flush()
                bar.advance(task)

            engine.generate_batch(chunk, seeded, on_done=write)


def read_prompts(source: str) -> list[str]:
    """The prompts of a file: one per line, or the "prompt" of a JSON object per line."""
    try:
        if source == "-":
            text = read_standard_input()
        else:
            text = Path(source).read_text(encoding="utf-8-sig")
            if is_lfs_pointer(Path(source)):
                raise DataError(describe_damage(Path(source), ""))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read: {error}.") from None
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if line.startswith("{"):
            try:
                prompts.append(str(json.loads(line)["prompt"]))
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"Line {number} of {source} is not a JSON object with a prompt."
                ) from None
        else:
            prompts.append(line)
    if not prompts:
        raise DataError(f"{source} has no prompts.")
    return prompts


def _num_completed(target: Path, prompts: list[str]) -> int:
    """The number of completions in `target`, whose incomplete last line is removed."""
    if not target.is_file():
        return 0
    complete: list[str] = []
    for line in target.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith("\n"):
            break
        if len(complete) >= len(prompts) or prompt != prompts[len(complete)]:
            raise UsageError(
                f"{target} has completions of other prompts; give another --output-file."
            )
        complete.append(line)
    target.write_text("".join(complete), encoding="utf-8")
    return len(complete)


def _open(target: str) -> contextlib.AbstractContextManager[TextIO]:
    if target == "-":
        return contextlib.nullcontext(sys.stdout)
    try:
        return open(target, "a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error}.") from None


def _progress(target: str) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = not console.is_terminal or target == "-"
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=hidden)
