"""The run directory: the files through which a trainer and its watchers communicate.

run.yaml       the resolved configuration: enough to start the same run again
parent.json    of a fork: the run and the step that it goes on from
sweep.json     of a trial: the sweep, and the options that it has set
data.json      the data set: path, checksums and counts, to be compared when the run is resumed
status.json    replaced atomically: state, step, heartbeat, error, ...
metrics.jsonl  one row per logged step, appended; the last line may be incomplete
samples.jsonl  text generated during training
environment.jsonl   versions, device and command line of each start
completions.jsonl   GRPO: completions and their rewards
train.log      the trainer's output
control/       one file per command: pause, resume, stop, checkpoint, sample
checkpoints/   step-00000500/ ..., and the pointer files `latest` and `best`
lock           held by the trainer; a second one is refused

Imports no Keras.
"""

from kgpt.runs.find import (
    all_runs,
    find_run,
    new_run,
    resolve_checkpoint,
    resolve_model,
    runs_folder,
    runs_on,
)
from kgpt.runs.fork import Parent, family_order, fork_mark, parent_of
from kgpt.runs.run import COMMANDS, Command, Run, RunData, read_rows
from kgpt.runs.status import FINAL_STATES, HEARTBEAT_INTERVAL_S, RunStatus, State
from kgpt.runs.sweep import SweepTrial, trial_of, write_trial

__all__ = [
    "COMMANDS",
    "FINAL_STATES",
    "HEARTBEAT_INTERVAL_S",
    "Command",
    "Parent",
    "Run",
    "RunData",
    "RunStatus",
    "State",
    "SweepTrial",
    "all_runs",
    "family_order",
    "find_run",
    "fork_mark",
    "new_run",
    "parent_of",
    "read_rows",
    "resolve_checkpoint",
    "resolve_model",
    "runs_folder",
    "runs_on",
    "trial_of",
    "write_trial",
]
