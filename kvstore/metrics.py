"""Metrics: plain integers on the hot path, Prometheus families only when somebody scrapes.

prometheus_client's own counters take a lock and a label look-up per event; a request here costs one look-up in a
dictionary and three additions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
LATENCY_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""From a read out of memory to the longest timeout a request may have."""
METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "POST"})
"""Others count as one, so that a stranger can't make up labels."""

Reading = float | Mapping[tuple[str, ...], float]
"""A number, or one per tuple of label values."""


class _Series:
    """The requests of one method, level and status."""

    __slots__ = ("buckets", "count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(LATENCY_BOUNDS_S) + 1)


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
        self._registered: dict[str, _Registered] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def count_request(self, method: str, level: str, status: int, seconds: float) -> None:
        """One request was answered; level is empty where it has none."""
        series = self._series.get((method, level, status))
        if series is None:
            name = method if method in METHODS else "other"
            series = self._series.setdefault((name, level, status), _Series())
        series.count += 1
        series.seconds += seconds
        series.buckets[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1

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
        latencies: dict[tuple[str, str], _Series] = {}
        for (method, level, status), series in self._series.items():
            requests.add_metric((method, level, str(status)), series.count)
            _add(latencies.setdefault((method, level), _Series()), series)
        yield requests
        latency = HistogramMetricFamily(
            "kvstore_request_seconds", "Time from a request's head to its answer", labels=("method", "level")
        )
        for names, series in latencies.items():
            latency.add_metric(names, _cumulative(series), series.seconds)
        yield latency


def _add(total: _Series, series: _Series) -> None:
    total.count += series.count
    total.seconds += series.seconds
    total.buckets = [a + b for a, b in zip(total.buckets, series.buckets, strict=True)]


def _cumulative(series: _Series) -> list[tuple[str, float]]:
    bounds = [*(repr(bound) for bound in LATENCY_BOUNDS_S), "+Inf"]
    below = 0
    pairs: list[tuple[str, float]] = []
    for bound, count in zip(bounds, series.buckets, strict=True):
        below += count
        pairs.append((bound, below))
    return pairs


def _family(registered: _Registered) -> Metric:
    kind = GaugeMetricFamily if registered.kind == "gauge" else CounterMetricFamily
    family = kind(registered.name, registered.help, labels=registered.labels)
    reading = registered.read()
    rows = reading.items() if isinstance(reading, Mapping) else [((), reading)]
    for labels, value in rows:
        family.add_metric(labels, value)
    return family
