"""How far a long command is: a bar at a terminal, a line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from cli.output import note

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

LINE_EVERY_S = 2.0
"""Often enough to see that it lives, seldom enough for a log."""


class Progress(Protocol):
    """Shows how many of `total` things are done. A context manager."""

    done: int
    total: int

    def start(self, total: int) -> None:
        """Says how many there are."""
        ...

    def advance(self) -> None:
        """One more is done."""
        ...

    def say(self, text: str) -> None:
        """A line for the person, without disturbing the bar."""
        ...

    def __enter__(self) -> Progress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def progress_of(verb: str, things: str = "files") -> Progress:
    """The kind of progress that suits stderr; `things` are what is counted."""
    return Bar(verb) if sys.stderr.isatty() else Lines(verb, things)


class Lines:
    """A line every LINE_EVERY_S seconds, and one at the end."""

    def __init__(self, verb: str, things: str) -> None:
        self._verb, self._things = verb, things
        self._shown_at = time.monotonic()
        self.done = 0
        self.total = 0

    def start(self, total: int) -> None:
        """Says how many there are."""
        self.total = total
        self.say(f"{self._verb}: {total} {self._things} to look at")

    def advance(self) -> None:
        """One more is done."""
        self.done += 1
        if time.monotonic() - self._shown_at >= LINE_EVERY_S or self.done == self.total:
            self._shown_at = time.monotonic()
            self.say(f"{self._verb}: {self.done} of {self.total} {self._things}")

    def say(self, text: str) -> None:
        """A line for the person."""
        note(text)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Bar:
    """A bar with counts and the time that is left."""

    def __init__(self, verb: str) -> None:
        from rich.console import Console  # noqa: PLC0415 - only a terminal pays for it
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._rich: RichProgress = Progress(*columns, console=Console(stderr=True, markup=False, highlight=False))
        self._task = self._rich.add_task(verb, total=None)
        self.done = 0
        self.total = 0

    def start(self, total: int) -> None:
        """Says how many there are."""
        self.total = total
        self._rich.update(self._task, total=total)

    def advance(self) -> None:
        """One more is done."""
        self.done += 1
        self._rich.advance(self._task)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._rich.console.print(text)

    def __enter__(self) -> Bar:
        self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rich.stop()
