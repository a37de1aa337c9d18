"""A worker: one client of the cluster that does one call at a time and writes down what became of it.

Every second worker keeps to one node, so that a node that shows old things is found out and a node that is away is
felt; the others fail over as applications do. The client tries again only what surely was not applied, so what it
raises says all that is known:

    KvstoreError                            recorded as
    ConditionFailed, LockHeld, LockLost     conflict, if a node itself said that nothing was applied
    other NotApplied                        fail, if a node said so, or nothing was ever sent
    anything, of a read                     fail: a read changes nothing
    anything else                           unknown: the call stays open, and its process is never used again
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, TypeVar

from kvstore.client.asynchronous import AsyncClient
from kvstore.client.over_http.store import HttpStore
from kvstore.errors import ConditionFailed, KvstoreError, LockHeld, LockLost, NotApplied, OutcomeUnknown
from kvstore.verify.history import Kind, Outcome, Recorder

READS = frozenset({Kind.READ, Kind.WEAK_READ, Kind.READ_ALL, Kind.COUNT, Kind.RESULT, Kind.INSPECT})
CONFLICTS = (ConditionFailed, LockHeld, LockLost)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Effort:
    """How one call went, for who wants to know what a fault did."""

    start_s: float
    end_s: float
    node: str | None
    """The only node that was asked; None where any would do."""
    outcome: Outcome
    workload: str


@dataclass
class Journal:
    """What all workers write into."""

    recorder: Recorder
    clock: Callable[[], float]
    efforts: list[Effort] = field(default_factory=list)
    _processes: count[int] = field(default_factory=lambda: count(1))

    def new_process(self) -> int:
        """A number that no process had before."""
        return next(self._processes)


@dataclass(frozen=True, slots=True)
class Told(Generic[Result]):
    """What a call came to."""

    outcome: Outcome
    result: Result | None = None
    error: KvstoreError | None = None

    @property
    def is_ok(self) -> bool:
        """Whether it was done."""
        return self.outcome is Outcome.OK


class Worker:
    """One client, with one call in flight at most."""

    def __init__(
        self,
        journal: Journal,
        workload: str,
        endpoints: list[str],
        node: str | None,
        dice: random.Random,
        timeout_s: float,
    ) -> None:
        """endpoints: whom to ask, in this order; node: the name of the only one, None where there are several."""
        self._journal, self._workload = journal, workload
        self.node, self.dice = node, dice
        self.process = journal.new_process()
        self._endpoints = endpoints
        self._connect(timeout_s)
        self.memory: dict[str, Any] = {}
        """What the workload wants to remember of this worker."""

    def _connect(self, timeout_s: float) -> None:
        self.store = HttpStore(self._endpoints, timeout_s=timeout_s, source=self.dice)
        self.client = AsyncClient(self.store)

    async def open(self) -> None:
        """Before the first call."""
        await self.client.__aenter__()

    async def be_patient(self, timeout_s: float) -> None:
        """Over new connections, and with so much time for each call from now on."""
        await self.close()
        self._connect(timeout_s)
        await self.open()

    async def close(self) -> None:
        """After the last."""
        await self.client.close()

    async def call(
        self,
        kind: Kind,
        key: str,
        request: Callable[[], Awaitable[Result]],
        tell: Callable[[Result], dict[str, Any]] = lambda result: {},
        **fields: Any,
    ) -> Told[Result]:
        """Makes the request and records it: `fields` with its invocation, `tell(result)` with its success."""
        journal, process = self._journal, self.process
        where = {"workload": self._workload, **({} if self.node is None else {"node": self.node})}
        start_s = journal.clock()
        call = journal.recorder.begin(process, kind, key, **{**where, **fields})
        outcome, told, error, result = Outcome.UNKNOWN, {}, None, None
        try:
            result = await request()
            outcome, told = Outcome.OK, tell(result)
        except KvstoreError as raised:
            error = raised
            outcome, told = outcome_of(raised, kind)
        except (KeyError, ValueError, TypeError) as strange:  # an answer that is none of the API's
            outcome = Outcome.FAIL if kind in READS else Outcome.UNKNOWN
            told = {"error": f"strange answer: {strange!r}"}
        finally:  # cancelled, or a fault of ours: nobody knows
            journal.recorder.end(call, outcome, **told)
            journal.efforts.append(Effort(start_s, journal.clock(), self.node, outcome, self._workload))
            if outcome is Outcome.UNKNOWN:
                self.process = journal.new_process()
        return Told(outcome, result, error)


def outcome_of(error: KvstoreError, kind: Kind) -> tuple[Outcome, dict[str, Any]]:
    """What the error proves, and what else it says. Whatever it does not prove is unknown."""
    more: dict[str, Any] = {"error": error.code}
    if kind in READS:
        return Outcome.FAIL, more
    if isinstance(error, OutcomeUnknown) or not isinstance(error, NotApplied):
        return Outcome.UNKNOWN, more
    if error.status is not None and error.fields.get("outcome") != "not-applied":
        return Outcome.UNKNOWN, more  # a status alone proves nothing: who knows who sent it
    if isinstance(error, CONFLICTS):
        if "version" in error.fields:
            more["version"] = error.fields["version"]
        return Outcome.CONFLICT, more
    return Outcome.FAIL, more
