"""Out of memory is recognized by what JAX, PyTorch, TensorFlow, Keras and NumPy raise."""

import errno

import pytest

from kgpt.errors import OutOfMemoryError, UsageError
from kgpt.out_of_memory import is_out_of_memory, out_of_memory_as_kgpt


class JaxRuntimeError(RuntimeError):
    """JAX's only type of error, told apart by its message."""


def named(name, message):
    """An exception of a type called `name`, as CUDA builds and TensorFlow raise them."""
    return type(name, (Exception,), {})(message)


MEMORY = [
    JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4398801496196 bytes."),
    JaxRuntimeError("INTERNAL: CUBLAS_STATUS_ALLOC_FAILED"),
    named("OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.77 GB)"),
    RuntimeError(
        "Exception encountered when calling MLP.call().\n\n[enforce fail at alloc_cpu.cpp:127] "
        "err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."
    ),
    named("ResourceExhaustedError", "{{function_node __wrapped__Fill}} OOM when allocating"),
    RuntimeError("Exception encountered when calling MLP.call().\n\nOOM when allocating tensor"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
OTHERS = [
    JaxRuntimeError("INVALID_ARGUMENT: shapes differ"),
    RuntimeError("wires crossed"),
    ValueError("the story is called Out of memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    UsageError("Out of memory of the past"),
]


@pytest.mark.parametrize("error", MEMORY, ids=repr)
def test_it_is_recognized_raised_itself_or_as_a_cause(error):
    assert is_out_of_memory(error)
    wrapper = ValueError("a layer failed")
    wrapper.__cause__ = error
    assert is_out_of_memory(wrapper)
    sentence = r"^Out of memory; close the door\.$"
    with (
        pytest.raises(OutOfMemoryError, match=sentence) as caught,
        out_of_memory_as_kgpt("close the door"),
    ):
        raise error
    assert caught.value.exit_code == 1 and caught.value.__cause__ is error


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_pass_unchanged(error):
    assert not is_out_of_memory(error)
    with (
        pytest.raises(type(error)) as caught,
        out_of_memory_as_kgpt("close the door"),
    ):
        raise error
    assert caught.value is error


def test_the_first_remedy_is_kept():
    inner, outer = out_of_memory_as_kgpt("inner"), out_of_memory_as_kgpt("outer")
    with pytest.raises(OutOfMemoryError, match="inner"), outer, inner:
        raise MemoryError
