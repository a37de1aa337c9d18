"""A small honest HTTP client for tests: one kept connection to one node, and every answer as it came."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import quote, urlencode

from tests.cluster.harness import wait_until

GOES_ON_WITHIN_S = 10.0
"""For one key, retries included, after a node's death: well above what it takes, so that only a hang fails."""
ANSWER_TIMEOUT_S = 30.0
"""Far above any request's own timeout: a node that keeps silent this long has broken its word."""
_MEMBER = re.compile(r'([a-z]+)=(?:"([^"]*)"|([^,]+))')


class NoAnswer(Exception):
    """No whole answer came. `sent` tells whether the node may have seen the request."""

    def __init__(self, sent: bool, cause: BaseException) -> None:
        super().__init__(f"{'sent, but ' if sent else ''}{type(cause).__name__}: {cause}")
        self.sent = sent


@dataclass(frozen=True)
class Answer:
    """What a node said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The problem's code."""
        return str(self.json()["code"])

    @property
    def version(self) -> str:
        """The version in its ETag or, where it has none, in its write receipt."""
        return self.headers["etag"].strip('"') if "etag" in self.headers else str(self.json()["version"])

    @property
    def receipt(self) -> dict[str, str]:
        """The members of KV-Receipt."""
        return {name: quoted or plain for name, quoted, plain in _MEMBER.findall(self.headers["kv-receipt"])}

    @property
    def replicas(self) -> list[str]:
        """The replicas that stood behind it, by its receipt."""
        return self.receipt["replicas"].split()

    def __str__(self) -> str:
        return f"{self.status} {self.body[:500]!r} receipt {self.headers.get('kv-receipt')}"


class Client:
    """One connection to the node at HOST:PORT, opened when needed. Not for several threads."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER_TIMEOUT_S)

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Sends one request and reads its answer. Raises NoAnswer."""
        try:
            if self._connection.sock is None:
                self._connection.connect()
        except OSError as error:
            raise NoAnswer(False, error) from error
        try:
            self._connection.request(method, path, body, dict(headers or {}))
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise NoAnswer(True, error) from error
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)

    def get(self, key: str, **query: str | int) -> Answer:
        """Reads a key."""
        return self.call("GET", kv_path(key, **query))

    def put(self, key: str, value: bytes, headers: Mapping[str, str] | None = None, **query: str | int) -> Answer:
        """Writes a key."""
        return self.call("PUT", kv_path(key, **query), value, headers)

    def delete(self, key: str, headers: Mapping[str, str] | None = None, **query: str | int) -> Answer:
        """Deletes a key."""
        return self.call("DELETE", kv_path(key, **query), headers=headers)

    def page(self, **query: str | int) -> Answer:
        """One page of the listing."""
        return self.call("GET", "/v1/kv?" + urlencode(query))

    def placement(self, key: str, **query: str) -> dict[str, Any]:
        """The replica set of a key, as this node sees it."""
        answer = self.call("GET", "/v1/cluster/partitions?" + urlencode({"key": key, **query}))
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json()
        return found

    def replicas(self, key: str) -> list[str]:
        """The names of the nodes that hold the key, in order of preference."""
        return [replica["name"] for replica in self.placement(key)["replicas"]]

    def held(self, key: str) -> list[str | None]:
        """The version that each replica of the key holds."""
        return [replica["version"] for replica in self.placement(key, versions="true", timeout="1s")["replicas"]]

    def states(self) -> dict[str, str]:
        """How this node sees each member."""
        return {member["name"]: member["state"] for member in self.call("GET", "/v1/cluster").json()["members"]}

    def close(self) -> None:
        """Closes the connection; the next call opens another."""
        self._connection.close()


def kv_path(key: str, **query: str | int) -> str:
    """The path and query of a key."""
    return f"/v1/kv/{quote(key, safe='/')}" + (f"?{urlencode(query)}" if query else "")


def if_match(version: str) -> dict[str, str]:
    """The header of a compare-and-set on this version."""
    return {"If-Match": f'"{version}"'}


CREATE = {"If-None-Match": "*"}
"""The header of a write that wants to be the key's first."""


def until_ok(ask: Callable[[], Answer], timeout_s: float = GOES_ON_WITHIN_S) -> Answer:
    """Asks again for as long as the answer is an honest 503 or 504."""
    answers: list[Answer] = []

    def is_ok() -> bool:
        answers.append(ask())
        assert answers[-1].status in {200, 503, 504}, answers[-1]
        return answers[-1].status == 200

    wait_until(is_ok, "a 200", timeout_s)
    return answers[-1]


def see_all(clients: Mapping[str, Client]) -> None:
    """Waits until every node sees every member alive."""
    for name, client in clients.items():
        wait_until(
            lambda client=client: set(client.states().values()) <= {"self", "alive"},  # type: ignore[misc]
            f"{name} to see all members",
        )


def led_by(client: Client, name: str, prefix: str) -> str:
    """A key below the prefix whose primary is the node of that name."""
    return next(key for number in count() if client.placement(key := f"{prefix}/{number}")["primary"] == name)
