"""The write-back of a strong read, step by step."""

from __future__ import annotations

import pytest

from cluster.protocol.acceptor import Acceptor
from cluster.protocol.messages import Accept, Held, Promised, Refused
from cluster.protocol.reader import NeedsSettling, StrongRead
from cluster.protocol.steps import Ask
from storage.record import Record, ReplicaState


@pytest.mark.parametrize("weak", [True, False])
def test_a_weak_record_is_written_back_only_where_no_strong_proposer_is_at_work(weak: bool) -> None:
    """Taken past the promise of a strong write under way, it would leave that write unknown."""
    old, new = Record(1, 1, False, b"old"), Record(9, 9, weak, b"new")
    steps = StrongRead(b"k", majority=2, needed=2, first=(0, 1)).run()
    next(steps)
    steps.send([(0, Held(new, False)), (1, Held(old, True))])
    write_back = steps.send([(0, Held(new, False)), (1, Held(old, False))])

    assert isinstance(write_back, Ask)
    assert isinstance(write_back.request, Accept)
    promised = ReplicaState(5, old)  # by a proposer that has yet to send its accept, under 5
    refuses = isinstance(Acceptor().accept(promised, write_back.request).reply, Refused)
    assert refuses == weak
    with pytest.raises(StopIteration) as end:
        steps.send([(0, Promised(None)), (1, Promised(None))])  # nobody accepted
    assert isinstance(end.value.value, NeedsSettling)
