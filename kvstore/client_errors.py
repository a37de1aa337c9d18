"""What can go wrong between a client and the nodes, as the wire has it. Applications are told in kvstore/errors.py.

ClientError
├── NoNodeReachable    no node could be asked; nothing was applied
├── AnswerLost         a write was sent and its answer never came: it may be applied, now or later
└── Problem            a node answered with an error; its outcome says what became of the write
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ClientError(Exception):
    """The root of what can go wrong between this client and the nodes."""


class NoNodeReachable(ClientError):
    """No node could be asked; nothing was applied."""

    def __init__(self, message: str, failures: Sequence[str] = (), was_asked: bool = False) -> None:
        super().__init__(message)
        self.failures = tuple(failures)
        """`ENDPOINT: why`, for each that was tried."""
        self.was_asked = was_asked
        """Whether some node got the question, a read then, and did not answer."""


class AnswerLost(ClientError):
    """A write was sent and its answer never came: it may be applied, now or later."""


class Problem(ClientError):
    """A node answered with an error (problem+json, RFC 9457)."""

    def __init__(
        self, status: int, fields: Mapping[str, Any], headers: Mapping[str, str], endpoint: str | None = None
    ) -> None:
        code = str(fields.get("code") or f"status-{status}")
        detail = str(fields.get("detail") or fields.get("title") or "the node gave no reason")
        super().__init__(f"{detail} ({status} {code})")
        self.status = status
        self.code = code
        self.outcome = str(fields.get("outcome", "none"))
        """`not-applied`, `unknown`, or `none` for reads."""
        self.detail = detail
        self.fields = fields
        """All members of the problem object."""
        self.headers = headers
        """The answer's headers; they carry the receipt."""
        self.endpoint = endpoint
        """The node that said it."""
