"""Judging a history at a terminal, and what is shown of the verdict.

The first line of stdout is the verdict alone. JSON comes only where it is asked for, also in a pipe: a script reads
the exit code or the first line. A violation is drawn as a page for a browser, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli.errors import ExitCode
from cli.output import note, visible
from cli.progress import Progress, progress_of
from kvstore.verify.checkers.registers import Budget
from kvstore.verify.explain.text import explain_text
from kvstore.verify.explain.timeline import write_timeline
from kvstore.verify.history import History, events_of
from kvstore.verify.judge import judge
from kvstore.verify.verdict import Finding, Judgement, Verdict

EXIT_CODES = {
    Verdict.VALID: ExitCode.DONE,
    Verdict.VIOLATED: ExitCode.VIOLATION,
    Verdict.UNDECIDED: ExitCode.UNEXPECTED,
}
QUICK_S = 1.0
"""A check that is over by then shows no progress."""
FINDINGS_SHOWN = 5
"""In words; JSON has them all."""
WRITABLE = 0o222


def judge_aloud(history: History, *, initial: Any = None, time_limit_s: float = 300.0) -> Judgement:
    """The verdict, with progress on stderr where it takes long. Past the time limit what is left is undecided."""
    began = time.monotonic()
    watch = _Watch(lambda: time.monotonic() - began)
    with watch:
        budget = Budget(is_over=lambda: time.monotonic() - began > time_limit_s)
        return judge(history, initial=initial, budget=budget, progress=watch.tell)


def show_judgement(
    judgement: Judgement, history: History, *, output: str | None = None, timeline: Path | None = None
) -> ExitCode:
    """Shows the verdict on stdout, draws a violation as a page beside the history, and returns the exit code.

    output: "json", or anything else for words. timeline: where the page goes, in place of beside the history.
    """
    drawn = draw(judgement, history, timeline)
    if output == "json":
        print(json.dumps({**as_fields(judgement), "timeline": None if drawn is None else str(drawn)}))
    else:
        print(judgement.verdict)
        for line in _words(judgement):
            print(visible(line))
    if drawn is not None:
        note(f"timeline: {drawn}")
    return EXIT_CODES[judgement.verdict]


def as_fields(judgement: Judgement) -> dict[str, Any]:
    """The judgement as JSON has it."""
    return {
        "verdict": str(judgement.verdict),
        "operations": judgement.operations,
        "keys": judgement.keys,
        "checks": [
            {"check": part.check, "verdict": str(part.verdict), "operations": part.operations, "keys": part.keys}
            for part in judgement.parts or (judgement,)
        ],
        "findings": [_finding_fields(finding) for finding in judgement.findings],
        "undecided": list(judgement.undecided),
        "notes": list(judgement.notes),
    }


def _finding_fields(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "key": finding.key,
        "what": finding.what,
        "minimal": finding.is_minimal,
        "events": events_of(finding.operations),
        "details": finding.details,
    }


def _words(judgement: Judgement) -> list[str]:
    lines = []
    for part in judgement.parts or (judgement,):
        keys = f"{part.keys:,} key{'' if part.keys == 1 else 's'}"
        lines.append(f"{part.check}: {part.verdict}, {part.operations:,} operations on {keys}")
    for finding in judgement.findings[:FINDINGS_SHOWN]:
        lines += ["", *explain_text(finding).splitlines()]
    hidden = len(judgement.findings) - FINDINGS_SHOWN
    if hidden > 0:
        lines += ["", f"{hidden} further findings: -o json shows them all"]
    if judgement.undecided and not judgement.findings:
        some = ", ".join(map(repr, judgement.undecided[:FINDINGS_SHOWN]))
        lines += [
            "",
            f"not decided: {len(judgement.undecided)} ({some}{', …' if len(judgement.undecided) > 5 else ''})",
        ]
    lines += [f"note: {text}" for text in judgement.notes]
    return lines


def draw(judgement: Judgement, history: History, timeline: Path | None = None) -> Path | None:
    """Draws the findings as a page. Where it was written; None where there is nothing to draw, or no room for it."""
    if not judgement.findings:
        return None
    path = timeline or _beside(history.source)
    try:
        write_timeline(history, judgement, path, history.source)
    except OSError as error:
        note(f"kvstore: the timeline could not be written: {error} (--timeline FILE puts it elsewhere)")
        return None
    return path


def _beside(source: str) -> Path:
    """`<history>.html`, in the same folder; here, where that folder is not meant to be written to."""
    path = Path(source or "history")
    named = f"{path.name}.html"
    try:
        folder = path.parent if path.parent.stat().st_mode & WRITABLE else Path()
    except OSError:
        folder = Path()
    return folder / named


class _Watch:
    """Shows progress once a check has taken QUICK_S. A context manager."""

    def __init__(self, elapsed_s: Callable[[], float]) -> None:
        self._elapsed_s = elapsed_s
        self._shown: Progress | None = None

    def tell(self, done: int, of: int) -> None:
        """So many keys of so many are decided."""
        if self._shown is None:
            if self._elapsed_s() < QUICK_S or done >= of:
                return
            self._shown = progress_of("verify", "keys")
            self._shown.__enter__()
            self._shown.start(of)
        while self._shown.done < done:
            self._shown.advance()

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.__exit__(None, None, None)
