"""`health`: an exit code for what runs nodes, such as a container's health check.

It is run every few seconds on every node, so it starts without the client, in a third of the time of `status`.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import click

from cli.errors import ExitCode
from cli.options import Choices, endpoints_option
from cli.output import note
from kvstore.readiness import unready_because

HTTP_PORT = 80


@click.command("health")
@endpoints_option
@click.pass_obj
def health_command(choices: Choices) -> ExitCode:
    """Exit with 0 when every endpoint is ready for requests, else with 5. Says on stderr which is not, and why."""
    addresses = [(endpoint, *_host_and_port(endpoint)) for endpoint in choices.endpoints]
    unready = 0
    for endpoint, host, port in addresses:
        reason = unready_because(host, port)
        if reason is not None:
            unready += 1
            note(f"{endpoint} is not ready: {reason}")
    return ExitCode.NOT_APPLIED if unready else ExitCode.DONE


def _host_and_port(endpoint: str) -> tuple[str, int]:
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        if parts.scheme == "http" and parts.hostname and parts.path in {"", "/"}:
            return parts.hostname, parts.port or HTTP_PORT
    except ValueError:  # a port that is none, brackets that don't close
        pass
    raise click.UsageError(f"--endpoints: {endpoint!r} is no node's own address; write http://HOST:PORT")
