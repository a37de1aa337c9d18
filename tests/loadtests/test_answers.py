"""What users make of an answer, and whom they ask next."""

from __future__ import annotations

import json

import pytest

from loadtests.users.answers import Answer, failure_name, lower_level
from loadtests.users.ring import AWAY_S, Ring


def refused(status: int, code: str, outcome: str, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps({"code": code, "outcome": outcome}).encode())


@pytest.mark.parametrize(
    ("answer", "method", "name", "is_not_applied"),
    [
        (
            refused(503, "quorum-unavailable", "not-applied"),
            "PUT",
            "503 quorum-unavailable: not applied",
            True,
        ),
        (
            refused(503, "overloaded", "not-applied", **{"retry-after": "1"}),
            "PUT",
            "503 overloaded: not applied, try later",
            True,
        ),
        (
            refused(429, "overloaded", "not-applied", **{"retry-after": "1"}),
            "PUT",
            "429 overloaded: not applied, try later",
            True,
        ),
        (refused(504, "outcome-unknown", "unknown"), "PUT", "504 outcome-unknown: a write may be applied", False),
        (refused(504, "timeout", "none"), "GET", "504 timeout: nothing to apply", False),
        (refused(500, "internal", "unknown"), "PUT", "500 internal: a write may be applied", False),
        (Answer(502, {}, b"<html>"), "PUT", "502", False),
        (Answer(0, {}, b"", ConnectionRefusedError()), "PUT", "node away: nothing was sent", True),
        (
            Answer(0, {}, b"", ConnectionResetError()),
            "PUT",
            "connection lost or silent: a write may be applied",
            False,
        ),
        (Answer(0, {}, b"", TimeoutError()), "GET", "connection lost or silent", False),
        (refused(412, "version-mismatch", "not-applied"), "PUT", "412 version-mismatch: not applied", True),
    ],
)
def test_a_failure_says_what_it_means_for_a_write(answer: Answer, method: str, name: str, is_not_applied: bool) -> None:
    assert failure_name(answer, method) == name
    assert answer.is_not_applied == is_not_applied


@pytest.mark.parametrize(
    ("asked", "told", "is_lower"),
    [
        ("strong", "strong", False),
        ("strong", "weak", True),
        ("strong", "eventual", True),
        ("weak", "weak", False),
        ("weak", "strong", False),
        ("weak", "eventual", True),
        ("eventual", "eventual", False),
        ("eventual", "best-effort", True),
    ],
)
def test_a_lower_level_than_asked_is_noticed(asked: str, told: str, is_lower: bool) -> None:
    receipt = f'consistency={told}, n=3, needed=2, acks=2, replicas="n1 n3", coordinator="n1", epoch=4'

    assert (lower_level(Answer(200, {"kv-receipt": receipt}, b""), asked) is not None) == is_lower


def test_an_answer_without_a_receipt_is_noticed() -> None:
    assert "missing" in (lower_level(Answer(200, {}, b""), "eventual") or "")


def test_a_version_is_the_etag_or_what_the_write_receipt_says() -> None:
    assert Answer(200, {"etag": '"0a"'}, b"").version == "0a"
    assert Answer(200, {}, b'{"version": "0b"}').version == "0b"
    assert Answer(200, {}, b"17").version == ""


def test_a_user_asks_its_own_node_while_that_answers_and_comes_back_to_it() -> None:
    now_s = 100.0
    ring = Ring(["a", "b", "c"], 4, lambda: now_s)

    assert ring.current() == "b"
    ring.failed("b")
    assert ring.current() == "c"
    now_s += AWAY_S / 2
    ring.failed("c")
    assert ring.current() == "a"
    ring.failed("a")
    assert ring.current() == "b", "all are away, it has been for longest"
    now_s += AWAY_S / 2
    assert ring.current() == "b"


def test_a_user_asks_the_node_that_is_best_for_a_request_unless_that_failed_a_moment_ago() -> None:
    now_s = 100.0
    ring = Ring(["a", "b", "c"], 1, lambda: now_s)

    assert (ring.current("c"), ring.current("elsewhere"), ring.current(None)) == ("c", "b", "b")
    ring.failed("c")
    assert ring.current("c") == "b"
    now_s += AWAY_S
    assert ring.current("c") == "c"


def test_users_are_spread_over_the_nodes() -> None:
    assert [Ring(["a", "b", "c"], number).current() for number in range(6)] == ["a", "b", "c"] * 2
