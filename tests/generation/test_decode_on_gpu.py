"""What a decode step does on a GPU, as far as a machine without one can tell."""

import collections

import keras
import pytest

from kgpt import backend
from kgpt.config import ModelConfig
from kgpt.generation import decode
from kgpt.generation.compiled import CompiledProgram
from kgpt.generation.program import GENERAL, GREEDY, SAMPLE
from kgpt.generation.sequence import idle_sequences
from kgpt.model.kv_cache import init_kv_cache
from tests.generation.models import KINDS, VOCABULARY

pytestmark = pytest.mark.backend
on_jax = pytest.mark.skipif(backend.name != "jax", reason="lowers with JAX")
on_torch = pytest.mark.skipif(backend.name != "torch", reason="fake tensors and CUDA graphs")
PROGRAMS = {"greedy": GREEDY, "sample": SAMPLE, "general": GENERAL}


def step_arguments(kind, program):
    """A one-layer model, and the arguments of a decode step: params, progress, cache."""
    from kgpt import GPT

    model = GPT(ModelConfig(**{**KINDS[kind], "num_layers": 1}), seed=3)
    params, state = idle_sequences(2, VOCABULARY)
    start = (params, decode.start_progress(state, program))
    params, progress = keras.tree.map_structure(keras.ops.convert_to_tensor, start)
    return model, params, progress, init_kv_cache(model.config, 2, 64)


def step_of(model, program):
    def step(params, progress, cache):
        return decode.decode_one_token(model.decode_step, program, params, progress, cache)

    return step


# -- JAX --------------------------------------------------------------------------------------


def primitives(jaxpr):
    """Every equation of a jaxpr and of those inside it."""
    from jax.extend.core import jaxprs_in_params

    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from primitives(inner)


def lowered_for_cuda(program, num_steps):
    """(How often each primitive is in the program, scan lengths, its StableHLO for CUDA)."""
    import jax

    from kgpt.backend.fixed_steps import FixedSteps

    model, *arguments = step_arguments("llama", program)
    steps = FixedSteps(lambda run, *_, **__: run, step_of(model, program), [])
    traced = jax.jit(steps._programs[num_steps]).trace(*arguments)
    equations = list(primitives(traced.jaxpr.jaxpr))
    lengths = [e.params["length"] for e in equations if e.primitive.name == "scan"]
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    return collections.Counter(e.primitive.name for e in equations), lengths, text


@on_jax
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("num_steps", [1, 16])
def test_a_program_for_a_gpu_has_no_condition_and_one_loop_of_fixed_length(name, num_steps):
    counts, lengths, text = lowered_for_cuda(PROGRAMS[name]._replace(branches=False), num_steps)
    assert counts["cond"] == counts["while"] == 0
    assert "stablehlo.case" not in text and "stablehlo.if" not in text
    assert lengths == ([16] if num_steps == 16 else [])
    assert text.count("stablehlo.while") == len(lengths)


@on_jax
def test_a_program_with_branches_has_a_condition_for_each_step_of_sampling():
    counts, _, text = lowered_for_cuda(GENERAL, 1)
    assert counts["cond"] >= 10 and text.count("stablehlo.case") >= 10


# -- PyTorch ----------------------------------------------------------------------------------


@on_torch
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_step_on_cuda_mixes_no_devices_and_reads_nothing(kind, name):
    import torch

    from tests.fake_cuda import fake_cuda

    program = PROGRAMS[name]._replace(branches=False)
    with fake_cuda(), torch.inference_mode():
        model, params, progress, cache = step_arguments(kind, program)
        progress, cache = step_of(model, program)(params, progress, cache)
        devices = {x.device.type for x in keras.tree.flatten((progress, cache))}
    assert devices == {"cuda"}


@on_torch
def test_a_condition_on_cuda_is_found():
    import torch
    from torch._subclasses.fake_tensor import DataDependentOutputException

    from tests.fake_cuda import fake_cuda

    with fake_cuda(), torch.inference_mode():
        model, *arguments = step_arguments("llama", GENERAL)
        with pytest.raises(DataDependentOutputException):
            step_of(model, GENERAL)(*arguments)


class CallRecorder:
    """Records as CUDA graphs do, warm-up included, and replays by calling."""

    def __init__(self):
        self.captures = self.replays = 0

    def capture(self, function, reset):
        self.captures += 1
        for _ in range(2):
            reset()
            function()

        def replay():
            self.replays += 1
            function()

        return replay


