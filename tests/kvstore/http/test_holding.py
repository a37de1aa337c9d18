"""Whether refusals are held, told from what came of it: clients that come back at once, or at a pace of their own."""

from __future__ import annotations

from kvstore.http.pressure.holding import (
    AGAIN_S,
    COUNTED,
    FREE,
    HOLD_S_MAX,
    LASTING,
    MANY,
    OPENED_MAX,
    SKIPPED,
    STALE_S,
    TRIAL_S,
    VAIN_WINDOWS,
    WINDOW_S,
    Holding,
)

TRIAL_WINDOWS = SKIPPED + COUNTED


class Node:
    """Windows of a node go by; each says how long refusals were held in it."""

    def __init__(self) -> None:
        self.opened = 0
        self.now_s = 100.0
        self.holding = Holding(lambda: self.opened)
        self.holding.refused(self.now_s)

    def windows(self, count: int, refused: int, answered: int, opened: int = 0) -> list[float]:
        held = []
        for _ in range(count):
            self.now_s += WINDOW_S * 1.01
            self.opened += opened
            held.append(self.holding.refused(self.now_s))
            for _ in range(refused - 1):
                assert self.holding.refused(self.now_s) == held[-1]
            self.holding.answered += answered
        return held

    def until_trial(self) -> None:
        for _ in range(4 * LASTING):
            if self.windows(1, refused=1_000, answered=100)[0]:
                return
        raise AssertionError("it was never tried")


def clients_that_come_back(node: Node, clients: int, windows: int, answered: int) -> list[float]:
    """Each asks again as soon as it was refused, and is refused as fast as the node can."""
    held = []
    for _ in range(windows):
        hold_s = node.holding.hold_s
        refused = int(clients * WINDOW_S / hold_s) if hold_s else 10 * clients
        held += node.windows(1, refused, answered)
    return held


def test_twice_the_load_is_refused_at_once() -> None:
    node = Node()
    assert not any(node.windows(20 * LASTING, refused=400, answered=150))


def test_few_refusals_are_no_trouble_even_where_nothing_is_answered() -> None:
    assert not any(Node().windows(20 * LASTING, refused=FREE, answered=0))


def test_a_burst_of_refusals_is_none_of_those() -> None:
    node = Node()
    for _ in range(5):
        assert not any(node.windows(LASTING // 2, refused=int(MANY * 100), answered=100))
        assert not any(node.windows(LASTING, refused=0 + 1, answered=400))


def test_clients_that_come_back_at_once_are_held_until_there_are_as_many_answers() -> None:
    node = Node()
    held = clients_that_come_back(node, clients=300, windows=300, answered=200)
    assert held[0] == 0.0
    assert TRIAL_S in held
    settled = held[100:]
    assert all(settled), "they are held for as long as they come"
    refusals = [300 * WINDOW_S / hold_s for hold_s in settled]
    assert 150 < sum(refusals) / len(refusals) < 800
    assert max(held) <= HOLD_S_MAX


def test_when_they_stay_away_nobody_is_held() -> None:
    node = Node()
    clients_that_come_back(node, clients=300, windows=60, answered=200)
    assert node.holding.hold_s
    assert node.windows(100, refused=10, answered=300)[-1] == 0.0
    clients_that_come_back(node, clients=300, windows=60, answered=200)
    node.now_s += 2 * STALE_S
    assert node.holding.refused(node.now_s) == 0.0


def test_where_as_many_come_as_before_it_is_let_be_for_some_time() -> None:
    node = Node()
    node.until_trial()
    assert all(node.windows(TRIAL_WINDOWS - 1, refused=1_000, answered=100))
    assert not any(node.windows(int(AGAIN_S / WINDOW_S) - LASTING, refused=1_000, answered=100))
    assert any(node.windows(3 * LASTING, refused=1_000, answered=100)), "then it is tried again"


def test_where_connections_are_opened_meanwhile_it_is_let_be_at_once() -> None:
    node = Node()
    node.until_trial()
    assert all(node.windows(2, refused=100, answered=100, opened=OPENED_MAX))
    assert not any(node.windows(20, refused=1_000, answered=100, opened=OPENED_MAX + 1)[1:])
    node = Node()
    clients_that_come_back(node, clients=300, windows=60, answered=200)
    assert node.holding.hold_s
    node.windows(1, refused=100, answered=100, opened=OPENED_MAX + 1)
    assert node.windows(1, refused=100, answered=100)[0] == 0.0


def test_where_the_longest_hold_is_not_enough_it_is_let_be() -> None:
    node = Node()
    clients_that_come_back(node, clients=300, windows=LASTING + TRIAL_WINDOWS + 2, answered=200)
    assert node.holding.hold_s
    held = node.windows(3 * VAIN_WINDOWS, refused=1_000, answered=100)
    assert HOLD_S_MAX in held
    assert held[-1] == 0.0
