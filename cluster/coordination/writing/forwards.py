"""Forwards: changes that other nodes hand to this one, because it is the primary of their keys.

The other end is handover.py. What comes with its time used up, or can't be done in it, is refused before anything is
done with it: whoever asked has told its client by then that nobody knows, and to apply it after that would surprise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from cluster.clock import Clock
from cluster.coordination.writing.primary import Primary
from cluster.membership.fitness import Fitness
from cluster.membership.topology import Topology
from cluster.pressure.admission import Admission
from cluster.protocol.messages import Forward, Forwarded, ForwardedMany, ForwardMany, Outcome, Unfit
from cluster.replica.replica import Respond
from cluster.requests import Overloaded, Unknown, Written


class Forwards:
    """Lets the primary propose them, and answers when it has ended."""

    def __init__(
        self, primary: Primary, fitness: Fitness, topology: Callable[[], Topology], own_slot: int, clock: Clock
    ) -> None:
        self._primary, self._fitness, self._topology, self._own_slot = primary, fitness, topology, own_slot
        self._now_s = clock.monotonic_s
        self.admission = Admission()

    def handle(self, forward: Forward, age_ms: int, respond: Respond, token: int) -> None:
        """Proposes the change."""
        left_s = (forward.budget_ms - age_ms) / 1000
        reason = self._why_not(left_s, (forward.key,))
        if reason is not None:
            respond(token, Unfit(reason))
            return
        began_s, admission = self._now_s(), self.admission
        if (refusal := self._too_late(began_s, left_s, 1)) is not None:
            respond(token, Forwarded(refusal))
            return
        admission.begin()

        def ended(outcome: Outcome) -> None:
            kind = type(outcome)
            admission.end(self._now_s() - began_s, kind is Written, is_late=kind is Unknown)
            respond(token, Forwarded(outcome))

        self._primary.submit(forward.key, forward.change, forward.needed, began_s + left_s, ended)

    def handle_many(self, forward: ForwardMany, age_ms: int, respond: Respond, token: int) -> None:
        """Proposes each of the puts for itself; all are answered together."""
        left_s = (forward.budget_ms - age_ms) / 1000
        reason = self._why_not(left_s, [key for key, _ in forward.puts])
        if reason is not None:
            respond(token, Unfit(reason))
            return
        began_s, submit, needed = self._now_s(), self._primary.submit, forward.needed
        if (refusal := self._too_late(began_s, left_s, len(forward.puts))) is not None:
            respond(token, ForwardedMany([refusal] * len(forward.puts)))
            return
        many = _Many(self, began_s, len(forward.puts), respond, token)
        for place, (key, put) in enumerate(forward.puts):
            submit(key, put, needed, began_s + left_s, partial(many.ended, place))

    def _why_not(self, left_s: float, keys: Iterable[bytes]) -> str | None:
        if left_s <= 0:
            return "its time was used up when it arrived"
        reason = self._fitness.why_no_writes() if self._fitness.bars else None
        if reason is None:
            replicas_of = self._topology().replicas_of
            if any(self._own_slot not in replicas_of(key) for key in keys):
                reason = "this node holds no replica of the key"
        return reason

    def _too_late(self, now_s: float, left_s: float, count: int) -> Overloaded | None:
        self.admission.look(now_s)
        if self.admission.can_make(left_s):
            return None
        self.admission.refused += count
        return Overloaded(self.admission.expected_s())


class _Many:
    """Those that came together, until all of them have ended."""

    __slots__ = ("_began_s", "_forwards", "_left", "_outcomes", "_respond", "_token")

    def __init__(self, forwards: Forwards, began_s: float, count: int, respond: Respond, token: int) -> None:
        self._forwards, self._began_s, self._respond, self._token = forwards, began_s, respond, token
        self._outcomes: list[Outcome] = [Overloaded(0.0)] * count
        self._left = count
        forwards.admission.begin(count)

    def ended(self, place: int, outcome: Outcome) -> None:
        """That one has; called once for each."""
        self._outcomes[place] = outcome
        self._left -= 1
        if self._left:
            return
        kinds = list(map(type, self._outcomes))
        took_s, end = self._forwards._now_s() - self._began_s, self._forwards.admission.end
        done, late = kinds.count(Written), kinds.count(Unknown)
        end(took_s, True, count=done)
        end(took_s, False, is_late=True, count=late)
        end(took_s, False, count=len(kinds) - done - late)
        self._respond(self._token, ForwardedMany(self._outcomes))
