"""The demo's verdict: nothing passes by default, and every claim has its check."""

from __future__ import annotations

import ast
import io
import json
import random
import socket
from pathlib import Path

import pytest

import cli.demo
from cli.demo.claims import CLAIMS, Verdict
from cli.demo.report import as_json, conclusion, show_verdict
from cli.demo.stage import Place, nodes_environment
from cli.demo.story import NotSeen, Story
from cli.errors import ExitCode

ALL = [claim.name for claim in CLAIMS]


def verdict_with(*seen: str) -> Verdict:
    verdict = Verdict()
    for name in seen:
        verdict.note(name, True, "by a test")
    return verdict


def test_exit_code_0_needs_every_single_claim() -> None:
    assert verdict_with(*ALL).exit_code == ExitCode.DONE
    assert Verdict().exit_code == ExitCode.VIOLATION
    for left_out in ALL:
        verdict = verdict_with(*(name for name in ALL if name != left_out))
        assert verdict.exit_code == ExitCode.VIOLATION
        assert [finding.claim.name for finding in verdict.missing] == [left_out]
        assert left_out in conclusion(verdict, 1.0)


def test_what_was_not_seen_once_stays_so() -> None:
    verdict = verdict_with(*ALL)
    verdict.note("fenced", False, "it was taken")
    finding = verdict.note("fenced", True, "but then it was not")
    assert (finding.seen, finding.evidence) == (False, "it was taken")
    assert verdict.exit_code == ExitCode.VIOLATION


def test_only_what_was_claimed_can_be_seen() -> None:
    with pytest.raises(KeyError):
        Verdict().note("something else", True, "")


def test_every_claim_has_a_check_and_no_check_is_a_constant() -> None:
    """`story.see("name", True, ...)` would be no check."""
    checks: dict[str, ast.expr] = {}
    for path in Path(str(cli.demo.__file__)).parent.glob("act_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "see":
                claim, check = node.args[:2]
                assert isinstance(claim, ast.Constant)
                assert claim.value not in checks, "a claim has one check"
                checks[claim.value] = check
    assert set(checks) == set(ALL)
    assert not [name for name, check in checks.items() if isinstance(check, ast.Constant)]


def test_plain_text_has_a_line_per_claim_and_names_what_is_missing() -> None:
    told = io.StringIO()
    verdict = verdict_with("cluster")
    verdict.note("strong", False, "nobody answered")
    show_verdict(verdict, 12.0, told)
    lines = told.getvalue().splitlines()
    assert sum(line.startswith("seen ") for line in lines) == 1
    assert sum(line.startswith("NOT SEEN ") for line in lines) == 1
    assert sum(line.startswith("not reached ") for line in lines) == len(ALL) - 2
    assert lines[-1].startswith(f"{len(ALL) - 1} of {len(ALL)} claims were not seen: strong, weak, ")
    assert "\x1b" not in told.getvalue()


def test_json_has_every_claim() -> None:
    shown = json.loads(json.dumps(as_json(verdict_with(*ALL[:-1]), 1.23)))
    assert (shown["all_seen"], shown["seconds"]) == (False, 1.2)
    assert [(claim["name"], claim["seen"], claim["reached"]) for claim in shown["claims"]] == [
        *((name, True, True) for name in ALL[:-1]),
        (ALL[-1], False, False),
    ]


def test_a_story_is_told_in_lines_of_bounded_length_without_control_characters() -> None:
    told = io.StringIO()
    story = Story(Verdict(), told)
    story.chapter("A beginning")
    story.tell("word " * 60)
    story.see("cluster", True, "evil \x1b[31m " + "word " * 60)
    lines = told.getvalue().splitlines()
    assert lines[1] == "1. A beginning"
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("   seen  evil \\x1b[31m word") for line in lines)
    assert story.verdict.findings[0].seen


async def test_waiting_ends_with_what_was_seen_or_names_what_was_not() -> None:
    story = Story(Verdict(), io.StringIO())
    left = [None, None, 7]

    async def look() -> int | None:
        return left.pop(0)

    async def never() -> None:
        return None

    assert await story.until(look, "a number") == 7
    with pytest.raises(NotSeen, match="in vain for a miracle"):
        await story.until(never, "a miracle", patience_s=0.0)


def test_ports_that_are_taken_or_claimed_are_passed_over() -> None:
    first = Place(random.Random(1))
    second = Place(random.Random(1))
    first.release()
    second.release()
    assert len({*first.layout.ports(), *second.layout.ports()}) == 12
    with socket.create_server(("127.0.0.1", first.layout.peer_port(2))):
        third = Place(random.Random(1))
        third.release()
        assert third.layout.base_port == second.layout.base_port


def test_nodes_take_no_settings_from_whoever_runs_the_demo() -> None:
    ours = {"PATH": "/bin", "KVSTORE_CONSISTENCY": "weak", "KVSTORE_TEST_CLOCK": "x"}
    assert nodes_environment(ours) == {"PATH": "/bin"}
