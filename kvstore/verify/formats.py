"""Histories in the formats that others use: Jepsen's log of etcd, and the key-value logs of Porcupine's tests.

Both tell no times: the order of the lines is the order of real time, and a line's number stands for its time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from kvstore.verify.history import Collector, History, HistoryError, read_history

ETCD_KEY: Final = "register"
"""Such a log is of one key and does not say which."""

_ETCD_LINE: Final = re.compile(r"INFO\s+jepsen\.util\s+-\s+(\S+)\s+:(invoke|ok|fail|info)\s+:(read|write|cas)\s+(.*)")
_ETCD_CAS: Final = re.compile(r"\[\s*(-?\d+|nil)[\s,]+(-?\d+|nil)\s*\]")
_KV_LINE: Final = re.compile(r"\{\s*:process\b.*\}")
_KV_FIELD: Final = re.compile(r':(\w+)\s+(?::(\w+)|"((?:[^"\\]|\\.)*)"|(-?\d+)|(nil))\s*,?')

Event = Mapping[str, Any]


def read_etcd(path: Path) -> History:
    """`INFO  jepsen.util - <process> :invoke|:ok|:fail|:info :read|:write|:cas <value>`; the register begins as nil.

    A failed cas saw another value than it expected; a read that timed out says nothing; `:info` is open for ever.
    """
    return _read(path, _etcd_event)


def read_kv(path: Path) -> History:
    """`{:process P, :type :invoke|:ok, :f :get|:put|:append, :key "K", :value nil|"V"}`; a key begins as ""."""
    return _read(path, _kv_event)


FORMATS: Final[Mapping[str, Callable[[Path], History]]] = {"jsonl": read_history, "etcd": read_etcd, "kv": read_kv}
INITIAL: Final[Mapping[str, Any]] = {"jsonl": None, "etcd": None, "kv": ""}
"""What a key holds at the beginning, by format."""


def read_as(path: Path, form: str) -> History:
    """The history in a file of that format. Raises HistoryError, with the number of the line."""
    return FORMATS[form](path)


def guess_format(path: Path) -> str:
    """The format that the first line looks like."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("INFO"):
        return "etcd"
    return "kv" if first.startswith("{:") else "jsonl"


def _read(path: Path, event_of: Callable[[str], Event]) -> History:
    collector = Collector()
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                collector.add({**event_of(line.strip()), "at": float(number)})
            except HistoryError as error:
                raise HistoryError(f"{path}, line {number}: {error}") from None
    return collector.history(str(path))


def _etcd_event(line: str) -> Event:
    match = _ETCD_LINE.fullmatch(line)
    if match is None:
        raise HistoryError(f"no line of an etcd history: {line[:80]!r}")
    process, kind, function, value = match.groups()
    event: dict[str, Any] = {"process": _number_or_text(process), "op": _ETCD_OPS[function], "key": ETCD_KEY}
    event["type"] = {"info": "unknown"}.get(kind, kind)
    if kind == "fail" and function == "cas":
        event["type"] = "conflict" if _ETCD_CAS.fullmatch(value) else "fail"
    elif kind == "invoke" and function == "cas":
        event["expected"], event["value"] = _etcd_pair(value)
    elif (kind == "invoke" and function == "write") or (kind == "ok" and function == "read"):
        event["value"] = _etcd_value(value)
    return event


_ETCD_OPS: Final = {"read": "read", "write": "put", "cas": "cas"}


def _etcd_pair(text: str) -> tuple[Any, Any]:
    match = _ETCD_CAS.fullmatch(text)
    if match is None:
        raise HistoryError(f"a cas has [from to], not {text!r}")
    return _etcd_value(match[1]), _etcd_value(match[2])


def _etcd_value(text: str) -> Any:
    return None if text == "nil" else _number_or_text(text)


def _number_or_text(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _kv_event(line: str) -> Event:
    if _KV_LINE.fullmatch(line) is None:
        raise HistoryError(f"no line of a kv history: {line[:80]!r}")
    fields: dict[str, Any] = {}
    for name, word, text, number, nil in _KV_FIELD.findall(line[1:-1]):
        fields[name] = word or (int(number) if number else None if nil else _unescaped(text))
    try:
        event = {
            "process": fields["process"],
            "type": {"info": "unknown"}.get(fields["type"], fields["type"]),
            "op": _KV_OPS[fields["f"]],
            "key": str(fields["key"]),
        }
    except KeyError as missing:
        raise HistoryError(f"this line lacks {missing}, or has a value for it that is not known") from None
    invokes = fields["type"] == "invoke"
    if invokes != (fields["f"] == "get") and fields.get("value") is not None:
        event["value"] = fields["value"]
    return event


_KV_OPS: Final = {"get": "read", "put": "put", "append": "append"}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text) if "\\" in text else text
