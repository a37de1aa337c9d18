"""Fenced writes on real nodes: a holder whose lock has gone to another is refused, whatever became of the key since."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.cluster.client import Answer, Client, see_all, until_ok
from tests.cluster.harness import ClusterHarness, wait_until

JSON = {"Content-Type": "application/json"}
LATER_MS = 600_000
"""How far the clocks of all are set ahead for deletions to be old: above the shortest time after which they go."""


@pytest.fixture(scope="module")
def cluster3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHarness]:
    """Three nodes whose wall clocks are set together, by one file."""
    folder = tmp_path_factory.mktemp("fences")
    with ClusterHarness(folder, environment={"KVSTORE_TEST_CLOCK": str(folder / "clock")}) as cluster:
        yield cluster


@dataclass(frozen=True)
class Grants:
    """Two grants of one lock, one after the other; the first holder does not know yet that it is none any more."""

    lock: str
    stale: int
    fresh: int

    def header(self, fence: int) -> dict[str, str]:
        return {"KV-Fence": f"{quote(self.lock, safe='')}={fence}"}


def grant_twice(client: Client, lock: str) -> Grants:
    path = f"/v1/locks/{quote(lock, safe='')}"
    fences = []
    for owner in ("first", "second"):
        granted = client.call("POST", path, json.dumps({"owner": owner, "ttl": "1h"}).encode(), JSON)
        assert granted.status == 201, granted
        fences.append(granted.json()["fence"])
        if owner == "first":
            released = client.call("DELETE", path, headers={"KV-Lock-Token": granted.json()["token"]})
            assert released.status == 200, released
    assert fences[0] < fences[1]
    return Grants(lock, *fences)


def batch_put(client: Client, key: str, grants: Grants, fence: int) -> dict[str, object]:
    operation = {"op": "put", "key": key, "value": "batch", "fence": grants.header(fence)["KV-Fence"]}
    answer = client.call("POST", "/v1/batch", json.dumps({"operations": [operation]}).encode(), JSON)
    assert answer.status == 200, answer
    result: dict[str, object] = answer.json()["results"][0]
    return result


def check_fenced(clients: dict[str, Client], key: str, grants: Grants) -> None:
    """The stale holder is refused through every node, by every way to write; and the key is what it was."""
    before = until_version(clients, key)
    for client in clients.values():
        header = grants.header(grants.stale)
        for refused in (client.put(key, b"late", header), client.delete(key, header)):
            assert refused.status == 412, refused
            problem = refused.json()
            assert (problem["code"], problem["outcome"]) == ("fenced", "not-applied")
            assert (problem["fence"], problem["version"]) == (grants.fresh, before)
        result = batch_put(client, key, grants, grants.stale)
        assert (result["status"], result["code"], result["fence"]) == (412, "fenced", grants.fresh)
    assert until_version(clients, key) == before


def until_version(clients: dict[str, Client], key: str) -> str | None:
    """The version that a strong read shows, None for no value."""
    answers: list[Answer] = []

    def is_told() -> bool:
        answers.append(next(iter(clients.values())).get(key))
        return answers[-1].status in (200, 404)

    wait_until(is_told, f"{key} to be read")
    return answers[-1].version if answers[-1].status == 200 else None


def write_fresh(client: Client, key: str, grants: Grants) -> None:
    """Under the first grant, and then under the second."""
    for fence in (grants.stale, grants.fresh):
        until_ok(lambda fence=fence: client.put(key, b"%d" % fence, grants.header(fence)))  # type: ignore[misc]


def test_the_holder_before_is_refused_through_every_node(clients: dict[str, Client]) -> None:
    grants = grant_twice(clients["n1"], "plain")
    write_fresh(clients["n2"], "plain/key", grants)
    check_fenced(clients, "plain/key", grants)
    for client in clients.values():
        assert client.put("plain/key", b"mine", grants.header(grants.fresh)).status == 200
        assert batch_put(client, "plain/key", grants, grants.fresh)["status"] == 200
        assert client.put("plain/other key", b"x", grants.header(grants.stale)).status == 200, "it has seen none"
    assert clients["n3"].delete("plain/key", grants.header(grants.fresh)).status == 200
    check_fenced(clients, "plain/key", grants)


def test_each_lock_counts_for_itself(clients: dict[str, Client]) -> None:
    one, other = grant_twice(clients["n1"], "one = 1, two"), grant_twice(clients["n2"], "\U0001f512/other")
    write_fresh(clients["n1"], "both", one)
    assert clients["n2"].put("both", b"x", other.header(other.stale)).status == 200
    check_fenced(clients, "both", one)
    write_fresh(clients["n3"], "both", other)
    check_fenced(clients, "both", one)
    check_fenced(clients, "both", other)


@pytest.mark.parametrize("level", ["strong", "weak", "eventual"])
@pytest.mark.parametrize("writer", ["n1", "n2", "n3"])
def test_whatever_is_written_without_a_fence_takes_none_away(
    clients: dict[str, Client], level: str, writer: str
) -> None:
    grants = grant_twice(clients["n1"], f"over/{level}/{writer}")
    key = f"over/{level}/{writer}"
    write_fresh(clients["n1"], key, grants)
    assert clients[writer].put(key, b"other", consistency=level).status == 200
    check_fenced(clients, key, grants)
    assert clients[writer].delete(key, consistency=level).status == 200
    check_fenced(clients, key, grants)
    assert clients[writer].put(key, b"other", consistency=level, ttl="200ms").status == 200
    wait_until(lambda: clients["n1"].get(key).status == 404, "the value to expire")
    check_fenced(clients, key, grants)


def test_a_fence_that_the_lock_never_granted_is_a_mistake(clients: dict[str, Client]) -> None:
    grants = grant_twice(clients["n1"], "granted")
    for client in clients.values():
        for lock, fence in (("granted", grants.fresh + 1), ("granted", (1 << 63) - 1), ("never granted", 1)):
            answer = client.put("granted/key", b"x", {"KV-Fence": f"{quote(lock)}={fence}"})
            assert (answer.status, answer.code, answer.json()["outcome"]) == (400, "bad-fence", "not-applied")
    assert until_version(clients, "granted/key") is None
    assert clients["n1"].put("granted/key", b"x", grants.header(grants.stale)).status == 200


def test_no_listing_shows_the_locks(clients: dict[str, Client]) -> None:
    grants = grant_twice(clients["n1"], "unseen")
    assert clients["n1"].put("unseen", b"x", grants.header(grants.fresh), w=3).status == 200
    for client in clients.values():
        for level in ("strong", "weak", "eventual"):
            keys, after = [], ""
            while True:
                more = {"after": after} if after else {}
                page = client.page(limit=1000, consistency=level, values="true", **more).json()
                keys += [item["key"] for item in page["keys"]]
                after = page.get("next", "")
                if not after:
                    break
            assert "unseen" in keys
            assert not any("\0" in key for key in keys)
        for query in ("prefix=%00", "prefix=%00lock%2F", "after=%00"):
            assert client.call("GET", f"/v1/kv?{query}").status == 400
        assert client.call("GET", "/v1/kv/%00lock%2Funseen").status == 400


def test_a_fence_outlives_the_death_of_all(cluster3: ClusterHarness, clients: dict[str, Client]) -> None:
    grants = grant_twice(clients["n1"], "killed")
    write_fresh(clients["n1"], "killed/key", grants)
    write_fresh(clients["n1"], "killed/deleted", grants)
    assert clients["n2"].delete("killed/deleted").status == 200
    for client in clients.values():
        client.close()
    cluster3.kill(*cluster3.names)
    for name in cluster3.names:
        cluster3.spawn(name)
    cluster3.wait_ready()
    see_all(clients)
    check_fenced(clients, "killed/key", grants)
    check_fenced(clients, "killed/deleted", grants)


def rows(folder: Path, prefix: str) -> dict[str, bool]:
    """Key -> whether its row bears fences, of the rows that begin so; read beside the living node."""
    with sqlite3.connect(f"file:{folder / 'kvstore.db'}?mode=ro", uri=True) as database:
        found = database.execute("SELECT key, fences IS NOT NULL FROM records").fetchall()
    database.close()
    return {key.decode(): bool(fenced) for key, fenced in found if key.startswith(prefix.encode())}


def test_a_fence_outlives_the_purge_of_its_key(cluster3: ClusterHarness, clients: dict[str, Client]) -> None:
    grants = grant_twice(clients["n1"], "purged")
    write_fresh(clients["n1"], "purged/key", grants)
    assert clients["n1"].put("purged/plain", b"x", w=3).status == 200
    for key in ("purged/key", "purged/plain"):
        assert clients["n1"].delete(key, w=3).status == 200
    set_clocks(cluster3, LATER_MS)
    for name in cluster3.names:
        wait_until(
            lambda name=name: rows(cluster3.data(name), "purged/") == {"purged/key": True},  # type: ignore[misc]
            f"{name} to purge what bears no fence",
            120,
            0.5,
        )
    check_fenced(clients, "purged/key", grants)
    until_ok(lambda: clients["n2"].put("purged/key", b"mine", grants.header(grants.fresh)))


def set_clocks(cluster: ClusterHarness, offset_ms: int) -> None:
    """The wall clocks of all nodes at once."""
    file = cluster.folder / "clock"
    new = file.with_suffix(".new")
    new.write_text(str(offset_ms))
    os.replace(new, file)


def test_a_fence_outlives_a_lost_folder_of_one_of_two_that_had_it(
    cluster3: ClusterHarness, clients: dict[str, Client]
) -> None:
    """n3 misses the fenced write; a weak one, which bears no fence, goes to all; then n1 loses its memory, and n2 dies.

    What n1 has learned anew of the key is all that is left of the fence.
    """
    grants = grant_twice(clients["n1"], "lost")
    key = "lost/key"
    assert clients["n1"].put(key, b"first", w=3).status == 200
    clients["n3"].close()
    cluster3.kill("n3")
    write_fresh(clients["n1"], key, grants)
    cluster3.restart("n3")
    see_all(clients)
    assert until_ok(lambda: clients["n1"].put(key, b"weak", consistency="weak", w=3)).status == 200
    clients["n1"].close()
    cluster3.kill("n1")
    shutil.rmtree(cluster3.data("n1"))
    cluster3.restart("n1")
    see_all(clients)
    clients["n2"].close()
    cluster3.kill("n2")
    two = {name: clients[name] for name in ("n1", "n3")}
    wait_until(lambda: two["n1"].states()["n2"] == "down", "n2 to be missed")
    check_fenced(two, key, grants)
    cluster3.restart("n2")
    see_all(clients)
    check_fenced(clients, key, grants)
