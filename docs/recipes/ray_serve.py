"""Replicas of a model behind Ray Serve: pip install "ray[serve]"; copy this file, then

    MODEL=/models/my-model serve run ray_serve:app

Each replica is a whole server with its own weights and caches. Ray Serve's router picks the replica
with the fewest requests under way, restarts one that died, and asks for no API keys: let no other
network reach it.
"""

import os

from ray import serve

MODEL = os.environ.get("MODEL", "my-model")
NUM_SEQS, QUEUE = 8, 64  # of a replica, as --max-num-seqs and --max-queue


def build():
    from kgpt.config import ServeConfig
    from kgpt.generation.generator import TextGenerator
    from kgpt.serving.app import build_app
    from kgpt.serving.state import ServerState

    def load():
        return TextGenerator(MODEL, max_num_seqs=NUM_SEQS, max_queue=QUEUE)

    state = ServerState(os.path.basename(MODEL), ServeConfig(max_num_seqs=NUM_SEQS), load)
    return build_app(state, local_only=False)


@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=NUM_SEQS + QUEUE,
    ray_actor_options={"num_cpus": 4, "num_gpus": 0},
)
@serve.ingress(build)
class Replica:
    pass


app = Replica.bind()
