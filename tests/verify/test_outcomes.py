"""What is written down of a call, when the server answers whatever it likes: `fail` only where nothing was done."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from kvstore.verify.history import History, Kind, Outcome, Recorder
from kvstore.verify.workloads.register import compare_and_set, put, read
from kvstore.verify.workloads.worker import Journal, Worker

TIMEOUT_S = 0.6
"""A refusal that may be tried again is, until then."""

Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answering(status: int, told: object, **headers: str) -> Reply:
    """An answer with a JSON body."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        body = json.dumps(told).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/problem+json"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return reply


def problem(status: int, code: str, outcome: str | None, **more: object) -> Reply:
    """A problem object as nodes send them; outcome None leaves that out, as a stranger's proxy would."""
    said = {"code": code, "status": status, "detail": "x", **more}
    return answering(status, said if outcome is None else {**said, "outcome": outcome})


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """The request was read, and no answer comes."""
    writer.close()


async def half_an_answer(writer: asyncio.StreamWriter) -> None:
    """The answer breaks off."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()


async def silence(writer: asyncio.StreamWriter) -> None:
    """The request was read, and nothing happens."""
    await asyncio.sleep(10 * TIMEOUT_S)


async def nonsense(writer: asyncio.StreamWriter) -> None:
    """What is no HTTP."""
    writer.write(b"\x00\x01\x02\r\n\r\n")
    await writer.drain()
    writer.close()


@asynccontextmanager
async def worker_of(reply: Reply) -> AsyncIterator[tuple[Worker, Recorder]]:
    """A worker whose only node answers like this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                for line in head.split(b"\r\n"):
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        await reader.readexactly(int(value))
                await reply(writer)
        except (OSError, EOFError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    recorder = Recorder(time.monotonic)
    journal = Journal(recorder, time.monotonic)
    worker = Worker(journal, "register", [f"http://{host}:{port}"], "n1", random.Random(1), TIMEOUT_S)
    await worker.open()
    try:
        yield worker, recorder
    finally:
        await worker.close()
        server.close()


async def outcome_of_put(reply: Reply) -> Outcome:
    """What is written down of a write that is answered so."""
    async with worker_of(reply) as (worker, recorder):
        process = worker.process
        told = await put(worker, "k", "1")
        only = recorder.history().operations[0]
        assert only.outcome is told.outcome
        assert (worker.process != process) == (told.outcome is Outcome.UNKNOWN), "an open call's process is used up"
        return told.outcome


WRITTEN = {"key": "k", "version": "01", "consistency": "strong", "acks": 2, "replicas": 3}


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        pytest.param(answering(200, WRITTEN), Outcome.OK, id="ok"),
        pytest.param(problem(412, "version-mismatch", "not-applied", version="02"), Outcome.CONFLICT, id="conflict"),
        pytest.param(problem(400, "bad-key", "not-applied"), Outcome.FAIL, id="refused"),
        pytest.param(problem(503, "quorum-unavailable", "not-applied"), Outcome.FAIL, id="too-few"),
        pytest.param(problem(507, "disk-full", "not-applied"), Outcome.FAIL, id="full"),
        pytest.param(problem(504, "outcome-unknown", "unknown"), Outcome.UNKNOWN, id="unknown"),
        pytest.param(problem(503, "quorum-unavailable", "unknown"), Outcome.UNKNOWN, id="code-and-outcome-differ"),
        pytest.param(problem(500, "internal", "unknown"), Outcome.UNKNOWN, id="internal"),
        pytest.param(problem(500, "internal", None), Outcome.UNKNOWN, id="internal-without-a-word"),
        pytest.param(problem(503, "status-503", None), Outcome.UNKNOWN, id="a-proxy-says-503"),
        pytest.param(problem(408, "status-408", None), Outcome.UNKNOWN, id="a-proxy-says-408"),
        pytest.param(problem(412, "status-412", None), Outcome.UNKNOWN, id="a-proxy-says-412"),
        pytest.param(answering(302, {}, Location="http://127.0.0.1:1/"), Outcome.UNKNOWN, id="redirected"),
        pytest.param(answering(200, {"hello": "world"}), Outcome.UNKNOWN, id="strange"),
        pytest.param(hang_up, Outcome.UNKNOWN, id="hangs-up"),
        pytest.param(half_an_answer, Outcome.UNKNOWN, id="half-an-answer"),
        pytest.param(silence, Outcome.UNKNOWN, id="silence"),
        pytest.param(nonsense, Outcome.UNKNOWN, id="nonsense"),
    ],
)
async def test_a_write_fails_only_where_it_is_proved(reply: Reply, outcome: Outcome) -> None:
    assert await outcome_of_put(reply) is outcome


@pytest.mark.parametrize(
    "reply",
    [problem(504, "timeout", "none"), problem(500, "internal", None), hang_up, half_an_answer, silence, nonsense],
    ids=["timeout", "internal", "hangs-up", "half", "silence", "nonsense"],
)
async def test_a_read_without_an_answer_fails_for_it_changes_nothing(reply: Reply) -> None:
    async with worker_of(reply) as (worker, recorder):
        process = worker.process
        told = await read(worker, "k")
        assert told.outcome is Outcome.FAIL
        assert worker.process == process
        assert len(recorder.history()) == 1


async def test_a_node_that_was_never_reached_did_nothing() -> None:
    journal = Journal(Recorder(time.monotonic), time.monotonic)
    worker = Worker(journal, "register", ["http://127.0.0.1:1"], "n1", random.Random(1), TIMEOUT_S)
    await worker.open()
    told = await put(worker, "k", "1")
    await worker.close()
    assert told.outcome is Outcome.FAIL
    assert journal.efforts[0].node == "n1"


async def test_a_conflict_says_what_was_there() -> None:
    async with worker_of(problem(412, "version-mismatch", "not-applied", version="0a")) as (worker, recorder):
        worker.memory["k"] = None
        told = await worker.call(Kind.CAS, "k", lambda: worker.client.compare_and_set("k", None, "2"), value="2")
        assert told.outcome is Outcome.CONFLICT
        assert recorder.history().operations[0].version == "0a"


async def test_a_cancelled_call_is_unknown() -> None:
    async with worker_of(silence) as (worker, recorder):
        process = worker.process
        task = asyncio.ensure_future(put(worker, "k", "1"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        history: History = recorder.history()
        assert history.operations[0].outcome is Outcome.UNKNOWN
        assert worker.process != process


async def test_what_was_seen_is_what_is_compared_with() -> None:
    async with worker_of(answering(200, WRITTEN, ETag='"01"')) as (worker, recorder):
        await read(worker, "k")
        worker.dice.random = lambda: 0.99  # type: ignore[method-assign]  # it does not look again
        await compare_and_set(worker, "k", "2")
        cas = recorder.history().operations[-1]
        assert cas.expected == json.dumps(WRITTEN)
