"""Shows how a run goes: a bar at a terminal, a line now and then where nobody looks."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 15.0
TAIL_BYTES = 4096


class RunProgress:
    """A context manager. say() and update() may come from several threads."""

    def __init__(self, title: str, seconds: float, history: Path) -> None:
        """history: the file of Locust's that grows by a row a second."""
        self._console = Console(stderr=True, highlight=False)
        self._seconds = seconds
        self._history = history
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=seconds, now="")
        self._began_s = self._told_s = time.monotonic()

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, markup=False)

    def update(self) -> None:
        """Looks where the run is."""
        passed_s = time.monotonic() - self._began_s
        now = state_of(self._history)
        self._progress.update(self._task, completed=min(passed_s, self._seconds), now=now)
        if self._progress.disable and time.monotonic() - self._told_s >= LINE_EVERY_S:
            self._told_s = time.monotonic()
            self.say(f"{passed_s:5.1f} s  {now}")


def state_of(history: Path) -> str:
    """In words, by the last whole row of Locust's history of all requests together; empty before there is one."""
    try:
        with history.open("rb") as file:
            header = file.readline().decode()
            file.seek(max(len(header), history.stat().st_size - TAIL_BYTES))
            rows = file.read().decode(errors="replace").rpartition("\n")[0].splitlines()
    except OSError:
        return ""
    names = next(csv.reader([header]), [])
    for values in reversed(list(csv.reader(rows))):
        row = dict(zip(names, values, strict=False))
        if row.get("Name") == "Aggregated" and len(values) == len(names):
            rate, failed = float(row["Requests/s"] or 0), row["Total Failure Count"]
            return f"{row['User Count']} users, {rate:,.0f} requests/s, {failed} failed"
    return ""
