"""The server process: socket, signals and graceful shutdown.

On the first SIGTERM or Ctrl-C the server drains: /health says so, new requests are rejected, and it
exits when active requests are finished or `drain_timeout` is over. A second signal exits at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn

from kgpt.config import ServeConfig
from kgpt.errors import KgptError, UsageError
from kgpt.serving.app import build_app
from kgpt.serving.http_timeouts import TimeoutH11Protocol
from kgpt.serving.security import ApiKeys, is_loopback
from kgpt.serving.state import ServerState

BACKLOG = 1024  # connections waiting to be accepted, at most
KEEP_ALIVE_S = 15
SHUTDOWN_TIMEOUT_S = 3  # to send the last bytes of the last responses


def open_socket(config: ServeConfig) -> socket.socket:
    """A listening socket at the address or path of `config`.

    Raises:
        UsageError: the address is in use, invalid, or public although there are no API keys.
    """
    if config.uds is not None:
        return _unix_socket(config.uds)
    if not is_loopback(config.host) and config.api_key_file is None:
        raise UsageError(
            f"--host {config.host} can be reached from other machines; "
            "give --api-key-file too, or leave --host out."
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With the protocol: asyncio sets TCP_NODELAY on connections that name it, and without it
        # each part of a response waits for the client's acknowledgement (40 ms on Linux).
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        reason = (
            "it is in use; choose another --port"
            if error.errno == errno.EADDRINUSE
            else f"{error.strerror}; choose another --host or --port"
        )
        raise UsageError(f"Cannot listen on {config.host}:{config.port}: {reason}.") from None
    return listener


def _unix_socket(path: str) -> socket.socket:
    """A Unix socket that only its owner can open; one left by a dead server is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path):
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise UsageError(f"--uds {path} is a file already; choose another name.")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == 0:
                    raise UsageError(f"A server is listening on {path} already.")
            os.unlink(path)
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
    except OSError as error:
        raise UsageError(f"Cannot listen on {path}: {error.strerror or error}.") from None
    return listener


def address_of(listener: socket.socket) -> str:
    """The URL of a socket, or unix:PATH."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(state: ServerState, listener: socket.socket, keys: ApiKeys | None) -> int:
    """Serve until a signal. Returns the exit code: 0 after SIGTERM, 130 after Ctrl-C.

    Raises:
        KgptError: the model could not be loaded.
    """
    server = Server(state, listener, keys)
    server.run(sockets=[listener])
    if isinstance(state.failure, KgptError):
        raise state.failure
    if state.failure is not None:
        raise KgptError(f"The model could not be loaded: {state.failure}.")
    return 130 if server.signals[:1] == [signal.SIGINT] else 0


class Server(uvicorn.Server):
    """uvicorn's server that drains on the first signal."""

    def __init__(self, state: ServerState, listener: socket.socket, keys: ApiKeys | None = None):
        local_only = keys is None and listener.family != socket.AF_UNIX
        super().__init__(
            uvicorn.Config(
                build_app(state, keys, local_only),
                http=TimeoutH11Protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
                backlog=BACKLOG,
            )
        )
        self.state = state
        self.signals: list[int] = []
        self._drain_until: float | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving. (uvicorn's own would raise them again on exit.)"""
        in_main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        before = {kind: signal.signal(kind, self.handle_exit) for kind in signals}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signals.append(sig)
        if len(self.signals) > 1:
            self.should_exit = self.force_exit = True
        self.state.drain()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the server."""
        state = self.state
        if counter % 10 == 0:
            state.record_throughput()
        if state.status == "draining":
            if self._drain_until is None:
                self._drain_until = time.monotonic() + state.config.drain_timeout
            if not state.active_streams or time.monotonic() > self._drain_until or self.should_exit:
                state.cancel_all()
                return True
        return await super().on_tick(counter) or state.failure is not None
