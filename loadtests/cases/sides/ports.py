"""A block of free ports for both sides together."""

from __future__ import annotations

import random

from kvstore.free_ports import is_free

BASES = range(8_000, 10_000, 200)
"""Below the ports that the system deals out: a member that was killed must find its own again."""
ETCD_OFFSET, ETCD_PEER_OFFSET = 40, 60
"""Above the base port, where kvstore's nodes are; their peers are a hundred above it."""
MEMBERS_MAX = 16


def free_base_port() -> int:
    """The first port of a block that nobody listens in. Raises RuntimeError."""
    for base in random.Random().sample(BASES, len(BASES)):
        offsets = (0, ETCD_OFFSET, ETCD_PEER_OFFSET, 100)
        if all(is_free("127.0.0.1", base + offset + number) for offset in offsets for number in range(MEMBERS_MAX)):
            return base
    raise RuntimeError(f"no block of free ports from {BASES.start} to {BASES.stop}")
