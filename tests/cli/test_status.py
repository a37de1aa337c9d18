"""What `status` says beside its table."""

from __future__ import annotations

from cli.cluster import Sighting, purges_held_back


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
