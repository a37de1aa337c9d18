"""put, get, delete and list against real nodes: what goes in comes out, and the exit code says what happened."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from tests.cluster.cli_runner import Cli
from tests.cluster.harness import ClusterHarness

ODD_KEYS = ["../..//up", "a%2Fb", "a+b c", "🦆/é", "-o", "?x=1#y", "/first"]


@pytest.fixture(scope="module")
def cli(cluster3: ClusterHarness) -> Cli:
    return Cli(cluster3.endpoints)


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_and_all_bytes_come_back_unchanged(cli: Cli, key: str) -> None:
    value = bytes(range(256))
    written = cli("put", "--", key, "-", stdin=value)
    assert (written.code, written.json()["key"]) == (0, key), written.err
    read = cli("get", "--", key)
    assert (read.code, read.out, read.err) == (0, value, "")


def test_a_value_comes_from_the_argument_or_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "value").write_bytes(b"from a file\n")
    assert cli("put", "source", "plain ü").code == 0
    assert cli("get", "source").out == "plain ü".encode()
    assert cli("put", "source", f"@{tmp_path / 'value'}").code == 0
    assert cli("get", "source").out == b"from a file\n"
    missing = cli("put", "source", f"@{tmp_path / 'missing'}")
    assert missing.code == 2
    assert "can't be read" in missing.err


def test_json_shows_version_and_type_and_keeps_other_bytes_as_base64(cli: Cli) -> None:
    version = cli("put", "described", "text", "--content-type", "text/plain").json()["version"]
    shown = cli("get", "described", "-o", "json").json()
    assert (shown["version"], shown["content_type"], shown["value"]) == (version, "text/plain", "text")
    cli("put", "described", "-", stdin=b"\xff\x00")
    shown = cli("-o", "json", "get", "described").json()
    assert base64.b64decode(shown["value_base64"]) == b"\xff\x00"


def test_conditions_that_fail_are_exit_code_4(cli: Cli) -> None:
    first = cli("put", "conditional", "1", "--create")
    assert first.code == 0, first.err
    again = cli("put", "conditional", "2", "--create")
    assert (again.code, again.out) == (4, b"")
    assert "412 exists" in again.err
    second = cli("put", "conditional", "2", "--if-match", first.json()["version"])
    assert second.code == 0, second.err
    assert cli("put", "conditional", "3", "--if-match", first.json()["version"]).code == 4
    assert cli("delete", "conditional", "--if-match", first.json()["version"]).code == 4
    assert cli("delete", "conditional", "--if-match", second.json()["version"]).code == 0
    assert cli("put", "conditional", "4", "--if-match", "*").code == 4


def test_a_missing_key_is_exit_code_3_and_deleting_it_is_none(cli: Cli) -> None:
    missing = cli("get", "never/written")
    assert (missing.code, missing.out) == (3, b"")
    assert missing.err.startswith("kvstore: ")
    assert cli("delete", "never/written").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", ""),
        ("get", "x" * 1025),
        ("get", b"\xff"),
        ("get", "k", "-r", "9"),
        ("get", "k", "-r", "many"),
        ("get", "k", "--timeout", "2"),
        ("get", "k", "--consistency", "strongest"),
        ("put", "k", "v", "-w", "1"),
        ("put", "k", "v", "--consistency", "weak", "--create"),
        ("put", "k", "v", "--create", "--if-match", "*"),
        ("put", "k", "v", "--fence", "7"),
        ("put", "k", "v", "--fence", "lock=7"),
        ("get", "k", "--fence", "7"),
        ("get", "k", "--fence", "lock=7"),
        ("get", "k", "--fence", "lock=7", "--consistency", "weak"),
        ("put", "k"),
        ("list", "--limit", "0"),
        ("nonsense",),
        ("get", "k", "--endpoints", "ftp://x"),
        ("put", "k", "v", "--content-type", "text/plain\nX-Evil: yes"),
        ("put", "k", "v", "--content-type", "text/plain\x7f"),
    ],
)
def test_what_can_not_mean_anything_is_exit_code_2(cli: Cli, arguments: tuple[str | bytes, ...]) -> None:
    ended = cli(*arguments)
    assert (ended.code, ended.out) == (2, b""), ended.err
    assert ended.err
    assert "Traceback" not in ended.err


def test_a_value_over_the_limit_is_refused_before_and_by_the_node(cli: Cli) -> None:
    by_node = cli("put", "large", "-", stdin=bytes((1 << 20) + 1))
    assert by_node.code == 2
    assert "413 too-large" in by_node.err
    assert "1,048,576 bytes" in by_node.err
    here = cli("put", "large", "-", stdin=bytes((16 << 20) + 1))
    assert here.code == 2
    assert "16,777,216 bytes, which is more than any node takes; a node takes 1 MiB" in here.err
    assert cli("get", "large").code == 3


def test_options_come_from_the_environment_and_flags_win(cli: Cli) -> None:
    receipts = [
        cli("put", "level", "x", "--receipt", KVSTORE_CONSISTENCY="weak").err,
        cli("put", "level", "x", "--receipt", "--consistency", "eventual", KVSTORE_CONSISTENCY="weak").err,
        cli("put", "level", "x", KVSTORE_RECEIPT="1", KVSTORE_W="all").err,
    ]
    assert "consistency=weak" in receipts[0]
    assert "consistency=eventual" in receipts[1]
    assert "needed=3" in receipts[2]


def test_endpoints_stand_before_or_after_and_dead_ones_are_passed_over(cli: Cli) -> None:
    nobody = Cli(["http://127.0.0.1:1"])
    assert nobody("get", "k").code == 8
    assert nobody("put", "k", "v").code == 8
    alive = f"127.0.0.1:1,{cli.endpoints[0]}"
    assert nobody("--endpoints", alive, "put", "k", "v").code == 0
    assert nobody("get", "k", "--endpoints", alive).out == b"v"


def test_a_listing_pages_by_itself_up_to_its_limit(cli: Cli, tmp_path: Path) -> None:
    for number in range(1005):
        (tmp_path / f"{number:04}").write_bytes(b"%d" % number)
    assert cli("import", str(tmp_path), "--prefix", "many/").code == 0
    rows = cli("list", "many/", "--consistency", "weak").json()["keys"]
    assert [row["key"] for row in rows] == [f"many/{number:04}" for number in range(1005)]
    rows = cli("list", "many/", "--limit", "1002", "--values").json()["keys"]
    assert len(rows) == 1002
    assert rows[-1]["value"] == "1001"
    table = cli("list", "many/000", "-o", "table")
    assert len(table.out.decode().splitlines()) == 11
    assert cli("list", "none/").json() == {"keys": []}


def test_a_reader_that_goes_away_is_no_traceback(cli: Cli) -> None:
    assert cli("put", "unread", "-", stdin=bytes(1 << 20)).code == 0  # more than a pipe holds
    listing = cli.started("get", "unread")
    assert listing.stdout is not None
    listing.stdout.close()
    _, err = listing.communicate(timeout=60)
    assert (listing.returncode, err) == (141, b"")


def test_a_paused_node_holds_up_no_read_and_leaves_a_write_unknown(cluster3: ClusterHarness, cli: Cli) -> None:
    assert cli("put", "paused", "before").code == 0
    cluster3.stop("n1")  # the first of the endpoints; the kernel still takes connections for it
    try:
        began = time.monotonic()
        read = cli("get", "paused", "--consistency", "weak", "--timeout", "8s")
        assert (read.code, read.out) == (0, b"before"), read.err
        assert time.monotonic() - began < 8
        began = time.monotonic()
        written = cli("put", "paused", "after", "--timeout", "1s")
        assert written.code == 6, written.err
        assert "may be applied" in written.err
        assert cluster3.endpoints[1] not in written.err
        assert time.monotonic() - began < 8
    finally:
        cluster3.cont("n1")
    cluster3.wait_ready()
