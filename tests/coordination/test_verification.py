"""A node that starts takes part in nothing until others have said that its memory is whole."""

from __future__ import annotations

import asyncio
from copy import deepcopy

import pytest

from cluster.levels import Level
from cluster.membership.fitness import Bar
from cluster.membership.peer_memory import GROWTH_WRITTEN, PEERS, PeerMemory
from cluster.protocol.changes import SETTLE
from cluster.protocol.messages import Accept, Alive, Forward, Heartbeat, Prepare, Read, Remembered, Unfit
from cluster.repair.amnesia.recollection import LOOK_S
from cluster.repair.amnesia.verification import UNVERIFIED_FROM, Standing, Verification
from cluster.requests import Found, Written
from storage.ballot import NONE
from storage.memory import MemoryFolder
from storage.record import Record
from tests.coordination.three_nodes import Cluster, Fate, Node, form_cluster, until

BARS = Bar.UNVERIFIED | Bar.RECOVERING
LONG_S = 5.0


def verification(members: int = 3, *, began_with: int = 100) -> Verification:
    return Verification(0, lambda: range(members), lambda slot: f"n{slot}", incarnation="mine", began_with=began_with)


def remembered(commit_sequence: int, incarnation: str = "mine") -> Remembered:
    return Remembered(incarnation, commit_sequence)


# -- what is compared --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("members", "answers"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_a_majority_has_to_answer(members: int, answers: int) -> None:
    asking = verification(members)
    for slot in range(1, answers + 1):
        assert asking.look() is Standing.UNVERIFIED
        asking.answered(slot, None)
    assert asking.look() is Standing.WHOLE


def test_one_who_answers_twice_counts_once() -> None:
    asking = verification(5)
    asking.answered(1, None)
    assert asking.answered(1, None) is Standing.UNVERIFIED
    assert "n2, n3, n4" in asking.question


@pytest.mark.parametrize(
    ("answer", "standing"),
    [
        (None, Standing.WHOLE),
        (remembered(100), Standing.WHOLE),
        (remembered(101), Standing.LOST),
        (remembered(1, "another's"), Standing.LOST),
        (Remembered("mine", 1, is_superseded=True), Standing.LOST),
        (Remembered("mine", 1, was_recovering=True), Standing.LOST),
    ],
)
def test_who_remembers_more_contradicts(answer: Remembered | None, standing: Standing) -> None:
    assert verification().answered(1, answer) is standing


def test_a_contradiction_counts_however_late() -> None:
    asking = verification()
    asking.answered(1, None)
    assert asking.answered(2, remembered(101)) is Standing.LOST


def test_one_that_lost_its_memory_has_no_word_about_others() -> None:
    asking = verification()
    assert asking.answered(1, remembered(101), Bar.RECOVERING) is Standing.UNVERIFIED
    assert asking.answered(1, None, Bar.RECOVERING) is Standing.UNVERIFIED
    assert asking.answered(2, None) is Standing.WHOLE
    assert asking.answered(1, remembered(1, "another's"), Bar.RECOVERING) is Standing.WHOLE


def test_one_that_may_have_gone_back_in_time_is_believed_once_it_is_whole() -> None:
    asking = verification()
    assert asking.answered(1, remembered(101), Bar.UNVERIFIED) is Standing.UNVERIFIED
    assert "n1" in asking.question
    assert asking.answered(1, remembered(101)) is Standing.LOST
    assert verification().answered(1, remembered(100), Bar.UNVERIFIED) is Standing.WHOLE, "a cluster starts as one"


def test_nothing_from_one_that_may_forget_the_question_is_no_answer() -> None:
    """It would say the same to the next folder. What it does remember counts at once."""
    asking = verification()
    assert asking.answered(1, None, is_noted=False) is Standing.UNVERIFIED
    assert "n1" in asking.question
    assert asking.answered(1, None, is_noted=True) is Standing.WHOLE
    assert verification().answered(1, remembered(101), is_noted=False) is Standing.LOST


def test_after_a_recovery_only_another_process_counts() -> None:
    asking = verification()
    asking.answered(1, remembered(1, "another's"))
    asking.recovered()
    assert asking.answered(2, remembered(1, "another's")) is Standing.WHOLE
    assert asking.answered(2, Remembered("mine", 1, was_recovering=True)) is Standing.WHOLE
    assert asking.answered(2, Remembered("mine", 1, is_superseded=True)) is Standing.LOST


