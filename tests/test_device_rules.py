"""Rules read from the code that keep a GPU busy: tensors are made on a device and stay there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FACTORIES = {
    "arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn",
    "scalar_tensor", "tensor", "zeros",
}  # fmt: skip
READS = {"item", "tolist", "numpy", "convert_to_numpy", "device_get"}
# Whatever runs inside a training or decode step.
STEP_CODE = [
    *(ROOT / "kgpt" / "backend").glob("*.py"),
    *(
        ROOT / "kgpt" / "model" / f"{name}.py"
        for name in ("attention", "block", "gpt", "kv_cache", "layers", "linear")
    ),
    *(ROOT / "kgpt" / "generation" / f"{name}.py" for name in ("decode", "sampling")),
    ROOT / "kgpt" / "training" / "losses.py",
]
ELSEWHERE = sorted(set((ROOT / "kgpt").rglob("*.py")) - set(STEP_CODE))
# Tensors that are on the host, or on TensorFlow's: of files, and of the exported graph.
ON_THE_HOST = {
    ("backend/torch_optimizer.py", "item"),  # where a counter was assigned, not in a step
    ("backend/torch_transfer.py", "numpy"),  # `to_host`
    ("backend/torch_transfer.py", "tensor"),  # `to_device`
    ("checkpoints/importers.py", "numpy"),
    ("export/savedmodel/tokenizer.py", "numpy"),
    ("verification/hugging_face.py", "numpy"),  # transformers, on the CPU
    ("verification/savedmodel.py", "numpy"),  # TensorFlow's, of a SavedModel
}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Name of the function or method, and the call."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node


def made_without_device(source: str) -> list[str]:
    """Tensors of `torch` whose device is left to torch's default, the CPU."""
    return [
        name
        for name, call in calls(source)
        if name in FACTORIES
        and isinstance(call.func, ast.Attribute)
        and getattr(call.func.value, "id", "") == "torch"
        and "device" not in {keyword.arg for keyword in call.keywords}
    ]


def read_from_device(source: str) -> list[str]:
    """Methods and functions that wait for a tensor and copy it to the host."""
    return [name for name, _ in calls(source) if name in READS]


def found_in(paths: list[Path], rule) -> set[tuple[str, str]]:
    return {
        (path.relative_to(ROOT / "kgpt").as_posix(), name)
        for path in paths
        for name in rule(path.read_text(encoding="utf-8"))
    }


def test_tensors_of_torch_are_made_on_a_named_device():
    torch_modules = list((ROOT / "kgpt" / "backend").glob("torch*.py"))
    assert found_in(torch_modules, made_without_device) - ON_THE_HOST == set()


def test_no_step_reads_a_tensor():
    assert found_in(STEP_CODE, read_from_device) - ON_THE_HOST == set()


def test_tensors_become_arrays_in_to_host_alone():
    reads = {hit for hit in found_in(ELSEWHERE, read_from_device) if hit[1] != "tolist"}
    assert reads - ON_THE_HOST == set()


def test_each_rule_finds_what_it_forbids():
    assert made_without_device("torch.zeros(3)\ntorch.ones(2, device=x.device)") == ["zeros"]
    assert read_from_device("x.item() + ops.convert_to_numpy(y)[0]\nz.sum()") == [
        "item", "convert_to_numpy",
    ]  # fmt: skip
