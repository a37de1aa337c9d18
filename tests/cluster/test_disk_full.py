"""A node whose disk fills up, on a small file system of its own, and one whose disk fails."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.errors import ExitCode
from tests.cluster.cli_runner import Cli
from tests.cluster.client import Client, see_all, until_ok
from tests.cluster.harness import ClusterHarness, wait_until
from tests.cluster.stream import Stream, check_strong
from tests.cluster.test_clocks import is_up, metric, unfit, unready

DISK_BYTES = 64 << 20
LEVELS = ("strong", "weak", "eventual")
TIMEOUT = "20s"
EXIT_FAILED = 1


class SmallDiskCluster(ClusterHarness):
    """A harness whose n1 has a small disk: a tmpfs, which is gone after close()."""

    def mount(self) -> None:
        """Makes the disk. Skips the test where that is not allowed."""
        self.data("n1").mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "kvstore-test", str(self.data("n1"))]
        try:
            made = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount here")
        if made.returncode:
            pytest.skip(f"a small disk can't be mounted here: {made.stderr.strip()}")

    def close(self) -> None:
        super().close()
        subprocess.run(["umount", str(self.data("n1"))], capture_output=True, check=True)

    @property
    def ballast(self) -> Path:
        """The file that fills the disk."""
        return self.data("n1") / "ballast"

    def fill(self, leave: int) -> None:
        """Fills the disk but for about so many bytes, while the node writes, too."""
        descriptor = os.open(self.ballast, os.O_WRONLY | os.O_CREAT)
        try:
            while not self._filled(descriptor, leave):
                pass
        finally:
            os.close(descriptor)

    def _filled(self, descriptor: int, leave: int) -> bool:
        free = os.statvfs(self.data("n1"))
        try:
            os.posix_fallocate(descriptor, 0, max(free.f_bavail * free.f_bsize - leave, 1))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False  # the node was quicker
        return True

    def empty(self) -> None:
        """There is room again."""
        self.ballast.unlink()


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SmallDiskCluster]:
    """Three nodes, n1 with a small disk; the parameter is what else is on their command lines."""
    cluster = SmallDiskCluster(tmp_path, flags=getattr(request, "param", ()))
    cluster.mount()
    with cluster:
        yield cluster


@pytest.fixture
def clients(cluster: SmallDiskCluster) -> Iterator[dict[str, Client]]:
    """A client for each node, by its name."""
    opened = {name: Client(cluster.http_address(name)) for name in cluster.names}
    see_all(opened)
    yield opened
    for client in opened.values():
        client.close()


def check_equal(client: Client, key: str) -> None:
    """Waits until all replicas of the key hold the same."""
    wait_until(lambda: len(set(client.held(key))) == 1, f"all replicas to hold the same of {key}")


def test_a_full_disk_is_read_only_until_there_is_room(cluster: SmallDiskCluster, clients: dict[str, Client]) -> None:
    n1, n2, n3 = (clients[name] for name in cluster.names)
    pid = cluster.pid("n1")
    for number in range(10):
        until_ok(lambda number=number: n2.put(f"key/{number}", b"before", w=3, timeout=TIMEOUT))  # type: ignore[misc]
    cluster.fill(leave=DISK_BYTES // 40)
    wait_until(lambda: "disk of this node is full" in unready(n1), "n1 to notice")
    for level in LEVELS:
        for refused in (n1.put("key/0", b"x", consistency=level), n1.delete("key/0", consistency=level)):
            problem = refused.json()
            assert (refused.status, problem["code"], problem["outcome"]) == (507, "disk-full", "not-applied")
            assert "MiB are free" in problem["detail"]
            assert refused.receipt["consistency"] == level
        assert until_ok(lambda level=level: n1.get("key/0", consistency=level)).body == b"before"  # type: ignore[misc]
    batch = n1.call(
        "POST", "/v1/batch",
        b'{"operations": [{"op": "put", "key": "key/0", "value": "x"}, {"op": "get", "key": "key/0"}]}',
        {"Content-Type": "application/json"},
    )  # fmt: skip
    assert [result["status"] for result in batch.json()["results"]] == [507, 200]
    assert metric(n1, "kvstore_disk_full") == 1
    person = Cli([cluster.url("n1")])
    told = person("put", "key/0", "x")
    assert (told.code, "507 disk-full" in told.err) == (ExitCode.NOT_APPLIED, True)
    status = person("status", "--output", "json").json()
    assert "disk of this node is full" in str(next(row for row in status["members"] if row["name"] == "n1")["ready"])
    for client in (n2, n3):
        wait_until(lambda client=client: "read-only" in unfit(client, "n1"), "the others to know")  # type: ignore[misc]
    for number in range(10):
        for level in LEVELS:
            client = (n2, n3)[number % 2]
            written = client.put(f"key/{number}", level.encode(), consistency=level, w=2, timeout=TIMEOUT)
            assert (written.status, written.replicas) == (200, ["n2", "n3"]), written
            created = client.put(f"new/{number}/{level}", level.encode(), consistency=level, w=2, timeout=TIMEOUT)
            assert created.status == 200, created
        read = until_ok(lambda number=number: n1.get(f"key/{number}", timeout=TIMEOUT))  # type: ignore[misc]
        assert read.body == b"eventual", "a strong read through it goes to the others"
    cluster.empty()
    wait_until(lambda: not unready(n1), "n1 to take writes again")
    for level in LEVELS:
        until_ok(lambda level=level: n1.put("key/again", level.encode(), consistency=level, w=3, timeout=TIMEOUT))  # type: ignore[misc]
    for number in range(10):
        check_equal(n2, f"key/{number}")
        for level in LEVELS:
            check_equal(n3, f"new/{number}/{level}")
    assert cluster.pid("n1") == pid
    log = cluster.log("n1")
    assert "this node is read-only until there is room" in log
    assert "there is room on the disk again" in log


@pytest.mark.parametrize("leave", [DISK_BYTES // 40, 0], ids=["below the reserve", "none at all"])
def test_a_node_starts_on_a_full_disk(cluster: SmallDiskCluster, clients: dict[str, Client], leave: int) -> None:
    """It can't keep what it is told, but it can say what it has."""
    n1, n2 = clients["n1"], clients["n2"]
    until_ok(lambda: n2.put("key", b"before", w=3, timeout=TIMEOUT))
    cluster.kill("n1")
    cluster.fill(leave)
    cluster.spawn("n1")
    wait_until(lambda: is_up(n1), "n1 to answer")
    wait_until(lambda: "disk of this node is full" in unready(n1), "n1 to notice")
    assert until_ok(lambda: n1.get("key", timeout=TIMEOUT)).body == b"before"
    assert n1.put("key", b"x").status == 507
    until_ok(lambda: n2.put("key", b"meanwhile", w=2, timeout=TIMEOUT))
    cluster.empty()
    wait_until(lambda: not unready(n1), "n1 to take writes")
    until_ok(lambda: n1.put("after", b"value", w=3, timeout=TIMEOUT))
    check_equal(n2, "key")


