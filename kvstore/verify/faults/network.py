"""Faults of the network between the nodes: cut, one way, slow, lossy, doubling and reordering (see links.py)."""

from __future__ import annotations

from collections.abc import Sequence

from kvstore.verify.faults.fault import Fault
from kvstore.verify.faults.links import Pair


class _Cut(Fault):
    """Some links are cut in both directions; the parts are drawn by the kinds below."""

    minimum_s = 1.5

    async def begin(self) -> None:
        self._cluster.links.cut_pairs(self._pairs)

    async def look(self) -> str | None:
        """The end of each link that was cut says so of the other."""
        for observer, name in self._pairs:
            if (state := await self._cluster.state(observer, name)) in {"suspect", "down"}:
                return f"{observer} called {name} {state}"
        return None

    async def end(self) -> None:
        self._cluster.links.mend(self._pairs)

    _pairs: Sequence[Pair] = ()


def between(ones: Sequence[str], others: Sequence[str]) -> list[Pair]:
    """Every link from one group to the other, in both directions."""
    return [pair for a in ones for b in others for pair in ((a, b), (b, a))]


class Isolate(_Cut):
    """One node hears nobody."""

    name = "isolate"

    def draw(self) -> None:
        self._victim = self._one()
        self._pairs = between([self._victim], self._cluster.others(self._victim))

    @property
    def says(self) -> str:
        return f"cut off {self._victim}"


class Halves(_Cut):
    """Two groups, as equal as can be."""

    name = "halves"

    def draw(self) -> None:
        names = self._dice.sample(self._cluster.names, len(self._cluster.names))
        self._small, self._large = sorted(names[: len(names) // 2]), sorted(names[len(names) // 2 :])
        self.victims = tuple(self._small)
        self._pairs = between(self._small, self._large)

    @property
    def says(self) -> str:
        return f"cut {'+'.join(self._small)} from {'+'.join(self._large)}"


class Bridge(_Cut):
    """Two groups that hear only one node in common: everybody sees a majority, and not the same one."""

    name = "bridge"

    def draw(self) -> None:
        self._middle, *rest = self._dice.sample(self._cluster.names, len(self._cluster.names))
        self._left, self._right = sorted(rest[: len(rest) // 2]), sorted(rest[len(rest) // 2 :])
        self.victims = ()  # all of them still have a majority
        self._pairs = between(self._left, self._right)

    @property
    def says(self) -> str:
        return f"cut {'+'.join(self._left)} from {'+'.join(self._right)}, {self._middle} hears all"


class OneWay(Fault):
    """What one node sends arrives nowhere; what others send arrives there."""

    name = "one-way"
    minimum_s = 2.0

    def draw(self) -> None:
        self._victim = self._one()
        self._pairs = [(self._victim, other) for other in self._cluster.others(self._victim)]

    @property
    def says(self) -> str:
        return f"nothing that {self._victim} sends arrives"

    async def begin(self) -> None:
        self._cluster.links.change(self._pairs, is_held=True)

    async def look(self) -> str | None:
        return await self._seen_away(self._victim)

    async def end(self) -> None:
        self._cluster.links.change(self._pairs, is_held=False)


class _Disturbed(Fault):
    """All links, in a way that is counted frame by frame."""

    minimum_s = 1.5
    counted: str
    words: str
    weather: dict[str, object]
    calm: dict[str, object]

    def draw(self) -> None:
        self._pairs = self._cluster.links.pairs()
        self._before = 0

    async def begin(self) -> None:
        self._before = self._cluster.links.seen[self.counted]
        self._cluster.links.change(self._pairs, **self.weather)

    async def look(self) -> str | None:
        count = self._cluster.links.seen[self.counted] - self._before
        return f"{count} {self.words}" if count else None

    async def end(self) -> None:
        self._cluster.links.change(self._pairs, **self.calm)


class Slow(_Disturbed):
    """Every frame is late, each by another time."""

    name, counted, words = "slow", "delayed", "frames came late"

    def draw(self) -> None:
        super().draw()
        self._delay_ms = self._dice.choice((20, 50, 100))
        self.weather = {"delay_s": self._delay_ms / 1000, "jitter_s": self._delay_ms / 1000}
        self.calm = {"delay_s": 0.0, "jitter_s": 0.0}

    @property
    def says(self) -> str:
        return f"all links slow: {self._delay_ms} to {2 * self._delay_ms} ms each way"


class Lossy(_Disturbed):
    """Frames wait for lost packets to be sent again, and connections break."""

    name, counted, words = "lossy", "stalled", "frames waited for a lost packet"
    weather = {"stalls": 0.02, "stall_s": 0.3, "breaks": 0.002}  # noqa: RUF012 - never changed
    calm = {"stalls": 0.0, "breaks": 0.0}  # noqa: RUF012

    @property
    def says(self) -> str:
        return "all links lossy: 2 % of frames wait 0.3 s, 0.2 % break the connection"


class Duplicate(_Disturbed):
    """Frames come twice."""

    name, counted, words = "duplicate", "doubled", "frames came twice"
    weather = {"doubles": 0.2}  # noqa: RUF012
    calm = {"doubles": 0.0}  # noqa: RUF012

    @property
    def says(self) -> str:
        return "20 % of frames come twice"


class Reorder(_Disturbed):
    """Frames overtake one another."""

    name, counted, words = "reorder", "reordered", "frames were overtaken"
    weather = {"reorders": 0.2}  # noqa: RUF012
    calm = {"reorders": 0.0}  # noqa: RUF012

    @property
    def says(self) -> str:
        return "20 % of frames are overtaken by later ones"
