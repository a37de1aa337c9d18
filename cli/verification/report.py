"""What a verification came to, as tables on stdout: workloads, faults, verdict."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cli.errors import ExitCode
from cli.output import WIDE_ENOUGH, visible

if TYPE_CHECKING:
    from kvstore.verify.faults.schedule import Acting
    from kvstore.verify.history import History
    from kvstore.verify.verdict import Judgement

OUTCOMES = ("ok", "conflict", "fail", "unknown")


def exit_code(judgement: Judgement, owed: Sequence[str], unseen: Sequence[str]) -> ExitCode:
    """9 when a promise was broken, 1 when it is not known whether one was, or a fault was not seen to act."""
    if judgement.verdict == "violated" or owed:
        return ExitCode.VIOLATION
    return ExitCode.UNEXPECTED if judgement.verdict == "undecided" or unseen else ExitCode.DONE


def operation_rows(history: History) -> list[dict[str, Any]]:
    """How calls ended, workload by workload."""
    counts: dict[str, dict[str, int]] = {}
    for operation in history:
        of_one = counts.setdefault(str(operation.more.get("workload", "")), dict.fromkeys(OUTCOMES, 0))
        of_one[operation.outcome] += 1
    return [{"workload": name, **of_one} for name, of_one in counts.items()]


def fault_rows(actings: Iterable[Acting]) -> list[dict[str, Any]]:
    """What each fault did, and what was seen of it."""
    return [
        {
            "fault": one.name,
            "what": one.fault.says,
            "seconds": round(one.end_s - one.begin_s, 1) if one.begin_s is not None and one.end_s is not None else None,
            "calls_failed": one.failed,
            "calls_slowed": one.slowed,
            "acted": one.has_acted,
            "seen": one.seen or one.why_not or "nothing",
        }
        for one in actings
        if one.begin_s is not None or one.why_not is not None
    ]


def show_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table with a title; nothing where there are no rows."""
    from rich.console import Console  # noqa: PLC0415 - only who sees a table pays for it
    from rich.table import Table  # noqa: PLC0415

    if not rows:
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, value in rows[0].items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(name.replace("_", " "), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else WIDE_ENOUGH, markup=False, highlight=False)
    console.print(table)
    console.print()


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "NO"
        case str():
            return visible(value)
    return f"{value:,}"
