"""Real nodes that lose their memory, all or some of it: they say so, harm nobody, and come back equal."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kvstore.readiness import unready_because
from tests.cluster.client import Client, NoAnswer, until_ok
from tests.cluster.convergence import are_equal, dump
from tests.cluster.harness import ClusterHarness, wait_until

KEYS = 120
PAGE = 4096
VALUE = "the value of key {} in round {}, and some more of it to be found on a disk"
LOST = "this node lost its memory"


class Ledger:
    """What was acknowledged at the strong level, and must be read from then on."""

    def __init__(self, cluster: ClusterHarness) -> None:
        self._cluster = cluster
        self._acknowledged: dict[str, bytes] = {}
        self._round = 0

    def write(self, through: str, **query: str | int) -> None:
        """Writes every key once more."""
        self._round += 1
        with closing(Client(self._cluster.http_address(through))) as client:
            for number in range(KEYS):
                key, value = f"key/{number}", VALUE.format(number, self._round).encode()
                until_ok(lambda key=key, value=value: client.put(key, value, **query))  # type: ignore[misc]
                self._acknowledged[key] = value

    def check(self, *through: str) -> None:
        """Every key is read at the strong level as it was acknowledged; no level ever shows anything else."""
        for name in through or self._cluster.names:
            with closing(Client(self._cluster.http_address(name))) as client:
                for key, value in self._acknowledged.items():
                    assert until_ok(lambda key=key: client.get(key)).body == value  # type: ignore[misc]
                    weak = client.get(key, consistency="eventual")
                    assert weak.status == 503 or b" of it to be found on a disk" in weak.body, weak


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ClusterHarness]:
    with ClusterHarness(tmp_path, flags=["--scrub-period-s", "0.5"]) as cluster:
        yield cluster


@pytest.fixture
def ledger(cluster: ClusterHarness) -> Ledger:
    ledger = Ledger(cluster)
    ledger.write("n1", w=3)
    return ledger


def is_well(cluster: ClusterHarness, name: str) -> bool:
    host, _, port = cluster.http_address(name).partition(":")
    return unready_because(host, int(port)) is None


def why_unready(cluster: ClusterHarness, name: str) -> str:
    host, _, port = cluster.http_address(name).partition(":")
    return unready_because(host, int(port)) or ""


def metric(cluster: ClusterHarness, node: str, name: str) -> float:
    with closing(Client(cluster.http_address(node))) as client:
        try:
            lines = client.call("GET", "/metrics").body.decode().splitlines()
        except NoAnswer:
            return -1
    return next((float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{"))), -1)


def becomes_whole(cluster: ClusterHarness, ledger: Ledger) -> None:
    """n3 recovers while the others are written to and read, then takes part; in the end all hold the same."""
    cluster.spawn("n3")
    while not is_well(cluster, "n3"):
        ledger.write("n1")
        ledger.check("n1", "n2")
    ledger.check()
    ledger.write("n3", w=3)
    ledger.check()
    wait_until(lambda: metric(cluster, "n3", "kvstore_quarantined_records") == 0, "nothing to be quarantined")
    wait_until(lambda: are_equal(cluster), "all three to hold the same")
    assert len(list(dump(cluster.data("n1")))) == KEYS


def votes_again(cluster: ClusterHarness, ledger: Ledger) -> None:
    """n3 makes a majority with one other."""
    cluster.kill("n1")
    ledger.write("n2")
    ledger.check("n2", "n3")


def flip(path: Path, at: int) -> None:
    """Flips one bit of the file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << 2]))


# -- folders -----------------------------------------------------------------------------------------------------


def test_an_empty_folder_is_filled_before_it_votes(cluster: ClusterHarness, ledger: Ledger) -> None:
    cluster.kill("n2", "n3")
    shutil.rmtree(cluster.data("n3"))
    cluster.spawn("n3")
    wait_until(lambda: "it waits: for word of n2" in why_unready(cluster, "n3"), "n3 to say for whom it waits")
    assert "n1 remembers this member with another folder" in why_unready(cluster, "n3")
    assert metric(cluster, "n3", "kvstore_recovering_partitions") == 64
    with closing(Client(cluster.http_address("n3"))) as client:
        for level in ("weak", "eventual"):  # it has nothing of its own to show, and asks another
            page = client.page(consistency=level, limit=1000)
            assert (page.status, page.receipt["replicas"]) == (200, "n1")
            assert len(page.json()["keys"]) == KEYS
    assert cluster.terminate("n3") == 0
    cluster.restart("n2")
    becomes_whole(cluster, ledger)
    assert LOST in cluster.log("n3")
    assert metric(cluster, "n3", "kvstore_recovering_partitions") == 0
    votes_again(cluster, ledger)


