"""The handshake: who are you, and do you know the secret?

    dialler  -> Hello       who I am, whom I dialled, a nonce
    listener -> Welcome     who I am, a nonce, proof that I know the secret; or Rejected, and why
    dialler  -> Proof       proof that I know it too
    listener -> Ready       or Rejected

Both prove the shared secret by an HMAC over both nonces and both identities, in two directions that can't be
exchanged, so neither a recorded handshake nor one reflected to its sender opens anything. What follows is neither
encrypted nor signed: on a network that others can write to, put the peer addresses behind TLS or a tunnel.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

import msgspec

PROTOCOL_VERSION = 3
"""Nodes of another version are refused."""
NONCE_BYTES = 16
HANDSHAKE_S_MAX = 5.0
"""A connection that has not finished by then is closed."""


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """How a node introduces itself."""

    protocol: int
    cluster_id: str
    name: str
    incarnation: str
    zone: str
    http: str
    """host:port where applications reach it."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The dialler's first word."""

    identity: Identity
    dialled: str
    """The name of the node it believes it called."""
    nonce: bytes


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The listener's answer."""

    identity: Identity
    nonce: bytes
    proof: bytes


class Proof(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The dialler's second word."""

    proof: bytes


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Requests may come."""


class Rejected(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """No, and why."""

    reason: str


Greeting = Hello | Welcome | Proof | Ready | Rejected
encode_greeting = msgspec.msgpack.Encoder().encode
decode_greeting = msgspec.msgpack.Decoder(Hello | Welcome | Proof | Ready | Rejected).decode


def prove(secret: bytes, role: str, hello: Hello, listener: Identity, listener_nonce: bytes) -> bytes:
    """The proof of the secret in one role ("dialler" or "listener"), over all that was said."""
    said = msgspec.msgpack.encode([role, hello, listener, listener_nonce])
    return hmac.new(secret, said, sha256).digest()


def is_proof(proof: bytes, secret: bytes, role: str, hello: Hello, listener: Identity, listener_nonce: bytes) -> bool:
    """Whether this is that proof, in constant time."""
    return hmac.compare_digest(proof, prove(secret, role, hello, listener, listener_nonce))


def mismatch(mine: Identity, theirs: Identity) -> str | None:
    """Why two nodes can't talk, in words for a log; None when they can."""
    if theirs.protocol != mine.protocol:
        return f"it speaks protocol {theirs.protocol}, this node {mine.protocol}; run the same version on both"
    if theirs.cluster_id != mine.cluster_id:
        return (
            "it belongs to another cluster; compare --cluster-name, --members, --replicas and --partitions of both, "
            "or the data folder is from another cluster"
        )
    if theirs.name == mine.name:
        return f"it has this node's own name {mine.name!r}; two processes run as one member"
    return None
