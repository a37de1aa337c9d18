"""The open loop's book, on a clock that the tests turn: who stalls is charged with all that waited meanwhile."""

from __future__ import annotations

import heapq
from random import Random

import pytest

from loadtests.cases.load.arrivals import OpenLoop
from loadtests.latencies import Latencies

RATE, SECONDS, CONNECTIONS = 1_000.0, 10.0, 16
SERVICE_S = 0.001


def run(stall: tuple[float, float] | None = None, deaf_from_s: float | None = None) -> OpenLoop:
    """A generator that wakes up in time, and a server that takes a millisecond, but answers nothing in the stall."""
    loop, now_s, free = OpenLoop(RATE, SECONDS, 0.0), 0.0, CONNECTIONS
    under_way: list[tuple[float, float]] = []  # (answered at, intended)
    while not loop.is_over and now_s < 20.0:
        loop.notice(now_s)
        while free and (intended_s := loop.take()) is not None:
            free -= 1
            ends_s = now_s + SERVICE_S
            if stall is not None and stall[0] <= now_s < stall[1]:
                ends_s = stall[1] + SERVICE_S
            if deaf_from_s is not None and now_s >= deaf_from_s:
                ends_s = float("inf")
            heapq.heappush(under_way, (ends_s, intended_s))
        moments = [at_s for at_s in (loop.next_s, under_way[0][0] if under_way else None) if at_s is not None]
        now_s = min([*moments, 20.0])
        while under_way and under_way[0][0] <= now_s:
            loop.answered(heapq.heappop(under_way)[1], now_s, True)
            free += 1
    loop.give_up([intended_s for _, intended_s in under_way], now_s)
    return loop


def test_every_request_is_counted_once() -> None:
    loop = run()

    assert len(loop.latencies) == RATE * SECONDS
    assert loop.wrong == loop.unanswered == 0
    assert loop.latencies.percentile_ms(0.5) == pytest.approx(1.0, abs=0.01)
    assert loop.latencies.percentile_ms(0.999) == pytest.approx(1.0, abs=0.01)


def test_a_stalled_server_shows_in_the_percentiles() -> None:
    """It stalls for a tenth of the time. A closed loop would have seen 16 slow requests of thousands."""
    loop = run(stall=(5.0, 6.0))

    assert len(loop.latencies) == RATE * SECONDS
    assert loop.latencies.percentile_ms(0.5) == pytest.approx(1.0, abs=0.01)
    assert loop.latencies.percentile_ms(0.95) > 400
    assert loop.latencies.percentile_ms(0.99) > 850
    assert loop.latencies.percentile_ms(1.0) == pytest.approx(1_001, abs=1)


def test_the_stall_is_the_servers_and_not_the_generators() -> None:
    assert run(stall=(5.0, 6.0)).lateness.percentile_ms(1.0) == 0.0


def test_what_is_never_answered_counts_with_all_the_time_it_waited() -> None:
    loop = run(deaf_from_s=9.0)

    assert len(loop.latencies) == RATE * SECONDS
    assert loop.unanswered == loop.wrong == pytest.approx(1_000, abs=1)
    assert loop.latencies.percentile_ms(0.99) > 10_000


def test_a_generator_that_wakes_up_late_says_so() -> None:
    loop = OpenLoop(100.0, 1.0, 0.0)
    loop.notice(0.0)
    loop.notice(0.5)  # 50 requests were due meanwhile

    assert loop.lateness.percentile_ms(1.0) == pytest.approx(490, abs=1)
    intended = [loop.take() for _ in range(3)]
    assert intended == pytest.approx([0.0, 0.01, 0.02])
    loop.answered(0.0, 0.5, False)
    assert loop.latencies.percentile_ms(1.0) == 500
    assert loop.wrong == 1


def test_the_last_request_is_the_last() -> None:
    loop = OpenLoop(10.0, 1.0, 5.0)
    loop.notice(100.0)

    assert loop.next_s is None
    taken = 0
    while (intended_s := loop.take()) is not None:
        loop.answered(intended_s, 100.0, True)
        taken += 1
    assert taken == 10
    assert loop.is_over


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 101, 1_000])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.99, 0.999, 1.0])
def test_percentiles_are_those_of_the_definition(count: int, share: float) -> None:
    """The least value that at least this share of all values does not exceed."""
    random, latencies = Random(count), Latencies()
    values = [random.random() for _ in range(count)]
    for value in values:
        latencies.add(value)

    wanted = next(one for one in sorted(values) if sum(other <= one for other in values) >= share * count - 1e-9)
    assert latencies.percentile_ms(share) == 1000 * wanted


def test_of_nothing_there_are_no_percentiles() -> None:
    assert Latencies().percentile_ms(0.99) == 0.0
