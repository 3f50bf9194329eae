"""`benchmarks/gpu.py`: what parts report is kept whatever happens to them, and the table of it."""

import importlib
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks.gpu_run import plan, worker
from benchmarks.gpu_run.checks import read_outcome
from benchmarks.gpu_run.plan import Part
from benchmarks.gpu_run.schedule import Results, run_stages
from benchmarks.gpu_run.table import failures, markdown

ROOT = Path(__file__).parents[2]
# In place of benchmarks.gpu_run.worker: reports a row, and then does what its job says.
FAKE_WORKER = """
    import json, signal, subprocess, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)
    job = json.loads(sys.argv[1])
    row = {"kind": "check", "check": job["kind"], "backend": "jax", "ok": True, "detail": ""}
    print("RESULT " + json.dumps(row), flush=True)
    try:
        if job["kind"] == "crash":
            raise ValueError("it broke")
        if job["kind"] == "hang":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            print(f"child {child.pid}", flush=True)
            time.sleep(60)
        if job["kind"] == "half":
            print("RESULT {", end="", flush=True)
    except KeyboardInterrupt:
        row["check"] = "when it was stopped"
        print("RESULT " + json.dumps(row), flush=True)
        time.sleep(60)
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder whose worker is the fake one."""
    monkeypatch.setattr("benchmarks.gpu_run.schedule.GRACE_S", 0.5)
    folder = tmp_path / "benchmarks" / "gpu_run"
    folder.mkdir(parents=True)
    (folder / "worker.py").write_text(textwrap.dedent(FAKE_WORKER))
    return tmp_path


def run(root, *stages, seconds=60.0):
    results = Results(root / "out")
    run_stages(list(stages), results, time.monotonic() + seconds, {}, root)
    return results


def part(kind, limit_s=30.0, **options):
    return Part(kind, {"kind": kind}, limit_s, **options)


def ends(results):
    return {r["part"]: (r["status"], r["reason"]) for r in results.rows if r["kind"] == "part"}


def is_alive(pid):
    """Does a process run? A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_part_that_fails_or_hangs_costs_no_other_its_results(root):
    stage = [[part("crash"), part("after")], [part("hang", limit_s=5.0)]]
    results = run(root, stage, [[part("last")]])
    ended = ends(results)
    assert ended.pop("hang")[0] == "timed out"
    assert ended == {
        "crash": ("failed", "ValueError: it broke"), "after": ("ok", ""), "last": ("ok", ""),
    }  # fmt: skip
    checks = {row["check"] for row in results.rows if row["kind"] == "check"}
    assert checks == {"crash", "after", "hang", "when it was stopped", "last"}
    written = [json.loads(s) for s in (root / "out" / "results.jsonl").read_text().splitlines()]
    assert written == results.rows
    table = (root / "out" / "gpu.md").read_text()
    assert table == markdown(results.rows) and all(f"| {check} |" in table for check in checks)
    log = (root / "out" / "log.txt").read_text()
    assert "it broke" in log
    (child,) = (int(line.split()[1]) for line in log.splitlines() if line.startswith("child "))
    assert not is_alive(child)
    assert sorted(p.name for p in (root / "out").iterdir()) == [
        "gpu.md", "log.txt", "results.jsonl",
    ]  # fmt: skip
    assert failures(results.rows) == ["crash", "hang"]


def test_what_cannot_run_is_skipped_with_a_reason(root):
    missing = part("a", needs=("json", "no_such_package"))
    results = run(root, [[missing]], [[part("b", missing="there is no b")]])
    assert ends(results) == {
        "a": ("skipped", "no_such_package is not installed"),
        "b": ("skipped", "there is no b"),
    }
    assert failures(results.rows) == []


def test_when_the_time_is_over_what_is_left_is_skipped(root):
    results = run(root, [[part("hang")]], [[part("late")]], seconds=5.0)
    assert ends(results)["hang"][0] == "timed out"
    assert ends(results)["late"] == ("skipped", "no time was left")


def test_half_a_line_is_no_row(root):
    results = run(root, [[part("half")]])
    assert ends(results)["half"] == ("ok", "")
    assert [row["kind"] for row in results.rows] == ["check", "part"]


def test_the_plan_times_one_part_at_a_time_and_the_most_important_first(tmp_path):
    stages = plan.stages_of(plan.GPU, tmp_path, tmp_path / "model.py")
    names = [[p.name for chain in stage for p in chain] for stage in stages]
    timed = [stage for stage in names if any(n.startswith(("train", "decode")) for n in stage)]
    assert all(len(stage) == 1 for stage in timed)
    order = [name for stage in names for name in stage]
    assert order.index("train jax") < order.index("decode jax") < order.index("tests jax")
    assert order.index("train tensorflow") > order.index("greedy torch")
    kinds = {p.job["kind"] for stage in stages for chain in stage for p in chain}
    assert kinds == set(worker.MODULES)
    for kind, module in worker.MODULES.items():
        assert callable(getattr(importlib.import_module(f"benchmarks.gpu_run.{module}"), kind))


def test_some_parts_alone_and_nanogpt_without_its_file(tmp_path):
    stages = plan.stages_of(plan.REHEARSAL, tmp_path, None, "train nanogpt,resume jax")
    (nanogpt,), (resume,) = (chain for stage in stages for chain in stage)
    assert "--nanogpt" in nanogpt.missing and resume.name == "resume jax"
    assert resume.environment == {"KERAS_BACKEND": "jax"}


def test_outcomes_of_tests_are_read_while_they_run():
    outcomes, messages, first = {}, {}, {}
    for line in (
        "[gw0] [ 10%] PASSED tests/a.py::test_one[x-1] \n",
        "[gw1] [ 20%] FAILED tests/a.py::test_two[a b]\n",
        "[gw1] [ 20%] PASSED tests/a.py::test_three\n",
        "[gw1] [ 30%] ERROR tests/a.py::test_three\n",
        "tests/a.py::test_four \n",
        "some output about FAILED things\n",
        "FAILED tests/a.py::test_two[a b] - assert 1 == 2\n",
    ):
        read_outcome(line, outcomes, messages, first)
    assert outcomes == {
        "tests/a.py::test_one[x-1]": "PASSED",
        "tests/a.py::test_two[a b]": "FAILED",
        "tests/a.py::test_three": "ERROR",
    }
    assert messages == {"tests/a.py::test_two[a b]": "assert 1 == 2"}
    assert first == {"gw1": "tests/a.py::test_two[a b]"}


ROWS = [
    {"kind": "run", "date": "2026-01-02", "rehearsal": False},
    {"kind": "facts", "part": "facts", "name": "NVIDIA H200", "driver_version": "580",
     "commit": "abc", "python": "3.12", "versions": {"jax": "1"}},
    {"kind": "train", "part": "train nanogpt", "system": "nanoGPT, torch.compile", "batch": 32,
     "ms_per_step": 63.1, "tokens_per_s": 500_000, "compile_s": 20.2, "peak_memory": 3 << 30,
     "datasheet_mfu": 0.449},
    {"kind": "train", "part": "train jax", "system": "kgpt, JAX", "batch": 32, "ms_per_step": 50.0,
     "tokens_per_s": 750_000, "compile_s": 14.0, "peak_memory": 2 << 30, "mfu": 0.6},
    {"kind": "decode", "part": "decode jax", "system": "kgpt", "batch": 1, "tokens_per_s": 900.0,
     "first_token_ms": 2.5, "ms_per_token": 1.25, "peak_memory": None},
    {"kind": "decode", "part": "decode jax", "system": "kgpt", "batch": 1, "tokens_per_s": 900.0,
     "first_token_ms": 2.5, "ms_per_token": 1.25, "of_bandwidth": 0.5,
     "of_datasheet_bandwidth": 0.25},
    {"kind": "check", "part": "resume jax", "check": "resumes", "backend": "jax", "ok": False,
     "detail": "a | b"},
    {"kind": "tests", "part": "tests jax", "backend": "jax", "passed": 7, "skipped": 1,
     "failed": {"tests/a.py::test_x": "boom"}, "first_failures": {"gw0": "tests/a.py::test_x"},
     "finished": True},
    {"kind": "part", "part": "smoke tensorflow", "status": "skipped", "seconds": 0.0,
     "reason": "tensorflow is not installed"},
]  # fmt: skip
TABLE = """\
NVIDIA H200, driver 580; 2026-01-02 at abc; Python 3.12, jax 1.

