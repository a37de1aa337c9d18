"""Where a run is: two bars at a terminal, a line per group of cases where nobody looks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class RunProgress:
    """A context manager."""

    def __init__(self, groups: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._all = self._bars.add_task("groups of cases", total=groups)

    def __enter__(self) -> RunProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def group(self, title: str) -> Iterator[None]:
        """One group of cases, from its start to its end."""
        self._bars.update(self._all, description=title)
        began_s = time.monotonic()
        yield
        self._bars.advance(self._all)
        self.say(f"{title}: {time.monotonic() - began_s:.0f} s")

    @contextmanager
    def long_work(self, title: str, total: float) -> Iterator[Step]:
        """A bar below the first one."""
        task = self._bars.add_task(f"  {title}", total=total)
        try:
            yield Step(self._bars, task)
        finally:
            self._bars.remove_task(task)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False)


class Step:
    """The lower bar."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def now(self, title: str) -> None:
        """What is being done."""
        self._bars.update(self._task, description=f"  {title}")

    def advance(self, by: float = 1) -> None:
        """That much is done."""
        self._bars.advance(self._task, by)
