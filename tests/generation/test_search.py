"""Beam and contrastive search against plain versions that compute everything anew."""

import numpy as np
import pytest

from kgpt.config import SamplingConfig
from kgpt.generation.scheduler import generate
from kgpt.generation.sequence import Request
from kgpt.generation.speculative import prompt_lookup
from tests.generation.models import greedy, logits_without_cache, model_of, prompts

pytestmark = pytest.mark.backend


def logprobs(kind, text):
    logits = logits_without_cache(kind, text)[-1].astype("float64")
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def test_one_beam_is_greedy(kind):
    prompt = prompts(8)[0]
    request = Request(prompt, SamplingConfig(beam_size=1, temperature=0, max_tokens=10))
    from kgpt.generation.beam_search import search_beams

    last = list(search_beams(model_of(kind), request))[-1]
    assert last[0].token_ids == generate(model_of(kind), [Request(prompt, greedy(10))])[0].token_ids


def test_beams_find_what_a_search_without_cache_finds(kind):
    prompt, size, length = prompts(8)[0], 3, 6
    beams = [((), 0.0)]
    for _ in range(length):
        grown = [
            ((*ids, token), total + value)
            for ids, total in beams
            for token, value in enumerate(logprobs(kind, [*prompt, *ids]))
        ]
        beams = sorted(grown, key=lambda beam: -beam[1])[:size]
    config = SamplingConfig(beam_size=size, max_tokens=length)
    job = generate(model_of(kind), [Request(prompt, config)])[0]
    assert (job.token_ids, job.finish_reason) == (list(beams[0][0]), "length")


@pytest.mark.portable
def test_contrastive_search_is_its_formula():
    import keras

    kind, prompt, alpha, k = "llama", prompts(8)[0], 0.6, 4
    model, text = model_of(kind), list(prompts(8)[0])

    def states(ids):
        hidden = keras.ops.convert_to_numpy(model.hidden_states(np.array([ids], "int32")))[0]
        return hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)

    for _ in range(6):
        probability = np.exp(logprobs(kind, text))
        scores = {}
        for token in np.argsort(-probability)[:k]:
            unit = states([*text, int(token)])
            likeness = (unit[:-1] @ unit[-1]).max()
            scores[int(token)] = (1 - alpha) * probability[token] - alpha * likeness
        text.append(max(scores, key=scores.get))
    config = SamplingConfig(contrastive_alpha=alpha, top_k=k, max_tokens=6)
    assert generate(model, [Request(prompt, config)])[0].token_ids == text[len(prompt) :]


@pytest.mark.portable
def test_searches_and_texts_share_an_engine():
    model, prompt = model_of("llama"), prompts(8)[0]
    beam = Request(prompt, SamplingConfig(beam_size=2, max_tokens=5))
    plain = Request(prompt, greedy(5))
    both = generate(model, [beam, plain])
    assert both[1].token_ids == generate(model, [plain])[0].token_ids
    assert both[0].token_ids == generate(model, [beam])[0].token_ids


def test_prompt_lookup_drafts_what_followed_the_same_ngram():
    assert prompt_lookup([1, 2, 3, 9, 1, 2], num_tokens=2) == [3, 9]
    assert prompt_lookup([1, 2, 3]) == []
