"""Ray as the launcher: workers of Ray Train's JaxTrainer, each with a process of kgpt.

Ray places the workers and starts all of them again when one fails; what they train goes on from the
last checkpoint. A process joins the others by itself, so that the trainer's own JAX starts nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, cast

from kgpt.errors import UsageError
from kgpt.launch.commands import PASSED_ON, free_port
from kgpt.launch.launcher import INTERRUPTED, ProcessFailed
from kgpt.launch.launchers import KERAS
from kgpt.launch.stated import address


def launch_with_ray(
    arguments: Sequence[str],
    processes: int,
    is_taken: Callable[[str], bool],
    gpus: int = 0,
    max_failures: int = 0,
) -> int:
    """Run `kgpt ARGUMENTS` in the workers of a Ray cluster: that of RAY_ADDRESS, or a local one.

    Args:
        arguments: what follows `kgpt`, with a `--run`.
        processes: workers.
        is_taken: whether a run of this name is there already, so that it is resumed.
        gpus: of each worker.
        max_failures: how often all are started again, with `--resume`, after one has failed.

    Raises:
        UsageError: Ray is not installed, or no run is named.
        ProcessFailed: a worker failed once too often.
    """
    if find_spec("ray") is None:
        raise UsageError('--ray needs the package ray; `pip install "kgpt[ray]"`, or leave it out.')
    if max_failures and "--run" not in arguments:
        raise UsageError("--max-failures resumes the run, so that it needs a name; give --run.")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError
    from ray.train.v2.jax import JaxTrainer
    from ray.train.v2.jax.config import JaxConfig

    passed_on = {name: v for name, v in os.environ.items() if name.startswith(PASSED_ON)}
    loop_config = {
        "arguments": list(arguments),
        "folder": os.getcwd(),
        "environ": passed_on,
        "is_taken": is_taken,
    }
    ray.init(ignore_reinit_error=True, log_to_driver=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = JaxTrainer(
            run_process,
            train_loop_config=loop_config,
            jax_config=JaxConfig(),
            scaling_config=ScalingConfig(
                num_workers=processes,
                use_gpu=bool(gpus),
                resources_per_worker={"CPU": 1} | ({"GPU": gpus} if gpus else {}),
            ),
            run_config=RunConfig(
                storage_path=folder, failure_config=FailureConfig(max_failures=max_failures)
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ProcessFailed(
                f"A worker of Ray failed: {reason}; a run goes on with --resume.", 1
            ) from error
        except KeyboardInterrupt:
            return INTERRUPTED
        finally:
            ray.shutdown()
    return 0


def run_process(config: dict[str, Any]) -> None:
    """One worker: run kgpt as the process of its rank, and end with it."""
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero
    from ray.util import get_node_ip_address

    context, own_address = get_context(), cast(Callable[[], str], get_node_ip_address)
    mine = {"at": address(own_address(), str(free_port())), "resume": _resumes(config)}
    first = broadcast_from_rank_zero(mine)
    ranks = str(context.get_world_size()), str(context.get_world_rank())
    variables = dict(zip(KERAS, (first["at"], *ranks), strict=True))
    arguments = [*config["arguments"], *(["--resume"] if first["resume"] else [])]
    command = [sys.executable, "-m", "kgpt", *arguments]
    environ = os.environ | config["environ"] | variables
    code = subprocess.run(command, env=environ, cwd=config["folder"], check=False).returncode
    if code:
        raise RuntimeError(f"process {ranks[1]} ended with exit code {code}")


def _resumes(config: dict[str, Any]) -> bool:
    """Whether the run is there already, as after a failure."""
    arguments = config["arguments"]
    if "--run" not in arguments or "--resume" in arguments:
        return False
    os.environ.update(config["environ"])
    os.chdir(config["folder"])
    return bool(config["is_taken"](arguments[arguments.index("--run") + 1]))
