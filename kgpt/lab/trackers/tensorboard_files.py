"""TensorBoard event files, without TensorFlow's writers and with the times of the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import yaml

from kgpt.errors import DataError, UsageError
from kgpt.lab.trackers.tracked_run import BASE, TrackedRun, flatten

CONFIG_TAG = "run.yaml"
PATTERN = "*tfevents*"
FLAT = (bool, int, float, str)  # what a hyperparameter can be


def write(run: TrackedRun, folder: Path, project: str) -> Path:
    """Write the scalars of a run to folder/NAME, its configuration as text and hyperparameters.

    A value is a float32, as everywhere in TensorBoard. It has no projects.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    target = folder / run.name
    if any(target.glob(PATTERN)):
        raise UsageError(f"{target} holds event files already; give another --out.")
    target.mkdir(parents=True, exist_ok=True)
    start = run.rows[0]["time"] if run.rows else 0.0
    with (target / f"events.out.tfevents.{int(start):010d}.kgpt").open("wb") as file:
        writer = RecordWriter(file)
        for event in _events(run, start):
            writer.write(event.SerializeToString())
    return target


def _events(run: TrackedRun, start: float) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb
    from tensorboard.plugins.text.summary_v2 import text_pb

    yield Event(wall_time=start, file_version="brain.Event:2")
    if run.config:
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        options = {key: value for key, value in flatten(run.config) if isinstance(value, FLAT)}
        for summary in (
            text_pb(CONFIG_TAG, indent(text, "    ")),  # code in Markdown
            hparams_pb(options, trial_id=run.name, start_time_secs=start),
        ):
            yield Event(wall_time=start, step=0, summary=summary)
    for row in run.rows:
        for name, value in row.items():
            if name not in BASE:
                summary = scalar_pb(name, value)
                yield Event(wall_time=row["time"], step=row["step"], summary=summary)


def read(path: Path) -> list[TrackedRun]:
    """The runs below a folder, or of one event file: each folder with event files is one.

    The folders `train` and `validation` of Keras's callback are one run, the names of the second
    with `val_`.
    """
    files = [path] if path.is_file() else sorted(path.rglob(PATTERN))
    runs: dict[Path, TrackedRun] = {}
    for file in files:
        folder, prefix = _run_folder(file.parent)
        run = runs.setdefault(folder, TrackedRun(_name(folder)))
        _read_file(file, run, prefix)
    for run in runs.values():
        run.sort_rows()
    return list(runs.values())


def _run_folder(folder: Path) -> tuple[Path, str]:
    """The folder that a run is named for, and the prefix of its names."""
    siblings = {path.name for path in folder.parent.iterdir() if any(path.glob(PATTERN))}
    if folder.name in ("train", "validation") and {"train", "validation"} <= siblings:
        return folder.parent, "val_" if folder.name == "validation" else ""
    return folder, ""


def _name(folder: Path) -> str:
    folder = folder.resolve()
    return folder.parent.name if folder.name == "tensorboard" else folder.name


def _read_file(file: Path, run: TrackedRun, prefix: str) -> None:
    from tensorboard.util import tensor_util

    for event, tag, plugin, value in _values(file):
        if plugin == "scalars":
            number = float(tensor_util.make_ndarray(value.tensor).reshape(()))
            run.add_row(int(event.step), event.wall_time, {f"{prefix}{tag}": number})
        elif plugin == "text" and tag == CONFIG_TAG:
            text = tensor_util.make_ndarray(value.tensor).reshape(-1)[0].decode()
            run.config = yaml.safe_load(dedent(text))
        elif plugin == "hparams":
            run.config = run.config or _hparams(value.metadata.plugin_data.content)
        else:
            run.skipped[plugin or "of an unknown kind"] += 1


def _values(file: Path) -> Iterator[tuple[Any, str, str, Any]]:
    """Event, tag, plugin and value; those of TensorBoard 1 as they are in 2."""
    from tensorboard import data_compat, dataclass_compat
    from tensorboard.compat.proto.event_pb2 import Event

    known: dict[str, Any] = {}  # by tag, of which the first event alone names the plugin
    plugins: dict[str, str] = {}
    for content in _records(file):
        old = data_compat.migrate_event(Event.FromString(content))
        for event in dataclass_compat.migrate_event(old, known):
            for value in event.summary.value:
                name = value.metadata.plugin_data.plugin_name
                yield event, value.tag, plugins.setdefault(value.tag, name), value


def _records(file: Path) -> Iterator[bytes]:
    """The events of a file; a last one that is incomplete, as after a crash, is left out.

    Raises `DataError` if it is another kind of file, or a checksum is wrong.
    """
    # The reader of TensorBoard without TensorFlow, which takes seconds to import.
    from tensorboard.compat.tensorflow_stub.errors import OpError, OutOfRangeError
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    reader = PyRecordReader_New(str(file), 0, b"", None)
    while True:
        try:
            reader.GetNext()
        except OutOfRangeError:
            return
        except OpError as error:
            if "truncated" in str(error).lower():
                return
            raise DataError(f"{file} is damaged, or no event file: {error}.") from None
        yield reader.record()


def _hparams(content: bytes) -> dict[str, Any]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    start = HParamsPluginData.FromString(content).session_start_info
    kinds = {name: value.WhichOneof("kind") for name, value in start.hparams.items()}
    return {name: getattr(start.hparams[name], kind) for name, kind in kinds.items() if kind}
