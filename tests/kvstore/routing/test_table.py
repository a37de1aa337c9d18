"""Where a client sends a request, against where the cluster itself would carry it out."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.locks.lock_state import lock_key
from cluster.locks.vote import vote_key
from cluster.membership.fitness import Bar, Fitness, Roster
from cluster.membership.topology import Topology, form
from kvstore.paths import key_path
from kvstore.routing.route import Route, route_of
from kvstore.routing.table import MemberTold, Overview, RoutingTable, decode_overview

NAMES = [f"n{number}" for number in range(1, 8)]
FENCE = {"KV-Fence": "l=1"}


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Topology, frozenset[int]]:
    """A topology, and the slots of its members that are alive and fit."""
    names = NAMES[: draw(st.integers(2, 7))]
    zones = {name: draw(st.sampled_from(["", "a", "b"])) for name in names}
    addresses = {name: (name, 1) for name in names}
    topology = form("c", addresses, zones, draw(st.integers(1, 7)), draw(st.sampled_from([1, 7, 64, 4_096])))
    return topology, draw(st.frozensets(st.sampled_from(range(len(names)))))


def overview(topology: Topology, node: str, fit: frozenset[int], **changes: object) -> Overview:
    """What that node tells. Who is not fit is down for the others, and tells of itself what stands against it."""
    told = {
        "cluster_id": topology.cluster_id,
        "node": node,
        "epoch": topology.epoch,
        "n": topology.n,
        "partitions": topology.partitions,
        "members": [
            {
                "name": member.name,
                "zone": member.zone,
                "state": "self" if member.name == node else "alive" if member.slot in fit else "down",
                "unfit": ["its disk is full"] if member.name == node and member.slot not in fit else [],
            }
            for member in topology.members
        ],
    }
    return msgspec.convert(told | changes, Overview)


def endpoint(name: str) -> str:
    return f"http://elsewhere:{name[1:]}"


def table_of(topology: Topology, fit: frozenset[int], turn: int = 0) -> RoutingTable:
    """Of a client that was given all nodes."""
    names = [member.name for member in topology.members]
    table = RoutingTable.of({endpoint(name): overview(topology, name, fit) for name in names}, turn)
    assert table is not None
    return table


def roster(topology: Topology, fit: frozenset[int]) -> Roster:
    """The cluster's own judgement, by a node that is no member."""
    return Roster(lambda slot: slot in fit, len(topology.members), Fitness())


@settings(deadline=None)  # time decides nothing here
@given(clusters(), st.binary(min_size=1, max_size=1024))
def test_the_primary_is_the_one_that_the_cluster_itself_takes(
    cluster: tuple[Topology, frozenset[int]], key: bytes
) -> None:
    topology, fit = cluster
    writable = roster(topology, fit).writable(topology.replicas_of(key))
    expected = endpoint(topology.by_slot[writable[0]].name) if writable else None

    assert table_of(topology, fit).endpoint_for(Route(key, to_primary=True)) == expected


@settings(deadline=None)  # time decides nothing here
@given(clusters(), st.binary(min_size=1), st.integers(0, 1 << 16))
def test_what_is_not_for_the_primary_goes_to_a_fit_replica_or_nowhere_where_all_are_replicas(
    cluster: tuple[Topology, frozenset[int]], key: bytes, turn: int
) -> None:
    topology, fit = cluster
    slots = topology.replicas_of(key)
    chosen = table_of(topology, fit, turn).endpoint_for(Route(key, to_primary=False))

    if topology.n == len(topology.members) or not fit.intersection(slots):
        assert chosen is None
    else:
        assert chosen in {endpoint(topology.by_slot[slot].name) for slot in fit.intersection(slots)}


@settings(deadline=None)  # time decides nothing here
@given(clusters(), st.binary(min_size=1))
def test_all_replicas_share_what_clients_read(cluster: tuple[Topology, frozenset[int]], key: bytes) -> None:
    topology, _ = cluster
    all_fit = frozenset(range(len(topology.members)))
    chosen = {
        table_of(topology, all_fit, turn).endpoint_for(Route(key, to_primary=False)) for turn in range(topology.n)
    }

    assert len(chosen) == (1 if topology.n == len(topology.members) else topology.n)


@settings(deadline=None)  # time decides nothing here
@given(clusters(), st.binary(min_size=1), st.booleans())
def test_an_endpoint_that_was_dropped_is_not_named_and_the_next_in_line_is(
    cluster: tuple[Topology, frozenset[int]], key: bytes, to_primary: bool
) -> None:
    topology, fit = cluster
    before = table_of(topology, fit)
    dropped = before.endpoint_for(Route(key, to_primary))
    if dropped is None:
        return
    rest = fit - {topology.by_name[f"n{dropped.rpartition(':')[2]}"].slot}

    after = before.without(dropped)

    assert after.endpoint_for(Route(key, to_primary)) == table_of(topology, rest).endpoint_for(Route(key, to_primary))


THREE = form("c", {name: (name, 1) for name in NAMES[:3]}, {}, 3, 64)
ALL = frozenset({0, 1, 2})


def test_a_node_that_only_itself_calls_fit_is_no_primary() -> None:
    cut_off, rest = frozenset({0}), frozenset({1, 2})
    told = {endpoint(name): overview(THREE, name, fit) for name, fit in (("n1", cut_off), ("n2", rest), ("n3", rest))}
    table = RoutingTable.of(told, 0)
    assert table is not None

    assert {table.endpoint_for(Route(b"%d" % number, True)) for number in range(100)} == {
        endpoint("n2"),
        endpoint("n3"),
    }