# -- what is remembered ------------------------------------------------------------------------------------------


def test_a_run_is_told_what_was_remembered_before_it() -> None:
    """What it said itself meanwhile must neither count against it nor hide what it forgot."""
    memory = PeerMemory(None)
    assert memory.tell(1, boot=7) is None
    memory.met(1, "folder", 7, 1000)
    assert memory.tell(1, boot=7) is None
    assert memory.tell(1, boot=8) == Remembered("folder", 1000)
    memory.met(1, "folder", 8, 50)
    memory.told(1, 8, 2000)
    assert memory.tell(1, boot=8) == Remembered("folder", 1000)
    assert PeerMemory(memory.pack()).tell(1, boot=8) == Remembered("folder", 1000)
    assert memory.tell(1, boot=9) == Remembered("folder", 2000)


def test_the_run_that_another_one_replaced_is_told_so_and_is_not_taken_for_the_newest_again() -> None:
    memory = PeerMemory(None)
    memory.met(1, "folder", 7, 10)
    memory.met(1, "folder", 8, 20)
    assert memory.tell(1, boot=7) == Remembered("folder", 20, is_superseded=True)
    memory.met(1, "folder", 7, 30)
    assert memory.tell(1, boot=8) == Remembered("folder", 10)
    assert memory.tell(1, boot=9) == Remembered("folder", 20)


def test_while_a_run_recovers_any_other_is_told_so_until_one_has_finished() -> None:
    """It votes for the partitions that it has done, and no folder that was remembered before knows of that."""
    memory = PeerMemory(None)
    memory.met(1, "folder", 7, 10)
    memory.recovers(1, 8)
    memory.told(1, 8, 5000)
    assert memory.tell(1, boot=8) == Remembered("folder", 10)
    assert memory.is_worth_writing(lambda _: False)
    assert PeerMemory(memory.pack()).tell(1, boot=9) == Remembered("folder", 10, was_recovering=True)
    memory.met(1, "folder", 7, 10)  # late
    memory.recovers(1, 9)
    memory.recovers(1, 8)  # late
    assert memory.tell(1, boot=10) == Remembered("folder", 10, was_recovering=True)
    memory.met(1, "new", 11, 20)
    memory.recovers(1, 9)  # late
    assert memory.tell(1, boot=12) == Remembered("new", 20)
    memory.recovers(1, 11)
    assert memory.tell(1, boot=12) == Remembered("new", 20, was_recovering=True)


def test_a_run_that_recovers_is_remembered_where_nothing_was() -> None:
    memory = PeerMemory(None)
    memory.recovers(1, 8)
    assert memory.tell(1, boot=8) is None
    told = memory.tell(1, boot=9)
    assert told is not None
    assert told.was_recovering


def test_one_of_whom_nothing_is_remembered_is_noted_when_it_asks() -> None:
    """Its sequence counts once it is full: what it commits while it asks must not be held against it."""
    memory = PeerMemory(None)
    memory.asked(1, "folder", 7)
    assert memory.has_news(1)
    memory.told(1, 7, 30)
    assert memory.tell(1, boot=7) is None
    assert PeerMemory(memory.pack()).tell(1, boot=8) == Remembered("folder", 0)
    assert not memory.has_news(1)
    memory.asked(1, "another", 8)
    assert memory.tell(1, boot=9) == Remembered("folder", 0), "who asks does not hide what it is measured by"
    memory.met(1, "folder", 7, 20)
    assert memory.tell(1, boot=7) is None
    assert memory.tell(1, boot=8) == Remembered("folder", 30)
    assert memory.is_worth_writing(lambda _: False)


def test_another_folder_and_a_recovery_are_news_and_growth_is_none() -> None:
    memory = PeerMemory(None)
    assert not memory.has_news(1)
    memory.met(1, "folder", 7, 10)
    assert memory.has_news(1)
    memory.pack()
    memory.met(1, "folder", 8, 1000)
    assert not memory.has_news(1)
    memory.recovers(1, 9)
    assert memory.has_news(1)
    memory.pack()
    memory.met(1, "another", 10, 1)
    assert memory.has_news(1)


