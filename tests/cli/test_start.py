"""Starting and ending a process: what it imports, keeps compiled, and leaves to the system."""

import importlib
import os
import subprocess
import sys

import pytest

from kgpt.cli import lean_imports
from kgpt.cli.compilation_cache import evict, use_compilation_cache

VARIABLES = (
    "KGPT_COMPILATION_CACHE", "JAX_COMPILATION_CACHE_DIR",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
    "TF_XLA_FLAGS", "TORCHINDUCTOR_CACHE_DIR",
)  # fmt: skip
FOLDERS = {  # the variable that names the folder of each backend
    "jax": "JAX_COMPILATION_CACHE_DIR",
    "tensorflow": "TF_XLA_FLAGS",
    "torch": "TORCHINDUCTOR_CACHE_DIR",
}


@pytest.fixture
def no_cache_yet(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setenv("KGPT_CACHE", str(tmp_path))
    monkeypatch.setattr("kgpt.cli.compilation_cache.version", lambda name: "1.2")
    return tmp_path / "compiled"


def test_optional_packages_are_hidden_from_keras_alone(monkeypatch, tmp_path):
    (tmp_path / "small_keras.py").write_text(
        "try:\n    import optional_part\nexcept ImportError:\n    optional_part = None\n"
        "import loaded_part\n"
    )
    (tmp_path / "optional_part.py").touch()
    (tmp_path / "loaded_part.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    others = [finder for finder in sys.meta_path if not isinstance(finder, lean_imports.LeanHook)]
    monkeypatch.setattr(sys, "meta_path", others)  # a command in this process leaves a hook
    monkeypatch.setattr(lean_imports, "IMPORTERS", ("small_keras",))
    monkeypatch.setattr(lean_imports, "OPTIONAL", ("optional_part", "loaded_part"))
    loaded = importlib.import_module("loaded_part")
    lean_imports.skip_optional_packages("jax")
    importer = importlib.import_module("small_keras")
    assert importer.optional_part is None
    assert importer.loaded_part is loaded
    assert importlib.import_module("optional_part")


@pytest.mark.parametrize("backend", FOLDERS)
def test_programs_are_kept_for_one_version_and_one_kind_of_cpu(no_cache_yet, backend, monkeypatch):
    use_compilation_cache(backend)
    (folder,) = no_cache_yet.iterdir()
    assert folder.name.startswith(f"{backend}-1.2-")
    assert os.environ[FOLDERS[backend]].endswith(str(folder))
    monkeypatch.setattr("kgpt.cli.compilation_cache.CPU_FEATURES", ())  # another CPU
    monkeypatch.delenv(FOLDERS[backend])
    use_compilation_cache(backend)
    assert not os.environ[FOLDERS[backend]].endswith(str(folder))


@pytest.mark.parametrize("backend", FOLDERS)
def test_the_cache_can_be_turned_off_or_be_another(no_cache_yet, backend, monkeypatch):
    monkeypatch.setenv("KGPT_COMPILATION_CACHE", "0")
    use_compilation_cache(backend)
    assert FOLDERS[backend] not in os.environ
    monkeypatch.delenv("KGPT_COMPILATION_CACHE")
    chosen = "--tf_xla_persistent_cache_directory=/mine"
    monkeypatch.setenv(FOLDERS[backend], chosen)
    use_compilation_cache(backend)
    assert os.environ[FOLDERS[backend]] == chosen


def test_flags_of_the_environment_are_kept(no_cache_yet, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=1")
    use_compilation_cache("tensorflow")
    first, second = os.environ["TF_XLA_FLAGS"].split()
    assert first == "--tf_xla_auto_jit=1"
    assert second.startswith("--tf_xla_persistent_cache_directory=")


def test_the_longest_unused_programs_make_room(tmp_path):
    for name, used in {"new": 3000, "old": 1000, "middle": 2000}.items():
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (used, used))
    evict(tmp_path, 300)
    assert len(list(tmp_path.iterdir())) == 3
    evict(tmp_path, 150)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    evict(tmp_path / "missing", 0)


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_each_start_bounds_the_cache(no_cache_yet, backend, monkeypatch):
    use_compilation_cache(backend)
    (folder,) = no_cache_yet.iterdir()
    for name in ("old", "new"):
        (folder / name).write_bytes(bytes(100))
    os.utime(folder / "old", (1000, 1000))
    monkeypatch.delenv(FOLDERS[backend])
    monkeypatch.setattr("kgpt.cli.compilation_cache.MAX_BYTES", 150)
    use_compilation_cache(backend)
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_a_process_killed_while_it_keeps_a_program_harms_no_other(no_cache_yet):
    """JAX writes a program and then the time of its use; here the second is missing."""
    pytest.importorskip("jax")
    script = """
import os, pathlib
from kgpt.cli.compilation_cache import use_compilation_cache
use_compilation_cache("jax")
folder = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
(folder / "killed-cache").touch()
import jax
jax.jit(lambda x: x + 1)(1.0)
print(len(list(folder.glob("*-cache"))))
"""
    kept = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True
    )
    assert kept.returncode == 0, kept.stderr
    assert int(kept.stdout) >= 2


def test_a_process_ends_in_order_without_teardown():
    """Threads end, exit handlers run, and all output arrives, though Python is not taken apart."""
    script = """
import atexit, sys, threading, time
from kgpt.cli import main
class Alive:
    def __del__(self): print("taken apart", flush=True)
alive = Alive()
atexit.register(lambda: print("handler"))
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
sys.argv = ["kgpt", "no-such-command"]
main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.split()) == (2, ["thread", "handler"])
