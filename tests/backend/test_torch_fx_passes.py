"""A trace with fewer calls computes the same bits, on PyTorch."""

import os

import pytest

if os.environ.get("KERAS_BACKEND") != "torch":
    pytest.skip("FX graphs are PyTorch's", allow_module_level=True)

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from kgpt.backend.torch_fx_passes import quick

pytestmark = pytest.mark.backend


def attend(x, cache, slot, scale, bias):
    """Products, views, converted types, constants, and a cache that is written in place."""
    rows = torch.arange(len(x))[:, None]
    cache[rows, slot[:, None]] = x[:, None]
    counted = torch.arange(4)
    counted.add_(1)  # a constant that is written to
    query = x.view(len(x), 1, -1).expand(len(x), 1, 8)
    scores = query @ cache.transpose(1, 2).contiguous().view(len(x), 8, 4)
    visible = torch.arange(4)[None, None] <= slot[:, None, None]
    weights = torch.softmax(torch.where(visible, scores, -1e30), -1) * counted
    mixed = (weights @ cache.view(len(x), 4, 8)).reshape(len(x), 8)[:, 2:]
    out = torch.nn.functional.layer_norm(mixed, (6,), scale, bias)
    return out.to(torch.bfloat16).to(torch.float32) + torch.arange(4)[:1], cache


def test_a_quick_trace_computes_the_same_bits():
    noise = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=noise) for shape in ((3, 8), (3, 4, 8), (6,), (6,))]

    def arguments(slot):
        x, cache, scale, bias = (part.clone() for part in given)
        return x, cache.reshape(3, 4, 8), torch.full((3,), slot), scale, bias

    with torch.inference_mode():
        traced = make_fx(attend)(*arguments(0))
        before = len(traced.graph.nodes)
        function = quick(traced)
        assert len(traced.graph.nodes) < before - 6
        for slot in (0, 2, 2):
            got, want = function(*arguments(slot)), attend(*arguments(slot))
            assert all(torch.equal(*pair) for pair in zip(got, want, strict=True))
