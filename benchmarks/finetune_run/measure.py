"""What a model of the small world knows: answers, stories, and which answer is the likelier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from safetensors import safe_open

QUESTIONS = 200
STORY_TOKENS = 20_000
PAIRS_SEED = 2026


def asked_in_training(data: Path, count: int = QUESTIONS) -> list[str]:
    """The held-out questions of `kgpt demo` that occur in the .jsonl files of a folder: none."""
    from kgpt.cli.demo import held_out_questions

    texts = [file.read_text(encoding="utf-8") for file in data.glob("*.jsonl")]
    asked = [question.text for question in held_out_questions(count)]
    return [question for question in asked if any(question in text for text in texts)]


def right_answers(model: str, count: int = QUESTIONS) -> float:
    """Percent of the held-out questions of `kgpt demo` that the model answers correctly, greedily.

    A model without a chat template is asked in ChatML.
    """
    from kgpt.cli.demo import held_out_questions, reply, user
    from kgpt.generation.generator import TextGenerator
    from kgpt.runs import resolve_model
    from kgpt.text.chat_template import ChatMLTemplate

    asked = held_out_questions(count)
    with TextGenerator(resolve_model(model)) as engine:
        engine.chat_template = engine.chat_template or ChatMLTemplate(engine.tokenizer)
        replies = reply(engine, [[user(question.text)] for question in asked])
    right = sum(question.is_right(text) for question, text in zip(asked, replies, strict=True))
    return 100 * right / count


def story_perplexity(model: str, data: str) -> float:
    """Perplexity of stories that no model has learned: the validation split of a data set."""
    from kgpt.data.shards import TokenDataset
    from kgpt.evaluation.perplexity import perplexity
    from kgpt.runs import resolve_model

    return perplexity(resolve_model(model), TokenDataset(data).tokens("val"), STORY_TOKENS)


def chosen_rate(model: str, count: int = QUESTIONS) -> float:
    """Percent of pairs about held-out combinations whose right answer is the more likely one."""
    from kgpt.checkpoints.pretrained import load_model, load_tokenizer
    from kgpt.data.preference_dataset import PreferenceDataset
    from kgpt.data.preference_files import encode_pairs
    from kgpt.data.preferences import PreferencePair
    from kgpt.data.tinyworld import preferences
    from kgpt.runs import resolve_model
    from kgpt.training.reference import reference_log_probs

    folder = resolve_model(model)
    rows = islice(preferences(count, PAIRS_SEED, held_out=True), count)
    pairs = encode_pairs((PreferencePair(**row) for row in rows), load_tokenizer(folder))
    data = PreferenceDataset(pairs.completions, batch_size=16)
    log_probs = reference_log_probs(load_model(folder), data)["reference_log_probs"]
    chosen, rejected = log_probs.reshape(2, -1)
    return 100 * float((chosen > rejected).mean())


def trained_parameters(folder: Path) -> tuple[int, int]:
    """Parameters that a checkpoint has trained, and those of its whole model.

    Of an adapter those of its matrices, and those of its base model.
    """
    from kgpt.checkpoints.pretrained import load_model

    model = load_model(folder).count_params()
    adapter = folder / "adapter_model.safetensors"
    return (count_tensors(adapter) if adapter.exists() else model), model


def count_tensors(file: Path) -> int:
    """Elements of all tensors of a file."""
    with safe_open(file, "numpy") as tensors:
        shapes: Sequence[list[int]] = [
            tensors.get_slice(name).get_shape()
            for name in tensors.keys()  # noqa: SIM118
        ]
    return sum(math.prod(shape) for shape in shapes)
