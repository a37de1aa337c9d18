"""`kvstore dev` as a person sees it: it comes up, keeps its nodes alive, and takes them along when it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
from pathlib import Path

import pytest

from storage.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION
from tests.cluster.cli_runner import Cli
from tests.cluster.dev_runner import Dev
from tests.cluster.harness import is_running, wait_until


def all_gone(pids: list[int]) -> bool:
    return not any(map(is_running, pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_comes_up_says_how_to_talk_to_it_and_keeps_its_data(dev: Dev, number: signal.Signals) -> None:
    dev.start()
    nodes = dev.nodes()
    assert [node["http"] for node in nodes.values()] == [f"http://127.0.0.1:{dev.base_port + i}" for i in range(3)]
    assert [node["peer"] for node in nodes.values()] == [f"127.0.0.1:{dev.base_port + 100 + i}" for i in range(3)]
    assert [Path(node["data"]) for node in nodes.values()] == [dev.folder / name for name in ("n1", "n2", "n3")]
    wait_until(lambda: dev.out.read_text().count("curl") == 3, "three curls")
    for node in nodes.values():
        single = Cli([node["http"]])
        assert single("put", f"via/{node['name']}", node["name"]).code == 0
    pids = [node["pid"] for node in nodes.values()]
    ports = ",".join(f"127.0.0.1:{dev.base_port + i}" for i in range(3))
    assert f"`kvstore status --endpoints {ports}` shows the members" in dev.out.read_text()

    assert dev.end(number) == 0, dev.err.read_text()
    assert all_gone(pids)
    assert not (dev.folder / "cluster.json").exists()

    dev.start()
    keys = dev.cli()("list", "via/", "--values").json()["keys"]
    assert {row["key"]: row["value"] for row in keys} == {f"via/{name}": name for name in ("n1", "n2", "n3")}


def test_a_killed_node_is_told_and_started_again(dev: Dev) -> None:
    dev.start("--restart-after", "200ms")
    before = dev.nodes()
    os.kill(before["n2"]["pid"], signal.SIGKILL)
    wait_until(lambda: dev.nodes()["n2"]["pid"] not in {before["n2"]["pid"], None}, "a new pid of n2")
    said = dev.err.read_text()
    assert f"n2 (pid {before['n2']['pid']}) died: killed by SIGKILL" in said
    assert "n2 starts again in 0.2 s" in said
    only_n2 = Cli([before["n2"]["http"]])
    wait_until(lambda: only_n2("put", "back", "yes").code == 0, "n2 to take writes again")
    after = dev.nodes()
    assert (after["n1"], after["n3"]) == (before["n1"], before["n3"])


def test_never_leaves_the_dead_alone(dev: Dev) -> None:
    dev.start("--restart-after", "never")
    os.kill(dev.nodes()["n1"]["pid"], signal.SIGKILL)
    wait_until(lambda: "n1 stays dead" in dev.err.read_text(), "dev to say so")
    assert dev.cli()("put", "k", "v").code == 0


def test_a_data_folder_that_vanishes_ends_dev_with_one_line(dev: Dev) -> None:
    dev.start("--restart-after", "200ms", "--nodes", "1")
    assert "One node is ready after" in dev.out.read_text()
    assert "Its data is in" in dev.out.read_text()
    pids = [node["pid"] for node in dev.nodes().values()]
    shutil.rmtree(dev.folder)
    os.kill(pids[0], signal.SIGKILL)
    assert dev.process.wait(60) == 1
    last = dev.err.read_text().splitlines()[-1]
    assert "n1 can't be started again, so the nodes are ended" in last
    assert str(dev.folder) in last
    assert "unexpected" not in dev.err.read_text()


def test_a_start_that_is_interrupted_ends_quietly(dev: Dev) -> None:
    dev.spawn()
    wait_until((dev.folder / "n3" / "node.log").exists, "the nodes to be started")
    assert dev.end(signal.SIGINT) == 0, dev.err.read_text()
    assert dev.err.read_text() == "kvstore dev: ending the nodes\n"


def test_nodes_die_with_a_dev_that_is_killed(dev: Dev) -> None:
    dev.start()
    pids = [node["pid"] for node in dev.nodes().values()]
    os.kill(pids[0], signal.SIGSTOP)  # even one that can't notice anything
    dev.end(signal.SIGKILL)
    wait_until(lambda: all_gone(pids), "the nodes to die")


def test_a_paused_node_does_not_keep_dev_from_ending(dev: Dev) -> None:
    dev.start()
    pids = [node["pid"] for node in dev.nodes().values()]
    os.kill(pids[2], signal.SIGSTOP)
    assert dev.end(signal.SIGTERM) == 0
    assert all_gone(pids)


def test_a_port_in_use_is_told_and_nothing_is_left_running(dev: Dev) -> None:
    with socket.create_server(("127.0.0.1", dev.base_port + 101)):
        dev.spawn()
        assert dev.process.wait(60) == 1
    said = dev.err.read_text()
    assert f"port {dev.base_port + 101}" in said
    assert "nothing was started" in said
    assert "Traceback" not in said
    assert not dev.folder.exists()


def test_a_node_that_can_not_start_ends_all_and_its_last_words_are_shown(dev: Dev) -> None:
    dev.folder.mkdir()
    (dev.folder / "n2").mkdir()
    with contextlib.closing(sqlite3.connect(dev.folder / "n2" / "kvstore.db")) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        database.execute("CREATE TABLE of_tomorrow (anything)")
    dev.spawn()
    assert dev.process.wait(60) == 1
    said = dev.err.read_text()
    assert "n2 ended before it was ready" in said
    assert f"schema version {SCHEMA_VERSION + 1}" in said
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", dev.base_port), 1)


def test_a_folder_keeps_its_layout(dev: Dev) -> None:
    dev.start("--nodes", "2", "--zones", "a,b")
    assert list(dev.nodes()) == ["n1", "n2"]
    assert dev.end(signal.SIGTERM) == 0
    dev.spawn("--nodes", "3")
    assert dev.process.wait(60) == 2
    assert "--nodes 2" in dev.err.read_text()
    dev.start()
    assert list(dev.nodes()) == ["n1", "n2"]
    assert {member["zone"] for member in dev.cli()("status").json()["members"]} == {"a", "b"}
