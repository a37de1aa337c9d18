"""Nodes whose wall clock is wrong (bent by a file), among others whose clock is right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.client import Client, NoAnswer, see_all, until_ok
from tests.cluster.harness import ClusterHarness, wait_until
from tests.cluster.stream import Stream, check_strong, check_weak

HOUR_MS = 3_600_000
LEVELS = ("strong", "weak", "eventual")
TIMEOUT = "20s"
"""Of requests that must not fail: far above what they take, so that a busy machine decides nothing."""


class BentCluster(ClusterHarness):
    """A harness whose nodes' wall clocks can be set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.node_environment = {name: {"KVSTORE_TEST_CLOCK": str(self._file(name))} for name in self.names}

    def bend(self, name: str, offset_ms: int) -> None:
        """Sets the node's wall clock that far ahead, from one moment to the next."""
        new = self._file(name).with_suffix(".new")
        new.write_text(str(offset_ms))
        os.replace(new, self._file(name))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.clock"


@pytest.fixture(scope="module")
def cluster3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BentCluster]:
    """Three nodes, shared by the tests of this module: leave all of them running, ready and with the right time."""
    with BentCluster(tmp_path_factory.mktemp("clocks")) as cluster:
        yield cluster


def unready(client: Client) -> str:
    """Why the node is not ready; empty when it is."""
    answer = client.call("GET", "/readyz")
    assert answer.status == (503 if answer.json()["reasons"] else 200)
    return "; ".join(answer.json()["reasons"])


def metric(client: Client, name: str) -> float:
    """The value of one series."""
    lines = client.call("GET", "/metrics").body.decode().splitlines()
    return float(next(line for line in lines if line.startswith(name + " ")).rpartition(" ")[2])


def unfit(client: Client, name: str) -> str:
    """What stands against a member, as this node sees it."""
    members = client.call("GET", "/v1/cluster").json()["members"]
    return "; ".join(next(member["unfit"] for member in members if member["name"] == name))


def wait_well(clients: dict[str, Client]) -> None:
    """Waits until nothing stands against anybody."""
    see_all(clients)
    for name, client in clients.items():
        wait_until(lambda client=client: not unready(client), f"{name} to be ready")  # type: ignore[misc]
        for other in clients:
            wait_until(lambda client=client, other=other: not unfit(client, other), f"{name} to trust {other}")  # type: ignore[misc]


def check_refused(clients: dict[str, Client], words: str) -> None:
    """n1 refuses writes, says why, and still reads; the others say so of it, too."""
    n1 = clients["n1"]
    wait_until(lambda: words in unready(n1), "n1 to say that its clock is off")
    for level in LEVELS:
        for refused in (n1.put("refused", b"x", consistency=level), n1.delete("refused", consistency=level)):
            problem = refused.json()
            assert (refused.status, problem["code"], problem["outcome"]) == (503, "quorum-unavailable", "not-applied")
            assert words in problem["detail"]
    batch = n1.call(
        "POST", "/v1/batch", b'{"operations": [{"op": "put", "key": "refused", "value": "x"}]}',
        {"Content-Type": "application/json"},
    )  # fmt: skip
    assert (batch.json()["results"][0]["status"], batch.json()["results"][0]["outcome"]) == (503, "not-applied")
    assert metric(n1, "kvstore_clock_refused") == 1
    for name in ("n2", "n3"):
        wait_until(lambda name=name: "n1 is off" in unfit(clients[name], "n1"), f"{name} to see it")  # type: ignore[misc]
        assert abs(metric(clients[name], 'kvstore_clock_offset_seconds{peer="n1"}')) > 5
        written = until_ok(lambda name=name: clients[name].put("seen", name.encode(), timeout=TIMEOUT))  # type: ignore[misc]
        assert written.replicas == ["n2", "n3"]
        for level in LEVELS:
            read = until_ok(lambda level=level: n1.get("seen", consistency=level, r=2, timeout=TIMEOUT))  # type: ignore[misc]
            assert (read.body, read.replicas) == (name.encode(), ["n2", "n3"])
    assert clients["n2"].get("refused").status == 404


@pytest.mark.parametrize(
    ("offset_ms", "words"), [(HOUR_MS, "s ahead of n2"), (-HOUR_MS, "s behind n2")], ids=["ahead", "behind"]
)
def test_an_hour_off_while_it_runs(
    cluster3: BentCluster, clients: dict[str, Client], offset_ms: int, words: str
) -> None:
    wait_well(clients)
    good = [cluster3.http_address(name) for name in ("n2", "n3")]
    keys = [f"good/{offset_ms}/{number}" for number in range(3)]
    with (
        Stream(good, [f"{key}/strong" for key in keys], timeout=TIMEOUT) as strong,
        Stream(good, [f"{key}/weak" for key in keys], timeout=TIMEOUT, consistency="weak") as weak,
    ):
        strong.wait_acknowledged(3)
        cluster3.bend("n1", offset_ms)
        check_refused(clients, words)
        strong.wait_acknowledged(20)
        weak.wait_acknowledged(20)
        cluster3.bend("n1", 0)
        wait_well(clients)
        strong.wait_acknowledged(3)
        weak.wait_acknowledged(3)
    for level in LEVELS:
        until_ok(
            lambda level=level: clients["n1"].put("again", level.encode(), consistency=level, w=3, timeout=TIMEOUT)
        )  # type: ignore[misc]
    for told in strong.told.values():
        for client in clients.values():
            check_strong(client, told)
    for told in weak.told.values():
        check_weak(clients["n1"], told)
    log = cluster3.log("n1")
    assert "this node takes no writes: its wall clock is off" in log
    assert "this node's wall clock is right again" in log
    assert "a peer is refused: its wall clock is off" in cluster3.log("n2")


