"""KV-Receipt: what an answer says about itself, as an RFC 9651 dictionary. And how long a value lasts.

    consistency=strong, n=3, needed=2, acks=2, replicas="n1 n3", coordinator="n1", epoch=4

Names of nodes are of a-z, 0-9, '.' and '-', so nothing in it needs an escape.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.levels import Level
from kvstore.http.backend import ClusterView
from storage.record import Record

HINTED = ", hinted=1"
"""The member that tells of a write that this node keeps for replicas that are away, or to be merged back."""


def receipt(view: ClusterView, level: Level, needed: int, acks: int, replicas: Sequence[str]) -> str:
    """Who was asked, and who stood behind the answer."""
    return (
        f'consistency={level}, n={view.n}, needed={needed}, acks={acks}, replicas="{" ".join(replicas)}", '
        f'coordinator="{view.node_name}", epoch={view.epoch}'
    )


def receipt_of_refusal(view: ClusterView, level: Level | None, needed: int | None) -> str:
    """For a request that no replica was asked about; what it did not say, or said wrongly, is left out."""
    told = "" if level is None else f"consistency={level}, "
    counted = "" if needed is None else f"needed={needed}, "
    return f'{told}n={view.n}, {counted}acks=0, replicas="", coordinator="{view.node_name}", epoch={view.epoch}'


def expires_in_s(record: Record, now_ms: int) -> float | None:
    """How many seconds the value lasts, in whole tenths, rounded down; None is for ever."""
    if not record.expires_at_ms:
        return None
    return max(0, record.expires_at_ms - now_ms) // 100 / 10  # another's clock, which decided, may be behind


def age(written_ms: int, now_ms: int) -> str:
    """The member that tells how long ago the version was written: what is known of a weak read's freshness."""
    old_ms = max(0, now_ms - written_ms)  # the clocks of two nodes differ a little
    return f", age={old_ms // 1000}.{old_ms % 1000:03}"


def receipt_of_batch(view: ClusterView, level: Level) -> str:
    """For many operations at once: who acknowledged stands in their own results."""
    return f'consistency={level}, n={view.n}, coordinator="{view.node_name}", epoch={view.epoch}'
