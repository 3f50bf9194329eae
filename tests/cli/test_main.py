"""The command `kgpt`: exit codes, sentences instead of tracebacks, and a quick `--help`."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import child, kgpt

pytestmark = pytest.mark.usefixtures("own_folder")
HEAVY = ("keras", "tensorflow", "jax", "torch", "numpy", "tokenizers", "httpx")
COMMANDS = [
    [], ["demo"], ["train"], ["generate"], ["serve"], ["data"], ["data", "prepare"],
    ["data", "get"], ["data", "show"], ["runs"], ["runs", "list"], ["runs", "show"],
    ["runs", "compare"], ["runs", "pause"], ["runs", "resume"], ["runs", "stop"],
    ["runs", "checkpoint"], ["runs", "sample"],
]  # fmt: skip


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom kgpt.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_no_command_needs_keras_to_explain_itself():
    script = (
        "import sys\nfrom kgpt.cli import main\n"
        f"for command in {COMMANDS}:\n"
        "    try: main([*command, '--help'])\n"
        "    except SystemExit as e: assert e.code == 0, command\n"
        "print([m for m in ('keras', 'tensorflow', 'jax', 'torch') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_import_kgpt_chooses_no_backend():
    script = "import sys, kgpt; kgpt.ModelConfig; print('keras' in sys.modules, dir(kgpt)[:2])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("False")


def test_a_server_listens_before_keras_is_there():
    """What it loads in the background takes seconds; wrong options are refused at once."""
    script = (
        "import sys, kgpt.serving.server, kgpt.serving.security\n"
        "print([m for m in ('keras', 'tensorflow', 'jax', 'torch') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_version_and_module():
    run = child("--version")
    assert (run.returncode, run.stdout.strip()) == (0, "0.1.0")


WRONG = [
    (["tarin"], "tarin"),
    (["data", "prepare", "--out", "x"], "Name at least one file, folder or glob"),
    (["data", "prepare", "text.txt"], "--out"),
    (
        ["data", "prepare", "text.txt", "--out", "x", "--val-fraction", "2"],
        "--val-fraction must be",
    ),
    (
        ["data", "prepare", "text.txt", "--out", "x", "--tokenizer", "wrd"],
        "--tokenizer must be bpe",
    ),
    (["data", "prepare", "text.txt", "--out", "x", "--vocab-size", "9"], "give at least 259"),
    (["data", "prepare", "text.txt", "--out", "x", "--vocab-size", "600.5"], "not '600.5'"),
    (["quantize", "--model", "x", "--out", "y", "--bits", "8.5"], "--bits should be an integer"),
    (["bench", "train", "gpt2", "--steps", "1.5"], "--steps should be an integer"),
    (["bench", "generate", "--model", "gpt2", "--new-tokens", "4.5"], "--new-tokens should be"),
    (["bench", "serve", "--clients", "1.5"], "--clients should be an integer"),
    (["bench", "train", "gpt2", "--batch-sizes", "8,x"], "--batch-sizes should be numbers"),
    (["bench", "generate", "--model", "gpt2", "--batch-sizes", "0"], "--batch-sizes should be"),
    (["data", "prepare", "nothing.txt", "--out", "x"], "nothing.txt does not exist"),
    (["data", "prepare", "text.txt", "--out", "full"], "full exists and is no data set"),
    (["data", "prepare", "text.txt", "--out", "x", "--vocab", "9"], "mean --vocab-size?"),
    (["data", "get", "hamlet"], "there is no 'hamlet'"),
    (["train", "shakespear-cpu"], "did you mean shakespeare-cpu?"),
    (["train", "gpt2"], "give --data DIR, made by `kgpt data prepare`"),
    (["train", "gpt2", "--data", "x", "--train.max-step", "3"], "mean --train.max-steps?"),
    (["train", "gpt2", "--data", "x", "--train.max-steps", "0"], "train.max_steps should be"),
    (["train", "gpt2", "--data", "x", "--resume"], "Name the run to resume with --run."),
    (["train", "gpt2", "--data", "x", "--run", "../y"], "cannot name a run"),
    (["runs", "compare", "one"], "at least two runs"),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"), WRONG, ids=lambda v: v if isinstance(v, str) else " ".join(v)
)
def test_a_wrong_command_is_one_sentence_and_exit_code_2(arguments, sentence, text, capsys):
    Path("full").mkdir()
    Path("full/precious").write_text("x")
    code, _, error = kgpt(capsys, *arguments)
    assert code == 2
    assert f"\n{error}".count("\nkgpt: ") == 1 and sentence in error
    assert "Traceback" not in error


FAILED = [
    (["train", "gpt2", "--data", "nowhere"], "make one with `kgpt data prepare YOUR_TEXT --out no"),
    (["data", "show", "nowhere"], "There is no data set in nowhere"),
    (["data", "prepare", "empty.txt", "--out", "x"], "hold no text"),
    (["data", "prepare", "bad.jsonl", "--out", "x"], "line 1 is not JSON"),
    (["data", "prepare", "text.txt", "--out", "x", "--tokenizer", "."], "There is no tokenizer at"),
    (["runs", "show", "nobody"], "There is no run 'nobody'"),
    (["runs", "stop", "nobody"], "the runs there are: none yet"),
    (["generate", "--model", "nobody", "--prompt", "x"], "There is no run 'nobody'"),
    (["train", "gpt2", "--data", "set", "--resume", "--run", "new"], "no run new to resume"),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"), FAILED, ids=lambda v: v if isinstance(v, str) else " ".join(v)
)
def test_work_that_fails_is_one_sentence_and_exit_code_1(arguments, sentence, data, capsys):
    Path("empty.txt").touch()
    Path("bad.jsonl").write_text("{\n")
    code, _, error = kgpt(capsys, *arguments)
    assert code == 1
    assert f"\n{error}".count("\nkgpt: ") == 1 and sentence in error
    assert "Traceback" not in error and len(error.splitlines()) <= 4


def test_an_unknown_backend_is_refused_by_name(data, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "jaxx")
    code, _, error = kgpt(capsys, "train", "gpt2", "--data", data)
    assert code == 2
    assert "KERAS_BACKEND=jaxx is no backend of kgpt; did you mean jax?" in error


def test_a_backend_that_is_not_installed_says_how_to_install_it(data, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, error = kgpt(capsys, "train", "gpt2", "--data", data)
    assert code == 2
    assert '`pip install "kgpt[torch]"`' in error


HOLD = """
from kgpt.runs import new_run
run = new_run("one")
run.lock()
print("locked", flush=True)
input()
"""


def test_a_run_in_use_by_another_process_is_refused(data, capsys):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        holder.stdout.readline()
        code, _, error = kgpt(capsys, "train", "gpt2", "--data", data, "--run", "one")
    finally:
        holder.kill()
        holder.wait()
    assert code == 1
    assert "The run one is already being trained by process" in error


def test_an_existing_run_is_not_overwritten(data, capsys, tmp_path):
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "run.yaml").write_text("train: {}")
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    code, _, error = kgpt(capsys, "train", "gpt2", "--data", data, "--run", "one")
    assert code == 1
    assert "The run one exists already; resume it with --resume" in error


@pytest.mark.parametrize("place", ["first", "last"])
def test_debug_shows_the_traceback_and_still_the_sentence(place, capsys):
    arguments = ["data", "show", "nowhere"]
    arguments = ["--debug", *arguments] if place == "first" else [*arguments, "--debug"]
    code, _, error = kgpt(capsys, *arguments)
    assert code == 1
    assert "Traceback (most recent call last)" in error and "DataError" in error
    assert error.splitlines()[-1].startswith("kgpt: There is no data set")


def test_a_sentence_is_one_line_without_control_characters(capsys):
    _, _, error = kgpt(capsys, "data", "show", "a\nb\x1b[2J")
    assert error.startswith("kgpt: There is no data set in a b␛[2J; ") and error.count("\n") == 1


def test_a_defect_is_one_line_that_says_so(monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("wires crossed")

    # By its module: `kgpt.cli` has a command of this name too.
    monkeypatch.setattr(importlib.import_module("kgpt.cli.runs"), "all_runs", broken)
    code, _, error = kgpt(capsys, "runs", "list")
    assert code == 1
    assert error == (
        "kgpt: RuntimeError: wires crossed (this is a defect of kgpt; run again with --debug "
        "to see where).\n"
    )


def test_out_of_memory_is_one_sentence(monkeypatch, capsys):
    def large(*arguments):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4398801496196 bytes.")

    monkeypatch.setattr(importlib.import_module("kgpt.cli.runs"), "all_runs", large)
    monkeypatch.setattr("os._exit", sys.exit)
    code, _, error = kgpt(capsys, "runs", "list")
    assert code == 1
    assert error == (
        "kgpt: Out of memory; end other programs that use it, or work on a smaller model.\n"
    )


def test_runs_are_listed_shown_compared_and_steered(capsys):
    from kgpt.runs import RunStatus, new_run

    for name, rate in (("one", 0.001), ("two", 0.002)):
        run = new_run(name)
        run.path.mkdir(parents=True)
        run.write_config(f"train:\n  learning_rate: {rate}\n  seed: 1\n")
        run.write_status(
            RunStatus(state="training", step=5, total_steps=9, pid=os.getpid(), host=os.uname()[1])
        )
        row = {"step": 5, "loss": 2.5, "val_loss": 2.25 + rate, "gpu_percent": 97}
        run.append("metrics", row)
        run.append("samples", {"step": 5, "prompt": "[red]", "text": " said 🦊"})
    code, out, _ = kgpt(capsys, "runs", "list")
    assert code == 0 and "one" in out and "5/9" in out and "2.2510" in out
    code, out, _ = kgpt(capsys, "runs", "show", "one")
    assert code == 0 and "2.5000" in out and "[red] said 🦊" in out and "GPU 97%" in out
    code, out, _ = kgpt(capsys, "runs", "compare", "one", "two")
    assert code == 0 and "train.learning_rate" in out and "train.seed" not in out
    for command in ("pause", "resume", "stop", "checkpoint", "sample"):
        assert kgpt(capsys, "runs", command, "one")[0] == 0
    assert len(new_run("one").take_commands()) == 5


def test_the_help_of_train_lists_every_option_by_section_with_its_description(capsys):
    from kgpt.config import Config, options

    code, out, _ = kgpt(capsys, "train", "--help")
    assert code == 0
    group, groups = "", {}
    for line in out.splitlines():
        group = line.strip() if line.strip() in Config.model_fields else group
        groups[group] = f"{groups.get(group, '')} {line.strip()}"
    for section, key, field in options():
        described = field.description.replace("`", "")
        assert f"--{section}.{key.replace('_', '-')}: {described}" in groups[section]
