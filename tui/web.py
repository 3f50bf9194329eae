"""`kgpt-tui --web`: the app in a browser on this machine.

textual-serve starts one app process per browser tab; all of them share one engine server.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
import socket
import sys
import tempfile
from pathlib import Path

from kgpt_tui.models.server import Server
from kgpt_tui.shared.app_protocol import Options

HOST = "127.0.0.1"
PORT = 8765


def serve(options: Options, port: int = PORT) -> None:
    """Serve the app until interrupted; `options.model` is loaded once for all tabs."""
    from textual_serve.server import Server as WebServer

    with tempfile.TemporaryDirectory(prefix="kgpt-web-") as folder:
        engine = Server()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the engine ends, too
        loop = asyncio.new_event_loop()  # stays open: closing it would end its child processes
        try:
            command = loop.run_until_complete(_command(options, engine, Path(folder)))
            port = port if _is_free(port) else _any_port()
            print(f"kgpt-tui: open http://{HOST}:{port} in a browser; ctrl+c stops it.", flush=True)
            asyncio.set_event_loop(asyncio.new_event_loop())
            WebServer(command, host=HOST, port=port, title="kgpt").serve()
        finally:
            engine.kill()


async def _command(options: Options, engine: Server, folder: Path) -> str:
    """The command line of the app process that each tab starts."""
    words = [sys.executable, "-m", "kgpt_tui"]
    if options.model:
        printed: set[str] = set()

        def report(message: str) -> None:
            if message not in printed:
                printed.add(message)
                print(f"kgpt-tui: {message}", flush=True)

        client = await engine.start(options.model, report)
        key_file = folder / "key"
        key_file.touch(mode=0o600)
        key_file.write_text(client.key)
        words += ["--server", client.address, "--api-key-file", str(key_file)]
        await client.close()
    elif options.server:
        words += ["--server", options.server]
        if options.api_key_file:
            words += ["--api-key-file", str(options.api_key_file)]
    if options.run:
        words += ["--run", options.run]
    return shlex.join(words)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
