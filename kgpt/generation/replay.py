"""Generate again what receipts describe, and say which parts differ from then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kgpt.generation.completion import Completion
from kgpt.generation.generator import TextGenerator
from kgpt.generation.receipt import Receipt
from kgpt.protocol import GenerationChunk

PARTS = {
    "weights": "the weights",
    "architecture": "the architecture",
    "tokenizer": "the tokenizer",
    "chat_template": "the chat template",
    "adapter": "the adapter",
    "settings": "the settings",
    "prompt": "the prompt",
}


def replay(
    generator: TextGenerator, receipts: Sequence[Receipt], adapter: str | None = None
) -> list[Completion]:
    """The completions of the receipts' prompts with their settings, each with a new receipt.

    As many are generated in one batch as `generator` decodes at once.

    Args:
        adapter: the name of the generator's adapter that generates them.

    Raises:
        UsageError: a prompt or an option does not fit the model. GenerationFailed: the engine
            failed, or the time was up.
    """
    started: list[Iterator[GenerationChunk]] = []
    done: list[Completion] = []
    for index in range(len(receipts)):
        while len(started) < min(len(receipts), index + generator.engine.capacity):
            started.append(_start(generator, receipts[len(started)], adapter))
        done.append(Completion.from_chunks(started[index]))
    return done


def _start(
    generator: TextGenerator, receipt: Receipt, adapter: str | None
) -> Iterator[GenerationChunk]:
    settings = receipt.settings
    structured = settings.structured_output
    return generator.start(
        receipt.prompt_ids,
        settings.sampling,
        grammar=generator.grammar_compiler.compile(structured) if structured else None,
        keep_special=frozenset(settings.keep_special),
        adapter=generator.adapters.find(adapter),
        receipt=True,
    )


def differing_parts(then: Receipt, now: Receipt) -> list[str]:
    """In words, the parts of two receipts that differ, other than the text."""
    found = [name for part, name in PARTS.items() if then.sha256.get(part) != now.sha256.get(part)]
    if then.backend != now.backend:
        found.append(f"the backend ({then.backend}, now {now.backend})")
    if then.device != now.device:
        found.append(f"the device ({then.device}, now {now.device})")
    for name, version in then.versions.items():
        if (installed := now.versions.get(name, version)) != version:
            found.append(f"the version of {name} ({version}, now {installed})")
    return found
