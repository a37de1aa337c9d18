"""`kvstore serve`: one node in the foreground. Its options are the node's settings, whatever they are."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cli.errors import CommandFailed, ExitCode
from cli.options import option
from kvstore.settings import SETTINGS, Setting


def _option_of(setting: Setting) -> click.Option:
    """The setting as an option. The environment and the file are read by load_config, which knows the precedence."""
    default = f" [default: {setting.default}]" if setting.default else ""
    text = f"{setting.help}{default} [env: {setting.variable}]"
    if not setting.metavar:
        return click.Option([setting.flag, setting.name], flag_value="true", default=None, type=str, help=text)
    return click.Option([setting.flag, setting.name], metavar=setting.metavar, help=text)


@click.command("serve", params=[_option_of(setting) for setting in SETTINGS])
@option("--config", type=click.Path(path_type=Path, dir_okay=False), help="A TOML file with the same settings.")
def serve_command(config: Path | None, **flags: str | None) -> int:
    """Run one node in the foreground.

    SIGTERM and SIGINT drain and stop it. Flags go before the environment, that before the TOML file.
    """
    from kvstore.config import ConfigError, load_config  # noqa: PLC0415 - `serve --help` needs no configuration

    try:
        node_config = load_config(flags, os.environ, config)
    except ConfigError as error:
        raise CommandFailed(f"the node can't start like this; nothing was touched:\n{error}", ExitCode.USAGE) from error

    from kvstore.node.node import run  # noqa: PLC0415 - a wrong option is told before the node's imports are paid for

    return run(node_config)
