"""The decode path: with caches as without, together as alone, in one go as in many."""

import keras
import numpy as np
import pytest

from kgpt.config import SamplingConfig
from kgpt.errors import UsageError
from kgpt.generation.compiled import CompiledFunctions
from kgpt.generation.runner import ModelRunner, common_prefix
from kgpt.generation.scheduler import generate
from kgpt.generation.sequence import Request
from kgpt.model.kv_cache import cache_attention_mask, init_kv_cache
from tests.generation.models import (
    VOCABULARY,
    greedy,
    greedy_without_cache,
    logits_without_cache,
    model_of,
    prompts,
)

pytestmark = pytest.mark.backend

WILD = SamplingConfig(
    temperature=0.9, top_k=30, top_p=0.9, min_p=0.01, typical_p=0.97, repetition_penalty=1.2,
    presence_penalty=0.3, frequency_penalty=0.2, max_tokens=12, logit_bias={3: 2.0},
)  # fmt: skip


def run(runner, slot, request):
    runner.add(slot, request)
    while not runner.sequences[slot].is_decoding:
        runner.prefill([slot])
    while runner.decoding_slots():
        runner.decode(5)
    return runner.sequences[slot].output_ids


def test_cached_logits_equal_uncached(kind):
    model, text = model_of(kind), prompts(40)[0]
    cache = init_kv_cache(model.config, 1, 64)
    want, got, start = logits_without_cache(kind, text), [], 0
    for size in (7, 16, 1, 1, 15):  # pieces of all sizes, some padded
        padded = np.zeros((1, 16 if size > 1 else 1), "int32")
        padded[0, :size] = text[start : start + size]
        where = (np.array([start], "int32"), np.array([size], "int32"))
        tensors = [keras.ops.convert_to_tensor(x) for x in (padded, *where)]
        hidden, cache = model.call_with_cache(*tensors, cache)
        got.append(keras.ops.convert_to_numpy(model.unembed(hidden))[0, :size])
        start += size
    np.testing.assert_allclose(np.concatenate(got), want, atol=1e-4)


def test_greedy_decoding_equals_that_without_a_cache(kind):
    for prompt in prompts(1, 17, 30):
        runner = ModelRunner(model_of(kind))
        assert run(runner, 0, Request(prompt, greedy(12))) == greedy_without_cache(kind, prompt, 12)


def test_new_weights_are_used_by_what_was_compiled_before():
    """As in training, where samples are generated between the steps."""
    from kgpt import GPT

    request, other = Request(prompts(9)[0], greedy(12)), model_of("llama", seed=4)
    model = GPT(model_of("llama").config, seed=3)
    before = run(ModelRunner(model), 0, request)
    compiled = CompiledFunctions.of(model).compilations()
    for variable, value in zip(model.variables, other.variables, strict=True):
        variable.assign(value.value)
    after = run(ModelRunner(model), 0, request)
    assert after == run(ModelRunner(other), 0, request) != before
    assert CompiledFunctions.of(model).compilations() == compiled


@pytest.mark.parametrize("config", [greedy(12), WILD], ids=["greedy", "sampled"])
def test_sixteen_ragged_prompts_together_are_each_alone(config):
    texts = prompts(*range(1, 33, 2))
    requests = [Request(text, config, seed=i) for i, text in enumerate(texts)]
    model = model_of("llama")
    together = [job.token_ids for job in generate(model, requests, max_num_seqs=16)]
    alone = [job.token_ids for job in generate(model, requests, max_num_seqs=1)]
    assert together == alone


def test_a_remembered_beginning_changes_nothing(kind):
    first = prompts(20)[0]
    second = [*first, *prompts(9, seed=1)[0]]
    runner, fresh = ModelRunner(model_of(kind)), ModelRunner(model_of(kind))
    run(runner, 0, Request(first, greedy(8)))
    again = run(runner, 0, Request(second, greedy(8)))
    assert runner.sequences[0].num_cached_tokens >= len(first)
    assert again == run(fresh, 0, Request(second, greedy(8)))


def test_a_text_may_outgrow_the_context(kind):
    runner = ModelRunner(model_of(kind))
    text = run_long(runner, Request(prompts(40)[0], greedy(90)))
    assert len(text) == 90
    assert runner.sequences[0].context_shifted
    # Up to the context nothing is different.
    assert text[:20] == greedy_without_cache(kind, prompts(40)[0], 20)


def run_long(runner, request):
    runner.add(0, request)
    while runner.sequences[0].finish_reason is None:
        while not runner.sequences[0].is_decoding:
            runner.prefill([0])
        runner.decode(16)
    return runner.sequences[0].output_ids


def test_a_prompt_may_outgrow_the_context(kind):
    runner = ModelRunner(model_of(kind))
    assert len(run_long(runner, Request(prompts(200)[0], greedy(5)))) == 5
    assert runner.sequences[0].context_shifted


