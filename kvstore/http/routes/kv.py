"""/v1/kv/{key}: the hot path. Each line here is paid for by every request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp.web_request import BaseRequest

from cluster.levels import Level
from cluster.requests import (
    Condition,
    FencedReadOutcome,
    Found,
    ReadRequest,
    WriteOutcome,
    WriteRequest,
    Written,
)
from kvstore.http.head import Head, StraightHead
from kvstore.http.incoming.body import Content
from kvstore.http.incoming.conditions import ReadCondition, fence_of, read_condition, write_condition
from kvstore.http.incoming.key_path import decode_key
from kvstore.http.incoming.media import DEFAULT, refuse_encoding, require_acceptable, stored_type
from kvstore.http.incoming.parameters import Choice, Parameters
from kvstore.http.outgoing.answer import JSON, NOSNIFF, Answer, http_date
from kvstore.http.outgoing.outcomes import read_problem, write_problem
from kvstore.http.outgoing.problems import Problem
from kvstore.http.outgoing.receipts import HINTED, age, expires_in_s, receipt, receipt_of_refusal
from kvstore.http.routes.service import Service
from storage.ballot import unix_ms_of, version_text
from storage.record import Record

_SANDBOX = "Content-Security-Policy: sandbox\r\n"
"""A stored page must not run scripts as this origin, should somebody open it in a browser."""

_encode = msgspec.json.Encoder().encode

Parsed = dict[Any, Any]
Respond = Callable[..., None]
"""Called once with a function that makes the answer, or raises Problem, and its arguments."""


class WriteReceipt(msgspec.Struct, gc=False):
    """The body of a successful write's answer."""

    key: str
    version: str
    consistency: str
    acks: int
    """Replicas that had it on disk when the answer was sent."""
    replicas: int


