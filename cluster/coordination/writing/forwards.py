"""Forwards: changes that other nodes hand to this one, because it is the primary of their keys.

The other end is handover.py. What comes with its time used up, or can't be done in it, is refused before anything is
done with it: whoever asked has told its client by then that nobody knows, and to apply it after that would surprise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        began_s, left_s = self._now_s(), (forward.budget_ms - age_ms) / 1000
        if (refusal := self._refusal(began_s, left_s, (forward.key,))) is not None:
            respond(token, refusal)
            return
        self.admission.begin()
        ended = partial(self._ended, began_s, respond, token)
        self._primary.submit(forward.key, forward.change, forward.needed, began_s + left_s, ended)

    def handle_many(self, forward: ForwardMany, age_ms: int, respond: Respond, token: int) -> None:
        """Proposes each of the puts for itself, and answers each when it has ended."""
        began_s, left_s = self._now_s(), (forward.budget_ms - age_ms) / 1000
        if (refusal := self._refusal(began_s, left_s, [key for key, _ in forward.puts])) is not None:
            refuse(forward, refusal, respond, token)
            return
        self.admission.begin(len(forward.puts))
        submit, needed = self._primary.submit, forward.needed
        for place, (key, put) in enumerate(forward.puts):
            submit(key, put, needed, began_s + left_s, partial(self._ended, began_s, respond, token + place))

    def _ended(self, began_s: float, respond: Respond, token: int, outcome: Outcome) -> None:
        kind = type(outcome)
        self.admission.end(self._now_s() - began_s, kind is Written, is_late=kind is Unknown)
        respond(token, Forwarded(outcome))

    def _refusal(self, now_s: float, left_s: float, keys: Sequence[bytes]) -> Reply | None:
        """What is said of changes of these keys that are not begun; None where they are to be."""
        if left_s <= 0:
            return Unfit("its time was used up when it arrived")
        if self._fitness.bars and (reason := self._fitness.why_no_writes()) is not None:
            return Unfit(reason)
        replicas_of = self._topology().replicas_of
        for key in keys:
            if self._own_slot not in replicas_of(key):
                return Unfit("this node holds no replica of the key")
        self.admission.look(now_s)
        if self.admission.can_make(left_s):
            return None
        self.admission.refused += len(keys)
        return Forwarded(Overloaded(self.admission.expected_s()))
