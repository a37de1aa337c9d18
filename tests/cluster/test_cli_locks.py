"""lock, vote and elect against real nodes, and against a file: what is told, and which exit code says it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cluster.cli_runner import Cli
from tests.cluster.harness import ClusterHarness, clean_environment, is_running, kvstore_command, wait_until


@dataclass(frozen=True)
class FileCli(Cli):
    """The program, told which file keeps the locks."""

    file: str = ""

    def environment(self, **variables: str) -> dict[str, str]:
        """What the command finds in its environment."""
        return clean_environment(**{"KVSTORE_FILE": self.file, **variables})


@pytest.fixture(scope="module", params=["nodes", "file"])
def cli(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The program over both media."""
    if request.param == "file":
        return FileCli([], str(tmp_path_factory.mktemp("file") / "app.db"))
    return Cli(request.getfixturevalue("cluster3").endpoints)


@pytest.fixture(scope="module")
def on_nodes(cluster3: ClusterHarness) -> Cli:
    return Cli(cluster3.endpoints)


@pytest.fixture
def name() -> str:
    """A lock that no other test knows."""
    return f"lock/{uuid4().hex[:8]}"


class Runs:
    """`lock run`s that a test starts, and what ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begun: list[subprocess.Popen[bytes]] = []

    def start(self, cli: Cli, *arguments: str) -> subprocess.Popen[bytes]:
        """`kvstore lock run ARGUMENTS`."""
        self._begun.append(cli.started("lock", "run", *arguments))
        return self._begun[-1]

    def pid_of(self, name: str) -> int:
        """The process that has written its id there, once it has."""
        path = self.folder / name
        wait_until(lambda: path.exists() and path.read_text().endswith("\n"), f"{name} to be written")
        return int(path.read_text())

    def path(self, name: str) -> str:
        """A file of this test."""
        return str(self.folder / name)

    def close(self) -> None:
        """Leaves nothing behind; what dies with them is part of what is tested."""
        for process in self._begun:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path)
    yield runs
    runs.close()


# -- one step at a time ---------------------------------------------------------------------------------------------


def test_a_lock_is_taken_refused_renewed_shown_and_given_back(cli: Cli, name: str) -> None:
    first = cli("lock", "acquire", name, "--owner", "worker-7", "--ttl", "30s")
    assert first.code == 0, first.err
    lease = first.json()
    assert (lease["name"], lease["owner"], lease["ttl"]) == (name, "worker-7", "30s")
    assert lease["fence"] > 0
    refused = cli("lock", "acquire", name)
    assert (refused.code, refused.out) == (4, b"")
    assert "is held by worker-7" in refused.err
    assert "it may be free in" in refused.err
    assert lease["token"] not in refused.err

    assert cli("lock", "renew", name, lease["token"]).code == 0
    shown = cli("lock", "show", name).json()
    assert (shown["holder"], shown["fence"], shown["lease"]) == ("worker-7", lease["fence"], "30s")
    assert lease["token"] not in str(shown)
    assert cli("lock", "release", name, lease["token"]).json() == {"name": name, "released": True}
    assert cli("lock", "release", name, lease["token"]).code == 4
    assert cli("lock", "renew", name, lease["token"]).code == 4
    assert cli("lock", "show", name).code == 3
    assert cli("lock", "acquire", name, "--ttl", "1s").json()["fence"] > lease["fence"]


def test_a_token_need_not_stand_in_the_process_list(cli: Cli, name: str) -> None:
    token = cli("lock", "acquire", name).json()["token"]
    assert cli("lock", "renew", name, "-", stdin=token.encode() + b"\n").code == 0
    assert cli("lock", "release", name, KVSTORE_TOKEN=token).code == 0
    assert cli("lock", "release", name).code == 2


def test_locks_are_listed_by_prefix(cli: Cli, name: str) -> None:
    for part in ("b", "a"):
        assert cli("lock", "acquire", f"{name}/{part}", "--owner", part).code == 0
    rows = cli("lock", "list", f"{name}/").json()["locks"]
    assert [(row["name"], row["holder"], row["waiters"]) for row in rows] == [
        (f"{name}/a", "a", 0),
        (f"{name}/b", "b", 0),
    ]
    table = cli("lock", "list", f"{name}/", "-o", "table").out.decode().splitlines()
    assert table[0].split() == ["name", "holder", "fence", "lease", "expires", "in", "waiters", "permits"]
    assert len(table) == 3


def test_who_waits_gets_it_when_the_lease_is_over(cli: Cli, name: str) -> None:
    first = cli("lock", "acquire", name, "--ttl", "1s").json()
    second = cli("lock", "acquire", name, "--wait", "30s")
    assert second.code == 0, second.err
    assert second.json()["fence"] > first["fence"]
    assert cli("lock", "renew", name, first["token"]).code == 4


def test_as_many_hold_it_as_it_has_permits(cli: Cli, name: str) -> None:
    tokens = {cli("lock", "acquire", name, "--permits", "2").json()["token"] for _ in range(2)}
    assert len(tokens) == 2
    assert cli("lock", "acquire", name, "--permits", "2").code == 4
    shown = cli("lock", "show", name).json()
    assert (shown["permits"], len(shown["holders"])) == (2, 2)
    assert cli("lock", "release", name, tokens.pop()).code == 0
    assert cli("lock", "acquire", name, "--permits", "2").code == 0


def test_a_vote_has_one_winner(cli: Cli, name: str) -> None:
    assert cli("vote", name).code == 3
    first = cli("vote", name, "anna", "--value", '{"port": 7}').json()
    assert (first["winner"], first["value"], first["is_new"]) == ("anna", {"port": 7}, True)
    late = cli("vote", name, "ben").json()
    assert (late["winner"], late["value"], late["is_new"]) == ("anna", {"port": 7}, False)
    assert cli("vote", name).json()["winner"] == "anna"
    assert cli("vote", name, "--value", "1").code == 2
    assert cli("vote", name, "chloe", "--value", "no json").code == 2


def test_a_leader_leads_until_it_resigns(cli: Cli, name: str) -> None:
    assert cli("elect", "leader", name).code == 3
    lead = cli("elect", "campaign", name, "--candidate", "anna").json()
    shown = cli("elect", "leader", name).json()
    assert (shown["leader"], shown["term"], shown["candidates"]) == ("anna", lead["term"], 0)
    refused = cli("elect", "campaign", name, "--candidate", "ben")
    assert (refused.code, refused.out) == (4, b"")
    assert "is held by anna" in refused.err
    assert cli("elect", "renew", name, lead["token"]).code == 0
    assert cli("elect", "resign", name, "-", stdin=lead["token"].encode()).code == 0
    assert cli("elect", "renew", name, lead["token"]).code == 4
    assert cli("elect", "campaign", name, "--candidate", "ben").json()["term"] > lead["term"]


def test_what_can_not_mean_anything_is_exit_code_2(cli: Cli, name: str) -> None:
    for arguments in (
        ("lock", "acquire", name, "--ttl", "1ms"),
        ("lock", "acquire", name, "--ttl", "2h"),
        ("lock", "acquire", name, "--wait", "1h"),
        ("lock", "acquire", name, "--permits", "0"),
        ("lock", "acquire", name, "--owner", ""),
        ("lock", "acquire", name, "--owner", "x" * 257),
        ("lock", "acquire", "x" * 257),
        ("lock", "acquire"),
        ("lock", "run", name),
        ("lock", "nonsense"),
        ("vote", name, "x" * 257),
        ("elect", "campaign", name, "--candidate", ""),
        ("lock", "list", "--file", "x", "--endpoints", "127.0.0.1:1"),
    ):
        ended = cli(*arguments)
        assert (ended.code, ended.out) == (2, b""), (arguments, ended)
        assert "Traceback" not in ended.err
        assert "unexpected" not in ended.err
    assert cli("lock", "show", name).code == 3


def test_nobody_to_ask_is_exit_code_8() -> None:
    nobody = Cli(["http://127.0.0.1:1"])
    for arguments in (
        ("lock", "show", "l"),
        ("lock", "acquire", "l"),
        ("vote", "v", "x"),
        ("lock", "run", "l", "true"),
    ):
        assert nobody(*arguments, KVSTORE_TIMEOUT="500ms").code == 8, arguments


# -- lock run -------------------------------------------------------------------------------------------------------


def test_run_gives_the_command_what_is_its_own_and_its_exit_code_back(cli: Cli, name: str) -> None:
    script = 'cat; echo "$KVSTORE_LOCK" "$KVSTORE_FENCE" "${KVSTORE_TTL-none}"; echo told >&2; exit 7'
    ended = cli("lock", "run", name, "--", "sh", "-c", script, stdin=b"asked\n", KVSTORE_TTL="30s")
    asked, told = ended.out.decode().splitlines()
    assert (ended.code, asked, ended.err) == (7, "asked", "told\n")
    lock, fence, ttl = told.split()
    assert (lock, ttl) == (name, "none")
    assert int(fence) > 0
    assert cli("lock", "show", name).code == 3


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["no-such-command-anywhere"], 127),
        (["./no/such/file"], 127),
        (["/"], 126),
    ],
)
def test_run_exits_as_a_shell_would(cli: Cli, name: str, command: list[str], code: int) -> None:
    ended = cli("lock", "run", name, "--", *command)
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert cli("lock", "show", name).code == 3


def test_run_starts_nothing_while_others_hold_it(cli: Cli, name: str, tmp_path: Path) -> None:
    token = cli("lock", "acquire", name, "--owner", "worker-7").json()["token"]
    ended = cli("lock", "run", name, "--", "touch", str(tmp_path / "ran"))
    assert ended.code == 4
    assert "worker-7" in ended.err
    assert cli("lock", "release", name, token).code == 0
    assert not (tmp_path / "ran").exists()


def test_run_renews_for_as_long_as_the_command_runs(cli: Cli, name: str, runs: Runs) -> None:
    run = runs.start(
        cli, name, "--ttl", "1s", "--", "sh", "-c", f"while [ ! -e {runs.path('go')} ]; do sleep 0.05; done"
    )
    wait_until(lambda: cli("lock", "show", name).code == 0, "the lock to be held")
    first = cli("lock", "show", name).json()
    began = time.monotonic()
    while time.monotonic() - began < 2.5:  # two leases and a half
        shown = cli("lock", "show", name)
        assert shown.code == 0, "it was held without a break"
        assert shown.json()["fence"] == first["fence"]
    Path(runs.path("go")).touch()
    assert run.wait(30) == 0
    assert cli("lock", "show", name).code == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_run_passes_signals_on(cli: Cli, name: str, runs: Runs, number: signal.Signals) -> None:
    script = f"trap 'exit 3' {number.name[3:]}; echo $$ > {runs.path('pid')}; while :; do sleep 0.05; done"
    run = runs.start(cli, name, "--", "sh", "-c", script)
    child = runs.pid_of("pid")
    run.send_signal(number)
    assert run.wait(30) == 3
    assert not is_running(child)
    assert cli("lock", "show", name).code == 3


def test_a_signal_ends_the_wait_for_the_lock(cli: Cli, name: str, runs: Runs) -> None:
    token = cli("lock", "acquire", name).json()["token"]
    run = runs.start(cli, name, "--wait", "1m", "--", "touch", runs.path("ran"))
    wait_until(lambda: _waits(cli, name, run), "it to stand in line")
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 143
    assert cli("lock", "release", name, token).code == 0
    assert cli("lock", "acquire", name).code == 0
    assert not Path(runs.path("ran")).exists()


def _waits(cli: Cli, name: str, run: subprocess.Popen[bytes]) -> bool:
    """Whether it has got far enough to stand in line; a file knows of nobody who waits."""
    if isinstance(cli, FileCli):
        return any("app.db" in _link(file) for file in Path(f"/proc/{run.pid}/fd").iterdir())
    return bool(cli("lock", "show", name).json()["waiters"])


def _link(file: Path) -> str:
    """Where it leads; nowhere, if it was closed meanwhile."""
    try:
        return os.readlink(file)
    except FileNotFoundError:
        return ""


def test_a_lost_lock_ends_the_command_with_all_that_it_has_started(cli: Cli, name: str, runs: Runs) -> None:
    stubborn = Path(runs.path("stubborn.sh"))
    stubborn.write_text(f"trap '' TERM; echo $$ > {runs.path('grandchild')}; while :; do sleep 0.05; done")
    script = f"echo $$ > {runs.path('child')}; sh {stubborn} & wait"
    run = runs.start(cli, name, "--ttl", "1s", "--", "sh", "-c", script)
    child, grandchild = runs.pid_of("child"), runs.pid_of("grandchild")
    run.send_signal(signal.SIGSTOP)
    taken = cli("lock", "acquire", name, "--wait", "30s", "--owner", "the next")
    assert taken.code == 0, taken.err
    assert is_running(child)
    run.send_signal(signal.SIGCONT)
    assert run.wait(30) == 4
    assert not is_running(child)
    assert not is_running(grandchild)
    assert run.stderr is not None
    assert f"the lock '{name}' was lost" in run.stderr.read().decode()
    assert cli("lock", "show", name).json()["holder"] == "the next"


def test_the_command_dies_with_a_run_that_is_killed(cli: Cli, name: str, runs: Runs) -> None:
    run = runs.start(cli, name, "--", "sh", "-c", f"echo $$ > {runs.path('pid')}; while :; do sleep 0.05; done")
    child = runs.pid_of("pid")
    run.kill()
    wait_until(lambda: not is_running(child), "the command to die")


def test_put_under_a_run_carries_the_fence_and_is_refused_when_the_lock_moved_on(
    on_nodes: Cli, name: str, runs: Runs
) -> None:
    kvstore = " ".join(kvstore_command())
    script = f"""
{kvstore} put {name}/key first || exit 99
echo $$ > {runs.path("pid")}
while [ ! -e {runs.path("go")} ]; do sleep 0.05; done
{kvstore} put {name}/key late; put=$?
{kvstore} delete {name}/key; echo "$put $?" > {runs.path("codes")}
"""
    run = runs.start(on_nodes, name, "--ttl", "1s", "--", "sh", "-c", script)
    runs.pid_of("pid")
    run.send_signal(signal.SIGSTOP)  # it can't renew, nor end the command; the command goes on
    second = on_nodes("lock", "run", name, "--wait", "30s", "--", *kvstore_command(), "put", f"{name}/key", "second")
    assert second.code == 0, second.err
    Path(runs.path("go")).touch()
    wait_until(lambda: Path(runs.path("codes")).exists() and Path(runs.path("codes")).read_text(), "the late writes")
    assert Path(runs.path("codes")).read_text() == "4 4\n"
    assert on_nodes("get", f"{name}/key").out == b"second"
    run.send_signal(signal.SIGCONT)
    run.wait(30)
    assert run.stderr is not None
    assert "412 fenced" in run.stderr.read().decode()


def test_get_under_a_run_shuts_out_a_holder_that_was_passed_by(on_nodes: Cli, name: str, runs: Runs) -> None:
    """Both read the same, and the one that was paused may not write what follows from it."""
    assert on_nodes("put", f"{name}/key", "5").code == 0
    kvstore = " ".join(kvstore_command())
    script = f"""
{kvstore} get {name}/key > {runs.path("read")} || exit 99
echo $$ > {runs.path("pid")}
while [ ! -e {runs.path("go")} ]; do sleep 0.05; done
{kvstore} put {name}/key 6; echo "$?" > {runs.path("code")}
{kvstore} get {name}/key; echo "$?" > {runs.path("late")}
{kvstore} get {name}/key --consistency weak > {runs.path("weak")}; touch {runs.path("done")}
"""
    run = runs.start(on_nodes, name, "--ttl", "1s", "--", "sh", "-c", script)
    runs.pid_of("pid")
    run.send_signal(signal.SIGSTOP)
    second = on_nodes("lock", "run", name, "--wait", "30s", "--", *kvstore_command(), "get", f"{name}/key")
    assert (second.code, second.out) == (0, b"5"), second.err
    Path(runs.path("go")).touch()
    wait_until(lambda: Path(runs.path("done")).exists(), "the late command")
    codes = [Path(runs.path(file)).read_text() for file in ("code", "late")]
    assert codes == ["4\n", "4\n"]
    assert [Path(runs.path(file)).read_bytes() for file in ("read", "weak")] == [b"5", b"5"]
    run.send_signal(signal.SIGCONT)
    run.wait(30)


def test_a_command_is_ended_before_its_lease_when_no_node_can_be_asked(tmp_path: Path, runs: Runs) -> None:
    with ClusterHarness(tmp_path / "nodes", nodes=1) as cluster:
        run = runs.start(
            Cli(cluster.endpoints), "l", "--ttl", "3s", "--", "sh", "-c", f"echo $$ > {runs.path('pid')}; exec sleep 60"
        )
        child = runs.pid_of("pid")
        cluster.kill("n1")
        began = time.monotonic()
        assert run.wait(60) == 4
        assert not is_running(child)
        assert time.monotonic() - began < 3.0 + 10.0  # the lease, and the time that nobody waits longer for the release
        assert run.stderr is not None
        assert "could not be renewed" in run.stderr.read().decode()


# -- at a terminal --------------------------------------------------------------------------------------------------


class Terminal:
    """A program in the foreground of a terminal of its own. A context manager."""

    def __init__(self, cli: Cli, *command: str) -> None:
        self.pid, self._keys = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execvpe(command[0], command, cli.environment())
        self.shown = ""
        self._is_reaped = False

    def wait_for(self, text: str) -> None:
        """Reads until the text is shown, or the terminal is closed."""
        while text not in self.shown:
            try:
                self.shown += os.read(self._keys, 4096).decode()
            except OSError:
                break
        assert text in self.shown, self.shown

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._keys)  # hangs up, which ends all in its foreground
        if not self._is_reaped:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def press(self, keys: bytes) -> None:
        """Types."""
        os.write(self._keys, keys)

    def end(self) -> int:
        """Reads to the end; the exit code."""
        while True:
            try:
                self.shown += os.read(self._keys, 4096).decode()
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        self._is_reaped = True
        return os.waitstatus_to_exitcode(status)


HEEDS_CTRL_C = """
import os, signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(os.write(1, b"heard ")))  # print() may be interrupted in the midst
os.write(1, b"ready ")
while not heard:
    time.sleep(0.01)
