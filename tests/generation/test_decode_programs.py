"""Decode programs: each generates what the general one does, and none waits for a condition."""

import numpy as np
import pytest

from kgpt import backend
from kgpt.backend.fixed_steps import STEP_COUNTS, split_steps
from kgpt.config import ModelConfig, SamplingConfig
from kgpt.generation import sampling
from kgpt.generation.compiled import CompiledFunctions, CompiledProgram
from kgpt.generation.decode import MAX_DECODE_STEPS
from kgpt.generation.program import GENERAL, GREEDY, SAMPLE, decode_programs, program_for
from kgpt.generation.runner import ModelRunner
from kgpt.generation.scheduler import GenerationJob, Scheduler, generate
from kgpt.generation.sequence import Request
from tests.generation.models import KINDS, greedy, prompts

pytestmark = pytest.mark.backend

TRUNCATED = SamplingConfig(temperature=0.9, top_k=30, top_p=0.9, min_p=0.01, max_tokens=18)
PENALISED = TRUNCATED.model_copy(
    update={"repetition_penalty": 1.3, "presence_penalty": 0.2, "typical_p": 0.9, "min_tokens": 4}
)
BATCHES = {
    "greedy": (GREEDY, [greedy(18), greedy(30), greedy(5)]),
    "sampled": (SAMPLE, [TRUNCATED, greedy(7), SamplingConfig(temperature=1.4, max_tokens=30)]),
    "penalised": (GENERAL, [PENALISED, greedy(30), greedy(3, logit_bias={5: 9.0})]),
}


@pytest.fixture(scope="module")
def model():
    from kgpt import GPT

    return GPT(ModelConfig(**{**KINDS["llama"], "num_layers": 1}), seed=3)


def pretend_gpu(patch):
    patch.setattr(backend, "branches_on_host", lambda: True)
    patch.setattr(backend, "specializes_decoding", lambda: True)


def requests_of(configs):
    texts = zip(prompts(*range(3, 3 + 4 * len(configs), 4)), configs, strict=True)
    return [Request(text, c, stop_ids=(2,), seed=i) for i, (text, c) in enumerate(texts)]


@pytest.mark.parametrize(
    ("request_", "program"),
    [
        (Request([1], greedy()), GREEDY),
        (Request([1], TRUNCATED), SAMPLE),
        (Request([1], greedy(), return_logprobs=True), GENERAL),
        (Request([1], greedy(), bad_words_ids=[[3]]), GENERAL),
        (Request([1], greedy(repetition_penalty=1.1)), GENERAL),
        (Request([1], greedy(presence_penalty=-1)), GENERAL),
        (Request([1], greedy(frequency_penalty=1)), GENERAL),
        (Request([1], greedy(logit_bias={1: 1.0})), GENERAL),
        (Request([1], greedy(min_tokens=1)), GENERAL),
        (Request([1], SamplingConfig(typical_p=0.5)), GENERAL),
    ],
)
def test_a_request_runs_the_least_program_that_covers_it(request_, program):
    programs = (GREEDY, SAMPLE, GENERAL)
    assert program_for(programs, [request_]) == program
    others = [Request([1], greedy()), request_]
    assert program_for(programs, others) == program
    assert program_for(programs, [Request([1], PENALISED), *others]) == GENERAL


def test_a_cpu_that_compiles_has_one_program_and_a_gpu_has_three_without_branches(monkeypatch):
    pretend_gpu(monkeypatch)
    assert [p._replace(branches=True) for p in decode_programs()] == [GREEDY, SAMPLE, GENERAL]
    assert not any(program.branches for program in decode_programs())
    monkeypatch.setattr(backend, "branches_on_host", lambda: False)
    assert decode_programs() == (GREEDY, SAMPLE, GENERAL)
    monkeypatch.setattr(backend, "specializes_decoding", lambda: False)
    assert decode_programs() == (GENERAL,)


@pytest.fixture(scope="module")
def reference(model):
    """Tokens (B, 16) of a batch by the general program with branches."""
    run = program_of(model, GENERAL)
    return lambda configs: decoded(run, model, configs)


