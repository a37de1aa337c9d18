"""Random schedules in which replicas lose their memory, and each way to recover that is not enough.

A failure prints the preset and the seed; `ForgetfulWorld(seed, PRESETS[name], Rules(), AMNESIA)` is that schedule.
"""

from __future__ import annotations

import pytest

from tests.protocol.forgetful import (
    CopiesFromBoth,
    CopiesFromOne,
    CopiesWithoutFences,
    ForgetfulWorld,
    ListsBeforeThePromise,
    Recovery,
    VotesAfterAmnesia,
)
from tests.protocol.linearizable import is_linearizable
from tests.protocol.world import Options, Rules

PRESETS = {
    "forgetful": Options(),
    "forgetful, many copies": Options(relay=0.3, duplicate=0.5, concurrency=6, calls=16),
    "forgetful, lossy": Options(loss=0.2, concurrency=5, calls=16),
    "forgetful, with weak writes": Options(weak=0.25, skew=400),
    "forgetful, fenced": Options(fenced=0.6, weak=0.35, relay=0.15, kinds=(20, 60, 20), skew=100),
    "forgetful, a fence that one missed": Options(fenced=0.8, kinds=(20, 70, 10), calls=8, begins_missed=True),
    "forgetful, read under fences": Options(fenced=0.7, fenced_reads=0.7, weak=0.2, relay=0.15, kinds=(45, 45, 10)),
}
AMNESIA = 0.03
"""Chance per message that some replica forgets: about three times a schedule."""
SEEDS = 700


def holds(seed: int, options: Options, rules: Rules, recovery: type[Recovery] = Recovery) -> bool:
    """Whether this schedule is linearizable and converges."""
    world = ForgetfulWorld(seed, options, rules, AMNESIA, recovery)
    try:
        world.run()
    except AssertionError:
        return False
    return world.converges() and world.keeps_fences() and is_linearizable(world.history)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_schedule_is_linearizable_and_converges(preset: str) -> None:
    for seed in range(SEEDS):
        assert holds(seed, PRESETS[preset], Rules()), f"{preset}: seed {seed}"


def test_replicas_do_forget() -> None:
    worlds = [ForgetfulWorld(seed, PRESETS["forgetful"], Rules(), AMNESIA) for seed in range(50)]
    for world in worlds:
        world.run()
    assert sum(world.forgotten for world in worlds) > 50


PLAIN, LOSSY = PRESETS["forgetful"], PRESETS["forgetful, lossy"]
MISSED_FENCE = PRESETS["forgetful, a fence that one missed"]
MUTANTS = {
    "votes-after-amnesia": (Rules(), VotesAfterAmnesia, PLAIN, 2_000),
    "recovers-by-copying-from-one": (Rules(), CopiesFromOne, PLAIN, 4_000),
    "recovers-by-copying-from-both": (Rules(), CopiesFromBoth, PLAIN, 8_000),
    "lists-before-the-promise": (Rules(), ListsBeforeThePromise, LOSSY, 4_000),
    "recovery-copies-without-fences": (Rules(), CopiesWithoutFences, MISSED_FENCE, 4_000),
}
"""Mutant -> how it recovers, the preset that shows it soonest, and the seeds within which it must be caught."""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_mutant_is_caught(mutant: str) -> None:
    rules, recovery, options, seeds = MUTANTS[mutant]

    assert any(not holds(seed, options, rules, recovery) for seed in range(seeds)), f"{mutant} went unnoticed"
