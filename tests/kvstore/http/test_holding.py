"""Whether refusals are held, told from what came of it: clients that come back at once, or at a pace of their own."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import pairwise

import pytest

from kvstore.http.pressure.holding import (
    AGAIN_S,
    AGAIN_S_MAX,
    FREE_PER_S,
    HOLD_S_MAX,
    MANY,
    OPENED_PER_S_MAX,
    STALE_S,
    TRIAL_HOLD_S,
    WATCH_S,
    Holding,
)


class Node:
    """A node that answers and refuses at certain rates."""

    def __init__(self) -> None:
        self.opened = 0
        self.now_s = 100.0
        self.holding = Holding(lambda: self.opened)
        self.holds: list[tuple[float, float]] = []
        """When each refusal came, and how long it is held."""
        self._answers = 0.0

    def goes_on(self, seconds: float, refused_per_s: float, answered_per_s: float, opened_per_s: float = 0.0) -> None:
        """At an even pace."""
        opened = float(self.opened)
        for _ in range(int(seconds * refused_per_s)):
            self._pass(1 / refused_per_s, answered_per_s)
            opened += opened_per_s / refused_per_s
            self.opened = int(opened)
            self._refuse()

    def comes_back(self, clients: int, seconds: float, busy_s: float, answered_per_s: float) -> list[int]:
        """Clients that each ask again as soon as they are refused, by a node that takes busy_s for each refusal.

        How many were refused in each whole second.
        """
        ends_s, began_s = self.now_s + seconds, self.now_s
        due = [(self.now_s, number) for number in range(clients)]
        counts = [0] * int(seconds)
        while self.now_s < ends_s:
            due_s, number = heappop(due)
            self._pass(max(due_s - self.now_s, busy_s), answered_per_s)
            heappush(due, (self.now_s + self._refuse(), number))
            counts[min(int(self.now_s - began_s), len(counts) - 1)] += 1
        return counts

    def held_since(self, moment_s: float) -> list[float]:
        return [hold_s for at_s, hold_s in self.holds if at_s >= moment_s]

    def _pass(self, seconds: float, answered_per_s: float) -> None:
        self.now_s += seconds
        self._answers += seconds * answered_per_s
        while self._answers >= 1:
            self._answers -= 1
            self.holding.answered()

    def _refuse(self) -> float:
        hold_s = self.holding.refused(self.now_s)
        self.holds.append((self.now_s, hold_s))
        return hold_s


def test_twice_the_load_is_refused_at_once() -> None:
    node = Node()
    node.goes_on(20, refused_per_s=4_000, answered_per_s=1_500)
    assert not any(node.held_since(0))


def test_few_refusals_are_no_trouble_even_where_nothing_is_answered() -> None:
    node = Node()
    node.goes_on(20, refused_per_s=FREE_PER_S * 0.9, answered_per_s=0)
    assert not any(node.held_since(0))


def test_nor_are_few_that_come_together() -> None:
    node = Node()
    for _ in range(30):
        node.goes_on(0.01, refused_per_s=12_000, answered_per_s=0)
        node.now_s += STALE_S * 0.95
    assert not any(node.held_since(0))


def test_a_burst_is_not_held() -> None:
    node = Node()
    for _ in range(5):
        node.goes_on(WATCH_S / 3, refused_per_s=MANY * 1_500, answered_per_s=1_000)
        node.goes_on(WATCH_S, refused_per_s=100, answered_per_s=4_000)
    assert not any(node.held_since(0))


@pytest.mark.parametrize("answered_per_s", [500, 1_500, 4_000])
@pytest.mark.parametrize("clients", [300, 800, 1_200, 2_500])
def test_clients_that_come_back_at_once_are_held_until_there_are_as_many_answers(
    clients: int, answered_per_s: int
) -> None:
    """Or as many as the longest hold leaves."""
    node = Node()
    refused = node.comes_back(clients, 30, busy_s=0.000_07, answered_per_s=answered_per_s)
    assert refused[0] > 10_000
    most = max(2 * answered_per_s, clients / HOLD_S_MAX, FREE_PER_S)
    assert sum(refused[10:]) / 20 < 1.5 * most
    assert max(node.held_since(0)) <= HOLD_S_MAX


def test_when_they_stay_away_nobody_is_held() -> None:
    node = Node()
    node.comes_back(300, 10, busy_s=0.000_1, answered_per_s=2_000)
    assert node.holding.hold_s
    node.goes_on(20, refused_per_s=100, answered_per_s=3_000)
    assert not node.holding.hold_s
    node.comes_back(300, 10, busy_s=0.000_1, answered_per_s=2_000)
    assert node.holding.hold_s
    node.now_s += 2 * STALE_S
    assert node.holding.refused(node.now_s) == 0.0


def test_where_as_many_come_as_before_it_is_let_be_for_some_time() -> None:
    node = Node()
    node.goes_on(30, refused_per_s=8_000, answered_per_s=1_000)
    held = [at_s for at_s, hold_s in node.holds if hold_s]
    assert held, "it is tried"
    assert {hold_s for _, hold_s in node.holds} == {0.0, TRIAL_HOLD_S, HOLD_S_MAX}
    assert len(held) < 0.2 * len(node.holds)
    gaps = [later - earlier for earlier, later in pairwise(held) if later - earlier > 0.5]
    assert gaps
    assert min(gaps) >= AGAIN_S


def test_where_connections_are_opened_meanwhile_it_is_let_be_at_once() -> None:
    node = Node()
    node.comes_back(300, 5, busy_s=0.000_1, answered_per_s=2_000)
    assert node.holding.hold_s
    node.goes_on(1, refused_per_s=2_000, answered_per_s=2_000, opened_per_s=OPENED_PER_S_MAX / 2)
    assert node.holding.hold_s
    node.goes_on(1, refused_per_s=2_000, answered_per_s=2_000, opened_per_s=OPENED_PER_S_MAX * 2)
    assert not node.holding.hold_s


def test_a_trial_for_which_connections_are_opened_is_over_at_once() -> None:
    node = Node()
    while not node.holding.hold_s:
        node.goes_on(0.01, refused_per_s=8_000, answered_per_s=1_000)
    node.goes_on(0.12, refused_per_s=8_000, answered_per_s=1_000, opened_per_s=OPENED_PER_S_MAX * 4)
    assert not node.holding.hold_s


def pauses(node: Node, since_s: float) -> list[float]:
    """Between one trial and the next."""
    held = [at_s for at_s, hold_s in node.holds if hold_s and at_s >= since_s]
    return [later - earlier for earlier, later in pairwise(held) if later - earlier > 0.5]


def test_after_each_trial_in_vain_the_pause_is_longer_until_the_overload_is_over() -> None:
    node = Node()
    node.goes_on(70, refused_per_s=4_000, answered_per_s=500)
    for pause_s, least_s in zip(pauses(node, 0), [AGAIN_S, 2 * AGAIN_S, AGAIN_S_MAX, AGAIN_S_MAX], strict=True):
        assert least_s <= pause_s < least_s + 1.5 * WATCH_S
    node.now_s += 2 * STALE_S
    again_s = node.now_s
    node.goes_on(16, refused_per_s=4_000, answered_per_s=500)
    assert pauses(node, again_s)[0] < AGAIN_S + 1.5 * WATCH_S


def test_where_the_longest_hold_is_not_enough_it_is_let_be() -> None:
    node = Node()
    node.comes_back(300, 10, busy_s=0.000_1, answered_per_s=2_000)
    assert node.holding.hold_s
    began_s = node.now_s
    node.goes_on(4.5, refused_per_s=8_000, answered_per_s=1_000)
    assert HOLD_S_MAX in node.held_since(began_s)
    assert not node.holding.hold_s
