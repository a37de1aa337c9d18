"""One request, from its head to its answer: who may ask, where it leads, what is said when it goes wrong."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Collection

import structlog
from aiohttp import HttpVersion11, hdrs
from aiohttp.web_protocol import RequestPayloadError
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDict, CIMultiDictProxy, istr

from cluster.pressure.admission import FEW, Admission
from kvstore.http.head import Head, StraightHead
from kvstore.http.incoming.body import VISIT, Content
from kvstore.http.incoming.conditions import KV_FENCE
from kvstore.http.incoming.guard import Guard
from kvstore.http.incoming.parameters import timeout_named
from kvstore.http.incoming.unparsed import UnknownMethod, problem_of, request_line
from kvstore.http.known_heads import KnownRequest
from kvstore.http.outgoing.answer import Answer, http_date
from kvstore.http.outgoing.problems import Problem, render
from kvstore.http.pressure.door import Door, Visit
from kvstore.http.pressure.holding import Holding
from kvstore.http.pressure.refusals import ReadyRefusals, Refusals
from kvstore.http.routes.table import Routes
from kvstore.http.waiters import Waiters
from kvstore.logs import escape_key
from kvstore.metrics import Metrics
from kvstore.paths import BATCH, KEYS, LISTING

REQUEST_ID = istr("X-Request-Id")
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,64}", re.ASCII)
RECEIPTED = (LISTING, BATCH)
"""Paths whose answers have a KV-Receipt, errors too."""
TIME_IS_UP = 504
"""The status of what was not done by its deadline."""
OVERLOADED = 503
HELD_SHARE = 0.5
"""Of the time that a request names, for which its refusal is held at most."""
_REFUSED_READY = {b"GET": "GET", b"PUT": "PUT"}
"""Methods whose refusals are kept ready."""
_NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
SHOWN_PATH_CHARACTERS_MAX = 200
"""Of a path in the log."""

_CHECKED = "checked"
"""Stands with the known headers that the guard has let pass, and that ask for nothing which takes a task. False where
they name the request's id, which this node gives otherwise."""

log = structlog.get_logger()


