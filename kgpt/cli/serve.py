"""`kgpt serve`: serve a model over the OpenAI API, with a web page to chat."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kgpt.cli.adapters import parse_adapters
from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.config import ServeConfig
from kgpt.errors import UsageError
from kgpt.runs import resolve_model

if TYPE_CHECKING:
    from kgpt.generation.generator import TextGenerator
    from kgpt.generation.text_classifier import TextClassifier

RUNTIME_ADAPTERS = 8  # room for adapters with --runtime-lora-updating


def serve(
    *,
    model: str,
    config: Annotated[ServeConfig | None, Parameter(name="*", negative_iterable=())] = None,
) -> int:
    """Serve a model over the OpenAI API, with a web page to chat.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    """
    config = config or ServeConfig()
    folder = resolve_model(model)
    prepare_process(config.memory_fraction)
    silence_native_code()
    from kgpt.serving.security import ApiKeys
    from kgpt.serving.server import address_of, open_socket, run_server
    from kgpt.serving.state import ServerState

    adapters = parse_adapters(config.adapter)
    max_adapters = config.max_adapters
    if max_adapters is None and config.runtime_lora_updating:
        max_adapters = max(RUNTIME_ADAPTERS, len(adapters))
    keys = ApiKeys.from_file(Path(config.api_key_file)) if config.api_key_file else None
    name = config.name or Path(model.rstrip("/")).resolve().name
    if clash := adapters.keys() & {name, *config.alias}:
        raise UsageError(f"{clash.pop()!r} is the name of the model; give the adapter another.")

    state = ServerState(name, config, partial(_load, folder, config, adapters, max_adapters))
    listener = open_socket(config)
    try:
        print(f"kgpt: serving {name} on {address_of(listener)}", flush=True)
    except UnicodeEncodeError:
        raise UsageError(
            "The terminal cannot write this model's name; give another --name."
        ) from None
    code = run_server(state, listener, keys)
    if config.uds:
        Path(config.uds).unlink(missing_ok=True)
    if state.is_loading:  # in native code, which Python cannot interrupt
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _load(
    folder: Path, config: ServeConfig, adapters: dict[str, Path], max_adapters: int | None
) -> TextGenerator | TextClassifier:
    """What answers requests with the model in `folder`."""
    from kgpt.checkpoints.classifier_head import ClassifierHead
    from kgpt.generation.generator import TextGenerator
    from kgpt.generation.text_classifier import TextClassifier

    options: dict[str, Any] = {
        "max_num_seqs": config.max_num_seqs,
        "max_queue": config.max_queue,
        "max_context": config.max_context,
        "dtype": config.dtype,
    }
    if ClassifierHead.load(folder) is None:
        return TextGenerator(
            folder,
            kv_cache_dtype=config.kv_cache_dtype,
            adapters=adapters,
            max_adapters=max_adapters,
            max_lora_rank=config.max_lora_rank,
            **options,
        )
    if adapters or max_adapters:
        raise UsageError("A classifier takes no adapters; leave --adapter out.")
    return TextClassifier(folder, **options)
