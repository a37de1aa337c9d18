"""Reads thresholds.toml and holds what was measured to it. Pure: whoever measured brings the figures."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct, field

DEFAULT_FILE = Path(__file__).with_name("thresholds.toml")


class Limits(Struct, forbid_unknown_fields=True):
    """Of one request name; None sets no limit."""

    p95_ms: float | None = None
    p99_ms: float | None = None
    failures_max: float | None = None
    requests_min: int | None = None

    def over(self, other: Limits) -> Limits:
        """These, and the other's where these say nothing."""
        told = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(other, **told)


class Section(Struct, forbid_unknown_fields=True):
    """The thresholds of a profile, which go before the common ones."""

    any: Limits = field(default_factory=Limits)
    requests: dict[str, Limits] = field(default_factory=dict)


class Thresholds(Section, forbid_unknown_fields=True):
    """The whole file."""

    profiles: dict[str, Section] = field(default_factory=dict)

    def of(self, name: str, profile: str) -> Limits:
        """What holds for that request in that profile: the nearer word wins."""
        own = self.profiles.get(profile, Section())
        nearest_first = (own.requests.get(name), own.any, self.requests.get(name), self.any)
        limits = Limits()
        for farther in filter(None, nearest_first):
            limits = limits.over(farther)
        return limits

    def named(self, profile: str) -> list[str]:
        """Requests that must be there even if nobody made them."""
        own = self.profiles.get(profile, Section())
        names = dict.fromkeys([*self.requests, *own.requests])
        return [name for name in names if self.of(name, profile).requests_min]


class Measured(Struct, frozen=True):
    """What the report says of one request name."""

    name: str
    requests: int
    failures: int
    p95_ms: float
    p99_ms: float

    @property
    def failure_share(self) -> float:
        """0 to 1."""
        return self.failures / self.requests if self.requests else 0.0


class Row(Struct, frozen=True):
    """One request name: measured, its limits, and which of them it broke."""

    measured: Measured
    limits: Limits
    broken: list[str]


def load_thresholds(path: Path) -> Thresholds:
    """Raises OSError, or ValueError that says what in the file is wrong."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Thresholds)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{path} is no file of thresholds: {error}") from error


def judge(thresholds: Thresholds, profile: str, measured: Iterable[Measured]) -> list[Row]:
    """A row for each request that was made, or should have been."""
    by_name: Mapping[str, Measured] = {one.name: one for one in measured}
    names = dict.fromkeys([*by_name, *thresholds.named(profile)])
    none = (0, 0, 0.0, 0.0)
    rows = []
    for name in names:
        limits = thresholds.of(name, profile)
        one = by_name.get(name) or Measured(name, *none)
        rows.append(Row(one, limits, _broken(one, limits)))
    return rows


def _broken(one: Measured, limits: Limits) -> list[str]:
    broken = []
    if limits.requests_min is not None and one.requests < limits.requests_min:
        broken.append("requests_min")
    if limits.failures_max is not None and one.failure_share > limits.failures_max:
        broken.append("failures_max")
    if limits.p95_ms is not None and one.p95_ms > limits.p95_ms:
        broken.append("p95_ms")
    if limits.p99_ms is not None and one.p99_ms > limits.p99_ms:
        broken.append("p99_ms")
    return broken
