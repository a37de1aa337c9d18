"""`kvstore dev`: a cluster on this machine, each node its own process."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import click

from cli.errors import CommandFailed, ExitCode
from cli.local.layout import (
    BASE_PORT_MAX,
    HOST,
    NODES_MAX,
    Layout,
    busy_ports,
    remember_layout,
    settled_layout,
    write_json,
)
from cli.local.supervisor import Supervisor
from cli.options import DURATION, option, variable_of
from cli.output import note

_OWN_OPTIONS = ("--nodes", "--base-port", "--restart-after", "--zones")
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RestartAfter(click.ParamType[float | None]):
    """A duration, or never."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Seconds, or None for never."""
        return None if value in {None, "never"} else DURATION.convert(value, param, ctx)


@click.command("dev")
@option("--nodes", type=click.IntRange(1, NODES_MAX), help="How many nodes. [default: 3]")
@option("--base-port", type=click.IntRange(1, BASE_PORT_MAX), help="HTTP of the first node. [default: 7001]")
@option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default="kvstore-data",
    show_default=True,
    help="Folder for the data of all nodes.",
)
@option("--replicas", type=click.IntRange(1, 9), help="How many nodes hold each key. [default: 3]")
@option("--zones", metavar="A,B,...", help="Zones, dealt out to the nodes in turn.")
@option(
    "--restart-after",
    type=RestartAfter(),
    default="5s",
    show_default=True,
    help="Start a dead node again after this time, or never.",
)
def dev_command(
    *,
    nodes: int | None,
    base_port: int | None,
    data: Path,
    replicas: int | None,
    zones: str | None,
    restart_after: float | None,
) -> ExitCode:
    """Run a cluster on this machine until Ctrl-C or SIGTERM.

    Node i is called n<i> and listens on base-port + i - 1 (HTTP) and 100 above (peers). Once all are ready,
    DATA/cluster.json says where they are. Each node writes its log to DATA/n<i>/node.log.
    """
    folder = data.absolute()
    wishes = {
        "nodes": nodes,
        "base_port": base_port,
        "replicas": replicas,
        "zones": tuple(zone.strip() for zone in zones.split(",") if zone.strip()) if zones else None,
    }
    layout = settled_layout(folder, wishes)
    if busy := busy_ports(layout):
        ports = ", ".join(str(port) for port in busy)
        raise CommandFailed(
            f"something listens on {HOST} port {ports} already, maybe another `kvstore dev`; nothing was started: "
            "end it, or choose other ports with --base-port and another folder with --data"
        )
    _prepare(folder, layout)
    try:
        return asyncio.run(_run(layout, folder, restart_after))
    except asyncio.CancelledError:  # the nodes were killed already, and somebody could not wait for that either
        return ExitCode.INTERRUPTED


def _prepare(folder: Path, layout: Layout) -> None:
    """Makes the folder ours. A cluster.json that a killed dev left there would name processes that are gone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _cluster_file(folder).unlink(missing_ok=True)
        remember_layout(folder, layout)
    except OSError as error:
        raise CommandFailed(f"{folder} can't be used: {error.strerror}; nothing was started") from error


def _cluster_file(folder: Path) -> Path:
    return folder / "cluster.json"


async def _run(layout: Layout, folder: Path, restart_after_s: float | None) -> ExitCode:
    """The cluster's whole life: from start to the signal that ends it."""
    _end_on_signals()
    began = time.monotonic()
    supervisor = Supervisor(layout.plans(folder), _environment(), restart_after_s=restart_after_s, say=_say)
    where = _cluster_file(folder)
    try:
        await supervisor.start()
        _write_cluster(where, layout, supervisor)
        click.echo(_how_to_talk(layout, folder, time.monotonic() - began))
        await supervisor.watch(lambda: _write_cluster(where, layout, supervisor))
        raise CommandFailed("no node is left")
    except OSError as error:
        raise CommandFailed(f"{where} can't be written, so the nodes are ended: {error.strerror}") from error
    except asyncio.CancelledError:
        _say("ending the nodes")
        return ExitCode.DONE
    finally:
        await supervisor.stop()
        where.unlink(missing_ok=True)


def _end_on_signals() -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in _ENDING_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _environment() -> dict[str, str]:
    """Ours without dev's own options; a node knows settings that are called almost like them."""
    own = {variable_of(flag) for flag in _OWN_OPTIONS}
    return {name: value for name, value in os.environ.items() if name not in own}


def _say(text: str) -> None:
    note(f"kvstore dev: {text}")


def _write_cluster(where: Path, layout: Layout, supervisor: Supervisor) -> None:
    """Says where the nodes are; pid is null for one that is dead for now."""
    nodes = [
        {
            "name": node.plan.name,
            "http": f"http://{HOST}:{node.plan.http_port}",
            "peer": f"{HOST}:{layout.peer_port(index)}",
            "pid": node.pid,
            "data": str(node.plan.folder),
        }
        for index, node in enumerate(supervisor.nodes)
    ]
    write_json(where, {"nodes": nodes})


def _how_to_talk(layout: Layout, folder: Path, seconds: float) -> str:
    """One curl per level, each through another node where there are three."""
    urls = [f"http://{HOST}:{layout.http_port(index % layout.nodes)}/v1/kv/greeting" for index in range(3)]
    count, whose = (f"{layout.nodes} nodes are", "Their") if layout.nodes > 1 else ("One node is", "Its")
    return f"""{count} ready after {seconds:.1f} s. {whose} data is in {folder}.

  strong    curl -i -X PUT '{urls[0]}' -d 'hello'
  weak      curl -i '{urls[1]}?consistency=weak'
  eventual  curl -i -X PUT '{urls[2]}?consistency=eventual' -d 'hello again'

`{_status_command(layout)}` shows the members. Ctrl-C ends them; the data stays."""


def _status_command(layout: Layout) -> str:
    if layout.base_port == Layout().base_port:
        return "kvstore status"
    endpoints = ",".join(f"{HOST}:{layout.http_port(index)}" for index in range(layout.nodes))
    return f"kvstore status --endpoints {endpoints}"
