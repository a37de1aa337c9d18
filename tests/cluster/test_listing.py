"""Listings of real nodes: whole, in order, and as true as strong reads, while keys come and go and nodes fail."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.client import Client, NoAnswer, see_all
from tests.cluster.harness import ClusterHarness, wait_until

ODD = ["%", "%41", "_", "__", "A", "AB", "a", "ab", "aB", "a/b", "a//b", "ä", "ÿ", "\u07ff", "\uffff", "\U0010ffff",
       "\U0010ffff\U0010ffff", "+", " ", "a b", "\n", "\x7f", "..", "~"]  # fmt: skip
LEVELS = ("strong", "weak", "eventual")


def listed(client: Client, prefix: str, **query: str | int) -> list[str]:
    """All keys below the prefix, page by page."""
    keys: list[str] = []
    ask: dict[str, str | int] = {"prefix": prefix, **query}
    while True:
        answer = client.page(**ask)
        assert answer.status == 200, answer
        page = answer.json()
        keys += [entry["key"] for entry in page["keys"]]
        if "next" not in page:
            return keys
        ask["after"] = page["next"]


@pytest.fixture(scope="module")
def odd_keys(cluster3: ClusterHarness) -> list[str]:
    client = Client(cluster3.http_address("n1"))
    for key in ODD:
        assert client.put(f"odd/{key}", key.encode(), w=3).status == 200
    return sorted(ODD, key=str.encode)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("prefix", ["", "%", "_", "A", "a", "a/", "ä", "\uffff", "\U0010ffff", "aB", "none", "\x7f"])
def test_a_prefix_is_bytes_and_nothing_else(
    clients: dict[str, Client], odd_keys: list[str], prefix: str, level: str
) -> None:
    expected = [f"odd/{key}" for key in odd_keys if key.startswith(prefix)]
    for client in clients.values():
        assert listed(client, f"odd/{prefix}", consistency=level) == expected


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("limit", [1, 2, 5, len(ODD), len(ODD) + 1])
def test_pages_follow_each_other_without_a_gap(
    clients: dict[str, Client], odd_keys: list[str], limit: int, level: str
) -> None:
    expected = [f"odd/{key}" for key in odd_keys]
    assert listed(clients["n2"], "odd/", limit=limit, consistency=level) == expected
    assert listed(clients["n3"], "odd/", limit=limit, consistency=level, values="true") == expected


def test_after_may_be_any_text(clients: dict[str, Client], odd_keys: list[str]) -> None:
    for after in ("odd/", "odd/a", "odd/aA", "odd/\uffff", "o", "odd0", "p"):
        expected = [f"odd/{key}" for key in odd_keys if f"odd/{key}".encode() > after.encode()]
        assert listed(clients["n1"], "odd/", after=after) == expected


def test_values_come_along(clients: dict[str, Client]) -> None:
    written = clients["n1"].put("valued/text", "ü".encode())
    clients["n1"].put("valued/bytes", b"\xff\x00")
    clients["n1"].put("valued/none", b"")
    entries = clients["n2"].page(prefix="valued/", values="true").json()["keys"]
    assert [entry.get("value") for entry in entries] == [None, "", "ü"]
    assert entries[0]["value_base64"] == "/wA="
    assert (entries[2]["version"], entries[2]["size"]) == (written.version, 2)
    assert "value" not in clients["n2"].page(prefix="valued/").json()["keys"][2]


def test_large_values_end_a_page_early_and_lose_nothing(clients: dict[str, Client]) -> None:
    for number in range(12):
        assert clients["n1"].put(f"large/{number:02}", bytes(1 << 20)).status == 200
    keys = [f"large/{number:02}" for number in range(12)]
    assert listed(clients["n2"], "large/", values="true") == keys
    assert listed(clients["n2"], "large/", values="true", limit=1) == keys
    assert listed(clients["n3"], "large/") == keys


class Churn:
    """Writers that create and delete keys of their own without end, and know which of them surely exist."""

    WRITERS = 4

    def __init__(self, cluster: ClusterHarness, prefix: str, names: list[str]) -> None:
        self._cluster, self._prefix, self._names = cluster, prefix, names
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.present: set[str] = set()
        """Acknowledged, and no deletion begun."""
        self.gone: set[str] = set()
        """Deletion acknowledged; a key is never written again."""
        self._pool = ThreadPoolExecutor(self.WRITERS)
        self._running = [self._pool.submit(self._run, number) for number in range(self.WRITERS)]

    def snapshot(self) -> tuple[set[str], set[str]]:
        """Copies of present and gone as they are now."""
        with self._lock:
            return set(self.present), set(self.gone)

    def end(self) -> None:
        """Stops the writers; raises what went wrong in them."""
        self._over.set()
        for each in self._running:
            each.result()
        self._pool.shutdown()

    def _run(self, writer: int) -> None:
        client = Client(self._cluster.http_address(self._names[writer % len(self._names)]))
        mine: list[str] = []
        for number in itertools.count():
            if self._over.is_set():
                return
            key = f"{self._prefix}{number % 7}/{writer}/{number}"
            if self._does(lambda key=key: client.put(key, b"x").status):
                mine.append(key)
                with self._lock:
                    self.present.add(key)
            if len(mine) > 10:
                key = mine.pop(number % 10)
                with self._lock:
                    self.present.discard(key)
                if self._does(lambda key=key: client.delete(key).status):
                    with self._lock:
                        self.gone.add(key)

    @staticmethod
    def _does(ask: object) -> bool:
        try:
            status = ask()  # type: ignore[operator]
        except NoAnswer:
            return False
        assert status in {200, 503, 504}
        return bool(status == 200)


def check_listing(client: Client, churn: Churn, prefix: str, limit: int) -> None:
    """What was present before and after a listing is in it exactly once; what was gone before is not."""
    present, gone = churn.snapshot()
    keys = listed(client, prefix, limit=limit)
    still_present, _ = churn.snapshot()
    assert keys == sorted(set(keys), key=str.encode)
    missing = (present & still_present) - set(keys)
    assert not missing, sorted(missing)
    assert not gone.intersection(keys)


def test_a_strong_listing_is_true_under_writes(cluster3: ClusterHarness, clients: dict[str, Client]) -> None:
    churn = Churn(cluster3, "churn/", cluster3.names)
    wait_until(lambda: len(churn.gone) > 20, "the first deletions")
    for turn in range(36):
        check_listing(list(clients.values())[turn % 3], churn, "churn/", (3, 10, 1000)[turn % 3])
    churn.end()
    check_listing(clients["n1"], churn, "churn/", 10)


def test_a_listing_agrees_with_strong_reads_between_levels(
    cluster3: ClusterHarness, clients: dict[str, Client]
) -> None:
    """Strong listings of one key never go back, whatever weak writes do to it at the same time."""
    over = threading.Event()

    def write(number: int) -> None:
        client = Client(cluster3.http_address(cluster3.names[number % 3]))
        level = ("weak", "strong")[number % 2]
        while not over.is_set():
            assert client.put("pair/key", level.encode(), consistency=level).status == 200

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, number) for number in range(4)]
        try:
            seen = ""
            for turn in range(400):
                client = clients[cluster3.names[turn % 3]]
                if turn % 2:
                    version = client.get("pair/key").version if seen else ""
                else:
                    entries = client.page(prefix="pair/").json()["keys"]
                    version = entries[0]["version"] if entries else ""
                assert version >= seen, (turn, version, seen)
                seen = version
        finally:
            over.set()
        for each in writers:
            each.result()


def test_with_one_node_killed_or_stopped_listings_go_on(cluster3: ClusterHarness, clients: dict[str, Client]) -> None:
    for number in range(30):
        assert clients["n1"].put(f"survive/{number:02}", b"x").status == 200
    keys = [f"survive/{number:02}" for number in range(30)]
    cluster3.stop("n2")
    for client in (clients["n1"], clients["n3"]):  # at once, while nobody knows that n2 is silent
        assert listed(client, "survive/", limit=7, timeout="3s") == keys
    wait_until(lambda: clients["n1"].states()["n2"] != "alive", "n2 to be suspected")
    assert clients["n1"].delete("survive/00").status == 200
    assert listed(clients["n3"], "survive/", timeout="3s") == keys[1:]
    cluster3.cont("n2")
    see_all(clients)
    assert listed(clients["n2"], "survive/") == keys[1:]
    clients["n3"].close()
    cluster3.kill("n3")
    for client in (clients["n1"], clients["n2"]):
        assert listed(client, "survive/", limit=7, timeout="3s") == keys[1:]
    assert clients["n1"].delete("survive/01").status == 200
    cluster3.restart("n3")
    see_all(clients)
    assert listed(clients["n3"], "survive/") == keys[2:]


def test_a_weak_write_on_a_minority_is_not_shown_before_it_is_settled(
    cluster3: ClusterHarness, clients: dict[str, Client]
) -> None:
    assert clients["n1"].put("minority/key", b"settled", w=3).status == 200
    for name in ("n2", "n3"):
        clients[name].close()
        cluster3.stop(name)
    wait_until(lambda: "alive" not in clients["n1"].states().values(), "n1 to suspect both peers")
    assert clients["n1"].put("minority/key", b"on n1 only", consistency="weak").status == 200
    for name in ("n2", "n3"):
        cluster3.kill(name)  # and with it what lay unread in its sockets
        cluster3.spawn(name)
    cluster3.wait_ready()
    see_all(clients)
    seen = ""
    for turn in range(20):
        client = clients[cluster3.names[turn % 3]]
        if turn % 2:
            version = client.get("minority/key").version
        else:
            version = client.page(prefix="minority/").json()["keys"][0]["version"]
        assert version >= seen, turn
        seen = version


@pytest.fixture
def cluster5(tmp_path: Path) -> Iterator[ClusterHarness]:
    with ClusterHarness(tmp_path, 5, replicas=5) as cluster:
        yield cluster


def test_one_killed_and_one_stopped_of_five(cluster5: ClusterHarness) -> None:
    client = Client(cluster5.http_address("n1"))
    churn = Churn(cluster5, "five/", ["n1", "n3", "n5"])
    wait_until(lambda: len(churn.gone) > 10, "the first deletions")
    cluster5.kill("n2")
    cluster5.stop("n4")
    for turn in range(12):
        check_listing(client, churn, "five/", (5, 1000)[turn % 2])
    churn.end()
    check_listing(client, churn, "five/", 10)
    cluster5.cont("n4")
