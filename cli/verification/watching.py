"""How a verification goes, on stderr: one line that is kept up to date at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.output import note

if TYPE_CHECKING:
    from rich.status import Status

    from kvstore.verify.faults.schedule import Acting
    from kvstore.verify.load import Load

LINE_EVERY_S = 5.0


class Watching:
    """A Watcher (kvstore/verify/local_run.py) for people. A context manager."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._shown_s = time.monotonic()

    def __enter__(self) -> Watching:
        if sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415 - only a terminal pays for it
            from rich.status import Status  # noqa: PLC0415

            self._status = Status("", console=Console(stderr=True, markup=False, highlight=False))
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._status is not None:
            self._status.console.print(text)
        else:
            note(text)

    def show(self, load: Load, acting: Sequence[Acting], left_s: float) -> None:
        """The line that changes."""
        line = progress_line(load, [one.fault.says for one in acting], left_s)
        if self._status is not None:
            self._status.update(line)
        elif time.monotonic() - self._shown_s > LINE_EVERY_S:
            self._shown_s = time.monotonic()
            note(line)


def progress_line(load: Load, acting: Sequence[str], left_s: float) -> str:
    """Operations, how many of them nobody knows the end of, the faults that act, the time that is left."""
    parts = [f"{len(load.journal.efforts):,} operations", f"{load.unknowns():,} unknown"]
    parts += [f"acting: {'; '.join(acting)}"] if acting else []
    parts.append(f"{max(0.0, left_s):.0f} s left")
    return ", ".join(parts)
