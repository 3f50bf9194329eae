"""`kgpt push`: upload a model to the Hugging Face hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kgpt.errors import UsageError
from kgpt.formatting import size
from kgpt.runs import resolve_model

NAMED_AT_MOST = 12  # files


def push(
    model: str,
    repository: str,
    /,
    *,
    private: Annotated[bool, Parameter(negative="")] = False,
    revision: str | None = None,
    license: str | None = None,
    optimizer_state: Annotated[bool, Parameter(negative="")] = False,
    yes: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Upload a model to the Hugging Face hub, with a model card.

    Parameters
    ----------
    model
        A model directory, an adapter's folder, a run (its best checkpoint), or run@step.
    repository
        OWNER/NAME; it is created if there is none.
    private
        Create a private repository.
    revision
        The branch to commit to, created if there is none; main if not given.
    license
        The licence in the card's metadata, as the hub calls it: mit, apache-2.0, cc-by-4.0, ...
    optimizer_state
        Also upload what a checkpoint needs to be trained on: two to three times as much.
    yes
        Do not ask.
    """
    from kgpt.checkpoints.peft_format import ADAPTER_CONFIG, is_adapter
    from kgpt.checkpoints.publish import plan_upload, upload
    from kgpt.text.special_tokens import read_json_object

    folder = resolve_model(model)
    plan = plan_upload(folder, repository, revision, license, optimizer_state)
    names = ["README.md", *(file.name for file in plan.files)]
    shown = ", ".join(names[:NAMED_AT_MOST]) + (", ..." if len(names) > NAMED_AT_MOST else "")
    print(f"{folder}: {len(names)} files, {size(plan.size)}: {shown}")
    if is_adapter(folder):
        base = str(read_json_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path"))
        if Path(base).exists():
            print(
                f"Its base model is the local folder {base}, which others do not have; "
                "`kgpt merge` makes one model of both."
            )
    if not yes and not _confirmed(repository):
        return 1
    print(f"Uploaded: {upload(plan, private)}")
    return 0


def _confirmed(repository: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("Nobody can be asked here; give --yes to upload.")
    return input(f"Upload to {repository}? [y/N] ").strip().lower() in ("y", "yes")
