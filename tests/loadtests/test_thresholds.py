"""The file of thresholds, what breaks one, and the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.correctness.ledger import Finding
from loadtests.thresholds import DEFAULT_FILE, Limits, Measured, Row, Thresholds, judge, load_thresholds
from loadtests.verdict import ExitCode, Verdict, read_verdict, show

STRONG = "GET /v1/kv [strong]"


def thresholds(folder: Path, text: str) -> Thresholds:
    path = folder / "thresholds.toml"
    path.write_text(text)
    return load_thresholds(path)


def test_the_nearer_word_goes_first(tmp_path: Path) -> None:
    told = thresholds(
        tmp_path,
        f"""
        [any]
        p95_ms = 1
        p99_ms = 2
        failures_max = 0.1
        [requests."{STRONG}"]
        p95_ms = 3
        requests_min = 7
        [profiles.chaos.any]
        p99_ms = 4
        [profiles.chaos.requests."{STRONG}"]
        failures_max = 0.5
        """,
    )

    assert told.of("other", "steps") == Limits(1, 2, 0.1)
    assert told.of(STRONG, "steps") == Limits(3, 2, 0.1, 7)
    assert told.of("other", "chaos") == Limits(1, 4, 0.1)
    assert told.of(STRONG, "chaos") == Limits(3, 4, 0.5, 7)


@pytest.mark.parametrize(
    ("measured", "broken"),
    [
        (Measured(STRONG, 10, 1, 5.0, 9.0), []),
        (Measured(STRONG, 9, 0, 5.0, 9.0), ["requests_min"]),
        (Measured(STRONG, 10, 2, 5.0, 9.0), ["failures_max"]),
        (Measured(STRONG, 10, 0, 5.1, 9.0), ["p95_ms"]),
        (Measured(STRONG, 10, 0, 5.1, 9.1), ["p95_ms", "p99_ms"]),
    ],
)
def test_at_the_limit_is_kept_and_beyond_it_is_broken(measured: Measured, broken: list[str]) -> None:
    told = Thresholds(any=Limits(5, 9, 0.1, 10))

    assert [row.broken for row in judge(told, "", [measured])] == [broken]


def test_a_request_that_nobody_made_is_missed() -> None:
    told = Thresholds(requests={STRONG: Limits(requests_min=1), "optional": Limits(p95_ms=1)})

    assert [(row.measured.name, row.broken) for row in judge(told, "", [])] == [(STRONG, ["requests_min"])]


@pytest.mark.parametrize("text", ["[any]\np95 = 1", "any = 1", "[any]\np95_ms = 'fast'", "[any"])
def test_a_file_that_means_nothing_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="is no file of thresholds"):
        thresholds(tmp_path, text)


def test_ours_can_be_read_and_names_every_profile_that_needs_more_room() -> None:
    told = load_thresholds(DEFAULT_FILE)

    assert set(told.profiles) <= {"steps", "spike", "soak", "chaos"}
    assert STRONG in told.named("steps")


KEPT, BROKEN = Row(Measured("r", 1, 0, 1, 1), Limits(), []), Row(Measured("r", 1, 0, 9, 9), Limits(5), ["p95_ms"])


@pytest.mark.parametrize(
    ("rows", "verdicts", "troubles", "code"),
    [
        ([KEPT], ["held"], [], ExitCode.KEPT),
        ([KEPT, BROKEN], ["held"], [], ExitCode.BREACHED),
        ([KEPT], ["held", "undecided"], [], ExitCode.BREACHED),
        ([KEPT], ["held"], ["no node came back"], ExitCode.BREACHED),
        ([KEPT], ["undecided", "violated"], [], ExitCode.VIOLATED),
        ([BROKEN], ["violated"], ["no node came back"], ExitCode.VIOLATED),
    ],
)
def test_the_exit_code(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[Row],
    verdicts: list[str],
    troubles: list[str],
    code: ExitCode,
) -> None:
    verdict = Verdict("steps", rows, [Finding("no lie", one, "[seen]") for one in verdicts], troubles)
    verdict.write(tmp_path / "verdict.json")

    assert verdict.exit_code == code
    assert read_verdict(tmp_path / "verdict.json") == verdict
    show(verdict)
    said = capsys.readouterr().out
    assert "[seen]" in said
    assert ("broken: p95_ms" in said) == (BROKEN in rows)
    assert all(trouble in said for trouble in troubles)
