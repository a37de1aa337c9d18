"""What must be true of a run, judged by what clients were told and by what is on the disks in the end."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING

from cluster.locks.vote import Voted
from kvstore.verify.checkers import registers
from kvstore.verify.verdict import Verdict
from storage.fences import joined
from tests.simulation.journal import Operation, Violation, history_of, is_write

if TYPE_CHECKING:
    from tests.simulation.world import World


class Locks:
    """Who holds which lock, by the strictest count: a lease from when it was asked for, or its renewal was sent."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._holds: dict[str, tuple[int, str, float]] = {}
        self._fences: defaultdict[str, list[tuple[int, float, float]]] = defaultdict(list)
        self.sections = 0

    def granted(self, lock: str, fence: int, asked: float, told: float) -> None:
        """A grant was told."""
        self._fences[lock].append((fence, asked, told))

    def hold(self, lock: str, name: str, until_s: float, now_s: float) -> int:
        """From now on somebody counts on it. Raises Violation."""
        other = self._holds.get(lock)
        if other is not None and other[2] > now_s:
            raise Violation(f"{name} and {other[1]} hold {lock} at once, the latter until {other[2]:.4f}")
        self.sections += 1
        number = next(self._numbers)
        self._holds[lock] = number, name, until_s
        return number

    def renewed(self, lock: str, number: int, until_s: float, now_s: float) -> None:
        """It holds longer. Raises Violation."""
        held = self._holds[lock]
        if held[0] != number:
            raise Violation(f"{lock} was renewed though {held[1]} has it by now")
        self._holds[lock] = number, held[1], until_s

    def released(self, lock: str, number: int) -> None:
        """It counts on it no more."""
        if self._holds[lock][0] == number:
            del self._holds[lock]

    def judge(self) -> None:
        """Raises Violation where fences are given twice, or do not grow."""
        for lock, fences in self._fences.items():
            by_told = sorted(fences, key=lambda one: one[2])
            if len({fence for fence, _, _ in fences}) < len(fences):
                raise Violation(f"a fence of {lock} was granted twice: {fences}")
            for fence, asked, _ in fences:
                before = [other for other, _, told in by_told if told < asked]
                if before and max(before) >= fence:
                    raise Violation(f"the fence {fence} of {lock} was granted after {max(before)}")


class Votes:
    """Who won what."""

    def __init__(self) -> None:
        self.winners: dict[str, str] = {}
        self._deciders: dict[str, str] = {}

    def voted(self, name: str, candidate: str, voted: Voted) -> None:
        """A proposal was answered. Raises Violation."""
        winner = voted.decision.winner.candidate
        if voted.is_new:
            if winner != candidate:
                raise Violation(f"{candidate} is said to have decided {name}, and {winner} won")
            if name in self._deciders:
                raise Violation(f"both {candidate} and {self._deciders[name]} are said to have decided {name}")
            self._deciders[name] = candidate
        self.seen(name, winner, candidate, was_decided=False)

    def seen(self, name: str, winner: str | None, who: str, *, was_decided: bool) -> None:
        """Somebody looked. was_decided: it was known to be when it asked. Raises Violation."""
        if winner is None:
            if was_decided:
                raise Violation(f"{who} is told that {name} is not decided, and {self.winners[name]} has won it")
        elif self.winners.setdefault(name, winner) != winner:
            raise Violation(f"{winner} and {self.winners[name]} have both won {name}")


def judge(world: World) -> None:
    """Raises Violation for the first thing that is not as it must be."""
    world.locks.judge()
    for key, operations in sorted(world.journal.by_key().items()):
        _values_were_written(key, operations)
        _versions_are_values(world, key, operations)
        _nothing_acknowledged_is_lost(world, key, operations)
        _fences_hold(world, key, operations)
    _is_linearizable(world)


def _is_linearizable(world: World) -> None:
    """Strong operations have an order that explains them, with weak writes as blind ones between them."""
    judgement = registers.check(history_of(world.journal.operations))
    if judgement.verdict is not Verdict.VALID:
        finding = judgement.findings[0] if judgement.findings else None
        key = finding.key if finding is not None else judgement.undecided[0]
        told = "\n".join(
            f"  {one.start:.4f}..{one.end or float('inf'):.4f} {one.process} {one.kind} {one.expected or ''} "
            f"{one.value or ''} {one.outcome} {one.seen or ''}"
            for one in world.journal.by_key()[key]
        )
        raise Violation(f"{key} is not linearizable, {judgement.verdict}:\n{told}")


def _values_were_written(key: str, operations: list[Operation]) -> None:
    """Whatever anybody reads, at any level, somebody wrote, and was not told that it surely is not there."""
    written = {one.value for one in operations if is_write(one) and one.outcome not in ("fail", "conflict")}
    for one in operations:
        if one.seen is not None and one.seen not in written:
            raise Violation(
                f"{one.process} saw {one.seen} under {key}, which nobody wrote, or which surely was not applied"
            )


def _versions_are_values(world: World, key: str, operations: list[Operation]) -> None:
    """A version is one value's, for ever."""
    for one in operations:
        if one.outcome == "ok" and one.seen is not None and one.version:
            value = world.journal.values.get((key, one.version))
            if value is not None and value != one.seen:
                raise Violation(
                    f"{one.process} saw {one.seen} under the version {one.version} of {key}, which is {value}'s"
                )


def _nothing_acknowledged_is_lost(world: World, key: str, operations: list[Operation]) -> None:
    """An origin only grows along the history of a key: none that was acknowledged is above the last one."""
    final, floor = world.final(key)
    last = max(final.origin if final is not None else 0, floor)
    for one in operations:
        if not is_write(one) or one.kind == "expiry" or one.outcome != "ok" or one.version <= last:
            continue
        if not _was_forgotten_by_all(world, key, one):
            raise Violation(
                f"{one.process} wrote {one.value} under {key}, {one.kind}, version {one.version}, acknowledged by "
                f"{', '.join(one.replicas)}; the last version is {last}: it is lost"
            )


def _was_forgotten_by_all(world: World, key: str, one: Operation) -> bool:
    """Whether all who acknowledged it have lost their disks since: then a weak write may be lost, and no strong one."""
    if not one.kind.startswith("weak"):
        return False
    assert one.end is not None
    lost = {
        f"n{slot}" for when_s, slot, of_key in world.forgotten if when_s >= one.start and of_key in (None, key.encode())
    }
    return lost.issuperset(one.replicas)


def _fences_hold(world: World, key: str, operations: list[Operation]) -> None:
    """No write is acknowledged under a lower fence than one that was acknowledged, or reported, before it began."""
    known = [(one.fence, one.end) for one in operations if one.fence and one.outcome == "ok" and one.end is not None]
    known += [(fence, when) for of_key, fence, when in world.fences_reported if of_key == key]
    for one in operations:
        if not one.fence or one.outcome != "ok":
            continue
        higher = [fence for fence, when in known if when < one.start and fence > one.fence]
        if higher:
            raise Violation(
                f"{one.process} wrote {one.value} under the fence {one.fence} after {max(higher)} was there"
            )
    final, _ = world.final(key)
    if known and final is not None:
        lock = key.removeprefix("under-")
        highest = max(fence for fence, _ in known)
        if (joined(final.fences, None) or {}).get(lock, 0) < highest:
            raise Violation(f"{key} has forgotten the fence {highest} of {lock}: {final.fences}")
    elif known:
        raise Violation(f"{key} is gone, with the fence {max(known)[0]}")