def test_what_a_frame_says_counts_for_its_run_only() -> None:
    memory = PeerMemory(None)
    memory.met(1, "folder", 7, 10)
    memory.told(1, 7, 30)
    memory.told(1, 7, 20)
    assert memory.tell(1, boot=9) == Remembered("folder", 30)
    memory.told(1, 8, 500)
    assert memory.tell(1, boot=9) == Remembered("folder", 30)
    memory.met(1, "folder", 8, 40)
    assert memory.tell(1, boot=9) == Remembered("folder", 500)


def test_growth_is_written_now_and_then() -> None:
    memory = PeerMemory(None)
    present, away = (lambda _: False), (lambda _: True)
    assert not memory.is_worth_writing(away)
    memory.met(1, "folder", 7, 10)
    assert memory.is_worth_writing(present)
    memory.pack()
    assert not memory.is_worth_writing(away)
    memory.told(1, 7, 10 + GROWTH_WRITTEN - 1)
    assert not memory.is_worth_writing(present)
    assert memory.is_worth_writing(away)
    memory.told(1, 7, 10 + GROWTH_WRITTEN)
    assert memory.is_worth_writing(present)


# -- nodes -------------------------------------------------------------------------------------------------------


async def settled(node: Node) -> None:
    await until(lambda: not node.fitness.bars & BARS)


async def restart_alone(cluster: Cluster, slot: int) -> Node:
    """The node starts anew on its folder, and nobody answers its heartbeats."""
    folder = await cluster.end(slot)
    cluster.network.treat(Fate.SILENT, Heartbeat, source=slot)
    return await cluster.begin(slot, folder)


async def test_a_new_cluster_is_ready_at_once() -> None:
    began_s = asyncio.get_running_loop().time()
    cluster = await form_cluster()
    assert asyncio.get_running_loop().time() - began_s < 0.1
    assert not any(node.fitness.bars for node in cluster.nodes)


async def test_a_node_that_nobody_has_answered_refuses_everything() -> None:
    cluster = await form_cluster()
    key = cluster.key_led_by(2)
    await cluster.put(0, key, b"value")
    node = await restart_alone(cluster, 2)
    await asyncio.sleep(LONG_S)
    assert node.fitness.bars == Bar.UNVERIFIED
    assert "Not heard yet: n0, n1" in node.fitness.reasons[0]
    ballot = node.ballots.tick()
    for request in (
        Read(key, value=True),
        Prepare(key, ballot),
        Accept(key, Record(ballot, ballot, False, b"x"), NONE),
        Forward(key, SETTLE, 2, 5000),
    ):
        assert isinstance(await cluster.ask(2, request), Unfit), request  # type: ignore[arg-type]
    for level in (Level.STRONG, Level.EVENTUAL):
        read = await cluster.get(2, key, level=level)
        assert isinstance(read, Found), level
        assert "n2" not in read.replicas
    assert isinstance(await cluster.put(0, key, b"without it"), Written)
    cluster.network.heal()
    await settled(node)
    assert isinstance(await cluster.put(0, key, b"with all", needed=3), Written)


async def test_one_answer_of_two_is_enough_among_three() -> None:
    cluster = await form_cluster()
    folder = await cluster.end(2)
    cluster.network.treat(Fate.SILENT, source=2, target=1)
    await settled(await cluster.begin(2, folder))


async def test_an_ordinary_restart_is_whole_however_much_it_said_of_itself() -> None:
    """The sequences it told others in this very run are above the one it began with."""
    cluster = await form_cluster()
    node = cluster.nodes[2]
    for number in range(30):
        await cluster.put(0, b"key-%d" % number, b"value", needed=3)
    for _ in range(3):
        folder = await cluster.end(2)
        node = await cluster.begin(2, folder)
        await settled(node)
        for number in range(30):
            await cluster.put(0, b"key-%d" % number, b"again", needed=3)
        await asyncio.sleep(LONG_S)
        assert not node.fitness.bars
        assert "recovery" not in node.engine.folder.facts


