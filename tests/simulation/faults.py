"""Proof that the simulator can fail: one rule of the code left out at a time, each of which must be noticed.

Each fault is a small patch of the real code and the options under which it shows soonest; the seeds are tried one
after the other until one is violated. `python -m tests.simulation.faults` does that for all, and writes the table in
docs/verification.md; with names behind it, for those alone, and writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

from cluster.ballot_clock import BallotClock
from cluster.coordination.coordinator import _Reading
from cluster.coordination.writing.handing_many import HandingMany
from cluster.coordination.writing.handover import _Handing
from cluster.coordination.writing.primary import Primary, _Proposal
from cluster.locks.lock_state import LockState, acquired, released
from cluster.protocol.acceptor import Acceptor, newest
from cluster.protocol.messages import Accept, Accepted, Answer, Forwarded, Lost
from cluster.protocol.prepared import Prepared, PreparedBallots
from cluster.protocol.proposer import Proposer
from cluster.protocol.reader import Agreed, StrongRead
from cluster.protocol.steps import Answers
from cluster.repair.amnesia.verification import Verification
from cluster.repair.floors.loop import Floors
from cluster.repair.hints import Hints
from cluster.replica.replica import Replica
from cluster.requests import Unavailable
from storage.ballot import NONE
from storage.record import Record, ReplicaState
from tests.simulation.journal import Violation
from tests.simulation.loop import WALL_START_MS
from tests.simulation.options import Options
from tests.simulation.world import run_seed

DOCUMENT = Path(__file__).parents[2] / "docs" / "verification.md"
BEGIN, END = "<!-- faults: python -m tests.simulation.faults -->", "<!-- /faults -->"
SEEDS_MAX = 150
"""Within so many seeds each must be caught."""


@dataclass(frozen=True)
class Fault:
    """One rule left out."""

    name: str
    leaves_out: str
    then: str
    """What becomes of it."""
    patches: Callable[[], list[Any]]
    options: Options


ROUGH = Options(
    clients=6,
    keys=1,
    duration_s=8.0,
    think_s=0.08,
    timeout_s=1.0,
    reads=4.0,
    puts=3.0,
    deletes=0.0,
    cases=3.0,
    delay_s=0.003,
    tail=0.15,
    tail_s=0.2,
    lost=0.02,
    overtaking=True,
)
"""Few keys, many at once, and a network that loses and delays."""
PARTED = replace(ROUGH, partitions_rate=0.8, parted_s=1.0)
DUELS = replace(
    ROUGH,
    partitions_rate=3.0,
    parted_s=0.6,
    lost=0.1,
    broken=0.03,
    timeout_s=0.6,
    think_s=0.05,
    reads=6.0,
    puts=1.0,
    cases=6.0,
)
"""Accepts that reach a minority, and proposers that don't see one another."""
KILLED = replace(ROUGH, kills_rate=0.8, kill_all=0.5, down_s=0.3, commit_s=0.01)


# -- the acceptor ------------------------------------------------------------------------------------------------


def _accept_ignores_promise(self: Acceptor, state: ReplicaState, message: Accept) -> bool:
    return message.record.ballot > state.ballot


def _relay_ignores_promise(self: Acceptor, state: ReplicaState, message: Accept) -> bool:
    ballot, is_relay = message.record.ballot, message.next_ballot == NONE and not message.yielding
    return ballot > state.ballot and (is_relay or (ballot >= state.promised and not message.yielding))


def _displaces_nothing(self: Acceptor, held: Record | None, record: Record) -> bool:
    return False


def _reply_at_once(self: Replica, ticket: int, respond: Callable[..., None], token: int, reply: Any) -> None:
    respond(token, reply)


# -- the proposer ------------------------------------------------------------------------------------------------


def _write_back_nothing(self: StrongRead, held: dict[int, Record | None]) -> Generator[Any, Any, Agreed]:
    return Agreed(newest(list(held.values())), tuple(held))
    yield


def _nothing_is_own(self: Proposer, base: Record | None) -> bool:
    return False


def _all_nack_means_no(self: Proposer, answers: Answers) -> None:
    self._look_above(answers)
    if all(type(answer) is not Accepted for _, answer in answers):
        self.sent = None


