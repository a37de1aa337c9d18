"""Nodes that are killed, one after another and all at once: what was acknowledged is there."""

from __future__ import annotations

import pytest

from tests.cluster.client import Client, see_all, until_ok
from tests.cluster.harness import ClusterHarness, wait_until
from tests.cluster.stream import Stream, check_strong, check_weak


@pytest.mark.parametrize("victim", ["n1", "n2", "n3"])
def test_one_of_three_dies_and_strong_requests_go_on(
    cluster3: ClusterHarness, clients: dict[str, Client], victim: str
) -> None:
    keys = [f"one-dies/{victim}/{number}" for number in range(20)]  # some of them have the victim as primary
    for key in keys:
        assert clients[victim].put(key, b"before").status == 200
    clients[victim].close()
    cluster3.kill(victim)
    left = cluster3.others(victim)
    for number, key in enumerate(keys):
        writer, reader = (clients[left[(number + turn) % 2]] for turn in (0, 1))
        assert until_ok(lambda reader=reader, key=key: reader.get(key)).body == b"before"  # type: ignore[misc]
        until_ok(lambda writer=writer, key=key: writer.put(key, b"after"))  # type: ignore[misc]
        assert until_ok(lambda reader=reader, key=key: reader.get(key)).body == b"after"  # type: ignore[misc]
    cluster3.restart(victim)
    for key in keys:
        assert until_ok(lambda key=key: clients[victim].get(key)).body == b"after"  # type: ignore[misc]
    see_all(clients)


def test_nodes_die_one_after_another_under_writes_of_all_levels(
    cluster3: ClusterHarness, clients: dict[str, Client]
) -> None:
    addresses = [cluster3.http_address(name) for name in cluster3.names]
    levels = ("strong", "weak", "eventual")
    streams = {
        level: Stream(addresses, [f"rounds/{level}/{number}" for number in range(3)], consistency=level)
        for level in levels
    }
    with streams["strong"], streams["weak"], streams["eventual"]:
        for victim in (*cluster3.names, *cluster3.names):
            for stream in streams.values():
                stream.wait_acknowledged(5)
            cluster3.kill(victim)
            for stream in streams.values():
                stream.wait_acknowledged(5)
            cluster3.restart(victim)
    for level, stream in streams.items():
        for told in stream.told.values():
            for client in clients.values():
                (check_strong if level == "strong" else check_weak)(client, told)


def test_mixed_levels_on_one_key_lose_nothing_when_nodes_die(
    cluster3: ClusterHarness, clients: dict[str, Client]
) -> None:
    addresses = [cluster3.http_address(name) for name in cluster3.names]
    levels = ("strong", "weak", "eventual")
    streams = [Stream(addresses, ["mixed/key"], consistency=level) for level in levels]
    with streams[0], streams[1], streams[2]:
        for victim in cluster3.names:
            for stream in streams:
                stream.wait_acknowledged(5)
            cluster3.kill(victim)
            cluster3.restart(victim)
    told = [stream.told["mixed/key"] for stream in streams]
    assert not [answer for each in told for answer in each.strange]
    newest = max(each.newest for each in told)
    wait_until(
        lambda: clients["n1"].get("mixed/key", consistency="weak", r="all").version >= newest,
        "the newest acknowledged version, perhaps after it was kept aside",
    )


@pytest.mark.parametrize("attempt", range(3))
def test_all_three_die_at_once(cluster3: ClusterHarness, clients: dict[str, Client], attempt: int) -> None:
    addresses = [cluster3.http_address(name) for name in cluster3.names]
    with Stream(addresses, [f"all-die/{attempt}/{number}" for number in range(12)]) as stream:
        stream.wait_acknowledged(10)
        cluster3.kill(*cluster3.names)
    for name in cluster3.names:
        cluster3.spawn(name)
    cluster3.wait_ready()
    for told in stream.told.values():
        assert told.last is not None
        for client in clients.values():
            check_strong(client, told)
    see_all(clients)
