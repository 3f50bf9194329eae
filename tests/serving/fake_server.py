"""A server process of the fake generator: `python fake_server.py PORT`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from kgpt.config import ServeConfig
from kgpt.serving.server import address_of, open_socket, run_server
from kgpt.serving.state import ServerState
from tests.serving.fakes import FakeGenerator

if __name__ == "__main__":
    config = ServeConfig(port=int(sys.argv[1]), max_tokens=10**6)
    state = ServerState("fake", config, lambda: FakeGenerator(delay=0.005))
    listener = open_socket(config)
    print(address_of(listener), flush=True)
    sys.exit(run_server(state, listener, None))
