"""Perplexity by transformers' own strided recipe, and kgpt's: the same."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402

from kgpt.config import EvaluationConfig  # noqa: E402
from kgpt.evaluation.documents import read_documents  # noqa: E402
from kgpt.evaluation.models import evaluate_likelihood, open_model  # noqa: E402
from tests.tiny import write_tiny_model  # noqa: E402

pytestmark = pytest.mark.backend


def strided_recipe(model, ids, max_length, stride):
    """Of transformers' guide "Perplexity of fixed-length models", over all tokens that count.

    The guide weighs each window's mean loss by one token too few, from the second window on.
    """
    nll_sum, tokens, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        inputs = torch.tensor(ids[begin:end])[None]
        targets = inputs.clone()
        targets[:, : -(end - previous)] = -100
        with torch.no_grad():
            loss = model(inputs, labels=targets).loss
        counted = int((targets[:, 1:] != -100).sum())
        nll_sum, tokens, previous = nll_sum + float(loss) * counted, tokens + counted, end
        if end == len(ids):
            return math.exp(nll_sum / tokens)


def test_perplexity_is_that_of_the_strided_recipe(tmp_path):
    folder = write_tiny_model(tmp_path / "model", "gpt2", noise=0.2, num_layers=1)
    text = bytes(np.random.default_rng(1).integers(32, 127, 300).tolist()).decode()
    (tmp_path / "docs.jsonl").write_text(json.dumps({"text": text}))
    config = EvaluationConfig(data=[str(tmp_path / "docs.jsonl")], first_token=False)
    documents, ours = read_documents(config), open_model(str(folder), config)
    ours.scorer.batch_tokens, ours.scorer.chunk = 96, 40  # several batches, of uneven chunks
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder)
    for stride in (12, 31):
        config.stride = stride
        found = evaluate_likelihood(ours, documents, config).metrics
        expected = strided_recipe(theirs, list(text.encode()), 32, stride)
        assert found["token_perplexity"].value == pytest.approx(expected, rel=1e-4)
        bits = math.log2(expected) * (len(text) - 1) / len(text)
        assert found["bits_per_byte"].value == pytest.approx(bits, rel=1e-4)
