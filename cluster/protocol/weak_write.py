"""What a weak or eventual writer learns from the answers of the replicas.

An accept without prepare, under the coordinator's clock. Each answer is one of three:

    taken        the replica has it on disk, or holds a newer weak record that supersedes it
    stands back  a promise, or a higher ballot with an older origin, or a strong record, is in the way: the write
                 is finished by a merge round under its own origin, never sent again under another ballot, for a
                 copy may be accepted somewhere already and would be applied twice
    lost         no answer
"""

from __future__ import annotations

from cluster.protocol.messages import Accepted, Answer, Refused
from storage.record import Record


def is_taken(answer: Answer, record: Record) -> bool:
    """Whether this answer counts as an acknowledgement of the weak record.

    Superseded counts only by a newer *weak* record: that one is itself never dropped without being kept aside,
    while a strong proposal that stands here may yet fail and vanish, and ours would have vanished with it.
    """
    if type(answer) is Accepted:
        return True
    return type(answer) is Refused and answer.weak and answer.origin >= record.origin


def stands_back(answer: Answer, record: Record) -> bool:
    """Whether a merge round has to bring the write in at this replica."""
    return type(answer) is Refused and not is_taken(answer, record)
