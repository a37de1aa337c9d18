"""Nodes that hold their connections and say nothing (SIGSTOP), and what they do when they wake up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvstore.readiness import unready_because
from tests.cluster.client import Client, if_match, led_by, see_all, until_ok
from tests.cluster.harness import ClusterHarness, wait_until
from tests.cluster.stream import Stream, check_strong


@pytest.fixture
def n1_alone(cluster3: ClusterHarness, clients: dict[str, Client]) -> Iterator[Client]:
    """n1, whose two peers are stopped and which knows it. Afterwards all is well again."""
    for number in range(12):
        assert clients["n1"].put(f"alone/{number}", b"before").status == 200
    for name in ("n2", "n3"):
        cluster3.stop(name)
    wait_until(lambda: list(clients["n1"].states().values()).count("self") == 1, "n1 to answer")
    wait_until(lambda: "alive" not in clients["n1"].states().values(), "n1 to suspect both peers")
    yield clients["n1"]
    for name in ("n2", "n3"):
        cluster3.cont(name)
    cluster3.wait_ready()
    see_all(clients)


def test_a_majority_lost_is_told_at_once(cluster3: ClusterHarness, n1_alone: Client) -> None:
    written = n1_alone.put("alone/0", b"refused")
    assert written.status == 503
    problem = written.json()
    assert (problem["code"], problem["outcome"]) == ("quorum-unavailable", "not-applied")
    assert (problem["needed"], problem["got"]) == (2, 1)
    deleted = n1_alone.delete("alone/1")
    assert (deleted.status, deleted.json()["outcome"]) == (503, "not-applied")
    read = n1_alone.get("alone/2")
    assert (read.status, read.code, read.json()["outcome"]) == (503, "quorum-unavailable", "none")
    page = n1_alone.page(prefix="alone/")
    assert (page.status, page.code) == (503, "quorum-unavailable")
    host, _, port = cluster3.http_address("n1").partition(":")
    assert "majority" in (unready_because(host, int(port)) or "")


@pytest.mark.parametrize("level", ["weak", "eventual"])
def test_weaker_levels_go_on_without_a_majority(n1_alone: Client, level: str) -> None:
    for number in range(12):  # strongly written before, so that promises stand
        read = n1_alone.get(f"alone/{number}", consistency=level)
        assert (read.status, read.replicas) == (200, ["n1"])
        written = n1_alone.put(f"alone/{number}", b"%s %d" % (level.encode(), number), consistency=level)
        assert (written.status, written.replicas) == (200, ["n1"]), written
        read = n1_alone.get(f"alone/{number}", consistency=level)
        assert (read.body, read.version) == (b"%s %d" % (level.encode(), number), written.version)
    assert n1_alone.put("alone/fresh", b"new", consistency=level).status == 200
    assert len(n1_alone.page(prefix="alone/", consistency=level).json()["keys"]) == 13


@pytest.mark.parametrize("silent", ["n1", "n2", "n3"])
def test_one_silent_node_holds_up_no_write(cluster3: ClusterHarness, clients: dict[str, Client], silent: str) -> None:
    left = cluster3.others(silent)
    keys = [f"silent/{silent}/{number}" for number in range(6)]
    for key in keys:
        assert clients["n1"].put(key, b"before").status == 200  # promises stand in the way of weak writes
    cluster3.stop(silent)
    for name in left:
        wait_until(lambda name=name: clients[name].states()[silent] != "alive", f"{name} to suspect it")  # type: ignore[misc]
    for number, key in enumerate(keys):
        client = clients[left[number % 2]]
        for level in ("strong", "weak", "eventual", "strong"):
            written = client.put(key, level.encode(), consistency=level)
            assert (written.status, silent in written.replicas) == (200, False), written
            written = client.put(key, level.encode(), consistency=level, w=2)
            assert (written.status, written.replicas) == (200, left), written
            assert client.get(key, consistency=level, r=2).body == level.encode()
    cluster3.cont(silent)
    cluster3.wait_ready()
    see_all(clients)


def test_what_was_refused_never_appears(cluster3: ClusterHarness, clients: dict[str, Client]) -> None:
    keys = [f"refused/{number}" for number in range(6)]
    versions = {key: clients["n1"].put(key, b"before").version for key in keys}
    with Stream([cluster3.http_address("n1")], keys) as stream:
        stream.wait_acknowledged(3)
        cluster3.stop("n2")
        cluster3.stop("n3")
        wait_until(lambda: all(told.refused for told in stream.told.values()), "refusals on every key")
        cluster3.cont("n2")
        cluster3.cont("n3")
        stream.wait_acknowledged(1)
    for key in keys:
        told = stream.told[key]
        assert told.newest > versions[key]
        for client in clients.values():
            check_strong(client, told)
    see_all(clients)


@pytest.mark.parametrize("primary", ["n2", "n3"])
def test_a_stopped_primary_never_applies_a_step_twice(
    cluster3: ClusterHarness, clients: dict[str, Client], primary: str
) -> None:
    """A counter by compare-and-set: each acknowledged step counts once, each unknown one at most once."""
    key = led_by(clients["n1"], primary, "counter")
    assert clients["n1"].put(key, b"0").status == 200
    over = threading.Event()
    asked_by = cluster3.others(primary)

    def count(name: str) -> tuple[int, int]:
        client, done, unknown = Client(cluster3.http_address(name)), 0, 0
        while not over.is_set():
            read = client.get(key, timeout="1s")
            if read.status != 200:
                assert read.status in {503, 504}, read
                continue
            written = client.put(key, b"%d" % (int(read.body) + 1), if_match(read.version), timeout="1s")
            assert written.status in {200, 412, 503, 504}, written
            done += written.status == 200
            unknown += written.status == 504
        client.close()
        return done, unknown

    with ThreadPoolExecutor(4) as pool:
        counting = [pool.submit(count, asked_by[number % 2]) for number in range(4)]
        for _ in range(2):
            begun = int(until_ok(lambda: clients["n1"].get(key)).body)
            wait_until(lambda begun=begun: int(clients["n1"].get(key).body or b"0") > begun, "the counter to move")  # type: ignore[misc]
            cluster3.stop(primary)
            wait_until(lambda: clients["n1"].states()[primary] != "alive", f"{primary} to be suspected")
            begun = int(until_ok(lambda: clients["n1"].get(key)).body)
            wait_until(lambda begun=begun: _count_of(clients["n1"], key) > begun, "the counter to go on without it")  # type: ignore[misc]
            cluster3.cont(primary)
            see_all(clients)
        over.set()
        totals = [each.result() for each in counting]
    done, unknown = sum(total[0] for total in totals), sum(total[1] for total in totals)
    final = {int(until_ok(lambda client=client: client.get(key)).body) for client in clients.values()}  # type: ignore[misc]
    assert len(final) == 1
    assert done <= final.pop() <= done + unknown


def _count_of(client: Client, key: str) -> int:
    read = client.get(key)
    return int(read.body) if read.status == 200 else -1


def test_a_primary_that_wakes_up_drops_what_is_past_its_time(
    cluster3: ClusterHarness, clients: dict[str, Client]
) -> None:
    key = led_by(clients["n1"], "n3", "stale")  # never written, so that n3 would have to prepare, and would win
    cluster3.stop("n3")
    late = clients["n1"].put(key, b"late", timeout="300ms")  # n1 can't know yet that n3 says nothing
    assert (late.status, late.json()["outcome"]) == (504, "unknown")
    wait_until(lambda: clients["n1"].states()["n3"] != "alive", "n3 to be suspected")
    after = until_ok(lambda: clients["n1"].put(key, b"after"))
    cluster3.cont("n3")
    see_all(clients)
    # What n1 had sent to n3 lies before these in the same connection, so it has been looked at by now.
    wait_until(lambda: "unreachable" not in clients["n1"].held(key), "all replicas to answer")
    for client in (clients["n3"], clients["n1"], clients["n2"]):
        read = until_ok(lambda client=client: client.get(key))  # type: ignore[misc]
        assert (read.body, read.version) == (b"after", after.version)
