"""kvstore: nodes of `kvstore dev` with its defaults, none of which is started again when it dies."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter
from pathlib import Path

import psutil

from loadtests.cases.results import KVSTORE
from loadtests.cases.sides.side import Member
from loadtests.runner.cluster import LoadCluster

ASKED_FOR = (404, 412)
"""What cases ask for: keys that are not there, conditions that don't hold."""
LINES_MAX = 5
"""Of a node's log, that are told."""
_SUSPICIOUS = re.compile(
    r"Traceback \(most recent|\[(error|critical) *\]|\"level\": ?\"(error|critical)\"", re.IGNORECASE
)
_ANSWERS = re.compile(r'kvstore_requests_total\{level="(\w*)",method="(\w+)",status="(\d+)"\} ([\d.e+]+)')


class Kvstore:
    """A fresh cluster of so many nodes."""

    name = KVSTORE

    def __init__(self, nodes: int, base_port: int) -> None:
        self._cluster = LoadCluster("never", base_port, nodes)
        self.members: list[Member] = []
        self._killed: set[str] = set()

    def __enter__(self) -> Kvstore:
        self._cluster.__enter__()
        for number, name in enumerate(self._cluster.names):
            pid = self._cluster.pid(name)
            assert pid is not None, "ready a moment ago"
            folder = self._cluster.data / name
            self.members.append(Member(name, "127.0.0.1", self._cluster.base_port + number, pid, folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.__exit__(None, None, None)

    def victim(self) -> Member:
        """The first: none of them is more than the others."""
        return self.members[0]

    def kill(self, member: Member) -> None:
        """SIGKILL; nobody starts it again."""
        self._killed.add(member.name)
        self._cluster.kill(member.name)

    def faults(self) -> list[str]:
        """Refusals that no case asks for, deaths that nobody asked for, errors in the logs."""
        found = [f"{count:,.0f} answers {what}" for what, count in self._answers().items()]
        for member in self.members:
            if member.name not in self._killed and not psutil.pid_exists(member.pid):
                found.append(f"{member.name} died by itself")
            found += [f"{member.name}'s log: {line}" for line in _suspicious_lines(member.folder / "node.log")]
        return found

    def _answers(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for member in self.members:
            try:
                with urllib.request.urlopen(f"http://{member.host}:{member.port}/metrics", timeout=5) as answer:
                    text = answer.read().decode()
            except OSError:
                continue
            for level, method, status, count in _ANSWERS.findall(text):
                if level and int(status) >= 400 and int(status) not in ASKED_FOR:
                    counts[f"{status} to {method} ({level})"] += round(float(count))
        return counts


def _suspicious_lines(log: Path) -> list[str]:
    if not log.exists():
        return []
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if _SUSPICIOUS.search(line)]
    return lines[:LINES_MAX] + ([f"and {len(lines) - LINES_MAX} more lines"] if len(lines) > LINES_MAX else [])