@pytest.mark.parametrize("cluster", [("--disk-reserve-bytes", "0")], indirect=True)
def test_not_even_room_for_a_transaction(cluster: SmallDiskCluster, clients: dict[str, Client]) -> None:
    """Without a reserve the disk runs full in the middle of a write. Nothing that was acknowledged is lost by it."""
    pid = cluster.pid("n1")
    keys = [f"stream/{number}" for number in range(6)]
    everybody = [cluster.http_address(name) for name in cluster.names]
    value = os.urandom(64 << 10)
    with Stream(everybody, keys) as stream:
        stream.wait_acknowledged(5)
        cluster.fill(leave=256 << 10)
        for number in range(64):  # 4 MiB: more than is left
            clients["n2"].put(f"large/{number}", value, timeout="1s")
        wait_until(lambda: "disk of this node is full" in unready(clients["n1"]), "n1 to notice")
        refused = clients["n1"].put("refused", b"x")
        assert (refused.status, refused.code) == (507, "disk-full")
        for told in stream.told.values():
            told.strange.clear()  # a 507, which a stream does not expect
        large = until_ok(lambda: clients["n3"].put("large/more", value, timeout=TIMEOUT))
        assert large.replicas == ["n2", "n3"]
        cluster.empty()
        wait_until(lambda: not unready(clients["n1"]), "n1 to take writes again")
        stream.wait_acknowledged(5)
    assert cluster.pid("n1") == pid
    for told in stream.told.values():
        told.strange.clear()
        for client in clients.values():
            check_strong(client, told)
        check_equal(clients["n2"], told.key)


