"""The lock over a register, held against a dumb twin: a list of grants, and a diary of who saw which of them when.

Several processes work on one lock, each with a watch and a clock of its own, which runs a little faster or slower than
the others'. Whatever they do: no more hold it than have permits, each grant has a higher fence than all before it, and
nobody loses a grant, but by releasing it, before the lease is over as its holder counts it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.locks.lease_watch import RATE_MARGIN, LeaseWatch
from cluster.locks.lock import Busy, Held, Lock
from cluster.locks.lock_state import LockState, Wish, decode
from cluster.locks.register import MayBeChanged, NotChanged
from tests.coordination.virtual_time import VirtualTimeLoop
from tests.locks.memory_register import FakeClock, MemoryRegister

KEY = b"k"
TIMEOUT_S = 5.0


def wish(name: str, ttl_s: float = 10, permits: int = 1) -> Wish:
    return Wish(name, name.encode(), int(ttl_s * 1000), permits)


@dataclass
class World:
    """One register, and locks of processes over it."""

    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.register = MemoryRegister(self.clock)

    def lock(self) -> Lock:
        return Lock(KEY, self.register, LeaseWatch(self.clock))


@pytest.fixture
def world() -> World:
    return World()


async def test_a_contender_must_watch_the_whole_lease_itself(world: World) -> None:
    holder, contender, late = world.lock(), world.lock(), world.lock()
    assert isinstance(await holder.acquire(wish("a"), TIMEOUT_S), Held)
    busy = await contender.acquire(wish("b"), TIMEOUT_S)
    assert isinstance(busy, Busy)
    assert busy.retry_after_s == pytest.approx(10 * RATE_MARGIN)
    world.clock.pass_s(11)
    assert isinstance(await late.acquire(wish("c"), TIMEOUT_S), Busy)  # it has seen nothing yet
    assert isinstance(await contender.acquire(wish("b"), TIMEOUT_S), Held)


async def test_a_renewed_lease_is_not_taken_over(world: World) -> None:
    holder, contender = world.lock(), world.lock()
    await holder.acquire(wish("a"), TIMEOUT_S)
    for _ in range(5):
        assert isinstance(await contender.acquire(wish("b"), TIMEOUT_S), Busy)
        world.clock.pass_s(9)
        assert await holder.renew(b"a", TIMEOUT_S)
    assert isinstance(await contender.acquire(wish("b"), TIMEOUT_S), Busy)


async def test_handing_on_is_one_change(world: World) -> None:
    lock = world.lock()
    held = await lock.acquire(wish("a"), TIMEOUT_S)
    assert isinstance(held, Held)
    changes = world.register.changes
    given_back, heir = await lock.hand_on(b"a", wish("b"), TIMEOUT_S)
    assert given_back == held.grant
    assert isinstance(heir, Held)
    assert heir.grant.fence > held.grant.fence
    assert world.register.changes == changes + 1


async def test_what_was_renewed_meanwhile_is_neither_given_back_nor_handed_on(world: World) -> None:
    lock = world.lock()
    held = await lock.acquire(wish("a"), TIMEOUT_S)
    assert isinstance(held, Held)
    await world.lock().renew(b"a", TIMEOUT_S)
    assert await lock.release(b"a", TIMEOUT_S, held.grant.identity) is None
    given_back, heir = await lock.hand_on(b"a", wish("b"), TIMEOUT_S, held.grant.identity)
    assert given_back is None
    assert isinstance(heir, Busy)
    (standing,) = (await lock.look(TIMEOUT_S)).grants
    assert await lock.release(b"a", TIMEOUT_S, standing.identity) == standing


async def test_who_holds_nothing_hands_nothing_on(world: World) -> None:
    lock = world.lock()
    await lock.acquire(wish("a"), TIMEOUT_S)
    given_back, heir = await lock.hand_on(b"x", wish("b"), TIMEOUT_S)
    assert given_back is None
    assert isinstance(heir, Busy)
    assert await lock.release(b"x", TIMEOUT_S) is None
    assert await lock.renew(b"x", TIMEOUT_S) is None


async def test_handing_on_to_who_wants_other_permits_only_releases(world: World) -> None:
    lock = world.lock()
    for name in ("a", "b"):
        await lock.acquire(wish(name, permits=2), TIMEOUT_S)
    given_back, heir = await lock.hand_on(b"a", wish("c"), TIMEOUT_S)
    assert given_back is not None
    assert isinstance(heir, Busy)
    assert [grant.owner for grant in (await lock.look(TIMEOUT_S)).grants] == ["b"]


async def test_what_surely_failed_is_told(world: World) -> None:
    lock = world.lock()
    world.register.next_failure = NotChanged("too few")
    with pytest.raises(NotChanged):
        await lock.acquire(wish("a"), TIMEOUT_S)
    assert (await lock.look(TIMEOUT_S)).is_free


RATES = (1.0, 0.996, 1.004)
TOKENS = tuple("abcdef")


class Process(FakeClock):
    """A process' clock: as fast as it is, and begun when it was."""

    def __init__(self, true: FakeClock, rate: float) -> None:
        super().__init__()
        self._true, self._rate = true, rate

    def monotonic_s(self) -> float:
        return 1_000 * self._rate + self._true.now_s * self._rate

    def wall_ms(self) -> int:
        return self._true.wall_ms()


