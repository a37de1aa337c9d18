"""Hinted handoff on real nodes: killed, started again, and nobody reads meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.client import Client, NoAnswer, until_ok
from tests.cluster.convergence import dump
from tests.cluster.harness import ClusterHarness, wait_until

KEYS = [f"hinted/{number}" for number in range(50)]


def metric(client: Client, name: str) -> float | None:
    """What the node's metrics say; None while it does not answer."""
    try:
        lines = client.call("GET", "/metrics").body.decode().splitlines()
    except NoAnswer:
        return None
    return next((float(line.split()[1]) for line in lines if line.split()[0] == name), None)


def versions(cluster: ClusterHarness, name: str) -> dict[str, str]:
    """The version of each key on that node's disk."""
    return {key.decode(): f"{origin:016x}" for key, origin, _ in dump(cluster.data(name))}


def sees_dead(client: Client, *names: str) -> None:
    wait_until(lambda: {client.states()[name] for name in names} == {"down"}, f"{names} to be seen dead")


def test_what_a_dead_replica_missed_outlives_its_keeper_and_arrives(tmp_path: Path) -> None:
    with ClusterHarness(tmp_path) as cluster:
        clients = {name: Client(cluster.http_address(name)) for name in cluster.names}
        for level in ("strong", "weak", "eventual"):
            receipt = clients["n1"].put(f"well/{level}", b"x", consistency=level).receipt
            assert "hinted" not in receipt
        cluster.kill("n3")
        sees_dead(clients["n1"], "n3")
        written: dict[str, str] = {}
        for number, key in enumerate(KEYS):
            level = ("weak", "eventual")[number % 2]
            answer = clients["n1"].put(key, b"value", consistency=level)
            assert (answer.status, answer.receipt["hinted"]) == (200, "1"), answer
            assert "n3" not in answer.replicas
            written[key] = answer.version
        body = b'{"operations": [{"op": "put", "key": "hinted/batch", "value": "value"}]}'
        result = (
            clients["n1"]
            .call("POST", "/v1/batch?consistency=weak", body, {"Content-Type": "application/json"})
            .json()["results"][0]
        )
        assert (result["status"], result["hinted"]) == (200, 1)
        written["hinted/batch"] = result["version"]
        assert metric(clients["n1"], "kvstore_hints") == len(written)
        cluster.kill("n1")
        clients["n1"].close()
        cluster.restart("n1")
        assert metric(clients["n1"], "kvstore_hints") == len(written)
        assert metric(clients["n1"], 'kvstore_hints_waiting{peer="n3"}') == len(written)
        cluster.restart("n3")
        wait_until(lambda: written.items() <= versions(cluster, "n3").items(), "what n3 missed to be on its disk")
        wait_until(lambda: metric(clients["n1"], "kvstore_hints") == 0, "no hints left")
        assert metric(clients["n1"], "kvstore_hints_bytes") == 0
        assert metric(clients["n1"], "kvstore_hints_delivered_total") == len(written)


@pytest.mark.parametrize("ends", ["killed", "stopped"])
def test_an_eventual_write_without_any_home_replica_is_kept_and_comes_home(tmp_path: Path, ends: str) -> None:
    with ClusterHarness(tmp_path, 5) as cluster:
        clients = {name: Client(cluster.http_address(name)) for name in cluster.names}
        key = KEYS[0]
        homes = clients["n1"].replicas(key)
        keeper, other = cluster.others(*homes)
        cluster.kill(*homes)
        sees_dead(clients[keeper], *homes)
        answer = clients[keeper].put(key, b"sole", consistency="eventual")
        assert (answer.status, answer.receipt["hinted"]) == (200, "1"), answer
        assert (answer.receipt["acks"], answer.replicas) == ("1", [keeper])
        for level, count in (("weak", 1), ("eventual", 2)):
            refused = clients[keeper].put(key, b"refused", consistency=level, w=count)
            assert (refused.status, refused.code) == (503, "quorum-unavailable"), refused
        assert metric(clients[keeper], "kvstore_hints_sole") == 1
        if ends == "killed":
            cluster.kill(keeper)
        else:
            cluster.terminate(keeper)
        clients[keeper].close()
        cluster.spawn(keeper)
        wait_until(lambda: metric(clients[keeper], "kvstore_hints_sole") == 1, "the keeper to be back with its hint")
        for name in homes:
            cluster.spawn(name)
        cluster.wait_ready()
        wait_until(lambda: metric(clients[keeper], "kvstore_hints") == 0, "the hint to be delivered")
        assert all(versions(cluster, name)[key] == answer.version for name in homes)
        for name in (other, *homes):
            clients[name].close()
            read = until_ok(lambda name=name: clients[name].get(key))  # type: ignore[misc]
            assert (read.body, read.version) == (b"sole", answer.version)


def test_hints_are_bounded(tmp_path: Path) -> None:
    """The oldest go first; what is kept fits the setting."""
    with ClusterHarness(tmp_path, flags=["--hints-bytes-max", "1MiB"]) as cluster:
        client = Client(cluster.http_address("n1"))
        cluster.kill("n3")
        sees_dead(client, "n3")
        for number in range(30):
            assert client.put(f"large/{number}", bytes(100_000), consistency="weak").receipt["hinted"] == "1"
        assert metric(client, "kvstore_hints_dropped_total") == 20
        assert metric(client, "kvstore_hints") == 10
        assert (metric(client, "kvstore_hints_bytes") or 0) <= 1 << 20
