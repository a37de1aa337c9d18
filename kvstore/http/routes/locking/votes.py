"""/v1/votes/{name}: of several proposals one wins, once and for ever, and everyone is told the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiohttp.web_request import BaseRequest
from msgspec import Raw

from cluster.locks.vote import Decision, Voted
from kvstore.http.incoming.key_path import decode_name
from kvstore.http.incoming.lock_bodies import VOTE_BODY_BYTES_MAX, parse_proposal
from kvstore.http.outgoing.answer import Answer
from kvstore.http.outgoing.lock_outcomes import PROPOSE_UNKNOWN, change_problem, look_problem
from kvstore.http.outgoing.problems import Problem
from kvstore.http.routes.locking.leases import counted, json_answer, read_json, require_answerable, require_sendable
from kvstore.http.routes.service import Service


class Votes:
    """Decisions that are made once."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._metrics = service.metrics
        self._parameters = service.parameters.vote

    async def propose(self, request: BaseRequest, raw_name: str, query: str) -> Answer:
        """POST: 201 where this proposal decided the vote, 200 where it was decided before."""
        with counted(self._metrics, "propose"):
            require_sendable(request)
            name, choice = decode_name(raw_name), self._parameters.parse(query, self._service.view.n)
            proposal = await read_json(self._service, request, VOTE_BODY_BYTES_MAX, parse_proposal)
            outcome = await self._service.locks.propose(name, proposal, choice.timeout_s)
            if not isinstance(outcome, Voted):
                raise change_problem(outcome, PROPOSE_UNKNOWN)
            return json_answer(201 if outcome.is_new else 200, _decided(name, outcome.decision))

    async def decision(self, request: BaseRequest, raw_name: str, query: str) -> Answer:
        """GET and HEAD."""
        with counted(self._metrics, "decision"):
            require_answerable(request)
            name, choice = decode_name(raw_name), self._parameters.parse(query, self._service.view.n)
            outcome = await self._service.locks.decision(name, choice.timeout_s)
            if outcome is None:
                raise Problem("not-found", "The vote is not decided yet: nobody has proposed anything.", outcome="none")
            if not isinstance(outcome, Decision):
                raise look_problem(outcome)
            return json_answer(200, _decided(name, outcome))


def rfc3339(unix_ms: int) -> str:
    """The moment in UTC, with its milliseconds."""
    seconds, ms = divmod(unix_ms, 1_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03}Z"


def _decided(name: str, decision: Decision) -> dict[str, Any]:
    winner = decision.winner
    return {
        "name": name,
        "winner": winner.candidate,
        "candidate": winner.candidate,
        "value": Raw(winner.value),
        "decided_at": rfc3339(decision.decided_ms),
    }
