"""Which implementation of causal attention is chosen on which device, and for which shapes."""

import pytest

from kgpt.backend.attention_choice import (
    AttentionCall,
    AttentionDevice,
    effective_window,
    jax_attention,
    torch_attention,
    torch_repeats_kv_heads,
)

CPU = AttentionDevice("cpu")
TURING, A100, H100, B200 = (
    AttentionDevice("gpu", capability, has_cudnn=True, has_triton=True)
    for capability in ((7, 5), (8, 0), (9, 0), (10, 0))
)
APPLE_OR_AMD = AttentionDevice("gpu")


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "chosen"),
    [
        (A100, "bfloat16", 64, "cudnn"),
        (A100, "float16", 128, "cudnn"),
        (A100, "bfloat16", 8, "cudnn"),
        (A100, "bfloat16", 160, "chunked"),  # wider than cuDNN takes before Hopper
        (A100, "bfloat16", 256, "chunked"),
        (A100, "bfloat16", 20, "chunked"),  # no multiple of 8
        (A100, "float32", 64, "chunked"),
        (H100, "bfloat16", 160, "cudnn"),
        (H100, "bfloat16", 256, "cudnn"),
        (H100, "bfloat16", 264, "chunked"),
        (H100, "bfloat16", 20, "chunked"),
        (H100, "float32", 64, "chunked"),
        (B200, "bfloat16", 128, "cudnn"),
        (B200, "bfloat16", 256, "chunked"),
        (TURING, "float16", 64, "chunked"),  # flash attention starts with Ampere
        (H100._replace(has_cudnn=False), "bfloat16", 64, "chunked"),
        (APPLE_OR_AMD, "bfloat16", 64, "chunked"),
        (CPU, "bfloat16", 64, "chunked"),
    ],
)
def test_on_jax(device, dtype, head_dim, chosen):
    call = AttentionCall(dtype, head_dim)
    assert jax_attention(device, call) == chosen
    assert jax_attention(device, call._replace(window=5, grouped=True, length=64)) == chosen
    assert jax_attention(device, call._replace(dropout=True)) == "dropout"


@pytest.mark.parametrize(
    ("device", "length", "chosen"),
    [
        (H100, 1024, "cudnn"),
        (B200, 1024, "cudnn"),
        (H100, 1023, "chunked"),  # the gradient of a bias needs an even length
        (H100, None, "chunked"),
        (A100, 1024, "chunked"),  # and Hopper
        (CPU, 1024, "chunked"),
    ],
)
def test_on_jax_with_packed_sequences(device, length, chosen):
    call = AttentionCall("bfloat16", 64, length, packed=True)
    assert jax_attention(device, call) == chosen
    assert jax_attention(device, call._replace(window=5, grouped=True)) == chosen
    assert jax_attention(device, call._replace(dropout=True)) == "dropout"


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "length", "chosen"),
    [
        (A100, "bfloat16", 64, 1024, "flex"),
        (H100, "float16", 128, 2048, "flex"),
        (H100, "bfloat16", 64, 256, "sdpa_mask"),  # too short to skip blocks
        (H100, "bfloat16", 64, None, "sdpa_mask"),
        (H100, "bfloat16", 20, 1024, "sdpa_mask"),  # no power of 2
        (H100, "bfloat16", 256, 1024, "sdpa_mask"),
        (H100, "float32", 64, 1024, "sdpa_mask"),
        (TURING, "float16", 64, 1024, "sdpa_mask"),
        (H100._replace(has_triton=False), "bfloat16", 64, 1024, "sdpa_mask"),
        (APPLE_OR_AMD, "bfloat16", 64, 1024, "sdpa_mask"),
        (CPU, "float32", 64, 1024, "sdpa_mask"),
    ],
)
def test_on_torch_with_a_window(device, dtype, head_dim, length, chosen):
    call = AttentionCall(dtype, head_dim, length, window=100)
    assert torch_attention(device, call) == chosen
    assert torch_attention(device, call._replace(window=None)) == "sdpa"
    assert torch_attention(device, call._replace(dropout=True)) == "dropout"
    assert torch_attention(device, call._replace(window=None, packed=True)) == chosen
    if length is not None:  # a window that covers the sequence hides nothing
        assert torch_attention(device, call._replace(window=length)) == "sdpa"


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "window", "repeats"),
    [
        (A100, "bfloat16", 64, None, False),
        (A100, "bfloat16", 256, None, False),
        (A100, "bfloat16", 264, None, True),
        (A100, "float32", 64, None, True),
        (A100, "bfloat16", 64, 100, True),
        (A100, "bfloat16", 64, 1024, False),
        (TURING, "float16", 64, None, True),
        (APPLE_OR_AMD, "float16", 64, None, True),
        (CPU, "float32", 64, None, False),
        (CPU, "float32", 64, 100, False),
    ],
)
def test_grouped_heads_on_torch(device, dtype, head_dim, window, repeats):
    call = AttentionCall(dtype, head_dim, 1024, window, grouped=True)
    assert torch_repeats_kv_heads(device, call) == repeats
    assert torch_repeats_kv_heads(device, call._replace(packed=True)) == (device != CPU)
    assert not torch_repeats_kv_heads(device, call._replace(grouped=False))


def test_a_window_that_covers_the_sequence_is_none():
    assert effective_window(None, 8) is None
    assert effective_window(8, 8) is None
    assert effective_window(7, 8) == 7
    assert effective_window(7, None) == 7