class Dispatcher:
    """Answers requests; what aiohttp calls for each."""

    def __init__(
        self,
        guard: Guard,
        routes: Routes,
        metrics: Metrics,
        wall_ms: Callable[[], int],
        door: Door,
        holding: Holding,
        waiters: Waiters,
        log_requests: bool,
        receipt_of_refusal: Callable[[], str],
    ) -> None:
        """receipt_of_refusal: for kv requests that are refused before their level is known."""
        self._guard = guard
        self._routes = routes
        self._metrics = metrics
        self._wall_ms = wall_ms
        self._clock = asyncio.get_running_loop().time
        self._door = door
        self._waiters = waiters
        self._log_requests = log_requests
        self._receipt_of_refusal = receipt_of_refusal
        self._refusals = Refusals(receipt_of_refusal)
        self._ready = ReadyRefusals(wall_ms, self._refusal_wire)
        self.holding = holding
        self._id_prefix = secrets.token_hex(4)
        self._ids = 0
        self._second = -1
        self._date_lines = ""
        self._idle = asyncio.Event()
        self.in_flight = 0
        self.draining = False

    @property
    def at_work(self) -> int:
        """Requests under way, without those that only wait for a lock, or with their refusal."""
        return self.in_flight - self._waiters.count - self.holding.held

    def begin(self, head: StraightHead, content: Content, on_answer: Callable[[Answer], None]) -> bool:
        """Answers a request for a key whose body is here without a task of its own, where that can be.

        on_answer follows once, maybe before this returns. False: it can't, and nothing was done.
        """
        handler, headers, known = self._routes.straight.get(head.method), head.headers, head.parsed
        is_checked = known is not None and _CHECKED in known
        if handler is None or not head.raw_path.startswith(KEYS):
            return False
        if not is_checked and (KV_FENCE in headers or hdrs.EXPECT in headers):
            return False
        self.in_flight += 1
        admission, started_s = self._door.straight[head.method], self._clock()
        path, _, query = head.raw_path.partition("?")
        try:
            if not is_checked:
                self._guard.check(head)
                if known is not None:
                    known[_CHECKED] = REQUEST_ID not in headers
            is_let_in = self._is_let_in(admission, head.method, query, started_s)
        except Exception as fault:
            _Straight(self, head, on_answer, started_s).refuse(fault)
            return True
        if not is_let_in:
            request_id = self._request_id(head)
            answer = self._turned_away(admission, head, request_id)
            self._complete(answer, head, request_id, started_s)
            self._answer_in(self._hold_s(query, started_s), lambda: self._answer_refused(answer, on_answer))
            return True
        straight = _Straight(self, head, on_answer, started_s)
        straight.enter(admission)
        try:
            handler(head, path[len(KEYS) :], query, content, straight.respond)
        except Exception as fault:
            straight.refuse(fault)
        return True

    def _is_let_in(self, admission: Admission, method: str, query: str, now_s: float) -> bool:
        door = self._door
        return door.may_enter(admission, self.at_work, now_s) and door.is_in_time(admission, method, query)

    def turn_away(self, request: KnownRequest) -> tuple[bytes, float] | None:
        """The refusal of a request that is too much: all that goes over the wire, and for how many seconds it is held
        (see hold()). None where the request is to be taken apart, and nothing was done.

        Of these there are the most when there is least time: begin() would say the same in three times as many steps.
        """
        method = _REFUSED_READY.get(request.method)
        if method is None or self.draining or self._log_requests or not request.known.parsed.get(_CHECKED):
            return None
        door, now_s = self._door, self._clock()
        admission = door.straight[method]
        if admission.in_flight < FEW:
            return None
        if not door.is_too_slow(admission, now_s) and door.is_in_time(admission, method, request.query):
            return None
        self._metrics.count_request(method, "", OVERLOADED, 0.0)
        hold_s = self.holding.refused(now_s)
        if hold_s:
            hold_s = self._of_named(hold_s, request.query)
        return self._ready.refusal(method, self._next_id(), now_s), hold_s

    def hold(self, hold_s: float, on_end: Callable[[bool], None]) -> None:
        """Holds a refusal for so long; it counts as under way until then. on_end follows, with whether the connection
        goes on.
        """
        self.in_flight += 1
        self._answer_in(hold_s, lambda: on_end(not self.draining))

    def _hold_s(self, query: str, now_s: float) -> float:
        """How long a refusal is held: of a time that the request names, not much."""
        return self._of_named(self.holding.refused(now_s), query)

    def _of_named(self, hold_s: float, query: str) -> float:
        return min(hold_s, HELD_SHARE * timeout_named(query)) if hold_s and query else hold_s

    def _answer_in(self, hold_s: float, answer: Callable[[], None]) -> None:
        """Answers a request that is refused, when its time has come; it counts as under way until then."""
        if hold_s:
            self.holding.held += 1
            asyncio.get_running_loop().call_later(hold_s, self._answer_held, answer)
        else:
            self._over()
            answer()

    def _answer_held(self, answer: Callable[[], None]) -> None:
        self.holding.held -= 1
        self._over()
        answer()

    def _refusal_wire(self, method: str, request_id: str) -> bytes:
        head = StraightHead(method, KEYS, HttpVersion11, _NO_HEADERS, keep_alive=True)
        answer = self._turned_away(self._door.straight[method], head, request_id)
        answer.common = self._common(request_id)
        return answer.wire(head)

    def _answer_refused(self, answer: Answer, on_answer: Callable[[Answer], None]) -> None:
        answer.keep_alive = answer.keep_alive and not self.draining
        on_answer(answer)

    async def answer(self, request: BaseRequest) -> Answer:
        """The answer to one request; never raises for what a client sent."""
        started = self._clock()
        request_id = self._request_id(request)
        self.in_flight += 1
        visit: Visit | None = None
        is_done = is_late = False
        try:
            self._guard.check(request)
            path, _, query = request.raw_path.partition("?")
            admission = self._door.admission_of(request.method, path)
            if path not in self._routes.vital and not self._door.may_enter(admission, self.at_work, started):
                answer = self._turned_away(admission, request, request_id)
                answer.has_waited = await self._hold(request, query, started)
            else:
                if admission is not None:
                    request[VISIT] = visit = Visit(admission, self._clock)
                    if request.content.is_eof():
                        visit.begin()
                answer = await self._route(request, path, query, request_id)
                is_done = not answer.has_waited
        except Problem as problem:
            answer = self._refuse(problem, request, request_id)
            is_late = problem.status == TIME_IS_UP and not problem.has_waited
        except RequestPayloadError:  # chunks that are none, or a body that ended early
            unreadable = Problem("bad-request", "The request's body can't be read.", close=True)
            answer = self._refuse(unreadable, request, request_id)
        except ConnectionError:
            raise
        except Exception:
            answer = self._refuse(_fault(request, request_id), request, request_id)
        finally:
            if visit is not None:
                visit.end(is_done, is_late)
            self._over()
        if not request.content.is_eof():  # an unread body must not be taken for the next request
            answer.keep_alive = False
        self._complete(answer, request, request_id, started)
        return answer

    def unparsed(self, fault: BaseException | None, data: bytes) -> Answer:
        """The answer to what is no request at all. `data` is what came last."""
        request_id = self._next_id()
        line = request_line(fault, data)
        try:
            problem = problem_of(fault)
        except UnknownMethod:
            problem = self._unknown_method(line.method, line.path.partition("?")[0])
        if line.path.startswith(RECEIPTED):
            problem.receipt = self._receipt_of_refusal()
        answer = render(problem, line.method, request_id)
        answer.common = self._common(request_id)
        self._metrics.count_request("none", "", answer.status, 0.0)
        return answer

    async def drained(self) -> None:
        """Waits until no request is under way; from now on every answer closes its connection."""
        self.draining = True
        if self.in_flight:
            await self._idle.wait()

    async def _route(self, request: BaseRequest, path: str, query: str, request_id: str) -> Answer:
        for prefix, named in self._routes.named:
            if path.startswith(prefix):
                handler = named.get(request.method)
                if handler is None:
                    raise _wrong_method(request.method, named)
                return await handler(request, path[len(prefix) :], query)
        page = self._routes.pages.get(path)
        if page is None:
            raise _nothing_there()
        if request.method not in page:
            raise _wrong_method(request.method, page)
        return await page[request.method](request, query, request_id)

    def _unknown_method(self, method: str, path: str) -> Problem:
        methods = self._routes.methods(path)
        problem = _wrong_method(method, methods) if methods else _nothing_there()
        problem.close = True
        return problem

    def _turned_away(self, admission: Admission | None, request: Head, request_id: str) -> Answer:
        wait_s = 0.0 if admission is None else admission.expected_s()
        return self._refusals.answer(request.method, request.raw_path.startswith(RECEIPTED), wait_s, request_id)

    async def _hold(self, request: BaseRequest, query: str, now_s: float) -> bool:
        """Waits as long as the refusal of this request is held; whether that was at all."""
        hold_s = self._hold_s(query, now_s)
        if not hold_s or not request.content.is_eof():  # a body that is still coming would lie in memory meanwhile
            return False
        self.holding.held += 1
        try:
            await asyncio.sleep(hold_s)
        finally:
            self.holding.held -= 1
        return True

    def _over(self) -> None:
        self.in_flight -= 1
        if self.draining and not self.in_flight:
            self._idle.set()

    def _refuse(self, problem: Problem, request: Head, request_id: str) -> Answer:
        if not problem.receipt and request.raw_path.startswith(RECEIPTED):
            problem.receipt = self._receipt_of_refusal()
        return render(problem, request.method, request_id)

    def _complete(self, answer: Answer, request: Head, request_id: str, started: float) -> None:
        answer.common = self._common(request_id)
        if answer.status != OVERLOADED:
            self.holding.answered()
        if self.draining:
            answer.keep_alive = False
        took_s = None if answer.has_waited else self._clock() - started
        self._metrics.count_request(request.method, answer.level, answer.status, took_s)
        if self._log_requests:
            log.debug("request", method=request.method, path=_shown(request), status=answer.status, id=request_id)

    def _common(self, request_id: str) -> str:
        second = self._wall_ms() // 1000
        if second != self._second:
            self._second = second
            self._date_lines = f"Server: kvstore\r\nDate: {http_date(second)}\r\n"
        return f"X-Request-Id: {request_id}\r\n{self._date_lines}"

    def _request_id(self, request: Head) -> str:
        given = request.headers.get(REQUEST_ID)
        return given if given is not None and _SANE_ID.fullmatch(given) else self._next_id()

    def _next_id(self) -> str:
        self._ids += 1
        return f"{self._id_prefix}-{self._ids:012x}"  # all as long, for centuries: refusals are made for any of them


