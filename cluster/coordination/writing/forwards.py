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
from cluster.protocol.messages import Forward, Forwarded, ForwardMany, Outcome, Reply, Unfit, refuse
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
        ended = partial(self._ended, began_s, respond, token)
        self._primary.submit(forward.key, forward.change, forward.needed, began_s + left_s, ended)

    def handle_many(self, forward: ForwardMany, age_ms: int, respond: Respond, token: int) -> None:
        """Proposes each of the puts for itself, and answers each when it has ended."""
        left_s, count = (forward.budget_ms - age_ms) / 1000, len(forward.puts)
        reason = self._why_not(left_s, [key for key, _ in forward.puts])
        began_s = self._now_s()
        refusal: Reply | None = Unfit(reason) if reason is not None else None
        if refusal is None and (overloaded := self._too_late(began_s, left_s, count)) is not None:
            refusal = Forwarded(overloaded)
        if refusal is not None:
            refuse(forward, refusal, respond, token)
            return
        self.admission.begin(count)
        submit, needed = self._primary.submit, forward.needed
        for place, (key, put) in enumerate(forward.puts):
            submit(key, put, needed, began_s + left_s, partial(self._ended, began_s, respond, token + place))

    def _ended(self, began_s: float, respond: Respond, token: int, outcome: Outcome) -> None:
        kind = type(outcome)
        self.admission.end(self._now_s() - began_s, kind is Written, is_late=kind is Unknown)
        respond(token, Forwarded(outcome))

    def _why_not(self, left_s: float, keys: Iterable[bytes]) -> str | None:
        if left_s <= 0:
            return "its time was used up when it arrived"
        reason = self._fitness.why_no_writes() if self._fitness.bars else None
        if reason is None:
            replicas_of = self._topology().replicas_of
            for key in keys:
                if self._own_slot not in replicas_of(key):
                    return "this node holds no replica of the key"
        return reason

    def _too_late(self, now_s: float, left_s: float, count: int) -> Overloaded | None:
        self.admission.look(now_s)
        if self.admission.can_make(left_s):
            return None
        self.admission.refused += count
        return Overloaded(self.admission.expected_s())
