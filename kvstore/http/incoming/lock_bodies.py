"""What requests about locks, votes and elections say in their bodies, and in the header that proves a holder.

A token is a secret: no refusal repeats one, or anything else of a body but the names of its fields.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct
from multidict import CIMultiDictProxy, istr

from cluster.locks.lock_state import OWNER_BYTES_MAX, PERMITS_MAX, TTL_S_MAX, TTL_S_MIN, WAIT_S_MAX
from cluster.locks.vote import CANDIDATE_BYTES_MAX, VALUE_BYTES_MAX, Proposal
from kvstore.http.incoming.durations import LONG_UNITS_MS, duration_ms
from kvstore.http.incoming.key_path import checked_text
from kvstore.http.incoming.strict_json import decode_json, refuse_ambiguity
from kvstore.http.outgoing.problems import Problem

LOCK_BODY_BYTES_MAX = 4_096
"""The longest owner, each of its bytes escaped, and as much again."""
VOTE_BODY_BYTES_MAX = VALUE_BYTES_MAX + LOCK_BODY_BYTES_MAX
TOKEN_CHARACTERS_MAX = 256
"""Ours have 32; a longer one is none of ours, and not worth more of a look."""
TTL = "10s"
"""The lease of who asks for none: long enough for a pause of the process, short enough to wait for."""

KV_LOCK_TOKEN = istr("KV-Lock-Token")

T = TypeVar("T")


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What somebody who wants a lock, or to lead, has said."""

    owner: str
    ttl_ms: int
    wait_s: float
    permits: int


class _AcquireBody(Struct, forbid_unknown_fields=True):
    owner: str
    ttl: Any = TTL
    wait: Any = "0"
    permits: int = 1


class _CampaignBody(Struct, forbid_unknown_fields=True):
    candidate: str
    ttl: Any = TTL
    wait: Any = "0"


class _TokenBody(Struct, forbid_unknown_fields=True):
    token: str


class _ProposalBody(Struct, forbid_unknown_fields=True):
    candidate: str
    value: Raw = Raw(b"null")


def parse_acquire(body: bytes) -> Asked:
    """Of `{"owner", "ttl", "wait", "permits"}`. Raises Problem bad-json or bad-parameter."""
    said = _decode(body, _AcquireBody)
    owner = _text("owner", said.owner, OWNER_BYTES_MAX)
    if not 1 <= said.permits <= PERMITS_MAX:
        raise bad_field("permits", f"it is out of range; it is 1 to {PERMITS_MAX}")
    return Asked(owner, _ttl_ms(said.ttl), _wait_s(said.wait), said.permits)


def parse_campaign(body: bytes) -> Asked:
    """Of `{"candidate", "ttl", "wait"}`. Raises Problem bad-json or bad-parameter."""
    said = _decode(body, _CampaignBody)
    return Asked(_text("candidate", said.candidate, OWNER_BYTES_MAX), _ttl_ms(said.ttl), _wait_s(said.wait), 1)


def parse_token(body: bytes) -> str:
    """Of `{"token"}`. Raises Problem bad-json or bad-parameter."""
    token = _decode(body, _TokenBody).token
    if not _is_token(token):
        raise bad_field("token", _NO_TOKEN)
    return token


def parse_proposal(body: bytes) -> Proposal:
    """Of `{"candidate", "value"}`; the value stays as its writer wrote it. Raises Problem."""
    said = _decode(body, _ProposalBody)
    candidate, value = _text("candidate", said.candidate, CANDIDATE_BYTES_MAX), bytes(said.value)
    decode_json(value, object)  # Raw was only skipped over: what no reader could read must not win
    if len(value) > VALUE_BYTES_MAX:
        detail = f"The value is larger than {VALUE_BYTES_MAX:,} bytes of JSON; nothing was proposed. Store it as a key."
        raise Problem("too-large", detail, limit=VALUE_BYTES_MAX)
    return Proposal(candidate, value)


def token_header(headers: CIMultiDictProxy[str]) -> str:
    """The token that a DELETE comes with. Raises Problem bad-parameter."""
    tokens = headers.getall(KV_LOCK_TOKEN, [])
    if len(tokens) != 1:
        fault = "it is missing; it proves the holder" if not tokens else "it stands there more than once"
    elif not _is_token(tokens[0]):
        fault = _NO_TOKEN
    else:
        return tokens[0]
    raise Problem("bad-parameter", f"Header {KV_LOCK_TOKEN}: {fault}. Nothing was done.", parameter=str(KV_LOCK_TOKEN))


_NO_TOKEN = f"it is no token; send the one that came with the grant, 1 to {TOKEN_CHARACTERS_MAX} characters of ASCII"


def bad_field(field: str, why: str) -> Problem:
    """A field whose value can't be used."""
    return Problem("bad-parameter", f"Field {field}: {why}. Nothing was done.", parameter=field)


def _decode(body: bytes, kind: type[T]) -> T:
    said = decode_json(body, kind)
    refuse_ambiguity(body)
    return said


def _text(field: str, text: str, bytes_max: int) -> str:
    coded = text.encode()
    if not 1 <= len(coded) <= bytes_max:
        raise bad_field(field, f"it has {len(coded):,} bytes; it is 1 to {bytes_max} bytes of UTF-8")
    try:
        checked_text(coded)
    except ValueError as fault:
        raise bad_field(field, str(fault)) from None
    return text


def _ttl_ms(said: object) -> int:
    ttl_ms = _duration_ms("ttl", said, "10s, 5m or 1h")
    if not TTL_S_MIN * 1_000 <= ttl_ms <= TTL_S_MAX * 1_000:
        raise bad_field("ttl", f"{said!a:.40} is out of range; it is {TTL_S_MIN:g}s to {TTL_S_MAX / 3_600:g}h")
    return ttl_ms


def _wait_s(said: object) -> float:
    wait_ms = 0 if said == "0" else _duration_ms("wait", said, "0, 30s or 5m")
    if wait_ms > WAIT_S_MAX * 1_000:
        raise bad_field("wait", f"{said!a:.40} is out of range; it is 0 to {WAIT_S_MAX / 60:g}m")
    return wait_ms / 1_000


def _duration_ms(field: str, said: object, examples: str) -> int:
    taken_ms = duration_ms(said, LONG_UNITS_MS) if isinstance(said, str) else None
    if taken_ms is None:
        raise bad_field(field, f"{said!a:.40} is no duration; write a text like {examples}")
    return taken_ms


def _is_token(text: str) -> bool:
    return 1 <= len(text) <= TOKEN_CHARACTERS_MAX and text.isascii() and text.isprintable()
