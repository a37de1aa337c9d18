"""How long the next one will take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.pressure.expectation import FADING, GROUP, Expectation

WAITS_S = st.floats(0.001, 10.0)
COUNTS = st.integers(0, 5_000)


def seen(*waits_s: float, in_flight: int = 100, rate: float = 1_000.0) -> Expectation:
    expectation = Expectation()
    for wait_s in waits_s:
        for _ in range(20):  # so that the rate is known
            expectation.seen(wait_s, in_flight, rate)
    return expectation


def test_nothing_is_expected_before_anything_was_seen() -> None:
    assert (Expectation().shorter_s(5_000), Expectation().longer_s(5_000)) == (0.0, 0.0)


def test_of_two_windows_one_is_for_the_queue_and_one_for_deadlines() -> None:
    expectation = seen(0.1)
    expectation.seen(0.3, 100, 1_000.0)
    assert (expectation.shorter_s(100), expectation.longer_s(100)) == pytest.approx((0.1, 0.3))


def test_each_one_more_takes_what_the_server_needs_for_it() -> None:
    expectation = seen(0.2, in_flight=100, rate=1_000)
    assert expectation.longer_s(300) == pytest.approx(0.2 + 200 / 1_000, rel=0.01)


def test_but_no_more_than_those_before_it() -> None:
    """A server that has little to do does few in a second; that is not the best it can."""
    expectation = seen(0.01, in_flight=100, rate=10)
    assert expectation.longer_s(200) == pytest.approx(0.02)


def test_a_few_wait_for_the_same_commit() -> None:
    expectation = seen(0.1, in_flight=3)
    assert expectation.longer_s(GROUP) == pytest.approx(0.1)


@given(WAITS_S, COUNTS, COUNTS, COUNTS)
def test_the_more_there_are_the_longer_it_takes(wait_s: float, then: int, few: int, more: int) -> None:
    expectation = seen(wait_s, in_flight=then)
    few, more = sorted((few, more))
    assert 0 < expectation.longer_s(few) <= expectation.longer_s(more)
    assert expectation.longer_s(then) == pytest.approx(wait_s)


def test_whoever_was_kept_out_by_it_is_let_in_again() -> None:
    """Where it keeps everybody out nothing new is seen: it must not stand for ever."""
    expectation = seen(1.0)
    for _ in range(20):
        expectation.nothing_seen()
    assert expectation.longer_s(100) == pytest.approx(FADING**20)
    assert FADING**20 < 0.05
    expectation.forget()
    assert expectation.longer_s(100) == 0.0
