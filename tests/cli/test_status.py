"""What `status` says beside its table."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from cli.cluster import Sighting, ask_everybody, purges_held_back
from kvstore.client_errors import NoNodeReachable


def sighting(name: str, *held_back_by: str) -> Sighting:
    overview = {"node": name, "convergence": {"purge_held_back_by": list(held_back_by)}}
    return Sighting(f"http://{name}", overview, "yes")


def test_it_names_those_for_whom_deletions_wait() -> None:
    assert purges_held_back([sighting("n1", "n3 is away", "n4 differs"), sighting("n2")]) == [
        "n1 can't purge its old deletions: n3 is away; n4 differs"
    ]


def test_silent_nodes_and_older_versions_say_nothing_of_it() -> None:
    older = Sighting("http://n2", {"node": "n2"}, "yes")
    assert purges_held_back([Sighting("http://n1", None, "no answer"), older]) == []


class Reached:
    """A client that reaches nodes at some addresses, all of which call themselves by the same, useless one."""

    def __init__(self, endpoints: tuple[str, ...], nodes: dict[str, str]) -> None:
        self.endpoints, self.nodes = endpoints, nodes
        self.asked: list[str] = []

    async def request(self, method: str, path: str, *, only: str, timeout_s: float) -> Any:
        if path == "/v1/cluster":
            self.asked.append(only)
        if only not in self.nodes:
            raise NoNodeReachable(f"{only} does not answer")
        members = [{"name": name, "http": f"{name}:7001"} for name in ("n1", "n2", "n3")]
        return SimpleNamespace(json=lambda: {"node": self.nodes[only], "members": members})


def test_a_member_that_has_answered_is_not_asked_under_its_own_address_too() -> None:
    """As from outside of the containers that the nodes run in: their names mean nothing there."""
    client = Reached(
        ("http://127.0.0.1:1", "http://127.0.0.1:2"), {"http://127.0.0.1:1": "n1", "http://127.0.0.1:2": "n2"}
    )
    sightings = asyncio.run(ask_everybody(client))  # type: ignore[arg-type]

    assert client.asked == ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://n3:7001"]
    assert [sighting.overview is not None for sighting in sightings] == [True, True, False]
