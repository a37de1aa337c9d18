"""import and export against real nodes: every byte there and back, whatever is interrupted or killed on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import pytest

from cli.transfer.target_folder import TargetFolder
from tests.cluster.cli_runner import Cli
from tests.cluster.harness import ClusterHarness, wait_until

MANY = 3_000


@pytest.fixture
def cli(cluster3: ClusterHarness) -> Cli:
    return Cli(cluster3.endpoints)


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}/"


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    for number in range(MANY):
        path = folder / f"{number % 7}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d " % number * 50)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def count_of_keys(cluster: ClusterHarness, prefix: str) -> int:
    """Keys that have arrived, up to a thousand."""
    query = urlencode({"prefix": prefix, "limit": 1000, "consistency": "weak"})
    with urllib.request.urlopen(cluster.url("n1", f"/v1/kv?{query}"), timeout=10) as answer:
        return len(json.load(answer)["keys"])


def test_a_folder_comes_back_byte_for_byte(cli: Cli, tmp_path: Path, prefix: str) -> None:
    source = tmp_path / "source"
    for name in ("plain.txt", "deep/er/a+b c%2F.bin", ".hidden/🦆", "back\\slash", "-o", "line\nbreak"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(os.urandom(2000))
    (source / "empty").write_bytes(b"")
    before = contents(source)
    imported = cli("import", str(source), "--prefix", prefix)
    assert (imported.code, imported.json()) == (0, {"stored": 7, "unchanged": 0, "failed": []}), imported.err
    assert contents(source) == before
    assert cli("get", f"{prefix}plain.txt", "-o", "json").json()["content_type"] == "text/plain"

    target = tmp_path / "target"
    exported = cli("export", str(target), "--prefix", prefix)
    assert (exported.code, exported.json()["written"]) == (0, 7), exported.err
    assert contents(target) == before

    assert cli("import", str(source), "--prefix", prefix).json()["unchanged"] == 7
    (source / "empty").write_bytes(b"no more")
    (target / "plain.txt").write_bytes(b"changed")
    assert cli("import", str(source), "--prefix", prefix).json()["stored"] == 1
    assert cli("export", str(target), "--prefix", prefix).json() == {
        "written": 2,
        "unchanged": 5,
        "gone": 0,
        "failed": [],
    }
    assert contents(target) == contents(source)


def test_what_can_not_be_a_key_is_told_and_the_rest_goes_on(cli: Cli, tmp_path: Path, prefix: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "good").write_bytes(b"good")
    (source / "link").symlink_to("/etc/hostname")
    (source / "circle").symlink_to(".")
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(source / "socket"))
    Path(os.fsdecode(os.fsencode(source) + b"/\xff\xfe")).write_bytes(b"no UTF-8")
    (source / "large").write_bytes(bytes((1 << 20) + 1))
    (source / "huge").write_bytes(bytes((16 << 20) + 1))
    long = Path(source, *["d" * 250] * 5)
    long.mkdir(parents=True)
    (long / "deep").write_bytes(b"its key is too long")
    imported = cli("import", str(source), "--prefix", prefix)
    assert imported.code == 1
    report = imported.json()
    assert report["stored"] == 1
    reasons = {failure["path"][-10:]: failure["reason"] for failure in report["failed"]}
    assert {
        name: reason.split(":")[0] for name, reason in reasons.items() if "413" not in reason and "400" not in reason
    } == {
        "link": "a symbolic link",
        "circle": "a symbolic link",
        "pipe": "no regular file",
        "socket": "no regular file",
        "\\xff\\xfe": "its name is not UTF-8, and keys are",
        "huge": "larger than 16,777,216 bytes, which is more than any node takes; a node takes 1 MiB, "
        "if its --value-bytes-max does not say otherwise",
    }
    assert "413 too-large" in reasons["large"]
    assert "400 bad-key" in reasons["ddddd/deep"]
    assert "left out pipe" in imported.err
    assert cli("list", prefix).json()["keys"][0]["key"] == f"{prefix}good"


def test_keys_that_can_not_be_files_are_told_and_nothing_leaves_the_folder(
    cli: Cli, tmp_path: Path, prefix: str
) -> None:
    bad = ["../up", "a/../../up", "/absolute", "a//b", "folder", "x" * 256, "link/inside", "end/", "./dot", ""]
    for key in [*bad, "folder/file", "good"]:
        assert cli("put", prefix + key, "value").code == 0
    target = tmp_path / "target"
    target.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (target / "link").symlink_to(outside)
    exported = cli("export", str(target), "--prefix", prefix)
    assert exported.code == 1
    assert {failure["path"] for failure in exported.json()["failed"]} == {prefix + key for key in bad}
    assert contents(target) == {"folder/file": b"value", "good": b"value"}
    assert contents(tmp_path) == {"target/folder/file": b"value", "target/good": b"value"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_import_carries_on(
    cli: Cli, cluster3: ClusterHarness, many: Path, tmp_path: Path, prefix: str, number: signal.Signals
) -> None:
    before = contents(many)
    running = cli.started("import", str(many), "--prefix", prefix, "--concurrency", "1")
    wait_until(lambda: count_of_keys(cluster3, prefix) >= 50, "the first keys to arrive")
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == (130 if number != signal.SIGKILL else -number), err.decode()
    stopped_at = count_of_keys(cluster3, prefix)
    assert 50 <= stopped_at < MANY

    carried_on = cli("import", str(many), "--prefix", prefix)
    assert carried_on.code == 0, carried_on.err
    report = carried_on.json()
    assert report["stored"] + report["unchanged"] == MANY
    assert report["unchanged"] >= 50
    assert contents(many) == before

    target = tmp_path / "target"
    exporting = cli.started("export", str(target), "--prefix", prefix, "--concurrency", "1")
    wait_until(lambda: len(contents(target)) >= 50 if target.exists() else False, "the first files to arrive")
    exporting.send_signal(number)
    exporting.communicate(timeout=60)
    half = contents(target)
    assert 50 <= len(half) < MANY
    assert half.items() <= before.items()  # whole files and nothing else
    exported = cli("export", str(target), "--prefix", prefix)
    assert exported.json()["unchanged"] >= 50, exported.err
    assert contents(target) == before


def test_an_import_survives_the_death_of_a_node(
    cli: Cli, cluster3: ClusterHarness, many: Path, tmp_path: Path, prefix: str
) -> None:
    running = cli.started("import", str(many), "--prefix", prefix, "--concurrency", "4")
    wait_until(lambda: count_of_keys(cluster3, prefix) >= 50, "the first keys to arrive")
    cluster3.kill("n1")  # the node that the import talks to
    assert running.poll() is None, "the import was over too soon to show anything"
    cluster3.restart("n1")
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err.decode()
    assert json.loads(out)["stored"] == MANY
    target = tmp_path / "target"
    assert Cli([cluster3.url("n3")])("export", str(target), "--prefix", prefix).code == 0
    assert contents(target) == contents(many)


def test_an_import_gives_up_when_told_and_says_so(many: Path) -> None:
    ended = Cli(["http://127.0.0.1:1"])("import", str(many), "--give-up-after", "300ms")
    assert ended.code == 8
    assert "gave up after 0.3 s" in ended.err
    assert "carries on" in ended.err


def test_two_exports_do_not_write_to_one_folder(cli: Cli, tmp_path: Path, prefix: str) -> None:
    cli("put", f"{prefix}k", "v")
    with TargetFolder(tmp_path):
        ended = cli("export", str(tmp_path), "--prefix", prefix)
    assert ended.code == 1
    assert "another export" in ended.err
