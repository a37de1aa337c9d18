"""Real `kvstore serve` processes for tests: started on free ports, killed, stopped and started again by their pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from kvstore.node_process import dying_with
from kvstore.readiness import unready_because
from tests.cluster.ports import BLOCK, PortBlock

READY_TIMEOUT_S = 60.0
"""Generous: other tests share the machine, and time never decides a test."""
LOG_LINES = 30


class NotInTime(AssertionError):
    """A condition did not come true while a test waited for it."""


def wait_until(
    condition: Callable[[], object], what: str, timeout_s: float = READY_TIMEOUT_S, interval_s: float = 0.02
) -> None:
    """Waits until the condition is true. Raises NotInTime, naming what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise NotInTime(f"waited {timeout_s:g} s in vain for: {what}")
        time.sleep(interval_s)


def kvstore_command(*arguments: str) -> list[str]:
    """The command line of the program under test."""
    return [sys.executable, "-P", "-m", "cli", *arguments]


def clean_environment(**more: str) -> dict[str, str]:
    """Ours, without any KVSTORE_ variable of the person who runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KVSTORE_")} | more


def is_running(pid: int) -> bool:
    """Whether a process with this id runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


class ClusterHarness:
    """Nodes n1, n2, ... of one cluster. A context manager; start() and stop() work without `with`, too.

    `flags` go to every node and `node_flags` to the one of that name, `environment` is added to theirs and
    `node_environment` to that of the one of that name; all may be changed before a restart.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 3,
        *,
        replicas: int = 3,
        zones: Sequence[str] = (),
        flags: Sequence[str] = (),
        node_flags: Mapping[str, Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.flags = list(flags)
        self.node_flags = dict(node_flags or {})
        self.environment = dict(environment or {})
        self.node_environment: dict[str, dict[str, str]] = {}
        self._replicas = replicas
        self._zones = dict(zip(self.names, zones, strict=True)) if zones else {}
        self._ports = PortBlock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> ClusterHarness:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.logs(), file=sys.stderr)
        self.close()

    def start(self) -> None:
        """Starts every node and waits until all are ready."""
        try:
            for name in self.names:
                self.spawn(name)
            self.wait_ready()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kills what still runs and gives the ports back."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._ports.release()

    # -- where things are --------------------------------------------------------------------------------------

    def http_address(self, name: str) -> str:
        """HOST:PORT where applications reach it."""
        return f"127.0.0.1:{self._ports.base + self.names.index(name)}"

    def peer_address(self, name: str) -> str:
        """HOST:PORT where the other nodes reach it."""
        return f"127.0.0.1:{self._ports.base + BLOCK // 2 + self.names.index(name)}"

    def url(self, name: str, path: str = "") -> str:
        """The node's HTTP address with a path behind it."""
        return f"http://{self.http_address(name)}{path}"

    @property
    def endpoints(self) -> list[str]:
        """All HTTP addresses, in order."""
        return [self.url(name) for name in self.names]

    def others(self, *names: str) -> list[str]:
        """All nodes but these."""
        return [name for name in self.names if name not in names]

    def data(self, name: str) -> Path:
        """The node's data folder."""
        return self.folder / name

    def exit_code(self, name: str, timeout_s: float = READY_TIMEOUT_S) -> int:
        """Waits for the node to end by itself."""
        return self._processes[name].wait(timeout_s)

    def pid(self, name: str) -> int:
        """The id of its latest process."""
        return self._processes[name].pid

    # -- what happens to nodes ---------------------------------------------------------------------------------

    def spawn(self, name: str) -> None:
        """Starts one node and does not wait for it."""
        self.data(name).mkdir(parents=True, exist_ok=True)
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                kvstore_command("serve", *self._arguments(name)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(**self.environment, **self.node_environment.get(name, {})),
                preexec_fn=dying_with(os.getpid()),  # noqa: PLW1509 - tests start nodes from the main thread
            )

    def wait_ready(self, *names: str) -> None:
        """Waits until these nodes, or all, are ready. Fails at once when one of them has ended."""
        for name in names or self.names:
            try:
                wait_until(lambda name=name: self._is_ready(name), f"{name} to be ready")  # type: ignore[misc]
            except NotInTime as error:
                raise NotInTime(f"{error}\n{self.logs()}") from None

    def kill(self, *names: str) -> None:
        """SIGKILL, to all of these at the same moment: what a power cut is to a process."""
        for name in names:
            self._processes[name].kill()
        for name in names:
            self._processes[name].wait()

    def terminate(self, name: str, timeout_s: float = 30.0) -> int:
        """SIGTERM, and the exit code of the drained node."""
        self._processes[name].terminate()
        return self._processes[name].wait(timeout_s)

    def restart(self, name: str) -> None:
        """Starts a node that has ended, on its data and ports, and waits until it is ready."""
        self.spawn(name)
        self.wait_ready(name)

    def stop(self, name: str) -> None:
        """SIGSTOP: it holds its connections and says nothing."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def cont(self, name: str) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        self._processes[name].send_signal(signal.SIGCONT)

    # -- logs --------------------------------------------------------------------------------------------------

    def log(self, name: str) -> str:
        """All that the node wrote to its log."""
        path = self._log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def logs(self) -> str:
        """The last lines of every node's log, for people who read a failure."""
        return "\n".join(
            f"--- {name} ---\n" + "\n".join(self.log(name).splitlines()[-LOG_LINES:]) for name in self.names
        )

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _arguments(self, name: str) -> list[str]:
        members = ",".join(self._member(member) for member in self.names)
        return [
            *("--name", name, "--data", str(self.data(name))),
            *("--http", self.http_address(name), "--peer", self.peer_address(name)),
            *("--members", members, "--replicas", str(self._replicas)),
            *self.flags,
            *self.node_flags.get(name, ()),
        ]

    def _member(self, name: str) -> str:
        zone = self._zones.get(name)
        return f"{name}={self.peer_address(name)}" + (f"@{zone}" if zone else "")

    def _is_ready(self, name: str) -> bool:
        code = self._processes[name].poll()
        assert code is None, f"{name} ended with {code} instead of becoming ready\n{self.logs()}"
        host, _, port = self.http_address(name).partition(":")
        return unready_because(host, int(port)) is None
