"""Receipts: what decided a text, in hashes; the text again, alone or in a batch."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kgpt.config import SamplingConfig
from kgpt.text.special_tokens import SpecialTokens
from kgpt.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from tests.tiny import tiny_config, write_tiny_model

NUM_ANSWERS = 100
SAMPLING = SamplingConfig(temperature=0.9, top_p=0.95, max_tokens=12, seed=1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"), noise=0.3, max_length=64)


@pytest.mark.portable
@pytest.mark.backend
def test_seeded_answers_of_a_batch_replay_alone(folder):
    from kgpt.generation.generator import TextGenerator
    from kgpt.generation.receipt import Receipt
    from kgpt.generation.replay import differing_parts, replay

    prompts = [f"Question {number}: {'why ' * (number % 4)}" for number in range(NUM_ANSWERS)]
    with TextGenerator(folder, max_num_seqs=8) as generator:
        together = generator.generate_batch(prompts, SAMPLING, receipt=True)
    receipts = [Receipt.parse(json.loads(json.dumps(one.receipt))) for one in together]
    assert [receipt.settings.sampling.seed for receipt in receipts] == list(range(1000, 1100))
    with TextGenerator(folder, max_num_seqs=1) as generator:
        alone = replay(generator, receipts)
    assert [one.text for one in alone] == [one.text for one in together]
    assert len({one.text for one in together}) > NUM_ANSWERS / 2
    for then, one in zip(receipts, alone, strict=True):
        now = Receipt.parse(one.receipt)
        assert now == then and differing_parts(then, now) == []


@pytest.mark.portable
@pytest.mark.backend
def test_a_receipt_is_given_where_it_is_asked_for_and_no_clock_ended_the_text(folder):
    from kgpt.generation.generator import TextGenerator

    with TextGenerator(folder, max_num_seqs=1) as generator:
        assert generator.generate("a", SAMPLING).receipt is None
        *_, last = generator.stream("a", SAMPLING, receipt=True, regex="[0-9]{3}")
        assert last.receipt["settings"]["structured_output"]["regex"] == "[0-9]{3}"
        assert last.receipt["sha256"].keys() == {
            "weights", "architecture", "tokenizer", "chat_template", "settings", "prompt", "text",
        }  # fmt: skip
        late = generator.generate("a", SAMPLING, receipt=True, timeout=0.0)
    assert late.finish_reason == "deadline" and late.receipt is None


def parts(folder, tokenizer=None, sampling=SAMPLING, **config):
    """The receipt of an empty text."""
    from kgpt.generation.receipt import Receipt, ReceiptWriter
    from kgpt.generation.sequence import Request

    tokenizer = tokenizer or Tokenizer.of_bytes()
    writer = ReceiptWriter(folder, tokenizer, tiny_config(**config), 64, "float32")
    open_receipt = writer.start(Request([1, 2], sampling), frozenset())
    return Receipt.parse(open_receipt.close("stop", 0))


def test_each_part_that_differs_is_named(folder, tmp_path):
    from kgpt.generation.replay import differing_parts

    then = parts(folder)
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    tensors = load_file(changed / "model.safetensors")
    name = next(iter(tensors))
    tensors[name].reshape(-1)[0] = np.nextafter(tensors[name].reshape(-1)[0], np.float32(9))
    save_file(tensors, changed / "model.safetensors")
    templated = Tokenizer.of_bytes()
    templated.special_tokens = SpecialTokens(
        templated.special_tokens.tokens, templated.stop_ids, "{{ messages }}"
    )
    cases = {
        "the weights": parts(changed),
        "the tokenizer": parts(folder, Tokenizer.of_bytes([*SPECIAL_TOKENS, "<|other|>"])),
        "the chat template": parts(folder, templated),
        "the architecture": parts(folder, norm_epsilon=1e-4),
        "the settings": parts(folder, sampling=SAMPLING.model_copy(update={"top_k": 3})),
    }
    for expected, now in cases.items():
        assert differing_parts(then, now) == [expected]
    now = then.model_copy(update={"backend": "abacus", "versions": {"kgpt": "9"}})
    assert differing_parts(then, now) == [
        f"the backend ({then.backend}, now abacus)",
        f"the version of kgpt ({then.versions['kgpt']}, now 9)",
    ]
    (changed / "optimizer.safetensors").write_bytes(b"x")  # no part of the model
    assert differing_parts(cases["the weights"], parts(changed)) == []


def test_an_adapter_and_its_base_are_parts_of_the_weights(folder, tmp_path):
    from kgpt.generation.receipt import digest_of_files

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"base_model_name_or_path": str(folder), "lora_alpha": 8}
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    digests = set()
    for alpha in (8, 16):
        settings["lora_alpha"] = alpha
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        digests |= {digest_of_files(adapter), digest_of_files(adapter, with_base=False)}
    assert len(digests | {digest_of_files(folder)}) == 5
