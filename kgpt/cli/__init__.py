"""The command `kgpt`. Commands are imported when used, so `kgpt --help` imports no Keras."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import traceback
from typing import Any, NoReturn

from cyclopts import App, CoercionError, CycloptsError
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from kgpt import __version__
from kgpt.cli import process_group
from kgpt.cli.arguments import attach_values
from kgpt.cli.streams import escape_what_cannot_be_shown
from kgpt.config import options as config_options
from kgpt.config import presets, sentence
from kgpt.errors import KgptError, OutOfMemoryError
from kgpt.out_of_memory import out_of_memory_as_kgpt
from kgpt.text.terminal_text import printable


def _options_help(finetune: bool) -> str:
    """Every option of a run as a flag, by section, for the end of `--help`."""
    names = ", ".join(presets(finetune))
    lines = [f"The presets are {names}. Any key of a configuration can be set:"]
    shown = ""
    for section, key, field in config_options():
        if section != shown:
            lines += ["", f"**{section}**", ""]
            shown = section
        lines.append(f"* `--{section}.{key.replace('_', '-')}`: {_described(field)}")
    return "\n".join(lines)


def _described(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "" if default in (None, [], {}) else f" [default: {default!r}]"
    return f"{field.description}{shown}"


LESS_MEMORY = "end other programs that use it, or work on a smaller model"
EXPECTED: dict[Any, str] = {int: "an integer", float: "a number", bool: "true or false"}

app = App(
    name="kgpt",
    help="Train your own GPT, watch it learn, chat with it and ship it.",
    help_epilogue="KERAS_BACKEND=jax|tensorflow|torch chooses the backend. --debug shows where "
    "an error came from.",
    version=__version__,
    help_on_error=False,
)
data = App(name="data", help="Prepare, download and inspect data sets.")
runs = App(name="runs", help="List, compare and control training runs.")
bench = App(name="bench", help="Measure kgpt, or another server, on this machine.")
scaling = App(name="scaling", help="Train a family of sizes, fit a scaling law, size a model.")
classify = App(name="classify", help="Give texts labels: train, apply and evaluate a classifier.")
app.command(data)
app.command(classify)
app.command(runs)
app.command(bench)
app.command(scaling)
app.command(
    "kgpt.cli.demo:demo", help="Generate a corpus, train on it, test and chat with the model."
)
app.command(
    "kgpt.cli.train:train",
    help="Train a model, or resume a run.",
    help_epilogue=_options_help(finetune=False),
    help_format="markdown",
)
app.command(
    "kgpt.cli.finetune:finetune",
    help="Fine-tune a model on texts or conversations, or resume such a run.",
    help_epilogue=_options_help(finetune=True),
    help_format="markdown",
)
app.command("kgpt.cli.launch:launch", help="Train one model in many processes, on many machines.")
app.command(
    "kgpt.cli.distill:distill", help="Train a student or a draft model to predict as its teacher."
)
app.command(
    "kgpt.cli.lr_find:lr_find", name="lr-find", help="Find a learning rate by a range test."
)
app.command("kgpt.cli.sweep:sweep", help="Train many times with other options, and find the best.")
app.command("kgpt.cli.serve:serve", help="Serve a model over HTTP, with a page to chat in.")
app.command(
    "kgpt.cli.eval:evaluate", name="eval", help="Measure how good models are, and compare them."
)
app.command("kgpt.cli.export:export", help="Convert a model to the format of other software.")
app.command(
    "kgpt.cli.import_:import_model", name="import", help="Convert a model of other software."
)
app.command("kgpt.cli.info:info", help="Show a model's architecture, size and memory use.")
app.command("kgpt.cli.merge:merge", help="Merge a LoRA adapter into its base model.")
app.command("kgpt.cli.plan:plan", help="What a training run takes: memory, time and cost.")
app.command("kgpt.cli.push:push", help="Upload a model to the Hugging Face hub.")
app.command("kgpt.cli.quantize:quantize", help="Quantize a model to int8 or int4.")
app.command("kgpt.cli.verify:verify", help="Certify that a model is one model everywhere.")
app.command("kgpt.cli.generate:generate", help="Generate text with a trained model.")
app.command("kgpt.cli.replay:replay", help="Generate the text of a receipt again, and compare it.")
app.command("kgpt.cli.chat:chat", help="Chat with a model in a plain terminal or a pipe.")
bench.command("kgpt.cli.bench_train:bench_train", name="train", help="Training throughput.")
bench.command(
    "kgpt.cli.bench_generate:bench_generate", name="generate", help="Generation throughput."
)
bench.command(
    "kgpt.cli.bench_draft:bench_draft", name="draft", help="Speculative decoding with a draft."
)
bench.command("kgpt.cli.bench:bench_serve", name="serve", help="Load-test a running server.")
data.command("kgpt.cli.data:prepare", name="prepare", help="Tokenize text files into a data set.")
data.command("kgpt.cli.data:merge", name="merge", help="Make a data set of its parts.")
data.command("kgpt.cli.get_data:get", name="get", help="Download a well-known text and prepare it.")
data.command("kgpt.cli.data:show", name="show", help="Show a data set.")
scaling.command(
    "kgpt.cli.scaling:train", name="train", help="Train a family of sizes, and fit a law."
)
scaling.command("kgpt.cli.scaling:fit", name="fit", help="Fit a scaling law to runs.")
classify.command(
    "kgpt.cli.classify_train:train", name="train", help="Train a classifier, or resume such a run."
)
classify.command("kgpt.cli.classify:predict", name="predict", help="Write the labels of texts.")
classify.command(
    "kgpt.cli.classify:evaluate", name="eval", help="Accuracy, F1, confusion and calibration."
)
for name, help_text in {
    "list": "All runs, the latest first.",
    "show": "One run: its state and latest metrics.",
    "pause": "Pause a training run.",
    "resume": "Resume a paused run.",
    "stop": "Save and stop a training run.",
    "checkpoint": "Save a checkpoint now.",
    "sample": "Generate a sample now.",
}.items():
    runs.command(f"kgpt.cli.runs:{name}_run", name=name, help=help_text)
runs.command(
    "kgpt.cli.runs_compare:compare", name="compare", help="Configurations and curves of several."
)
runs.command(
    "kgpt.cli.runs_export:export", name="export", help="Runs for TensorBoard, W&B or trackio."
)
runs.command(
    "kgpt.cli.runs_import:import_", name="import", help="Runs of TensorBoard, W&B or trackio."
)
runs.command(
    "kgpt.cli.runs_inspect:inspect", name="inspect", help="The batch of a step, token by token."
)
runs.command(
    "kgpt.cli.runs_reproduce:reproduce", name="reproduce", help="Train a run again, and compare."
)
runs.command(
    "kgpt.cli.runs_trace:trace", name="trace", help="When a text was learned, or what is copied."
)


def main(arguments: list[str] | None = None) -> None:
    """The entry point: runs a command and turns errors into one sentence and an exit code."""
    is_process = arguments is None
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    escape_what_cannot_be_shown()
    try:
        with out_of_memory_as_kgpt(LESS_MEMORY):
            code = app(
                attach_values(app, arguments),
                exit_on_error=False, print_error=False, result_action="return_value",
            )  # fmt: skip
    except OutOfMemoryError as error:
        _exit_at_once(_failed(str(error), error.exit_code, debug))
    except KgptError as error:
        code = _failed(str(error), error.exit_code, debug)
    except CycloptsError as error:
        code = _failed(_one_sentence(error), 2, debug)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader of the output has exited, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        kind = type(error).__name__
        hint = "this is a defect of kgpt; run again with --debug to see where"
        code = _failed(f"{kind}: {error} ({hint}).", 1, debug)
    code = code if isinstance(code, int) else 0
    if process_group.ends_at_once:
        _exit_at_once(code)
    if is_process:
        _exit_without_teardown(code)
    sys.exit(code)


def _one_sentence(error: CycloptsError) -> str:
    """The error; for options validated by a configuration model, the first one."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ValidationError):
        return sentence(cause, BaseModel)
    if isinstance(error, CoercionError) and error.token and (option := error.token.keyword):
        if error.target_type in EXPECTED:
            return f"{option} should be {EXPECTED[error.target_type]}, not {error.token.value!r}."
        if "dict" in str(error.target_type):
            return f"{option} needs a name, as in {option}.NAME VALUE."
    return str(error)


def _exit_at_once(code: int) -> NoReturn:
    """Exit and free nothing.

    TensorFlow frees twice what a step held that ran out of memory; JAX waits for other processes,
    which wait for this one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _exit_without_teardown(code: int) -> NoReturn:
    """Exit as Python does, but leave memory and modules to the system.

    To take a backend's modules apart takes Python up to a second.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, and for executors
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # the reader of the output has exited
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _failed(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"kgpt: {printable(' '.join(message.splitlines()))}", file=sys.stderr)
    return code
