"""Observe a model in every place, each backend in a process of its own, and compare."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kgpt.checkpoints.convert import quantize_model
from kgpt.checkpoints.pretrained import load_config, load_tokenizer
from kgpt.text.chat_template import load_chat_template
from kgpt.text.tokenizer import Tokenizer
from kgpt.verification.bounds import BOUNDS
from kgpt.verification.certificate import Certificate, PlaceResult, hash_files
from kgpt.verification.checks import compare
from kgpt.verification.observation import Expected, Observation
from kgpt.verification.places import Place
from kgpt.verification.probe import TEXT, Probe
from kgpt.verification.random_adapter import write_random_adapter
from kgpt.verification.reference import Reference
from kgpt.verification.worker import write_request

Progress = Callable[[str], None]


def verify(
    model: str,
    folder: Path,
    places: Sequence[Place],
    exports: Mapping[str, Path],
    num_tokens: int = 32,
    text: str = TEXT,
    progress: Progress = lambda what: None,
) -> Certificate:
    """The certificate of a model.

    Args:
        model: how the user calls it. folder: its directory, or an adapter's.
        places: where to run it. exports: existing exports by format, in place of new ones.
        num_tokens: greedy tokens of each prompt.
        text: for logits and bits per byte.
        progress: called with what is done next.
    """
    tokenizer = load_tokenizer(folder)
    probe = Probe.make(tokenizer, load_config(folder).max_length, num_tokens, text)
    present = [place for place in places if place.missing is None]
    with tempfile.TemporaryDirectory(prefix="kgpt-verify-") as name:
        work = Path(name)
        folders = _sources(folder, {place.source for place in present}, work)
        progress("the reference in NumPy")
        expected = {source: expect(path, tokenizer, probe) for source, path in folders.items()}
        _observe_all(present, folders, exports, probe, work, progress)
        results = []
        for place in places:
            seen = _observation(place, work)
            results.append(result_of(place, seen, expected.get(place.source), probe, tokenizer))
    facts = {
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "windows": len(probe.windows),
        "window_tokens": len(probe.windows[0]),
        "prompts": len(probe.prompts),
        "greedy_tokens": probe.num_tokens,
        "fuzzed_strings": len(probe.strings),
    }
    return Certificate(model, hash_files(folder), facts, results)


def expect(folder: Path, tokenizer: Tokenizer, probe: Probe) -> Expected:
    """What the reference gives for the model of `folder`."""
    reference, chat = Reference.load(folder), load_chat_template(tokenizer)
    stop_ids = tokenizer.stop_ids
    greedy = [reference.greedy(ids, probe.num_tokens, stop_ids) for ids in probe.prompts]
    return Expected(
        logits=reference.logits(np.array(probe.windows)),
        tokens=[tokens for tokens, _ in greedy],
        token_logits=[logits for _, logits in greedy],
        string_ids=tokenizer.encode_batch(probe.strings),
        chat_ids=[chat.encode(turns, add_generation_prompt=True)[0] for turns in probe.chats]
        if chat
        else None,
        stop_ids=sorted(stop_ids),
    )


def result_of(
    place: Place,
    seen: Observation,
    expected: Expected | None,
    probe: Probe,
    tokenizer: Tokenizer,
) -> PlaceResult:
    """The checks of a place; `expected` may be None where nothing was observed."""
    checks = []
    if expected is not None and seen.error is None and seen.skipped is None:
        checks = compare(seen, expected, probe, BOUNDS[place.precision], tokenizer)
    return PlaceResult(
        place.name, place.precision, checks, seen.faults, seen.notes, seen.skipped, seen.error
    )


def _sources(folder: Path, wanted: set[str], work: Path) -> dict[str, Path]:
    """The folders of the weights that places need."""
    folders = {"model": folder}
    if "int4" in wanted:
        folders["int4"] = work / "int4"
        folders["int4"].mkdir()
        quantize_model(folder, folders["int4"], 4)
    if "adapter" in wanted:
        folders["adapter"] = write_random_adapter(folder, work / "adapter")
    return folders


def _key(place: Place) -> str:
    return place.name.replace(" ", "-")


def _observation(place: Place, work: Path) -> Observation:
    if place.missing is not None:
        return Observation(skipped=f"{place.missing} is not installed")
    seen = Observation.read(work, _key(place))
    return seen or Observation(error=f"its process ended before it was done ({_last(work, place)})")


def _last(work: Path, place: Place) -> str:
    log = work / f"{_group(place)}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no output")


def _group(place: Place) -> str:
    return f"{place.backend}-{'gpu' if place.on_gpu else 'cpu'}"


def _observe_all(
    places: Sequence[Place],
    folders: Mapping[str, Path],
    exports: Mapping[str, Path],
    probe: Probe,
    work: Path,
    progress: Progress,
) -> None:
    """Run the places of each backend and device in one process, one process after another."""
    probe.write(work / "probe.json")
    write_request(
        work,
        {
            _key(p): (p, folders[p.source].resolve(), _absolute(exports.get(p.export or "")))
            for p in places
        },
    )
    groups: dict[str, list[Place]] = {}
    for place in places:
        groups.setdefault(_group(place), []).append(place)
    for name, members in groups.items():
        progress(", ".join(place.name for place in members))
        command = [sys.executable, "-m", "kgpt.verification.worker", str(work)]
        with (work / f"{name}.log").open("w") as log:
            subprocess.run(
                [*command, *map(_key, members)],
                env=_environment(members[0]), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                check=False,
            )  # fmt: skip


def _absolute(path: Path | None) -> Path | None:
    return path and path.resolve()


def _environment(place: Place) -> dict[str, str]:
    """The environment of a child process: its backend, and no GPU unless it is meant to use it."""
    # The allocator settings that kgpt chose for this process are another backend's.
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    values = {"KERAS_BACKEND": place.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if not place.on_gpu:
        values |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    return inherited | values
