"""What the demo claims, and what became of each claim. Nothing counts as seen unless a check has seen it.

The list is fixed before the story begins. A claim that no act came to, because an earlier one failed or somebody
forgot to write the check, is missing just as one that turned out false.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cli.errors import ExitCode


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that the demo is to show."""

    name: str
    text: str
    """The claim, in words a newcomer understands."""


CLAIMS = (
    Claim("cluster", "Three processes make a cluster within seconds"),
    Claim("strong", "A strong write is on a majority's disks before you are told, and every node shows it at once"),
    Claim("weak", "A weak request pays for a single replica, and says so"),
    Claim("eventual", "An eventual write is taken by whichever node you reach"),
    Claim("vote", "Of three candidates at the same moment one wins, and all three are told the same"),
    Claim("vote-stands", "A decision stands: a late candidate is told who won"),
    Claim("node-lost", "A node is killed, and strong writes go on"),
    Claim("nothing-lost", "No acknowledged strong write died with it"),
    Claim("refused", "Without a majority a strong write is refused, with how many were needed and found"),
    Claim("taken", "At that very moment an eventual write is taken"),
    Claim("healed", "With the nodes back, strong writes go on"),
    Claim("not-applied", "What was refused was not applied"),
    Claim("converged", "All replicas hold the same versions, asked from each node"),
    Claim("taken-over", "The lock of a paused process goes to the next when its lease is over"),
    Claim("fenced", "The paused process wakes up, writes, and the store itself refuses"),
    Claim("kept", "What its successor wrote is untouched"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one claim."""

    claim: Claim
    seen: bool | None
    """None where the story did not come to it."""
    evidence: str

    @property
    def mark(self) -> str:
        """In a word."""
        return {True: "seen", False: "NOT SEEN", None: "not reached"}[self.seen]


class Verdict:
    """All claims, and what was seen of them so far."""

    def __init__(self, claims: Sequence[Claim] = CLAIMS) -> None:
        self._findings = {claim.name: Finding(claim, None, "") for claim in claims}

    def note(self, name: str, seen: bool, evidence: str) -> Finding:
        """Takes down what a check has found. Once not seen, a claim stays so. Raises KeyError for no claim of ours."""
        before = self._findings[name]
        if before.seen is not False:
            self._findings[name] = Finding(before.claim, seen, evidence)
        return self._findings[name]

    @property
    def findings(self) -> list[Finding]:
        """One for each claim, in their order."""
        return list(self._findings.values())

    @property
    def missing(self) -> list[Finding]:
        """Those that were not seen, or not come to."""
        return [finding for finding in self.findings if finding.seen is not True]

    @property
    def exit_code(self) -> ExitCode:
        """0 if every single claim was seen."""
        return ExitCode.VIOLATION if self.missing else ExitCode.DONE
