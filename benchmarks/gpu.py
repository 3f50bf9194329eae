"""Everything that only a GPU can answer, in one command of a few minutes.

    python benchmarks/gpu.py [--minutes 8] [--bundle FOLDER] [--nanogpt FOLDER] [--only NAMES]

Parts run in processes of their own, the most important first, each under its own time limit:
training beside nanoGPT, generation beside transformers, the tests of model, generation and
training, resuming after a kill, and greedy text on GPU and CPU. Results are written as they come,
to the folder $OUT or gpu-results: results.jsonl, a Markdown table in gpu.md, and log.txt.

A machine without package index needs the folder that `make gpu-bundle` makes. `--cpu-rehearsal`
runs every part on the CPU with tiny shapes, which shows that it works and measures nothing.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_run.plan import GPU, REHEARSAL, stages_of  # noqa: E402
from benchmarks.gpu_run.schedule import Results, run_stages  # noqa: E402
from benchmarks.gpu_run.table import failures  # noqa: E402


def main() -> None:
    options = parse_arguments()
    started = time.monotonic()
    results = Results(options.out)
    with tempfile.TemporaryDirectory(prefix="kgpt-gpu-", ignore_cleanup_errors=True) as work:
        path = [ROOT]
        if options.bundle:
            path.insert(0, install(options.bundle, Path(work) / "site"))
            sys.path.insert(0, str(path[0]))  # where parts look for the packages they need
        shapes = REHEARSAL if options.cpu_rehearsal else GPU
        stages = stages_of(shapes, Path(work), nanogpt_file(options), options.only)
        results.add({"kind": "run", "date": datetime.date.today().isoformat(),
                     "rehearsal": options.cpu_rehearsal})  # fmt: skip
        environment = environment_of(options.cpu_rehearsal, Path(work), path)
        run_stages(stages, results, started + 60 * options.minutes, environment, ROOT)
    print((options.out / "gpu.md").read_text(encoding="utf-8"))
    print(f"{time.monotonic() - started:.0f} s; results are in {options.out}")
    sys.exit(1 if failures(results.rows) else 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--bundle", type=Path, help="a folder made by `make gpu-bundle`")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT, or its model.py")
    parser.add_argument("--only", default="", help="comma-separated beginnings of parts' names")
    parser.add_argument("--cpu-rehearsal", action="store_true", help="tiny shapes on the CPU")
    out = Path(os.environ.get("OUT") or "gpu-results")
    parser.add_argument("--out", type=Path, default=out, help="the folder of results")
    options = parser.parse_args()
    if options.bundle and not (options.bundle / "wheels").is_dir():
        parser.error(f"{options.bundle} holds no wheels; make it with `make gpu-bundle`.")
    return options


def install(bundle: Path, site: Path) -> Path:
    """Install the wheels of a bundle to `site`, without a package index."""
    wheels = sorted(str(path) for path in (bundle / "wheels").glob("*.whl"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--no-compile", "--target", str(site), *wheels], check=True)
    return site


def nanogpt_file(options: argparse.Namespace) -> Path | None:
    """nanoGPT's model.py: where it was said to be, or in a bundle."""
    given = options.nanogpt
    bundles = [options.bundle, ROOT / "gpu-bundle", ROOT]
    found = [given, given / "model.py"] if given else []
    found += [bundle / "nanogpt_model.py" for bundle in bundles if bundle]
    return next((path.resolve() for path in found if path.is_file()), None)


def environment_of(rehearsal: bool, work: Path, path: list[Path]) -> dict[str, str]:
    """The environment of the parts; memory is taken as needed, since some parts run together."""
    given = os.environ.get("PYTHONPATH")
    python_path = os.pathsep.join([*map(str, path), *([given] if given else [])])
    environment = os.environ | {
        "PYTHONDONTWRITEBYTECODE": "",  # the first part that imports a module compiles it for all
        "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1", "KGPT_RESTARTED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "3", "TOKENIZERS_PARALLELISM": "true", "TMPDIR": str(work),
    }  # fmt: skip
    for name in ("KERAS_BACKEND", "JAX_COMPILATION_CACHE_DIR"):
        environment.pop(name, None)
    return environment | ({"CUDA_VISIBLE_DEVICES": ""} if rehearsal else {})


if __name__ == "__main__":
    main()
