"""Transport: how a request reaches a replica, wherever it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Protocol

import structlog
from msgspec import Raw

from cluster.clock import Clock
from cluster.link.dialler import Dialler, OnAnswer, Peer
from cluster.link.frames import encode
from cluster.link.handshake import Identity
from cluster.link.listener import Listener, OnRequest
from cluster.membership.failure_detector import HEARTBEAT_INTERVAL_S, FailureDetector
from cluster.membership.topology import Topology
from cluster.protocol.messages import ForwardMany, Request, Volley
from cluster.tasks import Tasks

KEPT_BYTES_MAX = 128 * 1024
"""A larger volley is not kept in memory to save the work of encoding it again."""
log = structlog.get_logger()


class Transport(Protocol):
    """Carries requests to the nodes of the cluster, this one included.

    Nothing is promised but this: on_answer(slot, answer) is called exactly once, with a reply or with Lost. A message
    may be late, may overtake another one, and may have been handled though its answer is Lost(sent=True). An answer
    of this node itself may come before send() returns.
    """

    def send(self, slot: int, request: Request, on_answer: OnAnswer) -> None:
        """Sends the request to the node in that slot."""
        ...

    def send_many(self, slot: int, forward: ForwardMany, on_answers: Sequence[OnAnswer]) -> None:
        """The same with one on_answer for each of its puts, to another node."""
        ...

    def is_alive(self, slot: int) -> bool:
        """Whether the node seems worth sending to. Advice, never safety."""
        ...


class PeerTransport:
    """The transport over real sockets: a listener, and a dialler for each other member."""

    def __init__(
        self,
        topology: Callable[[], Topology],
        identity: Callable[[], Identity],
        secret: bytes,
        clock: Clock,
        random: Random,
        tasks: Tasks,
        *,
        admit: Callable[[str, str], str | None],
        on_request: OnRequest,
        why_refuse: Callable[[str], str | None] | None = None,
        mark: Callable[[], tuple[int, int]] = lambda: (0, 0),
        on_replies: Callable[[int, int, int], None] = lambda slot, boot, commit_sequence: None,
    ) -> None:
        """on_request handles what comes from peers, and what this node sends to itself.

        admit(name, zone) gives the reason to refuse a peer that proved the secret, or None; why_refuse, mark: see
        Listener; on_replies: see Dialler.
        """
        self._admit, self._on_replies = admit, on_replies
        self._topology, self._identity, self._secret = topology, identity, secret
        self._clock, self._random, self._tasks = clock, random, tasks
        self._on_request = on_request
        self._diallers: dict[int, Dialler] = {}
        self.detector = FailureDetector()
        self.identities: dict[int, Identity] = {}
        """What each peer said of itself when it was last heard, by slot."""
        self.slot = -1
        self._alive: set[int] = set()
        self._last_volley: tuple[Volley | None, Raw] = (None, Raw())
        self._listener = Listener(
            identity,
            secret,
            clock,
            random,
            topology=topology,
            on_hello=self._on_hello,
            on_request=on_request,
            why_refuse=why_refuse,
            mark=mark,
        )

    async def start(self, host: str, port: int, slot: int, peers: Iterable[Peer]) -> None:
        """Listens and begins to dial. Raises OSError when the address can't be had."""
        self.slot, self._alive = slot, {slot}
        await self._listener.start(host, port)
        for peer in peers:
            dialler = Dialler(
                peer,
                self._identity,
                self._secret,
                self._clock,
                self._random,
                topology=self._topology,
                on_heard=self._on_heard,
                on_up=self._on_up,
                on_down=self._on_down,
                on_replies=self._on_replies,
            )
            self._diallers[peer.slot] = dialler
            self._tasks.spawn(dialler.run(), f"dial {peer.name}")
        self._tasks.spawn(self._look_around_for_ever(), "look who is alive")

    async def _look_around_for_ever(self) -> None:
        while True:
            self.look_around()
            await asyncio.sleep(HEARTBEAT_INTERVAL_S / 2)

    async def stop(self) -> None:
        """Stops listening. The diallers end with the node's tasks."""
        await self._listener.stop()

    def send(self, slot: int, request: Request, on_answer: OnAnswer) -> None:
        """See Transport."""
        if slot == self.slot:
            self._on_request(request, 0, on_answer, slot)
        elif type(request) is Volley:
            self._diallers[slot].send(request, on_answer, self._encoded(request))
        else:
            self._diallers[slot].send(request, on_answer)

    def send_many(self, slot: int, forward: ForwardMany, on_answers: Sequence[OnAnswer]) -> None:
        """See Transport."""
        self._diallers[slot].send_many(forward, on_answers)

    def _encoded(self, volley: Volley) -> Raw:
        """It goes to one peer after the other, and is encoded once."""
        if volley is not self._last_volley[0]:
            encoded = Raw(encode(volley))
            if len(encoded) > KEPT_BYTES_MAX:
                return encoded
            self._last_volley = volley, encoded
        return self._last_volley[1]

    def is_alive(self, slot: int) -> bool:
        """See Transport. Looked up several times a request, so it is worked out only now and then."""
        return slot in self._alive

    def look_around(self) -> None:
        """Works out anew who seems alive; to be called several times a heartbeat."""
        now_s = self._clock.monotonic_s()
        is_up, is_alive = self.is_connected, self.detector.is_alive
        self._alive = {slot for slot in self._diallers if is_up(slot) and is_alive(slot, now_s)} | {self.slot}

    def is_connected(self, slot: int) -> bool:
        """Whether there is a connection to that node, silent or not."""
        return slot == self.slot or self._diallers[slot].is_up

    def _on_heard(self, slot: int) -> None:
        self.detector.heard(slot, self._clock.monotonic_s())
        if slot not in self._alive:
            self.look_around()

    def _on_down(self, slot: int) -> None:
        self.detector.gone(slot)
        self._alive.discard(slot)

    def _on_hello(self, identity: Identity) -> str | None:
        """A peer proved itself on a connection that it dialled."""
        for slot, dialler in self._diallers.items():
            if dialler.peer.name == identity.name:
                reason = self._on_up(slot, identity)
                if reason is None:
                    dialler.dial_now()
                return reason
        return f"{identity.name} is no member of this cluster"

    def _on_up(self, slot: int, identity: Identity) -> str | None:
        reason = self._admit(identity.name, identity.zone)
        if reason is not None:
            return reason
        self.identities[slot] = identity
        return None
