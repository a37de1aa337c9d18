"""Random schedules in which one node's clock is wrong, far ahead of the others'.

What that node writes lies above all that the others write, until they hear of it. A weak write that every replica
refused for such a record begins anew above it; it must never be applied twice, nor be told not applied and appear.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest

from cluster.protocol.messages import Answer
from cluster.protocol.weak_write import Outrun, Taken, WeakWrite
from storage.ballot import NONE, SLOT_BITS
from storage.record import Record
from tests.protocol.linearizable import is_linearizable
from tests.protocol.world import KEY, MAJORITY, REPLICAS, Options, Rules, World

FAR = 100_000
ALLOWED = 200
OPTIONS = Options(weak=0.45, duplicate=0.0, kinds=(60, 25, 15), calls=12)
"""No duplicates: a connection delivers a message once or not at all, and what was refused is not sent again."""
SEEDS = 1_000
MUTANT_SEEDS = 6_000


class WrongClockWorld(World):
    """A world whose node 0 has a clock that is far ahead; the others can tell such a ballot from their own."""

    begun_anew = 0

    def __init__(self, seed: int, options: Options, rules: Rules) -> None:
        super().__init__(seed, options, rules)
        self.clocks[0] += FAR

    def _weak(self, node: int, value: Any) -> Generator[Any, Any, tuple[str, Any]]:
        value = value.encode() if isinstance(value, str) else value
        above, needed = NONE, self.random.choice((1, 1, 2, 3))
        while True:
            ballot = self.tick(node, above)
            record = Record(ballot, ballot, True, value)
            self.written.add(ballot)
            write = self.rules.weak_write(
                KEY,
                record,
                needed=needed,
                majority=MAJORITY,
                replicas=REPLICAS,
                name_of=lambda slot: f"n{slot}",
                horizon=lambda ballot: ballot + (ALLOWED << SLOT_BITS),
            )
            end = yield from self._attempts(write.run(), node)
            if not isinstance(end, Outrun):
                break
            WrongClockWorld.begun_anew += 1
            above = end.highest
        if isinstance(end, Taken):
            self.acknowledged.append(record.origin)
        elif write.must_be_kept:
            self.replicas[node].kept_aside[record.origin] = record
        elif not write.may_be_applied:
            return "fail", None
        return "unknown", None


def holds(seed: int, rules: Rules, options: Options = OPTIONS) -> bool:
    world = WrongClockWorld(seed, options, rules)
    try:
        world.run()
    except AssertionError:
        return False
    return world.converges() and is_linearizable(world.history)


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, loss=0.0, crash=0.0), replace(OPTIONS, relay=0.3)])
def test_every_schedule_is_linearizable_and_converges(options: Options) -> None:
    before = WrongClockWorld.begun_anew
    for seed in range(SEEDS):
        assert holds(seed, Rules(), options), seed
    assert WrongClockWorld.begun_anew > before, "or nothing was tested"


class SilenceIsRefusal(WeakWrite):
    """Takes those that have not answered, and those that took it, for replicas without the write."""

    def _accept(self, yielding: bool) -> Generator[Any, Any, list[tuple[int, Answer]]]:
        answers = yield from super()._accept(yielding)
        if any(self.is_from_afar(answer) for _, answer in answers):
            self.may_be_applied = False
        return answers


def test_a_write_that_begins_anew_though_somebody_may_have_it_is_caught() -> None:
    assert not all(holds(seed, Rules(weak_write=SilenceIsRefusal)) for seed in range(MUTANT_SEEDS))
