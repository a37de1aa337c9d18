"""Metrics: plain integers on the hot path, Prometheus families only when somebody scrapes.

prometheus_client's own counters take a lock and a label look-up per event; a request here costs one look-up in a
dictionary and three additions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
LATENCY_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""From a read out of memory to the longest timeout a request may have."""
WAIT_BOUNDS_S = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""From a lock that was free to the longest wait that may be asked for."""
METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "POST"})
"""Others count as one, so that a stranger can't make up labels."""

Reading = float | Mapping[tuple[str, ...], float]
"""A number, or one per tuple of label values."""


class _Histogram:
    """How long something took, in buckets."""

    __slots__ = ("bounds", "buckets", "seconds")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.seconds = 0.0
        self.buckets = [0] * (len(bounds) + 1)

    def add(self, seconds: float) -> None:
        self.seconds += seconds
        self.buckets[bisect_left(self.bounds, seconds)] += 1

    def merge(self, other: _Histogram) -> None:
        self.seconds += other.seconds
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]

    def cumulative(self) -> list[tuple[str, float]]:
        bounds = [*(repr(bound) for bound in self.bounds), "+Inf"]
        return list(zip(bounds, accumulate(self.buckets), strict=True))


class _Series:
    """The requests of one method, level and status."""

    __slots__ = ("count", "latency")

    def __init__(self) -> None:
        self.count = 0
        self.latency = _Histogram(LATENCY_BOUNDS_S)


@dataclass(frozen=True, slots=True)
class _Registered:
    kind: Literal["gauge", "counter"]
    name: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[], Reading]


class Metrics(Collector):
    """Counts requests, and reads what others registered when it is scraped."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, int], _Series] = {}
        self._locks: dict[tuple[str, str], int] = {}
        self._waits = _Histogram(WAIT_BOUNDS_S)
        self._registered: dict[str, _Registered] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def count_request(self, method: str, level: str, status: int, seconds: float | None) -> None:
        """One request was answered; level is empty where it has none, seconds None where its client chose to wait."""
        series = self._series.get((method, level, status))
        if series is None:
            name = method if method in METHODS else "other"
            series = self._series.setdefault((name, level, status), _Series())
        series.count += 1
        if seconds is not None:
            series.latency.add(seconds)

    def count_lock(self, operation: str, outcome: str) -> None:
        """A request about a lock, vote or election has ended; outcome is `ok`, `gone` or the code of its problem."""
        self._locks[operation, outcome] = self._locks.get((operation, outcome), 0) + 1

    def count_wait(self, seconds: float) -> None:
        """Somebody who was ready to wait for a lock has got it, or has not."""
        self._waits.add(seconds)

    def gauge(self, name: str, help: str, read: Callable[[], Reading], labels: tuple[str, ...] = ()) -> None:
        """Registers a value that goes up and down, read at each scrape. Raises ValueError for a name given twice."""
        self._register(_Registered("gauge", name, help, labels, read))

    def counter(self, name: str, help: str, read: Callable[[], Reading], labels: tuple[str, ...] = ()) -> None:
        """Registers a value that only grows (the name without `_total`), read at each scrape."""
        self._register(_Registered("counter", name, help, labels, read))

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format (media type CONTENT_TYPE)."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The registry's question, once a scrape."""
        yield from self._requests()
        yield from self._lock_requests()
        for registered in self._registered.values():
            yield _family(registered)

    def _register(self, registered: _Registered) -> None:
        if registered.name in self._registered:
            raise ValueError(f"metric {registered.name} is registered already")
        self._registered[registered.name] = registered

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "kvstore_requests", "HTTP requests answered", labels=("method", "level", "status")
        )
        latencies: dict[tuple[str, str], _Histogram] = {}
        for (method, level, status), series in self._series.items():
            requests.add_metric((method, level, str(status)), series.count)
            latencies.setdefault((method, level), _Histogram(LATENCY_BOUNDS_S)).merge(series.latency)
        yield requests
        latency = HistogramMetricFamily(
            "kvstore_request_seconds", "Time from a request's head to its answer", labels=("method", "level")
        )
        for names, taken in latencies.items():
            latency.add_metric(names, taken.cumulative(), taken.seconds)
        yield latency

    def _lock_requests(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "kvstore_lock_requests", "Requests about locks, votes and elections", labels=("operation", "outcome")
        )
        for names, count in self._locks.items():
            ended.add_metric(names, count)
        yield ended
        waits = HistogramMetricFamily("kvstore_lock_wait_seconds", "Time that clients waited for a lock")
        waits.add_metric((), self._waits.cumulative(), self._waits.seconds)
        yield waits


def _family(registered: _Registered) -> Metric:
    kind = GaugeMetricFamily if registered.kind == "gauge" else CounterMetricFamily
    family = kind(registered.name, registered.help, labels=registered.labels)
    reading = registered.read()
    rows = reading.items() if isinstance(reading, Mapping) else [((), reading)]
    for labels, value in rows:
        family.add_metric(labels, value)
    return family
