"""HttpServer: what the node starts and stops."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator, Mapping
from math import inf

import structlog
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy

from cluster.levels import Level
from kvstore.config import Address, NodeConfig
from kvstore.http.backend import Backend, ClusterView, LockBackend
from kvstore.http.connection import Listener
from kvstore.http.dispatch import Dispatcher
from kvstore.http.incoming.body import Bodies
from kvstore.http.incoming.guard import Guard, host_name
from kvstore.http.incoming.parameters import parameter_set
from kvstore.http.outgoing.problems import Problem
from kvstore.http.outgoing.receipts import receipt_of_refusal
from kvstore.http.pressure.door import Door
from kvstore.http.pressure.entrance import Entrance
from kvstore.http.pressure.holding import Holding
from kvstore.http.pressure.loop_lag import LoopLag
from kvstore.http.pressure.punctual import PunctualBackend
from kvstore.http.routes.health import Health
from kvstore.http.routes.service import Service
from kvstore.http.routes.table import routes
from kvstore.http.waiters import Waiters, waiters_max
from kvstore.metrics import Metrics

BODY_S = 30.0
"""How long a body may take to arrive: 16 MiB at half a megabyte a second."""
FILES_KEPT_FREE = 192
"""Of what the process may open: for the database, peers, logs and the entrance, so that clients can't take the last
one."""
KIND = ("kind",)
"""The label of what is told for each kind of request."""
CLOSE_S = 1.0
"""How long connections may take to write their last answers once all requests are answered."""

log = structlog.get_logger()


def connections_max(wanted: int) -> int:
    """As many connections as wanted, or as this process may open files for."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = max(1, files - FILES_KEPT_FREE)
    if files == resource.RLIM_INFINITY or wanted <= possible:
        return wanted
    log.warning("fewer connections than configured", wanted=wanted, possible=possible, raise_with="ulimit -n")
    return possible