def test_an_hour_off_at_the_start(cluster3: BentCluster, clients: dict[str, Client]) -> None:
    wait_well(clients)
    cluster3.kill("n1")
    cluster3.bend("n1", HOUR_MS)
    cluster3.spawn("n1")
    wait_until(lambda: is_up(clients["n1"]), "n1 to answer")
    check_refused(clients, "s ahead of n2")
    assert "never run a real cluster like this" in cluster3.log("n1")
    cluster3.bend("n1", 0)
    wait_well(clients)
    written = clients["n1"].put("fresh", b"sane", w=3, timeout=TIMEOUT)
    assert written.status == 200
    n2 = clients["n2"].put("fresh/2", b"sane", consistency="weak", w=3, timeout=TIMEOUT)
    assert int(written.version, 16) >> 22 < (int(n2.version, 16) >> 22) + HOUR_MS // 2, "its ballots follow its clock"


def is_up(client: Client) -> bool:
    try:
        return client.call("GET", "/livez").status == 200
    except NoAnswer:
        return False


def test_a_step_that_is_allowed_loses_and_stops_nothing(cluster3: BentCluster, clients: dict[str, Client]) -> None:
    wait_well(clients)
    everybody = [cluster3.http_address(name) for name in cluster3.names]
    with (
        Stream(everybody, [f"step/strong/{number}" for number in range(3)], timeout=TIMEOUT) as strong,
        Stream(everybody, [f"step/weak/{number}" for number in range(3)], timeout=TIMEOUT, consistency="weak") as weak,
    ):
        for offset_ms in (3_000, -1_000, 0):
            cluster3.bend("n1", offset_ms)
            strong.wait_acknowledged(15)
            weak.wait_acknowledged(15)
            assert unready(clients["n1"]) == ""
    for told in (*strong.told.values(), *weak.told.values()):
        assert (told.refused, told.unknown, told.strange) == (set(), set(), [])
    for told in strong.told.values():
        for client in clients.values():
            check_strong(client, told)
    for told in weak.told.values():
        check_weak(clients["n2"], told)


@pytest.mark.parametrize("all_end", [False, True], ids=["they go on", "all are killed"])
def test_what_was_acknowledged_with_a_wrong_clock_stays_readable_and_writable(tmp_path: Path, all_end: bool) -> None:
    """Two of three start, an hour apart: nobody can tell who is right, and both take writes. Then the third comes."""
    cluster = BentCluster(tmp_path)
    clients = {name: Client(cluster.http_address(name)) for name in cluster.names}
    try:
        cluster.bend("n1", HOUR_MS)
        cluster.spawn("n1")
        cluster.spawn("n2")
        cluster.wait_ready("n1", "n2")
        versions = {
            f"{level}/{number}": until_ok(
                lambda level=level, number=number: clients["n1"].put(  # type: ignore[misc]
                    f"{level}/{number}", b"afar", consistency=level, timeout=TIMEOUT
                )
            ).version
            for level in LEVELS
            for number in range(4)
        }
        cluster.spawn("n3")
        wait_until(lambda: is_up(clients["n3"]), "n3 to answer")
        wait_until(lambda: "wall clock is off" in unready(clients["n1"]), "n1 to be refused")
        cluster.bend("n1", 0)
        if all_end:
            cluster.kill(*cluster.names)
            for name in cluster.names:
                cluster.spawn(name)
            wait_until(lambda: all(map(is_up, clients.values())), "all to answer")
        wait_well(clients)
        for key, version in versions.items():
            for client in clients.values():
                read = until_ok(lambda key=key, client=client: client.get(key, consistency="weak", r=3))  # type: ignore[misc]
                assert (read.body, read.version) == (b"afar", version)
        for number, (key, version) in enumerate(versions.items()):
            newest = version
            for step, level in enumerate(("weak", "strong", "eventual", "strong")):
                client = clients[cluster.names[(number + step) % 3]]
                value = f"{key} {step}".encode()
                written = until_ok(
                    lambda key=key, client=client, value=value, level=level: client.put(  # type: ignore[misc]
                        key, value, consistency=level, w=2, timeout=TIMEOUT
                    )
                )
                assert written.version > newest
                newest = written.version
                for reader in clients.values():
                    read = until_ok(lambda key=key, reader=reader: reader.get(key, timeout=TIMEOUT))  # type: ignore[misc]
                    assert (read.body, read.version) == (value, newest)
            client = clients[cluster.names[number % 3]]
            until_ok(lambda key=key, client=client: client.delete(key, consistency=key.split("/")[0], w=2))  # type: ignore[misc]
            assert [reader.get(key, timeout=TIMEOUT).status for reader in clients.values()] == [404] * 3
    except BaseException:
        print(cluster.logs())
        raise
    finally:
        for client in clients.values():
            client.close()
        cluster.close()
