"""Client and nodes on cores of their own: who is kept to which, and what is said where that can't be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests import overload
from loadtests.apart import Cores, NotApart

THREADED = """
import sys, threading
def wait():
    sys.stdin.readline()
    threading.Thread(target=sys.stdin.readline).start()
    print("two", flush=True)
threading.Thread(target=wait).start()
print("one", flush=True)
"""

has_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="takes two cores"
)


@pytest.fixture
def affinity() -> Iterator[None]:
    """What this process and its threads may use, put back afterwards."""
    before = {int(task.name): os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir()}
    yield
    for thread, cores in before.items():
        os.sched_setaffinity(thread, cores)


@pytest.fixture
def threaded() -> Iterator[subprocess.Popen[str]]:
    """A process with a second thread, which makes a third when it is told to."""
    with subprocess.Popen(
        [sys.executable, "-c", THREADED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        yield process
        process.kill()


def cores_of(pid: int) -> list[set[int]]:
    return [os.sched_getaffinity(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()]


@has_two_cores
def test_every_thread_of_a_node_has_other_cores_than_the_client(
    affinity: None, threaded: subprocess.Popen[str]
) -> None:
    cores = Cores.parted()
    assert cores.client
    assert cores.nodes
    assert cores.client | cores.nodes == os.sched_getaffinity(0)
    assert not cores.client & cores.nodes
    cores.keep([threaded.pid])
    assert cores_of(os.getpid()) == [cores.client] * len(cores_of(os.getpid()))
    assert cores_of(threaded.pid) == [cores.nodes] * 2
    assert threaded.stdin is not None
    assert threaded.stdout is not None
    threaded.stdin.write("\n")
    threaded.stdin.flush()
    assert threaded.stdout.readline() == "two\n"
    assert set(map(frozenset, cores_of(threaded.pid))) == {cores.nodes}


def test_one_core_is_too_few(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    with pytest.raises(NotApart, match="only one core"):
        Cores.parted()
    monkeypatch.setattr(sys, "argv", ["overload", "--apart"])
    with pytest.raises(SystemExit, match=r"only one core.*nothing was measured"):
        overload.main()


def test_a_system_that_knows_nothing_of_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(NotApart, match="does not let a program say"):
        Cores.parted()


def test_a_process_that_may_not_be_moved_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_allowed(pid: int, cores: set[int]) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(os, "sched_setaffinity", not_allowed, raising=False)
    with pytest.raises(NotApart, match="not yours"):
        Cores(frozenset({10_000}), frozenset({10_001})).keep([os.getpid()])


def test_the_table_says_whose_cores_they_were() -> None:
    assert "client and nodes share all cores" in overload.title(None)
    assert "client on core 1, nodes on 0" in overload.title(Cores(frozenset({1}), frozenset({0})))
    assert "client on core 3, nodes on 0, 1, 2" in overload.title(Cores(frozenset({3}), frozenset({0, 1, 2})))
