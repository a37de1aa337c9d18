"""Restarts: versions only grow, folders stay with their owners, and a graceful stop cuts nobody off."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.client import Client, NoAnswer, kv_path, see_all, until_ok
from tests.cluster.harness import ClusterHarness, clean_environment, kvstore_command, wait_until

LEVELS = ("strong", "weak", "eventual")


@pytest.mark.parametrize("level", LEVELS)
def test_versions_only_grow_over_kills(cluster3: ClusterHarness, clients: dict[str, Client], level: str) -> None:
    """A node that was killed starts its clock above all that it gave out, so not even its first ballot falls back."""
    seen = [_put(clients["n1"], "grow", consistency=level)]
    for victim in (*cluster3.names, "n1"):
        seen += [clients[victim].put("grow", b"x", consistency=level, w=3).version for _ in range(5)]
        clients[victim].close()
        cluster3.kill(victim)
        cluster3.restart(victim)
        see_all(clients)
        seen += [_put(clients[name], "grow", consistency=level, w=3) for name in (victim, *cluster3.others(victim))]
    assert seen == sorted(set(seen))


def test_versions_only_grow_when_all_are_killed_at_once(cluster3: ClusterHarness, clients: dict[str, Client]) -> None:
    seen = [""]
    for _ in range(3):
        seen += [_put(client, "grow/all") for client in clients.values()]
        for client in clients.values():
            client.close()
        cluster3.kill(*cluster3.names)
        for name in cluster3.names:
            cluster3.spawn(name)
        cluster3.wait_ready()
        see_all(clients)
        assert until_ok(lambda: clients["n2"].get("grow/all")).version == seen[-1]
    assert seen == sorted(set(seen))


def _put(client: Client, key: str, **query: str | int) -> str:
    return until_ok(lambda: client.call("PUT", kv_path(key, **query), b"x")).version


# -- folders ---------------------------------------------------------------------------------------------------


def serve(cluster: ClusterHarness, name: str, **other: str) -> tuple[int, str]:
    """Starts a node with some options changed; how it ended, and its last words."""
    options = {
        "name": name,
        "data": str(cluster.data(name)),
        "http": "127.0.0.1:0",
        "peer": cluster.peer_address(name),
        "members": ",".join(f"{member}={cluster.peer_address(member)}" for member in cluster.names),
        **other,
    }
    flags = [part for option, value in options.items() for part in (f"--{option.replace('_', '-')}", value)]
    ended = subprocess.run(
        kvstore_command("serve", *flags), capture_output=True, check=False, timeout=60, env=clean_environment()
    )
    return ended.returncode, ended.stderr.decode()


@pytest.fixture
def n3_ended(cluster3: ClusterHarness, clients: dict[str, Client]) -> Iterator[ClusterHarness]:
    """The cluster while n3 does not run. Afterwards n3 starts, so its folder was left as it was."""
    clients["n1"].put("folder", b"kept", w=3)
    clients["n3"].close()
    assert cluster3.terminate("n3") == 0
    yield cluster3
    cluster3.restart("n3")
    see_all(clients)
    assert clients["n3"].get("folder", consistency="weak").body == b"kept"


def test_a_folder_of_another_node_is_refused(n3_ended: ClusterHarness) -> None:
    code, words = serve(n3_ended, "n1", data=str(n3_ended.data("n3")))
    assert code == 1
    assert "is the folder of n3, not of n1; nothing was touched" in words
    assert "Traceback" not in words


def test_a_folder_of_another_cluster_is_refused(n3_ended: ClusterHarness) -> None:
    code, words = serve(n3_ended, "n3", cluster_name="another")
    assert code == 1
    assert "is the folder of cluster kvstore, not of another; nothing was touched" in words
    assert "Traceback" not in words


def test_a_second_process_on_one_folder_is_refused(cluster3: ClusterHarness, clients: dict[str, Client]) -> None:
    code, words = serve(cluster3, "n2")
    assert code == 1
    assert f"process {cluster3.pid('n2')} uses the data folder" in words
    assert "nothing was touched" in words
    assert "Traceback" not in words
    assert clients["n2"].put("still", b"there").status == 200


def test_a_port_that_is_taken_is_a_clear_line(cluster3: ClusterHarness, tmp_path: Path) -> None:
    code, words = serve(cluster3, "n2", data=str(tmp_path / "fresh"))
    assert code == 1
    assert "n2 can't start" in words
    assert cluster3.peer_address("n2").partition(":")[2] in words
    assert "Traceback" not in words


# -- a graceful stop -------------------------------------------------------------------------------------------


class Users:
    """Clients of one node that write and read without end and count what they are told."""

    def __init__(self, address: str, count: int) -> None:
        self.told: Counter[str] = Counter()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._running = [self._pool.submit(self._run, address, number) for number in range(count)]

    def end(self) -> None:
        """Stops; raises what went wrong."""
        self._over.set()
        for each in self._running:
            each.result()
        self._pool.shutdown()

    def _run(self, address: str, number: int) -> None:
        client, body = Client(address), bytes(100_000)
        while not self._over.is_set():
            try:
                answer = client.put(f"drain/{number}", body) if number % 2 else client.get(f"drain/{number - 1}")
            except NoAnswer as error:
                self.told["refused" if not error.sent else f"cut off: {type(error.__cause__).__name__}"] += 1
                if not error.sent:
                    return
                continue
            self.told[str(answer.status)] += 1


@pytest.mark.parametrize("name", ["n1", "n2", "n3"])
def test_a_graceful_stop_answers_what_it_has_begun(cluster3: ClusterHarness, name: str) -> None:
    users = Users(cluster3.http_address(name), 16)
    wait_until(lambda: users.told["200"] > 100, "requests under way")
    assert cluster3.terminate(name) == 0
    users.end()
    cluster3.restart(name)
    # A connection that was idle when the node closed it looks to its client like RemoteDisconnected or a reset
    # without a byte of an answer; a half answer would be IncompleteRead or BadStatusLine.
    whole = {"200", "404", "503", "refused", "cut off: RemoteDisconnected", "cut off: ConnectionResetError",
             "cut off: BrokenPipeError"}  # fmt: skip
    assert set(users.told) <= whole, users.told
    assert users.told["refused"] == 16, users.told
    assert '"stopped"' in cluster3.log(name)


def test_a_slow_write_under_way_is_answered_before_the_node_ends(
    cluster3: ClusterHarness, clients: dict[str, Client]
) -> None:
    """w=3 with a silent replica takes as long as its timeout: SIGTERM meets it half-way."""
    clients["n1"].put("slow", b"before")
    cluster3.stop("n3")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(lambda: Client(cluster3.http_address("n1")).put("slow", b"after", w=2, timeout="1500ms"))
        slower = Client(cluster3.http_address("n2"))
        waiting = pool.submit(lambda: slower.put("slow", b"all", w=3, timeout="1500ms"))
        wait_until(slow.done, "the first write")
        wait_until(
            lambda: (
                "kvstore_requests_in_flight 2.0" in clients["n2"].call("GET", "/metrics").body.decode()
                or waiting.done()
            ),
            "the second write to be under way",
        )
        assert cluster3.terminate("n2") == 0
        answer = waiting.result()
    assert (answer.status, answer.json()["outcome"]) in {(504, "unknown"), (503, "not-applied")}, answer
    cluster3.cont("n3")
    cluster3.restart("n2")
    clients["n2"].close()
    see_all(clients)