def _start_at_once(
    self: Primary, key: bytes, change: Any, needed: int, deadline_s: float, on_outcome: Callable[..., None]
) -> None:
    _Proposal(self, key, change, needed, deadline_s, on_outcome).start()


def _release_nothing(self: Primary, key: bytes) -> None:
    return None


def _take_and_leave(self: PreparedBallots, key: bytes) -> Prepared | None:
    found, state = self._ballots.get(key), self._own_state(key)
    return Prepared(found[0], state.record) if found and state and state.record else None


# -- time and memory ---------------------------------------------------------------------------------------------

_begin_clock = BallotClock.__init__


def _begin_without_ceiling(
    self: BallotClock, clock: Any, slot: int, ceiling_ms: int, reserve: Callable[..., None]
) -> None:
    _begin_clock(self, clock, slot, 0, reserve)


def _all_is_durable(self: BallotClock) -> bool:
    return True


def _time_stands_still(self: BallotClock) -> int:
    """A clock that only counts, so that the fault does not hide behind the time that a restart takes."""
    return WALL_START_MS


def _nothing_contradicts(self: Verification, slot: int, remembered: Any) -> None:
    return None


async def _compare_nothing(self: Floors, slot: int, partition: int, floor: int) -> None:
    return None


def _never_doubtful(context: Any, record: Record | None) -> bool:
    return False


def _settled_by_nobody(self: _Reading, end: Any) -> None:
    """As the code has it, but an expired value is merely not shown."""
    if isinstance(end, Agreed):
        end = Agreed(self._coordinator.shown(end.record), end.slots)
    _reading_ended(self, end)


_reading_ended = _Reading._ended


def _always_may_be_sent(self: Hints, number: int) -> None:
    kept = self._kept.get(number)
    if kept is not None:
        self._forget(number)


# -- handing over ------------------------------------------------------------------------------------------------


def _offer_again(self: _Handing, slot: int, answer: Answer) -> None:
    if self._on_outcome is None:
        return
    if type(answer) is Forwarded:
        self._end(answer.outcome)
    else:
        self._offer_next()


def _silence_is_no(self: _Handing) -> Any:
    return Unavailable(self._needed, 0, ())


def _offer_all_again(self: HandingMany, place: int, slot: int, answer: Answer) -> None:
    _answered(self, place, slot, Lost(sent=False) if isinstance(answer, Lost) else answer)


_answered = HandingMany._answered


def _silence_is_no_to_all(self: HandingMany, place: int) -> None:
    self._on_outcome(place, Unavailable(self._needed, 0, ()))


# -- locks -------------------------------------------------------------------------------------------------------


def _released_with_its_fence(state: LockState, token: bytes, only: Any = None) -> LockState | None:
    after = released(state, token, only)
    return None if after is None else LockState(0, after.permits, after.grants, after.recent)


def _acquired_by_counting(state: LockState, wish: Any, over: Any, now_ms: int) -> LockState | None:
    return acquired(state, wish, over, 0)


def _ends_early(since_s: float, grant: Any) -> float:
    return float(since_s + grant.ttl_ms / 1000 * 0.4)


def _sees_no_higher_fence(base: Record | None, fence: Any) -> int:
    return 0


_LOCKS = replace(ROUGH, clients=1, lockers=5, think_s=0.2, fenced=0.6, late_holders=0.6, duration_s=15.0, lost=0.0)
_FLOORS = replace(
    ROUGH,
    clients=4,
    keys=30,
    reads=3.0,
    puts=4.0,
    cases=0.0,
    deletes=5.0,
    duration_s=15.0,
    think_s=0.1,
    lost=0.12,
    tail=0.0,
    hasty_floors=True,
    purge_after_s=0.3,
    clock_offset_max_s=1.0,
    anti_entropy_interval_s=10.0,
)
"""Deletions that one replica misses, and keys that are left alone for long enough that this shows."""
_AMNESIA = replace(
    ROUGH,
    duration_s=15.0,
    kills_rate=1.0,
    wipes=6.0,
    down_s=0.1,
    partitions_rate=0.8,
    parted_s=1.0,
    lost=0.05,
    clock_offset_max_s=1.0,
)

