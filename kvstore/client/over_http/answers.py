"""From a node's answers to values, and from values to what a node takes. Pure functions."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from kvstore.client.values import (
    Decision,
    Delete,
    Entry,
    Fence,
    Get,
    Holder,
    LockInfo,
    Operation,
    Page,
    Put,
    Receipt,
    Value,
    Written,
    fence_of,
)
from kvstore.errors import OutcomeUnknown, ReadFailed
from kvstore.http_client import Answer

Result = TypeVar("Result")

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
        headers["ETag"].strip('"'),
        headers.get("Content-Type", "application/octet-stream"),
        float(headers["KV-Expires-In"]) if "KV-Expires-In" in headers else None,
        receipt_of(headers),
    )


def written_of(answer: Answer) -> Written:
    """A write's receipt."""
    body = msgspec.json.decode(answer.body, type=_WrittenBody)
    return Written(body.key, body.version, body.consistency, body.acks, body.replicas, receipt_of(answer.headers))


class _WrittenBody(msgspec.Struct):
    key: str
    version: str
    consistency: str
    acks: int
    replicas: int


class GrantBody(msgspec.Struct):
    """A lock that was acquired."""

    owner: str
    token: str
    fence: int


class FenceBody(msgspec.Struct):
    """A lock that was renewed or released."""

    fence: int


def read(answer: Answer, reader: Callable[[Answer], Result], *, is_read: bool) -> Result:
    """What the answer says, by its reader. Raises OutcomeUnknown, of a read ReadFailed, where it is not the API's.

    A proxy's page of its own, say, or a server of something else at this address: nobody knows what it did with the
    request, and whether a node ever saw it.
    """
    try:
        return reader(answer)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        where = f"{answer.endpoint} answered {answer.status} with what is no answer of this API ({_why(error)})"
        if is_read:
            told = f"{where}, so nothing was read. Check that a node listens there, then read again: that is safe."
            raise ReadFailed(told, status=answer.status) from error
        told = (
            f"{where}, so the write may be applied, or may never have reached a node. "
            "Check that a node listens there, and read before you repeat it."
        )
        raise OutcomeUnknown(told, status=answer.status) from error


def _why(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


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


def page_of(answer: Answer) -> Page:
    """A part of a listing."""
    body = answer.json()
    return Page(tuple(entry_of(item) for item in body["keys"]), body.get("next"))


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


def lock_infos_of(answer: Answer) -> tuple[list[LockInfo], str | None]:
    """A part of the locks that are held, and after which the next begins."""
    body = answer.json()
    return [lock_info_of(item) for item in body["locks"]], body.get("next")


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
