"""What clients asked and what they were told: the history that the checkers judge.

One event a line, as JSON, in the order in which things happened:

    {"process": 1, "type": "invoke", "op": "put", "key": "k", "value": "a", "at": 0.5}
    {"process": 1, "type": "ok", "op": "put", "key": "k", "version": "6c1f", "at": 0.75}

`type` is what became of the call, and its meaning is strict:

* ok: it was done, and this is what was told.
* conflict: its condition did not hold; `value` or `version` is what was there instead. An observation.
* fail: it is *proved* that nothing was done, now or later.
* unknown: everything else. It may be done at any time from then on, once, or never: the call stays open.

The order of the lines is the order of real time; `at` (seconds of one monotonic clock) is for people. A process
has one call in flight at most. Calls without a completion are unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import msgspec
import orjson
from msgspec import UNSET, UnsetType

Process = int | str

INVOKE: Final = "invoke"


class Outcome(StrEnum):
    """What a client was told of a call."""

    OK = "ok"
    CONFLICT = "conflict"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """The operations that checkers know. `value` is what a call writes, or in an ok what it was answered."""

    READ = "read"
    """ok: `value` (null: there is none), `version` if it was told."""
    PUT = "put"
    DELETE = "delete"
    CAS = "cas"
    """Writes `value` (null: deletes) if the key holds `expected`, or is at `expected_version` (null: absent)."""
    APPEND = "append"
    """Puts `value` behind the text that is there."""
    WEAK_READ = "weak-read"
    """Promises nothing to others; sessions may claim something of it."""
    WEAK_PUT = "weak-put"
    """A blind write that takes effect once, at some time after it was sent, or never."""
    WEAK_DELETE = "weak-delete"
    ADD = "add"
    """Adds the element `value` to the set `key`."""
    READ_ALL = "read-all"
    """ok: `value` is the list of all elements of the set `key`."""
    INCREMENT = "increment"
    """Adds `value` to the counter `key`."""
    COUNT = "count"
    """ok: `value` is what the counter `key` stands at."""
    ACQUIRE = "acquire"
    """The lock `key` for `ttl` seconds. ok: `fence`. conflict: somebody else holds it."""
    RENEW = "renew"
    """Carries `fence`, and `ttl` where it is not the grant's. conflict: the lock is lost."""
    RELEASE = "release"
    """Carries `fence`. conflict: the lock was lost before."""
    FENCED_PUT = "fenced-put"
    """A put to `key` under the lock `lock` and its `fence`. conflict: a higher fence was there."""
    VOTE = "vote"
    """Proposes `value` in the vote `key`. ok: `value` is the winner."""
    RESULT = "result"
    """ok: `value` is the winner of the vote `key`; null while there is none."""
    INSPECT = "inspect"
    """What the replica on `node` itself holds of `key` after everything was healed. ok: `value`, `version`."""


class HistoryError(Exception):
    """This is not a history; says in which line, and why."""


class Operation(msgspec.Struct, frozen=True):
    """One call from its invocation to its completion."""

    process: Process
    kind: str
    key: str
    argument: Any
    """The `value` of the invocation."""
    expected: Any
    """Of a cas; UNSET when it goes by `expected_version`."""
    start: float
    end: float | None
    """Seconds. None: open for ever."""
    outcome: Outcome
    result: Any
    """The `value` of the completion; UNSET when none was told."""
    invoked: int
    """Its place in the order of events; no two events share one."""
    completed: int | None
    """The same for its completion. None: open for ever."""
    version: str | int | UnsetType | None = UNSET
    """The version it wrote, read or was refused for; None: there was none. UNSET when it was not told."""
    expected_version: str | int | UnsetType | None = UNSET
    more: Mapping[str, Any] = {}
    """Whatever else its two events said: node, level, fence, ttl, error."""

    @property
    def is_open(self) -> bool:
        """Whether it may take effect at any time after its start, or never."""
        return self.completed is None


