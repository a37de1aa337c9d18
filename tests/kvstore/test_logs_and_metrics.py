"""What a node tells of itself: log lines that can't be forged, and numbers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.logs import KEY_CHARACTERS_MAX, escape_key
from kvstore.metrics import LATENCY_BOUNDS_S, Metrics

SCRIPT = """
import logging, structlog
from pathlib import Path
from kvstore import logs
from kvstore.config import Address, NodeConfig
config = NodeConfig(name="n1", data=Path("d"), http=Address("localhost", 1), peer=Address("localhost", 2), members=(),
                    cluster_secret=b"sesame-open-sesame", log_level="{level}", log_format="{form}")
logs.configure(config)
log = structlog.get_logger()
log.debug("quiet")
log.info("started", config=str(config), key=logs.escape_key(b"a\\n{{}}"))
logging.getLogger("aiohttp.server").warning("from a library")
def divide(token):
    return 1 / 0
try:
    divide("told-to" + "-nobody")
except ZeroDivisionError:
    log.exception("failed")
"""


def test_a_log_that_can_not_be_written_fails_nothing() -> None:
    """/dev/full has no room, ever."""
    script = SCRIPT.format(level="debug", form="json") + "\nprint('went on', flush=True)"
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=full, check=False)
    assert ended.stdout == b"went on\n"


def logged(level: str, form: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(level=level, form=form)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def run(level: str) -> tuple[str, list[dict[str, str]]]:
    done = logged(level, "auto")
    return done.stdout, [json.loads(line) for line in done.stderr.splitlines()]


def test_piped_logs_are_one_json_object_per_line_on_stderr() -> None:
    stdout, events = run("info")
    assert stdout == ""
    assert [event["event"] for event in events] == ["started", "from a library", "failed"]
    assert {event["node"] for event in events if event["event"] != "from a library"} == {"n1"}
    assert [event["level"] for event in events] == ["info", "warning", "error"]
    assert "ZeroDivisionError" in events[2]["exception"]
    assert events[0]["key"] == "a\\n{}"
    assert "sesame" not in json.dumps(events)


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_show_no_variables(form: str) -> None:
    shown = logged("info", form).stderr
    assert "ZeroDivisionError" in shown
    assert "told-to-nobody" not in shown
    assert "Warning" not in shown


def test_levels_are_kept() -> None:
    assert run("debug")[1][0]["event"] == "quiet"
    assert [event["event"] for event in run("error")[1]] == ["failed"]


@given(st.binary(max_size=1_024))
def test_escaped_keys_are_printable_and_short(key: bytes) -> None:
    shown = escape_key(key)
    assert shown.isprintable()
    assert len(shown) <= KEY_CHARACTERS_MAX + 20


def test_escaped_keys_are_recognisable() -> None:
    assert escape_key(b"users/42") == "users/42"
    assert escape_key("\u00e9\U0001f600".encode()) == "\u00e9\U0001f600"
    assert escape_key(b"a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert escape_key(b"\xff") == "\\xff"


def test_latencies_fall_into_cumulative_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.0, LATENCY_BOUNDS_S[0], 0.003, 100.0):
        metrics.count_request("GET", "weak", 200, seconds)
    lines = metrics.exposition().decode().splitlines()
    for bound, count in (("0.0005", 2), ("0.0025", 2), ("0.005", 3), ("60.0", 3), ("+Inf", 4)):
        line = f'kvstore_request_seconds_bucket{{le="{bound}",level="weak",method="GET"}} {count}.0'
        assert line in lines, line


def test_strange_methods_share_one_series() -> None:
    metrics = Metrics()
    for method in ("BREW", "STEEP", "BREW"):
        metrics.count_request(method, "", 405, 0.0)
    assert b'kvstore_requests_total{level="",method="other",status="405"} 3.0' in metrics.exposition()


def test_what_is_registered_is_read_at_each_scrape() -> None:
    metrics = Metrics()
    depth = {("n2",): 1.0}
    metrics.gauge("kvstore_link_queue", "Frames that wait", lambda: depth, labels=("peer",))
    metrics.counter("kvstore_commits", "Transactions", lambda: 7)
    assert b'kvstore_link_queue{peer="n2"} 1.0' in metrics.exposition()
    depth[("n3",)] = 2.0
    text = metrics.exposition()
    assert b'kvstore_link_queue{peer="n3"} 2.0' in text
    assert b"kvstore_commits_total 7.0" in text
    with pytest.raises(ValueError, match="registered already"):
        metrics.gauge("kvstore_commits", "again", lambda: 0)
