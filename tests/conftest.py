"""What every test shares: one backend a process, quiet and narrow, and the same examples each time.

`KERAS_BACKEND` chooses the backend, TensorFlow without it. Tests marked `backend` are the ones that
`make test` runs once on each; the doctests of packages that compute are marked here.
"""

import os
import re

# TensorFlow's library brings a SQLite of its own, without full-text search; whichever is loaded
# first serves the whole process. The terminal app never loads TensorFlow, a process of tests may.
import sqlite3  # noqa: F401
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.host_copy_guard import refuse_host_copies
from tests.xla_flags import quick_flags

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("KGPT_COMPILATION_CACHE", "0")  # nothing in the user's cache folder
for pool in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(pool, "1")
if os.environ.get("TESTS_COMPILE_QUICKLY"):
    os.environ["XLA_FLAGS"] = quick_flags()

settings.register_profile("kgpt", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("kgpt")

ROOT = Path(__file__).parent.parent
COMPUTES = [ROOT / "kgpt" / name for name in ("backend", "model", "training", "generation")]
QUICKEST = "torch"  # compiles nothing here: `portable` tests run on it, and on the others when slow
BACKENDS = ("jax", "tensorflow", "torch")  # a module is named for its backend: torch_transfer.py


def pytest_ignore_collect(collection_path, config):
    """Not imported: other backends' modules, scripts of tests, files without a chosen test."""
    backend = collection_path.stem.partition("_")[0]
    in_backend = collection_path.parent == ROOT / "kgpt" / "backend"
    if in_backend and backend in BACKENDS and backend != os.environ["KERAS_BACKEND"]:
        return True
    if collection_path.suffix != ".py":
        return None
    inside = ROOT / "tests" in collection_path.parents
    if inside and not collection_path.name.startswith("test_"):
        return True
    computes = bool(set(COMPUTES) & set(collection_path.parents))
    marks = required_marks(config.option.markexpr) - ({"backend"} if computes else set())
    if not marks:
        return None
    text = collection_path.read_text(encoding="utf-8")
    return True if any(f"mark.{mark}" not in text for mark in marks) else None


def required_marks(expression):
    """The markers that each test chosen by `expression` has: none if it has alternatives."""
    if " or " in expression:
        return set()
    return set(re.findall(r"(?<!not )\b(backend|proof)\b", expression))


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items):
    for item in items:
        if isinstance(item, pytest.DoctestItem) and set(COMPUTES) & set(item.path.parents):
            item.add_marker(pytest.mark.backend)
        if item.get_closest_marker("portable") and os.environ["KERAS_BACKEND"] != QUICKEST:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _float32():
    """float32 products are float32 on a GPU too, unless a test sets another precision."""
    if backend := sys.modules.get("kgpt.backend"):
        backend.set_precision("float32")


@pytest.fixture(autouse=True)
def _apart(monkeypatch, tmp_path):
    """No test sees the runs of the person who runs it."""
    monkeypatch.setenv("KGPT_RUNS", str(tmp_path / "runs"))


@pytest.fixture(autouse=True, scope="session")
def _host_copies_refused():
    """On PyTorch, a tensor is read as a GPU allows it."""
    if os.environ["KERAS_BACKEND"] != "torch":
        yield
        return
    with refuse_host_copies():
        yield
