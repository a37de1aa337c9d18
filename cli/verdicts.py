"""Judging a history at a terminal, and what is shown of the verdict.

The first line of stdout is the verdict alone. JSON comes only where it is asked for, also in a pipe: a script reads
the exit code or the first line. A violation is drawn as a page for a browser, too.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
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
KEYS_NAMED = 5
"""Of those whose findings are not shown, or that are not decided."""


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
    """Shows the verdict on stdout, draws a violation as a page, and returns the exit code.

    output: "json", or anything else for words. timeline: where the page goes; below the folder for temporary files
    when absent.
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
        broken = len({finding.key for finding in part.findings})
        where = f"; broken on {broken:,} of them" if broken and part.keys > 1 else ""
        lines.append(f"{part.check}: {part.verdict}, {part.operations:,} operations on {keys}{where}")
    for finding in judgement.findings[:FINDINGS_SHOWN]:
        lines += ["", *explain_text(finding).splitlines()]
    hidden = judgement.findings[FINDINGS_SHOWN:]
    if hidden:
        others = list(dict.fromkeys(finding.key for finding in hidden))
        lines += ["", f"{len(hidden):,} further findings, on {_some(others)}: -o json shows them all"]
    if judgement.undecided:
        lines += ["", f"not decided: {len(judgement.undecided):,} ({_some(judgement.undecided)})"]
    lines += [f"note: {text}" for text in judgement.notes]
    return lines


def _some(keys: Sequence[str]) -> str:
    return ", ".join([*map(repr, keys[:KEYS_NAMED]), *(["…"] if len(keys) > KEYS_NAMED else [])])


def draw(judgement: Judgement, history: History, timeline: Path | None = None) -> Path | None:
    """Draws the findings as a page. Where it was written; None where there is nothing to draw, or no room for it."""
    if not judgement.findings:
        return None
    try:
        path = timeline or _in_a_folder_of_its_own(history.source)
        write_timeline(history, judgement, path, history.source)
    except OSError as error:
        note(f"kvstore: the timeline could not be written: {error} (--timeline FILE puts it elsewhere)")
        return None
    return path


def _in_a_folder_of_its_own(source: str) -> Path:
    """`<history>.html`, below the folder for temporary files: a history is read, and nothing is left beside it."""
    return Path(tempfile.mkdtemp(prefix="kvstore-timeline-")) / f"{Path(source).name or 'history'}.html"


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
