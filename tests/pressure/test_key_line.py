"""The line of one key."""

from __future__ import annotations

import pytest

from cluster.pressure import key_line
from cluster.pressure.key_line import LONG_S, QUEUE_MAX, QUEUE_MIN, SHORT_S, KeyLine

FAR_S = 1_000.0


def line_of_turns(turn_s: float, waiting: int, now_s: float = 10.0) -> KeyLine[int]:
    """So many wait, and each turn has taken so long."""
    line: KeyLine[int] = KeyLine()
    for turn in range(10):
        line.turn_begins(now_s - (9 - turn) * turn_s)
    line.waiting.extend(range(waiting))
    return line


def test_a_burst_may_wait() -> None:
    line: KeyLine[int] = KeyLine()
    for number in range(QUEUE_MAX):
        assert line.too_long_s(10.0, FAR_S) == 0
        line.waiting.append(number)
    assert line.too_long_s(10.0, FAR_S) > 0


@pytest.mark.parametrize(("timeout_s", "may_join"), [(0.11, True), (0.09, False)])
def test_who_would_wait_past_his_deadline_need_not_begin_to(timeout_s: float, may_join: bool) -> None:
    line = line_of_turns(0.002, waiting=49)
    assert (line.too_long_s(10.0, 10.0 + timeout_s) == 0) is may_join


def test_a_line_may_be_long_for_a_while_and_is_kept_short_from_then_on() -> None:
    line = line_of_turns(0.005, waiting=10)
    assert line.too_long_s(10.0, FAR_S) == 0
    line.waiting.extend(range(100))
    assert line.too_long_s(10.0 + LONG_S, FAR_S) == 0
    assert line.too_long_s(10.01 + LONG_S, FAR_S) == pytest.approx(111 * 0.005)
    while line.too_long_s(10.02 + LONG_S, FAR_S):
        line.waiting.popleft()
    assert len(line.waiting) == pytest.approx(SHORT_S / 0.005, abs=2)
    line.waiting.extend((0, 0))
    assert line.too_long_s(10.1 + LONG_S, FAR_S) > 0, "it is kept short, not let grow for a while again and again"


def test_a_line_that_was_short_may_be_long_again() -> None:
    line = line_of_turns(0.01, waiting=0)
    for began_s in (10.0, 20.0):
        assert line.too_long_s(began_s, FAR_S) == 0
        line.waiting.extend(range(100))
        assert line.too_long_s(began_s + LONG_S, FAR_S) == 0
        assert line.too_long_s(began_s + LONG_S + 0.1, FAR_S) > 0
        line.waiting.clear()


def test_a_few_may_wait_however_slow_the_turns_are() -> None:
    """As those of large values are; but nobody waits past his deadline."""
    line = line_of_turns(1.0, waiting=QUEUE_MIN - 1)
    line.too_long_s(0.0, FAR_S)
    assert line.too_long_s(10.0 + 2 * LONG_S, FAR_S) == 0
    assert line.too_long_s(10.0 + 2 * LONG_S, 15.0) > 0
    line.waiting.append(0)
    assert line.too_long_s(10.0 + 2 * LONG_S, FAR_S) > 0


def test_one_slow_turn_is_forgotten() -> None:
    line: KeyLine[int] = KeyLine()
    for moment_s in (1.0, 4.0, *(4.0 + turn * 0.002 for turn in range(1, 40))):
        line.turn_begins(moment_s)
    assert line.too_long_s(5.0, 5.1) == 0


def test_the_bound_of_a_line_of_unknown_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_line, "QUEUE_MAX", 2)
    line: KeyLine[int] = KeyLine()
    line.waiting.extend((1, 2))
    assert 0 < line.too_long_s(10.0, FAR_S) <= SHORT_S


def test_where_writes_go_together_the_line_is_as_long_as_their_turns() -> None:
    """A turn of sixty writes was taken for that of one: 400 clients of one key were refused for a wait of 30 ms."""
    line: KeyLine[int] = KeyLine()
    line.waiting.extend(range(400))
    for turn in range(1, 300):
        line.turn_begins(turn * 0.005)
        line.served = 60
        assert not line.too_long_s(turn * 0.005, turn * 0.005 + 0.2)
