"""Find models by name, and download them from the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from kgpt.errors import CheckpointError, KgptError, UsageError
from kgpt.runs import resolve_model

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "merges.txt"]


def is_hub_id(name: str) -> bool:
    """Is `name` of the form of a hub id, such as openai/gpt2 or openai/gpt2@main?"""
    return HUB_ID.fullmatch(name) is not None and not name.startswith(".")


def resolve_source(source: str | Path) -> Path:
    """The model directory of a folder, a run, run@step, or a hub id, which is downloaded."""
    name = str(source)
    try:
        return resolve_model(name)
    except KgptError:
        if Path(name).exists() or not is_hub_id(name):
            raise
    return download(name)


def download(name: str) -> Path:
    """The local copy of the hub's model `name` or `name@revision`, downloaded if need be."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )  # fmt: skip

    repository, _, revision = name.partition("@")
    try:
        folder = Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=HUB_FILES,
                ignore_patterns=["*/*"],
            )
        )
    except GatedRepoError:
        raise CheckpointError(
            f"{name} requires that you accept its licence: do so on its page at huggingface.co, "
            "then run `hf auth login`."
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UsageError(f"The hub has no model {name}.") from None
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"Could not download {name}: huggingface.co cannot be reached, and it is not in the "
            "local cache; copy its folder here and import that."
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise CheckpointError(f"Could not download {name}: {reason}.") from None
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{name} has no safetensors weights, the only format kgpt reads.")
    return folder
