"""Is each key one register? A search for each (linearizability/), within one budget for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from kvstore.verify.checkers.linearizability.search import Search
from kvstore.verify.checkers.linearizability.translation import (
    KINDS,
    STRONG,
    Translation,
    is_optional,
    saw,
    says_something,
)
from kvstore.verify.checkers.linearizability.windows import stretches
from kvstore.verify.history import History, Kind, Operation, Outcome
from kvstore.verify.verdict import Finding, Judgement, Verdict

NAME: Final = "linearizability"
FIRST_ROUND: Final = 2_000
ROUND_GROWS: Final = 5
STEPS_WHEN_SURE: Final = 20_000
"""For a key, once another is known to have no order."""
ALL_WHEN_SURE: Final = 400_000
"""The same for all keys together: a quarter of a minute or so."""
ONLY_NAMED: Final = "only_named"
"""In the details of a finding: nobody looked for the operations that show it."""
EXPLAINED_MAX: Final = 5
"""Keys whose fewest operations are looked for, which may take ten seconds each."""
STRETCH_STEPS: Final = 300
SLICE: Final = 20_000
"""Steps between two looks at the clock."""


class Budget(msgspec.Struct, frozen=True):
    """When a search gives up. A step takes some microseconds, and up to 400 bytes."""

    steps_per_key: int = 1_000_000
    steps: int = 4_000_000
    """For all keys together."""
    is_over: Callable[[], bool] = lambda: False
    """Asked now and then: a deadline, say."""


def per_key(history: Iterable[Operation]) -> dict[str, list[Operation]]:
    """The operations on registers, by key."""
    keys: dict[str, list[Operation]] = {}
    for operation in history:
        if operation.kind in KINDS:
            keys.setdefault(operation.key, []).append(operation)
    return keys


Explain = Callable[[Sequence[Operation], Any, int], Finding]
"""(a key's operations, the initial value, the completion that nothing explains) -> what to tell."""


def check(
    history: History,
    *,
    initial: Any = None,
    budget: Budget | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    explain: Explain | None = None,
) -> Judgement:
    """Whether each key's operations have an order that explains all answers.

    Keys are searched in rounds, each with more steps a key than the last, so that a key without an order is found
    although another is hard; where the first does not do, short stretches of the key are tried (windows.py). Every
    key is looked at. Once one has no order the verdict is sure, and the others are given less: what is hard among
    them is left undecided. The first EXPLAINED_MAX keys without an order are explained, the others are only named.
    """
    budget = budget or Budget()
    keys = per_key(history)
    rounds = _Rounds(keys, initial, budget, progress)
    rounds.run()
    findings = []
    for number, (key, stuck_at) in enumerate(rounds.stuck):
        if number >= EXPLAINED_MAX or (number and budget.is_over()):
            findings.append(_named(keys[key]))
        else:
            findings.append((explain or _bare_finding)(keys[key], initial, stuck_at))
    judged = sum(map(len, keys.values()))
    undecided = tuple(rounds.undecided)
    verdict = Verdict.VIOLATED if findings else Verdict.UNDECIDED if undecided or not judged else Verdict.VALID
    return Judgement(NAME, verdict, tuple(findings), undecided, _notes(keys), judged, len(keys))


class _Rounds:
    """The searches over all keys."""

    def __init__(
        self,
        keys: Mapping[str, Sequence[Operation]],
        initial: Any,
        budget: Budget,
        progress: Callable[[int, int], None],
    ) -> None:
        self._keys, self._initial, self._budget, self._progress = keys, initial, budget, progress
        self._searches: dict[str, Search] = {}
        self._left = budget.steps
        self.undecided = list(keys)
        self.stuck: list[tuple[str, int]] = []
        """(key, the completion that nothing explains) of those without an order, as they were found."""

    def run(self) -> None:
        """Until all is decided, or the budget is used up."""
        steps = min(FIRST_ROUND, self._budget.steps_per_key)
        while True:
            self._round(steps)
            most = min(self._budget.steps_per_key, STEPS_WHEN_SURE) if self.stuck else self._budget.steps_per_key
            if not self.undecided or steps >= most or self._is_over():
                return
            steps = min(steps * ROUND_GROWS, most)

    def _round(self, steps: int) -> None:
        still: list[str] = []
        for number, key in enumerate(self.undecided):
            if self._left <= 0 or (number % 64 == 0 and self._budget.is_over()):
                still.extend(self.undecided[number:])
                break
            answer, stuck_at = self._search(key, steps)
            if answer is None:
                still.append(key)
                continue
            if stuck_at is not None:
                if not self.stuck:
                    self._left = min(self._left, ALL_WHEN_SURE)
                self.stuck.append((key, stuck_at))
            self._progress(len(self._keys) - len(self.undecided) + number + 1 - len(still), len(self._keys))
        self.undecided = still

    def _search(self, key: str, steps: int) -> tuple[bool | None, int | None]:
        """Whether there is an order, and where it got stuck. A search that is not over is kept for the next round."""
        known = self._searches.pop(key, None)
        search = known or Translation(self._keys[key], self._initial).search()
        before = search.steps
        answer = _run(search, min(steps - before, self._left), self._budget)
        self._left -= search.steps - before
        if answer is None and known is None:
            stuck_at = wrong_stretch(self._keys[key])
            if stuck_at is not None:
                return False, stuck_at
        if answer is None:
            self._searches[key] = search
        return answer, search.stuck_at if answer is False else None

    def _is_over(self) -> bool:
        return self._left <= 0 or self._budget.is_over()


def wrong_stretch(operations: Sequence[Operation]) -> int | None:
    """The last completion of a stretch that has no order, whatever was before; None where none was found."""
    saying = [operation for operation in operations if says_something(operation)]
    if any(operation.kind == Kind.APPEND for operation in saying):
        return None
    for last, stretch in stretches(saying, [is_optional(operation) for operation in saying]):
        if Translation(stretch, any_beginning=True).search().run(STRETCH_STEPS) is False:
            return last
    return None


def _run(search: Search, steps: int, budget: Budget) -> bool | None:
    while steps > 0:
        at_once = min(steps, SLICE)
        answer = search.run(at_once)
        if answer is not None:
            return answer
        steps -= at_once
        if budget.is_over():
            break
    return search.answer


def _bare_finding(operations: Sequence[Operation], initial: Any, stuck_at: int) -> Finding:
    shown = tuple(operation for operation in operations if operation.invoked <= stuck_at)
    return Finding(NAME, operations[0].key, "No order of these operations explains all answers.", shown, False)


def _named(operations: Sequence[Operation]) -> Finding:
    what = f"No order of its {len(operations):,} operations explains all answers; the fewest were not looked for."
    return Finding(NAME, operations[0].key, what, is_minimal=False, details={ONLY_NAMED: True})


def _notes(keys: Mapping[str, Sequence[Operation]]) -> tuple[str, ...]:
    everything = [operation for operations in keys.values() for operation in operations]
    if not everything:
        return ("there are no operations on registers",)
    if not any(operation.outcome in (Outcome.OK, Outcome.CONFLICT) and saw(operation) for operation in everything):
        return ("nothing was ever observed: no read and no conflict has an answer, so nothing was put to the test",)
    return ()


def needs_search(history: Iterable[Operation]) -> bool:
    """Whether there is something that promises an order. Weak writes alone do not."""
    return any(operation.kind in STRONG for operation in history)
