"""How writes share a commit: order, one transaction per turn of the loop, and no word before it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from storage import (
    Batch,
    CommitFailed,
    DiskFull,
    GroupCommit,
    Hint,
    MemoryEngine,
    Record,
    ReplicaState,
    StorageError,
    group_commit,
)


class Disk:
    """A memory engine that commits when it is let, and the batches that it was given."""

    def __init__(self) -> None:
        self.engine = MemoryEngine(commit_delay=self._delay)
        self.batches: list[Batch] = []
        self._gate = asyncio.Event()
        self._gate.set()
        write = self.engine.write

        async def recorded(batch: Batch) -> None:
            self.batches.append(batch)
            await write(batch)

        self.engine.write = recorded  # type: ignore[method-assign]

    async def _delay(self) -> None:
        await self._gate.wait()

    def hold(self) -> None:
        self._gate.clear()

    def let_go(self) -> None:
        self._gate.set()


@pytest.fixture
async def disk() -> Disk:
    disk = Disk()
    await disk.engine.open()
    return disk


@pytest.fixture
def failures() -> list[BaseException]:
    return []


@pytest.fixture
async def commits(disk: Disk, failures: list[BaseException]) -> AsyncIterator[GroupCommit]:
    commits = GroupCommit(disk.engine, failures.append)
    commits.start()
    yield commits
    disk.let_go()
    await commits.stop()


def state(ballot: int) -> ReplicaState:
    return ReplicaState(ballot, Record(ballot, ballot, False, b"v"))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Turns of the loop until it holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is somebody else's
            await asyncio.sleep(0)


async def test_everything_of_one_turn_is_one_transaction(disk: Disk, commits: GroupCommit) -> None:
    await turns()
    loop = asyncio.get_running_loop()
    for number in range(1, 4):
        loop.call_soon(commits.put, b"%d" % number, state(number))
    loop.call_soon(commits.set_fact, "f", b"1")
    ticket = commits.keep(b"k", Record(7, 7, True, b"kept"))
    await commits.wait(ticket)
    assert ticket == commits.committed == 1
    (batch,) = disk.batches
    assert list(batch.states) == [b"1", b"2", b"3"]
    assert batch.facts == {"f": b"1"}
    assert disk.engine.commit_sequence == 1


async def test_what_arrives_during_a_commit_shares_the_next(disk: Disk, commits: GroupCommit) -> None:
    disk.hold()
    first = commits.put(b"a", state(1))
    await turns()
    later = [commits.put(b"%d" % number, state(number)) for number in range(1, 100)]
    assert (first, set(later)) == (1, {2})
    assert commits.backlog == 100
    disk.let_go()
    await commits.wait(2)
    assert [len(batch.states) for batch in disk.batches] == [1, 99]
    assert (commits.backlog, commits.committed) == (0, 2)


async def test_rows_of_turn_after_turn_share_a_transaction_until_a_turn_brings_none(
    disk: Disk, commits: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load that saves most transactions; whoever comes after a turn without any has the next one."""
    monkeypatch.setattr(group_commit, "GATHER_S_MAX", 60.0)
    for number in range(20):
        commits.put(b"%d" % number, state(number + 1))
        await asyncio.sleep(0)
        assert not disk.batches
    await commits.wait(1)
    assert [len(batch.states) for batch in disk.batches] == [20]
    commits.put(b"late", state(1))
    await until(lambda: len(disk.batches) == 2)
    assert list(disk.batches[1].states) == [b"late"]


