"""uvicorn's HTTP/1.1 protocol with deadlines for slow headers and slow readers.

uvicorn limits how long an idle connection is kept and how large headers are, but not how long
they take: a client that sends a byte now and then (slowloris) would hold its connection for ever,
and so would one that requests a stream and never reads it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT_S = 10.0  # from waiting for a request to the end of its headers
WRITE_TIMEOUT_S = 60.0  # how long a client may leave a full send buffer unread


class TimeoutH11Protocol(H11Protocol):
    """uvicorn's protocol with a header timeout and a write timeout."""

    header_timeout = HEADER_TIMEOUT_S
    write_timeout = WRITE_TIMEOUT_S

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._update_header_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        cancel(self._header_timer, self._write_timer)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        cancel(self._write_timer)
        self._write_timer = self.loop.call_later(self.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        cancel(self._write_timer)
        super().resume_writing()

    def _update_header_timer(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            cancel(self._header_timer)
            self._header_timer = None
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_timeout, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._header_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


def cancel(*timers: asyncio.TimerHandle | None) -> None:
    for timer in timers:
        if timer is not None:
            timer.cancel()
