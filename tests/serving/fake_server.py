"""A server process around the engine without a model: `python fake_server.py PORT`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from kgpt.config import ServeConfig
from kgpt.serving.server import address_of, open_socket, run
from kgpt.serving.state import Service
from tests.serving.fakes import FakeEngine

if __name__ == "__main__":
    config = ServeConfig(port=int(sys.argv[1]), max_tokens=10**6)
    service = Service("fake", config, lambda: FakeEngine(delay=0.005))
    listener = open_socket(config)
    print(address_of(listener), flush=True)
    sys.exit(run(service, listener, None))
