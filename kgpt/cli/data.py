"""`kgpt data`: prepare and inspect data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from kgpt.cli.options import (
    NO_SELECTION,
    MaxLength,
    SelectionFlags,
    StrictInt,
    Truncate,
    Workers,
    parse_selection,
)
from kgpt.config import DocumentSelectionConfig, did_you_mean
from kgpt.errors import UsageError
from kgpt.formatting import size

if TYPE_CHECKING:
    from kgpt.data.sources import Corpus
    from kgpt.text.tokenizer import Tokenizer

KINDS = ("bpe", "char", "byte")
FLAGS = (
    "--out", "--tokenizer", "--vocab-size", "--min-frequency", "--field", "--separator",
    "--val-fraction", "--encoding", "--dataset-config", "--dataset-split", "--skip-invalid",
    "--max-length", "--truncate", "--workers", "--part",
    "--overwrite", "--quiet", "--debug",
    *(f"--{name.replace('_', '-')}" for name in DocumentSelectionConfig.model_fields),
)  # fmt: skip


def prepare(
    *sources: Annotated[str, Parameter(allow_leading_hyphen=True)],
    out: str,
    tokenizer: str = "bpe",
    vocab_size: StrictInt = 4096,
    min_frequency: StrictInt = 2,
    field: str = "text",
    separator: str | None = None,
    val_fraction: float = 0.1,
    encoding: str | None = None,
    dataset_config: str | None = None,
    dataset_split: str = "train",
    skip_invalid: Annotated[bool, Parameter(negative="")] = False,
    max_length: MaxLength = None,
    truncate: Truncate = "keep-start",
    workers: Workers = None,
    part: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
    selection: SelectionFlags = NO_SELECTION,
) -> None:
    """Turn texts or conversations into a data set that `kgpt train` reads.

    Parameters
    ----------
    sources
        .txt, .md, .jsonl, .json, .csv and .parquet files, also gzipped; folders; globs; these at an
        address (s3://, gs://, hf://, https://); - for standard input; hf:owner/name for a data set
        of the Hugging Face Hub. Rows are texts, or
        conversations in the format of OpenAI (messages), ShareGPT (conversations), Alpaca
        (instruction, input, output), or prompt and completion; their text and loss mask follow
        the chat template of the tokenizer.
    out
        The folder of the data set.
    tokenizer
        bpe, char or byte to train one; or a folder with a tokenizer.json.
    vocab_size
        Vocabulary size of a new bpe tokenizer.
    min_frequency
        Minimum frequency of a pair to become a bpe token.
    field
        The field or column with the text of a row.
    separator
        The separator of documents in .txt and .md; without it, each file is one document.
    val_fraction
        The fraction used for validation.
    encoding
        The encoding of text files, such as cp1252; detected for each when not given.
    dataset_config
        The configuration of a data set of the Hub, where it has several.
    dataset_split
        The split of a data set of the Hub, such as train or train[:10%].
    skip_invalid
        Leave out rows that cannot be used, and count them; without it the first one is refused.
    max_length
        The longest conversation, in tokens, such as the context of the model; any if not given.
    truncate
        What happens to a longer one: keep-start cuts it at its end, skip leaves it out.
    workers
        Processes that tokenize; without it, threads of one process do. The data set is the same.
    part
        Only one part of several, such as 2/3, into the folder --out, for `kgpt data merge`; an
        interrupted one goes on. All parts have the same sources and options.
    overwrite
        Replace the data set even if there are runs on it, which then cannot be resumed.
    quiet
        Show no progress.
    """
    from kgpt.data.hub import HubOptions
    from kgpt.data.parts import parse_part
    from kgpt.data.prepare import check_replaceable, prepare_part
    from kgpt.data.prepare import prepare as write_data_set
    from kgpt.data.sources import Corpus

    _check_options(sources, tokenizer, val_fraction)
    chosen = parse_selection(selection)
    share = part and parse_part(part)
    runs = [] if share else check_replaceable(Path(out), overwrite)
    hub = HubOptions(dataset_config, dataset_split, show_progress=not quiet)
    corpus = Corpus(sources, field, separator, val_fraction, encoding, hub, skip_invalid)
    console = Console(stderr=True, quiet=quiet)
    for note in corpus.notes:
        console.print(Text(f"Recognized {note}"), soft_wrap=True)
    if runs:
        console.print(Text(f"Replacing the data set of {', '.join(runs)}"), soft_wrap=True)
    with progress_bar(console) as bar:
        made = _tokenizer(corpus, tokenizer, vocab_size, min_frequency, chosen, bar)
        task = bar.add_task("tokens", total=corpus.total_bytes)
        options: dict[str, Any] = {
            "val_fraction": val_fraction, "max_length": max_length, "truncate": truncate,
            "workers": workers, "selection": chosen,
            "progress": lambda read: bar.update(task, completed=read),
        }  # fmt: skip
        if share:
            prepare_part(corpus, made, Path(out), *share, **options)
        else:
            write_data_set(corpus, made, Path(out), overwrite=overwrite, **options)
    for note in corpus.invalid.notes:
        console.print(Text(note), soft_wrap=True)
    if share:
        console.print(Text(f"Part {part} is in {out}; next: kgpt data merge PARTS --out DIR"))
    elif not quiet:
        show(out)


def merge(
    *parts: str,
    out: str,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Make a data set of its parts, which `kgpt data prepare --part` has made.

    Parameters
    ----------
    parts
        The folders of all parts.
    out
        The folder of the data set.
    overwrite
        Replace the data set even if there are runs on it, which then cannot be resumed.
    quiet
        Show no progress.
    """
    from kgpt.data.prepare import merge as merge_parts

    if not parts:
        raise UsageError("Name the folders of the parts, made by `kgpt data prepare --part`.")
    console = Console(stderr=True, quiet=quiet)
    with progress_bar(console) as bar:
        task = bar.add_task("merge", total=None)
        merge_parts(
            [Path(folder) for folder in parts], Path(out), overwrite,
            lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    if not quiet:
        show(out)


def _tokenizer(
    corpus: Corpus,
    name: str,
    vocab_size: int,
    min_frequency: int,
    selection: DocumentSelectionConfig,
    bar: Progress,
) -> Tokenizer:
    """The tokenizer in the folder `name`, or a new one of that kind."""
    from kgpt.data.prepare import train_tokenizer
    from kgpt.text.tokenizer import Tokenizer

    if name not in KINDS:
        return Tokenizer.load(name)
    task = bar.add_task("tokenizer", total=corpus.total_bytes, visible=name != "byte")
    return train_tokenizer(
        corpus, name, vocab_size, min_frequency,
        lambda read: bar.update(task, completed=read), selection,
    )  # fmt: skip


def _check_options(sources: tuple[str, ...], tokenizer: str, val_fraction: float) -> None:
    """Raise `UsageError` if an option of `prepare` is out of range, or a source none."""
    for source in sources:
        if source.startswith("-") and source != "-":
            hint = did_you_mean(source, FLAGS) or "see `kgpt data prepare --help`."
            raise UsageError(f"Unknown option {source}; {hint}")
    if not sources:
        raise UsageError("Name at least one file, folder or glob, or - for standard input.")
    if not 0 <= val_fraction < 1:
        raise UsageError(f"--val-fraction must be at least 0 and below 1, not {val_fraction}.")
    if tokenizer not in KINDS and not Path(tokenizer).exists():
        raise UsageError(f"--tokenizer must be bpe, char, byte or a folder, not {tokenizer!r}.")


def show(folder: str, *, verify: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Show a data set: splits, tokens, bytes and its first tokens.

    Parameters
    ----------
    folder
        The folder of the data set, or its address.
    verify
        Also verify the checksum of every file.
    """
    from kgpt.data.shards import TokenDataset

    data = TokenDataset(folder)
    if verify:
        data.verify()
    tokenizer, manifest = data.tokenizer, data.manifest
    table = Table(title=Text(f"{folder}: vocabulary {manifest.vocab_size}, {manifest.dtype}"))
    for column in ("split", "documents", "tokens", "text", "bytes/token", "shards"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, info in manifest.splits.items():
        table.add_row(
            split,
            f"{info.documents:,}",
            f"{info.tokens:,}",
            size(info.text_bytes),
            f"{data.bytes_per_token(split):.2f}",
            str(len(info.shards)),
        )
    console = Console()
    console.print(table)
    for note in manifest.notes:
        console.print(Text(note), soft_wrap=True)
    beginning = data.tokens("train").arrays[0][:60].tolist()
    console.print(Text("Beginning: ", style="dim") + Text(repr(tokenizer.decode(beginning))))
    if verify:
        console.print("All checksums match.")


def progress_bar(console: Console) -> Progress:
    """Bars with share, speed and remaining time."""
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