FAULTS = (
    Fault(
        "accept-below-the-promise",
        "a replica accepts nothing below what it has promised",
        "two conditional writes both win, and one is lost",
        lambda: [patch.object(Acceptor, "may_accept", _accept_ignores_promise)],
        DUELS,
    ),
    Fault(
        "relay-past-a-promise",
        "copies between replicas obey the same rule as writes",
        "a value that lost comes up after the winner",
        lambda: [patch.object(Acceptor, "may_accept", _relay_ignores_promise)],
        DUELS,
    ),
    Fault(
        "ack-before-commit",
        "an answer waits for the commit of what it shows",
        "what was acknowledged is gone when the power is",
        lambda: [patch.object(Replica, "_reply", _reply_at_once)],
        KILLED,
    ),
    Fault(
        "ballot-reused-after-restart",
        "a ceiling above every ballot is on disk before the ballot leaves",
        "one ballot bears two values",
        lambda: [
            patch.object(BallotClock, "__init__", _begin_without_ceiling),
            patch.object(BallotClock, "check_durable", _all_is_durable),
            patch.object(BallotClock, "now_ms", _time_stands_still),
        ],
        replace(DUELS, kills_rate=3.0, down_s=0.1, weak_writes=3.0, commit_s=0.002),
    ),
    Fault(
        "read-without-write-back",
        "a reader that finds the newest value on a minority brings it to a majority first",
        "a value is seen, and then the one before it",
        lambda: [patch.object(StrongRead, "write_back", _write_back_nothing)],
        DUELS,
    ),
    Fault(
        "own-value-reported-as-conflict",
        "a retry that meets its own value knows it",
        "a write that was applied is called refused",
        lambda: [
            patch.object(Proposer, "is_own", _nothing_is_own),
            patch.object(Proposer, "is_uncertain", _nothing_is_own),
        ],
        DUELS,
    ),
    Fault(
        "refusals-taken-for-a-no",
        "once an accept was sent, refusals prove nothing",
        "a write is done twice, or called failed and seen",
        lambda: [patch.object(Proposer, "note_failed_accept", _all_nack_means_no)],
        DUELS,
    ),
    Fault(
        "cached-ballot-shared",
        "one attempt at a time per key, and a prepared ballot is gone once it is taken",
        "one ballot bears two values",
        lambda: [
            patch.object(Primary, "submit", _start_at_once),
            patch.object(Primary, "release", _release_nothing),
            patch.object(PreparedBallots, "take", _take_and_leave),
        ],
        ROUGH,
    ),
    Fault(
        "second-proposer-after-silence",
        "a write that was handed to a primary is handed to nobody else",
        "it is applied twice",
        lambda: [patch.object(_Handing, "_answered", _offer_again)],
        replace(PARTED, lost=0.05, broken=0.02),
    ),
    Fault(
        "silence-taken-for-a-no",
        "a primary that does not answer may have applied the write",
        "a write is called not applied, and seen",
        lambda: [patch.object(_Handing, "_nobody_knows", _silence_is_no)],
        PARTED,
    ),
    Fault(
        "batch-handed-over-twice",
        "puts of a batch that were handed to a primary are handed to nobody else",
        "they are applied twice",
        lambda: [patch.object(HandingMany, "_answered", _offer_all_again)],
        replace(PARTED, lost=0.05, broken=0.02, batches=0.5),
    ),
    Fault(
        "silence-taken-for-a-no-to-a-batch",
        "a primary that does not answer may have applied the puts of a batch",
        "a write is called not applied, and seen",
        lambda: [patch.object(HandingMany, "_nobody_knows", _silence_is_no_to_all)],
        replace(PARTED, batches=0.5),
    ),
    Fault(
        "displaced-write-forgotten",
        "a weak write that a strong one pushes out is kept aside",
        "an acknowledged weak write is lost to an older value",
        lambda: [patch.object(Acceptor, "displaces", _displaces_nothing)],
        replace(DUELS, weak_writes=6.0, keys=3),
    ),
    Fault(
        "hint-dropped",
        "a hint stays until its replica has it",
        "an eventual write that only a hint holds is lost",
        lambda: [patch.object(Hints, "_may_be_sent", _always_may_be_sent)],
        replace(
            ROUGH,
            nodes=5,
            partitions=8,
            clients=3,
            keys=60,
            think_s=0.2,
            reads=1.0,
            puts=0.0,
            cases=0.0,
            eventual_writes=8.0,
            partitions_rate=1.0,
            parted_s=12.0,
            lost=0.0,
            tail=0.0,
        ),
    ),
    Fault(
        "purge-before-all-hold-it",
        "all replicas are compared before a tombstone goes",
        "a value comes back that one of them had kept, or an acknowledged one counts as deleted",
        lambda: [patch.object(Floors, "_compare", _compare_nothing)],
        _FLOORS,
    ),
    Fault(
        "vote-after-amnesia",
        "a replica that has lost its memory does not vote",
        "an acknowledged write is lost",
        lambda: [patch.object(Verification, "_contradiction", _nothing_contradicts)],
        _AMNESIA,
    ),
    Fault(
        "expiry-not-settled",
        "a strong read settles what it finds expired",
        "a value is gone, and then there again, by a clock that is behind",
        lambda: [
            patch("cluster.coordination.coordinator.is_doubtful", _never_doubtful),
            patch.object(_Reading, "_ended", _settled_by_nobody),
        ],
        replace(ROUGH, expiring=0.7, skew_s=2.0, deletes=0.0, duration_s=15.0, keys=3),
    ),
    Fault(
        "fence-reset-on-release",
        "a lock's fence outlives its release, and grows with time",
        "a later holder has a lower fence",
        lambda: [
            patch("cluster.locks.lock.released", _released_with_its_fence),
            patch("cluster.locks.lock.acquired", _acquired_by_counting),
        ],
        _LOCKS,
    ),
    Fault(
        "lease-broken-early",
        "a grant is watched for its whole lease before it is taken over",
        "two hold one lock",
        lambda: [patch("cluster.locks.lease_watch._ends", _ends_early)],
        _LOCKS,
    ),
    Fault(
        "fence-not-looked-at",
        "a key refuses what comes under a lower fence than it has seen",
        "a late holder writes over the work of the next one",
        lambda: [patch("cluster.protocol.changes.highest_seen", _sees_no_higher_fence)],
        _LOCKS,
    ),
)
BY_NAME = {fault.name: fault for fault in FAULTS}


