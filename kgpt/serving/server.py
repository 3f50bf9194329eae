"""The server process: its socket, its signals, its end.

On the first SIGTERM or Ctrl-C the server drains: it says so in /health, takes no new requests, and
ends when those running are done, or after a time. A second signal ends it at once.
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
from kgpt.serving.app import build
from kgpt.serving.http_timeouts import TimedProtocol
from kgpt.serving.security import ApiKeys, is_loopback
from kgpt.serving.state import Service

BACKLOG = 1024  # connections that may wait to be accepted
KEEP_ALIVE_S = 15
CLOSING_S = 3  # for the last bytes of the last answers


def open_socket(config: ServeConfig) -> socket.socket:
    """A socket that listens where `config` says; `UsageError` if that cannot be."""
    if config.uds is not None:
        return _unix_socket(config.uds)
    if not is_loopback(config.host) and config.api_key_file is None:
        raise UsageError(
            f"--host {config.host} can be reached from other machines; "
            "give --api-key-file too, or leave --host out."
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
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
    """A Unix socket at `path` for its owner alone. One left by a dead server is replaced."""
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
    """Where clients find the socket: a URL, or unix:PATH."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(service: Service, listener: socket.socket, keys: ApiKeys | None) -> int:
    """Serve until told to end. Returns the exit code: 0 after SIGTERM, 130 after Ctrl-C.

    Raises:
        KgptError: the model could not be loaded.
    """
    server = Server(service, listener, keys)
    server.run(sockets=[listener])
    if isinstance(service.failure, KgptError):
        raise service.failure
    if service.failure is not None:
        raise KgptError(f"The model could not be made ready: {service.failure}.")
    return 130 if server.signals[:1] == [signal.SIGINT] else 0


class Server(uvicorn.Server):
    """uvicorn's server, draining on its first signal."""

    def __init__(self, service: Service, listener: socket.socket, keys: ApiKeys | None = None):
        local_only = keys is None and listener.family != socket.AF_UNIX
        super().__init__(
            uvicorn.Config(
                build(service, keys, local_only),
                http=TimedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=CLOSING_S,
                backlog=BACKLOG,
            )
        )
        self.service = service
        self.signals: list[int] = []
        self._drain_until: float | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving. (uvicorn would raise them again in the end.)"""
        in_main = threading.current_thread() is threading.main_thread()
        kinds = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        before = {kind: signal.signal(kind, self.handle_exit) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signals.append(sig)
        if len(self.signals) > 1:
            self.should_exit = self.force_exit = True
        self.service.drain()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the server."""
        service = self.service
        if counter % 10 == 0:
            service.mark_speed()
        if service.state == "draining":
            if self._drain_until is None:
                self._drain_until = time.monotonic() + service.config.drain_timeout
            if not service.running or time.monotonic() > self._drain_until or self.should_exit:
                service.cancel_all()
                return True
        return await super().on_tick(counter) or service.failure is not None
