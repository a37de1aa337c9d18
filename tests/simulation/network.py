"""The network of a simulation: connections that are as the real ones (cluster/link), over links that are not.

A connection leads from one process to one of another node and carries frames of requests one way, of replies the other
(the real structs, really encoded). It keeps what Transport promises: on_answer exactly once, Lost(sent=False) only
for what never left. What a TCP connection does when packets are lost is a delay, or its end; so here

    cut          frames wait for the link to heal, as in the sender's kernel; after SILENCE_S_MAX without a word the
                 connection is given up, and what was under way is Lost(sent=True)
    lost         a frame vanishes, and what it carried is Lost(sent=True) some time later
    broken       the connection ends at this frame, which may have arrived or not
    doubled      requests to a replica arrive a second time, later: no real connection does that, but the protocol
                 must bear it. Not those to a primary or a keeper: a write has one proposer (docs/protocol.md)
    overtaking   frames have each a delay of its own, in place of their order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from cluster.clock import Clock
from cluster.link.dialler import LOST_SENT, LOST_UNSENT, RETRY_S_MAX, RETRY_S_MIN, SILENCE_S_MAX, OnAnswer
from cluster.link.frames import Replies, Requests, decode_replies, decode_requests, encode
from cluster.membership.failure_detector import HEARTBEAT_INTERVAL_S, FailureDetector
from cluster.membership.topology import Topology
from cluster.node import ClusterNode
from cluster.protocol.messages import (
    Accept,
    ForwardMany,
    Glance,
    Prepare,
    PrepareMany,
    Read,
    Reply,
    Request,
    Unfit,
    Volley,
    is_harmless,
    parts_of,
    refuse,
)
from cluster.tasks import safely
from tests.simulation.loop import Life, SimulationLoop
from tests.simulation.trace import Trace

LOSS_S_MAX = 4.0
DOUBLED_S_MAX = 3.0
_MAY_COME_TWICE = (Read, Glance, Prepare, PrepareMany, Accept, Volley)


@dataclass
class Weather:
    """How the links are just now."""

    delay_s: float = 0.0005
    """Of the fastest frame; half of it again is drawn on top, and now and then far more (see `tail`)."""
    tail: float = 0.0
    """Chance that a frame takes a delay out of tail_s."""
    tail_s: float = 0.3
    lost: float = 0.0
    broken: float = 0.0
    doubled: float = 0.0
    overtaking: bool = False


class Process(Protocol):
    """What the network needs of a running node."""

    slot: int
    life: Life
    clock: Clock
    node: ClusterNode
    transport: SimulatedTransport


@dataclass
class Link:
    """One direction between two nodes."""

    is_cut: bool = False
    slow_s: float = 0.0
    """On top of every delay, for a while."""
    last_arrival_s: float = 0.0
    waiting: list[tuple[Callable[..., None], tuple[Any, ...], Life]] = field(default_factory=list)


class Network:
    """All links, and who runs where."""

    def __init__(
        self, loop: SimulationLoop, random: Random, trace: Trace, topology: Topology, weather: Weather
    ) -> None:
        self.loop, self.random, self.trace, self.topology, self.weather = loop, random, trace, topology, weather
        slots = [member.slot for member in topology.members]
        self.links = {(one, other): Link() for one in slots for other in slots if one != other}
        self.processes: dict[int, Process] = {}
        """Those that run, by slot."""
        self.frames = 0

    def is_open(self, one: int, other: int) -> bool:
        """Whether both directions work."""
        return not (self.links[one, other].is_cut or self.links[other, one].is_cut)

    def cut(self, source: int, target: int) -> None:
        """From now on nothing gets from the one to the other."""
        self.links[source, target].is_cut = True

    def heal(self, source: int, target: int) -> None:
        """It does again, also what was sent meanwhile, unless its connection was given up."""
        link = self.links[source, target]
        link.is_cut = False
        waiting, link.waiting = link.waiting, []
        for deliver, arguments, life in waiting:
            if deliver.__self__.is_up:  # type: ignore[attr-defined]  # what a connection had not sent ends with it
                self._send(link, deliver, arguments, life)

    def heal_all(self) -> None:
        """All links are as good as ever."""
        self.weather = Weather()
        for (source, target), link in self.links.items():
            link.slow_s = 0.0
            self.heal(source, target)

    def carry(self, link: Link, deliver: Callable[..., None], arguments: tuple[Any, ...], life: Life) -> None:
        """Calls deliver(*arguments) in the life of the other side, some time later."""
        self.frames += 1
        if link.is_cut:
            link.waiting.append((deliver, arguments, life))
        else:
            self._send(link, deliver, arguments, life)

    def _send(self, link: Link, deliver: Callable[..., None], arguments: tuple[Any, ...], life: Life) -> None:
        arrival_s = self.loop.time() + self.delay_s(link)
        if not self.weather.overtaking:
            arrival_s = link.last_arrival_s = max(arrival_s, link.last_arrival_s)
        self.loop.call_at(arrival_s, deliver, *arguments, context=life.context)

    def delay_s(self, link: Link) -> float:
        """How long the next frame takes."""
        weather, random = self.weather, self.random.random
        delay_s = weather.delay_s * (1.0 + random() / 2) + link.slow_s
        if weather.tail and random() < weather.tail:
            delay_s += random() * weather.tail_s
        return delay_s


class Connection:
    """From a process to another one. Its ends are in two lives; nothing but frames passes between them."""

    def __init__(self, network: Network, source: SimulatedTransport, target: Process) -> None:
        self._network, self._source, self._target = network, source, target
        self._out = network.links[source.slot, target.slot]
        self._back = network.links[target.slot, source.slot]
        self._numbers = 0
        self._in_flight: dict[int, OnAnswer] = {}
        self._requests: list[tuple[int, Request]] = []
        self._replies: list[tuple[int, Reply]] = []
        self._fastest_ms: int | None = None
        self.is_up = True
        self.heard_s = network.loop.time()

    # -- in the life of the source -----------------------------------------------------------------------------

    def send(self, request: Request, on_answer: OnAnswer) -> None:
        """Queues the request; all that is queued in one turn leaves together."""
        self._numbers += 1
        self._in_flight[self._numbers] = on_answer
        self._queue(self._numbers, request)

    def send_many(self, forward: ForwardMany, on_answers: Sequence[OnAnswer]) -> None:
        """The same with one on_answer for each of its puts."""
        first = self._numbers + 1
        self._numbers += len(on_answers)
        self._in_flight.update(enumerate(on_answers, first))
        self._queue(first, forward)

    def _queue(self, number: int, request: Request) -> None:
        if not self._requests:
            self._network.loop.call_soon(self._flush_requests)
        self._requests.append((number, request))

    def _flush_requests(self) -> None:
        items, self._requests = self._requests, []
        network, topology = self._network, self._network.topology
        if not self.is_up:
            return
        sent_ms = int(self._source.clock.monotonic_s() * 1000)
        target = self._target.life
        if not target.is_alive:
            if self._target.slot in network.processes and network.is_open(self._source.slot, self._target.slot):
                self._network.loop.call_later(network.delay_s(self._out) * 2, self.end)  # nobody knows this connection
            return
        frame = encode(Requests(topology.epoch, topology.fingerprint, sent_ms, items))
        weather, random = network.weather, network.random
        if weather.lost and random.random() < weather.lost:
            self._lose([number + part for number, request in items for part in range(parts_of(request))])
            return
        if weather.broken and random.random() < weather.broken:
            network.loop.call_later(random.random() * 0.05, self.end)
            if random.random() < 0.5:
                return
        network.carry(self._out, self._requests_arrive, (frame,), target)
        if weather.doubled and random.random() < weather.doubled:
            again = [item for item in items if isinstance(item[1], _MAY_COME_TWICE)]
            if again:
                frame = encode(Requests(topology.epoch, topology.fingerprint, sent_ms, again))
                after_s = random.random() ** 3 * DOUBLED_S_MAX
                network.loop.call_later(after_s, self._requests_arrive, frame, context=target.context)

    def _lose(self, numbers: list[int]) -> None:
        """They are lost, and that is noticed some time later."""
        random = self._network.random
        self._network.loop.call_later(random.random() ** 2 * LOSS_S_MAX, self._lost, numbers)

    def _lost(self, numbers: list[int]) -> None:
        for number in numbers:
            on_answer = self._in_flight.pop(number, None)
            if on_answer is not None:
                safely(on_answer, self._target.slot, LOST_SENT)

    def end(self) -> None:
        """It breaks."""
        if not self.is_up:
            return
        self.is_up = False
        waiting, self._in_flight = self._in_flight, {}
        loop, slot = self._network.loop, self._target.slot
        for on_answer in waiting.values():
            loop.call_soon(on_answer, slot, LOST_SENT)
        self._source.ended(slot, self)

    def _replies_arrive(self, frame: bytes) -> None:
        if not self.is_up:
            return
        network, slot = self._network, self._target.slot
        network.trace.frame(network.loop.time(), slot, self._source.slot, frame)
        self.heard_s = network.loop.time()
        self._source.heard(slot)
        replies = decode_replies(frame)
        self._source.process.node.recollection.heard(slot, replies.boot, replies.commit_sequence)
        for number, reply in replies.items:
            on_answer = self._in_flight.pop(number, None)
            if on_answer is not None:
                safely(on_answer, slot, reply)

    # -- in the life of the target -----------------------------------------------------------------------------

    def _requests_arrive(self, frame: bytes) -> None:
        network, node, source = self._network, self._target.node, self._source.slot
        network.trace.frame(network.loop.time(), source, self._target.slot, frame)
        requests = decode_requests(frame)
        age_ms = self._age_ms(requests.sent_ms)
        reason = node.why_refuse(source)
        for number, request in requests.items:
            if reason is not None and not is_harmless(request):
                refuse(request, Unfit(reason), self._respond, number)
            else:
                safely(node.on_request, request, age_ms, self._respond, number)

    def _age_ms(self, sent_ms: int) -> int:
        """How much longer this frame took than the fastest one, as cluster/link/listener.py has it."""
        difference = int(self._target.clock.monotonic_s() * 1000) - sent_ms
        if self._fastest_ms is None or difference < self._fastest_ms:
            self._fastest_ms = difference
        return difference - self._fastest_ms

    def _respond(self, number: int, reply: Reply) -> None:
        if not self._replies:
            self._network.loop.call_soon(self._flush_replies)
        self._replies.append((number, reply))

    def _flush_replies(self) -> None:
        items, self._replies = self._replies, []
        network, source = self._network, self._source.process.life
        if not source.is_alive or not self.is_up:
            return
        frame = encode(Replies(network.topology.epoch, items, *self._target.node.recollection.mark()))
        weather, random = network.weather, network.random
        if weather.lost and random.random() < weather.lost:
            after_s = random.random() ** 2 * LOSS_S_MAX
            network.loop.call_later(after_s, self._lost, [number for number, _ in items], context=source.context)
            return
        network.carry(self._back, self._replies_arrive, (frame,), source)


class SimulatedTransport:
    """One process's end of the network. Implements Transport."""

    process: Process
    """Set before the process begins."""

    def __init__(self, network: Network, slot: int, clock: Clock, random: Random) -> None:
        self._network, self.slot, self.clock, self._random = network, slot, clock, random
        self._connections: dict[int, Connection] = {}
        self._dials: dict[int, Any] = {}
        self._pause_s: dict[int, float] = {}
        self._detector = FailureDetector()
        self._alive = {slot}

    def start(self) -> None:
        """Begins to dial and to look who is alive. In the life of the process."""
        for member in self._network.topology.members:
            if member.slot != self.slot:
                self._pause_s[member.slot] = RETRY_S_MIN
                self._dial(member.slot)
        self._look_around_for_ever()

    # -- Transport ---------------------------------------------------------------------------------------------

    def is_alive(self, slot: int) -> bool:
        return slot in self._alive

    def send(self, slot: int, request: Request, on_answer: OnAnswer) -> None:
        if slot == self.slot:
            self.process.node.on_request(request, 0, on_answer, slot)
        elif (connection := self._connections.get(slot)) is not None:
            connection.send(request, on_answer)
        else:
            self._network.loop.call_soon(on_answer, slot, LOST_UNSENT)

    def send_many(self, slot: int, forward: ForwardMany, on_answers: Sequence[OnAnswer]) -> None:
        """See Transport."""
        if (connection := self._connections.get(slot)) is not None:
            connection.send_many(forward, on_answers)
            return
        for on_answer in on_answers:
            self._network.loop.call_soon(on_answer, slot, LOST_UNSENT)

    # -- dialling ----------------------------------------------------------------------------------------------

    def _dial(self, slot: int) -> None:
        network = self._network
        target = network.processes.get(slot)
        if slot in self._connections:
            return
        if target is not None and not target.life.is_paused and network.is_open(self.slot, slot):
            link = network.links[self.slot, slot]
            network.loop.call_later(4 * network.delay_s(link), self._connected, slot, target)
            return
        self._dial_later(slot)

    def _dial_later(self, slot: int) -> None:
        pause_s = self._pause_s[slot]
        self._pause_s[slot] = min(2 * pause_s, RETRY_S_MAX)
        self._dials[slot] = self._network.loop.call_later(pause_s * (0.5 + self._random.random()), self._dial, slot)

    def dial_now(self, slot: int) -> None:
        """That peer has just connected."""
        if slot not in self._connections and slot in self._dials:
            self._dials.pop(slot).cancel()
            self._dial(slot)

    def _connected(self, slot: int, target: Process) -> None:
        network = self._network
        if slot in self._connections:
            return
        if not target.life.is_alive or not network.is_open(self.slot, slot):
            self._dial_later(slot)
            return
        self._dials.pop(slot, None)
        self._connections[slot] = Connection(network, self, target)
        self._pause_s[slot] = RETRY_S_MIN
        self.heard(slot)
        network.loop.call_soon(target.transport.dial_now, self.slot, context=target.life.context)

    def target_died(self, slot: int) -> None:
        """The kernel of the other machine says so."""
        connection = self._connections.get(slot)
        if connection is not None:
            connection.end()

    def ended(self, slot: int, connection: Connection) -> None:
        """A connection broke."""
        if self._connections.get(slot) is connection:
            del self._connections[slot]
            self._detector.gone(slot)
            self._alive.discard(slot)
            self._dial_later(slot)

    # -- who is alive ------------------------------------------------------------------------------------------

    def heard(self, slot: int) -> None:
        """A sign of life."""
        self._detector.heard(slot, self.clock.monotonic_s())
        if slot not in self._alive:
            self._look_around()

    def _look_around_for_ever(self) -> None:
        now_s = self._network.loop.time()
        for connection in list(self._connections.values()):
            if now_s - connection.heard_s > SILENCE_S_MAX:
                connection.end()
        self._look_around()
        self._network.loop.call_later(HEARTBEAT_INTERVAL_S / 2, self._look_around_for_ever)

    def _look_around(self) -> None:
        now_s, is_alive = self.clock.monotonic_s(), self._detector.is_alive
        self._alive = {slot for slot in self._connections if is_alive(slot, now_s)} | {self.slot}
