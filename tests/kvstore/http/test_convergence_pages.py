"""POST /v1/repair, and what GET /v1/cluster says of convergence."""

from __future__ import annotations

import pytest

from tests.kvstore.http.conftest import Node


async def test_a_partition_is_repaired_and_the_report_shown(node: Node) -> None:
    answer = await node.ask("POST", "/v1/repair?partition=7&timeout=3s")
    assert answer.status == 200
    assert node.backend.seen == [("repair", 7, 3.0)]
    assert answer.json == {
        "partition": 7,
        "node": "n2",
        "differed": 3,
        "fetched": 1,
        "sent": 2,
        "left": 0,
        "bytes_moved": 4_711,
        "unreachable": ["n3"],
    }


async def test_that_nobody_could_be_asked_is_said(node: Node) -> None:
    answer = await node.ask("POST", "/v1/repair?partition=63")
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (503, "quorum-unavailable", "none")


@pytest.mark.parametrize("query", ["", "?partition=64", "?partition=-1", "?partition=x", "?partition=1&w=2"])
async def test_a_wrong_partition_is_refused(node: Node, query: str) -> None:
    answer = await node.ask("POST", f"/v1/repair{query}")
    assert (answer.status, answer.json["code"]) == (400, "bad-parameter")
    assert not node.backend.seen


async def test_reading_repairs_nothing(node: Node) -> None:
    answer = await node.ask("GET", "/v1/repair?partition=1")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_the_overview_says_how_far_this_node_is(node: Node) -> None:
    shown = (await node.ask("GET", "/v1/cluster")).json["convergence"]
    assert (shown["hints"], shown["hints_sole"], shown["kept_aside"]) == (7, 1, 2)
    assert (shown["partitions_in_sync"], shown["partitions_differing"], shown["partitions_unchecked"]) == (60, 3, 1)
    assert (shown["anti_entropy_age_s"], shown["purge_held_back_by"]) == (2.5, ["n3 is away"])
