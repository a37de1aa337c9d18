"""Who is let in, on a clock of ours: bursts and closed loops are, more than can be carried is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.pressure.admission import (
    BURST,
    BYTES_MIN,
    COUNT_MIN,
    FEW,
    PATIENCE_WINDOWS,
    STALE_S,
    TARGET_S,
    WINDOW_S,
    Admission,
)
from tests.pressure.served import Served, steadily

A_SETTLING_S = 1.0
"""By then the first excess of an overload is done."""


@pytest.mark.parametrize("clients", [1, 512, BURST])
def test_a_burst_is_let_in_whole(clients: int) -> None:
    served = Served(Admission(), rate=2_000)
    served.arrive_all([10.0] * clients)
    assert not served.refused_s


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 512), st.floats(0.02, 0.7))
def test_clients_that_wait_for_their_answers_are_never_refused(clients: int, share: float) -> None:
    """Whatever their number, if the server does them well within the target: what is expected is off a little."""
    served = Served(Admission(), rate=clients / (TARGET_S * share))
    served.closed_loop(clients, 5.0, 3.0)
    assert not served.refused_s


@settings(max_examples=25, deadline=None)
@given(st.integers(1, COUNT_MIN), st.floats(20, 5_000))
def test_nor_are_few_however_slow_the_server_is(clients: int, rate: float) -> None:
    served = Served(Admission(), rate)
    served.closed_loop(clients, 5.0, 3.0)
    assert not served.refused_s


@settings(max_examples=20, deadline=None)
@given(st.floats(1.3, 8.0), st.sampled_from([1_500.0, 3_000.0]))
def test_of_more_than_can_be_carried_as_much_as_can_be_is_done_in_good_time(times: float, rate: float) -> None:
    served = Served(Admission(), rate)
    served.arrive_all(steadily(rate * times, 5.0, 5.0))
    settled = [(came_s, took_s) for came_s, took_s in served.took_s if came_s > 5.0 + A_SETTLING_S]
    longest_s = max(TARGET_S, COUNT_MIN / rate)
    assert served.refused_s
    assert served.refused_s[0] < 5.0 + A_SETTLING_S / (times - 1)
    assert max(took_s for _, took_s in settled) < 2 * longest_s
    last_s = max(came_s for came_s, _ in settled)
    assert len(settled) > 0.9 * rate * (last_s - 5.0 - A_SETTLING_S)


def test_once_the_load_is_over_the_next_is_let_in_and_nothing_is_left_of_the_limit() -> None:
    served = Served(Admission(), rate=1_000)
    served.arrive_all(steadily(4_000, 5.0, 3.0))
    assert served.admission.is_short
    assert served.arrive(8.0 + 2 * TARGET_S)
    served.arrive_all(steadily(100, 9.0, 2 * STALE_S))
    assert (served.admission.is_short, served.admission.limit) == (False, BURST)


@pytest.mark.parametrize("took_s", [0.0005, 0.005])
def test_what_hangs_is_in_nobodys_way(took_s: float) -> None:
    """Replicas of some keys don't answer: their requests hang. The others are quick, and go on being let in."""
    admission = Admission()
    served = Served(admission, rate=1 / took_s)
    hanging = 0
    for number, moment_s in enumerate(steadily(0.4 / took_s, 5.0, 4_000 * took_s)):
        served.arrive(moment_s)
        if number % 2 == 0:
            admission.begin()
            hanging += 1
    assert hanging > BURST
    assert not served.refused_s


def test_where_nothing_completes_there_is_no_standing_queue() -> None:
    admission = Admission()
    for moment_s in steadily(BURST / 5, 5.0, 5.0):
        assert not admission.is_full(moment_s)
        admission.begin()
    assert not admission.is_short
    assert admission.can_make(0.001)


def test_a_node_that_was_paused_refuses_nobody_when_it_wakes_up() -> None:
    """All that was under way took as long as the pause; what comes then does not."""
    served = Served(Admission(), rate=2_000)
    served.arrive_all(steadily(1_500, 5.0, 2.0))
    for _ in range(200):
        served.admission.begin()
    for _ in range(200):
        served.admission.end(8.0, True)
    served._free_s = 15.0
    served.arrive_all(steadily(1_500, 15.0, 2.0))
    assert not served.refused_s


