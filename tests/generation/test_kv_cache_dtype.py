"""KV caches in bfloat16 and int8: what moves a cache changes no text, and logits stay close."""

import contextlib

import keras
import numpy as np
import pytest

from kgpt.generation.beam_search import beam_search
from kgpt.generation.scheduler import generate
from kgpt.generation.sequence import Request
from tests.generation.models import greedy, logits_without_cache, model_of, prompts


@contextlib.contextmanager
def cached_as(dtype, kind):
    """A shared model with caches in `dtype`, which is put back."""
    model = model_of(kind)
    model.kv_cache_dtype = dtype
    try:
        yield model
    finally:
        model.kv_cache_dtype = "auto"


@pytest.mark.backend
def test_a_text_is_the_same_alone_and_in_a_batch_with_an_int8_cache():
    requests = [Request(prompt, greedy(10)) for prompt in prompts(5, 23, 9)]
    with cached_as("int8", "llama") as model:
        together = [job.token_ids for job in generate(model, requests, max_num_seqs=4)]
        alone = [job.token_ids for job in generate(model, requests, max_num_seqs=1)]
    assert together == alone


@pytest.mark.portable
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_logits_stay_close(dtype):
    text = prompts(40)[0]
    with cached_as(dtype, "llama") as model:
        cache = model.new_cache(1, 64)
        start, count = (keras.ops.convert_to_tensor(np.array([n], "int32")) for n in (0, 40))
        ids = keras.ops.convert_to_tensor(np.array([text], "int32"))
        hidden, cache = model.call_with_cache(ids, start, count, cache)
        found = keras.ops.convert_to_numpy(model.unembed(hidden))[0]
    expected = logits_without_cache("llama", text)
    assert keras.backend.standardize_dtype(cache[0][0].dtype) == dtype
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.portable
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_drafts_and_a_beam_of_one_give_the_greedy_text(dtype, kind):
    request = Request(prompts(12)[0], greedy(20))
    with cached_as(dtype, kind) as model:
        expected = generate(model, [request])[0].token_ids
        drafted = generate(model, [request], 1, draft_model="prompt_lookup")[0].token_ids
        beams = list(beam_search(model, Request(request.prompt_ids, greedy(20, beam_size=1))))
    assert drafted == expected
    assert [token.id for token in beams[-1]] == expected


@pytest.mark.portable
def test_an_int8_cache_goes_on_beyond_the_context():
    with cached_as("int8", "llama") as model:  # 64 positions
        job = generate(model, [Request(prompts(50)[0], greedy(40))])[0]
    assert len(job.token_ids) == 40 and job.context_shifted


@pytest.mark.portable
def test_an_int8_cache_takes_a_byte_a_number_and_a_scale_a_head():
    with cached_as("int8", "llama") as model:
        cache = model.new_cache(1, 8)
        size = sum(keras.ops.convert_to_numpy(part).nbytes for layer in cache for part in layer)
    assert size == model.config.cache_bytes(8, 1)
