"""Five nodes, three replicas of each key: any node answers for any key, and zones are kept apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.client import Answer, Client, until_ok
from tests.cluster.harness import ClusterHarness, wait_until

ZONES = ["a", "a", "b", "b", "c"]
KEYS = [f"five/{number:03}" for number in range(60)]
LEVELS = ("strong", "weak", "eventual")


@pytest.fixture(scope="module", params=["no zones", "zones in --members", "each node told only its own zone"])
def cluster5(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHarness]:
    options: dict[str, Any] = {}
    if request.param == "zones in --members":
        options["zones"] = ZONES
    elif request.param == "each node told only its own zone":
        options["node_flags"] = {f"n{number}": ["--zone", zone] for number, zone in enumerate(ZONES, 1)}
    folder: Path = tmp_path_factory.mktemp("cluster5")
    with ClusterHarness(folder, 5, replicas=3, **options) as cluster:
        yield cluster


@pytest.fixture
def clients5(cluster5: ClusterHarness) -> Iterator[dict[str, Client]]:
    opened = {name: Client(cluster5.http_address(name)) for name in cluster5.names}
    yield opened
    for client in opened.values():
        client.close()


def test_all_nodes_agree_on_three_replicas_in_as_many_zones(clients5: dict[str, Client]) -> None:
    zones = {member["name"]: member["zone"] for member in clients5["n1"].call("GET", "/v1/cluster").json()["members"]}
    sets = {key: clients5["n1"].replicas(key) for key in KEYS}
    for key, replicas in sets.items():
        assert len(set(replicas)) == 3
        assert len({zones[name] for name in replicas}) == len(set(zones.values()))  # 3, or 1 without zones
        for client in clients5.values():
            assert client.replicas(key) == replicas
    assert {name for replicas in sets.values() for name in replicas} == set(clients5)
    assert set(zones.values()) in ({""}, {"a", "b", "c"})


@pytest.mark.parametrize("level", LEVELS)
def test_any_node_answers_for_any_key(clients5: dict[str, Client], level: str) -> None:
    for number, key in enumerate(KEYS[:30]):
        names = list(clients5)
        writer, replicas = names[number % 5], set(clients5["n1"].replicas(key))
        value = f"{level} by {writer}".encode()
        written = clients5[writer].put(key, value, consistency=level, w=2)
        assert (written.status, set(written.replicas) <= replicas) == (200, True), written
        assert written.receipt["coordinator"] == writer
        for client in clients5.values():
            read = client.get(key, consistency=level, r=2)
            assert (read.body, read.version) == (value, written.version)
            assert set(read.replicas) <= replicas
        assert {clients5[name].get(key, consistency=level).status for name in replicas} == {200}
        assert clients5[writer].delete(key, consistency=level, w=2).status == 200
        for client in clients5.values():
            assert client.get(key, consistency=level, r=2).status == 404


@pytest.mark.parametrize("level", LEVELS)
def test_listings_are_whole_and_in_order(clients5: dict[str, Client], level: str) -> None:
    prefix = f"list/{level}/"
    keys = sorted((f"{prefix}{name}" for name in [*map(str, range(40)), "Z", "a", "ä", "€", "🦆", "_", "%", "a/b"]),
                  key=str.encode)  # fmt: skip
    for number, key in enumerate(keys):
        assert list(clients5.values())[number % 5].put(key, b"x", w=3).status == 200
    gone = keys[7]
    assert clients5["n4"].delete(gone, w=3).status == 200
    for client in clients5.values():
        assert _listed(client, prefix, level, limit=7) == [key for key in keys if key != gone]
        whole = client.page(prefix=prefix, consistency=level).json()
        assert [entry["key"] for entry in whole["keys"]] == [key for key in keys if key != gone]
        assert "next" not in whole


def _listed(client: Client, prefix: str, level: str, limit: int) -> list[str]:
    keys: list[str] = []
    query: dict[str, str | int] = {"prefix": prefix, "consistency": level, "limit": limit}
    while True:
        answer = client.page(**query)
        assert answer.status == 200, answer
        page = answer.json()
        assert len(page["keys"]) <= limit
        keys += [entry["key"] for entry in page["keys"]]
        if "next" not in page:
            return keys
        query["after"] = page["next"]


def test_with_two_nodes_dead_the_keys_that_keep_a_majority_go_on(
    cluster5: ClusterHarness, clients5: dict[str, Client]
) -> None:
    for key in KEYS:
        assert clients5["n3"].put(key, b"before").status == 200
    dead = {"n2", "n5"}
    left = {key: [name for name in clients5["n1"].replicas(key) if name not in dead] for key in KEYS}
    for name in dead:
        clients5[name].close()
        cluster5.kill(name)
    living = [clients5[name] for name in cluster5.names if name not in dead]
    for client in living:
        wait_until(lambda client=client: {client.states()[name] for name in dead} == {"down"}, "the dead to be seen")  # type: ignore[misc]
    assert {len(names) for names in left.values()} >= {1, 2}
    for number, (key, names) in enumerate(left.items()):
        writer, reader = living[number % 3], living[(number + 1) % 3]
        if len(names) >= 2:
            assert until_ok(lambda writer=writer, key=key: writer.put(key, b"after")).status == 200  # type: ignore[misc]
            assert until_ok(lambda reader=reader, key=key: reader.get(key)).body == b"after"  # type: ignore[misc]
        else:
            _check_refused(writer.put(key, b"refused"), "not-applied")
            _check_refused(reader.get(key), "none")
            assert reader.get(key, consistency="weak").body == b"before"
    _check_refused(living[0].page(prefix="five/"), "none")
    for name in dead:
        cluster5.spawn(name)
    cluster5.wait_ready()
    for key, names in left.items():
        assert until_ok(lambda key=key: clients5["n5"].get(key)).body == (b"after" if len(names) > 1 else b"before")  # type: ignore[misc]


def _check_refused(answer: Answer, outcome: str) -> None:
    assert (answer.status, answer.code) == (503, "quorum-unavailable"), answer
    problem = answer.json()
    assert (problem["needed"], problem["got"], problem["outcome"]) == (2, 1, outcome)
