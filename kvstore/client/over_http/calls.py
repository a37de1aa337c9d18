"""One call, however many tries it takes: until a node answers for good, or its one deadline is over.

Which try may follow a failed one depends on what is known of it, and nothing else:

    the node was not reached, or says that     surely not applied: another node is asked, or the same one later, when
    it can't now (429, 503, 507)               it said (Retry-After) or after a pause that grows
    the answer was lost, or says unknown       a read is asked again. A write that may be applied twice without harm
    (504, 500)                                 (renew, release, propose) is sent again. Any other write ends here:
                                               it may be applied, now or later, and is never sent a second time
    any other refusal                          is the answer

"Timeouts, retries, and backoff with jitter" (M. Brooker, Amazon Builders' Library, 2019) says why pauses are random.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto

from kvstore import client_errors
from kvstore.client.over_http.answers import duration_text
from kvstore.client.over_http.problems import error_of
from kvstore.errors import (
    KvstoreError,
    NoNodeReachable,
    NotApplied,
    OutcomeUnknown,
    Overloaded,
    ReadFailed,
    ReadTimedOut,
    Unavailable,
)
from kvstore.http_client import SILENCE_S, Answer, HttpClient

CALLS_MAX = 128
"""Calls of one client under way at once, without those that wait for a lock: more would only queue in the nodes."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Before a node that could not help is asked again. A cluster routes around a lost node within a second or so."""
MARGIN_SHARE, MARGIN_S_MAX = 0.1, 0.5
"""How much less time a node is given than is left, so that its answer still gets here."""
NODE_TIMEOUT_S_MAX = 60.0
"""No node takes more."""
LEFT_S_MIN = 0.005
"""With less time no try is begun: its answer could not be here in time."""


class Kind(Enum):
    """What sending it twice would do."""

    READ = auto()
    """Nothing: it changes nothing."""
    REPEATABLE = auto()
    """No harm."""
    WRITE = auto()
    """It might be applied twice."""


@dataclass(frozen=True, slots=True)
class Call:
    """What to ask."""

    kind: Kind
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Callable[[float], bytes] = b""
    """A function makes it anew for each try, of the seconds that are left to wait for a lock."""
    wait_s: float = 0.0
    """How long the node may wait for a lock before it answers, apart from the timeout."""
    done_if: type[KvstoreError] | None = None
    """A refusal that, after a lost answer, says that the lost one was applied: send() raises AppliedBefore then."""


class AppliedBefore(Exception):
    """An answer was lost, and the refusal of the next try says that the lost one was applied."""


