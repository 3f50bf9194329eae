"""Forward passes over prompts: log-probabilities and embeddings equal those of a plain model call.

The reference is one uncached pass over each prompt alone, and a log-softmax in float64 NumPy.
"""

import threading
import time

import numpy as np
import pytest

from kgpt.errors import QueueFull, UsageError
from tests.generation.models import SIZE, VOCABULARY, logits_without_cache, model_of, prompts

pytestmark = pytest.mark.backend
LENGTHS = (1, 2, 63, 7, 40, 33)


def reference(kind, ids):
    """(L, V) log-probabilities of the token after each of `ids`."""
    logits = logits_without_cache(kind, ids).astype("float64")
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.fixture
def engine(kind, monkeypatch):
    from kgpt.generation import forward
    from kgpt.generation.engine import Engine

    monkeypatch.setattr(forward, "TOKENS_PER_CALL", 64)  # so four prompts take several calls
    engine = Engine(model_of(kind), max_num_seqs=4, max_queue=16)
    yield engine
    engine.close()


def run(engine, ids, task, top=0):
    from kgpt.generation.scoring import _run

    return _run(engine, ids, task, top)


@pytest.mark.parametrize(("kind", "top"), [("gpt2", 1), ("llama", 5), ("window", 1)])
def test_logprobs_of_prompts_are_those_of_an_uncached_pass(kind, engine, top):
    ids = prompts(*LENGTHS)
    for prompt, result in zip(ids, run(engine, ids, "logprobs", top), strict=True):
        expected = reference(kind, prompt)
        chosen = np.take_along_axis(expected[:-1], np.array(prompt[1:], int)[:, None], -1)[:, 0]
        np.testing.assert_allclose(result.logprobs, chosen, atol=2e-4)
        best = np.sort(expected, -1)[:, : -top - 1 : -1]
        np.testing.assert_allclose(result.top_logprobs, best, atol=2e-4)
        of_ids = np.take_along_axis(expected, result.top_ids.astype("int64"), -1)
        np.testing.assert_allclose(of_ids, best, atol=2e-4)


def test_a_call_is_bounded_and_no_longer_than_what_is_left():
    from kgpt.generation.forward import _chunk_size

    shapes = {(1, 900): 256, (1, 60): 64, (1, 5): 16, (4, 900): 64, (8, 900): 32, (8, 20): 32,
              (8, 10): 16, (16, 900): 16}  # fmt: skip
    assert {shape: _chunk_size(*shape, 1024) for shape in shapes} == shapes
    assert _chunk_size(1, 900, 100) == 100


@pytest.mark.parametrize("kind", ["gpt2"])
def test_embeddings_are_normalised_means_of_the_final_hidden_states(kind, engine):
    from kgpt import backend

    model = model_of(kind)
    run_hidden = backend.jit(model.hidden_states, model.variables)
    ids = prompts(*LENGTHS)
    found = run(engine, ids, "embedding")
    for prompt, embedding in zip(ids, found, strict=True):
        padded = np.zeros((1, SIZE["max_length"]), "int32")  # causal: padding changes nothing
        padded[0, : len(prompt)] = prompt
        mean = backend.to_host(run_hidden(padded))[0, : len(prompt)].mean(0)
        np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean), atol=1e-4)
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["gpt2"])
class TestQueue:
    """Who is admitted, who is batched, and how jobs end. One architecture is enough."""

    def test_long_prompts_are_refused_and_nothing_is_queued(self, engine):
        from kgpt.generation.forward_job import ForwardJob

        for ids, says in [([], "empty"), ([1] * 65, "65 tokens"), ([VOCABULARY], "must lie")]:
            with pytest.raises(UsageError, match=says):
                engine.submit_forward([ForwardJob([1], "embedding"), ForwardJob(ids, "embedding")])
        assert engine.stats().requests == 0

    def test_all_of_a_request_are_admitted_or_none(self, engine):
        from kgpt.generation.forward_job import ForwardJob

        with pytest.raises(QueueFull):
            engine.submit_forward([ForwardJob([1], "embedding") for _ in range(4 + 16 + 1)])
        assert engine.stats().requests == engine.queued == 0

    def test_prompts_of_several_requests_share_a_batch(self, kind):
        from kgpt.generation.forward_job import ForwardJob
        from kgpt.generation.forward_queue import ForwardQueue

        queue = ForwardQueue(model_of(kind), max_num_seqs=4, max_context=64)
        lengths = (20, 60, 21, 19, 64, 20)
        queue.waiting.extend(ForwardJob([1] * n, "embedding") for n in lengths)
        queue.waiting.insert(1, ForwardJob([1] * 20, "logprobs", 1))
        queue.step()
        assert [len(job.token_ids) for job in queue.running] == [20, 20, 21, 19]
        while not queue.idle:
            queue.step()

    def test_cancelled_and_late_jobs_end_without_a_result(self, engine):
        from kgpt.generation.forward_job import ForwardJob

        ended, jobs = threading.Semaphore(0), []
        for changes in ({"cancelled": True}, {"deadline": time.monotonic() - 1}, {}):
            jobs.append(
                ForwardJob([1, 2], "embedding", on_end=lambda _: ended.release(), **changes)
            )
        engine.submit_forward(jobs)
        for _ in jobs:
            assert ended.acquire(timeout=60)
        assert [job.ended for job in jobs] == ["cancelled", "deadline", "done"]
        assert [job.result is None for job in jobs] == [True, True, False]

    def test_a_failure_ends_the_batch_and_not_the_engine(self, kind, engine, monkeypatch):
        from kgpt.generation import forward_queue
        from kgpt.generation.completion import GenerationFailed

        def fail(*_):
            raise RuntimeError("no such kernel")
            yield

        with monkeypatch.context() as patched:
            patched.setattr(forward_queue, "run_batch", fail)
            with pytest.raises(GenerationFailed, match="no such kernel"):
                run(engine, [[1, 2]], "embedding")
        assert run(engine, [[1, 2]], "embedding")[0].shape == (32,)
