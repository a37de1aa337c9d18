"""The command line without a cluster: help, options, exit codes, and what it does not import."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from cli import main as program
from cli.errors import CODE_OF_STATUS, CommandFailed, ExitCode, exit_code_of
from cli.local.layout import BASE_PORT_MAX, NODES_MAX, Layout
from cli.options import DURATION, option
from kvstore.client_errors import AnswerLost, NoNodeReachable, Problem
from kvstore.settings import SETTINGS


def commands() -> dict[str, click.Command]:
    """All commands, those of groups too, as `lock run`."""
    context = click.Context(program.kvstore)
    found = {name: program.kvstore.get_command(context, name) for name in program.COMMANDS}
    there = {name: command for name, command in found.items() if command is not None}
    groups = {name: command for name, command in there.items() if isinstance(command, click.Group)}
    return there | {
        f"{name} {below}": group.commands[below] for name, group in groups.items() for below in group.commands
    }


def test_every_command_is_there_and_has_help() -> None:
    assert {name for name in commands() if " " not in name} == set(program.COMMANDS)
    assert {"lock run", "elect leader"} <= set(commands())
    assert all(command.help for command in commands().values())


def test_every_option_is_an_environment_variable_too() -> None:
    """The group reads `--endpoints` and `-o`, load_config the settings of serve: each in one place only."""
    everything = {**commands(), "serve": click.Command("none"), "kvstore": program.kvstore}
    mute = {
        f"{name} {parameter.opts[0]}"
        for name, command in everything.items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.envvar is None
    }
    assert {option.rpartition(" ")[2] for option in mute} == {"--endpoints", "-o", "--version"}


def test_serve_has_an_option_for_every_setting() -> None:
    flags = {flag for parameter in commands()["serve"].params for flag in parameter.opts}
    assert {setting.flag for setting in SETTINGS} <= flags


@pytest.mark.parametrize(
    "arguments", [["--help"], ["serve", "--help"], ["dev", "--help"], ["lock", "run", "--help"], ["demo", "--help"]]
)
def test_help_imports_neither_tables_nor_clients(arguments: list[str]) -> None:
    script = f"""
import sys
from cli.main import main
sys.argv = ["kvstore", *{arguments}]
code = main()
heavy = {{"rich", "aiohttp", "structlog"}}.intersection(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: kvstore" in done.stdout


def test_all_faults_of_a_configuration_are_told_at_once_with_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "serve", "--name", "no name", "--http", "0.0.0.0:x"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == ExitCode.USAGE
    assert all(flag in done.stderr for flag in ("--name", "--http", "--peer is missing", "--members is missing"))
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (RuntimeError("boom"), ExitCode.UNEXPECTED),
        (CommandFailed("no", ExitCode.VIOLATION), ExitCode.VIOLATION),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (NoNodeReachable("nobody"), ExitCode.UNREACHABLE),
        (AnswerLost("maybe"), ExitCode.UNKNOWN),
        (click.UsageError("what?"), ExitCode.USAGE),
    ],
)
def test_what_is_raised_becomes_one_line_and_a_code(
    raised: BaseException, code: ExitCode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: object) -> None:
        raise raised

    monkeypatch.setattr(program.kvstore, "main", fails)
    monkeypatch.delenv("KVSTORE_DEBUG", raising=False)
    assert program.main() == code
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert str(raised) in said.err


def test_debugging_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(**_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(program.kvstore, "main", fails)
    monkeypatch.setenv("KVSTORE_DEBUG", "1")
    assert program.main() == ExitCode.UNEXPECTED
    assert "Traceback" in capsys.readouterr().err


def test_every_status_of_the_api_has_its_code() -> None:
    assert {status: int(code) for status, code in CODE_OF_STATUS.items()} == {
        **dict.fromkeys((400, 413, 414, 415, 431), 2),
        404: 3,
        **dict.fromkeys((409, 410, 412), 4),
        **dict.fromkeys((429, 503, 507), 5),
        504: 6,
        **dict.fromkeys((401, 403), 7),
    }
    assert exit_code_of(Problem(500, {}, {})) == ExitCode.UNEXPECTED


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("2s", 2.0), ("1.5m", 90.0), ("1h", 3600.0), ("7d", 604800.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "2", "s", "-1s", "1 s", "1w", "1e3s", "٣s", "inf"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


def test_the_variable_follows_from_the_longest_flag() -> None:
    @click.command()
    @option("-x", "--much-longer", default="no")
    def command(much_longer: str) -> None: ...

    assert command.params[0].envvar == "KVSTORE_MUCH_LONGER"


def test_ports_of_the_largest_cluster_fit() -> None:
    layout = Layout(nodes=NODES_MAX, base_port=BASE_PORT_MAX)
    assert len(set(layout.ports())) == 2 * NODES_MAX
    assert max(layout.ports()) <= 65_535
