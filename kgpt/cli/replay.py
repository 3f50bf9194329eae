"""`kgpt replay`: generate again what a receipt describes, and compare."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kgpt.cli.adapters import parse_adapters
from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import MemoryFraction, StrictInt
from kgpt.cli.streams import read_standard_input
from kgpt.errors import DataError, KgptError, UsageError
from kgpt.runs import resolve_model
from kgpt.text.terminal_text import for_output

if TYPE_CHECKING:
    from kgpt.generation.completion import Completion
    from kgpt.generation.receipt import Receipt

RULE = "-" * 40
SHOWN = 10  # numbers of texts that differ
ONE_MODEL = ("model", "adapter")
ONE_SETTING = ("dtype", "kv_cache_dtype", "max_context")


def replay(
    receipt: str,
    /,
    *,
    model: str | None = None,
    adapter: str | None = None,
    max_num_seqs: StrictInt = 16,
    memory_fraction: MemoryFraction = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Generate the text of a receipt again, and say whether it is the same.

    The exit code is 1 if it is not; what differs besides, such as the weights or the backend, is
    named.

    Parameters
    ----------
    receipt
        A file with receipts: JSON or JSON lines, such as the output of `kgpt generate --json` or a
        response of `kgpt serve`; - is standard input.
    model
        The model, where it is not in the folder that the receipt names.
    adapter
        Likewise the adapter.
    max_num_seqs
        Sequences decoded at once; 1 generates each text alone.
    as_json
        Print one JSON object per text: same, differs, text, and the new receipt.
    """
    if max_num_seqs < 1:
        raise UsageError("--max-num-seqs must be at least 1.")
    found = list(_receipts_in(_read(receipt)))
    if not found:
        raise DataError(f"{receipt} has no receipt; `kgpt generate --json` prints some.")
    first = _common(found)
    folder = resolve_model(model or first["model"])
    source = adapter or first.get("adapter")
    adapters = parse_adapters([source] if source else [])
    prepare_process(memory_fraction)
    silence_native_code()
    from kgpt.generation.generator import TextGenerator
    from kgpt.generation.receipt import Receipt
    from kgpt.generation.replay import replay as generate_again

    receipts = [Receipt.parse(values, "receipt") for values in found]
    settings = receipts[0].settings
    with TextGenerator(
        folder,
        max_num_seqs=max_num_seqs,
        max_context=settings.max_context,
        dtype=settings.dtype,
        kv_cache_dtype=settings.kv_cache_dtype,
        adapters=adapters,
    ) as generator:
        completions = generate_again(generator, receipts, next(iter(adapters), None))
    _report(receipts, completions, as_json)


def _read(source: str) -> Any:
    """The JSON values of a file: one, or one a line."""
    try:
        text = read_standard_input() if source == "-" else Path(source).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read: {error}.") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError):
        raise DataError(f"{source} is neither JSON nor JSON lines.") from None


def _receipts_in(values: Any) -> Iterator[dict[str, Any]]:
    """All receipts anywhere within JSON values."""
    if isinstance(values, dict):
        if type(values.get("kgpt_receipt")) is int:
            yield values
            return
        values = list(values.values())
    for value in values if isinstance(values, list) else ():
        yield from _receipts_in(value)


def _common(receipts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first receipt; a `UsageError` unless one loaded model can generate all texts."""

    def of_load(values: dict[str, Any]) -> list[Any]:
        settings = values.get("settings")
        settings = settings if isinstance(settings, dict) else {}
        return [*map(values.get, ONE_MODEL), *map(settings.get, ONE_SETTING)]

    first = receipts[0]
    if any(of_load(other) != of_load(first) for other in receipts):
        names = ", ".join((*ONE_MODEL, *ONE_SETTING))
        raise UsageError(f"The receipts differ in {names}; replay those of one model at a time.")
    model, adapter = map(first.get, ONE_MODEL)
    if not isinstance(model, str) or not isinstance(adapter, str | None):
        raise UsageError("The receipt does not name its model; it has been changed.")
    return first


def _report(receipts: Sequence[Receipt], completions: Sequence[Completion], as_json: bool) -> None:
    """Print the texts, and on standard error the verdict; a `KgptError` if a text differs."""
    from kgpt.generation.receipt import Receipt
    from kgpt.generation.replay import differing_parts

    parts: dict[str, None] = {}
    changed: list[int] = []
    for number, (then, completion) in enumerate(zip(receipts, completions, strict=True), 1):
        now = Receipt.parse(completion.receipt or {})
        differs, same = differing_parts(then, now), then.sha256.get("text") == now.sha256["text"]
        parts |= dict.fromkeys(differs)
        changed += [] if same else [number]
        if as_json:
            row = {"same": same, "differs": differs, "text": completion.text}
            print(json.dumps(row | {"receipt": completion.receipt}, ensure_ascii=False))
    if not as_json:
        print(f"\n{RULE}\n".join(for_output(completion.text) for completion in completions))
    if changed:
        raise KgptError(_difference(changed, len(receipts), list(parts)))
    same_texts = "The text is the same" if len(receipts) == 1 else f"All {len(receipts)} texts are"
    same_texts += "" if len(receipts) == 1 else " the same"
    although = f", although {_joined(list(parts))} differ" if parts else ""
    print(f"kgpt: {same_texts}{although}.", file=sys.stderr)


def _difference(changed: Sequence[int], total: int, parts: Sequence[str]) -> str:
    """One sentence: which texts differ, and what besides."""
    if total == 1:
        subject = "The text differs"
    else:
        numbers = ", ".join(map(str, changed[:SHOWN])) + (", …" if changed[SHOWN:] else "")
        subject = f"{len(changed)} of {total} texts differ (number {numbers})"
    if parts:
        return f"{subject}, and so do: {', '.join(parts)}."
    return (
        f"{subject}, but no other part of the receipt: two tokens were equally likely within "
        "rounding, which depends on the batch and the hardware."
    )


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