async def test_what_an_unverified_run_commits_does_not_hide_that_the_folder_is_old() -> None:
    """Else a node that is started several times in vain would get past what others remember."""
    cluster = await form_cluster()
    old = deepcopy(cluster.nodes[2].engine.folder)
    old.in_use = False
    for number in range(10):
        await cluster.put(0, b"key-%d" % number, b"value", needed=3)
    highest = cluster.nodes[2].engine.commit_sequence
    await cluster.end(2)
    cluster.network.treat(Fate.SILENT, source=2)
    node = await cluster.begin(2, old)
    while node.engine.commit_sequence <= highest:
        await node.commits.wait(node.commits.set_fact("some", b"fact"))
    assert int(old.facts[UNVERIFIED_FROM]) < highest
    await cluster.end(2)
    node = await cluster.begin(2, old)
    assert node.recollection.verification.standing is Standing.UNVERIFIED
    cluster.network.heal()
    await until(lambda: node.fitness.bars & Bar.RECOVERING)


async def test_a_contradiction_that_comes_after_the_majority_bars_the_node_at_once() -> None:
    cluster = await form_cluster(5, replicas=5)
    old = deepcopy(cluster.nodes[4].engine.folder)
    old.in_use = False
    await cluster.end(4)
    for slot in (0, 1):  # these two have forgotten it
        cluster.nodes[slot].recollection.peers = PeerMemory(None)
    cluster.nodes[2].recollection.peers.told(4, cluster.nodes[4].recollection.boot, 10_000)
    cluster.network.cut_off(2)
    cluster.network.cut_off(3)
    node = await cluster.begin(4, old)
    await settled(node)
    cluster.network.rejoin(2)
    await until(lambda: node.fitness.bars & Bar.RECOVERING)
    assert "n2 remembers 10000 transactions" in " ".join(node.fitness.reasons)
    cluster.network.rejoin(3)
    await settled(node)


async def test_who_lost_its_memory_does_not_overwrite_what_is_remembered_of_it() -> None:
    cluster = await form_cluster()
    for number in range(10):
        await cluster.put(0, b"key-%d" % number, b"value", needed=3)
    boot, sequence = cluster.nodes[2].recollection.mark()
    await cluster.end(2)
    cluster.network.cut_off(1)  # a recovery needs both
    node = await cluster.begin(2)
    await asyncio.sleep(LONG_S)
    assert node.fitness.bars == Bar.RECOVERING
    told = cluster.nodes[0].recollection.peers.tell(2, boot + 1)
    assert told is not None
    assert told.commit_sequence >= sequence
    assert told.incarnation != node.engine.incarnation


async def test_two_processes_on_copies_of_one_folder_are_noticed() -> None:
    """The copy begins with the sequence that is remembered; the first one hears that another came after it."""
    cluster = await form_cluster()
    first = cluster.nodes[2]
    copy = deepcopy(first.engine.folder)
    copy.in_use = False
    await cluster.add(2, folder=copy)
    await cluster.nodes[2].load()
    await cluster.nodes[2].start()
    await until(lambda: first.fitness.bars & Bar.RECOVERING)
    assert "another process works as this member" in " ".join(first.fitness.reasons)


async def test_what_is_remembered_is_on_disk_and_idle_nodes_come_to_rest() -> None:
    cluster = await form_cluster()
    for number in range(3 * GROWTH_WRITTEN):
        await cluster.put(0, b"key-%d" % number, b"value", needed=3)
    await asyncio.sleep(3 * LOOK_S)
    for node in cluster.nodes:
        written = PeerMemory(node.engine.folder.facts[PEERS])
        for other in cluster.nodes:
            if other is not node:
                assert written.commit_sequence(other.slot) > other.engine.commit_sequence - 2 * GROWTH_WRITTEN
    before = [node.engine.folder.facts[PEERS] for node in cluster.nodes]
    await asyncio.sleep(600)
    assert [node.engine.folder.facts[PEERS] for node in cluster.nodes] == before


async def test_one_that_goes_away_is_written_down() -> None:
    cluster = await form_cluster()
    await asyncio.sleep(2 * LOOK_S)
    await cluster.put(0, b"key", b"value", needed=3)
    highest = cluster.nodes[2].engine.commit_sequence
    await cluster.end(2)
    await asyncio.sleep(2 * LOOK_S)
    assert PeerMemory(cluster.nodes[0].engine.folder.facts[PEERS]).commit_sequence(2) >= highest


