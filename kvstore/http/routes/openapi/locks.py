"""Locks, votes and elections, and what each of them promises."""

from __future__ import annotations

from cluster.locks.lock_state import NAME_BYTES_MAX, OWNER_BYTES_MAX, PERMITS_MAX, TTL_S_MAX, TTL_S_MIN, WAIT_S_MAX
from cluster.locks.vote import CANDIDATE_BYTES_MAX, VALUE_BYTES_MAX
from kvstore.http.incoming.lock_bodies import KV_LOCK_TOKEN, TOKEN_CHARACTERS_MAX, TTL
from kvstore.http.incoming.parameters import LIST_LIMIT_MAX
from kvstore.http.routes.openapi.parts import (
    NUMBER,
    TEXT,
    TIMEOUT,
    Node,
    answer,
    body,
    fields,
    header,
    list_of,
    page,
    query,
    readable,
    ref,
    responses,
    rest_of_path,
)

LOCK_PROMISE = (
    "At most one holder (as many as there are permits) stands in the lock's register, which a majority of replicas "
    "keeps. A lease is no promise that its holder knows that it has lost: a holder that was paused past its lease may "
    "believe for a while that it still holds. So each grant has a fence, which grows with every grant of that lock, "
    "for ever; send it with each write (KV-Fence), and the store refuses what comes under a lower one than the key "
    "has seen. Nobody is taken over before one node has watched the whole lease pass, unrenewed, by its own clock. A "
    "lock is not reentrant: each POST asks for a grant of its own. Those who wait get it in the order they asked."
)
VOTE_PROMISE = (
    "Of all proposals one wins, the first that a majority of replicas accepts, once and for ever; everyone is told "
    "the same. Proposing again is safe, after an unknown outcome too. A decision can't be changed or deleted."
)
ELECTION_PROMISE = (
    "At most one leader stands in the register, which is that of the lock of the same name; the term is its fence, so "
    "KV-Fence: NAME=TERM lets the store itself refuse what a leader of an earlier term writes. A leader that was "
    "paused past its lease may believe that it still leads."
)
_FENCE: Node = NUMBER | {"description": "Grows with each grant of the lock, for ever"}
_EXPIRES_IN: Node = {
    "type": ["number", "null"],
    "description": "Seconds until it may be taken over if nobody renews it; null where the node that watches it was "
    "not heard",
}
_LEASE: Node = TEXT | {"description": f"{TTL_S_MIN:g}s to {TTL_S_MAX / 3600:g}h", "default": TTL}
_WAIT: Node = TEXT | {
    "description": f"How long to wait in line, apart from `timeout`: 0 to {WAIT_S_MAX / 60:g}m",
    "default": "0",
}
_SECRET: Node = TEXT | {"maxLength": TOKEN_CHARACTERS_MAX, "description": "Proves the holder. It is told once"}
_RETRY: Node = {"Retry-After": {"schema": NUMBER, "description": "On a 409: seconds until a lease may be over"}}
_TOKEN_HEADER = header(str(KV_LOCK_TOKEN), "The token of the grant that is given back", required=True)


def paths() -> Node:
    """What is served."""
    limit = {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX, "default": LIST_LIMIT_MAX}
    return {
        "/v1/locks/{name}": _leased("lock", LOCK_PROMISE, ("Acquire", "Grant", "Renewed", "Released", "Lock")),
        "/v1/locks": page(
            "The locks that are held, by name in byte order",
            "Locks",
            query("prefix", TEXT, "Only names that begin with this"),
            query("limit", limit, "Locks a page"),
            query("after", TEXT, "`next` of the page before"),
            TIMEOUT,
        ),
        "/v1/votes/{name}": _vote_path(),
        "/v1/elections/{name}": _leased(
            "leadership", ELECTION_PROMISE, ("Campaign", "Elected", "TermRenewed", "Resigned", "Leader")
        ),
    }


