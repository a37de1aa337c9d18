"""Values that expire, on real nodes whose wall clocks are 4 s apart: n1 is behind, n3 ahead.

What is asked of a value that is still there has a minute, what is asked of one that is gone waits for it: a busy
machine decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest

from tests.cluster.cli_runner import Cli
from tests.cluster.client import CREATE, Client, if_match, kv_path, led_by, see_all, until_ok
from tests.cluster.harness import ClusterHarness, wait_until

STEPS_MS = {"n1": -2_000, "n2": 0, "n3": 2_000}
LEVELS = ("strong", "weak", "eventual")
TIMEOUT = "20s"


@pytest.fixture(scope="module")
def cluster3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHarness]:
    folder = tmp_path_factory.mktemp("ttl")
    cluster = ClusterHarness(folder)
    for name, step_ms in STEPS_MS.items():
        file = folder / f"{name}.clock"
        file.write_text(str(step_ms))
        cluster.node_environment[name] = {"KVSTORE_TEST_CLOCK": str(file)}
    with cluster:
        yield cluster


def gone(clients: dict[str, Client], key: str) -> list[int]:
    """The status of strong reads through all nodes in turn, until one of each in a row has found nothing."""
    seen: list[int] = []
    names = cycle(clients)

    def is_gone() -> bool:
        answer = clients[next(names)].get(key, timeout=TIMEOUT)
        assert answer.status in {200, 404}, answer
        seen.append(answer.status)
        return seen[-len(clients) :] == [404] * len(clients)

    wait_until(is_gone, f"{key} to be gone")
    return seen


def listed(client: Client, prefix: str, level: str) -> list[dict[str, Any]]:
    answer = client.page(prefix=prefix, consistency=level, timeout=TIMEOUT)
    assert answer.status == 200, answer
    keys: list[dict[str, Any]] = answer.json()["keys"]
    return keys


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", STEPS_MS)
def test_reads_say_how_long_a_value_lasts(clients: dict[str, Client], name: str, level: str) -> None:
    key = f"lasting/{level}/{name}"
    written = clients[name].put(key, b"v", consistency=level, w="3", ttl="60s", timeout=TIMEOUT)
    assert written.status == 200, written
    for reader in clients.values():
        for answer in (
            reader.get(key, consistency=level, timeout=TIMEOUT),
            reader.call("HEAD", kv_path(key, consistency=level, timeout=TIMEOUT)),
            reader.call("GET", kv_path(key, consistency=level, timeout=TIMEOUT), headers={"If-None-Match": "*"}),
        ):
            assert answer.status in {200, 304}, answer
            assert 0.0 <= float(answer.headers["kv-expires-in"]) <= 64.0
        (item,) = listed(reader, key, level)
        assert 0.0 <= item["expires_in"] <= 64.0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", STEPS_MS)
def test_once_gone_gone(clients: dict[str, Client], name: str, level: str) -> None:
    key = f"once/{level}/{name}"
    written = clients[name].put(key, b"v", consistency=level, w="3", ttl="3s", timeout=TIMEOUT)
    assert written.status == 200, written
    seen = gone(clients, key)
    assert 200 not in seen[seen.index(404) :]
    for reader in clients.values():
        assert listed(reader, key, "strong") == []
        swap = reader.put(key, b"x", if_match(written.version), timeout=TIMEOUT)
        assert (swap.status, swap.json()["version"]) == (412, None)


@pytest.mark.parametrize("name", STEPS_MS)
@pytest.mark.parametrize("leader", STEPS_MS)
def test_a_create_succeeds_through_any_node(clients: dict[str, Client], name: str, leader: str) -> None:
    """As soon as one node, whose clock is ahead, has said that the value is gone."""
    key = led_by(clients["n1"], leader, f"create/{name}")
    assert clients["n2"].put(key, b"old", ttl="1s", timeout=TIMEOUT).status == 200
    wait_until(lambda: clients["n3"].get(key, timeout=TIMEOUT).status == 404, "the old value to be gone")
    created = clients[name].put(key, b"new", CREATE, timeout=TIMEOUT)
    assert created.status == 200, created
    for reader in clients.values():
        answer = reader.get(key, timeout=TIMEOUT)
        assert (answer.status, answer.body, answer.version) == (200, b"new", created.version)
        assert "kv-expires-in" not in answer.headers


def test_it_stays_gone_when_nodes_were_killed(cluster3: ClusterHarness, clients: dict[str, Client]) -> None:
    key, lasting = "killed/short", "killed/long"
    assert clients["n1"].put(key, b"v", w="3", ttl="1s", timeout=TIMEOUT).status == 200
    assert clients["n1"].put(lasting, b"v", w="3", ttl="5m", timeout=TIMEOUT).status == 200
    gone(clients, key)
    for name in STEPS_MS:
        cluster3.kill(name)
        cluster3.restart(name)
    for client in clients.values():
        client.close()
    see_all(clients)
    for reader in clients.values():
        assert reader.get(key, timeout=TIMEOUT).status == 404
        assert until_ok(lambda reader=reader: reader.get(lasting, timeout=TIMEOUT)).body == b"v"  # type: ignore[misc]
        assert [item["key"] for item in listed(reader, "killed/", "strong")] == [lasting]
        for level in ("weak", "eventual"):
            wait_until(
                lambda reader=reader, level=level: (  # type: ignore[misc]
                    [item["key"] for item in listed(reader, "killed/", level)] == [lasting]
                    and reader.get(key, consistency=level, timeout=TIMEOUT).status == 404
                ),
                "the weak reads to be of the same mind",
            )


def test_a_write_without_ttl_keeps_the_value_for_ever(clients: dict[str, Client]) -> None:
    key, witness = "kept/key", "kept/witness"
    assert clients["n1"].put(witness, b"short", ttl="1s", timeout=TIMEOUT).status == 200
    assert clients["n1"].put(key, b"short", ttl="1s", timeout=TIMEOUT).status == 200
    assert clients["n3"].put(key, b"long", timeout=TIMEOUT).status == 200
    gone(clients, witness)
    for reader in clients.values():
        answer = reader.get(key, timeout=TIMEOUT)
        assert (answer.body, "kv-expires-in" in answer.headers) == (b"long", False)


def test_a_batch_takes_times_to_live(clients: dict[str, Client]) -> None:
    operations = [
        {"op": "put", "key": "batch/short", "value": "v", "ttl": "1s"},
        {"op": "put", "key": "batch/long", "value": "v", "ttl": "5m"},
        {"op": "get", "key": "batch/long"},
    ]
    body = json.dumps({"operations": operations}).encode()
    answer = clients["n2"].call("POST", f"/v1/batch?timeout={TIMEOUT}", body, {"Content-Type": "application/json"})
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [200, 200, 200]
    assert 0.0 < results[2]["expires_in"] <= 300.0
    gone(clients, "batch/short")
    assert clients["n3"].get("batch/long", timeout=TIMEOUT).status == 200


def test_the_command_line(cluster3: ClusterHarness) -> None:
    cli = Cli(cluster3.endpoints)
    written = cli("put", "cli/key", "v", "--ttl", "7d")
    assert written.code == 0, written.err
    read = cli("get", "cli/key", "--receipt")
    assert read.out == b"v"
    assert "expires in: 6047" in read.err
    assert 604_000 < cli("get", "cli/key", "-o", "json").json()["expires_in"] <= 604_804
    (row,) = cli("list", "cli/").json()["keys"]
    assert 604_000 < row["expires_in"] <= 604_804
    table = cli("list", "cli/", "-o", "table").out.decode()
    assert "expires in" in table
    assert "6047" in table
    assert cli("put", "cli/key", "v").code == 0
    assert "expires" not in cli("get", "cli/key", "--receipt").err
    refused = cli("put", "cli/key", "v", "--ttl", "1ms")
    assert (refused.code, "100ms to 3650d" in refused.err) == (2, True)