async def test_every_acknowledgement_is_covered_by_what_is_remembered() -> None:
    """Not only by a heartbeat, which comes a fifth of a second later."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    for node in cluster.nodes:
        cluster.network.treat(Fate.SILENT, Heartbeat, source=node.slot)
    for number in range(5):
        before = cluster.nodes[2].engine.commit_sequence
        await cluster.put(0, key, b"%d" % number, needed=3)
        assert cluster.nodes[0].recollection.peers.commit_sequence(2) > before


async def test_a_single_member_verifies_itself() -> None:
    cluster = await form_cluster(1)
    await cluster.put(0, b"key", b"value", needed=1)
    folder = await cluster.end(0)
    await settled(await cluster.begin(0, folder))


# -- a folder that is lost soon after it was new -----------------------------------------------------------------


async def killed(cluster: Cluster, slot: int) -> MemoryFolder:
    """Kill -9: the folder with what is committed at this moment, and nothing of what was about to be."""
    folder = deepcopy(cluster.nodes[slot].engine.folder)
    folder.in_use = False
    await cluster.end(slot)
    return folder


async def test_a_folder_that_is_lost_at_once_is_noticed_by_one_that_was_killed_at_once() -> None:
    """n1 and n2 die as soon as they are formed; n0, which remembers, is cut off. n2's folder is gone."""
    cluster = await form_cluster()
    cluster.network.cut_off(0)
    await killed(cluster, 2)
    await cluster.begin(1, await killed(cluster, 1))
    node = await cluster.begin(2)
    await until(lambda: node.fitness.bars & Bar.RECOVERING)
    assert "n1 remembers this member with another folder" in node.fitness.reasons[0]
    cluster.network.rejoin(0)
    await settled(node)


async def test_the_question_is_answered_once_it_is_on_disk_who_asked() -> None:
    """n0's disk hangs: killed now, it would say "nothing" to the next folder of n1 as well."""
    cluster = await form_cluster(2)
    for slot in (0, 1):
        await cluster.end(slot)
    for slot in (0, 1):
        await cluster.add(slot)
    cluster.network.heal()
    cluster.nodes[0].disk.clear()
    for node in cluster.nodes:
        await node.load()
        await node.start()
    await asyncio.sleep(LONG_S)
    assert cluster.nodes[1].fitness.bars == Bar.UNVERIFIED
    assert "Not heard yet: n0" in cluster.nodes[1].fitness.reasons[0]
    cluster.nodes[0].disk.set()
    for node in cluster.nodes:
        await settled(node)


async def test_whoever_forgot_its_peers_is_whole_only_once_it_knows_them_again() -> None:
    """n2 hears no beat of n1 while it recovers. Whole, it would say "nothing" if n1 lost its folder now."""
    cluster = await form_cluster()
    await cluster.end(2)
    cluster.network.treat(Fate.SILENT, Heartbeat, source=1, target=2)
    node = await cluster.begin(2)
    await asyncio.sleep(LONG_S)
    assert node.fitness.bars == Bar.RECOVERING
    assert "for word of n1" in node.fitness.reasons[0]
    cluster.network.heal()
    await settled(node)
    cluster.network.cut_off(0)
    await killed(cluster, 1)
    await cluster.begin(2, await killed(cluster, 2))
    lost = await cluster.begin(1)
    await until(lambda: lost.fitness.bars & Bar.RECOVERING)


async def test_the_answer_to_a_beat_from_before_a_recovery_says_nothing_of_the_run_after_it() -> None:
    """It was overtaken by the first beat of that run, and says that another run came: this one."""
    cluster = await form_cluster()
    await cluster.end(2)
    node = await cluster.begin(2)
    before = node.recollection.boot
    await until(lambda: node.recollection.boot != before and not node.fitness.bars)
    superseded = Alive(node.clock.wall_ms(), 1, 0, Remembered("other", 1, is_superseded=True))
    node.recollection.answered(0, superseded, node.clock.monotonic_s(), before)
    assert not node.fitness.bars
    node.recollection.answered(0, superseded, node.clock.monotonic_s(), node.recollection.boot)
    assert node.fitness.bars & Bar.RECOVERING
