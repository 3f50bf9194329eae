"""Make the folder that `benchmarks/gpu.py --bundle` needs on a machine without package index.

    python -m benchmarks.gpu_run.bundle [--out gpu-bundle] [--nanogpt FOLDER] [--python 3.12]

Wheels of kgpt and of what it needs beside JAX, PyTorch, transformers and pytest with xdist and
hypothesis, which such machines have; the benchmarks, the tests, and nanoGPT's model.py. The
versions are those installed here. Needs pip and a package index.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 60_000_000
PACKAGES = (
    "keras", "namex", "optree", "pydantic", "pydantic-core", "annotated-types",
    "typing-inspection", "cyclopts", "docstring-parser", "rich-rst", "docutils", "platformdirs",
    "fastapi", "starlette", "uvicorn", "annotated-doc", "httpx-sse", "prometheus-client",
    "llguidance",
)  # fmt: skip
PLATFORMS = (
    "manylinux_2_31_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
SOURCES = ("kgpt", "tui", "configs", "pyproject.toml", "README.md", "LICENSE")
TESTS = ("backend", "model", "generation", "training")
NANOGPT = (
    "https://raw.githubusercontent.com/karpathy/nanoGPT/"
    "3adf61e154c3fe3fca428ad6bc3818b27a3b8291/model.py"
)
NANOGPT_SHA256 = "7c01703240dbec5d554527dc666e35b3df8391d0b117fddc07afcf325a21d11c"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-bundle"))
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT; else downloaded")
    parser.add_argument("--python", default="3.12", help="version on the machine with the GPU")
    options = parser.parse_args()
    out = options.out
    shutil.rmtree(out, ignore_errors=True)
    (out / "wheels").mkdir(parents=True)
    download(out / "wheels", options.python)
    build_wheel(out / "wheels")
    copy_sources(out)
    nanogpt = copy_nanogpt(out, options.nanogpt)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB{'' if nanogpt else ', without nanoGPT'}")
    print(f"there: python benchmarks/gpu.py --bundle {out}, or inside it with --bundle .")
    if size > MOST_BYTES:
        sys.exit(f"{out} is larger than {MOST_BYTES / 1e6:.0f} MB.")


def download(wheels: Path, python: str) -> None:
    """The packages in the versions installed here, for Linux on x86-64."""
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    pip("download", "--only-binary=:all:", "--python-version", python, *platforms,
        "--dest", str(wheels), *pinned)  # fmt: skip


def build_wheel(wheels: Path) -> None:
    """A wheel of kgpt, built in a copy, so that no old build folder gets into it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            copy(ROOT / name, Path(folder) / name)
        pip("wheel", "--wheel-dir", str(wheels.resolve()), folder)


def pip(command: str, *arguments: str) -> None:
    command_line = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *arguments]
    subprocess.run(command_line, check=True)


def copy_sources(out: Path) -> None:
    """The benchmarks and the tests that `benchmarks/gpu.py` runs."""
    copy(ROOT / "benchmarks", out / "benchmarks")
    for path in (*(ROOT / "tests").glob("*.py"), *(ROOT / "tests" / name for name in TESTS)):
        copy(path, out / "tests" / path.name)
    copy(ROOT / "pyproject.toml", out / "pyproject.toml")
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (out / "COMMIT").write_text(done.stdout)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def copy_nanogpt(out: Path, folder: Path | None) -> bool:
    """nanoGPT's model.py from a checkout, or downloaded; False if it cannot be downloaded."""
    target = out / "nanogpt_model.py"
    if folder is not None:
        copy(folder / "model.py", target)
        return True
    try:
        with urllib.request.urlopen(NANOGPT, timeout=30) as response:
            content = response.read()
    except (urllib.error.URLError, TimeoutError) as error:
        print(f"nanoGPT cannot be downloaded ({error}); give a checkout with --nanogpt FOLDER")
        return False
    if hashlib.sha256(content).hexdigest() != NANOGPT_SHA256:
        sys.exit(f"{NANOGPT} is not the file that it was.")
    target.write_bytes(content)
    return True


if __name__ == "__main__":
    main()