class KeyValue:
    """One key at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._backend = service.backend
        self._view = service.view
        self._reads = service.parameters.read
        self._puts = service.parameters.put
        self._deletes = service.parameters.delete

    async def get(self, request: BaseRequest, raw_key: str, query: str) -> Answer:
        """GET and HEAD."""
        wanted, condition = self._read(request, raw_key, query)
        return self._told(request, wanted, condition, await self._backend.read(wanted))

    def begin_get(self, head: StraightHead, raw_key: str, query: str, content: Content, respond: Respond) -> None:
        """The same without a task, for a read without a fence."""
        wanted, condition = self._read(head, raw_key, query, head.parsed)
        self._backend.begin_read(wanted, lambda outcome: respond(self._told, head, wanted, condition, outcome))

    async def put(self, request: BaseRequest, raw_key: str, query: str) -> Answer:
        """PUT."""
        try:
            given = self._put(request, raw_key, query)
            body = await self._service.bodies.read(request, self._service.value_bytes_max)
        except Problem as problem:
            raise self._refused(problem, self._puts, query) from None
        try:
            wanted = given.with_value(body)
            return self._written(wanted, await self._backend.write(wanted))
        finally:
            self._service.bodies.done(body)

    def begin_put(self, head: StraightHead, raw_key: str, query: str, content: Content, respond: Respond) -> None:
        """The same without a task, for a write without a fence whose body is here."""
        bodies = self._service.bodies
        try:
            given = self._put(head, raw_key, query, head.parsed)
            body = bodies.take_whole(content, self._service.value_bytes_max)
        except Problem as problem:
            raise self._refused(problem, self._puts, query) from None
        wanted = given.with_value(body)
        is_held = True

        def release() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                bodies.done(body)

        def ended(outcome: WriteOutcome) -> None:
            release()
            respond(self._written, wanted, outcome)

        try:
            self._backend.begin_write(wanted, ended)
        except BaseException:
            release()
            raise

    async def delete(self, request: BaseRequest, raw_key: str, query: str) -> Answer:
        """DELETE."""
        try:
            key = decode_key(raw_key)
            choice = self._deletes.parse(query, self._view.n)
            condition = self._write_condition(request, choice)
            fence = fence_of(request.headers, choice.level, is_read=False)
            body = await self._service.bodies.read(request, 0)
        except Problem as problem:
            raise self._refused(problem, self._deletes, query) from None
        self._service.bodies.done(body)
        wanted = WriteRequest(key, None, "", choice.level, choice.needed, choice.timeout_s, condition, 0, fence)
        return self._written(wanted, await self._backend.write(wanted))

    def _read(
        self, head: Head, raw_key: str, query: str, parsed: Parsed | None = None
    ) -> tuple[ReadRequest, ReadCondition | None]:
        """What is to be read. parsed: what was made of these headers before."""
        at = ("read", query, self._view.n)
        found = parsed.get(at) if parsed is not None else None
        try:
            key = decode_key(raw_key)
            if found is None:
                choice = self._reads.parse(query, self._view.n)
                condition = read_condition(head.headers)
                found = choice, condition, fence_of(head.headers, choice.level, is_read=True)
                if parsed is not None:
                    parsed[at] = found
        except Problem as problem:
            raise self._refused(problem, self._reads, query) from None
        choice, condition, fence = found
        return ReadRequest(key, choice.level, choice.needed, choice.timeout_s, fence), condition

    def _put(self, head: Head, raw_key: str, query: str, parsed: Parsed | None = None) -> WriteRequest:
        """All but the value. parsed: what was made of these headers before."""
        key = decode_key(raw_key)
        at = ("put", query, self._view.n)
        found = parsed.get(at) if parsed is not None else None
        if found is None:
            headers = head.headers
            choice = self._puts.parse(query, self._view.n)
            condition = self._write_condition(head, choice)
            fence = fence_of(headers, choice.level, is_read=False)
            refuse_encoding(headers)
            found = choice, condition, fence, stored_type(headers)
            if parsed is not None:
                parsed[at] = found
        choice, condition, fence, content_type = found
        return WriteRequest(
            key, b"", content_type, choice.level, choice.needed, choice.timeout_s, condition, choice.ttl_ms, fence
        )

    def _written(self, wanted: WriteRequest, outcome: WriteOutcome) -> Answer:
        level, needed, view = wanted.level, wanted.needed, self._view
        if not isinstance(outcome, Written):
            raise write_problem(view, level, needed, wanted.condition, outcome)
        version = version_text(outcome.version)
        told = receipt(view, level, needed, outcome.acks, outcome.replicas)
        if outcome.hinted:
            told += HINTED
        etag = "" if wanted.value is None else f'ETag: "{version}"\r\n'
        body = _encode(WriteReceipt(wanted.key.decode(), version, level, outcome.acks, view.n))
        return Answer(200, f"{etag}{JSON}KV-Receipt: {told}\r\n", body, level)

    def _write_condition(self, request: Head, choice: Choice) -> Condition:
        require_acceptable(request.headers, "application/json")
        return write_condition(request.headers, choice.level, request.method)

    def _told(
        self, request: Head, wanted: ReadRequest, condition: ReadCondition | None, found: FencedReadOutcome
    ) -> Answer:
        if not isinstance(found, Found):
            raise read_problem(self._view, wanted.level, wanted.needed, found, wanted.fence)
        record, level = found.record, wanted.level
        told = receipt(self._view, level, wanted.needed, found.acks, found.replicas)
        if record is not None and level is not Level.STRONG:
            told += age(unix_ms_of(record.origin), self._service.wall_ms())
        version = record.origin if record is not None and record.value is not None else None
        try:
            if condition is not None and not condition.is_met(version):
                raise _no_match(version)
            if record is None or record.value is None:
                raise Problem("not-found", "The key has no value.", outcome="none")
            if condition is not None and condition.is_unmodified(version):
                return Answer(304, f"{self._described(record)}KV-Receipt: {told}\r\n", b"", level)
            require_acceptable(request.headers, record.content_type)
        except Problem as problem:
            problem.receipt, problem.level = told, level
            raise
        sandbox = "" if record.content_type == DEFAULT else _SANDBOX
        headers = (
            f"{self._described(record)}Content-Type: {record.content_type}\r\n{sandbox}{NOSNIFF}KV-Receipt: {told}\r\n"
        )
        return Answer(200, headers, record.value, level)

    def _described(self, record: Record) -> str:
        """The header lines that name the version, and say how long it lasts."""
        etag = f'ETag: "{record.origin:016x}"\r\nLast-Modified: {http_date(unix_ms_of(record.origin) // 1000)}\r\n'
        left_s = expires_in_s(record, self._service.wall_ms()) if record.expires_at_ms else None
        return etag if left_s is None else f"{etag}KV-Expires-In: {left_s:.1f}\r\n"

    def _refused(self, problem: Problem, parameters: Parameters[Choice], query: str) -> Problem:
        level = parameters.level_of(query)
        problem.level = level or ""
        problem.receipt = receipt_of_refusal(self._view, level, None)
        return problem


def _no_match(version: int | None) -> Problem:
    shown = None if version is None else version_text(version)
    found = "has no value" if shown is None else f"has version {shown} now"
    return Problem("version-mismatch", f"The key {found}, which If-Match does not name.", outcome="none", version=shown)
