"""One of some processes with four devices between them that train and write a checkpoint: a script.

Arguments: the coordinator's address, the number of processes and of this one, the checkpoint's
folder, the configuration as JSON.
"""

import json
import os
import sys
from pathlib import Path

from tests.xla_flags import QUICK

os.environ["XLA_FLAGS"] = (  # the checkpoint does not depend on how well the code is optimized
    f"--xla_force_host_platform_device_count={4 // int(sys.argv[2])} {QUICK}"
)
os.environ["KERAS_BACKEND"] = "jax"

import jax

from kgpt.config import Config
from tests.training.meshes import batches


def main(address: str, count: int, rank: int, folder: str, config: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=count, process_id=rank)

    from kgpt import backend  # after the group is joined
    from kgpt.training.checkpoint import copy_state, write_checkpoint
    from kgpt.training.distribute import distribute
    from kgpt.training.pretraining import build_model

    values = json.loads(config) | {"distribute": {"data": 2, "model": 2, "fsdp": True}}
    resolved = Config.parse(values)
    distribute(resolved)
    model = build_model(resolved)
    part, parts = backend.processes.batch_part()
    rows = resolved.train.batch_size // parts
    for x, y in batches(2):
        model.train_on_batch(*(whole[part * rows : (part + 1) * rows] for whole in (x, y)))
    assert backend.distribution.is_primary() == (rank == 0)
    write_checkpoint(Path(folder), copy_state(model, step=2))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