def test_the_newest_topology_counts_and_who_knows_an_older_one_is_not_asked_first() -> None:
    newer = msgspec.structs.replace(THREE, epoch=2)
    told = {
        endpoint("n1"): overview(THREE, "n1", ALL),
        endpoint("n2"): overview(newer, "n2", ALL),
        endpoint("n3"): overview(newer, "n3", ALL),
    }
    table = RoutingTable.of(told, 0)
    assert table is not None

    assert set(table.signatures.values()) == {'coordinator="n2", epoch=2,', 'coordinator="n3", epoch=2,'}


def test_of_two_clusters_that_of_the_first_endpoint_counts() -> None:
    other = form("another", {name: (name, 1) for name in NAMES[:3]}, {}, 3, 64)
    told = {
        "http://a": overview(THREE, "n1", ALL),
        "http://b": overview(other, "n2", ALL, epoch=9),
        "http://c": overview(THREE, "n3", ALL),
    }
    table = RoutingTable.of(told, 0)
    assert table is not None

    assert set(table.signatures) == {"http://a", "http://c"}


def test_two_names_for_one_node_are_one_node() -> None:
    told = {"http://localhost": overview(THREE, "n1", ALL), "http://127.0.0.1": overview(THREE, "n1", ALL)}

    assert RoutingTable.of(told, 0) is None


@pytest.mark.parametrize("told", [{}, {"http://a": overview(THREE, "n1", ALL)}])
def test_where_there_is_nothing_to_choose_there_is_no_table(told: Mapping[str, Overview]) -> None:
    assert RoutingTable.of(told, 0) is None


def test_while_the_first_topology_is_forming_nobody_knows_the_zones() -> None:
    told = {endpoint(name): overview(THREE, name, ALL, epoch=0) for name in NAMES[:3]}

    assert RoutingTable.of(told, 0) is None


def test_a_member_that_was_not_given_is_never_named() -> None:
    told = {endpoint(name): overview(THREE, name, ALL) for name in ("n1", "n3")}
    table = RoutingTable.of(told, 0)
    assert table is not None

    for number in range(100):
        names = [THREE.by_slot[slot].name for slot in THREE.replicas_of(b"%d" % number)]
        names.remove("n2")
        assert table.endpoint_for(Route(b"%d" % number, True)) == endpoint(names[0])


@pytest.mark.parametrize(
    "page",
    [
        b"<html>",
        b"{}",
        b'{"cluster_id": "", "node": "n1", "epoch": 1, "n": 3, "partitions": 1e9, "members": []}',
        msgspec.json.encode(msgspec.structs.replace(overview(THREE, "n1", ALL), partitions=1 << 40)),
        msgspec.json.encode(msgspec.structs.replace(overview(THREE, "n1", ALL), members=())),
        msgspec.json.encode(msgspec.structs.replace(overview(THREE, "n1", ALL), n=0)),
    ],
)
def test_what_no_node_would_say_is_refused(page: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_overview(page)


def test_what_a_node_tells_beyond_that_is_left_alone() -> None:
    told = msgspec.to_builtins(overview(THREE, "n1", ALL)) | {"convergence": {"hints": 1}, "moving": []}

    assert decode_overview(msgspec.json.encode(told)) == overview(THREE, "n1", ALL)
    assert MemberTold("n", "", "suspect").is_fit is False


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "route"),
    [
        ("PUT", key_path("a/ä %"), {}, {}, Route("a/ä %".encode(), True)),
        ("DELETE", key_path(b"\xff"), {"consistency": "strong"}, {}, Route(b"\xff", True)),
        ("PUT", key_path("k"), {"consistency": "weak"}, {}, Route(b"k", False)),
        ("DELETE", key_path("k"), {"consistency": "eventual"}, {}, Route(b"k", False)),
        ("GET", key_path("k"), {}, {}, Route(b"k", False)),
        ("GET", key_path("k"), {}, FENCE, Route(b"k", True)),
        ("HEAD", key_path("k"), {"consistency": "weak"}, {}, Route(b"k", False)),
        ("POST", "/v1/locks/" + quote("l ö"), {}, {}, Route(lock_key("l ö"), True)),
        ("DELETE", "/v1/locks/l", {}, {}, Route(lock_key("l"), True)),
        ("GET", "/v1/locks/l", {}, {}, Route(lock_key("l"), False)),
        ("PUT", "/v1/elections/l", {}, {}, Route(lock_key("l"), True)),
        ("POST", "/v1/votes/v", {}, {}, Route(vote_key("v"), True)),
        ("GET", "/v1/votes/v", {}, {}, Route(vote_key("v"), False)),
        ("GET", "/v1/kv", {"prefix": "k"}, {}, None),
        ("GET", "/v1/locks", {}, {}, None),
        ("POST", "/v1/batch", {}, {}, None),
        ("GET", "/v1/cluster", {}, {}, None),
    ],
)
def test_what_a_request_is_about(
    method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], route: Route | None
) -> None:
    assert route_of(method, path, query, headers) == route


def test_who_stands_in_line_keeps_away_from_who_keeps_the_line() -> None:
    assert route_of("POST", "/v1/locks/l", {}, {}, waits=True) is None


def test_bars_are_what_makes_a_member_unfit() -> None:
    """`unfit` is empty exactly where a peer's bars are: on that rests that the client sees what nodes see."""
    judging = Roster(lambda slot: True, 9, Fitness())
    for bar in Bar:
        judging.told(0, bar)
        assert not judging.is_writable(0)
    judging.told(0, Bar(0))
    assert judging.is_writable(0)