def program_of(model, program, pretend=False):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "branches_on_host", lambda: pretend)
        return CompiledProgram(program, lambda: model, model.decode_step, model.variables)


def decoded(program, model, configs, num_steps=16):
    """The tokens of each sequence after its prompt, by one call of `program`."""
    runner = ModelRunner(model, len(configs))
    slots = range(len(configs))
    for slot, request in enumerate(requests_of(configs)):
        runner.add(slot, request)
    while not all(runner.sequences[slot].is_decoding for slot in slots):
        runner.prefill(slots)
    _, state, output = program.decode(runner.cache, runner.params, runner.state, num_steps)
    tokens = backend.to_host(output.tokens)
    counts = (tokens >= 0).sum(axis=1)
    assert backend.to_host(state.num_generated).tolist() == counts.tolist()
    return [row[:count].tolist() for row, count in zip(tokens, counts, strict=True)]


@pytest.mark.parametrize("name", BATCHES)
def test_a_program_without_branches_generates_the_same_tokens(model, reference, name):
    program, configs = BATCHES[name]
    want = reference(configs)
    run = program_of(model, program._replace(branches=False), pretend=True)
    assert decoded(run, model, configs) == want
    assert 3 <= len(want[2]) <= len(want[0]) == 16  # some end before the call does


def test_a_call_of_few_steps_generates_as_many_tokens(model, reference):
    _, configs = BATCHES["greedy"]
    run = program_of(model, GREEDY._replace(branches=False), pretend=True)
    assert decoded(run, model, configs, 3) == [tokens[:3] for tokens in reference(configs)]


@pytest.fixture
def twin(model):
    """The same model, with all programs of a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        pretend_gpu(patch)
        twin = type(model)(model.config, seed=3)
        assert len(CompiledFunctions.of(twin).programs) == 3
    return twin


on_torch = pytest.mark.skipif(backend.name != "torch", reason="XLA takes a minute to compile all")


@on_torch
def test_a_draft_is_verified_without_branches_too(model, twin):
    request = Request(prompts(9)[0], greedy(18))
    want = generate(model, [request])[0].token_ids
    assert generate(twin, [request], draft_model="prompt_lookup")[0].token_ids == want


@on_torch
def test_after_the_warm_up_no_batch_compiles_anything(twin):
    scheduler = Scheduler(twin, max_num_seqs=4, max_context=64)
    for shape in scheduler.warm_up_shapes():
        scheduler.warm_up(*shape)
    before = CompiledFunctions.of(twin).compilations()
    for _, configs in BATCHES.values():
        jobs = [GenerationJob(request) for request in requests_of(configs)]
        scheduler.waiting.extend(jobs)
        scheduler.run()
        assert all(job.finish_reason in ("stop", "length") for job in jobs)
    assert CompiledFunctions.of(twin).compilations() == before >= 6


def test_a_call_of_any_length_is_made_of_two_programs():
    assert STEP_COUNTS == (MAX_DECODE_STEPS, 1)  # those that `ModelRunner.warm_up_decode` runs
    for num_steps in range(1, 40):
        assert sum(split_steps(num_steps)) == num_steps
        assert set(split_steps(num_steps)) <= set(STEP_COUNTS)


def test_a_threshold_found_by_digits_is_that_found_by_halving():
    noise = np.random.default_rng(5)
    values = noise.standard_normal((6, 40)).astype("float32")
    values[1] = np.round(values[1])  # ties
    values[2, :30] = sampling.MASKED_LOGIT
    values[3] = 0
    ones = np.ones_like(values)
    for weights, amounts in (
        (ones, [1, 3, 40, 7, 39, 25]),
        (ones / 40, [0.01, 0.5, 1, 2, 0.99, 0.3]),
    ):
        args = (values, weights, np.array(amounts, "float32"))
        want = backend.to_host(backend.jit(sampling.top_mass_mask)(*args))
        got = backend.jit(sampling.top_mass_mask_by_digits)(*args)
        assert np.array_equal(backend.to_host(got), want)
        assert want.any(axis=1).all()