def _leased(what: str, promise: str, schema_names: tuple[str, str, str, str, str]) -> Node:
    asked, granted, renewed, released, shown = schema_names
    reading = {
        "summary": f"Who holds the {what} now; 404 not-held where nobody does",
        "parameters": [TIMEOUT],
        "responses": responses({"200": answer(shown)}),
    }
    return {
        "description": promise,
        "parameters": [rest_of_path("name", NAME_BYTES_MAX)],
        **readable(reading),
        "post": {
            "summary": f"Take the {what}, if need be after waiting; 409 lock-held when the wait is over",
            "description": promise,
            "parameters": [TIMEOUT],
            "requestBody": body(asked),
            "responses": responses({"201": answer(granted)}) | {"409": _problem("lock-held, with `holder`", _RETRY)},
        },
        "put": {
            "summary": "Begin the lease anew; 410 lock-lost when the token holds nothing any more",
            "parameters": [TIMEOUT],
            "requestBody": body("Token"),
            "responses": responses({"200": answer(renewed)}),
        },
        "delete": {
            "summary": f"Give the {what} back; 410 lock-lost when the token holds nothing any more",
            "parameters": [TIMEOUT, _TOKEN_HEADER],
            "responses": responses({"200": answer(released)}),
        },
    }


def _problem(text: str, headers: Node) -> Node:
    return {
        "description": text,
        "headers": headers,
        "content": {"application/problem+json": {"schema": ref("Problem")}},
    }


def _vote_path() -> Node:
    reading = {
        "summary": "What was decided; 404 not-found while nothing is",
        "parameters": [TIMEOUT],
        "responses": responses({"200": answer("Decision")}),
    }
    decided = {
        "201": answer("Decision", text="This proposal decided the vote"),
        "200": answer("Decision", text="It was decided before; the winner may be another"),
    }
    return {
        "description": VOTE_PROMISE,
        "parameters": [rest_of_path("name", NAME_BYTES_MAX)],
        **readable(reading),
        "post": {
            "summary": "Propose, and learn who won",
            "description": VOTE_PROMISE,
            "parameters": [TIMEOUT],
            "requestBody": body("Proposal"),
            "responses": responses(decided),
        },
    }


def schemas() -> Node:
    """What their bodies look like."""
    owner = TEXT | {"minLength": 1, "description": f"Who it is, for people; {OWNER_BYTES_MAX} bytes at most"}
    candidate = TEXT | {"minLength": 1, "description": f"{CANDIDATE_BYTES_MAX} bytes at most"}
    permits: Node = {"type": "integer", "minimum": 1, "maximum": PERMITS_MAX, "default": 1}
    holder = fields(("owner", "fence", "lease", "expires_in"), owner=TEXT, fence=_FENCE, lease=TEXT,
                    expires_in=_EXPIRES_IN)  # fmt: skip
    grant = {"name": TEXT, "owner": TEXT, "fence": _FENCE, "ttl": TEXT, "permits": NUMBER}
    leading = {"name": TEXT, "leader": TEXT, "term": _FENCE, "ttl": TEXT}
    value: Node = {"description": f"Any JSON, {VALUE_BYTES_MAX:,} bytes at most; null when absent"}
    return {
        "Acquire": fields(("owner",), owner=owner, ttl=_LEASE, wait=_WAIT, permits=permits),
        "Token": fields(("token",), token=_SECRET),
        "Grant": fields(("name", "owner", "token", "fence", "ttl"), **grant, token=_SECRET),
        "Renewed": fields(("name", "owner", "fence", "ttl"), **grant),
        "Released": fields(("name", "fence"), name=TEXT, fence=_FENCE),
        "Lock": fields(("name", "holder", "fence", "lease", "expires_in", "waiters", "permits", "holders"), name=TEXT,
                       holder=TEXT, fence=_FENCE, lease=TEXT, expires_in=_EXPIRES_IN, waiters=NUMBER, permits=NUMBER,
                       holders=list_of(holder)),
        "Locks": fields(("locks",), locks=list_of(ref("Lock")), next=TEXT),
        "Proposal": fields(("candidate",), candidate=candidate, value=value),
        "Decision": fields(("name", "winner", "candidate", "value", "decided_at"), name=TEXT, winner=TEXT,
                           candidate=TEXT, value=value, decided_at=TEXT | {"format": "date-time"}),
        "Campaign": fields(("candidate",), candidate=candidate, ttl=_LEASE, wait=_WAIT),
        "Elected": fields(("name", "leader", "term", "token", "ttl"), **leading, token=_SECRET),
        "TermRenewed": fields(("name", "leader", "term", "ttl"), **leading),
        "Resigned": fields(("name", "term"), name=TEXT, term=_FENCE),
        "Leader": fields(("name", "leader", "term", "lease", "expires_in", "candidates"), name=TEXT, leader=TEXT,
                         term=_FENCE, lease=TEXT, expires_in=_EXPIRES_IN, candidates=NUMBER),
    }  # fmt: skip
