"""etcd: members on this machine with its default durability, reached over the JSON gateway of each.

Its room for data is set to 8 GiB, since the default, 2 GiB, would end the runs with large values.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from kvstore.node_process import dying_with
from loadtests.cases.results import ETCD
from loadtests.cases.sides.ports import ETCD_OFFSET, ETCD_PEER_OFFSET
from loadtests.cases.sides.side import Member

READY_S_MAX = 30.0
QUOTA_BYTES = 8 << 30


class Etcd:
    """A fresh cluster of so many members."""

    name = ETCD

    def __init__(self, members: int, base_port: int) -> None:
        self._count = members
        self._base_port = base_port
        self.members: list[Member] = []
        self._killed: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Etcd:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="kvstore-cases-etcd-")))
        try:
            for number in range(self._count):
                self.members.append(self._start(folder, number))
            until_s = time.monotonic() + READY_S_MAX
            for member in self.members:
                _wait_until_healthy(member, until_s)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def victim(self) -> Member:
        """The leader. Raises RuntimeError where none is known."""
        for member in self.members:
            status = _ask(member, "/v3/maintenance/status")
            if status["header"]["member_id"] == status.get("leader"):
                return member
        raise RuntimeError("no member of etcd says that it leads")

    def kill(self, member: Member) -> None:
        """SIGKILL; nobody starts it again."""
        self._killed.add(member.name)
        os.kill(member.pid, signal.SIGKILL)

    def faults(self) -> list[str]:
        """Deaths that nobody asked for."""
        found = []
        for member in self.members:
            is_gone = not psutil.pid_exists(member.pid) or psutil.Process(member.pid).status() == psutil.STATUS_ZOMBIE
            if is_gone and member.name not in self._killed:
                found.append(f"etcd's {member.name} died by itself")
        return found

    def _start(self, folder: Path, number: int) -> Member:
        name, port, peer = f"m{number + 1}", self._base_port + ETCD_OFFSET + number, self._peer(number)
        everyone = ",".join(f"m{other + 1}=http://127.0.0.1:{self._peer(other)}" for other in range(self._count))
        own, theirs = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
        command = ["etcd", "--name", name, "--data-dir", str(folder / name), "--logger", "zap", "--log-level", "error",
                   "--listen-client-urls", own, "--advertise-client-urls", own,
                   "--listen-peer-urls", theirs, "--initial-advertise-peer-urls", theirs,
                   "--initial-cluster", everyone, "--initial-cluster-state", "new",
                   "--quota-backend-bytes", str(QUOTA_BYTES)]  # fmt: skip
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=dying_with(os.getpid()),  # noqa: PLW1509 - no thread runs yet
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)  # nothing of it is kept
        return Member(name, "127.0.0.1", port, process.pid, folder / name)

    def _peer(self, number: int) -> int:
        return self._base_port + ETCD_PEER_OFFSET + number


def _ask(member: Member, path: str) -> dict[str, Any]:
    request = urllib.request.Request(f"http://{member.host}:{member.port}{path}", data=b"{}", method="POST")
    with urllib.request.urlopen(request, timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _wait_until_healthy(member: Member, until_s: float) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"http://{member.host}:{member.port}/health", timeout=2) as answer:
                if b'"true"' in answer.read():
                    return
        except OSError:
            pass
        if time.monotonic() > until_s:
            raise RuntimeError(f"etcd's {member.name} was not healthy within {READY_S_MAX:g} s")
        time.sleep(0.1)
