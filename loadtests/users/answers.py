"""What an answer says: its level, whether a write may be applied, and the name under which a failure is counted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from msgspec import Struct

LEVELS = ("eventual", "weak", "strong")
"""Each promises what those before it promise, and more."""
CONFLICTS = (409, 412)
RETRY_LATER = (429, 503)
_LEVEL = re.compile(r"(?:^|[,\s])consistency=(\w+)")


class Answer(Struct, frozen=True):
    """One answer, or the lack of it: status 0."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    error: BaseException | None = None

    @property
    def problem(self) -> dict[str, object]:
        """The problem object of a refusal; empty where there is none."""
        if self.status < 400:
            return {}
        try:
            fields = json.loads(self.body)
        except ValueError:
            return {}
        return fields if isinstance(fields, dict) else {}

    @property
    def was_not_sent(self) -> bool:
        """Nobody listened: surely nothing was applied."""
        return isinstance(self.error, ConnectionRefusedError)

    @property
    def is_not_applied(self) -> bool:
        """A write is surely not applied; silence and everything that does not say so prove nothing."""
        return self.was_not_sent or self.problem.get("outcome") == "not-applied"

    @property
    def version(self) -> str:
        """The ETag, or what the write receipt says; empty where neither is."""
        if tag := self.headers.get("etag", "").strip('"'):
            return tag
        try:
            return str(json.loads(self.body)["version"])
        except (ValueError, KeyError, TypeError):
            return ""

    @property
    def retry_after_s(self) -> float:
        """0 where it is not said."""
        try:
            return float(self.headers.get("retry-after", "0"))
        except ValueError:
            return 0.0


def failure_name(answer: Answer, method: str) -> str:
    """Under which name a failed request is counted: what happened, and what it means for a write."""
    if answer.was_not_sent:
        return "node away: nothing was sent"
    if answer.status == 0:
        return "connection lost or silent" + ("" if method == "GET" else ": a write may be applied")
    code = answer.problem.get("code", "")
    means = {"not-applied": "not applied", "unknown": "a write may be applied", "none": "nothing to apply"}
    outcome = means.get(str(answer.problem.get("outcome")), "")
    later = "try later" if answer.status in RETRY_LATER and "retry-after" in answer.headers else ""
    said = ", ".join(filter(None, (outcome, later)))
    return f"{answer.status} {code}".strip() + (f": {said}" if said else "")


def lower_level(answer: Answer, asked: str) -> str | None:
    """What is wrong with the level of the answer's receipt; None when it is the level asked for, or a higher one."""
    receipt = answer.headers.get("kv-receipt", "")
    told = _LEVEL.search(receipt)
    if told is None:
        return "no level in the answer: KV-Receipt is missing"
    if told[1] not in LEVELS or LEVELS.index(told[1]) < LEVELS.index(asked):
        return f"lower level than asked: {asked} was asked for, {told[1]} was given"
    return None
