"""`kgpt verify`: certify that a model is one model everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.cli.options import StrictInt
from kgpt.errors import UsageError
from kgpt.files import os_errors_as_kgpt, write_json
from kgpt.runs import resolve_model

if TYPE_CHECKING:
    from kgpt.verification.certificate import Certificate, PlaceResult

COLUMNS = {
    "logits": "logits",
    "greedy": "greedy",
    "bits_per_byte": "bits/byte",
    "token_ids": "ids",
    "chat_template": "chat",
    "stop_tokens": "stop",
    "weights": "weights",
}


def verify(
    model: str,
    *,
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    export: Annotated[list[Path] | None, Parameter(negative=())] = None,
    text: Path | None = None,
    max_tokens: StrictInt = 32,
    out: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Certify that a model is one model everywhere.

    It runs in every place that this machine has: each backend at each precision, with an adapter
    merged and not, the exports, transformers and llama.cpp if they are installed, and the HTTP
    server. Each is compared with a reference in NumPy (float64), within bounds that are printed;
    the exit code is 1 if one is broken.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    only
        Only these places, as the first column of the table names them, or all with a word in it:
        jax, int8, "torch float32", onnx. Several may be separated by commas.
    export
        An existing export to verify in place of a new one: the folder that `kgpt export` wrote,
        or a GGUF file. May be given several times.
    text
        A text file for logits and bits per byte; a built-in text when not given.
    max_tokens
        Greedy tokens of each prompt.
    out
        Write the certificate to this file, as JSON: hashes, versions, bounds and all checks.
    as_json
        Print the certificate as JSON.
    """
    if max_tokens < 1:
        raise UsageError(f"--max-tokens must be at least 1, not {max_tokens}.")
    folder = resolve_model(model)
    from kgpt.verification.places import all_places, recognise_exports, select
    from kgpt.verification.probe import TEXT
    from kgpt.verification.verify import verify as run

    names = [part.strip() for entry in only or () for part in entry.split(",") if part.strip()]
    places = select(all_places(folder, has_gpu()), names)
    exports = recognise_exports(export or ())
    console = Console(stderr=True)
    with console.status("") as status:
        certificate = run(
            model, folder, places, exports, max_tokens, read_text(text) if text else TEXT,
            lambda what: status.update(Text(what)),
        )  # fmt: skip
    if out is not None:
        with os_errors_as_kgpt(f"write {out}"):
            write_json(out, certificate.to_json())
    if as_json:
        print(json.dumps(certificate.to_json(), indent=2, ensure_ascii=False))
    else:
        show(certificate)
    return 0 if certificate.passed else 1


def read_text(file: Path) -> str:
    """The contents of a text file; a `UsageError` if there is none."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as UTF-8 text: {error}.") from None


def has_gpu() -> bool:
    """Whether the machine has an NVIDIA GPU, without a backend being loaded."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount())
    except Exception:  # no driver, no GPU, or no such library
        return False


def show(certificate: Certificate) -> None:
    """Print the table, the bounds, and a sentence for each thing that is wrong."""
    table = Table(title=Text(certificate.model), title_justify="left")
    table.add_column("place", no_wrap=True)
    for column in COLUMNS.values():
        table.add_column(column, justify="right", overflow="fold", no_wrap=column != "stop")
    observed = [result for result in certificate.results if result.skipped is None]
    for result in observed:
        style = "" if result.passed else "red"
        table.add_row(result.name, *_cells(result), style=style)
    console = Console()
    console.print(table)
    for line in _bounds(observed):
        console.print(Text(line))
    for result in certificate.results:
        if result.skipped is not None:
            console.print(Text(f"skipped {result.name}: {result.skipped}."))
    for sentence in (sentence for result in observed for sentence in result.sentences):
        console.print(Text(sentence, style="red"))
    if certificate.passed:
        console.print(Text(f"{len(observed)} places run one model.", style="green"))


def _cells(result: PlaceResult) -> list[str]:
    values = {check.name: check.value for check in result.checks}
    return [_cell(values.get(name, "")) for name in COLUMNS]


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _bounds(results: list[PlaceResult]) -> list[str]:
    """The bounds of each precision that was observed, as lines."""
    from kgpt.verification.bounds import BOUNDS

    lines = [
        f"{precision}: logits within {BOUNDS[precision].logits:g} of the reference's largest, "
        f"bits per byte within {BOUNDS[precision].bits_per_byte:.2%}."
        for precision in dict.fromkeys(result.precision for result in results)
    ]
    return [
        *lines,
        "Greedy tokens are equal where the reference's logits of the two differ by more than "
        "twice the bound.",
        "Token ids, chat template, stop tokens and weights of exports must be equal.",
    ]