| training | batch | ms/step | tokens/s | speed | of measured peak | of datasheet peak | peak memory | compiled in |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
| nanoGPT, torch.compile | 32 | 63.1 | 500,000 | 1.00× | – | 44.9% | 3.0 GiB | 20 s |
| kgpt, JAX | 32 | 50.0 | 750,000 | 1.50× | 60.0% | – | 2.0 GiB | 14 s |

| generation | batch | TTFT ms | TPOT ms | tokens/s | of bandwidth | of peak | peak memory |
|---|---:|---:|---:|---:|---:|---:|---:|
| kgpt | 1 | 2.5 | 1.250 | 900 | 25.0% | – | – |

| check | backend | holds |  |
|---|---|---|---|
| resumes | JAX | **no** | a / b |

| tests | passed | failed | skipped | finished |
|---|---:|---:|---:|---:|
| JAX | 7 | 1 | 1 | yes |

- JAX, first in its process: `tests/a.py::test_x`: boom

Not finished:

- smoke tensorflow: skipped: tensorflow is not installed
"""  # noqa: E501


def test_the_table():
    assert markdown(ROWS) == TABLE
    assert failures(ROWS) == ["resumes", "tests/a.py::test_x"]


def test_the_command_runs_a_part(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--cpu-rehearsal", "--only", "facts"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "A rehearsal on a CPU" in done.stdout and "facts: ok" in done.stdout
    facts = [json.loads(s) for s in (tmp_path / "results.jsonl").read_text().splitlines()][1]
    assert facts["kind"] == "facts" and "kgpt" in facts["versions"]


@pytest.mark.slow
def test_a_rehearsal_of_everything_but_tests(tmp_path):
    only = [f"{part} {backend}" for part in ("smoke", "train", "decode", "resume", "greedy")
            for backend in plan.BACKENDS]  # fmt: skip
    command = [sys.executable, "benchmarks/gpu.py", "--cpu-rehearsal", "--minutes", "20"]
    command += ["--only", ",".join(only), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout
