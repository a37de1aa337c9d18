"""Drive and Sweeper: deadlines are kept, and nobody's callback harms anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import pytest

from cluster.coordination.drive import PATIENCE_S, SWEEP_S, Drive, Sweeper
from cluster.protocol.messages import Held, Prepare, Read
from cluster.protocol.steps import Answers, Ask, Pause, Step
from tests.coordination.three_nodes import GRACE_S, Cluster, Fate, form_cluster
from tests.coordination.virtual_time import VirtualClock

ALL = (0, 1, 2)
Steps = Generator[Step, Answers, Any]


class Item:
    """Something watched that notes when it is called."""

    def __init__(self, deadline_s: float, patience_s: float = float("inf"), fails: bool = False) -> None:
        self.deadline_s, self.patience_s, self.fails = deadline_s, patience_s, fails
        self.expired_s: list[float] = []
        self.hurried_s: list[float] = []

    def expire(self) -> None:
        self.expired_s.append(_now_s())
        if self.fails:
            raise RuntimeError("this one fails")

    def hurry(self) -> None:
        self.hurried_s.append(_now_s())
        self.patience_s = float("inf")
        if self.fails:
            raise RuntimeError("this one fails")


def _now_s() -> float:
    return asyncio.get_running_loop().time()


class Talk:
    """A conversation on node 0, and how it ended."""

    def __init__(self, cluster: Cluster, steps: Steps, timeout_s: float = 5.0) -> None:
        self.ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        context = cluster.nodes[0].context
        Drive(
            context, b"key", steps, ALL, _now_s() + timeout_s, self._said("ended"), lambda: self._said("expired")(None)
        ).start()

    def _said(self, how: str) -> Callable[[Any], None]:
        return lambda end: self.ended.set_result((how, end))  # a second call would raise


def _read(needed: int, *, hedge: bool = False, linger: bool = False) -> Ask:
    return Ask(Read(b"key", value=True), needed, hedge=hedge, linger=linger)


def _once(ask: Ask) -> Steps:
    return (yield ask)


async def test_a_deadline_is_kept_to_a_sweep() -> None:
    """Neither before it nor more than a sweep later, and once."""
    sweeper = Sweeper(VirtualClock())
    items = [Item(deadline_s=0.1 + 0.013 * number) for number in range(50)]
    for item in items:
        sweeper.add(item)
    await asyncio.sleep(2)
    for item in items:
        (expired_s,) = item.expired_s
        assert item.deadline_s <= expired_s <= item.deadline_s + SWEEP_S + 1e-6
    assert len(sweeper) == 0


async def test_a_failing_callback_harms_no_other_deadline() -> None:
    """One exception ended the sweep for good: nothing on the node timed out after it."""
    sweeper = Sweeper(VirtualClock())
    for patience_s in (0.05, float("inf")):
        sweeper.add(Item(deadline_s=0.1, patience_s=patience_s, fails=True))
    neighbour, later = Item(deadline_s=0.1, patience_s=0.05), Item(deadline_s=0.5)
    sweeper.add(neighbour)
    sweeper.add(later)
    await asyncio.sleep(1)
    assert len(neighbour.hurried_s) == len(neighbour.expired_s) == len(later.expired_s) == 1


async def test_what_is_over_is_not_called() -> None:
    """A conversation that ended in time does not expire."""
    sweeper = Sweeper(VirtualClock())
    item = Item(deadline_s=0.1)
    sweeper.add(item)
    sweeper.discard(item)
    await asyncio.sleep(0.2)
    assert item.expired_s == []


async def test_what_another_one_ended_in_the_same_sweep_is_not_called() -> None:
    sweeper = Sweeper(VirtualClock())

    class Ending(Item):
        def expire(self) -> None:
            super().expire()
            sweeper.discard(other)

    one, other = Ending(deadline_s=_now_s() + 0.1), Item(deadline_s=_now_s() + 0.1, patience_s=_now_s())
    sweeper.add(one)
    sweeper.add(other)
    await asyncio.sleep(1)
    assert one.expired_s
    assert other.expired_s == []


async def test_a_silent_majority_expires_a_conversation() -> None:
    """The generator is closed, and an answer that comes after that is ignored."""
    cluster = await form_cluster()
    cluster.network.treat(Fate.DELIVERED, answer_after_s=1.2)
    closed = []

    def steps() -> Steps:
        try:
            return (yield _read(2))
        finally:
            closed.append(_now_s())

    talk = Talk(cluster, steps(), timeout_s=1)
    assert await talk.ended == ("expired", None)
    assert 1 <= closed[0] <= 1 + GRACE_S
    await asyncio.sleep(1)


async def test_a_vote_that_cannot_be_won_is_over_at_once() -> None:
    """Two of three are gone: no need to wait for the deadline to know."""
    cluster = await form_cluster()
    for slot in (1, 2):
        cluster.network.treat(Fate.LOST, target=slot)
    began_s = _now_s()
    how, answers = await Talk(cluster, _once(_read(2))).ended
    assert how == "ended"
    assert {slot for slot, answer in answers if isinstance(answer, Held)} <= {0}
    assert _now_s() - began_s < SWEEP_S


@pytest.mark.parametrize(
    ("ask", "silent", "waits_s", "heard"),
    [
        pytest.param(_read(2), (2,), 0.0, 2, id="enough is enough"),
        pytest.param(_read(2, linger=True), (2,), PATIENCE_S, 2, id="lingering waits a moment for the rest"),
        pytest.param(_read(2, linger=True), (), 0.0, 3, id="lingering with all of them waits for nobody"),
        pytest.param(_read(2, hedge=True), (1, 2), PATIENCE_S, 1, id="hedging goes on without enough"),
        pytest.param(_read(2), (1, 2), 5.0, 0, id="anything else waits for its deadline"),
        pytest.param(_read(2, linger=True), (1, 2), 5.0, 0, id="lingering without enough does too"),
    ],
)
async def test_how_long_a_round_waits(ask: Ask, silent: tuple[int, ...], waits_s: float, heard: int) -> None:
    """Patience is measured from the round's own beginning."""
    cluster = await form_cluster()
    for slot in silent:
        cluster.network.treat(Fate.SILENT, target=slot)
    began_s = _now_s()
    how, answers = await Talk(cluster, _once(ask)).ended
    assert waits_s <= _now_s() - began_s <= waits_s + GRACE_S
    assert how == ("ended" if heard else "expired")
    assert len(answers or ()) == heard


