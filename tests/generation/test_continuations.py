"""Log-likelihoods of continuations are those of whole texts, and a context is read once."""

import numpy as np
import pytest

from tests.generation.models import KINDS, VOCABULARY, logits_without_cache, model_of

pytestmark = pytest.mark.backend
CONTEXT = KINDS["llama"]["max_length"]


def expected(kind, context, continuation):
    """Log-likelihood, and whether greedy decoding gives it, from one forward pass."""
    whole = [*context, *continuation][-(CONTEXT + 1) :]
    logits = logits_without_cache(kind, whole[:-1]).astype("float64")[-len(continuation) :]
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    greedy = (logits.argmax(-1) == continuation).all()
    return logprobs[np.arange(len(continuation)), continuation].sum(), bool(greedy)


@pytest.mark.parametrize("kind", ["llama", pytest.param("window", marks=pytest.mark.portable)])
def test_scores_are_those_of_whole_texts(kind, monkeypatch):
    from kgpt.generation import continuations as module

    noise = np.random.default_rng(1)

    def ids(length):
        return noise.integers(0, VOCABULARY, length).tolist()

    contexts = [ids(length) for length in (1, 9, 14)]
    pairs = [(context, ids(length)) for context in contexts for length in (1, 3, 4)]
    best = int(logits_without_cache(kind, contexts[1])[-1].argmax())
    pairs += [(contexts[1], [best]), (ids(CONTEXT + 5), ids(3)), ([7], ids(CONTEXT))]
    read, read_prefixes = [], module._read_prefixes
    monkeypatch.setattr(
        module,
        "_read_prefixes",
        lambda model, prefixes, length: (
            read.extend(prefixes) or read_prefixes(model, prefixes, length)
        ),
    )
    asked = [module.make_continuation(i, *pair, CONTEXT) for i, pair in enumerate(pairs)]
    done = []
    found = module.score_continuations(model_of(kind), asked, CONTEXT, progress=done.append)
    for (logprob, greedy), pair in zip(found, pairs, strict=True):
        assert (pytest.approx(logprob, rel=1e-4), greedy) == expected(kind, *pair)
    assert found[9][1] and sum(done) == len(pairs)
    assert len(read) == len(set(read)) == 4  # three contexts and a long one; [7] has no prefix