class Call(NamedTuple):
    """What `begin` returns, for the completion."""

    process: Process
    op: str
    key: str
    order: int


class History:
    """Operations in the order of their invocations."""

    def __init__(self, operations: Iterable[Operation], source: str = "") -> None:
        self.operations: tuple[Operation, ...] = tuple(operations)
        self.source = source
        """Where it was read from, for messages."""

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def of(self, *kinds: str) -> list[Operation]:
        """The operations of these kinds."""
        return [operation for operation in self.operations if operation.kind in kinds]

    def outcomes(self) -> dict[str, dict[str, int]]:
        """Kind -> outcome -> how many: what a run with no successful reads, say, must not hide."""
        counts: dict[str, dict[str, int]] = {}
        for operation in self.operations:
            of_kind = counts.setdefault(operation.kind, {})
            of_kind[operation.outcome] = of_kind.get(operation.outcome, 0) + 1
        return counts


class Recorder:
    """Writes a history while it happens. Not for several threads: the order of its lines is the order of time."""

    def __init__(self, clock: Callable[[], float], file: IO[bytes] | None = None) -> None:
        """clock: seconds, monotonic. file: each event is appended to it at once, so that a crash loses none."""
        self._clock, self._file = clock, file
        self._collector = Collector()
        self._began = clock()

    def begin(self, process: Process, op: str, key: str, **fields: Any) -> Call:
        """Call this before the request leaves. `fields`: value, expected, expected_version, and whatever helps."""
        event = {"process": process, "type": INVOKE, "op": str(op), "key": key, **fields, "at": self._now()}
        order = self._collector.add(event)
        self._write(event)
        return Call(process, op, key, order)

    def end(self, call: Call, outcome: Outcome | str, **fields: Any) -> None:
        """Call this once the answer is there, or there will be none. `fields`: value, version, and whatever helps."""
        event = {"process": call.process, "type": str(outcome), "op": str(call.op), "key": call.key, **fields}
        event["at"] = self._now()
        self._collector.add(event)
        self._write(event)

    def ok(self, call: Call, **fields: Any) -> None:
        """It was done."""
        self.end(call, Outcome.OK, **fields)

    def conflict(self, call: Call, **fields: Any) -> None:
        """Its condition did not hold at what `value` or `version` says."""
        self.end(call, Outcome.CONFLICT, **fields)

    def fail(self, call: Call, **fields: Any) -> None:
        """It is proved that nothing was done."""
        self.end(call, Outcome.FAIL, **fields)

    def unknown(self, call: Call, **fields: Any) -> None:
        """It may have been done, or may be done yet."""
        self.end(call, Outcome.UNKNOWN, **fields)

    def history(self) -> History:
        """All there is by now; calls in flight are unknown."""
        return self._collector.history()

    def _now(self) -> float:
        return round(self._clock() - self._began, 6)

    def _write(self, event: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(orjson.dumps(event) + b"\n")
            self._file.flush()


class Collector:
    """Makes operations of events, and refuses what is no history."""

    def __init__(self) -> None:
        self._events = 0
        self._operations: list[Operation | None] = []
        self._in_flight: dict[Process, tuple[int, int, Mapping[str, Any]]] = {}
        """process -> (index of the operation, order of the invocation, the invocation)."""

    def add(self, event: Mapping[str, Any]) -> int:
        """Takes the next event; returns its place in the order."""
        order = self._events
        self._events += 1
        try:
            process, kind = event["process"], event["type"]
        except KeyError as missing:
            raise HistoryError(f"an event without {missing}") from None
        if kind == INVOKE:
            self._invoke(process, event, order)
        else:
            self._complete(process, event, order)
        return order

    def _invoke(self, process: Process, event: Mapping[str, Any], order: int) -> None:
        if process in self._in_flight:
            raise HistoryError(f"process {process!r} invokes a call while another of its own is in flight")
        if not isinstance(event.get("op"), str) or not isinstance(event.get("key"), str):
            raise HistoryError("an invocation needs op and key, both texts")
        self._in_flight[process] = (len(self._operations), order, event)
        self._operations.append(None)

    def _complete(self, process: Process, event: Mapping[str, Any], order: int) -> None:
        try:
            outcome = Outcome(event["type"])
        except ValueError:
            raise HistoryError(f"{event['type']!r} is no type of event") from None
        if process not in self._in_flight:
            raise HistoryError(f"process {process!r} completes a call that it did not invoke")
        index, invoked, invocation = self._in_flight.pop(process)
        for field in ("op", "key"):
            if event.get(field, invocation[field]) != invocation[field]:
                raise HistoryError(f"process {process!r} completes another {field} than it invoked")
        self._operations[index] = _operation(invocation, invoked, event, order, outcome)

    def history(self, source: str = "") -> History:
        """All operations by now; what has no completion is unknown."""
        operations = list(self._operations)
        for index, invoked, invocation in self._in_flight.values():
            operations[index] = _operation(invocation, invoked, {}, None, Outcome.UNKNOWN)
        return History((operation for operation in operations if operation is not None), source)


KNOWN_FIELDS: Final = frozenset(
    ("process", "type", "op", "key", "value", "expected", "version", "expected_version", "at")
)


def _operation(
    invocation: Mapping[str, Any],
    invoked: int,
    completion: Mapping[str, Any],
    completed: int | None,
    outcome: Outcome,
) -> Operation:
    is_open = completed is None or outcome is Outcome.UNKNOWN
    more = {name: value for name, value in invocation.items() if name not in KNOWN_FIELDS}
    more.update((name, value) for name, value in completion.items() if name not in KNOWN_FIELDS)
    start = invocation.get("at", float(invoked))
    return Operation(
        process=invocation["process"],
        kind=invocation["op"],
        key=invocation["key"],
        argument=invocation.get("value"),
        expected=invocation.get("expected", UNSET),
        start=start,
        end=None if is_open else completion.get("at", float(completed or 0)),
        outcome=outcome,
        result=completion.get("value", UNSET),
        invoked=invoked,
        completed=None if is_open else completed,
        version=completion.get("version", UNSET),
        expected_version=invocation.get("expected_version", UNSET),
        more=more,
    )


def read_json_lines(lines: Iterable[bytes | str], source: str = "") -> History:
    """The history that these lines tell. Raises HistoryError, with the number of the line."""
    collector = Collector()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = orjson.loads(line)
            if not isinstance(event, dict):
                raise HistoryError("a line is a JSON object")
            collector.add(event)
        except (orjson.JSONDecodeError, HistoryError, TypeError) as error:
            raise HistoryError(f"{source or 'history'}, line {number}: {error}") from None
    return collector.history(source)


def read_history(path: Path) -> History:
    """The history in a file of JSON lines."""
    with path.open("rb") as file:
        return read_json_lines(file, str(path))


def events_of(history: Iterable[Operation]) -> list[dict[str, Any]]:
    """The events that these operations came from, in order; what was told later than `unknown` is not."""
    events: list[tuple[int, dict[str, Any]]] = []
    for operation in history:
        who: dict[str, Any] = {"process": operation.process, "op": operation.kind, "key": operation.key}
        asked = {"value": operation.argument, "expected": operation.expected}
        asked["expected_version"] = operation.expected_version
        invoke = {**who, "type": INVOKE, **_told(asked), **operation.more, "at": operation.start}
        events.append((operation.invoked, invoke))
        if operation.completed is not None:
            answer = _told({"value": operation.result, "version": operation.version})
            done = {**who, "type": str(operation.outcome), **answer, "at": operation.end}
            events.append((operation.completed, done))
    return [event for _, event in sorted(events, key=lambda pair: pair[0])]


def write_history(history: Iterable[Operation], path: Path) -> None:
    """Writes the operations as JSON lines."""
    path.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events_of(history)))


def _told(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not UNSET}
