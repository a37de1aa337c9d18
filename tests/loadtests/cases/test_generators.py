"""The generators as they are, in processes of their own, against a server of one answer."""

from __future__ import annotations

import base64
import json
import re

import pytest
from msgspec import structs

from loadtests.cases.load import wrk
from loadtests.cases.load.generator import Order
from loadtests.cases.load.open_loop import open_loop
from loadtests.cases.load.wrk import closed_loop
from loadtests.cases.results import ETCD, KVSTORE
from tests.loadtests.cases.stub_server import StubServer

needs_wrk = pytest.mark.skipif(not wrk.is_there(), reason="wrk is not installed")


def order(server: StubServer, rate: float, seconds: float, connections: int) -> Order:
    places = [(server.member.host, server.member.port)]
    return Order(KVSTORE, places, "put", rate, seconds, connections, 100, 20, 5.0)


def test_a_fixed_rate_is_kept_and_a_stall_is_charged_to_the_server() -> None:
    with StubServer(stalls_at=50, stall_s=1.0) as server:
        got = open_loop(order(server, rate=200.0, seconds=1.5, connections=8))

    assert got.requests == len(server.requests) == 300
    assert got.wrong == got.unanswered == 0
    assert got.max_ms >= 1_000  # who was asked at the stall's beginning
    assert got.p50_ms >= 200  # two of three requests were due in the stall, with eight connections to send them
    assert got.seconds >= 1.49


def test_who_loses_patience_counts_the_request_as_failed() -> None:
    with StubServer(stalls_at=5, stall_s=1.0) as server:
        plan = order(server, rate=20.0, seconds=1.0, connections=20)
        got = open_loop(structs.replace(plan, timeout_s=0.2, keeps_events=True))

    assert got.requests == len(got.events) == 20
    assert got.wrong >= 10
    assert got.seconds < plan.seconds + plan.patience_s  # it ends with the last request
    assert all(event.ended_s - event.intended_s >= 0.19 for event in got.events if not event.is_good)


@needs_wrk
def test_scripts_write_the_same_at_both_sides() -> None:
    with StubServer() as ours, StubServer() as theirs:
        for side, server in ((KVSTORE, ours), (ETCD, theirs)):
            found, _ = closed_loop("put", side, [server.member], 2, 1, {"KEYS": 1_234_567, "VALUE_BYTES": 256})
            assert found.wrong == 0
            assert 0 < found.requests <= len(server.requests)

    keys = [re.match(rb"PUT /v1/kv/(key\d{9}) HTTP", request) for request in ours.requests]
    assert all(keys)
    for request in theirs.requests:
        body = json.loads(request.partition(b"\r\n\r\n")[2])
        assert re.fullmatch(rb"key\d{9}", base64.b64decode(body["key"]))
        assert base64.b64decode(body["value"]) == ours.requests[0].partition(b"\r\n\r\n")[2] == b"x" * 256


@needs_wrk
@pytest.mark.parametrize("side", [KVSTORE, ETCD])
def test_cold_keys_are_written_once(side: str) -> None:
    with StubServer() as server:
        settings: dict[str, str | int] = {"KEYS": 1, "VALUE_BYTES": 3, "COLD": 1, "PREFIX": "ca1"}
        closed_loop("put", side, [server.member], 4, 1, settings, threads=2)

    bodies = [request.partition(b"\r\n\r\n") for request in server.requests]
    keys = [json.loads(body)["key"] if side == ETCD else head.split(b" ")[1] for head, _, body in bodies]
    assert len(keys) == len(set(keys)) > 100
