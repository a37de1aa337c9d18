"""Histories for tests: written as short lines, drawn at random, or made by a register that really is one."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvstore.verify.history import Collector, History, Kind, Outcome


def history(*events: Mapping[str, Any]) -> History:
    """The history of these events; their times count up from 0."""
    collector = Collector()
    for at, event in enumerate(events):
        collector.add({"at": float(at), **event})
    return collector.history()


def begin(process: int | str, op: str, key: str = "k", **fields: Any) -> dict[str, Any]:
    return {"process": process, "type": "invoke", "op": op, "key": key, **fields}


def end(process: int | str, outcome: str = "ok", **fields: Any) -> dict[str, Any]:
    return {"process": process, "type": outcome, **fields}


def one(process: int | str, op: str, key: str = "k", outcome: str = "ok", /, **fields: Any) -> list[dict[str, Any]]:
    """A call that nothing else overlaps. What begins with `told_` is said in the answer: told_value, told_version."""
    told = {name.removeprefix("told_"): value for name, value in fields.items() if name.startswith("told_")}
    asked = {name: value for name, value in fields.items() if not name.startswith("told_")}
    return [begin(process, op, key, **asked), end(process, outcome, **told)]


def in_a_row(*calls: Iterable[Mapping[str, Any]]) -> History:
    """One call after another."""
    return history(*(event for call in calls for event in call))


class Register:
    """One register, and clients that use it at random: what they are told is true, so there is an order."""

    def __init__(
        self,
        dice: random.Random,
        *,
        processes: int = 4,
        values: int = 3,
        kinds: Sequence[str] = (Kind.READ, Kind.PUT, Kind.CAS, Kind.DELETE, Kind.WEAK_PUT),
        unknown: float = 0.1,
        versions: bool = False,
        key: str = "k",
    ) -> None:
        self._dice, self._values, self._kinds = dice, values, kinds
        self._unknown, self._versions, self._key = unknown, versions, key
        self._idle: list[int] = list(range(processes))
        self._processes = processes
        self._value: Any = None
        self._version: int | None = None
        self._written = 0
        self._called: dict[int, dict[str, Any]] = {}
        self._to_answer: dict[int, dict[str, Any]] = {}
        self._late: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []

    def run(self, operations: int) -> list[dict[str, Any]]:
        """The events of so many calls."""
        begun = 0
        while begun < operations or self._called or self._to_answer:
            draw = self._dice.random()
            if draw < 0.4 and begun < operations and self._idle:
                self._begin()
                begun += 1
            elif draw < 0.7 and self._called:
                self._take_effect(self._dice.choice(sorted(self._called)))
            elif draw < 0.75 and self._late:
                self._late_effect(self._late.pop(self._dice.randrange(len(self._late))))
            elif self._to_answer:
                self._answer(self._dice.choice(sorted(self._to_answer)))
        return self.events

    def _begin(self) -> None:
        process = self._idle.pop(self._dice.randrange(len(self._idle)))
        kind = self._dice.choice(self._kinds)
        call: dict[str, Any] = begin(process, kind, self._key)
        if kind in (Kind.PUT, Kind.CAS, Kind.WEAK_PUT, Kind.APPEND):
            call["value"] = str(self._dice.randrange(self._values))
        if kind == Kind.CAS and self._versions:
            call["expected_version"] = self._dice.choice((None, self._version))
        elif kind == Kind.CAS:
            call["expected"] = self._dice.choice((None, *map(str, range(self._values))))
        self._called[process] = call
        self.events.append(dict(call))

    def _take_effect(self, process: int) -> None:
        call = self._called.pop(process)
        is_write = call["op"] != Kind.READ
        is_unknown = is_write and self._dice.random() < self._unknown
        if is_unknown or call["op"] == Kind.WEAK_PUT:
            self._late.append(call)
            self._to_answer[process] = end(process, "unknown" if is_unknown else "ok")
            return
        self._to_answer[process] = end(process, **self._done(call))

    def _done(self, call: Mapping[str, Any]) -> dict[str, Any]:
        if call["op"] == Kind.READ:
            return {"value": self._value, **self._told()}
        if call["op"] == Kind.CAS and not self._holds(call):
            return {"outcome": "conflict", **(self._told() or {"value": self._value})}
        self._write(call)
        return self._told() if self._value is not None else {}

    def _told(self) -> dict[str, Any]:
        return {"version": self._version} if self._versions else {}

    def _holds(self, call: Mapping[str, Any]) -> bool:
        if self._versions:
            return bool(call["expected_version"] == self._version)
        return bool(call["expected"] == self._value)

    def _write(self, call: Mapping[str, Any]) -> None:
        self._written += 1
        before = self._value or "" if call["op"] == Kind.APPEND else ""
        self._value = None if call["op"] == Kind.DELETE else f"{before}{call['value']}"
        self._version = None if self._value is None else self._written

    def _late_effect(self, call: Mapping[str, Any]) -> None:
        if call["op"] != Kind.CAS or self._holds(call):
            self._write(call)

    def _answer(self, process: int) -> None:
        answer = self._to_answer.pop(process)
        self.events.append(answer)
        if answer["type"] == Outcome.UNKNOWN:  # that process is not used again
            process = self._processes
            self._processes += 1
        self._idle.append(process)
