"""`kvstore`: one program for serving, using and looking at a cluster.

Commands are imported when they are called, so that a node starts without paying for tables and clients.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback

import click
from click.core import ParameterSource

from cli.errors import CommandFailed, ExitCode, exit_code_of
from cli.options import DEFAULT_ENDPOINTS, OUTPUTS, Choices, option, split_endpoints
from kvstore.client_errors import ClientError
from kvstore.errors import KvstoreError

COMMANDS = {
    "serve": "cli.local.serve",
    "dev": "cli.local.dev",
    "demo": "cli.demo.command",
    "put": "cli.data.keys",
    "get": "cli.data.keys",
    "delete": "cli.data.keys",
    "list": "cli.data.keys",
    "lock": "cli.locking.commands",
    "vote": "cli.locking.vote",
    "elect": "cli.locking.elect",
    "import": "cli.transfer.commands",
    "export": "cli.transfer.commands",
    "status": "cli.cluster",
    "health": "cli.health",
    "replicas": "cli.cluster",
    "repair": "cli.repair",
    "verify": "cli.verify",
}
"""Which module holds a command, in the order that help shows them."""


class LazyGroup(click.Group):
    """A group whose commands are found in COMMANDS: in their module, as `<name>_command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """The command's result. A reader of stdout who went away is noticed here: click and rich say exit code 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return _reader_went_away()
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):
                return _reader_went_away()
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@option("--endpoints", metavar="LIST", default=DEFAULT_ENDPOINTS, show_default=True, help="Nodes to ask, by comma.")
@option("-o", "--output", type=click.Choice(OUTPUTS), help="How to show answers.")
@click.version_option(package_name="kvstore")
@click.pass_context
def kvstore(context: click.Context, endpoints: str, output: str | None) -> None:
    """A replicated key-value store: strong, weak or eventual, per request.

    Every option may also be given as KVSTORE_<NAME>. Exit codes: 0 done, 1 unexpected, 2 usage, 3 not found,
    4 condition failed, 5 not applied for lack of replicas, 6 outcome unknown, 7 not allowed, 8 no node
    reachable, 9 a check found a violation.
    """
    source = context.get_parameter_source("endpoints")
    context.obj = Choices(split_endpoints(endpoints), output, source or ParameterSource.DEFAULT)


def main() -> int:
    """Runs the command line and returns its exit code."""
    try:
        result = kvstore.main(prog_name="kvstore", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_went_away()
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CommandFailed as error:
        _complain(str(error))
        return error.code
    except (ClientError, KvstoreError) as error:
        _complain(str(error))
        return exit_code_of(error)
    except Exception as error:
        return _unexpected(error)
    return result if isinstance(result, int) else ExitCode.DONE


def _complain(message: str) -> None:
    print(f"kvstore: {message}", file=sys.stderr)


def _reader_went_away() -> int:
    """`kvstore list | head` is no error; Python must not try to flush what nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.READER_GONE


def _unexpected(error: Exception) -> int:
    if os.environ.get("KVSTORE_DEBUG"):
        traceback.print_exc()
    _complain(f"unexpected {type(error).__name__}: {error} (KVSTORE_DEBUG=1 shows where)")
    return ExitCode.UNEXPECTED
