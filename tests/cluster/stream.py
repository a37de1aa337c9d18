"""Streams of writes that go on while nodes are killed and paused, and what their writers were told."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from tests.cluster.client import Answer, Client, NoAnswer, kv_path, until_ok
from tests.cluster.harness import wait_until

REQUEST_TIMEOUT = "2s"
PAUSE_S = 0.02
"""After a write that was not acknowledged, so that a writer whose nodes are all dead does not spin."""


@dataclass
class Told:
    """What the only writer of one key was told of its writes, each with a value of its own."""

    key: str
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    """Version -> value."""
    last: bytes | None = None
    """The value that was acknowledged last."""
    unknown: set[bytes] = field(default_factory=set)
    refused: set[bytes] = field(default_factory=set)
    strange: list[str] = field(default_factory=list)
    """Answers that no fault excuses."""

    def note(self, value: bytes, answer: Answer) -> None:
        """Takes down one answer."""
        if answer.status == 200:
            self.acknowledged[answer.version] = value
            self.last = value
        elif answer.status == 504 and answer.json()["outcome"] == "unknown":
            self.unknown.add(value)
        elif answer.status == 503 and answer.json()["outcome"] == "not-applied":
            self.refused.add(value)
        else:
            self.strange.append(str(answer))

    def may_be_read(self, value: bytes) -> bool:
        """Whether a strong read may find this value once the writer of strong writes has ended."""
        return value == self.last or value in self.unknown

    @property
    def newest(self) -> str:
        """The highest version that was acknowledged."""
        return max(self.acknowledged, default="")


class Stream:
    """One writer per key, each writing without end, each time through the next node. A context manager."""

    def __init__(self, addresses: Sequence[str], keys: Iterable[str], **query: str | int) -> None:
        self._addresses, self._query = addresses, {"timeout": REQUEST_TIMEOUT, **query}
        self._over = threading.Event()
        self.told = {key: Told(key) for key in keys}
        self._threads = [
            threading.Thread(target=self._write, args=(told, number), daemon=True)
            for number, told in enumerate(self.told.values())
        ]

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_acknowledged(self, count: int) -> None:
        """Waits until every writer has had that many more writes acknowledged."""
        goals = {key: len(told.acknowledged) + count for key, told in self.told.items()}
        wait_until(
            lambda: all(len(self.told[key].acknowledged) >= goal for key, goal in goals.items()),
            f"{count} more acknowledged writes on each of {', '.join(goals)}",
        )

    def _write(self, told: Told, first: int) -> None:
        clients = [Client(address) for address in self._addresses]
        for number in itertools.count():
            if self._over.is_set():
                break
            value = f"{told.key} #{number}".encode()
            try:
                answer = clients[(first + number) % len(clients)].call("PUT", kv_path(told.key, **self._query), value)
            except NoAnswer as error:
                (told.unknown if error.sent else told.refused).add(value)
                self._over.wait(PAUSE_S)
                continue
            told.note(value, answer)
            if answer.status != 200:
                self._over.wait(PAUSE_S)
        for client in clients:
            client.close()


def check_strong(client: Client, told: Told) -> None:
    """A strong read through this node shows what was acknowledged last, or what nobody knows of; nothing refused."""
    assert not told.strange, told.strange[0]
    read = until_ok(lambda: client.get(told.key))
    assert told.may_be_read(read.body), (read.body, told.last, sorted(told.unknown)[-3:])
    assert read.body not in told.refused
    assert read.version >= told.newest


def check_weak(client: Client, told: Told) -> None:
    """The newest of what all replicas hold is nothing older than what was acknowledged."""
    assert not told.strange, told.strange[0]
    read = until_ok(lambda: client.get(told.key, consistency="weak", r="all"))
    assert read.version >= told.newest, (told.key, read.version, told.newest, read.body, told.last)
    assert read.body == told.acknowledged.get(read.version, read.body)
    assert read.body not in told.refused