class HttpServer:
    """The face that applications see. One per node; start it on the loop that the backend runs on."""

    def __init__(
        self,
        config: NodeConfig,
        backend: Backend,
        locks: LockBackend,
        view: ClusterView,
        metrics: Metrics,
        wall_ms: Callable[[], int],
        body_timeout_s: float = BODY_S,
    ) -> None:
        """wall_ms: Unix time in milliseconds, for dates and ages only."""
        self._config = config
        self._locks = locks
        self._view = view
        self._metrics = metrics
        self._wall_ms = wall_ms
        self._bodies = Bodies(config.body_bytes_in_flight_max, body_timeout_s)
        self._connections_max = connections_max(config.connections_max)
        self._waiters = Waiters(waiters_max(self._connections_max))
        self._lag = LoopLag()
        self._parameters = parameter_set(config.consistency)
        self._door = Door(config.requests_in_flight_max, self._bodies, lambda: self._lag.lag_s, self._strong_timeout_s)
        self._waiters.admission = self._door.locks
        self._punctual = PunctualBackend(backend, self._door.reads, self._door.writes)
        self._service = Service(
            self._punctual,
            locks,
            view,
            self._bodies,
            self._waiters,
            metrics,
            self._parameters,
            config.value_bytes_max,
            wall_ms,
        )
        self._entrance: Entrance | None = None
        self._dispatcher: Dispatcher | None = None
        self._listener: Listener | None = None

    @property
    def address(self) -> Address:
        """Where it listens; raises RuntimeError before start()."""
        if self._entrance is None:
            raise RuntimeError("the HTTP server does not listen")
        return Address(self._config.http.host, self._entrance.port)

    async def start(self) -> None:
        """Listens. Raises OSError when the address can't be had."""
        if HttpRequestParser is HttpRequestParserPy:
            raise RuntimeError("aiohttp's C parser is missing: the one in Python reads malformed requests differently")
        health = Health(self._service, self._metrics, self._is_draining)
        dispatcher = Dispatcher(
            Guard(self._own_hosts(), self._config.allowed_hosts, self._member_hosts),
            routes(self._service, health),
            self._metrics,
            self._wall_ms,
            self._door,
            Holding(lambda: self._listener.opened if self._listener is not None else 0),
            self._waiters,
            log_requests=self._config.log_level == "debug",
            receipt_of_refusal=lambda: receipt_of_refusal(self._view, None, None),
        )
        listener = Listener(
            dispatcher.answer,
            dispatcher.unparsed,
            self._connections_max,
            dispatcher.begin,
            dispatcher.turn_away,
            dispatcher.hold,
        )
        self._entrance = await Entrance.open(listener, self._config.http.host, self._config.http.port)
        self._dispatcher, self._listener = dispatcher, listener
        self._lag.start()
        self._register(dispatcher, listener)
        log.info("http listens", address=str(self.address))

    async def stop(self, timeout_s: float) -> None:
        """Accepts nothing new, finishes what is under way for so long, and closes every connection. Idempotent.

        Who waits for a lock is told at once to wait elsewhere.
        """
        if self._entrance is None or self._dispatcher is None or self._listener is None:
            return
        entrance, self._entrance = self._entrance, None
        entrance.close()
        self._lag.stop()
        self._dispatcher.draining = True
        self._waiters.stop()
        self._locks.stop_waiting()
        self._listener.close_idle()
        try:
            async with asyncio.timeout(timeout_s):
                await self._dispatcher.drained()
        except TimeoutError:
            log.warning("http stops with requests under way", requests=self._dispatcher.in_flight)
        await self._listener.shutdown(CLOSE_S)

    def _is_draining(self) -> bool:
        return self._dispatcher is not None and self._dispatcher.draining

    def _own_hosts(self) -> Iterator[str]:
        yield self._config.http.host
        yield from (member.host for member in self._config.members)

    def _member_hosts(self) -> Iterator[str]:
        for member in self._view.members:
            yield member.name
            for address in (member.http, member.peer):
                name = host_name(address) if address else None
                if name:
                    yield name

    def _register(self, dispatcher: Dispatcher, listener: Listener) -> None:
        metrics, holding = self._metrics, dispatcher.holding
        metrics.gauge("kvstore_requests_in_flight", "HTTP requests under way", lambda: dispatcher.at_work)
        metrics.gauge("kvstore_lock_waiters", "Clients that wait for a lock here", lambda: self._waiters.count)
        metrics.gauge("kvstore_body_bytes_in_flight", "Request bodies in memory", lambda: self._bodies.bytes_in_flight)
        metrics.gauge("kvstore_admission_limit", "Requests of a kind that may be under way now", self._limits, KIND)
        metrics.gauge("kvstore_expected_wait_seconds", "How long one that begins now will take", self._waits, KIND)
        metrics.gauge("kvstore_loop_lag_seconds", "How far the event loop is behind", lambda: self._lag.lag_s)
        metrics.counter("kvstore_requests_refused", "Requests answered overloaded", self._refused, ("reason",))
        metrics.gauge("kvstore_refusals_held", "Refusals that wait a moment before they go out", lambda: holding.held)
        metrics.gauge("kvstore_refusal_hold_seconds", "How long refusals are held", lambda: holding.hold_s)
        metrics.gauge("kvstore_unread_answer_bytes", "Answers not read yet", lambda: listener.unread.bytes)
        metrics.counter("kvstore_slow_readers_cut_off", "To make room for answers", lambda: listener.unread.cut_off)
        metrics.gauge("kvstore_http_connections", "HTTP connections open", lambda: len(listener.connections))
        metrics.counter(
            "kvstore_http_connections_refused", "HTTP connections closed to make room", lambda: listener.refused
        )

    def _strong_timeout_s(self, method: str, query: str) -> float:
        parameters = self._parameters.put if method == "PUT" else self._parameters.read
        try:
            choice = parameters.parse(query, self._view.n)
        except Problem:  # which its handler tells
            return inf
        return choice.timeout_s if choice.level is Level.STRONG else inf

    def _limits(self) -> Mapping[tuple[str, ...], float]:
        most = self._config.requests_in_flight_max
        return {(kind,): min(admission.limit, most) for kind, admission in self._door.kinds.items()}

    def _waits(self) -> Mapping[tuple[str, ...], float]:
        return {(kind,): admission.expected_s() for kind, admission in self._door.kinds.items()}

    def _refused(self) -> Mapping[tuple[str, ...], float]:
        """By what stood against them here; what a primary refuses is its own."""
        return {
            ("slow",): self._door.refused_slow,
            ("full",): self._door.refused_full,
            ("deadline",): self._door.refused_late + self._punctual.refused,
            ("bodies",): self._bodies.refused,
        }