@dataclass
class TwinGrant:
    """A grant as the twin has it."""

    token: str
    fence: int
    ttl_s: float
    renewals: int = 0


class Locking(RuleBasedStateMachine):
    """Processes that do what they like."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.true = FakeClock()
        self.register = MemoryRegister(self.true)
        self.clocks = [Process(self.true, rate) for rate in RATES]
        self.locks = [Lock(KEY, self.register, LeaseWatch(clock)) for clock in self.clocks]
        self.grants: list[TwinGrant] = []
        self.permits, self.fence = 1, 0
        self.diary: dict[tuple[int, int, int], float] = {}
        """(process, fence, renewals) -> when that process first saw it, by its own clock."""
        self.counted_until_s: dict[int, float] = {}
        """Fence -> until when its holder, by the slowest clock, counts on it."""

    def teardown(self) -> None:
        self.loop.close()

    # -- the twin ----------------------------------------------------------------------------------------------

    def is_over(self, process: int, grant: TwinGrant) -> bool:
        since_s = self.diary.get((process, grant.fence, grant.renewals))
        return since_s is not None and self.clocks[process].monotonic_s() - since_s >= grant.ttl_s * RATE_MARGIN

    def of(self, token: str) -> TwinGrant | None:
        found = [grant for grant in self.grants if grant.token == token]
        assert len(found) <= 1
        return found[0] if found else None

    def take_over(self, process: int) -> None:
        for grant in [grant for grant in self.grants if self.is_over(process, grant)]:
            assert self.true.now_s >= self.counted_until_s[grant.fence], "taken from a holder that counted on it"
            self.grants.remove(grant)

    def grant(self, process: int, token: str, ttl_s: float, permits: int, asked_s: float) -> None:
        own = self.of(token)
        if own is not None and not self.is_over(process, own):
            own.renewals += 1
        else:
            standing = [grant for grant in self.grants if not self.is_over(process, grant)]
            if len(standing) >= permits or (standing and permits != self.permits):
                return
            self.take_over(process)
            self.permits, self.fence = permits, max(self.fence + 1, self.true.wall_ms())
            own = TwinGrant(token, self.fence, ttl_s)
            self.grants.append(own)
        self.counts(own, asked_s)

    def counts(self, grant: TwinGrant, asked_s: float) -> None:
        self.counted_until_s[grant.fence] = asked_s + grant.ttl_s / min(RATES)

    def saw(self, process: int) -> None:
        for grant in self.grants:
            name = process, grant.fence, grant.renewals
            self.diary.setdefault(name, self.clocks[process].monotonic_s())

    # -- what processes do -------------------------------------------------------------------------------------

    def on_its_way(self, late_s: float) -> float:
        """When it was asked; it is carried out a while later."""
        asked_s = self.true.now_s
        self.true.pass_s(late_s)
        return asked_s

    @rule(
        process=st.integers(0, 2),
        token=st.sampled_from(TOKENS),
        ttl_s=st.sampled_from((1.0, 5.0, 20.0)),
        permits=st.sampled_from((1, 1, 2, 3)),
        late_s=st.sampled_from((0.0, 0.0, 0.4, 3.0)),
    )
    def acquire(self, process: int, token: str, ttl_s: float, permits: int, late_s: float) -> None:
        asked_s = self.on_its_way(late_s)
        own = self.of(token)
        ttl_s = own.ttl_s if own is not None else ttl_s
        self.grant(process, token, ttl_s, permits, asked_s)
        result = self.loop.run_until_complete(
            self.locks[process].acquire(wish(token, ttl_s, permits), TIMEOUT_S),
        )
        self.saw(process)
        assert isinstance(result, Held) == (self.of(token) is not None)

    @rule(process=st.integers(0, 2), token=st.sampled_from(TOKENS), late_s=st.sampled_from((0.0, 0.4, 3.0)))
    def renew(self, process: int, token: str, late_s: float) -> None:
        asked_s = self.on_its_way(late_s)
        own = self.of(token)
        if own is not None:
            own.renewals += 1
            self.counts(own, asked_s)
        result = self.loop.run_until_complete(self.locks[process].renew(token.encode(), TIMEOUT_S))
        self.saw(process)
        assert (None if result is None else result.fence) == (None if own is None else own.fence)

    @rule(process=st.integers(0, 2), token=st.sampled_from(TOKENS))
    def release(self, process: int, token: str) -> None:
        own = self.of(token)
        if own is not None:
            self.grants.remove(own)
        result = self.loop.run_until_complete(self.locks[process].release(token.encode(), TIMEOUT_S))
        self.saw(process)
        assert (None if result is None else result.fence) == (None if own is None else own.fence)

    @rule(process=st.integers(0, 2), token=st.sampled_from(TOKENS), heir=st.sampled_from(TOKENS))
    def hand_on(self, process: int, token: str, heir: str) -> None:
        own, ttl_s = self.of(token), 5.0
        if own is not None:
            self.grants.remove(own)
            before = self.of(heir)
            ttl_s = before.ttl_s if before is not None else ttl_s
            self.grant(process, heir, ttl_s, self.permits, self.true.now_s)
        given_back, result = self.loop.run_until_complete(
            self.locks[process].hand_on(token.encode(), wish(heir, ttl_s, self.permits), TIMEOUT_S),
        )
        self.saw(process)
        assert (None if given_back is None else given_back.fence) == (None if own is None else own.fence)
        assert isinstance(result, Held) == (self.of(heir) is not None)

    @rule(process=st.integers(0, 2))
    def expire(self, process: int) -> None:
        self.take_over(process)
        self.loop.run_until_complete(self.locks[process].expire(TIMEOUT_S))
        self.saw(process)

    @rule(process=st.integers(0, 2))
    def look(self, process: int) -> None:
        self.loop.run_until_complete(self.locks[process].look(TIMEOUT_S))
        self.saw(process)

    @rule(process=st.integers(0, 2), token=st.sampled_from(TOKENS))
    def fail(self, process: int, token: str) -> None:
        self.register.next_failure = NotChanged("too few")
        with pytest.raises(NotChanged):
            self.loop.run_until_complete(self.locks[process].release(token.encode(), TIMEOUT_S))

    @rule(seconds=st.sampled_from((0.1, 1.0, 1.02, 4.0, 5.0, 5.1, 20.0, 20.3)))
    def time_passes(self, seconds: float) -> None:
        self.true.pass_s(seconds)

    # -- what always holds -------------------------------------------------------------------------------------

    @invariant()
    def the_register_is_as_the_twin_says(self) -> None:
        state = decode(self.register.value)
        shown = [(grant.owner, grant.fence, grant.renewals) for grant in state.grants]
        assert shown == [(grant.token, grant.fence, grant.renewals) for grant in self.grants]
        assert state.fence == self.fence

    @invariant()
    def no_more_hold_it_than_have_permits(self) -> None:
        state = decode(self.register.value)
        assert len(state.grants) <= state.permits
        fences = [grant.fence for grant in state.grants]
        assert fences == sorted(set(fences))


Locking.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLocking = Locking.TestCase


@pytest.mark.parametrize("is_applied", [True, False])
async def test_a_step_of_which_nobody_knows_is_safe_to_repeat(world: World, is_applied: bool) -> None:
    """Within one call or by a second one: no second permit, and the same grant."""
    lock = world.lock()

    async def twice(step: str, *what: object) -> object:
        world.register.next_failure, world.register.is_applied = MayBeChanged("nobody knows"), is_applied
        try:
            return await getattr(lock, step)(*what, TIMEOUT_S)
        except MayBeChanged:
            return await getattr(lock, step)(*what, TIMEOUT_S)

    held = await twice("acquire", wish("a", permits=2))
    assert isinstance(held, Held)
    state: LockState = await lock.look(TIMEOUT_S)
    assert [grant.fence for grant in state.grants] == [held.grant.fence]
    await twice("renew", b"a")
    await twice("release", b"a")
    assert (await lock.look(TIMEOUT_S)).is_free


def test_the_twin_would_notice() -> None:
    """A watch that does not count from when it saw a grant itself is caught."""
    machine = Locking()
    machine.acquire(0, "a", 5.0, 1, 0.0)
    machine.look(1)
    watch = machine.locks[1]._watch
    watch._seen[KEY] = {name: (since_s - 100, grant) for name, (since_s, grant) in watch._seen[KEY].items()}
    with pytest.raises(AssertionError):
        machine.acquire(1, "b", 5.0, 1, 0.0)
    machine.teardown()