def test_positions_that_are_used_up_begin_again_with_the_last_part():
    prompt = prompts(60)[0]
    text = run_long(ModelRunner(model_of("gpt2")), Request(prompt, greedy(12)))
    # Four tokens fit; then the last half of the context is read again from position 0.
    begun = [*prompt, *text[:5]][-32:]
    assert text[5:] == greedy_without_cache("gpt2", begun, 7)


def test_no_setting_compiles_anything():
    model = model_of("llama")
    runner, prompt = ModelRunner(model), prompts(9)[0]
    run(runner, 0, Request(prompt, greedy(3)))
    before = CompiledFunctions.of(model).compilations()
    for change in (
        {"temperature": 1.3}, {"top_k": 4}, {"top_p": 0.3}, {"min_p": 0.2}, {"typical_p": 0.4},
        {"repetition_penalty": 1.4}, {"presence_penalty": 1}, {"frequency_penalty": -1},
        {"logit_bias": {1: -5}}, {"min_tokens": 3}, {"max_tokens": 7},
    ):  # fmt: skip
        config = greedy(5).model_copy(update=change)
        request = Request(prompt, config, stop_ids=(2,), bad_words_ids=[[1], [2, 3]], seed=3)
        run(runner, 0, request)
    assert CompiledFunctions.of(model).compilations() == before


def test_speculation_never_changes_the_text(kind):
    for config in (greedy(20), WILD.model_copy(update={"max_tokens": 20})):
        requests = [Request(text, config, seed=i) for i, text in enumerate(prompts(3, 25))]
        want = [job.token_ids for job in generate(model_of(kind), requests)]
        for draft in ("prompt_lookup", model_of(kind), model_of("llama", seed=4)):
            jobs = generate(model_of(kind), requests, draft_model=draft)
            assert [job.token_ids for job in jobs] == want


def test_minimum_length_bans_and_stops():
    model, prompt = model_of("llama"), prompts(5)[0]
    free = generate(model, [Request(prompt, greedy(12))])[0].token_ids
    ended = generate(model, [Request(prompt, greedy(12), stop_ids=(free[2],))])[0]
    assert (ended.token_ids, ended.finish_reason) == (free[: free.index(free[2]) + 1], "stop")
    longer = greedy(12, min_tokens=6)
    assert len(generate(model, [Request(prompt, longer, stop_ids=(free[2],))])[0].token_ids) >= 6
    banned = generate(model, [Request(prompt, greedy(12), bad_words_ids=[[free[1], free[2]]])])[
        0
    ].token_ids
    assert banned[:2] == free[:2] and banned[2] != free[2]
    one = generate(model, [Request(prompt, greedy(12), bad_words_ids=[[free[0]]])])[0].token_ids
    assert free[0] not in one


def test_alternatives_are_the_models_own_distribution():
    model, prompt = model_of("gpt2"), prompts(5)[0]
    runner = ModelRunner(model)
    runner.add(0, Request(prompt, WILD, return_logprobs=True, seed=4))
    while not runner.sequences[0].is_decoding:
        runner.prefill([0])
    token = runner.decode(1)[0][0]
    logits = logits_without_cache("gpt2", prompt)[-1].astype("float64")
    logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    assert token.logprob == pytest.approx(logprobs[token.id], abs=1e-4)
    assert [i for i, _, _ in token.top_logprobs] == np.argsort(-logprobs)[:20].tolist()
    np.testing.assert_allclose(
        [p for _, p, _ in token.top_logprobs], -np.sort(-logprobs)[:20], atol=1e-4
    )
    assert 0.9 < sum(prob for _, _, prob in token.top_logprobs) < 1.0001


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request([], SamplingConfig()), "empty"),
        (Request([VOCABULARY], SamplingConfig()), "Token ids"),
        (Request([-1], SamplingConfig()), "Token ids"),
        (Request([1], SamplingConfig(logit_bias={VOCABULARY: 1})), "logit_bias"),
        (Request([1], SamplingConfig(), stop_ids=range(40)), "may end a text"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(request_, words):
    with pytest.raises(UsageError, match=words):
        ModelRunner(model_of("gpt2")).add(0, request_)


def held(positions, newest, **options):
    newest = keras.ops.convert_to_tensor(np.array([newest], "int32"))
    positions = keras.ops.convert_to_tensor(positions)
    return keras.ops.convert_to_numpy(cache_attention_mask(positions, newest, 4, **options))[0, 0]


def test_cache_slots_contain_the_newest_positions():
    positions = np.array([[9]], "int32")
    seen = held(positions, 9)
    assert seen.all()  # positions 6 to 9 lie in places 2, 3, 0, 1
    few = held(np.array([[1]], "int32"), 1)
    assert few.tolist() == [True, True, False, False]
    near = held(positions, 9, window=2)
    assert near.tolist() == [True, True, False, False]  # places 0 and 1 hold 8 and 9


def test_common_prefix():
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([], [1]) == 0
