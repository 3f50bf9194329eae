"""`kgpt generate --input-file`: completions of a file of prompts; resumable, with progress."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kgpt.cli.streams import read_standard_input
from kgpt.config import SamplingConfig
from kgpt.conversations import text_of
from kgpt.errors import DataError, UsageError
from kgpt.files import describe_damage, is_lfs_pointer, os_errors_as_kgpt, write_json
from kgpt.generation.generator import TextGenerator
from kgpt.generation.seeds import seed_of, with_seed

CHUNK_SIZE = 64  # prompts per batch, whose completions are saved before the next begins
COMPARED_BYTES = 1 << 20  # of the beginning and of the end of each file of weights


def complete_file(
    engine: TextGenerator,
    sampling: SamplingConfig,
    source: str,
    target: str,
    about: dict[str, Any],
    overwrite: bool = False,
    adapter: str | None = None,
    receipts: bool = False,
) -> None:
    """Complete the prompts of `source` in order, one JSON line each.

    Completions already in `target` are kept, and the job resumes after them: with the settings that
    `target`.settings.json notes, the random seed among them.

    Args:
        about: what besides `sampling` decides the completions, such as the model; under
            "structured_output" the fields of `StructuredOutputConfig` that they follow.
        overwrite: begin anew.
        adapter: the name of the engine's adapter that completes them.
        receipts: add one to each completion.

    Raises:
        DataError: the source cannot be read.
        UsageError: the target is of other prompts, or was made with other settings.
    """
    prompts = read_prompts(source)
    done = 0
    if target != "-":
        file = Path(target)
        done = 0 if overwrite else _num_completed(file, prompts)
        sampling = with_seed(_same_settings(file, sampling, about) if done else sampling)
        with os_errors_as_kgpt(f"write {settings_file(file)}"):
            write_json(settings_file(file), about | {"sampling": sampling.model_dump()})
            if not done:
                file.unlink(missing_ok=True)
    if done == len(prompts):
        print(f"{target} has all {done} completions already.", file=sys.stderr)
        return
    sampling = with_seed(sampling)
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

            structured = about.get("structured_output", {})
            engine.generate_batch(
                chunk, seeded, on_done=write, adapter=adapter, receipt=receipts, **structured
            )


def settings_file(target: Path) -> Path:
    """Where the settings of the completions in `target` are noted."""
    return target.with_name(f"{target.name}.settings.json")


def identify_model(folder: Path) -> dict[str, str]:
    """The folder of a model, and a checksum of the size, beginning and end of its weights."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            digest.update(weights.read(COMPARED_BYTES))
            weights.seek(max(0, file.stat().st_size - COMPARED_BYTES))
            digest.update(weights.read())
    return {"model": str(folder.resolve()), "weights": digest.hexdigest()[:16]}


def identify_settings(
    engine: TextGenerator,
    folder: Path,
    kv_cache_dtype: str,
    adapters: dict[str, Path],
    structured_output: dict[str, Any],
) -> dict[str, Any]:
    """What besides sampling decides the completions of an engine: `about` of `complete_file`."""
    about: dict[str, Any] = {**identify_model(folder), "dtype": engine.dtype}
    about["structured_output"] = structured_output
    if kv_cache_dtype != "auto":
        about["kv_cache_dtype"] = kv_cache_dtype
    for adapter in adapters.values():
        about["adapter"] = identify_model(adapter)
    return about


def _same_settings(target: Path, sampling: SamplingConfig, about: dict[str, Any]) -> SamplingConfig:
    """`sampling`, with the seed of the completions in `target` if it has none.

    Raises `UsageError` if they were made with other settings.
    """
    try:
        noted = json.loads(settings_file(target).read_text(encoding="utf-8"))
        earlier = SamplingConfig.parse(noted.pop("sampling"))
    except (OSError, ValueError, KeyError, AttributeError, UsageError):
        print(f"{target} does not say how it was made: settings are not compared.", file=sys.stderr)
        return sampling
    if sampling.seed is None:
        sampling = sampling.model_copy(update={"seed": earlier.seed})
    now = about | sampling.model_dump()
    before = {name: value for name, value in (noted | earlier.model_dump()).items() if name in now}
    for name, value in before.items():
        if value != now[name]:
            raise UsageError(
                f"{target} has completions with {name} {value}, not {now[name]}; "
                "give another --output-file, or replace it with --overwrite."
            )
    return sampling


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
    for number, line in enumerate(text.split("\n"), 1):  # a JSON string may hold U+2028
        if line.startswith("{"):
            prompts.append(_prompt_of(line, f"Line {number} of {source}"))
        elif line.strip():
            prompts.append(line.removesuffix("\r"))
    if not prompts:
        raise DataError(f"{source} has no prompts.")
    return prompts


def _prompt_of(line: str, where: str) -> str:
    """The "prompt" of a JSON object: text, or a list of text parts."""
    try:
        prompt = json.loads(line)["prompt"]
        if prompt is not None:
            return text_of(prompt)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(f'{where} is not a JSON object whose "prompt" is text.')


def _num_completed(target: Path, prompts: list[str]) -> int:
    """The number of completions in `target`, whose incomplete last line is removed."""
    if not target.is_file():
        return 0
    complete: list[str] = []
    for line in io.StringIO(target.read_text(encoding="utf-8")):
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith("\n"):
            break
        if len(complete) >= len(prompts) or prompt != prompts[len(complete)]:
            raise UsageError(
                f"{target} has completions of other prompts; give another --output-file, "
                "or replace it with --overwrite."
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
