"""Every use of a private part of JAX in the tests, in one place. Checked on JAX 0.10.2."""

from jax._src.cudnn import fused_attention_stablehlo


def pretend_cudnn(monkeypatch, capability):
    """Trace and lower cuDNN's attention without a GPU, for one of the compute capability given.

    JAX asks for the version of the library, and for the GPU's capability to check shapes.
    """

    def at_least(least):
        return capability >= tuple(map(int, least.split(".")))

    module = fused_attention_stablehlo
    monkeypatch.setattr(module, "check_cudnn_version", lambda: 91100)
    monkeypatch.setattr(module, "check_compute_capability", at_least)
    monkeypatch.setattr(module, "is_cuda_compute_capability_equal", lambda exact: False)