async def test_an_answer_to_an_earlier_round_is_no_vote_in_the_next() -> None:
    """Two answers of one replica are one replica."""
    cluster = await form_cluster()
    cluster.network.treat(Fate.SILENT, target=2)
    cluster.network.treat(Fate.DELIVERED, target=1, answer_after_s=PATIENCE_S + 2 * SWEEP_S)

    def steps() -> Steps:
        yield _read(2, hedge=True)
        return (yield _read(3))

    assert await Talk(cluster, steps(), timeout_s=1).ended == ("expired", None)


async def test_nothing_is_sent_before_the_clocks_ceiling_is_on_disk_nor_after_the_deadline() -> None:
    """A ballot that was sent and lies above the ceiling could be given out again after a crash."""
    cluster = await form_cluster()
    node, asked = cluster.nodes[0], []
    node.disk.clear()
    promise = Ask(Prepare(b"key", node.ballots.tick()), 2)
    cluster.network.treat(Fate.SILENT, Prepare, then=lambda: asked.append(_now_s()))
    in_time, too_late = Talk(cluster, _once(promise), timeout_s=2), Talk(cluster, _once(promise), timeout_s=0.5)
    assert await too_late.ended == ("expired", None)
    assert asked == []
    node.disk.set()
    await in_time.ended
    assert len(asked) == 2, "the conversation that was over asked too"


async def test_a_read_waits_for_no_ceiling() -> None:
    """It bears no ballot, and the disk may be full for ever."""
    cluster = await form_cluster()
    cluster.nodes[0].disk.clear()
    cluster.nodes[0].ballots.tick()
    how, _ = await Talk(cluster, _once(_read(3)), timeout_s=2).ended
    assert how == "ended"


async def test_pauses_grow_and_end_with_the_conversation() -> None:
    """A conversation that expires while it pauses is not resumed."""
    cluster = await form_cluster()
    resumed_s: list[float] = []

    def steps() -> Steps:
        attempt = 0
        while True:
            attempt += 1
            yield Pause(attempt)
            resumed_s.append(_now_s())

    assert await Talk(cluster, steps(), timeout_s=3).ended == ("expired", None)
    count = len(resumed_s)
    assert 10 < count < 40
    assert resumed_s[1] - resumed_s[0] < 0.05 < resumed_s[-1] - resumed_s[-2]
    await asyncio.sleep(1)
    assert len(resumed_s) == count
