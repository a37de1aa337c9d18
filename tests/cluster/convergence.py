"""Two stories that must end with equal databases, at any size.

    away         a node is killed; keys are written and deleted at all levels through the others; it returns
    partitioned  one node is cut off; both sides take eventual writes to the same keys; the link heals

Nobody reads through the cluster while it converges: the databases themselves are looked at. `make convergence` tells
both at their full size; the tests tell them smaller.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from tests.cluster.client import Client
from tests.cluster.harness import ClusterHarness, wait_until
from tests.cluster.links import Links

BATCH = 500
LEVELS = ("strong", "weak", "eventual")
VALUE_BYTES = 255
JSON = {"Content-Type": "application/json"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """How a story ended."""

    seconds: float
    """From the moment at which all nodes could talk again to equal databases."""
    keys: int
    live: int


def dump(folder: Path) -> Iterator[tuple[bytes, int, bytes | None]]:
    """(key, version, value) of every record of a node, tombstones too, in order; read beside the living node."""
    with sqlite3.connect(f"file:{folder / 'kvstore.db'}?mode=ro", uri=True) as database:
        database.execute("PRAGMA query_only = 1")
        yield from database.execute("SELECT key, origin, value FROM records WHERE ballot > 0 ORDER BY key")
    database.close()


def digest(folder: Path) -> str:
    """One word for a whole dump."""
    whole = sha256()
    for row in dump(folder):
        whole.update(repr(row).encode())
    return whole.hexdigest()


def is_written_out(folder: Path) -> bool:
    """Whether the table holds all that the node does."""
    with closing(sqlite3.connect(f"file:{folder / 'kvstore.db'}?mode=ro", uri=True)) as connection:
        return bool(connection.execute("SELECT NOT EXISTS (SELECT 1 FROM state_journal)").fetchone()[0])


def are_equal(cluster: ClusterHarness) -> bool:
    """Whether all nodes hold the same. A row in the journal of states would be a row that nobody sees."""
    if not all(is_written_out(cluster.data(name)) for name in cluster.names):
        return False
    return len({digest(cluster.data(name)) for name in cluster.names}) == 1


def write_all(client: Client, operations: Sequence[dict[str, Any]], level: str) -> None:
    """Sends the operations in batches; what is not acknowledged is tried again, for 503 and 504 are honest answers."""
    todo = list(operations)
    deadline = time.monotonic() + 120
    while todo:
        some, todo = todo[:BATCH], todo[BATCH:]
        body = msgspec.json.encode({"operations": some})
        answer = client.call("POST", f"/v1/batch?consistency={level}&timeout=10s", body, JSON)
        assert answer.status == 200, answer
        results = answer.json()["results"]
        refused = [operation for operation, result in zip(some, results, strict=True) if result["status"] != 200]
        assert all(result["status"] in (200, 503, 504) for result in results), results
        assert time.monotonic() < deadline, f"still refused: {results}"
        todo += refused


def fill(cluster: ClusterHarness, keys: Sequence[str], chance: random.Random) -> None:
    """Every key is written strongly, through all nodes in turn."""
    clients = [Client(cluster.http_address(name)) for name in cluster.names]
    for start in range(0, len(keys), BATCH):
        some = keys[start : start + BATCH]
        write_all(clients[start // BATCH % len(clients)], [_put(key, chance) for key in some], "strong")
    for client in clients:
        client.close()


def away(cluster: ClusterHarness, keys: int, changes: int, *, seed: int, limit_s: float, say: Say) -> Result:
    """Kills the last node, changes keys at all levels through the others, starts it again."""
    chance = random.Random(seed)
    names = [f"key/{number:07d}" for number in range(keys)]
    say(f"writing {keys} keys")
    fill(cluster, names, chance)
    victim = cluster.names[-1]
    say(f"killing {victim}, changing {changes} keys through the others")
    cluster.kill(victim)
    changed = chance.sample(names, changes - changes // 4) + [f"new/{number}" for number in range(changes // 4)]
    clients = [Client(cluster.http_address(name)) for name in cluster.others(victim)]
    for number, start in enumerate(range(0, len(changed), BATCH)):
        some = [_delete(key) if chance.random() < 0.3 else _put(key, chance) for key in changed[start : start + BATCH]]
        write_all(clients[number % len(clients)], some, LEVELS[number % len(LEVELS)])
    for client in clients:
        client.close()
    say(f"starting {victim}")
    began = time.monotonic()
    cluster.restart(victim)
    return _equal(cluster, began, limit_s)


def partitioned(cluster: Links, keys: int, changes: int, *, seed: int, limit_s: float, say: Say) -> Result:
    """Cuts the first node off, writes the same keys eventually on both sides, heals."""
    chance = random.Random(seed)
    names = [f"key/{number:07d}" for number in range(keys)]
    say(f"writing {keys} keys")
    fill(cluster, names, chance)
    alone, others = cluster.names[0], cluster.names[1:]
    say(f"cutting {alone} off, writing {changes} keys on both sides")
    cluster.cut([alone], others)
    changed = chance.sample(names, changes)
    sides = [Client(cluster.http_address(name)) for name in (alone, others[0])]
    for start in range(0, len(changed), BATCH):
        for side in sides:
            some = changed[start : start + BATCH]
            operations = [_delete(key) if chance.random() < 0.3 else _put(key, chance) for key in some]
            write_all(side, operations, "eventual")
    for side in sides:
        side.close()
    say("healing")
    began = time.monotonic()
    cluster.heal()
    return _equal(cluster, began, limit_s)


def _equal(cluster: ClusterHarness, began: float, limit_s: float) -> Result:
    wait_until(lambda: are_equal(cluster), "equal databases", limit_s)
    seconds = time.monotonic() - began
    rows = list(dump(cluster.data(cluster.names[0])))
    return Result(seconds, len(rows), sum(value is not None for _, _, value in rows))


def _put(key: str, chance: random.Random) -> dict[str, Any]:
    return {"op": "put", "key": key, "value": chance.randbytes(VALUE_BYTES // 2).hex()}


def _delete(key: str) -> dict[str, Any]:
    return {"op": "delete", "key": key}


def main() -> None:
    """Both stories at full size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds until the databases must be equal")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    for story, kind in ((away, ClusterHarness), (partitioned, Links)):
        print(f"-- {story.__name__}", flush=True)
        with tempfile.TemporaryDirectory() as folder, kind(Path(folder)) as cluster:
            result = story(  # type: ignore[operator]
                cluster,
                arguments.keys,
                arguments.changes,
                seed=arguments.seed,
                limit_s=arguments.limit,
                say=lambda text: print(f"   {text}", flush=True),
            )
        print(f"   equal after {result.seconds:.1f} s: {result.keys} records, {result.live} of them values", flush=True)


if __name__ == "__main__":
    main()