time.sleep(0.5)  # for a second one, which must not come
sys.exit(5)
"""


def test_ctrl_c_reaches_the_command_once_and_the_script_around_it(on_nodes: Cli, name: str, tmp_path: Path) -> None:
    (tmp_path / "heeds.py").write_text(HEEDS_CTRL_C)
    run = " ".join(kvstore_command("lock", "run", name, "--", sys.executable, str(tmp_path / "heeds.py")))
    with Terminal(on_nodes, "sh", "-c", f"trap 'echo around' INT; {run}; echo code $?") as terminal:
        terminal.wait_for("ready")
        terminal.press(b"\x03")
        terminal.end()
    assert terminal.shown.count("heard") == 1
    assert terminal.shown.count("around") == 1
    assert "code 5" in terminal.shown
    assert on_nodes("lock", "show", name).code == 3


def test_a_signal_from_elsewhere_is_passed_on_at_a_terminal_too(on_nodes: Cli, name: str, tmp_path: Path) -> None:
    (tmp_path / "heeds.py").write_text(HEEDS_CTRL_C)
    run = kvstore_command("lock", "run", name, "--", sys.executable, str(tmp_path / "heeds.py"))
    with Terminal(on_nodes, *run) as terminal:
        terminal.wait_for("ready")
        os.kill(terminal.pid, signal.SIGINT)
        assert terminal.end() == 5
    assert terminal.shown.count("heard") == 1


def test_a_lost_lock_ends_all_at_a_terminal_too(on_nodes: Cli, name: str, tmp_path: Path) -> None:
    """There the command has no process group of its own."""
    script = tmp_path / "starts.sh"
    script.write_text("(trap '' TERM INT; while :; do sleep 0.05; done) & echo pid $! ; echo ready; wait")
    with Terminal(on_nodes, *kvstore_command("lock", "run", name, "--ttl", "1s", "--", "sh", str(script))) as terminal:
        terminal.wait_for("ready")
        grandchild = int(terminal.shown.partition("pid ")[2].split()[0])
        os.kill(terminal.pid, signal.SIGSTOP)
        assert on_nodes("lock", "acquire", name, "--wait", "30s").code == 0
        os.kill(terminal.pid, signal.SIGCONT)
        assert terminal.end() == 4
        assert not is_running(grandchild)


def test_a_command_at_a_terminal_can_read_what_is_typed(on_nodes: Cli, name: str) -> None:
    run = kvstore_command("lock", "run", name, "--", "sh", "-c", "echo ask; read a; echo got $a")
    with Terminal(on_nodes, *run) as terminal:
        terminal.wait_for("ask")
        terminal.press(b"answer\n")
        assert terminal.end() == 0
    assert "got answer" in terminal.shown


def test_a_lock_is_a_table_at_a_terminal(on_nodes: Cli, name: str) -> None:
    with Terminal(on_nodes, *kvstore_command("lock", "acquire", name, "--owner", "me")) as terminal:
        assert terminal.end() == 0
    assert [line.split() for line in terminal.shown.splitlines()][:2] == [["name", name], ["owner", "me"]]
