"""A fresh cluster of real processes, in a folder that goes with it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from cli.local.layout import Layout, busy_ports
from kvstore.node_process import dying_with
from kvstore.readiness import unready_because

READY_S_MAX = 60.0
END_S_MAX = 20.0
POLL_S = 0.05
BASE_PORTS = range(8_000, 10_000, 200)
"""Where free ports are looked for: a killed node must find its own again, so below those that the system deals out."""
LOCUST_OFFSET = 50
"""Workers meet their master on a port between those of the nodes for HTTP and those for peers."""


class NoCluster(Exception):
    """The cluster did not come up, or did not come back; it says why."""


class LoadCluster:
    """Nodes that `kvstore dev` runs, and starts again when they die. A context manager."""

    def __init__(self, restart_after: str, base_port: int | None = None, nodes: int = 3) -> None:
        """restart_after: a duration, or never. base_port: of the first node; any free one when not said."""
        self.base_port = base_port or _free_ports()
        self._folder = tempfile.TemporaryDirectory(prefix="kvstore-loadtest-")
        self._data = Path(self._folder.name) / "data"
        self._log = Path(self._folder.name) / "dev.log"
        self._restart_after = restart_after
        self._count = nodes

    def __enter__(self) -> LoadCluster:
        command = [sys.executable, "-m", "cli", "dev", "--data", str(self._data), "--base-port", str(self.base_port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--restart-after", self._restart_after, "--nodes", str(self._count)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("KVSTORE_")},
                process_group=0,  # Ctrl-C is for us; the nodes are ended in order, last
                preexec_fn=dying_with(os.getpid()),  # noqa: PLW1509 - nothing else runs yet
            )
        try:
            self._wait_until_up()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def data(self) -> Path:
        """The folder with a folder for each node."""
        return self._data

    @property
    def urls(self) -> list[str]:
        """Where applications reach the nodes."""
        return [node["http"] for node in self._nodes()]

    @property
    def names(self) -> list[str]:
        """n1, n2, n3."""
        return [node["name"] for node in self._nodes()]

    def kill(self, name: str) -> None:
        """SIGKILL to a node that runs; it is started again after a while. Raises NoCluster where none runs."""
        pid = self._node(name)["pid"]
        if pid is None:
            raise NoCluster(f"{name} does not run, so it can't be killed")
        os.kill(pid, signal.SIGKILL)

    def is_back(self, name: str, since_pid: int | None) -> bool:
        """Whether another process than that one runs in its place and is ready."""
        node = self._node(name)
        url = urlsplit(node["http"])
        is_new = node["pid"] is not None and node["pid"] != since_pid
        return is_new and unready_because(url.hostname or "", url.port or 0) is None

    def pid(self, name: str) -> int | None:
        """Of its latest process."""
        pid: int | None = self._node(name)["pid"]
        return pid

    @property
    def locust_port(self) -> int:
        """Where workers meet their master."""
        return self.base_port + LOCUST_OFFSET

    def save_logs(self, folder: Path) -> None:
        """Copies what the nodes and their supervisor logged, for people who want to know why."""
        folder.mkdir(exist_ok=True)
        shutil.copyfile(self._log, folder / "dev.log")
        for log in self._data.glob("*/node.log"):
            shutil.copyfile(log, folder / f"{log.parent.name}.log")

    def last_words(self) -> str:
        """The end of what `kvstore dev` said."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def _node(self, name: str) -> dict[str, Any]:
        return next(node for node in self._nodes() if node["name"] == name)

    def _nodes(self) -> list[dict[str, Any]]:
        try:
            nodes: list[dict[str, Any]] = json.loads((self._data / "cluster.json").read_text())["nodes"]
        except FileNotFoundError as error:
            raise NoCluster(f"the cluster ended by itself; it said:\n{self.last_words()}") from error
        return nodes

    def _wait_until_up(self) -> None:
        until_s = time.monotonic() + READY_S_MAX
        while not (self._data / "cluster.json").exists():
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise NoCluster(f"the cluster did not start; it said:\n{self.last_words()}")
            time.sleep(POLL_S)

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its nodes die with it
            self._process.wait()
        self._folder.cleanup()


def _free_ports() -> int:
    """The first of a block of free ports, a random one, so that two runs seldom meet. Raises NoCluster."""
    for base in random.Random().sample(BASE_PORTS, len(BASE_PORTS)):
        if not busy_ports(Layout(base_port=base)):
            return base
    raise NoCluster(f"no free ports from {BASE_PORTS.start} to {BASE_PORTS.stop}")
