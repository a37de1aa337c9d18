"""What was measured, as it is kept in a file: from it the table, the plots and the sentences are made, again and again.

Each group of cases keeps its own date, machine and command, so that a run of some of them leaves the others' figures
true.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

KVSTORE, ETCD = "kvstore", "etcd"


class Round(Struct, frozen=True, omit_defaults=True):
    """One measurement of one case at one side. Times in milliseconds, from the request's start to its whole answer."""

    requests: int
    seconds: float
    per_s: float
    """In the figure's unit: requests, or what they carry."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    p999_ms: float = 0.0
    max_ms: float = 0.0
    wrong: int = 0
    """Answers outside 2xx that the case does not ask for, and requests without one."""
    busy_cores: float = 0.0
    """Of the measured side's processes: processor seconds per second."""
    idle_cores: float = 0.0
    """Of the other side's, which has nothing to do meanwhile."""
    client_cores: float = 0.0
    """Of the load generator."""


class Figure(Struct, frozen=True, omit_defaults=True):
    """One case at one side, over the rounds."""

    case: str
    side: str
    rounds: list[Round]
    at: float | None = None
    """Where on the plot's x axis: connections, bytes, keys, ..."""
    unit: str = "requests"
    more: dict[str, float] = {}

    @property
    def per_s(self) -> float:
        """The median over the rounds."""
        return median(one.per_s for one in self.rounds)

    @property
    def p50_ms(self) -> float:
        """The median over the rounds."""
        return median(one.p50_ms for one in self.rounds)

    @property
    def p99_ms(self) -> float:
        """The median over the rounds."""
        return median(one.p99_ms for one in self.rounds)

    @property
    def p999_ms(self) -> float:
        """The median over the rounds."""
        return median(one.p999_ms for one in self.rounds)

    @property
    def wrong(self) -> int:
        """Of all rounds together."""
        return sum(one.wrong for one in self.rounds)


class Timeline(Struct, frozen=True):
    """What clients saw around a death, in bins of equal width; second 0 is the death."""

    side: str
    victim: str
    bin_s: float
    first_s: float
    """Where the first bin begins; negative."""
    survivors_ok: list[int]
    """Answered in that bin, to clients of members that live."""
    orphans_ok: list[int]
    """The same, to clients of the one that dies."""
    failed: list[int]
    """Answers outside 2xx, and connections that broke under a request."""
    slowest_ms: list[float]
    """Of the requests meant for that bin, from the intended time; those never answered until the end."""


class Filling(Struct, frozen=True):
    """First writes of keys in order: so many seconds after the start, so many keys were there."""

    side: str
    seconds: list[float]
    keys: list[int]


class Footprint(Struct, frozen=True):
    """What a side's members take with so many keys: the mean over them."""

    side: str
    keys: int
    memory_bytes: float
    disk_bytes: float


class Machine(Struct, frozen=True):
    """Where it was measured, and with what."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    sqlite: str
    etcd: str
    wrk: str


class Group(Struct, frozen=True, omit_defaults=True):
    """A group of cases, measured together."""

    name: str
    date: str
    command: str
    revision: str
    is_quick: bool
    took_s: float
    machine: Machine
    settings: dict[str, float] = {}
    """The scale's numbers, for captions."""
    figures: list[Figure] = []
    timelines: list[Timeline] = []
    fillings: list[Filling] = []
    footprints: list[Footprint] = []
    faults: list[str] = []
    """What a member did that it should not have: answers, deaths, lines in its log."""

    def figure(self, case: str, side: str, at: float | None = None) -> Figure | None:
        """That one, if it was measured."""
        wanted = (case, side, at)
        return next((one for one in self.figures if (one.case, one.side, one.at) == wanted), None)

    def places(self, case: str) -> list[float]:
        """Where on the x axis that case was measured, in order."""
        return sorted({one.at for one in self.figures if one.case == case and one.at is not None})

    def cases(self) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(one.case for one in self.figures))

    def ratio(self, case: str, at: float | None = None) -> float | None:
        """kvstore's rate as a multiple of etcd's: the median of the rounds' ratios. None where one is missing."""
        return ratio(self.figure(case, KVSTORE, at), self.figure(case, ETCD, at))


class Results(Struct):
    """The file."""

    groups: dict[str, Group] = {}

    def write(self, path: Path) -> None:
        """As JSON that people can read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def ratio(ours: Figure | None, theirs: Figure | None) -> float | None:
    """The median, over the rounds, of the one's rate as a multiple of the other's."""
    if ours is None or theirs is None:
        return None
    pairs = [(a.per_s, b.per_s) for a, b in zip(ours.rounds, theirs.rounds, strict=False) if b.per_s]
    return median(a / b for a, b in pairs) if pairs else None


def read_results(path: Path) -> Results:
    """What write() wrote; empty where there is no file. Raises msgspec.DecodeError for another kind of file."""
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else Results()
