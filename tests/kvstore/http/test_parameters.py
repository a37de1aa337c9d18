"""Queries, parsed strictly."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.levels import Level
from kvstore.http.incoming import parameters
from kvstore.http.incoming.parameters import Choice, parameter_set
from kvstore.http.outgoing.problems import Problem

KNOWN = parameter_set(Level.STRONG)


@pytest.mark.parametrize(
    ("query", "choice"),
    [
        ("", Choice(Level.STRONG, 2, 5.0)),
        ("consistency=strong", Choice(Level.STRONG, 2, 5.0)),
        ("consistency=weak", Choice(Level.WEAK, 1, 5.0)),
        ("consistency=eventual&r=all", Choice(Level.EVENTUAL, 3, 5.0)),
        ("r=all", Choice(Level.STRONG, 3, 5.0)),
        ("r=quorum&consistency=weak", Choice(Level.WEAK, 2, 5.0)),
        ("r=3&timeout=1ms", Choice(Level.STRONG, 3, 0.001)),
        ("consistency=we%61k&r=%6fne", Choice(Level.WEAK, 1, 5.0)),
        ("timeout=6%30s", Choice(Level.STRONG, 2, 60.0)),
        ("timeout=60s", Choice(Level.STRONG, 2, 60.0)),
        ("timeout=60000ms", Choice(Level.STRONG, 2, 60.0)),
        ("timeout=1m", Choice(Level.STRONG, 2, 60.0)),
    ],
)
def test_reads(query: str, choice: Choice) -> None:
    assert KNOWN.read.parse(query, 3) == choice


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("consistency=", "consistency"),
        ("consistency=STRONG", "consistency"),
        ("consistency=str%5fng", "consistency"),
        ("consistency=strong%", "consistency"),
        ("consistency=%ff", "consistency"),
        ("consistency=strong+", "consistency"),
        ("r=02", "r"),
        ("r=%302", "r"),
        ("timeout=02s", "timeout"),
        ("consistency=weak&consistency=weak", "consistency"),
        ("r=", "r"),
        ("r=-1", "r"),
        ("r=+2", "r"),
        ("r=1_0", "r"),
        ("r=\u0662", "r"),
        ("r=2.0", "r"),
        ("r=Quorum", "r"),
        ("r=99999999999999999999", "r"),
        ("w=2", "w"),
        ("ttl=30s", "ttl"),
        ("timeout=0s", "timeout"),
        ("timeout=0ms", "timeout"),
        ("timeout=61s", "timeout"),
        ("timeout=2m", "timeout"),
        ("timeout=5", "timeout"),
        ("timeout=1.5s", "timeout"),
        ("timeout=-1s", "timeout"),
        ("timeout=s", "timeout"),
        ("timeout=1ss", "timeout"),
        ("timeout=1sm", "timeout"),
        ("timeout=1h", "timeout"),
        ("timeout=nans", "timeout"),
        ("timeout=9999999999s", "timeout"),
        ("x=1", "x"),
        ("r", "r"),
        ("=1", ""),
        ("r=2&", ""),
        ("&", ""),
        ("r%3d2", "r%3d2"),
        ("\u00e9=1", "?"),
    ],
)
def test_what_a_read_refuses(query: str, parameter: str) -> None:
    with pytest.raises(Problem) as caught:
        KNOWN.read.parse(query, 3)
    assert (caught.value.code, caught.value.extra["parameter"]) == ("bad-parameter", parameter)


def test_the_refusal_says_what_is_known() -> None:
    with pytest.raises(Problem, match="consistency, w, timeout"):
        KNOWN.put.parse("r=2", 3)
    with pytest.raises(Problem, match="a delete does not take it; known are: consistency, w, timeout"):
        KNOWN.delete.parse("ttl=2s", 3)


@pytest.mark.parametrize(
    ("text", "ttl_ms"),
    [
        ("100ms", 100),
        ("30s", 30_000),
        ("3%30s", 30_000),
        ("5m", 300_000),
        ("1h", 3_600_000),
        ("1d", 86_400_000),
        ("3650d", 315_360_000_000),
        ("315360000s", 315_360_000_000),
    ],
)
def test_times_to_live(text: str, ttl_ms: int) -> None:
    assert KNOWN.put.parse(f"w=3&ttl={text}&timeout=1s", 3) == Choice(Level.STRONG, 3, 1.0, ttl_ms)


@pytest.mark.parametrize(
    "text",
    ["", "30", "s", "0s", "1.5s", "-1s", "+30s", "030s", "30S", "30 s", "1w", "1ss", "99ms", "3651d", "315360001s",
     "9999999999s", "\u0663s", "nans", "never"],
)  # fmt: skip
def test_what_is_no_time_to_live(text: str) -> None:
    with pytest.raises(Problem) as caught:
        KNOWN.put.parse(f"ttl={text}", 3)
    assert (caught.value.code, caught.value.extra["parameter"]) == ("bad-parameter", "ttl")


def test_a_refused_time_to_live_says_the_limits() -> None:
    with pytest.raises(Problem, match="100ms to 3650d"):
        KNOWN.put.parse("ttl=1ms", 3)


def test_a_value_that_does_not_expire_has_no_time_to_live() -> None:
    assert KNOWN.put.parse("", 3).ttl_ms == 0


@pytest.mark.parametrize("n", range(1, 6))
@pytest.mark.parametrize("count", range(8))
def test_counts_are_within_what_the_level_honours(n: int, count: int) -> None:
    query = f"w={count}"
    if n // 2 + 1 <= count <= n:
        assert KNOWN.put.parse(query, n).needed == count
        return
    with pytest.raises(Problem) as caught:
        KNOWN.put.parse(query, n)
    assert caught.value.code == ("quorum-too-large" if count > n else "quorum-too-small")
    assert caught.value.extra["needed"] == n // 2 + 1


@pytest.mark.parametrize("query", ["r=0", "r=4"])
def test_what_is_needed_is_what_the_level_would_need(query: str) -> None:
    needed = {}
    for level in Level:
        with pytest.raises(Problem) as caught:
            KNOWN.read.parse(f"consistency={level}&{query}", 3)
        needed[level] = caught.value.extra["needed"]
    assert needed == {Level.STRONG: 2, Level.WEAK: 1, Level.EVENTUAL: 1}


def test_what_was_remembered_is_forgotten_when_n_changes() -> None:
    assert [KNOWN.read.parse("r=all", n).needed for n in (3, 5, 3)] == [3, 5, 3]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "REMEMBERED_MAX", 10)
    reads = parameter_set(Level.WEAK).read
    for ms in range(1, 100):
        assert reads.parse(f"timeout={ms}ms", 3).timeout_s == ms / 1000
        assert len(reads._remembered) <= 10


@given(st.text(st.characters(exclude_characters="#"), max_size=30))
def test_nothing_but_a_problem_comes_out(query: str) -> None:
    for parser in (KNOWN.read, KNOWN.put, KNOWN.delete, KNOWN.batch, KNOWN.listing, KNOWN.placement, KNOWN.none):
        with suppress(Problem):
            parser.parse(query, 3)  # type: ignore[attr-defined]
        parser.level_of(query)  # type: ignore[attr-defined]


def test_a_listings_texts_are_form_encoded() -> None:
    choice = KNOWN.listing.parse("prefix=a+b%2Bc&after=%F0%9F%98%80&limit=1000&values=false", 3)
    assert (choice.prefix, choice.after, choice.limit, choice.values) == (b"a b+c", "\U0001f600".encode(), 1000, False)
