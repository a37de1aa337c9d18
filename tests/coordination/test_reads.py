"""Strong reads and strong listings while proposals lie unsettled."""

from __future__ import annotations

from cluster.protocol.messages import Accept, Forward, Prepare, Read
from cluster.requests import Found, Listed, TimedOut, Written
from tests.coordination.three_nodes import Fate, form_cluster

KEY = b"key"


async def test_a_read_that_needs_settling_ends_at_its_deadline() -> None:
    """A read whose write-back met promises handed the settling to the primary, and nothing watched it any more.

    While the primary was paused the read hung for ever.
    """
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    await cluster.put(0, key, b"settled")
    unsettled = await cluster.leave_unsettled(2, key, b"unsettled")
    for slot in (0, 1):
        await cluster.ask(slot, Prepare(key, cluster.nodes[slot].ballots.tick(unsettled.ballot + 5000)))
    cluster.network.treat(Fate.SILENT, Forward)
    cluster.network.treat(Fate.UNSENT, Accept, Read, source=1, target=0)
    outcome = await cluster.get(1, key, timeout_s=1)
    assert isinstance(outcome, TimedOut)


async def test_a_read_that_ends_at_its_deadline_names_those_who_answered() -> None:
    cluster = await form_cluster()
    await cluster.put(0, KEY, b"value")
    cluster.network.treat(Fate.SILENT, Read)
    outcome = await cluster.get(0, KEY, timeout_s=1)
    assert outcome == TimedOut(2, 1, ("n0",))


async def test_a_strong_listing_shows_what_a_majority_holds() -> None:
    """A proposal that only one replica had accepted was the newest heard, so a strong listing showed it.

    The next strong read showed the old value, and a compare-and-set over the old value went through.
    """
    cluster = await form_cluster()
    written = await cluster.put(0, KEY, b"settled")
    assert isinstance(written, Written)
    await cluster.leave_unsettled(2, KEY, b"unsettled")
    listed = await cluster.page(0, b"")
    cluster.network.cut_off(2)  # with it goes what was not settled, unless the listing settled it
    read = await cluster.get(0, KEY)
    assert isinstance(listed, Listed)
    assert isinstance(read, Found)
    assert [entry.record for entry in listed.entries] == [read.record]