# -- a disk that fails -------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[ClusterHarness]:
    """Three nodes on the usual disk."""
    with ClusterHarness(tmp_path) as cluster:
        yield cluster


def check_ended(cluster: ClusterHarness, words: str) -> None:
    """n1 has ended by itself and said why last; the others go on, and it comes back on its folder."""
    assert cluster.exit_code("n1") == EXIT_FAILED
    last = cluster.log("n1").splitlines()[-1]
    assert last.startswith("kvstore: ")
    assert words in last
    assert "may or may not be on disk" in last
    client = Client(cluster.http_address("n2"))
    written = until_ok(lambda: client.put("after", b"value", timeout=TIMEOUT))
    assert written.replicas == ["n2", "n3"]
    cluster.restart("n1")
    again = Client(cluster.http_address("n1"))
    assert until_ok(lambda: again.get("after", timeout=TIMEOUT)).body == b"value"
    for each in (client, again):
        each.close()


def test_a_write_that_fails_ends_the_process(whole: ClusterHarness) -> None:
    """Not for want of room: the file may not grow any more (EFBIG)."""
    client = Client(whole.http_address("n2"))
    resource.prlimit(whole.pid("n1"), resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
    value = os.urandom(256 << 10)
    for number in range(16):
        until_ok(lambda number=number: client.put(f"large/{number}", value, timeout=TIMEOUT))  # type: ignore[misc]
    client.close()
    check_ended(whole, "disk I/O error")


def test_a_write_that_fails_ends_a_process_whose_log_can_not_be_written_either(whole: ClusterHarness) -> None:
    """Logs are often on the same disk. A node that lived on would refuse everything, and say that it is ready."""
    client = Client(whole.http_address("n2"))
    resource.prlimit(whole.pid("n1"), resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    until_ok(lambda: client.put("small", b"value", timeout=TIMEOUT))
    assert whole.exit_code("n1") == EXIT_FAILED
    whole.restart("n1")
    again = Client(whole.http_address("n1"))
    assert until_ok(lambda: again.get("small", timeout=TIMEOUT)).body == b"value"
    for each in (client, again):
        each.close()


def test_a_sync_that_fails_ends_the_process(whole: ClusterHarness) -> None:
    """What fsync said had failed may be gone from memory, too: to try again and be told that all is well is a lie."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    client = Client(whole.http_address("n2"))
    until_ok(lambda: client.put("before", b"value", w=3, timeout=TIMEOUT))
    tracing = subprocess.Popen(
        [
            *("strace", "-f", "-qq", "-o", "/dev/null", "-p", str(whole.pid("n1"))),
            *("-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"),
        ],
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: tracing.poll() is not None or is_traced(whole.pid("n1")), "strace to attach")
        if tracing.poll() is not None:
            assert tracing.stderr is not None
            pytest.skip(f"strace can't trace here: {tracing.stderr.read().decode().strip()}")
        for number in range(4):
            until_ok(lambda number=number: client.put(f"during/{number}", b"value", timeout=TIMEOUT))  # type: ignore[misc]
        assert whole.exit_code("n1") == EXIT_FAILED
    finally:
        if tracing.poll() is None:
            tracing.send_signal(signal.SIGTERM)
        tracing.wait()
        client.close()
    check_ended(whole, "disk I/O error")


def is_traced(pid: int) -> bool:
    """Whether every thread of the process is traced."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)
