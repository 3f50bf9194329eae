"""One of two processes with two devices each that train and write a checkpoint: a script.

Arguments: the coordinator's address, the number of this process, the checkpoint's folder, the
configuration as JSON.
"""

import json
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["KERAS_BACKEND"] = "jax"

import jax

from kgpt.config import Config
from tests.training.meshes import batches


def main(address: str, rank: int, folder: str, config: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=rank)

    from kgpt import backend  # after the group is joined
    from kgpt.training.checkpoint import copy_state, write_checkpoint
    from kgpt.training.distribute import distribute
    from kgpt.training.pretraining import build_model

    values = json.loads(config) | {"distribute": {"data": 2, "model": 2, "fsdp": True}}
    resolved = Config.parse(values)
    distribute(resolved)
    model = build_model(resolved)
    rows = resolved.train.batch_size // 2
    for x, y in batches(2):
        model.train_on_batch(*(part[rank * rows : (rank + 1) * rows] for part in (x, y)))
    assert backend.distribution.is_primary() == (rank == 0)
    write_checkpoint(Path(folder), copy_state(model, step=2))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
