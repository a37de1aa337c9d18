"""From a node's answers to values, and from values to what a node takes. Pure functions."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from kvstore.client.values import (
    Decision,
    Delete,
    Entry,
    Fence,
    Get,
    Holder,
    LockInfo,
    Operation,
    Put,
    Receipt,
    Value,
    Written,
    fence_of,
)
from kvstore.http_client import Answer

_MEMBER = re.compile(r'([a-z]+)=(?:"([^"]*)"|([^,\s]+))')
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", re.ASCII)


# -- what a node takes ---------------------------------------------------------------------------------------------


def duration_text(seconds: float) -> str:
    """`2s` or `250ms`: whole seconds where it can be, for nodes read no number of more than nine digits."""
    ms = round(seconds * 1000)
    return f"{ms}ms" if ms % 1000 else f"{ms // 1000}s"


def fence_text(fence: Fence) -> str:
    """As the header KV-Fence and a batch have it."""
    return f"{quote(fence.lock, safe='')}={fence.fence}"


def etag(version: str) -> str:
    """As If-Match has it."""
    return version if version == "*" else f'"{version}"'


def operation_json(operation: Operation) -> dict[str, Any]:
    """An operation as a batch has it."""
    match operation:
        case Get():
            told: dict[str, Any] = {"op": "get", "key": operation.key}
        case Delete():
            told = {"op": "delete", "key": operation.key}
        case Put():
            told = {"op": "put", "key": operation.key, **_value_json(operation.value)}
            if operation.create:
                told["create"] = True
            if operation.ttl is not None:
                told["ttl"] = duration_text(operation.ttl)
            if operation.content_type is not None:
                told["content_type"] = operation.content_type
    if not isinstance(operation, Get) and operation.if_match is not None:
        told["if_match"] = operation.if_match
    if (fence := fence_of(operation.fence)) is not None:
        told["fence"] = fence_text(fence)
    return told


def _value_json(value: bytes | str) -> dict[str, str]:
    if isinstance(value, str):
        return {"value": value}
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode()}


# -- what a node says ----------------------------------------------------------------------------------------------


def receipt_of(headers: Mapping[str, str]) -> Receipt | None:
    """The KV-Receipt, where there is one."""
    text = headers.get("KV-Receipt")
    if text is None:
        return None
    members = {name: quoted or plain for name, quoted, plain in _MEMBER.findall(text)}
    return Receipt(
        level=members.get("consistency"),
        n=_whole(members.get("n")),
        needed=_whole(members.get("needed")),
        acks=_whole(members.get("acks")),
        replicas=tuple(members.get("replicas", "").split()),
        coordinator=members.get("coordinator"),
        epoch=_whole(members.get("epoch")),
        age=float(members["age"]) if "age" in members else None,
        hinted=members.get("hinted") == "1",
    )


def value_of(key: str, answer: Answer) -> Value:
    """A key's value as GET answers it."""
    headers = answer.headers
    return Value(
        key,
        answer.body,
        headers.get("ETag", "").strip('"'),
        headers.get("Content-Type", "application/octet-stream"),
        float(headers["KV-Expires-In"]) if "KV-Expires-In" in headers else None,
        receipt_of(headers),
    )


def written_of(answer: Answer) -> Written:
    """A write's receipt."""
    body = answer.json()
    return Written(
        body["key"], body["version"], body["consistency"], body["acks"], body["replicas"], receipt_of(answer.headers)
    )


def result_of(operation: Operation, result: Mapping[str, Any], receipt: Receipt | None) -> Value | Written:
    """What became of an operation of a batch that succeeded. `receipt` is the whole batch's."""
    if isinstance(operation, Get):
        value = bytes_of(result) or b""
        return Value(operation.key, value, result["version"], result["content_type"], result.get("expires_in"), receipt)
    receipt = receipt or Receipt()
    return Written(operation.key, result["version"], receipt.level or "", result["acks"], receipt.n or 0, receipt)


def entry_of(item: Mapping[str, Any]) -> Entry:
    """A key of a listing."""
    return Entry(
        item["key"], item["version"], item["size"], item["content_type"], bytes_of(item), item.get("expires_in")
    )


def bytes_of(item: Mapping[str, Any]) -> bytes | None:
    """The value in a listing or a batch: text as it is, other bytes as base64."""
    if "value" in item:
        return str(item["value"]).encode()
    return base64.b64decode(item["value_base64"]) if "value_base64" in item else None


def lock_info_of(item: Mapping[str, Any]) -> LockInfo:
    """A lock as a node shows it."""
    holders = tuple(
        Holder(one["owner"], one["fence"], seconds_of(one["lease"]), one.get("expires_in"))
        for one in item.get("holders", ())
    )
    return LockInfo(
        item["name"],
        item["holder"],
        item["fence"],
        seconds_of(item["lease"]),
        item.get("expires_in"),
        item.get("waiters", 0),
        item.get("permits", 1),
        holders,
    )


def decision_of(answer: Answer) -> Decision:
    """A vote's decision; 201 says that this very proposal made it."""
    body = answer.json()
    return Decision(body["name"], body["winner"], body.get("value"), answer.status == 201, body.get("decided_at"))


def seconds_of(duration: str) -> float:
    """`10s` in seconds. Raises ValueError."""
    parts = _DURATION.fullmatch(duration)
    if parts is None:
        raise ValueError(f"{duration!r} is no duration")
    return float(parts[1]) * _UNITS_S[parts[2]]


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
