"""What the users of one process did and saw, and how the accounts of all processes are brought together.

A worker sends its account again and again: sums as they stand, leases and violations as they come. The master (or
the only process) audits them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

from loadtests.correctness.holders import Hold, Holders
from loadtests.correctness.increments import Increments, Tally, added_up, violations
from loadtests.correctness.strong_reads import StrongReads

SHOWN_MAX = 20
"""Violations that are kept in words; all are counted."""

INCREMENTS = "no lost increment"
HOLDERS = "no two holders"
READS = "monotonic strong reads"
LEVELS = "no lower level than asked"
CHECKS = (INCREMENTS, HOLDERS, READS, LEVELS)


class Account(Struct):
    """What one process has to say."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)
    """Since the last account."""
    violations: list[tuple[str, str]] = field(default_factory=list)
    """(check, words), since the last account."""
    counts: dict[str, int] = field(default_factory=dict)
    """How often each check had something to look at."""


class Ledger:
    """Of one process. Users write in it; once it is closed they stop."""

    def __init__(self) -> None:
        self.increments = Increments()
        self.strong_reads = StrongReads()
        self.is_closed = False
        self._holds: list[Hold] = []
        self._violations: list[tuple[str, str]] = []
        self._counts = dict.fromkeys(CHECKS, 0)

    def looked(self, check: str) -> None:
        """Something was held to this check."""
        self._counts[check] += 1

    def held(self, hold: Hold) -> None:
        """A lease is over, or will be at its end."""
        self._holds.append(hold)

    def violated(self, check: str, words: str) -> None:
        """It was seen at once, by the answer alone."""
        self._violations.append((check, words))

    def account(self) -> dict[str, Any]:
        """All there is to say now, as plain values that a message carries."""
        account = Account(self.increments.tallies, self._holds, self._violations, self._counts)
        plain: dict[str, Any] = msgspec.to_builtins(account)
        self._holds, self._violations = [], []
        return plain


class Finding(Struct, frozen=True):
    """What came of one check."""

    check: str
    verdict: str
    """`held`, `violated` or `undecided`."""
    words: str


class Audit:
    """Brings the accounts of all processes together."""

    def __init__(self) -> None:
        self._tallies: dict[str, dict[str, Tally]] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self._holders = Holders()
        self._violations: dict[str, list[str]] = {check: [] for check in CHECKS}
        self._open: list[str] = []

    def take(self, process: str, plain: Mapping[str, Any]) -> None:
        """An account of that process; its sums replace those of an earlier one."""
        account = msgspec.convert(plain, Account)
        self._tallies[process] = account.tallies
        self._counts[process] = account.counts
        for check, words in account.violations:
            self._violations[check].append(words)
        for hold in account.holds:
            self._violations[HOLDERS] += self._holders.take(hold)

    def leave_open(self, why: str) -> None:
        """Something could not be learnt: what was not violated is undecided."""
        self._open.append(why)

    @property
    def counters(self) -> list[str]:
        """Those that somebody tried to add to."""
        return sorted(added_up(self._tallies.values()))

    def findings(self, final: Mapping[str, Iterable[int]]) -> list[Finding]:
        """What came of each check. final: what each counter was read as in the end, once for each node asked."""
        tallies = added_up(self._tallies.values())
        told = {check: list(words) for check, words in self._violations.items()}
        told[INCREMENTS] += violations(tallies, {counter: list(reads) for counter, reads in final.items()})
        unread = [f"{counter} could not be read in the end" for counter in tallies if not final.get(counter)]
        opened = {check: list(self._open) for check in CHECKS}
        opened[INCREMENTS] += unread
        return [_finding(check, told[check], opened[check], self._looked_at(check, tallies)) for check in CHECKS]

    def _looked_at(self, check: str, tallies: Mapping[str, Tally]) -> str:
        count = sum(counts.get(check, 0) for counts in self._counts.values())
        if check == INCREMENTS:
            total = sum(tallies.values(), Tally())
            return (
                f"{total.acknowledged:,} acknowledged, {total.refuted:,} conflicts and refusals, "
                f"{total.unknown:,} unknown on {len(tallies)} counters"
            )
        if check == HOLDERS:
            return f"{self._holders.count:,} leases"
        return f"{count:,} answers"


def _finding(check: str, violated: list[str], opened: list[str], looked_at: str) -> Finding:
    if violated:
        more = f" (and {len(violated) - SHOWN_MAX:,} more)" if len(violated) > SHOWN_MAX else ""
        return Finding(check, "violated", "; ".join(violated[:SHOWN_MAX]) + more)
    if opened:
        return Finding(check, "undecided", "; ".join(opened))
    return Finding(check, "held", looked_at)
