"""HTTP/1.1 that does not wait for ever, neither for slow headers nor for slow readers.

uvicorn limits how long an idle connection is kept and how large headers are, but not how long
they take: a client that sends a byte now and then (slow-loris) would hold its connection for ever,
and so would one that asks for a text and never reads it.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT_S = 10.0  # from the first wait for a request to its last header
READER_TIMEOUT_S = 60.0  # that a client may leave a full buffer unread


class TimedProtocol(H11Protocol):
    """uvicorn's protocol with two more deadlines."""

    header_timeout = HEADER_TIMEOUT_S
    reader_timeout = READER_TIMEOUT_S

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._headers_due: asyncio.TimerHandle | None = None
        self._reading_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        cancel(self._headers_due, self._reading_due)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        cancel(self._reading_due)
        self._reading_due = self.loop.call_later(self.reader_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        cancel(self._reading_due)
        super().resume_writing()

    def _watch_headers(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            cancel(self._headers_due)
            self._headers_due = None
        elif self._headers_due is None:
            self._headers_due = self.loop.call_later(self.header_timeout, self._give_up)

    def _give_up(self) -> None:
        self._headers_due = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


def cancel(*timers: asyncio.TimerHandle | None) -> None:
    for timer in timers:
        if timer is not None:
            timer.cancel()