def test_failures_and_what_did_not_wait_say_nothing() -> None:
    admission = Admission()
    admission.look(5.0)
    for took_s, is_done in ((30.0, False), (0.0, True)):
        admission.begin()
        admission.end(took_s, is_done)
    admission.look(5.0 + WINDOW_S)
    assert (admission.expected_s(), admission.in_flight) == (0.0, 0)


def test_what_ended_before_a_long_silence_says_nothing() -> None:
    admission = Admission()
    admission.look(5.0)
    admission.begin()
    admission.end(1.0, True)
    admission.look(60.0)
    assert admission.can_make(0.01)


def under_load(took_s: float, in_flight: int) -> Admission:
    """So many are under way, and for some windows each took so long."""
    admission = Admission()
    for _ in range(in_flight):
        admission.begin()
    for window in range(PATIENCE_WINDOWS + 2):
        admission.look(5.0 + window * WINDOW_S)
        admission.begin()
        admission.end(took_s, True)
    return admission


@pytest.mark.parametrize(("timeout_s", "can_make"), [(0.01, False), (0.1, False), (0.2, True), (5.0, True)])
def test_who_can_not_make_it_is_told_so(timeout_s: float, can_make: bool) -> None:
    assert under_load(0.1, 20).can_make(timeout_s) is can_make


def test_those_that_came_too_late_are_no_sign_that_there_is_time_enough() -> None:
    """Half of them did not make it: the other half, which did, must not be all that counts."""
    admission = Admission()
    admission.look(5.0)
    for _ in range(FEW):
        admission.begin()
    for took_s, is_late in ((0.09, False), (0.1, True)) * 50:
        admission.begin()
        admission.end(took_s, not is_late, is_late)
    admission.look(5.0 + WINDOW_S)
    assert admission.expected_s() == pytest.approx(0.095)
    assert not admission.can_make(0.1)


def test_where_hardly_anything_is_under_way_what_hung_until_its_time_was_up_says_nothing() -> None:
    """A peer that is paused is no overload, and the next request may not need it."""
    admission = Admission()
    admission.look(5.0)
    for _ in range(FEW):
        admission.begin()
    for _ in range(FEW):
        admission.end(0.3, False, is_late=True)
    admission.look(5.0 + WINDOW_S)
    assert admission.expected_s() == 0.0


def test_where_hardly_anything_is_under_way_nobody_is_refused_for_what_took_long_before() -> None:
    """A peer was paused, and those that waited for it are done: an idle node refused short timeouts for two seconds."""
    assert under_load(5.0, FEW - 1).can_make(0.01)
    assert not under_load(5.0, FEW).can_make(0.01)


def test_what_hung_until_its_time_was_up_is_no_standing_queue() -> None:
    admission = Admission()
    for window in range(100):
        assert not admission.is_full(5.0 + window * WINDOW_S)
        for took_s, is_late in ((0.01, False), (5.0, True)):
            admission.begin()
            admission.end(took_s, not is_late, is_late)
    assert not admission.is_short
    assert admission.expected_s() < TARGET_S


def test_the_more_there_are_the_longer_it_will_take() -> None:
    admission = under_load(0.1, 200)
    assert admission.expected_s() == pytest.approx(0.1)
    for _ in range(200):
        admission.begin()
    assert admission.expected_s() == pytest.approx(0.2)
    assert not admission.can_make(0.2)


def test_what_lies_unseen_has_waited_too() -> None:
    admission = Admission(lag_s=lambda: 0.05)
    admission.look(5.0)
    admission.begin()
    admission.end(0.1, True)
    admission.look(5.0 + WINDOW_S)
    assert admission.expected_s() == pytest.approx(0.15)


def test_large_bodies_are_bounded_by_their_bytes() -> None:
    """A few of them are work for a second: their number says nothing."""
    held = 512 << 20
    admission = Admission(bytes_in_flight=lambda: held)
    served = Served(admission, rate=50)
    served.closed_loop(64, 5.0, 2.0)
    assert BYTES_MIN <= admission.bytes_limit < held / 2
    assert admission.limit >= COUNT_MIN
