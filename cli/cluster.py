"""`status` and `replicas`: who is there, and who holds what."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from cli.connection import with_client
from cli.options import KEY, Choices, choices_options
from cli.output import note, show_rows
from kvstore.client_errors import ClientError, NoNodeReachable, Problem

if TYPE_CHECKING:
    from kvstore.http_client import HttpClient

ANSWER_TIMEOUT_S = 3.0
"""A node that can't say who it is within this time is as good as silent to a person who asks for status."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one address said when it was asked."""

    address: str
    overview: Mapping[str, Any] | None
    """The node's view of the cluster; None when it said nothing."""
    ready: str
    """"yes", or why not."""


@click.command("status")
@choices_options
@click.pass_obj
def status_command(choices: Choices) -> None:
    """Show the members, each asked itself. Says on stderr who does not answer, and for whom deletions wait."""
    sightings = with_client(choices, ask_everybody)
    answered = [sighting for sighting in sightings if sighting.overview is not None]
    if not answered:
        raise NoNodeReachable(f"no node answers at {', '.join(sighting.address for sighting in sightings)}")
    silent = [sighting for sighting in sightings if sighting.overview is None]
    for sighting in silent:
        note(f"{sighting.address} does not answer: {sighting.ready}")
    for held_back in purges_held_back(answered):
        note(held_back)
    overview = _newest(answered)
    show_rows(
        "members",
        _rows(overview, answered),
        ("name", "state", "zone", "http", "epoch", "in_sync", "hints", "compared", "quarantined", "ready"),
        choices.output,
        **{name: overview.get(name) for name in ("cluster_name", "cluster_id", "epoch", "n", "partitions", "moving")},
        unanswered=[sighting.address for sighting in silent],
    )


async def ask_everybody(client: HttpClient) -> list[Sighting]:
    """Asks the endpoints, and then every other member that they name.

    A member that has answered is not asked under its own address, too: from here it may not be reached there.
    """
    first = await _ask_each(client, client.endpoints)
    asked = set(client.endpoints)
    answered = [sighting.overview for sighting in first if sighting.overview is not None]
    there = {overview["node"] for overview in answered}
    named = {
        f"http://{member['http']}"
        for overview in answered
        for member in overview["members"]
        if member.get("http") and member["name"] not in there
    }
    return first + await _ask_each(client, sorted(named - asked))


async def _ask_each(client: HttpClient, addresses: Iterable[str]) -> list[Sighting]:
    return list(await asyncio.gather(*(_ask(client, address) for address in addresses)))


async def _ask(client: HttpClient, address: str) -> Sighting:
    try:
        overview = await client.request("GET", "/v1/cluster", only=address, timeout_s=ANSWER_TIMEOUT_S)
    except ClientError as error:
        return Sighting(address, None, str(error))
    return Sighting(address, overview.json(), await _ready(client, address))


async def _ready(client: HttpClient, address: str) -> str:
    try:
        await client.request("GET", "/readyz", only=address, timeout_s=ANSWER_TIMEOUT_S)
    except Problem as problem:
        reasons = problem.fields.get("reasons")
        return "no: " + ("; ".join(map(str, reasons)) if isinstance(reasons, list) else problem.detail)
    except ClientError as error:
        return f"no: {error}"
    return "yes"


def _newest(answered: Sequence[Sighting]) -> Mapping[str, Any]:
    """The view under the highest epoch."""
    views = [sighting.overview for sighting in answered if sighting.overview is not None]
    return max(views, key=lambda view: int(view["epoch"]))


def _rows(overview: Mapping[str, Any], answered: Sequence[Sighting]) -> list[dict[str, Any]]:
    """One row per member: its own word where it answered, what the others think of it where not."""
    own = {sighting.overview["node"]: sighting for sighting in answered if sighting.overview is not None}
    return [_row(member, own.get(member["name"])) for member in overview["members"]]


def _row(member: Mapping[str, Any], sighting: Sighting | None) -> dict[str, Any]:
    row = {**member, "epoch": None, "ready": "no answer", "convergence": None}
    if sighting is not None and sighting.overview is not None:
        row |= _convergence(sighting.overview)
        row |= {"state": "alive", "epoch": sighting.overview["epoch"], "ready": sighting.ready}
        row["http"] = member.get("http") or sighting.address.removeprefix("http://")
    return row


def purges_held_back(answered: Sequence[Sighting]) -> list[str]:
    """Why old deletions stay on disk, by the word of each node that wants to purge them."""
    told = []
    for sighting in answered:
        overview = sighting.overview or {}
        reasons = (overview.get("convergence") or {}).get("purge_held_back_by")
        if reasons:
            told.append(f"{overview['node']} can't purge its old deletions: {'; '.join(map(str, reasons))}")
    return told


def _convergence(overview: Mapping[str, Any]) -> dict[str, Any]:
    """What a table shows of a member's convergence; JSON has all of it."""
    known = overview.get("convergence")
    if known is None:  # an older version
        return {}
    equal, differing = known["partitions_in_sync"], known["partitions_differing"]
    held = equal + differing + known["partitions_unchecked"]
    age_s = known["anti_entropy_age_s"]
    return {
        "convergence": known,
        "in_sync": f"{equal} of {held}" + (f", {differing} differ" if differing else ""),
        "hints": f"{known['hints'] + known['kept_aside']}",
        "compared": "not yet" if age_s is None else f"{age_s:.0f} s ago",
        "quarantined": f"{known['quarantined']}",
    }


@click.command("replicas")
@click.argument("key", type=KEY)
@choices_options
@click.pass_obj
def replicas_command(choices: Choices, *, key: str) -> None:
    """Show who holds KEY: its partition, its replicas, the primary among them, and the version that each has."""

    async def work(client: HttpClient) -> Mapping[str, Any]:
        answer = await client.request("GET", "/v1/cluster/partitions", query={"key": key, "versions": "true"})
        placement: Mapping[str, Any] = answer.json()
        return placement

    placement = with_client(choices, work)
    primary = placement.get("primary")
    rows = [_replica_row(replica, primary) for replica in placement["replicas"]]
    around = {name: placement.get(name) for name in ("key", "partition", "epoch", "n", "primary")}
    columns = ("partition", "name", "role", "zone", "state", "version")
    show_rows(
        "replicas", [{"partition": around["partition"], **row} for row in rows], columns, choices.output, **around
    )


def _replica_row(replica: Mapping[str, Any], primary: str | None) -> dict[str, Any]:
    """A replica with its role. The node that we asked calls itself `self`, which says nothing to a person."""
    state = "alive" if replica["state"] == "self" else replica["state"]
    return {**replica, "state": state, "role": "primary" if replica["name"] == primary else "replica"}
