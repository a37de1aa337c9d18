"""What every group of cases measures with: fresh clusters of both sides, rounds that alternate, and a book of results.

A group says what is to be measured (Closed, Fixed) and at which sides; how it is alternated, who else used the
processor meanwhile, and where it is kept, is the same for all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec.structs

from loadtests.cases.load import without_wrk, wrk
from loadtests.cases.load.filling import fill
from loadtests.cases.load.generator import Order
from loadtests.cases.load.open_loop import open_loop
from loadtests.cases.load.work import PREFIX, Operation
from loadtests.cases.progress import RunProgress
from loadtests.cases.results import ETCD, KVSTORE, Figure, Filling, Footprint, Round, Timeline
from loadtests.cases.scales import Scale
from loadtests.cases.sides.etcd import Etcd
from loadtests.cases.sides.kvstore import Kvstore
from loadtests.cases.sides.side import Member, Side, addresses, processor_s

Settings = Mapping[str, str | int]
BOTH: Mapping[str, Settings] = {KVSTORE: {}, ETCD: {}}
PATIENCE_S = 5.0
"""For answers to a fixed rate, after the last request."""


@dataclass(frozen=True)
class Closed:
    """A case in a closed loop: so many connections, one request at a time on each."""

    case: str
    script: str
    connections: int
    by_side: Mapping[str, Settings] = field(default_factory=lambda: BOTH)
    """Settings of the script. A side that does not stand here has no such thing."""
    at: float | None = None
    unit: str = "requests"
    each: int = 1
    """How many of the unit a request carries."""
    threads: int | None = None
    seconds: int | None = None
    """Of a round; the scale's when not told."""
    read: Callable[[Round, Mapping[str, Any]], tuple[Round, dict[str, float]]] | None = None
    """Makes of a script's report what the case is about."""


@dataclass
class Book:
    """What a group has measured so far."""

    figures: list[Figure] = field(default_factory=list)
    timelines: list[Timeline] = field(default_factory=list)
    fillings: list[Filling] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Bench:
    """Of one group of cases."""

    def __init__(self, scale: Scale, base_port: int, progress: RunProgress) -> None:
        self.scale = scale
        self.progress = progress
        self.book = Book()
        self._base_port = base_port

    @contextmanager
    def sides(self, members: int = 3) -> Iterator[list[Side]]:
        """Fresh clusters of so many members: kvstore's, and etcd's where it is installed. Gone afterwards."""
        with ExitStack() as stack:
            sides: list[Side] = [stack.enter_context(Kvstore(members, self._base_port))]
            if shutil.which("etcd"):
                sides.append(stack.enter_context(Etcd(members, self._base_port)))
            yield sides
            for side in sides:
                self.book.faults += side.faults()

    def fill(
        self,
        sides: Sequence[Side],
        keys: int | None = None,
        value_bytes: int | None = None,
        prefix: str = PREFIX,
        query: str = "",
    ) -> None:
        """Writes so many keys at each side, unmeasured; the scale's number and size when not told.

        query: of kvstore's requests.
        """
        keys, value_bytes = keys or self.scale.keys, value_bytes or self.scale.value_bytes
        with self.progress.long_work("filling", keys * len(sides)) as step:
            for side in sides:
                fill(side.name, addresses(side.members), 0, keys, value_bytes, step.advance, prefix, query)

    def compare(
        self,
        sides: Sequence[Side],
        cases: Sequence[Closed],
        rounds: int | None = None,
        members_of: Callable[[Side], list[Member]] = lambda side: side.members,
    ) -> None:
        """Measures each case at each side that has it, in alternating rounds.

        The members take turns in being the first, so that few connections don't stay with one of them.
        """
        rounds = rounds or self.scale.rounds
        total = rounds * sum(len([side for side in sides if side.name in case.by_side]) for case in cases)
        with self.progress.long_work("measuring", total) as step:
            for case in cases:
                taken: dict[str, list[Round]] = {}
                more: dict[str, dict[str, float]] = {}
                for number in range(rounds):
                    for side in (side for side in sides if side.name in case.by_side):
                        step.now(f"{case.case}{'' if case.at is None else f', {case.at:,.0f}'}: {side.name}")
                        members = _turned(members_of(side), number)
                        if (got := self._closed(sides, side, members, case)) is not None:
                            taken.setdefault(side.name, []).append(got[0])
                            more[side.name] = got[1]
                        step.advance()
                for name, found in taken.items():
                    self.book.figures.append(Figure(case.case, name, found, case.at, case.unit, more[name]))

    def _closed(
        self, sides: Sequence[Side], side: Side, members: list[Member], case: Closed
    ) -> tuple[Round, dict[str, float]] | None:
        """None where it can't be done without wrk."""
        settings: dict[str, str | int] = {"KEYS": self.scale.keys, "VALUE_BYTES": self.scale.value_bytes}
        settings |= case.by_side[side.name]
        seconds = case.seconds or self.scale.seconds
        if not wrk.is_there():
            return self._without_wrk(side, members, case, settings, seconds)
        with _watched(sides, side) as cores:
            found, report = wrk.closed_loop(
                case.script, side.name, members, case.connections, seconds, settings, case.threads
            )
        found = msgspec.structs.replace(found, per_s=round(found.per_s * case.each, 1), **cores)
        return case.read(found, report) if case.read else (found, {})

    def _without_wrk(
        self, side: Side, members: list[Member], case: Closed, settings: Settings, seconds: int
    ) -> tuple[Round, dict[str, float]] | None:
        if side.name != KVSTORE:
            return None
        try:
            found = without_wrk.closed_loop(case.script, members, case.connections, seconds, settings)
        except without_wrk.NotWithout:
            return None
        return msgspec.structs.replace(found, per_s=round(found.per_s * case.each, 1)), {}

    def at_fixed_rate(self, sides: Sequence[Side], case: str, operation: Operation, rate: float) -> None:
        """Measures an open loop of so many requests a second at each side."""
        scale = self.scale
        for side in sides:
            places = addresses(side.members)
            order = Order(side.name, places, operation, rate, scale.rate_seconds, scale.rate_connections,
                          scale.keys, scale.value_bytes, PATIENCE_S)  # fmt: skip
            with _watched(sides, side) as cores:
                got = open_loop(order)
            found = Round(
                requests=got.requests,
                seconds=round(got.seconds, 3),
                per_s=round((got.requests - got.wrong) / got.seconds, 1),
                p50_ms=round(got.p50_ms, 3),
                p99_ms=round(got.p99_ms, 3),
                p999_ms=round(got.p999_ms, 3),
                max_ms=round(got.max_ms, 3),
                wrong=got.wrong,
                client_cores=round(got.client_cores, 3),
                **cores,
            )
            late = {"late_p99_ms": round(got.late_p99_ms, 3), "late_max_ms": round(got.late_max_ms, 3)}
            self.book.figures.append(Figure(case, side.name, [found], rate, more=late))


@contextmanager
def _watched(sides: Sequence[Side], measured: Side) -> Iterator[dict[str, float]]:
    """Fills in, at the end, how many cores the measured side and the other one used."""
    cores: dict[str, float] = {}
    before, began_s = {side.name: processor_s(side) for side in sides}, time.monotonic()
    yield cores
    lasted_s = time.monotonic() - began_s
    used = {side.name: (processor_s(side) - before[side.name]) / lasted_s for side in sides}
    cores["busy_cores"] = round(used.pop(measured.name), 3)
    cores["idle_cores"] = round(sum(used.values()), 3)


def _turned(members: list[Member], by: int) -> list[Member]:
    by %= len(members)
    return members[by:] + members[:by]