def test_an_older_copy_of_the_folder(cluster: ClusterHarness, ledger: Ledger, tmp_path: Path) -> None:
    assert cluster.terminate("n3") == 0
    shutil.copytree(cluster.data("n3"), tmp_path / "copy")
    cluster.restart("n3")
    ledger.write("n3", w=3)
    cluster.kill("n3")
    shutil.rmtree(cluster.data("n3"))
    shutil.copytree(tmp_path / "copy", cluster.data("n3"))
    becomes_whole(cluster, ledger)
    assert "it is an older state of itself" in cluster.log("n3")
    votes_again(cluster, ledger)


def test_a_restart_is_no_loss(cluster: ClusterHarness, ledger: Ledger) -> None:
    """Else every restart would cost a recovery, and each test here would pass without a loss."""
    for _ in range(2):
        cluster.kill("n3")
        becomes_whole(cluster, ledger)
    assert cluster.terminate("n3") == 0
    becomes_whole(cluster, ledger)
    for name in cluster.names:
        assert LOST not in cluster.log(name)
    assert cluster.terminate("n1") == 0
    cluster.kill("n2", "n3")
    for name in cluster.names:
        cluster.spawn(name)
    cluster.wait_ready()
    ledger.check()
    for name in cluster.names:
        assert LOST not in cluster.log(name)


# -- flipped bits ------------------------------------------------------------------------------------------------


