"""Options: what a seed draws before anything happens. Swarm testing (Groce et al., 2012): each run leaves most of the
features and faults out, and has the others at its own strengths, for what hides a fault is mostly another feature.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from random import Random


@dataclass(frozen=True)
class Options:
    """One run. Rates are per second, chances per piece of work."""

    nodes: int = 3
    partitions: int = 4
    clients: int = 5
    keys: int = 4
    duration_s: float = 20.0
    think_s: float = 0.6
    """Of a client between two operations, on average."""
    timeout_s: float = 4.0
    value_bytes: int = 0
    """Beside what tells values apart."""

    # how much of each operation; a share of all
    reads: float = 4.0
    puts: float = 2.0
    deletes: float = 0.5
    cases: float = 2.0
    weak_writes: float = 0.0
    eventual_writes: float = 0.0
    weak_reads: float = 0.0
    listings: float = 0.0
    expiring: float = 0.0
    """Share of the writes with a time to live."""
    w_all: float = 0.0
    """Share of the strong writes that ask for all replicas, and of weak ones that ask for two."""
    bursts: float = 0.0
    """Share of a client's moments in which it writes one key many times at once: plain writes that go together."""
    batches: float = 0.0
    """Share of those in which it writes several keys through one node, as a batch does."""
    lockers: int = 0
    fenced: float = 0.0
    """Share of a holder's moments in which it writes under its fence."""
    late_holders: float = 0.0
    """Share of the holders that go on writing when their lease is over."""
    voters: int = 0

    # the network
    delay_s: float = 0.0005
    tail: float = 0.0
    tail_s: float = 0.3
    lost: float = 0.0
    broken: float = 0.0
    doubled: float = 0.0
    overtaking: bool = False
    partitions_rate: float = 0.0
    """How often the network is parted in some way."""
    slow_links_rate: float = 0.0
    parted_s: float = 3.0
    """How long it stays so, on average."""

    # the nodes
    kills_rate: float = 0.0
    pauses_rate: float = 0.0
    down_s: float = 2.0
    """How long a node is down, or paused, on average."""
    kill_all: float = 0.0
    """Share of the kills that hit all nodes at once."""
    wipes: float = 0.0
    """Share of the kills after which the folder is gone."""
    rollbacks: float = 0.0
    """Share of them after which an older copy of the folder is there."""
    rot: float = 0.0
    """Share of them after which a record is damaged."""
    cache_bytes_max: int = 1 << 24

    # clocks
    skew_s: float = 0.0
    drift: float = 0.0
    jumps_rate: float = 0.0
    far_jumps: float = 0.0
    """Share of the jumps that go beyond the allowed offset."""
    clock_offset_max_s: float = 5.0

    # disks
    commit_s: float = 0.001
    slow_disks_rate: float = 0.0
    full_disks_rate: float = 0.0
    failing_disks_rate: float = 0.0

    # repair
    anti_entropy_interval_s: float = 3.0
    purge_after_s: float = 180.0
    hasty_floors: bool = False
    """Raises floors every second or so, to a few seconds ago: their safety must not rest on time."""

    def shown(self) -> str:
        """What differs from the defaults."""
        default = Options()
        named = [(one.name, getattr(self, one.name)) for one in fields(self)]
        return ", ".join(f"{name}={value!r}" for name, value in named if value != getattr(default, name))


def draw(seed: int) -> Options:
    """The options of a seed."""
    random = Random(f"options of {seed}")

    def chance(probability: float) -> bool:
        return random.random() < probability

    def some(probability: float, low: float, high: float) -> float:
        """A strength between these, or none."""
        is_on, strength = chance(probability), low * (high / low) ** random.random()
        return round(strength, 4) if is_on else 0.0

    amnesia = chance(0.25)
    floors = chance(0.25)
    offset_s = random.choice((1.0, 1.0, 5.0))
    return Options(
        nodes=5 if chance(0.12) else 3,
        partitions=random.choice((2, 4, 8)),
        clients=random.randint(2, 8),
        keys=random.choice((1, 2, 3, 4, 6, 10)),
        duration_s=random.choice((8.0, 12.0, 20.0, 30.0)),
        think_s=random.choice((0.2, 0.5, 1.0)),
        timeout_s=random.choice((1.0, 2.0, 5.0)),
        reads=random.choice((2.0, 4.0, 8.0)),
        puts=random.choice((0.5, 2.0, 4.0)),
        deletes=some(0.6, 0.3, 3.0),
        cases=some(0.8, 0.5, 6.0),
        weak_writes=some(0.5, 0.5, 6.0),
        eventual_writes=some(0.4, 0.5, 6.0),
        weak_reads=some(0.3, 0.5, 3.0),
        listings=some(0.25, 0.2, 1.0),
        expiring=some(0.25, 0.1, 0.6),
        w_all=some(0.25, 0.1, 0.5),
        lockers=random.randint(2, 5) if chance(0.35) else 0,
        fenced=some(0.6, 0.2, 1.0),
        late_holders=some(0.5, 0.1, 0.6),
        voters=random.randint(2, 4) if chance(0.25) else 0,
        delay_s=random.choice((0.0003, 0.001, 0.005, 0.03)),
        tail=some(0.4, 0.005, 0.2),
        tail_s=random.choice((0.1, 0.5, 2.0)),
        lost=some(0.4, 0.002, 0.08),
        broken=some(0.3, 0.001, 0.01),
        doubled=some(0.4, 0.01, 0.3),
        overtaking=chance(0.5),
        partitions_rate=some(0.5, 0.05, 0.5),
        slow_links_rate=some(0.3, 0.05, 0.3),
        parted_s=random.choice((0.5, 2.0, 5.0, 12.0)),
        kills_rate=some(1.0, 0.08, 0.3) if amnesia else some(0.4, 0.05, 0.4),
        pauses_rate=some(0.3, 0.05, 0.3),
        down_s=random.choice((0.2, 1.0, 3.0, 8.0)),
        kill_all=some(0.4, 0.1, 0.5),
        wipes=some(0.6, 0.2, 0.8) if amnesia else 0.0,
        rollbacks=some(0.5, 0.2, 0.8) if amnesia else 0.0,
        rot=some(0.15, 0.2, 0.6),
        cache_bytes_max=random.choice((1 << 24, 1 << 24, 2_000)),
        skew_s=some(0.5, 0.05, 0.5) * offset_s,
        drift=some(0.4, 0.00001, 0.0005),
        jumps_rate=some(0.3, 0.05, 0.3),
        far_jumps=some(0.4, 0.1, 0.6),
        clock_offset_max_s=offset_s,
        commit_s=random.choice((0.0003, 0.001, 0.004, 0.02)),
        slow_disks_rate=some(0.25, 0.05, 0.3),
        full_disks_rate=some(0.2, 0.03, 0.15),
        failing_disks_rate=some(0.15, 0.03, 0.1),
        anti_entropy_interval_s=random.choice((0.5, 1.5, 3.0)),
        purge_after_s=random.choice((1.0, 3.0)) if floors else 180.0,
        hasty_floors=floors,
        bursts=some(0.4, 0.05, 0.5),
        batches=some(0.4, 0.05, 0.5),
    )
