"""How many users there are, when."""

from __future__ import annotations

import pytest

from loadtests.shapes.plans import Plan, soak, spike, steps

MOMENTS = [moment / 1000 for moment in range(1000)]


def test_steps_are_equal_in_height_and_length() -> None:
    users = [steps(moment, 50) for moment in MOMENTS]

    assert users == sorted(users)
    assert {height: users.count(height) for height in sorted(set(users))} == dict.fromkeys((10, 20, 30, 40, 50), 200)


def test_a_spike_comes_at_once_and_goes_as_it_came() -> None:
    users = [spike(moment, 100) for moment in MOMENTS]

    assert set(users[:400]) == {20}
    assert set(users[400:600]) == {100}
    assert set(users[600:]) == {20}


def test_a_soak_is_at_its_peak_but_for_a_short_ramp() -> None:
    users = [soak(moment, 40) for moment in MOMENTS]

    assert users[:100] == sorted(users[:100])
    assert users[0] == 4
    assert set(users[100:]) == {40}


@pytest.mark.parametrize("plan", [steps, spike, soak])
@pytest.mark.parametrize("peak", [1, 2, 3, 1000])
def test_there_is_always_somebody_and_never_more_than_the_peak(plan: Plan, peak: int) -> None:
    users = [plan(moment, peak) for moment in MOMENTS]

    assert min(users) >= 1
    assert max(users) == peak
