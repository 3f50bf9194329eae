"""Copies between host and device: what they return, where they happen, and how many there are."""

from __future__ import annotations

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from kgpt import backend
from kgpt.config import ModelConfig
from kgpt.generation.beam_search import search_beams
from kgpt.generation.compiled import CompiledFunctions
from kgpt.generation.contrastive_search import contrastive_search
from kgpt.generation.runner import ModelRunner
from kgpt.generation.scheduler import GenerationJob, Scheduler
from kgpt.generation.sequence import DecodeState, Request, SamplingParams, idle_sequences
from kgpt.model.gpt import GPT
from tests.generation.models import KINDS, greedy, prompts
from tests.transfers import count_transfers

pytestmark = pytest.mark.backend


def test_to_host_keeps_structure_dtypes_and_values():
    variable = keras.Variable(np.arange(6, dtype="float32").reshape(2, 3))
    half = ops.convert_to_tensor([0.5, -3.0], "bfloat16")
    tree = {"a": [variable, half], "b": (ops.convert_to_tensor(np.int32(7)), np.ones(2))}
    copied = backend.to_host(tree)
    assert all(type(leaf) is np.ndarray for leaf in keras.tree.flatten(copied))
    assert copied["a"][0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert copied["a"][1].dtype == ml_dtypes.bfloat16 and copied["a"][1].tolist() == [0.5, -3]
    assert copied["b"][0].dtype == np.int32 and int(copied["b"][0]) == 7
    params = keras.tree.map_structure(ops.convert_to_tensor, idle_sequences(2, 5)[0])
    assert type(backend.to_host(params)) is type(params)


def test_to_host_copies_nothing_on_a_cpu():
    if backend.device()[0] != "cpu":
        pytest.skip("a GPU's memory is copied")
    tensor = ops.ones((3, 4))
    assert np.shares_memory(backend.to_host(tensor), backend.to_host(tensor))


@pytest.mark.skipif(backend.name != "torch", reason="the others copy without being asked")
def test_implicit_copies_are_refused_while_testing():
    tensor = ops.ones(3)
    reads = (np.array, np.asarray, np.isfinite, lambda x: x.numpy(), lambda x: np.stack([x, x]))
    for copy in reads:
        with pytest.raises(TypeError, match="backend.to_host"):
            copy(tensor)
    variable = keras.Variable([1.0])
    assert variable.numpy() == ops.convert_to_numpy(variable) == backend.to_host(variable) == 1


# -- how many ------------------------------------------------------------------------------------


def test_every_read_of_a_tensor_is_counted():
    tensor = ops.ones(3)
    with count_transfers() as seen:
        bool(tensor[0] > 0), float(tensor[0]), int(tensor[1])
        ops.convert_to_numpy(tensor).sum()
        assert backend.to_host(tensor).sum() == 3
        backend.to_device([np.ones(2), np.ones(3), tensor])
    assert sum(seen.waits.values()) == (4 if backend.name == "torch" else 3)
    assert (seen.to_host, seen.to_device, seen.calls) == (1, 2, 0)


# Some programs take XLA long to compile; the same Python code calls them on all backends.
without_xla = pytest.mark.skipif(backend.name != "torch", reason="takes XLA long to compile")


def model_with_programs_of(device):
    """A model with the decode programs of a "gpu" or a "cpu"; see `kgpt.generation.program`."""
    model = GPT(ModelConfig(**{**KINDS["llama"], "num_layers": 1}), seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "branches_on_host", lambda: device == "gpu")
        patch.setattr(backend, "specializes_decoding", lambda: device == "gpu")
        CompiledFunctions.of(model)
    return model


@pytest.fixture(scope="module")
def model():
    return model_with_programs_of("gpu")


def decoding(model, *requests):
    """A runner whose slots have read their prompts."""
    runner = ModelRunner(model, len(requests))
    for slot, request in enumerate(requests):
        runner.add(slot, request)
    while not all(sequence.is_decoding for sequence in runner.sequences):
        runner.prefill(range(len(requests)))
    return runner


def ask(length=5, **options):
    return Request(prompts(length)[0], greedy(40), **options)


CASES = {
    "alone": lambda: [ask()],
    "batch": lambda: [ask(5), ask(9)],
    "with log-probabilities": lambda: [ask(), ask(return_logprobs=True)],
}
CASES_OF_XLA = ["alone", *(pytest.param(c, marks=without_xla) for c in list(CASES)[1:])]


@pytest.mark.parametrize("case", CASES_OF_XLA)
def test_a_decode_call_waits_once_and_copies_to_the_host_once(model, case):
    runner = decoding(model, *CASES[case]())
    runner.decode(1)  # compiles
    with count_transfers(model) as seen:
        generated = runner.decode(4)
    assert [len(tokens) for tokens in generated.values()] == [4] * len(runner.sequences)
    start = 6 if case == "with log-probabilities" else 2  # a counter, and empty outputs
    assert (seen.to_host, seen.to_device, seen.calls) == (1, start, 1) and not seen.waits


@without_xla
@pytest.mark.parametrize("case", CASES)
def test_the_programs_of_a_cpu_copy_to_the_host_once(case):
    model = model_with_programs_of("cpu")
    runner = decoding(model, *CASES[case]())
    with count_transfers(model) as seen:
        assert all(len(tokens) == 4 for tokens in runner.decode(4).values())
    assert (seen.to_host, seen.to_device, seen.calls) == (1, 0, 1)


def test_decoding_one_slot_of_several_copies_to_the_host_once(model):
    runner = decoding(model, ask(), ask())
    runner.release(1)
    with count_transfers(model) as seen:
        assert len(runner.decode(1)[0]) == 1
    assert (seen.to_host, seen.to_device, seen.calls) == (1, 2, 4)  # slice, decode, update two
    assert not seen.waits


@without_xla
def test_a_draft_is_verified_with_one_copy_each_way(model):
    runner = decoding(model, ask())
    with count_transfers(model) as seen:
        runner.verify_draft([1, 2], 6)
    assert (seen.to_host, seen.to_device, seen.calls) == (1, 1, 1)


def test_reading_a_prompt_waits_for_nothing(model):
    runner = ModelRunner(model, 1)
    with count_transfers(model) as seen:
        runner.add(0, ask(9))
        runner.prefill([0])
    params_and_state = len(SamplingParams._fields) + len(DecodeState._fields)
    assert seen.to_host == 0 and not seen.waits
    assert seen.to_device == 3 + params_and_state  # token ids, start, count
    assert seen.calls == 5  # slice, prefill, update, then parameters and state


@without_xla
def test_a_beam_step_copies_to_the_host_once(model):
    request = Request(prompts(5)[0], greedy(6).model_copy(update={"beam_size": 3}))
    steps = search_beams(model, request)
    for _ in range(3):  # the prompt, and what the first step makes
        next(steps)
    with count_transfers(model) as seen:
        next(steps)
    assert (seen.to_host, seen.to_device, seen.calls) == (1, 2, 2)  # sources and tokens


@without_xla
def test_a_contrastive_step_copies_to_the_host_once(model):
    request = Request(prompts(5)[0], greedy(6).model_copy(update={"contrastive_alpha": 0.6}))
    steps = contrastive_search(model, request)
    next(steps)
    with count_transfers(model) as seen:
        next(steps)
    assert (seen.to_host, seen.to_device, seen.calls) == (1, 4, 1)  # ids, start, count; rows


@without_xla
def test_a_round_of_the_scheduler_copies_to_the_host_once(model):
    scheduler = Scheduler(model, 2)
    scheduler.waiting.extend(GenerationJob(ask(length), stream=False) for length in (5, 9))
    scheduler.step()
    with count_transfers(model) as seen:
        scheduler.step()
    assert (seen.to_host, seen.to_device, seen.calls) == (1, 2, 1) and not seen.waits


def test_a_sequence_is_stopped_without_reading_the_device(model):
    runner = decoding(model, ask(), ask())
    with count_transfers(model) as seen:
        runner.release(0)
    assert (seen.to_host, seen.to_device, seen.calls) == (0, 1, 0) and not seen.waits
    assert not backend.to_host(runner.state.running)[0]
