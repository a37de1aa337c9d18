"""The door: which requests get in. One admission (cluster/pressure/admission.py) for each kind of them, for what is
long for one is short for another: a page of a thousand keys, a batch, a read of what is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from cluster.pressure.admission import Admission
from kvstore.http.incoming.body import Bodies
from kvstore.paths import BATCH, ELECTIONS, HELD_LOCKS, KEYS, LISTING, VOTES

LONG_TARGET_S = 1.0
"""The wait that is kept by pages and batches, which are up to a thousand operations each."""
_LOCKS = (HELD_LOCKS, VOTES, ELECTIONS)


class Door:
    """The admissions, by what is asked for."""

    def __init__(
        self,
        in_flight_max: int,
        bodies: Bodies,
        lag_s: Callable[[], float],
        timeout_of: Callable[[str, str], float] = lambda method, query: inf,
    ) -> None:
        """timeout_of(method, query): how long a request for a key tries, if it is a strong one; else without end."""
        self._in_flight_max, self._timeout_of = in_flight_max, timeout_of
        self.reads = Admission(lag_s=lag_s)
        self.writes = Admission(lag_s=lag_s, bytes_in_flight=lambda: bodies.bytes_in_flight + bodies.bytes_to_come)
        self.locks = Admission(lag_s=lag_s)
        self.pages = Admission(target_s=LONG_TARGET_S, lag_s=lag_s)
        self.batches = Admission(target_s=LONG_TARGET_S, lag_s=lag_s)
        bodies.bytes_limit = lambda: self.writes.bytes_limit
        self.straight: Mapping[str, Admission] = {"GET": self.reads, "HEAD": self.reads, "PUT": self.writes}
        """For keys, by method: what needs no task."""
        self.kinds: Mapping[str, Admission] = {
            "read": self.reads,
            "write": self.writes,
            "lock": self.locks,
            "page": self.pages,
            "batch": self.batches,
        }
        self.refused_full = self.refused_slow = self.refused_late = 0
        """For want of any place; because those of their kind take too long; because they would come too late."""

    def admission_of(self, method: str, path: str) -> Admission | None:
        """That of the request; None of what is not held up: what gives a lock back, pages about the node."""
        if path.startswith(KEYS):
            return self.straight.get(method, self.writes)
        if path == LISTING:
            return self.pages
        if path == BATCH:
            return self.batches
        return self.locks if path.startswith(_LOCKS) and method != "DELETE" else None

    def may_enter(self, admission: Admission | None, at_work: int, now_s: float) -> bool:
        """Whether one more of the kind may begin; at_work: requests under way, with that one."""
        if at_work > self._in_flight_max:
            self.refused_full += 1
            return False
        if admission is not None and admission.is_full(now_s):
            self.refused_slow += 1
            return False
        return True

    def is_too_slow(self, admission: Admission, now_s: float) -> bool:
        """Whether a request for a key is refused because those of its kind take too long; counts it if so."""
        if admission.is_full(now_s):
            self.refused_slow += 1
            return True
        return False

    def is_in_time(self, admission: Admission, method: str, query: str) -> bool:
        """Whether the request for a key is likely to make the timeout that it names.

        The same is asked of all strong requests once they are understood (punctual.py). But where all name a short
        one, refusing them has to be cheap.
        """
        if "timeout=" not in query or admission.can_make(self._timeout_of(method, query)):
            return True
        self.refused_late += 1
        return False


class Visit:
    """One request among those of its kind: from when all of it is here, for a slow client is nobody's load."""

    __slots__ = ("_admission", "_began_s", "_clock")

    def __init__(self, admission: Admission, clock: Callable[[], float]) -> None:
        self._admission, self._clock = admission, clock
        self._began_s: float | None = None

    def begin(self) -> None:
        """It is all here."""
        self._began_s = self._clock()
        self._admission.begin()

    def end(self, is_done: bool, is_late: bool) -> None:
        """It is over; see Admission.end."""
        if self._began_s is not None:
            self._admission.end(self._clock() - self._began_s, is_done, is_late)
