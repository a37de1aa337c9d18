"""What the clients send and how they read answers: both sides get the same keys and values."""

from __future__ import annotations

import base64
import json
from itertools import pairwise

import pytest

from loadtests.cases.load.filling import thinned
from loadtests.cases.load.work import batch_of, puts_done, random_requests
from loadtests.cases.load.wrk import round_of
from loadtests.cases.results import ETCD, KVSTORE
from loadtests.wire import is_good, is_whole

ANSWERS = {
    "by length": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_whole_at_its_last_byte_and_not_before(name: str) -> None:
    answer = ANSWERS[name]

    assert [is_whole(answer[:end]) for end in range(len(answer))] == [False] * len(answer)
    assert is_whole(answer)
    assert is_good(answer)


def test_a_refusal_is_not_good() -> None:
    assert not is_good(b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n")
    assert not is_good(b"")  # the connection broke


def body_of(request: bytes) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
    assert int(length.split(b" ")[1]) == len(body)
    return body


def test_both_sides_write_the_same_random_keys() -> None:
    ours, theirs = (random_requests(side, "put", 1_000, 255) for side in (KVSTORE, ETCD))
    for _ in range(50):
        request, body = ours(), json.loads(body_of(theirs()))
        key = request.split(b" ")[1].removeprefix(b"/v1/kv/")
        assert base64.b64decode(body["key"]) == key
        assert base64.b64decode(body["value"]) == body_of(request) == b"x" * 255


def test_both_sides_batch_the_same_keys() -> None:
    ours = json.loads(body_of(batch_of(KVSTORE, "put", 7, 100, 10)))["operations"]
    theirs = [one["request_put"] for one in json.loads(body_of(batch_of(ETCD, "put", 7, 100, 10)))["success"]]

    assert [one["key"] for one in ours] == [f"key{number:09d}" for number in range(7, 107)]
    assert [base64.b64decode(one["key"]).decode() for one in theirs] == [one["key"] for one in ours]
    assert {base64.b64decode(one["value"]).decode() for one in theirs} == {one["value"] for one in ours} == {"x" * 10}


def test_a_batch_is_done_as_far_as_its_results_say() -> None:
    answer = b'{"results":[{"status":200,"key":"a"},{"status":504,"key":"b"},{"status":200,"key":"c"}]}'

    assert puts_done(KVSTORE, answer) == 2
    assert puts_done(ETCD, b'{"responses":[{"response_put":{}},{"response_put":{}}]}') == 2


def test_what_a_script_of_wrk_says_in_its_last_line() -> None:
    report = {
        "requests": 500, "seconds": 2.0, "status_errors": 1, "socket_errors": 2, "timeouts": 4,
        "p50_us": 1_500, "p99_us": 20_000, "p999_us": 40_000, "max_us": 50_000,
    }  # fmt: skip
    found = round_of(report, client_s=0.5)

    assert (found.per_s, found.wrong, found.client_cores) == (250.0, 7, 0.25)
    assert (found.p50_ms, found.p99_ms, found.p999_ms, found.max_ms) == (1.5, 20.0, 40.0, 50.0)


def test_a_fillings_curve_has_points_apart_in_time() -> None:
    points = [(0.01 * number, 100 * number) for number in range(1, 1_001)]  # ten seconds
    kept = thinned(points, 20)

    assert 15 <= len(kept) <= 21
    assert kept[-1] == points[-1]
    assert all(b[0] - a[0] > 0.2 for a, b in pairwise(kept))


def test_a_short_filling_is_one_point() -> None:
    assert thinned([(0.01, 100), (0.02, 200)], 20) == [(0.02, 200)]
    assert thinned([], 20) == []
