"""Deleting for good on real nodes and at the real times: what is deleted leaves neither rows nor room behind."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cluster.repair.floors.criterion import shortest_purge_after_s
from tests.cluster.client import Client
from tests.cluster.convergence import write_all
from tests.cluster.harness import ClusterHarness, wait_until

KEYS, VALUE = 5_000, "v" * 1_000
SHORTEST_S = shortest_purge_after_s(5.0)
KEPT = "key/kept"


def rows(folder: Path) -> int:
    """All rows of a node, promises too; read beside the living node."""
    with sqlite3.connect(f"file:{folder / 'kvstore.db'}?mode=ro", uri=True) as database:
        (count,) = database.execute("SELECT count(*) FROM records").fetchone()
    database.close()
    return int(count)


def size(folder: Path) -> int:
    """Bytes of the database, its log not counted: that comes and goes."""
    return (folder / "kvstore.db").stat().st_size


@pytest.mark.timeout(420)
def test_what_is_deleted_goes_from_all_disks_and_stays_away(tmp_path: Path) -> None:
    with ClusterHarness(tmp_path, flags=("--purge-after-s", f"{SHORTEST_S:g}")) as cluster:
        client = Client(cluster.http_address("n1"))
        keys = [f"key/{number:05d}" for number in range(KEYS)]
        write_all(client, [{"op": "put", "key": key, "value": VALUE} for key in (*keys, KEPT)], "strong")
        folders = [cluster.data(name) for name in cluster.names]
        # Deleted sooner, a value would leave the journal of states without ever having had a row.
        wait_until(lambda: [rows(folder) for folder in folders] == [KEYS + 1] * 3, "a row with its value for each key")
        write_all(client, [{"op": "delete", "key": key} for key in keys], "strong")
        wait_until(lambda: min(map(size, folders)) > KEYS * len(VALUE), "all of it to be in the databases")
        wait_until(lambda: [rows(folder) for folder in folders] == [KEYS + 1] * 3, "a row for each key")
        wait_until(lambda: [rows(folder) for folder in folders] == [1] * 3, "all rows to go", SHORTEST_S + 60, 2.0)
        wait_until(lambda: max(map(size, folders)) < KEYS * len(VALUE) // 4, "the room to be given back", 60)
        for name in cluster.names:
            reader = Client(cluster.http_address(name))
            for key in keys[:: KEYS // 20]:
                assert reader.call("GET", f"/v1/kv/{key}").status == 404
            assert reader.call("GET", f"/v1/kv/{KEPT}").body == VALUE.encode()
            reader.close()
        client.close()
