"""What the routes share: the node behind them, and the limits they keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvstore.http.backend import Backend, ClusterView, LockBackend
from kvstore.http.incoming.body import Bodies
from kvstore.http.incoming.parameters import ParameterSet
from kvstore.http.waiters import Waiters
from kvstore.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Service:
    """Handed to every group of routes."""

    backend: Backend
    locks: LockBackend
    view: ClusterView
    bodies: Bodies
    waiters: Waiters
    metrics: Metrics
    parameters: ParameterSet
    value_bytes_max: int
    wall_ms: Callable[[], int]
    """Unix time in milliseconds, for Date, and for the age of weak reads."""
