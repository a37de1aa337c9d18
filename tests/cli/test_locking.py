"""The parts of `lock`, `vote` and `elect` that need no store, and the exit codes of what applications are told."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import click
import pytest
from click.core import ParameterSource

from cli.connection import with_store
from cli.data.keys import fence_header, is_meant_for_a_read
from cli.errors import CODE_OF_STATUS, ExitCode, exit_code_of
from cli.locking.command_process import CannotStart, descendants, refuse_what_is_missing
from cli.locking.commands import release_command
from cli.locking.held_lock import Wish
from cli.locking.names import OWNER_BYTES_MAX, default_owner, held, token_of
from cli.locking.run import environment_of
from cli.locking.vote import parsed
from cli.options import Choices
from kvstore import errors

DEFAULT, ENVIRONMENT, LINE = ParameterSource.DEFAULT, ParameterSource.ENVIRONMENT, ParameterSource.COMMANDLINE
NODES = ("http://a", "http://b")


def leaves(kind: type[errors.KvstoreError] = errors.KvstoreError) -> set[type[errors.KvstoreError]]:
    below = kind.__subclasses__()
    return set().union(*map(leaves, below)) if below else {kind}


def test_every_error_that_applications_are_told_has_its_exit_code() -> None:
    codes = {kind.__name__: int(exit_code_of(kind("so"))) for kind in leaves()}
    assert codes == {
        "NoNodeReachable": 8,
        "NeedsStrong": 2,
        "BadFence": 2,
        "TooLarge": 2,
        "NotAllowed": 7,
        "QuorumUnavailable": 5,
        "Overloaded": 5,
        "DiskFull": 5,
        "VersionMismatch": 4,
        "Exists": 4,
        "Fenced": 4,
        "LockHeld": 4,
        "LockLost": 4,
        "OutcomeUnknown": 6,
        "ReadTimedOut": 6,
    }


@pytest.mark.parametrize("status", CODE_OF_STATUS)
def test_an_error_that_no_class_fits_goes_by_its_status(status: int) -> None:
    assert exit_code_of(errors.NotApplied("so", status=status)) == CODE_OF_STATUS[status]
    assert exit_code_of(errors.KvstoreError("so")) == ExitCode.UNEXPECTED


# -- nodes or a file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoints_from", "file_from", "chosen"),
    [
        (DEFAULT, DEFAULT, None),
        (DEFAULT, ENVIRONMENT, "app.db"),
        (DEFAULT, LINE, "app.db"),
        (ENVIRONMENT, DEFAULT, None),
        (ENVIRONMENT, LINE, "app.db"),
        (LINE, DEFAULT, None),
        (LINE, ENVIRONMENT, None),
    ],
)
def test_what_is_said_nearer_to_the_command_wins(
    endpoints_from: ParameterSource, file_from: ParameterSource, chosen: str | None
) -> None:
    file = None if file_from is DEFAULT else "app.db"
    assert Choices(NODES, None, endpoints_from, file, file_from).chosen_file() == chosen


@pytest.mark.parametrize(("source", "named"), [(ENVIRONMENT, "KVSTORE_FILE"), (LINE, "--file")])
def test_nodes_and_a_file_in_the_same_place_are_refused(source: ParameterSource, named: str) -> None:
    with pytest.raises(click.UsageError, match=named):
        Choices(NODES, None, source, "app.db", source).chosen_file()


def test_a_bad_address_is_a_usage_error() -> None:
    async def never(_: object) -> None:
        raise AssertionError("there is no store")

    with pytest.raises(click.UsageError, match="--endpoints"):
        with_store(Choices(("ftp://x",), None), never)


# -- fences in the environment --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fence", "environment", "header"),
    [
        ("report=7", {}, "report=7"),
        ("a=b/ü=7", {}, "a%3Db%2F%C3%BC=7"),
        ("report=7", {"KVSTORE_LOCK": "other"}, "report=7"),
        ("7", {"KVSTORE_LOCK": "nightly/backup"}, "nightly%2Fbackup=7"),
        ("7", {"KVSTORE_LOCK": "a=b"}, "a%3Db=7"),
        ("report=7", {"KVSTORE_FILE": "app.db"}, "report=7"),
    ],
)
def test_a_bare_number_is_a_fence_of_the_lock_that_runs_the_command(
    fence: str, environment: dict[str, str], header: str
) -> None:
    assert fence_header(fence, environment) == header


@pytest.mark.parametrize(
    ("fence", "environment"),
    [
        ("7", {}),
        ("7", {"KVSTORE_LOCK": ""}),
        ("seven", {"KVSTORE_LOCK": "report"}),
        ("-7", {"KVSTORE_LOCK": "report"}),
        ("٧", {"KVSTORE_LOCK": "report"}),
        ("", {"KVSTORE_LOCK": "report"}),
        ("=7", {"KVSTORE_LOCK": "report"}),
        ("report=", {}),
        ("7", {"KVSTORE_LOCK": "report", "KVSTORE_FILE": "app.db"}),
    ],
)
def test_what_is_no_fence_is_refused(fence: str, environment: dict[str, str]) -> None:
    with pytest.raises(click.UsageError):
        fence_header(fence, environment)


@pytest.mark.parametrize(
    ("consistency", "environment", "expected"),
    [
        (None, {"KVSTORE_LOCK": "report"}, True),
        ("strong", {}, True),
        ("weak", {}, False),
        ("eventual", {}, False),
        (None, {"KVSTORE_FILE": "app.db"}, False),
    ],
)
def test_a_read_goes_without_the_fence_of_the_environment_where_it_can_bear_none(
    consistency: str | None, environment: dict[str, str], expected: bool
) -> None:
    assert is_meant_for_a_read(consistency, environment) is expected


def test_the_command_finds_lock_fence_and_nodes_and_none_of_our_own_options() -> None:
    ours = {
        "PATH": "/bin",
        "KVSTORE_TTL": "30s",  # `put` would have its value expire
        "KVSTORE_WAIT": "1m",
        "KVSTORE_OWNER": "me",
        "KVSTORE_PERMITS": "1",
        "KVSTORE_FENCE": "3",
        "KVSTORE_LOCK": "outer",
        "KVSTORE_FILE": "app.db",
        "KVSTORE_TIMEOUT": "2s",
    }
    wish = Wish("report", "me", 10.0, 0.0, 1, ["true"])
    assert environment_of(ours, Choices(NODES, None), wish, 42) == {
        "PATH": "/bin",
        "KVSTORE_TIMEOUT": "2s",
        "KVSTORE_LOCK": "report",
        "KVSTORE_FENCE": "42",
        "KVSTORE_ENDPOINTS": "http://a,http://b",
    }


def test_the_command_finds_the_file_wherever_it_goes() -> None:
    choices = Choices(NODES, None, DEFAULT, "app.db", LINE)
    found = environment_of({"KVSTORE_ENDPOINTS": "x"}, choices, Wish("report", "me", 10.0, 0.0, 1, ["true"]), 42)
    assert found["KVSTORE_FILE"] == os.path.abspath("app.db")
    assert "KVSTORE_ENDPOINTS" not in found


def test_several_holders_have_no_fence() -> None:
    """The fence of the later one would shut out the earlier, who holds the lock as rightly."""
    found = environment_of({"KVSTORE_FENCE": "3"}, Choices(NODES, None), Wish("l", "me", 10.0, 0.0, 2, ["true"]), 42)
    assert found["KVSTORE_LOCK"] == "l"
    assert "KVSTORE_FENCE" not in found


# -- small things ---------------------------------------------------------------------------------------------------


def test_the_grace_leaves_a_short_lease_time_to_be_renewed() -> None:
    assert Wish("l", "me", 10.0, 0.0, 1, []).grace_s == 2.0
    assert Wish("l", "me", 1.0, 0.0, 1, []).grace_s == pytest.approx(1 / 3)


def test_a_token_is_a_line_of_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\nmore\n"))
    assert token_of("-") == "secret"
    assert token_of("plain") == "plain"
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(click.UsageError):
        token_of("-")


def test_an_owner_fits_and_names_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_owner(42).endswith(":42")
    monkeypatch.setattr("socket.gethostname", lambda: "ü" * 500)
    owner = default_owner(42)
    assert owner.endswith("ü:42")
    assert OWNER_BYTES_MAX - 2 <= len(owner.encode()) <= OWNER_BYTES_MAX


def test_a_refusal_names_the_holder_when_to_try_and_what_to_do() -> None:
    error = errors.LockHeld("so", holder="worker\x1b7", retry_after=8.0)
    assert str(held("report", "the lock", error, 0.0)) == (
        r"the lock 'report' is held by worker\x1b7; unless that lease is renewed, it may be free in 8 s "
        "(--wait 30s stands in line)"
    )
    assert str(held("report", "the lead of", errors.LockHeld("so"), 30.0)) == (
        "the lead of 'report' is held by others (after waiting for 30 s)"
    )
    assert held("report", "the lock", error, 0.0).code == ExitCode.CONDITION_FAILED


@pytest.mark.parametrize(("text", "value"), [(None, None), ("null", None), ('{"a": [1]}', {"a": [1]}), ('"x"', "x")])
def test_a_proposal_is_json(text: str | None, value: object) -> None:
    assert parsed(text) == value


@pytest.mark.parametrize("text", ["x", "", "{", "NaN", "[Infinity]", "'x'"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="no JSON"):
        parsed(text)


def test_a_command_that_is_nowhere_is_told_before_anybody_stands_in_line() -> None:
    refuse_what_is_missing("sh")
    refuse_what_is_missing("/")  # it is there; that it can't be started is the system's to say
    with pytest.raises(CannotStart) as caught:
        refuse_what_is_missing("no-such-command-anywhere")
    assert caught.value.exit_code == 127


@pytest.mark.skipif(sys.platform != "linux", reason="by /proc")
def test_descendants_are_all_that_run_below() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        found = descendants(os.getpid())
        assert found.index(shell.pid) < len(found) - 1
        assert descendants(shell.pid) == found[-1:]
        for pid in reversed(found[found.index(shell.pid) :]):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("arguments", "name", "token"),
    [
        (["l", "plain"], "l", "plain"),
        (["l", "-"], "l", "-"),
        (["l", "-oyxTZEtERagKUcYToYZ_Xf3nEqCjNyi"], "l", "-oyxTZEtERagKUcYToYZ_Xf3nEqCjNyi"),
        (["l", "--yxTZEtERagKUcYToYZ_Xf3nEqCjNyi", "-o", "json"], "l", "--yxTZEtERagKUcYToYZ_Xf3nEqCjNyi"),
        (["--timeout", "2s", "l", "-syxTZEtERagKUcYToYZ_Xf3nEqCjNyi"], "l", "-syxTZEtERagKUcYToYZ_Xf3nEqCjNyi"),
        (["--", "-l", "-syxTZEtERagKUcYToYZ_Xf3nEqCjNyi"], "-l", "-syxTZEtERagKUcYToYZ_Xf3nEqCjNyi"),
        (["-syxTZEtERagKUcYToYZ_Xf3nEqCjNyi", "--", "l"], "-syxTZEtERagKUcYToYZ_Xf3nEqCjNyi", "l"),
    ],
)
def test_a_token_may_begin_with_a_dash(arguments: list[str], name: str, token: str) -> None:
    context = click.Context(release_command, obj=Choices(NODES, None))
    release_command.parse_args(context, arguments)
    assert (context.params["name"], context.params["token"]) == (name, token)


@pytest.mark.parametrize("arguments", [["l"], ["l", "--tiemout", "2s", "x"], ["l", "-x", "t"]])
def test_a_wrong_option_is_still_told(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        release_command.parse_args(click.Context(release_command, obj=Choices(NODES, None)), arguments)
