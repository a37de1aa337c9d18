"""Who holds what, who is a member, who seems alive: the same on every node, and little of it moves."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import isinf

import msgspec
import pytest

from cluster.levels import Level, QuorumTooLarge, QuorumTooSmall, majority, quorum_size
from cluster.membership.failure_detector import (
    HEARTBEAT_INTERVAL_S,
    MEAN_S_MAX,
    PHI_SUSPECT,
    SILENCE_S_MIN,
    FailureDetector,
)
from cluster.membership.membership import FORMING, Membership
from cluster.membership.placement import all_replica_sets, partition_of, replica_set
from cluster.membership.topology import Topology, decode_topology, encode_topology, form
from cluster.protocol.quorum import Quorum, Verdict
from storage.ballot import SLOTS_MAX

NAMES = ("n1", "n2", "n3", "n4", "n5")
NO_ZONES = dict.fromkeys(NAMES, "")
PARTITIONS = 64
KNOWN_PARTITIONS = [0, 23, 31, 3, 8]
KNOWN_REPLICA_SETS = [("n2", "n1", "n3"), ("n5", "n2", "n4"), ("n1", "n2", "n3")]
ADDRESSES = {"n1": ("10.0.0.1", 7101), "n2": ("10.0.0.2", 7101), "n3": ("10.0.0.3", 7101)}


# -- placement -----------------------------------------------------------------------------------------------------


def test_the_partition_of_a_key_never_changes() -> None:
    """Every cluster ever started has its data there: another hash would look for it elsewhere."""
    keys = (b"", b"key", b"a/b/c", "ключ".encode(), bytes(range(256)))
    assert [partition_of(key, PARTITIONS) for key in keys] == KNOWN_PARTITIONS


def test_the_replicas_of_a_partition_never_change() -> None:
    """Nodes of two versions must agree on them."""
    assert [replica_set(partition, NO_ZONES, 3) for partition in (0, 1, 63)] == KNOWN_REPLICA_SETS


def test_a_partition_has_as_many_distinct_holders_as_asked_for_or_as_there_are() -> None:
    """More replicas than members is no error: N is the smaller of the two."""
    for replicas in range(1, 8):
        for names in all_replica_sets(PARTITIONS, NO_ZONES, replicas):
            assert len(names) == len(set(names)) == min(replicas, len(NAMES))


def test_the_order_in_which_members_are_listed_does_not_matter() -> None:
    """Each node may read them from its own flags."""
    reverse = dict.fromkeys(reversed(NAMES), "")
    assert all_replica_sets(PARTITIONS, reverse, 3) == all_replica_sets(PARTITIONS, NO_ZONES, 3)


@pytest.mark.parametrize(
    ("zones", "replicas"),
    [
        pytest.param("aabbc", 3, id="each zone once"),
        pytest.param("aaaab", 2, id="one zone holds nearly all nodes"),
        pytest.param("aabbb", 4, id="two of each"),
        pytest.param("aaabc", 5, id="the small zones are used up"),
    ],
)
def test_zones_are_kept_apart(zones: str, replicas: int) -> None:
    """A second replica in a zone only when every zone that still has a node to give has as many."""
    zone_of = dict(zip(NAMES, zones, strict=True))
    sizes = Counter(zones)
    for names in all_replica_sets(PARTITIONS, zone_of, replicas):
        used = Counter(zone_of[name] for name in names)
        for zone, other in product(sizes, sizes):
            assert used[zone] <= used[other] + 1 or used[other] == sizes[other]


def test_a_node_that_joins_takes_its_share_and_moves_nothing_else() -> None:
    """Any partition that changes gains the new node and loses one; the others keep their order."""
    before = all_replica_sets(1024, NO_ZONES, 3)
    after = all_replica_sets(1024, NO_ZONES | {"n6": ""}, 3)
    moved = 0
    for old, new in zip(before, after, strict=True):
        if old != new:
            moved += 1
            assert set(new) - set(old) == {"n6"}
            assert [name for name in new if name != "n6"] == [name for name in old if name in new]
    assert 0.4 < moved / 1024 < 0.6, "of six nodes with three replicas each partition has the new one by 1/2"


def test_partitions_and_their_first_places_are_shared_evenly() -> None:
    """First in order is the primary, which does the most work."""
    sets = all_replica_sets(1024, NO_ZONES, 3)
    held = Counter(name for names in sets for name in names)
    first = Counter(names[0] for names in sets)
    for name in NAMES:
        assert held[name] == pytest.approx(1024 * 3 / 5, rel=0.15)
        assert first[name] == pytest.approx(1024 / 5, rel=0.25)


# -- topology ------------------------------------------------------------------------------------------------------


def test_every_node_forms_the_same_first_topology() -> None:
    """Whatever the order of its flags; what one encodes the other decodes."""
    one = form("c", ADDRESSES, {}, 3, PARTITIONS)
    other = form("c", dict(reversed(ADDRESSES.items())), {}, 3, PARTITIONS)
    assert one == other
    assert one.fingerprint == other.fingerprint
    assert decode_topology(encode_topology(one)) == one
    assert [member.slot for member in one.members] == [0, 1, 2]
    assert one.epoch == 1


@pytest.mark.parametrize(
    "other",
    [
        form("d", ADDRESSES, {}, 3, PARTITIONS),
        form("c", ADDRESSES | {"n4": ("10.0.0.4", 7101)}, {}, 3, PARTITIONS),
        form("c", ADDRESSES | {"n3": ("10.0.0.4", 7101)}, {}, 3, PARTITIONS),
        form("c", ADDRESSES | {"n3": ("10.0.0.3", 7102)}, {}, 3, PARTITIONS),
        form("c", {"m" + name: address for name, address in ADDRESSES.items()}, {}, 3, PARTITIONS),
        form("c", ADDRESSES, {}, 2, PARTITIONS),
        form("c", ADDRESSES, {}, 3, PARTITIONS * 2),
    ],
    ids=["cluster name", "one more", "host", "port", "names", "replication factor", "partitions"],
)
def test_a_cluster_formed_from_anything_else_is_another_cluster(other: Topology) -> None:
    """Nodes that were told different things must not vote together."""
    topology = form("c", ADDRESSES, {}, 3, PARTITIONS)
    assert other.cluster_id != topology.cluster_id
    assert other.fingerprint != topology.fingerprint


def test_zones_and_epoch_are_in_the_fingerprint() -> None:
    """They are not in the cluster's id, for a node may learn them late; peers compare the fingerprint too."""
    topology = form("c", ADDRESSES, {}, 3, PARTITIONS)
    zoned = form("c", ADDRESSES, {"n1": "a"}, 3, PARTITIONS)
    assert zoned.cluster_id == topology.cluster_id
    assert zoned.fingerprint != topology.fingerprint
    assert msgspec.structs.replace(topology, epoch=2).fingerprint != topology.fingerprint


