"""GET /v1/kv: keys in byte order, a page at a time."""

from __future__ import annotations

import base64

import msgspec
from aiohttp.web_request import BaseRequest

from cluster.requests import Listed, ListRequest
from kvstore.http.incoming.conditions import refuse_fence
from kvstore.http.incoming.media import require_acceptable
from kvstore.http.incoming.parameters import ListChoice
from kvstore.http.outgoing.answer import JSON, Answer
from kvstore.http.outgoing.outcomes import read_problem
from kvstore.http.outgoing.problems import Problem
from kvstore.http.outgoing.receipts import expires_in_s, receipt, receipt_of_refusal
from kvstore.http.routes.service import Service
from storage.ballot import version_text
from storage.engine import ScanEntry
from storage.record import Record

Item = dict[str, str | int | float]


class Listing:
    """Pages of keys."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._parameters = service.parameters.listing

    async def get(self, request: BaseRequest, query: str, request_id: str) -> Answer:
        """GET and HEAD."""
        view = self._service.view
        try:
            refuse_fence(request.headers)
            require_acceptable(request.headers, "application/json")
            choice = self._parameters.parse(query, view.n)
        except Problem as problem:
            level = self._parameters.level_of(query)
            problem.level = level or ""
            problem.receipt = receipt_of_refusal(view, level, None)
            raise
        outcome = await self._service.backend.list(_request(choice))
        if not isinstance(outcome, Listed):
            raise read_problem(view, choice.level, choice.needed, outcome)
        told = receipt(view, choice.level, choice.needed, outcome.acks, outcome.replicas)
        body = msgspec.json.encode(_page(outcome, choice.values, self._service.wall_ms()))
        return Answer(200, f"{JSON}Cache-Control: no-store\r\nKV-Receipt: {told}\r\n", body, choice.level)


def expiry_members(record: Record, now_ms: int) -> dict[str, float]:
    """`expires_in`, in seconds, where the value has a time to live."""
    left_s = expires_in_s(record, now_ms)
    return {} if left_s is None else {"expires_in": left_s}


def value_members(value: bytes) -> dict[str, str]:
    """A value as JSON can carry it: `value` where it is text, `value_base64` where it is not."""
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode()}


def _request(choice: ListChoice) -> ListRequest:
    return ListRequest(
        choice.prefix, choice.after, choice.limit, choice.values, choice.level, choice.needed, choice.timeout_s
    )


def _page(listed: Listed, values: bool, now_ms: int) -> dict[str, list[Item] | str]:
    keys = [_item(entry, values, now_ms) for entry in listed.entries]
    if listed.next_after is None:
        return {"keys": keys}
    return {"keys": keys, "next": listed.next_after.decode()}


def _item(entry: ScanEntry, values: bool, now_ms: int) -> Item:
    record = entry.record
    item: Item = {
        "key": entry.key.decode(),
        "version": version_text(record.origin),
        "size": entry.size,
        "content_type": record.content_type,
        **expiry_members(record, now_ms),
    }
    if values and record.value is not None:
        item |= value_members(record.value)
    return item