def test_a_bit_of_the_log_flips(cluster: ClusterHarness, ledger: Ledger) -> None:
    """SQLite drops the rest of its log without a word: commits that were acknowledged."""
    cluster.kill("n3")
    log = cluster.data("n3") / "kvstore.db-wal"
    flip(log, log.stat().st_size * 2 // 3)
    becomes_whole(cluster, ledger)
    assert LOST in cluster.log("n3")
    votes_again(cluster, ledger)


def places(cluster: ClusterHarness, what: bytes) -> list[int]:
    """Where the bytes are in the database of n3, which does not run."""
    content = (cluster.data("n3") / "kvstore.db").read_bytes()
    found, at = [], content.find(what)
    while at >= 0:
        found.append(at)
        at = content.find(what, at + 1)
    return found


def rots(cluster: ClusterHarness, ledger: Ledger, choose: Callable[[], int]) -> None:
    """n3 ends, one bit of its database flips, and it starts again. The scrub has to find what nobody asks for."""
    assert cluster.terminate("n3") == 0
    flip(cluster.data("n3") / "kvstore.db", choose())
    becomes_whole(cluster, ledger)
    said = cluster.log("n3")
    assert "a record is damaged" in said or LOST in said


def test_a_bit_of_a_value_flips(cluster: ClusterHarness, ledger: Ledger) -> None:
    value = VALUE.format(7, 1).encode()
    rots(cluster, ledger, lambda: places(cluster, value)[0] + len(value) // 2)
    votes_again(cluster, ledger)


@pytest.mark.parametrize("copy", [0, -1])
def test_a_bit_of_a_key_flips(cluster: ClusterHarness, ledger: Ledger, copy: int) -> None:
    """Of the row, or of the index by which it is found: the key looks as if it had never been heard of."""
    rots(cluster, ledger, lambda: places(cluster, b"key/77")[copy] + 5)
    votes_again(cluster, ledger)


def test_nobody_reads_what_rots_while_the_node_runs(cluster: ClusterHarness, ledger: Ledger) -> None:
    """The value is not in memory any more, and is read at the moment it is found to be damaged."""
    cluster.node_flags["n3"] = ["--cache-bytes-max", "1MiB", "--scrub-period-s", "1000"]
    assert cluster.terminate("n3") == 0
    value = VALUE.format(7, 1).encode()
    flip(cluster.data("n3") / "kvstore.db", places(cluster, value)[0] + len(value) // 2)
    cluster.restart("n3")
    with closing(Client(cluster.http_address("n3"))) as client:
        for level in ("eventual", "weak", "strong"):
            assert until_ok(lambda level=level: client.get("key/7", consistency=level)).body == value  # type: ignore[misc]
    wait_until(lambda: metric(cluster, "n3", "kvstore_quarantined_records") == 0, "the record to be sound again")
    wait_until(lambda: are_equal(cluster), "all three to hold the same")
    assert "a record is damaged" in cluster.log("n3")


@pytest.mark.parametrize("rotten", ["value", "key", "copy of the key in the index"])
def test_what_rots_under_a_node_that_nobody_asks(cluster: ClusterHarness, ledger: Ledger, rotten: str) -> None:
    """All is in the database file, and what SQLite has of it in memory is sound: only reading the file anew tells."""
    assert cluster.terminate("n3") == 0
    cluster.restart("n3")
    wait_until(lambda: metric(cluster, "n3", "kvstore_scrubbed_rows_total") >= 2 * KEYS, "two sweeps over all rows")
    value = VALUE.format(7, 1).encode()
    if rotten == "value":
        at = places(cluster, value)[0] + len(value) // 2
    else:
        at = places(cluster, b"key/77")[0 if rotten == "key" else -1] + 5
    flip(cluster.data("n3") / "kvstore.db", at)
    swept = metric(cluster, "n3", "kvstore_scrubbed_rows_total")
    wait_until(
        lambda: metric(cluster, "n3", "kvstore_scrubbed_rows_total") >= swept + 3 * KEYS, "two more whole sweeps"
    )
    said = cluster.log("n3")
    assert "a record is damaged" in said or LOST in said
    ledger.check()
    wait_until(lambda: metric(cluster, "n3", "kvstore_quarantined_records") == 0, "nothing to be quarantined")
    wait_until(lambda: is_well(cluster, "n3"), "n3 to be ready")
    ledger.check()
    wait_until(lambda: are_equal(cluster), "all three to hold the same")
    votes_again(cluster, ledger)


def test_a_listing_never_leaves_out_what_is_damaged(cluster: ClusterHarness, ledger: Ledger) -> None:
    """One key and one value have rotted on n3, whose rows go, and without n1 they can't be made whole."""
    assert cluster.terminate("n3") == 0
    database, value = cluster.data("n3") / "kvstore.db", VALUE.format(7, 1).encode()
    flip(database, places(cluster, value)[0] + len(value) // 2)
    flip(database, places(cluster, b"key/77")[0] + 5)
    cluster.restart("n3")
    cluster.kill("n1")
    wait_until(lambda: "a record is damaged" in cluster.log("n3"), "the damage to be found")
    wait_until(lambda: metric(cluster, "n3", "kvstore_quarantined_records") == 2, "both to be in quarantine")
    with closing(Client(cluster.http_address("n3"))) as client:
        for level in ("weak", "eventual"):
            page = client.page(consistency=level, limit=1000)
            assert (page.status, page.receipt["replicas"]) == (200, "n2")
            assert len(page.json()["keys"]) == KEYS
        cluster.kill("n2")
        for level in ("weak", "eventual"):
            assert client.page(consistency=level, limit=1000).status == 503
        cluster.restart("n1")
        cluster.restart("n2")
        wait_until(lambda: metric(cluster, "n3", "kvstore_quarantined_records") == 0, "nothing to be quarantined")
        page = client.page(consistency="weak", limit=1000)
        assert (page.status, page.receipt["replicas"]) == (200, "n3")
        assert len(page.json()["keys"]) == KEYS


def cut_in_half(database: Path) -> None:
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size // 2)


def flip_in_head(database: Path) -> None:
    flip(database, 3)


def flip_in_schema(database: Path) -> None:
    flip(database, database.read_bytes().index(b"CREATE TABLE records") + 3)


def flip_in_folder_row(database: Path) -> None:
    with sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True) as connection:
        (incarnation,) = connection.execute("SELECT incarnation FROM folder").fetchone()
    connection.close()
    flip(database, database.read_bytes().rindex(incarnation.encode()))


def malform(database: Path) -> None:
    """Noise over the head of the page of records that has this value: its cells can't be made sense of."""
    page = database.read_bytes().index(VALUE.format(7, 1).encode()) // PAGE * PAGE
    with database.open("r+b") as file:
        file.seek(page)
        file.write(b"\xee" * 40)


def malform_and_lose_the_trees(database: Path) -> None:
    """The trees are to be built anew from all rows, and not all can be read."""
    with sqlite3.connect(database) as connection:
        assert connection.execute("UPDATE tree_journal SET changes = x'00'").rowcount > 0
    connection.close()
    malform(database)


@pytest.mark.parametrize(
    "damage", [cut_in_half, flip_in_head, flip_in_schema, flip_in_folder_row, malform_and_lose_the_trees]
)
def test_a_database_that_cannot_be_read_is_set_aside_and_learned_anew(
    cluster: ClusterHarness, ledger: Ledger, damage: Callable[[Path], None]
) -> None:
    assert cluster.terminate("n3") == 0
    damage(cluster.data("n3") / "kvstore.db")
    becomes_whole(cluster, ledger)
    assert "set aside" in cluster.log("n3")
    assert (cluster.data("n3") / "kvstore.db.damaged-1").exists(), "nothing is deleted"
    votes_again(cluster, ledger)


def is_learned_anew(cluster: ClusterHarness, ledger: Ledger) -> None:
    """The next start of n3 sets its database aside, with the note that said so."""
    assert (cluster.data("n3") / "to-be-set-aside").exists()
    becomes_whole(cluster, ledger)
    assert "set aside as" in cluster.log("n3")
    assert (cluster.data("n3") / "kvstore.db.damaged-1").exists(), "nothing is deleted"
    assert (cluster.data("n3") / "to-be-set-aside.damaged-1").exists()
    assert not (cluster.data("n3") / "to-be-set-aside").exists()
    votes_again(cluster, ledger)


def test_a_commit_that_meets_malformed_pages_is_the_last_on_that_database(
    cluster: ClusterHarness, ledger: Ledger
) -> None:
    """Else each start would end with the next write to that page."""
    assert cluster.terminate("n3") == 0
    cluster.node_flags["n3"] = ["--scrub-period-s", "1000"]
    cluster.restart("n3")
    wait_until(lambda: metric(cluster, "n3", "kvstore_scrubbed_rows_total") >= KEYS, "its first and only sweep")
    malform(cluster.data("n3") / "kvstore.db")
    ledger.write("n1")
    assert cluster.exit_code("n3") == 1
    last = cluster.log("n3").splitlines()[-1]
    assert "malformed" in last
    assert last.endswith("At the next start this database is set aside, and all is learned anew from the others")
    is_learned_anew(cluster, ledger)


def test_malformed_pages_that_a_sweep_finds(cluster: ClusterHarness, ledger: Ledger) -> None:
    assert cluster.terminate("n3") == 0
    cluster.restart("n3")
    malform(cluster.data("n3") / "kvstore.db")
    wait_until(lambda: "start this node again" in why_unready(cluster, "n3"), "n3 to say what is to be done")
    ledger.check("n1", "n2")
    assert cluster.terminate("n3") == 0
    is_learned_anew(cluster, ledger)


def test_nothing_is_set_aside_where_nobody_else_has_it(tmp_path: Path) -> None:
    with ClusterHarness(tmp_path, nodes=1, replicas=1, flags=["--scrub-period-s", "1000"]) as cluster:
        Ledger(cluster).write("n1")
        assert cluster.terminate("n1") == 0
        malform_and_lose_the_trees(cluster.data("n1") / "kvstore.db")
        for _ in range(2):
            cluster.spawn("n1")
            assert cluster.exit_code("n1") == 1
            last = cluster.log("n1").splitlines()[-1]
            assert "n1 can't start" in last
            assert "malformed" in last
        assert not list(cluster.data("n1").glob("*set-aside*"))
        assert not list(cluster.data("n1").glob("*damaged*"))