@dataclass(frozen=True)
class Caught:
    """What gave a fault away."""

    seeds: int
    """How many it took."""
    seconds: float
    what: str


def catch(fault: Fault, seeds_max: int = SEEDS_MAX) -> Caught | None:
    """Tries seed after seed; None when none of them notices.

    A patch that the code can't run with is no proof: TypeError says that it has to follow the code.
    """
    began_s = process_time()
    with ExitStack() as stack:
        for one in fault.patches():
            stack.enter_context(one)
        for seed in range(seeds_max):
            try:
                run_seed(seed, fault.options)
            except Violation as violation:
                if "TypeError" in str(violation) or "AttributeError" in str(violation):
                    raise TypeError(f"{fault.name} does not fit the code any more: {violation}") from violation
                return Caught(seed + 1, process_time() - began_s, str(violation).splitlines()[0])
    return None


def table(caught: dict[str, Caught | None]) -> str:
    """The rows for the page."""
    rows = ["| fault | leaves out | what then happens | seeds until it was caught |", "|---|---|---|---|"]
    for fault in FAULTS:
        found = caught[fault.name]
        seeds = f"{found.seeds}" if found is not None else f"not within {SEEDS_MAX}"
        rows.append(f"| `{fault.name}` | {fault.leaves_out} | {fault.then} | {seeds} |")
    return "\n".join(rows)


def main(names: list[str]) -> int:
    """The command."""
    caught: dict[str, Caught | None] = {}
    for fault in [BY_NAME[name] for name in names] or FAULTS:
        found = caught[fault.name] = catch(fault)
        said = f"seed {found.seeds - 1}, {found.seconds:.1f} s: {found.what[:150]}" if found else "NOT CAUGHT"
        print(f"{fault.name:32} {said}", flush=True)
    if not names:
        text = DOCUMENT.read_text()
        before, rest = text.split(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{table(caught)}\n{END}{rest.split(END)[1]}")
    return 0 if all(caught.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
