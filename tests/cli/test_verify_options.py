"""`kvstore verify`: what may be asked for together."""

from __future__ import annotations

import pytest

from cli.errors import ExitCode
from cli.verification.options import WORKLOADS
from kvstore.verify.load import WORKLOADS as KNOWN
from tests.cluster.cli_runner import Cli


def test_the_workloads_are_those_there_are() -> None:
    assert WORKLOADS == KNOWN


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say what to verify"),
        (("--local", "--endpoints", "127.0.0.1:1"), "give one of"),
        (("--local", "--faults", "fire"), "'fire' is no fault"),
        (("--local", "--workload", "chess"), "'chess' is no workload"),
        (("--local", "--nodes", "4"), "'4' is not one of"),
        (("--local", "--time", "soon"), "'soon' is no duration"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: tuple[str, ...], words: str) -> None:
    ended = Cli([])("verify", *arguments, KVSTORE_ENDPOINTS="")
    assert ended.code == ExitCode.USAGE
    assert words in ended.err
