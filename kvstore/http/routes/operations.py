"""The operations of a batch: how they are written, and the requests that they stand for."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from cluster.levels import Level
from cluster.requests import ALWAYS, Condition, Fence, ReadRequest, WriteRequest
from kvstore.http.incoming.conditions import IF_ABSENT, checked_level, parse_fence, parse_if_match
from kvstore.http.incoming.key_path import checked_key
from kvstore.http.incoming.media import DEFAULT, checked_type
from kvstore.http.incoming.parameters import BatchChoice, parse_ttl
from kvstore.http.incoming.strict_json import decode_json, refuse_ambiguity
from kvstore.http.outgoing.problems import Problem

OPERATIONS_MAX = 1_000
BODY_BYTES_MAX = 16 << 20
"""With OPERATIONS_MAX: what one request may take of this node's memory and time."""

AT_ONCE_BYTES_MAX = 1 << 20
"""A larger body is not held three times for the sake of speed."""


class BatchBody(Struct, forbid_unknown_fields=True):
    """The request's body. Operations are parsed one by one, so that a bad one leaves the others alone."""

    operations: list[Raw]


class Operation(Struct, forbid_unknown_fields=True, gc=False):
    """One operation, as it is written."""

    op: Literal["get", "put", "delete"]
    key: str
    value: str | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET
    if_match: str | UnsetType = UNSET
    """A version, with or without the double quotes of an ETag, or `*`."""
    create: bool | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    ttl: str | UnsetType = UNSET
    fence: str | UnsetType = UNSET
    """As in the header KV-Fence."""


class WholeBody(Struct, forbid_unknown_fields=True):
    """The request's body, where each of its operations is well formed, as nearly always."""

    operations: list[Operation]


Sent = Operation | Raw
"""An operation of a body: as it was read, or still to be."""
_decode_whole = msgspec.json.Decoder(WholeBody).decode
_encode = msgspec.json.Encoder().encode
_FOR_PUT_ONLY = ("value", "value_base64", "create", "content_type", "ttl")


class Named(Struct):
    """What of an operation that can't be carried out is still told of it."""

    op: Any = None
    key: Any = None


def parse_batch(body: bytes) -> Sequence[Sent]:
    """The operations of a batch, each still to be checked. Raises Problem bad-json or too-large."""
    at_once = _parse_at_once(body) if len(body) <= AT_ONCE_BYTES_MAX else None
    operations = decode_json(body, BatchBody).operations if at_once is None else at_once
    if len(operations) > OPERATIONS_MAX:
        detail = f"A batch has {OPERATIONS_MAX:,} operations at most, not {len(operations):,}; nothing was done."
        raise Problem("too-large", detail, limit=OPERATIONS_MAX)
    if at_once is None:
        refuse_ambiguity(body)
    return operations


def _parse_at_once(body: bytes) -> Sequence[Sent] | None:
    """The operations, where all are well formed and no field stands twice; None where that is not certain.

    Each text of a JSON has two quotes, and where nothing is escaped there are no others: a body of as many quotes as
    what was read of it has no field that was read over.
    """
    if b"\\" in body:
        return None
    try:
        whole = _decode_whole(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return whole.operations if _encode(whole).count(b'"') == body.count(b'"') else None


def name_of(sent: Sent) -> Named:
    """What the operation says that it is, whatever else is wrong with it."""
    if isinstance(sent, Operation):
        return Named(sent.op, sent.key)
    try:
        return decode_json(sent, Named)
    except Problem:
        return Named()


def parse_operation(sent: Sent, choice: BatchChoice, value_bytes_max: int) -> ReadRequest | WriteRequest:
    """The request that the operation stands for. Raises Problem."""
    operation = sent if isinstance(sent, Operation) else decode_json(sent, Operation)
    key = _key(operation.key)
    if operation.op == "get":
        _refuse_fields(operation, (*_FOR_PUT_ONLY, "if_match"))
        return ReadRequest(key, choice.level, choice.reads_needed, choice.timeout_s, _fence(operation, choice.level))
    if operation.op == "delete":
        _refuse_fields(operation, _FOR_PUT_ONLY)
        value, content_type = None, ""
    else:
        value = _value(operation, value_bytes_max)
        content_type = DEFAULT if operation.content_type is UNSET else checked_type(operation.content_type)
    condition, fence = checked_level(_condition(operation), choice.level), _fence(operation, choice.level)
    level, needed, timeout_s, ttl_ms = choice.level, choice.writes_needed, choice.timeout_s, _ttl_ms(operation)
    return WriteRequest(key, value, content_type, level, needed, timeout_s, condition, ttl_ms, fence)


def _key(text: str) -> bytes:
    try:
        return checked_key(text.encode())
    except ValueError as fault:
        raise Problem("bad-key", f"{fault}; a key is 1 to 1,024 bytes of UTF-8 without NUL") from None


def _value(operation: Operation, value_bytes_max: int) -> bytes:
    text, coded = operation.value, operation.value_base64
    if (text is UNSET) == (coded is UNSET):
        raise _bad("value", "a put has either value, a text, or value_base64")
    try:
        value = b64decode(coded, validate=True) if coded is not UNSET else text.encode() if text is not UNSET else b""
    except ValueError:
        raise _bad("value_base64", "it is no base64 (RFC 4648, with padding)") from None
    if len(value) > value_bytes_max:
        detail = f"The value is larger than {value_bytes_max:,} bytes; it was not written."
        raise Problem("too-large", detail, limit=value_bytes_max)
    return value


def _condition(operation: Operation) -> Condition:
    if operation.if_match is UNSET:
        return IF_ABSENT if operation.create is True else ALWAYS
    if operation.create is True:
        raise _bad("create", "not together with if_match: a write has one condition")
    text = operation.if_match
    try:
        return parse_if_match(text if text == "*" or text.startswith(('"', "W/")) else f'"{text}"')
    except ValueError as fault:
        raise _bad("if_match", str(fault)) from None


def _fence(operation: Operation, level: Level) -> Fence | None:
    if operation.fence is UNSET:
        return None
    return parse_fence(operation.fence, level, "Field fence", is_read=operation.op == "get")


def _ttl_ms(operation: Operation) -> int:
    if operation.ttl is UNSET:
        return 0
    try:
        return parse_ttl(operation.ttl)
    except ValueError as fault:
        raise _bad("ttl", str(fault)) from None


def _refuse_fields(operation: Operation, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(operation, name) is not UNSET:
            raise _bad(name, f"a {operation.op} does not take it")


def _bad(field: str, why: str) -> Problem:
    return Problem("bad-parameter", f"Field {field}: {why}.", parameter=field)
