"""`kgpt data get`: download a well-known text, or generate the embedded one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from kgpt.cli.data import prepare, progress_bar
from kgpt.cli.tinyworld import CORPORA
from kgpt.errors import UsageError


def get(
    name: str,
    *,
    out: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Download a well-known text, or generate the embedded one, and prepare it.

    Parameters
    ----------
    name
        shakespeare: tiny Shakespeare, 1.1 MB, character-level. tinyworld: the conversations and
        stories of `kgpt demo`, 15 MB, generated offline. tinyworld-stories: stories alone, for a
        base model, and beside it conversations to fine-tune it on, tinyworld-chat.jsonl, and other
        stories to learn with them, tinyworld-replay.jsonl.
        tinyworld-prompts: questions for `kgpt finetune grpo`, a file of rows.
        tinyworld-preferences: right and wrong answers for `kgpt finetune dpo`, a file of rows.
    out
        The folder of the data set; data/shakespeare-char, or data/ and the name, if not given. Of
        tinyworld-prompts and tinyworld-preferences the file, with .jsonl.
    overwrite
        Replace the data set even if there are runs on it, which then cannot be resumed.
    quiet
        Show no progress.
    """
    from kgpt.data.download import DOWNLOADS, download

    if name in CORPORA:
        CORPORA[name](Path(out or f"data/{name}"), quiet, overwrite)
        return
    if name not in DOWNLOADS:
        known = ", ".join([*CORPORA, *DOWNLOADS])
        raise UsageError(f"kgpt can get {known}; there is no {name!r}.")
    source = DOWNLOADS[name]
    console = Console(stderr=True, quiet=quiet)
    with progress_bar(console) as bar:
        task = bar.add_task(name, total=None)
        text = download(source, lambda n, total: bar.update(task, completed=n, total=total))
    out = out or source.data_set
    prepare(str(text), out=out, tokenizer=source.tokenizer, overwrite=overwrite, quiet=quiet)
    Console(quiet=quiet).print(Text(f"Next: kgpt train {source.preset} --data {out}"))