class Caller:
    """Makes calls. Use it on one event loop."""

    def __init__(self, http: HttpClient, source: random.Random | None = None) -> None:
        self._http = http
        self._random = source or random.Random()
        self._slots = asyncio.Semaphore(CALLS_MAX)

    async def send(self, call: Call, timeout_s: float) -> Answer:
        """The answer, a status below 400. Raises KvstoreError, and AppliedBefore where the call provides for it."""
        now_s = asyncio.get_running_loop().time()
        tries = _Tries(self._http, self._random, call, timeout_s, now_s)
        if call.wait_s > 0:  # may last minutes: must not keep others from being asked
            return await tries.run()
        async with self._slot(call, now_s + timeout_s):
            return await tries.run()

    @asynccontextmanager
    async def _slot(self, call: Call, deadline_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._slots.acquire()
        except TimeoutError:
            detail = (
                f"{CALLS_MAX} calls of this client are under way already, and none ended in time; nothing was sent."
            )
            raise ReadTimedOut(detail) if call.kind is Kind.READ else Overloaded(detail) from None
        try:
            yield
        finally:
            self._slots.release()


class _Tries:
    """The tries of one call."""

    def __init__(self, http: HttpClient, source: random.Random, call: Call, timeout_s: float, now_s: float) -> None:
        self._http, self._random, self._call, self._timeout_s = http, source, call, timeout_s
        self._now_s = asyncio.get_running_loop().time
        self._end_s = now_s + call.wait_s + timeout_s
        self._trouble_since_s = now_s
        self._not_before_s: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._unreached: dict[str, str] = {}
        self._error: KvstoreError | None = None
        self._was_lost = False
        self._route = http.route_of(call.method, call.path, call.query, call.headers, waits=call.wait_s > 0)

    async def run(self) -> Answer:
        """Tries until there is an answer for good, or no time is left."""
        while True:
            began_s = self._now_s()
            ready = [one for one in self._http.in_order(self._route) if self._not_before_s.get(one, 0.0) <= began_s]
            if not ready:
                await self._pause(min(self._not_before_s.values()) - began_s)
                continue
            if self._patience_s() < LEFT_S_MIN:
                raise self._given_up()
            try:
                return await self._ask(ready)
            except client_errors.ClientError as error:
                self._judge(error, ready, began_s)

    async def _ask(self, ready: list[str]) -> Answer:
        call, left_s = self._call, self._left_s()
        only = ready if call.kind is Kind.READ else ready[:1]
        # A node that keeps silent must not use up the time of what may be asked elsewhere.
        patience_s = min(SILENCE_S, left_s / 2) if call.kind is Kind.REPEATABLE else left_s
        wait_s = max(0.0, left_s - self._timeout_s)
        return await self._http.request(
            call.method,
            call.path,
            query=call.query,
            query_of_left=lambda left_s: {"timeout": _node_timeout(min(left_s, self._timeout_s))},
            headers=call.headers,
            body=call.body if isinstance(call.body, bytes) else call.body(wait_s),
            timeout_s=patience_s,
            only=only,
            route=self._route,
        )

    def _judge(self, error: client_errors.ClientError, asked: list[str], began_s: float) -> None:
        """Notes when the nodes may be asked again; raises what ends the call."""
        told = self._in_our_words(error)
        is_passing = isinstance(told, Unavailable | NoNodeReachable | ReadFailed)
        if isinstance(told, OutcomeUnknown):
            self._was_lost = True
            is_passing = self._call.kind is Kind.REPEATABLE
        if not is_passing:
            if self._was_lost and self._call.done_if is not None and isinstance(told, self._call.done_if):
                raise AppliedBefore from told
            raise told
        # What a node said counts for more than that another could not be reached.
        if not (isinstance(told, NoNodeReachable) and self._has_answer):
            self._error = told
        if self._now_s() - began_s > self._timeout_s:  # it waited for a lock until now: trouble begins here
            self._trouble_since_s = self._now_s()
        who = [error.endpoint] if isinstance(error, client_errors.Problem) and error.endpoint else asked
        if self._call.kind is not Kind.READ:
            who = asked[:1]
        for endpoint in who:
            self._failures[endpoint] = failures = self._failures.get(endpoint, 0) + 1
            pause_s = min(FIRST_PAUSE_S * 2.0**failures, LONGEST_PAUSE_S) * self._random.uniform(0.5, 1.0)
            wished_s = told.fields.get("retry_after", 0.0)
            self._not_before_s[endpoint] = self._now_s() + max(pause_s, wished_s)

    def _in_our_words(self, error: client_errors.ClientError) -> KvstoreError:
        is_read = self._call.kind is Kind.READ
        match error:
            case client_errors.Problem():
                return error_of(error, is_read)
            case client_errors.AnswerLost():
                return OutcomeUnknown(f"{_sentence(error)} Read before you repeat it.")
            case client_errors.NoNodeReachable(was_asked=True):
                kind = ReadTimedOut if self._left_s() < LEFT_S_MIN else ReadFailed
                return kind(f"{_sentence(error)} Reading again is safe.")
            case client_errors.NoNodeReachable(failures=failures):
                self._unreached |= dict(failure.split(": ", 1) for failure in failures)
                tried = "; ".join(f"{endpoint}: {why}" for endpoint, why in self._unreached.items())
                return NoNodeReachable(f"No node could be reached, so nothing was applied: {tried}.")
        return NoNodeReachable(_sentence(error))

    @property
    def _has_answer(self) -> bool:
        return self._error is not None and not isinstance(self._error, NoNodeReachable)

    async def _pause(self, pause_s: float) -> None:
        if pause_s + LEFT_S_MIN > self._patience_s():
            raise self._given_up()
        await asyncio.sleep(pause_s)

    def _left_s(self) -> float:
        return self._end_s - self._now_s()

    def _patience_s(self) -> float:
        """How long tries are still begun: where nobody could even be asked to wait for the lock, no longer than that
        which does not wait."""
        return min(self._end_s, self._trouble_since_s + self._timeout_s) - self._now_s()

    def _given_up(self) -> KvstoreError:
        if self._was_lost:
            return OutcomeUnknown(
                f"An answer was lost, and no node gave another within {self._timeout_s:g} s: it may be applied. "
                f"The last was: {self._error}"
            )
        return self._error or NotApplied(f"No time was left to ask a node; {self._timeout_s:g} s is too short.")


def _node_timeout(left_s: float) -> str:
    """How long a node may try. In coarse steps: nodes remember the queries that they have parsed."""
    told_s = min(left_s - min(left_s * MARGIN_SHARE, MARGIN_S_MAX), NODE_TIMEOUT_S_MAX)
    step_s = 0.1 if told_s >= 1 else 0.01 if told_s >= 0.1 else 0.001
    return duration_text(max(int(told_s / step_s) * step_s, 0.001))


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
