"""Tells what happens while it happens, and takes down what was seen of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from typing import TextIO, TypeVar

from cli.demo.claims import Finding, Verdict
from cli.output import visible

COLUMNS_MAX = 100
"""Longer lines are hard to read."""
PATIENCE_S = 15.0
"""For one thing to come true: what takes a second on an idle machine has room on a busy one."""
POLL_EVERY_S = 0.05
_GREEN, _RED, _BOLD, _PLAIN = "\x1b[32m", "\x1b[1;31m", "\x1b[1m", "\x1b[0m"

Seen = TypeVar("Seen")


class NotSeen(Exception):
    """Something did not come true in time, so the story can't go on."""


class Story:
    """The narrator: chapters, what is about to happen, and what was seen."""

    def __init__(self, verdict: Verdict, to: TextIO = sys.stdout) -> None:
        self.verdict = verdict
        self._to = to
        self._colours = to.isatty() and not os.environ.get("NO_COLOR")
        self._columns = min(COLUMNS_MAX, shutil.get_terminal_size((COLUMNS_MAX, 24)).columns)
        self._chapters = 0
        self._began_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the story began."""
        return time.monotonic() - self._began_at

    def chapter(self, title: str) -> None:
        """Begins the next chapter."""
        self._chapters += 1
        self._print(f"\n{self._styled(f'{self._chapters}. {title}', _BOLD)}")

    def tell(self, text: str) -> None:
        """Says what is about to happen, or what to look for."""
        self._print(self._wrapped(text, "   "))

    def see(self, claim: str, seen: bool, evidence: str) -> None:
        """Takes down whether the claim was seen, and says by what."""
        finding = self.verdict.note(claim, seen, evidence)
        self._print(self._styled(finding.mark, self.style_of(finding)).join(("   ", "  ")) + self._beside(finding))

    @staticmethod
    def style_of(finding: Finding) -> str:
        """The colour of its mark."""
        return _GREEN if finding.seen else _RED

    async def until(
        self, look: Callable[[], Awaitable[Seen | None]], what: str, patience_s: float = PATIENCE_S
    ) -> Seen:
        """Looks again and again until there is something to see. Raises NotSeen, naming what was waited for."""
        deadline = time.monotonic() + patience_s
        while (seen := await look()) is None:
            if time.monotonic() > deadline:
                raise NotSeen(f"waited {patience_s:g} s in vain for {what}")
            await asyncio.sleep(POLL_EVERY_S)
        return seen

    def _beside(self, finding: Finding) -> str:
        """The evidence, wrapped beside the mark."""
        indent = " " * (5 + len(finding.mark))
        return self._wrapped(finding.evidence, indent).removeprefix(indent)

    def _wrapped(self, text: str, indent: str) -> str:
        return textwrap.fill(visible(text), self._columns, initial_indent=indent, subsequent_indent=indent)

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._colours else text

    def _print(self, text: str) -> None:
        print(text, file=self._to, flush=True)