def test_slots_end_where_ballots_have_no_room_for_more() -> None:
    """The slot is a part of every ballot."""
    many = {f"n{number}": ("10.0.0.1", number) for number in range(SLOTS_MAX + 1)}
    with pytest.raises(ValueError, match="slots end at 1023"):
        form("c", many, {}, 3, 1)


# -- membership ----------------------------------------------------------------------------------------------------


def _forming(unheard: set[str]) -> tuple[Membership, list[Topology]]:
    formed: list[Topology] = []
    return Membership(form("c", ADDRESSES, {"n1": "a"}, 3, 8), unheard=unheard, on_formed=formed.append), formed


def test_nobody_votes_until_every_member_has_said_its_zone() -> None:
    """Until then placement is not known; then all have formed the same topology, once."""
    membership, formed = _forming({"n2", "n3"})
    assert not membership.is_formed
    assert membership.topology.epoch == FORMING
    assert membership.admit("n3", "c") is None
    assert membership.unheard == ["n2"]
    assert not membership.is_formed
    assert membership.admit("n3", "c") is None, "it may introduce itself again"
    assert membership.admit("n2", "b") is None
    assert membership.is_formed
    assert formed == [form("c", ADDRESSES, {"n1": "a", "n2": "b", "n3": "c"}, 3, 8)]
    assert membership.topology == formed[0]
    assert membership.admit("n2", "b") is None
    assert len(formed) == 1


def test_a_stranger_and_a_member_that_moved_are_refused_with_a_reason() -> None:
    """And leave the topology as it was."""
    membership, _ = _forming({"n2", "n3"})
    membership.admit("n2", "b")
    before = membership.topology
    assert "no member of this cluster" in (membership.admit("n9", "b") or "")
    assert "zone 'x'" in (membership.admit("n2", "x") or "")
    assert membership.topology == before


