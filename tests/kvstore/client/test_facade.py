"""The client without `await`: threads, ends, Ctrl-C, forks; and that it has what the one with `await` has."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

import kvstore
from tests.kvstore.client.misbehaving import (
    GRANTED,
    UNAVAILABLE,
    VALUE,
    WRITTEN,
    KeepsSilent,
    Node,
    Says,
    nodes,
    problem,
)

Serve = Callable[..., list[str]]
THREADS = 16


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves nodes from a thread of their own; their addresses."""
    with ExitStack() as stack:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        def run(work: object) -> object:
            return asyncio.run_coroutine_threadsafe(work, loop).result()  # type: ignore[arg-type]

        def end() -> None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

        def start(*given: Node) -> list[str]:
            serving = nodes(*given)
            urls = run(serving.__aenter__())
            stack.callback(lambda: run(serving.__aexit__(None, None, None)))
            return urls  # type: ignore[return-value]

        stack.callback(end)
        yield start


def threads_of_clients() -> int:
    return sum(thread.name == "kvstore client" for thread in threading.enumerate())


def test_many_threads_share_one_client_and_its_one_thread(serve: Serve) -> None:
    before = threads_of_clients()
    with kvstore.connect(serve(Node(VALUE))) as client, ThreadPoolExecutor(THREADS) as pool:
        values = list(pool.map(client.get, map(str, range(200))))
        assert [value and value.text for value in values] == ["v"] * 200
        assert threads_of_clients() == before + 1
    assert threads_of_clients() == before
    with pytest.raises(RuntimeError, match="closed"):
        client.get("k")
    client.close()


def test_errors_are_those_of_the_client_with_await(serve: Serve) -> None:
    urls = serve(Node(problem(412, "exists", version="3")))
    with kvstore.connect(urls) as client, pytest.raises(kvstore.Exists) as caught:
        client.put("k", "v", create=True)
    assert caught.value.version == "3"


def test_nothing_is_started_before_the_first_call() -> None:
    before = threads_of_clients()
    kvstore.connect(["http://127.0.0.1:1"])
    assert threads_of_clients() == before


@pytest.mark.parametrize("endpoints", [[], "", ["http://"], ["ftp://h:1"]])
def test_addresses_that_are_none_are_refused_at_once(endpoints: str | list[str]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is yarl's in some cases
        kvstore.connect(endpoints)


def test_addresses_may_be_one_text(serve: Serve) -> None:
    with kvstore.connect("127.0.0.1:1," + serve(Node(VALUE))[0]) as client:
        assert client.get("k") is not None


async def test_entered_with_async_it_gives_the_client_with_await(serve: Serve) -> None:
    client = kvstore.connect(serve(Node(VALUE)))
    async with client as awaited:
        assert isinstance(awaited, kvstore.AsyncClient)
        assert await awaited.get("k") is not None
        with pytest.raises(RuntimeError, match="async with"):
            client.get("k")
    with pytest.raises(RuntimeError, match="in use"):
        await client.__aenter__()


def test_a_client_that_nobody_has_any_more_ends_its_thread(serve: Serve) -> None:
    before = threads_of_clients()
    client = kvstore.connect(serve(Node(VALUE)))
    client.get("k")
    entry = client.list()
    del client, entry
    gc.collect()
    deadline = time.monotonic() + 10
    while threads_of_clients() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lock_keeps_its_client(serve: Serve) -> None:
    lock = kvstore.connect(serve(Node(GRANTED))).lock("l")
    gc.collect()
    lock.acquire()
    assert lock.is_held


def test_closing_ends_calls_that_are_under_way(serve: Serve) -> None:
    node = Node(KeepsSilent())
    client = kvstore.connect(serve(node))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.put, "k", "v")
        deadline = time.monotonic() + 10
        while not node.heard:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        client.close()
        with pytest.raises(kvstore.OutcomeUnknown, match="closed"):
            call.result(timeout=10)


