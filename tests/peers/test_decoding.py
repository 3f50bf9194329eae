"""Decoding against transformers' on the same weights: greedy, each processor, beam search."""

import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402
from transformers.generation import logits_process as theirs  # noqa: E402

from kgpt import backend  # noqa: E402
from kgpt.checkpoints.pretrained import load_model  # noqa: E402
from kgpt.config import SamplingConfig  # noqa: E402
from kgpt.generation import sampling  # noqa: E402
from kgpt.generation.beam_search import search_beams  # noqa: E402
from kgpt.generation.scheduler import generate  # noqa: E402
from kgpt.generation.sequence import Request  # noqa: E402

pytestmark = pytest.mark.backend

V = 97
LOGITS = (np.random.default_rng(1).standard_normal((2, V)) * 3).astype("float32")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """One random GPT-2, in transformers and in kgpt."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=256, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3
    )
    peer = transformers.GPT2LMHeadModel(config).eval()
    folder = tmp_path_factory.mktemp("gpt2")
    peer.save_pretrained(folder)
    return peer, load_model(folder)


def filled(value, dtype="float32"):
    return np.full(2, value, dtype)


def softmax(logits):
    logits = torch.as_tensor(backend.to_host(logits).copy(), dtype=torch.float32)
    return backend.to_host(torch.softmax(logits, -1))


@pytest.mark.parametrize(
    ("ours", "value", "dtype", "peer"),
    [
        (sampling.apply_temperature, 0.7, "float32", lambda: theirs.TemperatureLogitsWarper(0.7)),
        (sampling.apply_top_k, 9, "int32", lambda: theirs.TopKLogitsWarper(9)),
        (sampling.apply_top_p, 0.8, "float32", lambda: theirs.TopPLogitsWarper(0.8)),
        (sampling.apply_min_p, 0.1, "float32", lambda: theirs.MinPLogitsWarper(0.1)),
        (sampling.apply_typical_p, 0.6, "float32", lambda: theirs.TypicalLogitsWarper(0.6)),
    ],
    ids=["temperature", "top_k", "top_p", "min_p", "typical_p"],
)
def test_filtered_distributions_are_equal(ours, value, dtype, peer):
    got = backend.jit(ours)(LOGITS, filled(value, dtype))
    want = peer()(torch.zeros((2, 1), dtype=torch.long), torch.from_numpy(LOGITS))
    np.testing.assert_allclose(softmax(got), softmax(want), atol=1e-5)


def test_repetition_penalty_is_equal():
    ids = np.random.default_rng(2).integers(0, V, (2, 12))
    seen = np.zeros((2, V), bool)
    np.put_along_axis(seen, ids, True, axis=1)
    got = backend.jit(sampling.apply_repetition_penalty)(LOGITS, seen, filled(1.3))
    peer = theirs.RepetitionPenaltyLogitsProcessor(1.3)
    want = peer(torch.from_numpy(ids), torch.from_numpy(LOGITS))
    np.testing.assert_allclose(softmax(got), softmax(want), atol=1e-5)


def test_bias_and_banned_phrases_are_equal():
    ids = torch.tensor([[5, 6], [6, 5]])
    bias = np.zeros((2, V), "float32")
    bias[:, 3] = 2.5
    got = backend.jit(sampling.apply_logit_bias)(LOGITS, bias)
    peer = theirs.SequenceBiasLogitsProcessor([[[3], 2.5]])
    want = peer(ids, torch.from_numpy(LOGITS))
    np.testing.assert_allclose(softmax(got), softmax(want), atol=1e-5)
    tail = np.full((2, sampling.MAX_BAD_WORD_LEN - 1), -1, "int32")
    tail[:, -2:] = backend.to_host(ids)
    phrases = np.full((2, 1, sampling.MAX_BAD_WORD_LEN), -1, "int32")
    phrases[:, 0, -3:] = (5, 6, 7)
    got = backend.jit(sampling.apply_bad_words)(LOGITS, tail, phrases)
    want = theirs.NoBadWordsLogitsProcessor([[5, 6, 7]], eos_token_id=torch.tensor([0]))(
        ids, torch.from_numpy(LOGITS)
    )
    np.testing.assert_allclose(softmax(got), softmax(want), atol=1e-5)


def test_greedy_is_identical_for_200_tokens(both):
    peer, model = both
    prompt = np.random.default_rng(3).integers(0, V, 20).tolist()
    want = peer.generate(
        torch.tensor([prompt]), max_new_tokens=200, do_sample=False, pad_token_id=0,
        eos_token_id=None,
    )[0, 20:].tolist()  # fmt: skip
    request = Request(prompt, SamplingConfig(temperature=0, max_tokens=200))
    assert generate(model, [request])[0].token_ids == want


@pytest.mark.portable
@pytest.mark.parametrize("beams", [1, 3, 5])
@pytest.mark.parametrize(
    ("penalty", "early"), [(1.0, False), (0.0, False), (2.0, False), (0.5, True)]
)
def test_beam_search_finds_the_same_texts_and_scores(both, beams, penalty, early):
    peer, model = both
    end, prompt = 11, np.random.default_rng(4).integers(0, V, 12).tolist()
    want = peer.generate(
        torch.tensor([prompt]), max_new_tokens=15, do_sample=False, num_beams=beams,
        length_penalty=penalty, early_stopping=early, eos_token_id=end, pad_token_id=0,
        num_return_sequences=beams, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    config = SamplingConfig(
        max_tokens=15, beam_size=beams, length_penalty=penalty, early_stopping=early
    )
    found = list(search_beams(model, Request(prompt, config, stop_ids=(end,))))[-1]
    theirs_ids = [ids[12:].tolist() for ids in want.sequences]
    for ours, ids in zip(found, theirs_ids, strict=True):
        assert ids[: len(ours.token_ids)] == ours.token_ids
        assert set(ids[len(ours.token_ids) :]) <= {0}
    if beams > 1:
        scores = backend.to_host(want.sequences_scores)
        np.testing.assert_allclose([text.score for text in found], scores, atol=1e-4)