def graphed(recorder, variables=(), addresses=None):
    """Steps that add a weight and a parameter to a sum, and write it to a cache."""
    from kgpt.backend.torch_cuda_graph import GraphedSteps

    def step(params, state, cache):
        index, total = state
        total = total + params["x"] + (variables[0].value if variables else 1)
        cache[0].index_copy_(1, index.reshape(1).long(), total[:, None])
        return (index + 1, total), cache

    steps = GraphedSteps(step, variables, recorder)
    if addresses is not None:
        trace = steps._trace

        def watched(*args):
            traced = trace(*args)

            def run(*tensors):
                addresses.append(tuple(x.data_ptr() for x in tensors))
                return traced(*tensors)

            return run

        steps._trace = watched
    return steps


def arguments_of(x, size=5):
    import torch

    state = (torch.tensor(0), torch.zeros(2))
    return {"x": torch.tensor([x, 2.0])}, state, [torch.zeros(2, size)]


@on_torch
def test_recorded_steps_run_at_fixed_addresses_and_give_what_the_steps_give():
    import torch

    recorder, addresses = CallRecorder(), []
    steps = graphed(recorder, addresses=addresses)
    cache = [torch.zeros(2, 5)]
    for x in (1.0, 4.0):
        params, state, _ = arguments_of(x)
        (index, total), result = steps(params, state, cache, 3)
        assert int(index) == 3 and total.tolist() == [3 * (x + 1), 9]
        assert result[0].data_ptr() == cache[0].data_ptr()
        assert cache[0].tolist() == [[x + 1, 2 * (x + 1), 3 * (x + 1), 0, 0], [3, 6, 9, 0, 0]]
    assert (recorder.captures, recorder.replays, steps.compilations()) == (1, 6, 1)
    assert len(set(addresses)) == 1 and len(addresses) == 8  # the warm-up's two, and six


@on_torch
def test_a_new_cache_is_recorded_anew_and_only_a_new_shape_traced_anew():
    recorder = CallRecorder()
    steps = graphed(recorder)
    first, second, larger = arguments_of(1.0), arguments_of(1.0), arguments_of(1.0, size=9)
    for given, captures, traces in ((first, 1, 1), (second, 2, 1), (larger, 3, 2), (first, 3, 2)):
        steps(*given, 1)
        assert (recorder.captures, steps.compilations()) == (captures, traces)


@on_torch
def test_new_values_of_a_weight_are_used_and_a_new_weight_is_traced_anew():
    import torch

    recorder, weight = CallRecorder(), keras.Variable([1.0, 1.0])
    steps = graphed(recorder, [weight])
    with torch.inference_mode():
        given = arguments_of(1.0)
        steps(*given, 1)
        weight.assign([5.0, 5.0])
        assert steps(given[0], arguments_of(1.0)[1], given[2], 1)[0][1].tolist() == [6, 7]
        assert recorder.captures == 1
        weight.value.data = weight.value.new_tensor([7.0, 7.0])
        assert steps(given[0], arguments_of(1.0)[1], given[2], 1)[0][1].tolist() == [8, 9]
    assert recorder.captures == 2


@on_torch
def test_the_least_recently_used_graph_is_freed(monkeypatch):
    from kgpt.backend import torch_cuda_graph

    monkeypatch.setattr(torch_cuda_graph, "MAX_GRAPHS", 2)
    recorder = CallRecorder()
    steps = graphed(recorder)
    first, second, third = (arguments_of(1.0) for _ in range(3))
    for given in (first, second, first, third, first):
        steps(*given, 1)
    assert recorder.captures == 3
    steps(*second, 1)
    assert recorder.captures == 4


@on_torch
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_recorded_decode_step_generates_the_same_tokens(monkeypatch, name):
    from kgpt.backend import torch_jit

    recorder, program = CallRecorder(), PROGRAMS[name]
    model, params, progress, cache = step_arguments("window", program)
    tokens = []
    for pretend in (False, True):
        monkeypatch.setattr(backend, "branches_on_host", lambda pretend=pretend: pretend)
        monkeypatch.setattr(torch_jit, "default_recorder", lambda: recorder)
        made = program._replace(branches=not pretend)
        compiled = CompiledProgram(made, lambda: model, model.decode_step, model.variables)
        state = progress.state._replace(
            token=keras.ops.convert_to_tensor([3, 8]),
            remaining_tokens=keras.ops.convert_to_tensor([90, 4]),
            running=keras.ops.convert_to_tensor([True, True]),
        )
        cache = init_kv_cache(model.config, 2, 8)  # full after half of the tokens
        cache, state, output = compiled.decode(cache, params, state, 16)
        tokens.append(backend.to_host(output.tokens).tolist())
    assert tokens[0] == tokens[1] and tokens[0][1][3] >= 0 > tokens[0][1][4]
    assert (recorder.captures, recorder.replays) == (1, 16)
