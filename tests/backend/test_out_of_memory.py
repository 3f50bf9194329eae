"""Memory that cannot be had, asked for in earnest, on each backend by the engine."""

import functools
import time

import pytest
from keras import ops

from kgpt import backend
from kgpt.config import SamplingConfig
from kgpt.errors import OutOfMemoryError
from kgpt.generation.generator import TextGenerator
from kgpt.out_of_memory import is_out_of_memory
from tests.tiny import write_tiny_model

pytestmark = pytest.mark.backend
GREEDY = SamplingConfig(temperature=0, max_tokens=4)


@functools.cache
def real_error() -> Exception:
    """What the backend raises for petabytes; TensorFlow tries for ten seconds."""
    product = backend.jit(lambda x: x[:, None] * x[None])
    with pytest.raises(Exception) as caught:  # noqa: PT011
        backend.synchronize(product(ops.ones((1 << 25,))))
    return caught.value


def exhaust(*_, **__):
    raise real_error()


def test_the_backend_raises_what_is_recognized():
    assert is_out_of_memory(real_error())


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    folder = write_tiny_model(tmp_path_factory.mktemp("model") / "model")
    with TextGenerator(folder, max_num_seqs=4) as made:
        yield made


def test_the_engine_fails_the_request_and_serves_the_next(generator, monkeypatch):
    before = generator.generate("To be", GREEDY)
    runner = generator.engine._scheduler.runner
    monkeypatch.setattr(runner, "decode", exhaust)
    with pytest.raises(OutOfMemoryError, match="lower max_num_seqs or max_context"):
        generator.generate("To be", GREEDY)
    assert runner.cache == []  # released
    assert generator.generate("To be", GREEDY).text == before.text


def test_without_memory_for_more_slots_requests_wait(generator, monkeypatch):
    scheduler = generator.engine._scheduler
    monkeypatch.setattr(scheduler, "max_num_seqs", scheduler.max_num_seqs)  # restored at the end
    monkeypatch.setattr(scheduler.runner, "resize", exhaust)
    decode = scheduler.runner.decode
    monkeypatch.setattr(scheduler.runner, "decode", lambda *args: time.sleep(0.05) or decode(*args))
    sampling = GREEDY.model_copy(update={"max_tokens": 40})  # so that the requests overlap
    alone = generator.generate("To be", sampling).text
    texts = [each.text for each in generator.generate_batch(["To be"] * 3, sampling)]
    assert texts == [alone] * 3
    assert scheduler.max_num_seqs == 1


def test_a_model_that_does_not_fit_is_refused(generator, monkeypatch):
    monkeypatch.setattr("kgpt.generation.loading.build_for_inference", exhaust)
    with pytest.raises(OutOfMemoryError, match="bfloat16, int8 or int4"):
        TextGenerator(generator.folder)


def test_a_warm_up_that_does_not_fit_is_refused(generator, monkeypatch):
    monkeypatch.setattr(generator.engine._scheduler, "warm_up", exhaust)
    with pytest.raises(OutOfMemoryError, match="lower max_num_seqs or max_context"):
        generator.warm_up()
