"""A run that many processes train: process 0 writes its directory, and all read it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from kgpt.errors import KgptError
from kgpt.launch.joined_group import JoinedGroup
from kgpt.runs.run import Command, Rows, Run, RunData
from kgpt.runs.status import RunStatus


class GroupRun(Run):
    """The run of a group of processes: what is decided about it is decided by process 0.

    Attributes:
        group: whose processes train it.
    """

    def __init__(self, path: Path, group: JoinedGroup):
        super().__init__(path)
        self.group = group
        self._reported: str | None = None  # the signal that process 0 was told of

    @property
    def is_writer(self) -> bool:
        return self.group.is_primary

    def shared(self, make: Callable[[], Any]) -> Any:
        return self.group.broadcast(make)

    @contextlib.contextmanager
    def lost_process_as_kgpt(self, is_lost: Callable[[BaseException], bool]) -> Iterator[None]:
        try:
            yield
        except KgptError:
            raise
        except Exception as error:
            if not is_lost(error):
                raise
            raise self.group.lost_process(error) from error

    def poll(self, signal: str | None) -> tuple[list[tuple[Command, dict[str, Any]]], str | None]:
        if signal is not None and self._reported is None and not self.is_writer:
            self._reported = signal
            self.group.report_signal(signal)
        commands, signal = self.shared(
            lambda: (self.take_commands(), signal or self.group.reported_signal())
        )
        return [(name, arguments) for name, arguments in commands], signal

    def claim(self, resume: bool) -> None:
        self.shared(lambda: super(GroupRun, self).claim(resume))

    def write_config(self, text: str) -> None:
        if self.is_writer:
            super().write_config(text)

    def write_data(self, data: RunData) -> None:
        if self.is_writer:
            super().write_data(data)

    def write_status(self, status: RunStatus) -> None:
        if self.is_writer:
            super().write_status(status)

    def append(self, kind: Rows, row: dict[str, Any]) -> None:
        if self.is_writer:
            super().append(kind, row)

    def truncate_after(self, step: int) -> None:
        if self.is_writer:
            super().truncate_after(step)

    def set_pointer(self, kind: Literal["latest", "best"], step: int) -> None:
        if self.is_writer:
            super().set_pointer(kind, step)
