"""Upload a model to the Hugging Face hub: the files of a model directory, in one commit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kgpt.checkpoints.hub import is_hub_id
from kgpt.checkpoints.model_card import CARD, describe_model, says_more, with_license
from kgpt.checkpoints.pretrained import (
    FORMER_NAMES,
    SUFFIXES,
    TRAINER_STATE,
    UNMERGED,
    is_optimizer_state,
    load_config,
)
from kgpt.errors import CheckpointError, UsageError

# What a checkpoint adds to a model directory.
TRAINING_FILES = (UNMERGED, TRAINER_STATE, "checksums.json", *FORMER_NAMES.values())


@dataclass(frozen=True)
class Upload:
    """What is uploaded where.

    Attributes:
        files: of the model directory, without its card.
        card: the text of README.md.
        repository: owner/name.
        revision: the branch; None for main.
    """

    files: tuple[Path, ...]
    card: str
    repository: str
    revision: str | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.stat().st_size for file in self.files) + len(self.card.encode())


def plan_upload(
    folder: Path,
    repository: str,
    revision: str | None = None,
    license: str | None = None,
    optimizer_state: bool = False,
) -> Upload:
    """The upload of a model directory, an adapter's folder or a checkpoint.

    Args:
        license: goes into the metadata of the card.
        optimizer_state: with what a checkpoint needs to train on.

    Raises:
        UsageError: the repository's name is invalid. CheckpointError: there are no weights.
    """
    if not is_hub_id(repository) or "@" in repository:
        raise UsageError(f"{repository!r} names no repository of the hub; give OWNER/NAME.")
    left_out = (CARD,) if optimizer_state else (CARD, *TRAINING_FILES)
    files = tuple(
        file
        for file in sorted(folder.iterdir())
        if file.is_file()
        and file.suffix in SUFFIXES
        and file.name not in left_out
        and (optimizer_state or not is_optimizer_state(file.name))
    )
    if not any(file.suffix == ".safetensors" for file in files):
        raise CheckpointError(f"{folder} has no safetensors weights, so there is no model in it.")
    card, name = describe_model(folder, load_config(folder)), repository.rpartition("/")[2]
    if says_more(folder / CARD, card):
        text = (folder / CARD).read_text(encoding="utf-8")
    else:
        text = replace(card, name=name, location=repository).render()
    return Upload(files, with_license(text, license) if license else text, repository, revision)


def upload(plan: Upload, private: bool = False) -> str:
    """Create the repository if there is none, and commit the files; returns the commit's URL.

    Raises:
        CheckpointError: no token is known, the hub refuses, or it cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors, get_token

    if get_token() is None:
        raise CheckpointError(
            "No token of the hub is known; run `hf auth login`, or set HF_TOKEN to one that may "
            "write."
        )
    api, to = HfApi(), plan.repository
    operations = [
        CommitOperationAdd(CARD, plan.card.encode()),
        *(CommitOperationAdd(file.name, str(file)) for file in plan.files),
    ]
    try:
        api.create_repo(to, private=private, exist_ok=True)
        if plan.revision is not None:
            api.create_branch(to, branch=plan.revision, exist_ok=True)
        commit = api.create_commit(
            to, operations, commit_message="Upload a model with kgpt", revision=plan.revision
        )
    except errors.OfflineModeIsEnabled:
        raise CheckpointError(
            f"Could not upload to {to}: HF_HUB_OFFLINE is set; unset it to use the hub."
        ) from None
    except errors.HfHubHTTPError as error:
        raise CheckpointError(f"Could not upload to {to}: {_refusal(error)}.") from None
    except (vars(errors)["HTTPError"], OSError) as error:  # of its HTTP library
        raise CheckpointError(
            f"Could not upload to {to}: the hub cannot be reached ({_one_line(error)})."
        ) from None
    return str(commit.commit_url)


def _refusal(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the hub does not accept the token; run `hf auth login` again"
    if status == 403:
        return "the token may not write there; check its permissions and the owner's name"
    return _one_line(error)


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