class _Straight:
    """One request that has no task."""

    __slots__ = ("_admission", "_dispatcher", "_head", "_on_answer", "_request_id", "started_s")

    def __init__(
        self, dispatcher: Dispatcher, head: Head, on_answer: Callable[[Answer], None], started_s: float
    ) -> None:
        self._dispatcher, self._head = dispatcher, head
        self._on_answer: Callable[[Answer], None] | None = on_answer
        self._admission: Admission | None = None
        self.started_s = started_s
        self._request_id = dispatcher._request_id(head)

    def enter(self, admission: Admission) -> None:
        """It is let in."""
        self._admission = admission
        admission.begin()

    def respond(self, make: Callable[..., Answer], *arguments: object) -> None:
        """What came of it; see routes/kv.py."""
        try:
            answer = make(*arguments)
        except Exception as fault:
            self.refuse(fault)
        else:
            self._end(answer)

    def refuse(self, fault: Exception) -> None:
        """It is answered with an error."""
        problem = fault if isinstance(fault, Problem) else _fault(self._head, self._request_id)
        self._end(self._dispatcher._refuse(problem, self._head, self._request_id))

    def _end(self, answer: Answer) -> None:
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is None:
            return  # a fault came behind the answer; it is in the log
        dispatcher, admission = self._dispatcher, self._admission
        if admission is not None:
            took_s = dispatcher._clock() - self.started_s
            admission.end(took_s, answer.status < 500, answer.status == TIME_IS_UP)
        dispatcher._over()
        dispatcher._complete(answer, self._head, self._request_id, self.started_s)
        on_answer(answer)


def _fault(request: Head, request_id: str) -> Problem:
    log.exception("request failed", request_id=request_id, method=request.method, path=_shown(request))
    reading = request.method in ("GET", "HEAD")
    advice = "Reading again is safe." if reading else "The write may or may not be applied: read before you repeat it."
    detail = f"This node failed. Its log says why, under {request_id}. {advice}"
    return Problem("internal", detail, outcome="none" if reading else "unknown")


def _nothing_there() -> Problem:
    return Problem("not-found", "Nothing is served under this path; see /openapi.json.")


def _wrong_method(method: str, known: Collection[str]) -> Problem:
    allowed = ", ".join(known)
    detail = f"{method} is not served here; {allowed} {'is' if len(known) == 1 else 'are'}."
    return Problem("method-not-allowed", detail, headers=f"Allow: {allowed}\r\n")


def _shown(request: Head) -> str:
    path = request.raw_path.partition("?")[0]
    return escape_key(path.encode("utf-8", "surrogateescape")[:SHOWN_PATH_CHARACTERS_MAX])
