"""The data sets of the embedded corpus, which `kgpt data get` generates offline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from kgpt.cli.data import prepare
from kgpt.data import tinyworld

VOCAB_SIZE = 1024
VAL_FRACTION = 0.02
REPLAY = "tinyworld-replay.jsonl"


def make_tinyworld(
    out: Path,
    quiet: bool,
    overwrite: bool = False,
    conversations: int = 40_000,
    stories: int = 6_000,
) -> None:
    """Generate the corpus of `kgpt demo` beside `out`, and prepare it as the data set `out`."""
    _check(out, overwrite)
    text = tinyworld.write(out.parent, conversations, stories)
    _prepare([text], out, quiet, overwrite)


def make_stories(
    out: Path,
    quiet: bool,
    overwrite: bool = False,
    conversations: int = 20_000,
    stories: int = 40_000,
    replay: int = 5_000,
) -> None:
    """Generate stories for a base model, and conversations to fine-tune it on.

    Beside `out`: tinyworld-stories.jsonl, which is prepared as the data set `out`;
    tinyworld-chat.jsonl; and tinyworld-replay.jsonl, other stories to be learned with the
    conversations, so that the model does not forget how stories go on. The tokenizer is trained on
    the first two, as pretraining tokenizers are: it knows the words of the questions, and the model
    none of them.
    """
    from kgpt.data.prepare import train_tokenizer
    from kgpt.data.sources import Corpus
    from kgpt.files import atomic_dir

    _check(out, overwrite)
    texts, chats = out.parent / "tinyworld-stories.jsonl", out.parent / "tinyworld-chat.jsonl"
    for file, seed, count in ((texts, 0, stories), (out.parent / REPLAY, 1, replay)):
        _write_rows(file, ({"text": text} for text in islice(tinyworld.tales(seed), count)))
    talks = islice(tinyworld.conversations(0), conversations)
    _write_rows(chats, ({"messages": messages} for messages in talks))
    both = Corpus([str(texts), str(chats)])
    tokenizer = train_tokenizer(both, "bpe", VOCAB_SIZE, 2, lambda read: None)
    with atomic_dir(out.parent / "tinyworld-tokenizer") as folder:
        tokenizer.save(folder)
    _prepare([texts], out, quiet, overwrite, str(out.parent / "tinyworld-tokenizer"))


def make_prompts(out: Path, quiet: bool, overwrite: bool = False, count: int = 4_000) -> None:
    """Write questions without answers, and what the reward `tinyworld` judges replies by.

    The file is `out` with the suffix .jsonl. The same questions are written each time.
    """
    tinyworld.write_prompts(out.with_suffix(".jsonl"), count)


def make_preferences(out: Path, quiet: bool, overwrite: bool = False, count: int = 4_000) -> None:
    """Generate pairs of answers for `kgpt finetune dpo`: the file `out` with .jsonl."""
    _write_rows(out.with_suffix(".jsonl"), tinyworld.preferences(count))


def _check(out: Path, overwrite: bool) -> None:
    from kgpt.data.prepare import check_replaceable

    check_replaceable(out, overwrite)


def _write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    from kgpt.files import os_errors_as_kgpt

    with os_errors_as_kgpt(f"write {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _prepare(
    texts: list[Path], out: Path, quiet: bool, overwrite: bool, tokenizer: str = "bpe"
) -> None:
    prepare(
        *map(str, texts), out=str(out), tokenizer=tokenizer, vocab_size=VOCAB_SIZE,
        val_fraction=VAL_FRACTION, overwrite=overwrite, quiet=quiet,
    )  # fmt: skip


CORPORA: dict[str, Callable[[Path, bool, bool], None]] = {
    "tinyworld": make_tinyworld,
    "tinyworld-preferences": make_preferences,
    "tinyworld-prompts": make_prompts,
    "tinyworld-stories": make_stories,
}