def test_a_folder_that_knows_its_topology_acts_under_it_at_once() -> None:
    """There is nobody to wait for."""
    membership, formed = _forming(set())
    assert membership.is_formed
    assert formed == []


# -- failure detector ----------------------------------------------------------------------------------------------


def _beating(interval_s: float, count: int = 100) -> tuple[FailureDetector, float]:
    detector, now_s = FailureDetector(), 0.0
    for _ in range(count):
        now_s += interval_s
        detector.heard(1, now_s)
    return detector, now_s


def test_a_node_never_heard_is_not_alive() -> None:
    """Nor is one whose connection broke, until it is heard again."""
    detector, now_s = _beating(HEARTBEAT_INTERVAL_S)
    assert detector.is_alive(1, now_s)
    assert not detector.is_alive(2, now_s)
    assert isinf(detector.phi(2, now_s))
    detector.gone(1)
    assert not detector.is_alive(1, now_s)
    detector.heard(1, now_s)
    assert detector.is_alive(1, now_s)


def test_a_silence_is_suspected_by_its_length_in_heartbeats() -> None:
    """About two seconds at rest, and never before the least silence."""
    detector, now_s = _beating(HEARTBEAT_INTERVAL_S)
    assert detector.is_alive(1, now_s + 0.99 * SILENCE_S_MIN)
    suspected_s = next(tenth / 10 for tenth in range(1000) if not detector.is_alive(1, now_s + tenth / 10))
    assert 1.5 < suspected_s < 2.5
    assert detector.phi(1, now_s + suspected_s) >= PHI_SUSPECT


def test_a_slow_peer_is_given_more_time_but_not_for_ever() -> None:
    """However slow it was, it is suspected after some ten seconds."""
    slow, now_s = _beating(MEAN_S_MAX)
    assert slow.is_alive(1, now_s + 5)
    very_slow, then_s = _beating(60.0)
    assert not very_slow.is_alive(1, then_s + 11 * MEAN_S_MAX)


def test_a_burst_of_messages_makes_nobody_impatient() -> None:
    """Every frame is a sign of life; a thousand in a second are no reason to suspect after ten milliseconds."""
    detector, now_s = _beating(0.001, 1000)
    assert detector.is_alive(1, now_s + 1.5)


# -- quorums -------------------------------------------------------------------------------------------------------


def test_a_vote_stands_as_counting_every_possible_end_says() -> None:
    """Brute force: achieved when no further answer matters, impossible when even all of them don't help."""
    for asked in range(1, 6):
        for needed, answers in product(range(1, asked + 2), product((True, False), repeat=asked)):
            quorum = Quorum(needed, asked)
            for heard in range(asked):
                verdict = quorum.add(answers[heard])
                so_far, rest = sum(answers[: heard + 1]), asked - heard - 1
                ends = {so_far + more >= needed for more in range(rest + 1)}
                if ends == {True}:
                    assert verdict is Verdict.ACHIEVED
                elif ends == {False}:
                    assert verdict is Verdict.IMPOSSIBLE
                else:
                    assert verdict is Verdict.PENDING


def test_any_two_majorities_share_a_replica_and_no_smaller_number_would_do() -> None:
    """What all of it rests on."""
    for n in range(1, 10):
        assert 2 * majority(n) > n
        assert 2 * (majority(n) - 1) <= n


@pytest.mark.parametrize("n", range(1, 8))
def test_a_count_that_cannot_be_honoured_is_refused_and_never_lowered(n: int) -> None:
    """What comes out is what was asked for, or the level's own."""
    for level, asked in product(Level, range(-1, n + 3)):
        least = majority(n) if level is Level.STRONG else 1
        if asked > n:
            with pytest.raises(QuorumTooLarge):
                quorum_size(level, n, asked)
        elif asked < least:
            with pytest.raises(QuorumTooSmall):
                quorum_size(level, n, asked)
        else:
            assert quorum_size(level, n, asked) == asked
        assert quorum_size(level, n, None) == least
    assert quorum_size(Level.WEAK, n, "one") == 1
    assert quorum_size(Level.WEAK, n, "quorum") == majority(n)
    assert quorum_size(Level.STRONG, n, "all") == n