@pytest.mark.parametrize("bound", ["GATHER_ROWS_MAX", "GATHER_S_MAX"])
async def test_rows_do_not_wait_for_ever_for_more(
    disk: Disk, commits: GroupCommit, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every turn brings some, their number ends the waiting, or the time."""
    monkeypatch.setattr(group_commit, "GATHER_S_MAX", 60.0)
    monkeypatch.setattr(group_commit, "GATHER_ROWS_MAX", 10**9)
    monkeypatch.setattr(group_commit, bound, 10 if bound == "GATHER_ROWS_MAX" else 0.01)
    number = 0
    async with asyncio.timeout(30):
        while commits.committed == 0:
            number += 1
            commits.put(b"%d" % number, state(number))
            await asyncio.sleep(0)
    if bound == "GATHER_ROWS_MAX":
        assert 10 <= len(disk.batches[0].states) <= 12


async def test_nobody_is_called_before_the_commit_and_all_are_in_order(disk: Disk, commits: GroupCommit) -> None:
    disk.hold()
    called: list[str] = []
    first = commits.put(b"a", state(1))
    commits.when(first, lambda: called.append(f"1 {commits.committed}"))
    await turns()
    second = commits.put(b"b", state(2))
    commits.when(second, lambda: called.append(f"3 {commits.committed}"))
    commits.when(first, lambda: called.append(f"2 {commits.committed}"))
    await turns(50)
    assert called == []
    disk.let_go()
    await commits.wait(second)
    assert called == ["1 1", "2 1", "3 2"]
    commits.when(first, lambda: called.append("at once"))
    assert called[-1] == "at once"


async def test_a_callback_sees_its_state_on_disk(disk: Disk, commits: GroupCommit) -> None:
    seen: list[bool] = []
    ticket = commits.put(b"a", state(1))
    commits.when(ticket, lambda: seen.append(disk.engine.folder.states == {b"a": state(1)}))
    await commits.wait(ticket)
    assert seen == [True]


async def test_a_callback_may_put_more(disk: Disk, commits: GroupCommit) -> None:
    done = asyncio.Event()

    def again() -> None:
        commits.when(commits.put(b"b", state(2)), done.set)

    commits.when(commits.put(b"a", state(1)), again)
    await asyncio.wait_for(done.wait(), 5)
    assert disk.engine.folder.states == {b"a": state(1), b"b": state(2)}


async def test_a_callback_that_fails_stops_no_other(commits: GroupCommit) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    called: list[int] = []
    mishap = RuntimeError("mishap")

    def fail() -> None:
        raise mishap

    ticket = commits.put(b"a", state(1))
    commits.when(ticket, lambda: called.append(1))
    commits.when(ticket, fail)
    commits.when(ticket, lambda: called.append(2))
    await commits.wait(ticket)
    commits.when(ticket, fail)
    assert (called, reported) == ([1, 2], [mishap, mishap])
    await commits.wait(commits.put(b"b", state(2)))


async def test_the_last_state_of_a_key_in_a_batch_wins(disk: Disk, commits: GroupCommit) -> None:
    commits.put(b"a", state(1))
    await commits.wait(commits.put(b"a", state(2)))
    assert disk.batches[0].states == {b"a": state(2)}


async def test_of_keeping_and_forgetting_the_later_wins(disk: Disk, commits: GroupCommit) -> None:
    first, second = Record(1, 1, True, b"1"), Record(2, 2, True, b"2")
    commits.keep(b"k", first)
    commits.forget(b"k", 1)
    commits.forget(b"k", 2)
    await commits.wait(commits.keep(b"k", second))
    assert (disk.batches[0].keep, disk.batches[0].forget) == ({(b"k", 2): second}, {(b"k", 1)})
    await commits.wait(commits.forget(b"k", 2))
    assert await disk.engine.kept_aside() == {}


async def test_stopping_commits_all_that_was_put(disk: Disk, commits: GroupCommit) -> None:
    disk.hold()
    commits.put(b"a", state(1))
    await turns()
    commits.put(b"b", state(2))
    stopping = asyncio.ensure_future(commits.stop())
    await turns()
    commits.put(b"c", state(3))
    assert not stopping.done()
    disk.let_go()
    await stopping
    await commits.stop()
    assert disk.engine.folder.states == {b"a": state(1), b"b": state(2), b"c": state(3)}
    assert commits.backlog == 0


async def test_what_is_put_before_the_start_is_committed_by_it(disk: Disk) -> None:
    commits = GroupCommit(disk.engine, lambda failure: None)
    ticket = commits.put(b"a", state(1))
    commits.start()
    await commits.wait(ticket)
    await commits.stop()


async def test_after_a_failed_commit_nobody_is_told_that_it_is_durable(
    disk: Disk, commits: GroupCommit, failures: list[BaseException]
) -> None:
    called: list[int] = []
    disk.hold()
    disk.engine.fail_next_commit("no space left", applied=True)
    first = commits.put(b"a", state(1))
    commits.when(first, lambda: called.append(1))
    waiting = asyncio.ensure_future(commits.wait(first))
    await turns()
    second = commits.put(b"b", state(2))
    commits.when(second, lambda: called.append(2))
    disk.let_go()
    with pytest.raises(CommitFailed, match="no space left"):
        await waiting
    await turns(50)
    assert [type(failure) for failure in failures] == [CommitFailed]
    assert (called, commits.committed) == ([], 0)
    with pytest.raises(CommitFailed):
        await commits.wait(second)
    commits.put(b"c", state(3))
    await commits.stop()
    assert len(disk.batches) == 1


async def test_a_waiter_that_is_cancelled_undoes_nothing(disk: Disk, commits: GroupCommit) -> None:
    disk.hold()
    ticket = commits.put(b"a", state(1))
    waiting = asyncio.ensure_future(commits.wait(ticket))
    await turns()
    waiting.cancel()
    await turns()
    disk.let_go()
    await commits.wait(ticket)
    assert disk.engine.folder.states == {b"a": state(1)}


async def test_a_full_disk_holds_everything_back_in_order_until_there_is_room(
    disk: Disk, commits: GroupCommit, monkeypatch: pytest.MonkeyPatch, failures: list[BaseException]
) -> None:
    monkeypatch.setattr(group_commit, "FULL_RETRY_S", 0)
    folder = disk.engine.folder
    await commits.wait(commits.put(b"before", state(1)))
    folder.bytes_free = 0
    called: list[int] = []
    first = commits.put(b"a", state(2))
    commits.when(first, lambda: called.append(1))
    await until(lambda: commits.is_full)
    second = commits.put(b"a", state(3))
    commits.set_leaf(5, 55)
    commits.when(second, lambda: called.append(2))
    waiting = asyncio.ensure_future(commits.wait(second))
    tried = len(disk.batches)
    await until(lambda: len(disk.batches) > tried + 3)
    assert (called, commits.committed, commits.backlog, waiting.done()) == ([], 1, 2, False)
    assert folder.states == {b"before": state(1)}
    folder.bytes_free = 1
    await waiting
    assert (called, commits.is_full, failures) == ([1, 2], False, [])
    assert folder.states == {b"before": state(1), b"a": state(3)}
    assert folder.commit_sequence == 3, "each batch once, though it was tried often"
    assert disk.batches[-2].states == {b"a": state(2)}


async def test_stopping_while_the_disk_is_full_ends_and_tells_those_who_wait(
    disk: Disk, commits: GroupCommit, monkeypatch: pytest.MonkeyPatch, failures: list[BaseException]
) -> None:
    monkeypatch.setattr(group_commit, "FULL_RETRY_S", 0)
    disk.engine.folder.bytes_free = 0
    called: list[int] = []
    first = commits.put(b"a", state(1))
    commits.when(first, lambda: called.append(1))
    waiting = [asyncio.ensure_future(commits.wait(first))]
    await until(lambda: commits.is_full)
    waiting.append(asyncio.ensure_future(commits.wait(commits.put(b"b", state(2)))))
    await turns()
    await asyncio.wait_for(commits.stop(), 5)
    for waiter in waiting:
        with pytest.raises(DiskFull):
            await waiter
    with pytest.raises(DiskFull):
        await commits.wait(first)
    disk.engine.folder.bytes_free = 1
    await turns(20)
    assert (called, failures, disk.engine.folder.states) == ([], [], {})


async def test_stopping_while_the_disk_is_full_writes_what_it_can_if_room_comes_in_time(
    disk: Disk, commits: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "FULL_RETRY_S", 0)
    disk.engine.folder.bytes_free = 0
    commits.put(b"a", state(1))
    await until(lambda: commits.is_full)
    disk.engine.folder.bytes_free = 1
    await commits.stop()
    assert disk.engine.folder.states == {b"a": state(1)}


async def test_a_commit_that_fails_behind_a_full_disk_is_a_failure(
    disk: Disk, commits: GroupCommit, monkeypatch: pytest.MonkeyPatch, failures: list[BaseException]
) -> None:
    monkeypatch.setattr(group_commit, "FULL_RETRY_S", 0)
    disk.engine.folder.bytes_free = 0
    commits.put(b"a", state(1))
    await until(lambda: commits.is_full)
    disk.engine.fail_next_commit("fsync failed")
    disk.engine.folder.bytes_free = 1
    await until(lambda: bool(failures))
    assert [type(failure) for failure in failures] == [CommitFailed]


async def test_of_dropping_and_putting_the_later_wins(disk: Disk, commits: GroupCommit) -> None:
    commits.put(b"a", state(1))
    commits.drop(b"a")
    commits.drop(b"b")
    await commits.wait(commits.put(b"b", state(2)))
    assert (disk.batches[0].states, disk.batches[0].drop) == ({b"b": state(2)}, {b"a"})
    await commits.wait(commits.drop(b"b"))
    assert disk.engine.folder.states == {}


async def test_of_keeping_and_dropping_a_hint_the_later_wins(disk: Disk, commits: GroupCommit) -> None:
    hint = Hint(b"k", Record(1, 1, True, b"v"), (1,), False)
    commits.hint(1, hint)
    commits.drop_hint(1)
    commits.drop_hint(2)
    await commits.wait(commits.hint(2, hint))
    assert (disk.batches[0].hints, disk.batches[0].drop_hints) == ({2: hint}, {1})
    await commits.wait(commits.drop_hint(2))
    assert disk.engine.folder.hints == {}


async def test_leaves_go_with_the_rows_that_changed_them(disk: Disk, commits: GroupCommit) -> None:
    disk.hold()
    commits.set_leaf(1, 10)
    commits.put(b"a", state(1))
    await turns()
    commits.set_leaf(1, 11)
    last = commits.put(b"b", state(1))
    disk.let_go()
    await commits.wait(last)
    assert [(set(batch.states), batch.leaves) for batch in disk.batches] == [({b"a"}, {1: 10}), ({b"b"}, {1: 11})]


async def test_all_leaves_are_written_in_place_of_what_was_lost(disk: Disk, commits: GroupCommit) -> None:
    disk.engine.folder.leaves, disk.engine.folder.leaves_are_lost = {9: 9}, True
    commits.set_leaf(1, 10)
    commits.put(b"a", state(1))
    ticket = commits.set_all_leaves({1: 11, 2: 22})
    commits.set_leaf(2, 23)
    await commits.wait(ticket)
    assert (disk.engine.folder.leaves, disk.engine.folder.leaves_are_lost) == ({1: 11, 2: 23}, False)
    await commits.wait(commits.set_all_leaves({}))
    assert disk.engine.folder.leaves == {}, "a batch of nothing else is written too"


async def test_the_ticket_stands_for_all_that_was_put_so_far(disk: Disk, commits: GroupCommit) -> None:
    assert commits.ticket == 0
    disk.hold()
    commits.put(b"a", state(1))
    assert commits.ticket == 1
    await turns()
    assert commits.ticket == 1, "under way"
    commits.drop_hint(1)
    assert commits.ticket == 2
    disk.let_go()
    await commits.wait(commits.ticket)
    assert commits.ticket == commits.committed == 2


# -- what an engine can't do beside a transaction ----------------------------------------------------------------


async def test_work_that_must_be_alone_waits_for_the_transaction_and_the_next_one_for_it(
    disk: Disk, commits: GroupCommit
) -> None:
    disk.hold()
    first = commits.put(b"a", state(1))
    await turns()
    order: list[object] = []
    may_end = asyncio.Event()

    async def work() -> str:
        order.append(commits.committed)
        await may_end.wait()
        return "done"

    working = asyncio.create_task(commits.alone(work))
    await turns()
    assert order == []
    disk.let_go()
    await turns()
    second = commits.put(b"b", state(2))
    await turns()
    assert order == [first]
    assert len(disk.batches) == 1
    may_end.set()
    assert await working == "done"
    await commits.wait(second)


async def test_an_idle_writer_does_it_at_once_and_gives_what_it_raises(commits: GroupCommit) -> None:
    async def work() -> None:
        raise DiskFull("no room")

    with pytest.raises(DiskFull):
        await commits.alone(work)
    await commits.wait(commits.put(b"a", state(1)))


async def test_work_whose_caller_has_gone_is_not_done(disk: Disk, commits: GroupCommit) -> None:
    disk.hold()
    ticket = commits.put(b"a", state(1))
    await turns()
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    working = asyncio.create_task(commits.alone(work))
    await turns()
    working.cancel()
    disk.let_go()
    await commits.wait(ticket)
    await turns()
    assert done == []


async def test_a_commit_that_fails_in_such_work_ends_the_writer(
    commits: GroupCommit, failures: list[BaseException]
) -> None:
    async def work() -> None:
        raise CommitFailed("the disk is gone")

    with pytest.raises(CommitFailed):
        await commits.alone(work)
    assert len(failures) == 1
    with pytest.raises(StorageError):
        await commits.alone(work)


async def test_what_waits_when_the_writer_ends_is_told(disk: Disk, commits: GroupCommit) -> None:
    await commits.stop()

    async def work() -> None:
        raise AssertionError("nothing is to be done any more")

    with pytest.raises(StorageError):
        await commits.alone(work)


async def test_a_leaf_that_was_mended_is_written_though_no_row_is(disk: Disk, commits: GroupCommit) -> None:
    await commits.wait(commits.mend_leaf(3, 17))
    assert disk.engine.folder.leaves == {3: 17}
