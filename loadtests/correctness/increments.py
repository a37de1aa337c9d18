"""No lost increment: a counter that many add one to by compare-and-set holds at least what was acknowledged.

Each increment is counted before it is sent, and then once more by its answer: acknowledged, or refuted (surely not
applied). What has neither - a 504, a broken connection, a user who was stopped - is unknown. So, once all is quiet,

    acknowledged  <=  the counter  <=  acknowledged + unknown

A counter below has lost an increment; one above was counted up by a write that was refused, or twice by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct


class Tally(Struct):
    """What was tried on one counter."""

    tried: int = 0
    acknowledged: int = 0
    refuted: int = 0

    @property
    def unknown(self) -> int:
        """Those that may be applied, or not."""
        return self.tried - self.acknowledged - self.refuted

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.tried + other.tried, self.acknowledged + other.acknowledged, self.refuted + other.refuted)


class Increments:
    """The increments of one process. Its tallies only grow, so whoever adds up may have an older one in between."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}

    def tried(self, counter: str) -> None:
        """About to send one. What is not settled afterwards stays unknown."""
        self._of(counter).tried += 1

    def acknowledged(self, counter: str) -> None:
        """It was answered with a 200."""
        self._of(counter).acknowledged += 1

    def refuted(self, counter: str) -> None:
        """It is sure that it was not applied."""
        self._of(counter).refuted += 1

    def floor(self, counter: str) -> int:
        """What a strong read that begins now must show at least."""
        return self._of(counter).acknowledged

    def _of(self, counter: str) -> Tally:
        return self.tallies.setdefault(counter, Tally())


def too_low(counter: str, read: int, floor: int) -> str | None:
    """The violation, if a strong read that began when `floor` were acknowledged shows fewer."""
    if read >= floor:
        return None
    return f"lost increments: {counter} was read as {read} after {floor} increments were acknowledged"


def added_up(of_processes: Iterable[Mapping[str, Tally]]) -> dict[str, Tally]:
    """The tallies of all processes."""
    total: dict[str, Tally] = {}
    for tallies in of_processes:
        for counter, tally in tallies.items():
            total[counter] = total.get(counter, Tally()) + tally
    return total


def violations(tallies: Mapping[str, Tally], final: Mapping[str, Iterable[int]]) -> list[str]:
    """What the final strong reads of each counter contradict."""
    found = []
    for counter, tally in tallies.items():
        for read in final.get(counter, ()):
            if violation := too_low(counter, read, tally.acknowledged):
                found.append(violation)
            elif read > (most := tally.acknowledged + tally.unknown):
                found.append(
                    f"increments too many: {counter} is {read}, but only {tally.acknowledged} were acknowledged and "
                    f"{tally.unknown} are unknown, {most} at most: some were done twice, or were called not applied"
                )
    return found