def test_a_lock_that_is_lost_is_told_wherever_it_is_asked_and_at_the_end(serve: Serve) -> None:
    lost = problem(410, "lock-lost")
    with kvstore.connect(serve(Node(GRANTED, lost))) as client:
        lock = client.lock("l", ttl=1)
        reached = []

        def body() -> None:
            with lock:
                while lock.is_held:
                    time.sleep(0.01)
                for ask in (lock.check, lambda: lock.fence, lambda: client.put("k", "v", fence=lock), lock.renew):
                    with pytest.raises(kvstore.LockLost):
                        ask()
                reached.append("the end")

        with pytest.raises(kvstore.LockLost):
            body()
        assert reached


def test_a_lock_is_held_for_the_body_and_given_back(serve: Serve) -> None:
    node = Node(GRANTED, WRITTEN, Says(200, {"name": "l", "fence": 7}))
    with kvstore.connect(serve(node)) as client:
        with client.lock("l", owner="me") as lock:
            assert (lock.fence, lock.owner, lock.name, lock.is_held) == (7, "me", "l", True)
            client.put("k", "v", fence=lock)
        assert not lock.is_held
    assert [heard.method for heard in node.heard] == ["POST", "PUT", "DELETE"]


def test_an_election_without_await(serve: Serve) -> None:
    with kvstore.connect(serve(Node(GRANTED, Says(200, {"name": "l", "fence": 7})))) as client:
        election = client.election("e", candidate="me")
        with election:
            assert (election.term, election.is_leader, election.candidate) == (7, True, "me")
        assert not election.is_leader


def test_taking_twice_with_one_object_does_not_give_the_first_back(serve: Serve) -> None:
    with kvstore.connect(serve(Node(GRANTED))) as client:
        lock = client.lock("l")
        lock.acquire()
        with pytest.raises(RuntimeError, match="already"):
            lock.acquire()
        assert lock.is_held


def test_ctrl_c_ends_a_wait_at_once(serve: Serve) -> None:
    node = Node(KeepsSilent())
    program = f"""
import kvstore, sys
client = kvstore.connect({serve(node)!r})
try:
    client.lock("l", wait=60).acquire()
except KeyboardInterrupt:
    sys.exit(42)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        deadline = time.monotonic() + 30
        while not node.heard:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 42
    finally:
        process.kill()
        process.wait()


def test_a_client_is_not_for_children_that_were_forked_later(serve: Serve) -> None:
    program = f"""
import kvstore, os, sys
client = kvstore.connect({serve(Node(VALUE))!r})
client.get("k")
child = os.fork()
if child == 0:
    try:
        client.get("k")
    except RuntimeError as error:
        client.close()
        with kvstore.connect({serve(Node(VALUE))!r}) as own:
            os._exit(7 if "forked" in str(error) and own.get("k").text == "v" else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
client.get("k")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_that_never_closes_ends_quietly(serve: Serve) -> None:
    program = f"import kvstore; client = kvstore.connect({serve(Node(VALUE))!r}); client.get('k')"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_call_gives_up_at_its_deadline(serve: Serve) -> None:
    with kvstore.connect(serve(Node(UNAVAILABLE)), timeout=0.3) as client:
        began = time.monotonic()
        with pytest.raises(kvstore.QuorumUnavailable):
            client.get("k")
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("plain", "awaited"),
    [
        (kvstore.Client, kvstore.AsyncClient),
        (kvstore.Lock, kvstore.AsyncLock),
        (kvstore.Election, kvstore.AsyncElection),
    ],
    ids=lambda kind: kind.__name__,
)
def test_it_has_the_methods_and_arguments_of_the_one_with_await(plain: type, awaited: type) -> None:
    below = {"pages", "take", "give_back", "leave", "abandon"}
    names = {name for name in dir(awaited) if not name.startswith("_")} - below
    assert names <= set(dir(plain)) | {"owner", "candidate", "name"}
    for name in names - {"owner", "candidate", "name"}:
        theirs, ours = getattr(awaited, name), getattr(plain, name)
        assert ours.__doc__
        if not isinstance(theirs, property):
            assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters, name
