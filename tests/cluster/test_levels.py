"""All levels on the same keys of a healthy cluster: nothing fails, nothing is lost, and receipts are true."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import pytest

from tests.cluster.client import CREATE, Answer, Client, if_match, see_all, until_ok
from tests.cluster.harness import ClusterHarness, wait_until

CLIENTS = 24
MIXED_S = 5.0
LEVELS = ("strong", "weak", "eventual")
T = TypeVar("T")


def crowd(cluster: ClusterHarness, count: int, work: Callable[[int, Client], T]) -> list[T]:
    """Lets that many clients, spread over the nodes, do their work at once; what each brought."""
    start = Barrier(count)

    def run(number: int) -> T:
        client = Client(cluster.http_address(cluster.names[number % len(cluster.names)]))
        try:
            start.wait()
            return work(number, client)
        finally:
            client.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="a policy of Linux")
def test_nodes_don_t_take_the_processor_from_each_other_for_every_message(cluster3: ClusterHarness) -> None:
    for name in cluster3.names:
        threads = [int(thread.name) for thread in Path(f"/proc/{cluster3.pid(name)}/task").iterdir()]
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_BATCH}


@pytest.mark.parametrize("keys", [1, 3])
def test_a_healthy_cluster_never_fails_whatever_the_mix(
    cluster3: ClusterHarness, clients: dict[str, Client], keys: int
) -> None:
    names = [f"mix/{keys}/{number}" for number in range(keys)]

    def work(number: int, client: Client) -> Counter[int]:
        chance, over, seen, version = random.Random(number), time.monotonic() + MIXED_S, Counter[int](), ""
        while time.monotonic() < over:
            answer = _anything(chance, client, chance.choice(names), version)
            assert answer.status in {200, 404, 412}, answer
            assert answer.status != 412 or answer.json()["outcome"] == "not-applied"
            if answer.status == 200:
                _check_receipt(answer)
                version = answer.version
            seen[answer.status] += 1
        return seen

    total = sum(crowd(cluster3, CLIENTS, work), Counter[int]())
    assert total[200] > CLIENTS
    for name in names:
        settled = clients["n2"].get(name, r="all")
        assert settled.status in {200, 404}
        wait_until(lambda name=name: len(set(clients["n1"].held(name))) == 1, "equal replicas", 10)  # type: ignore[misc]


def _anything(chance: random.Random, client: Client, key: str, version: str) -> Answer:
    level = chance.choice(LEVELS)
    count = chance.choice([None, 1, 2, 3])
    if count is not None and (level != "strong" or count > 1):
        reading, writing = {"r": count}, {"w": count}
    else:
        reading, writing = {}, {}
    match chance.randrange(10):
        case 0 | 1 | 2 | 3:
            return client.get(key, consistency=level, **reading)
        case 4 | 5 | 6:
            return client.put(key, b"%d" % chance.randrange(1 << 30), None, consistency=level, **writing)
        case 7:
            return client.delete(key, None, consistency=level, **writing)
        case 8:
            return client.put(key, b"created", CREATE)
        case _:
            return client.put(key, b"compared", if_match(version or "0" * 16))


def _check_receipt(answer: Answer) -> None:
    receipt = answer.receipt
    names = answer.replicas
    assert int(receipt["acks"]) == len(names) >= int(receipt["needed"]), answer
    assert len(set(names)) == len(names), answer
    assert set(names) <= {"n1", "n2", "n3"}, answer
    assert receipt["coordinator"] in {"n1", "n2", "n3"}
    if answer.body.startswith(b'{"key"'):
        assert answer.json()["acks"] == len(names)
        assert answer.json()["version"] == answer.version  # ETag and receipt say the same


def test_a_counter_by_compare_and_set_counts_each_step_once(cluster3: ClusterHarness) -> None:
    steps = 25
    assert Client(cluster3.http_address("n1")).put("counter", b"0").status == 200

    def work(_: int, client: Client) -> None:
        done = 0
        while done < steps:
            read = client.get("counter")
            written = client.put("counter", b"%d" % (int(read.body) + 1), if_match(read.version))
            assert written.status in {200, 412}, written
            done += written.status == 200

    crowd(cluster3, 8, work)
    for name in cluster3.names:
        assert Client(cluster3.http_address(name)).get("counter").body == b"%d" % (8 * steps)


def test_of_many_creators_one_wins(cluster3: ClusterHarness, clients: dict[str, Client]) -> None:
    for attempt in range(3):
        key = f"create/{attempt}"
        answers = crowd(cluster3, 30, lambda number, client, key=key: client.put(key, b"%d" % number, CREATE))  # type: ignore[misc]
        assert Counter(answer.status for answer in answers) == {200: 1, 412: 29}
        winner = next(number for number, answer in enumerate(answers) if answer.status == 200)
        version = answers[winner].version
        lost = [answer.json() for answer in answers if answer.status == 412]
        assert {(problem["code"], problem["version"]) for problem in lost} == {("exists", version)}
        for client in clients.values():
            read = client.get(key)
            assert (read.body, read.version) == (b"%d" % winner, version)


def test_a_deleted_key_can_be_created_again(clients: dict[str, Client]) -> None:
    first = clients["n1"].put("again", b"1", CREATE)
    assert clients["n2"].delete("again", if_match(first.version)).status == 200
    assert clients["n3"].get("again").status == 404
    assert clients["n1"].put("again", b"2", if_match(first.version)).code == "version-mismatch"
    second = clients["n3"].put("again", b"2", CREATE)
    assert (second.status, second.version > first.version) == (200, True)


@pytest.mark.parametrize("key", [f"session/{number}" for number in range(4)])
def test_every_node_shows_an_acknowledged_write_at_once(
    cluster3: ClusterHarness, clients: dict[str, Client], key: str
) -> None:
    for number in range(30):
        through = cluster3.names[number % 3]
        written = clients[through].put(key, b"%d" % number)
        for name in cluster3.others(through):
            read = clients[name].get(key)
            assert (read.body, read.version) == (b"%d" % number, written.version)
            page = clients[name].page(prefix=key, values="true").json()["keys"]
            assert [(entry["value"], entry["version"]) for entry in page] == [(str(number), written.version)]


def test_a_version_outlives_repairs_and_restarts(cluster3: ClusterHarness, clients: dict[str, Client]) -> None:
    written = {level: clients["n1"].put(f"etag/{level}", b"value", consistency=level, w=2) for level in LEVELS}
    for victim in cluster3.names:
        clients[victim].close()
        cluster3.kill(victim)
        other, key = clients[cluster3.others(victim)[0]], f"etag/without-{victim}"
        written[f"without-{victim}"] = until_ok(lambda other=other, key=key: other.put(key, b"value"))  # type: ignore[misc]
        cluster3.restart(victim)
        see_all(clients)
        for name, answer in written.items():
            for level in LEVELS:
                for node in cluster3.names:
                    read = clients[node].get(f"etag/{name}", consistency=level, r=3)
                    assert (read.status, read.body, read.version) == (200, b"value", answer.version)


@pytest.mark.parametrize("level", LEVELS)
def test_a_read_brings_along_a_replica_that_missed_a_write(
    cluster3: ClusterHarness, clients: dict[str, Client], level: str
) -> None:
    key = f"missed/{level}"
    clients["n3"].close()
    cluster3.kill("n3")
    until_ok(lambda: clients["n1"].put(key, b"value"))
    cluster3.restart("n3")
    see_all(clients)
    assert clients["n1"].get(key, consistency=level, r="all").status == 200
    wait_until(lambda: len(set(clients["n1"].held(key))) == 1, "equal replicas", 3)


@pytest.mark.parametrize("level", ["weak", "eventual"])
def test_a_read_brings_a_weak_write_over_a_strong_one(
    cluster3: ClusterHarness, clients: dict[str, Client], level: str
) -> None:
    """The strong write left a promise for its proposer's next ballot on the replica that then missed the weak one."""
    key = f"weak-over-strong/{level}"
    until_ok(lambda: clients["n1"].put(key, b"old", w=3))
    clients["n3"].close()
    cluster3.kill("n3")
    written = until_ok(lambda: clients["n1"].put(key, b"new", consistency=level, w=2))
    cluster3.restart("n3")
    see_all(clients)
    read = clients["n1"].get(key, consistency="weak", r="all")
    assert (read.status, read.body) == (200, b"new")
    wait_until(lambda: set(clients["n1"].held(key)) == {written.version}, "the weak write on all replicas", 5)
    assert clients["n3"].get(key).body == b"new"
