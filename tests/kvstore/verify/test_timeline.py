"""The page that a violation is drawn on, in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from kvstore.verify.explain.timeline import timeline
from kvstore.verify.history import History
from kvstore.verify.judge import judge
from tests.kvstore.verify.histories import begin, end, history, one

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here (apt-get install chromium)")
ATTACK = "</script><img src=x onerror=document.title='broken-in'>"


def violated() -> History:
    return history(
        *one(1, "put", value="a"),
        begin(9, "put", value="slow"),
        *one(2, "put", value=ATTACK, node="n1"),
        begin(4, "weak-put", value="w"),
        *one(3, "read", told_value="a"),
        end(9, "unknown", error="outcome-unknown"),
        *one(5, "cas", "k", "conflict", value="c", expected="z", told_value=ATTACK),
    )


def page() -> str:
    judged = violated()
    return timeline(judged, judge(judged), "run.jsonl")


def in_browser(script: str, tmp_path: Path, *flags: str) -> Any:
    """What the script returns, run in the page once it is there."""
    file = tmp_path / "page.html"
    report = f"document.body.dataset.result = JSON.stringify((() => {{ {script} }})());"
    file.write_text(page().replace("</body>", f"<script>{report}</script></body>"), "utf-8")
    assert CHROMIUM is not None
    headless = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")
    done = subprocess.run(
        [CHROMIUM, *headless, *flags, file.as_uri()], capture_output=True, check=True, text=True, timeout=100
    )
    match = re.search(r'data-result="([^"]*)"', done.stdout)
    assert match is not None, done.stderr
    return json.loads(unescape(match[1]))


def test_the_page_loads_nothing_and_escapes_everything() -> None:
    text = page()

    assert not re.findall(r"https?://|src=|@import|url\(", text.replace(ATTACK, "").replace("&lt;img src=x", ""))
    assert "<img" not in text
    assert text.count("<script>") == 1


@needs_chromium
def test_lanes_bars_and_the_few_that_can_t_be_ordered(tmp_path: Path) -> None:
    told = in_browser(
        """
        const text = selector => [...document.querySelectorAll(selector)].map(element => element.textContent);
        const boxes = [...document.querySelectorAll('.op')].map(op => op.getBoundingClientRect());
        return {title: document.title, lanes: text('.who'), shown: text('.op.shown'),
          rows: text('tbody td:first-child'), open: text('.op.open'),
          narrow: boxes.filter(box => box.width < 40 || box.height < 20).length,
          cut: [...document.querySelectorAll('.op')].filter(op => op.scrollWidth > op.clientWidth + 1).length};
        """,
        tmp_path,
    )

    assert told["title"] == "kvstore verify: violated"
    assert told["lanes"] == [f"process {n}" for n in (1, 2, 3, 4, 9)]
    assert [label[0] for label in told["shown"]] == ["1", "2", "3"]
    assert told["shown"][2] == "3read → 'a'"
    assert told["rows"] == ["1", "2", "3"]
    assert len(told["open"]) == 2
    assert told["narrow"] == 0
    assert told["cut"] == 0


@needs_chromium
def test_the_keyboard_goes_everywhere(tmp_path: Path) -> None:
    told = in_browser(
        """
        const first = document.querySelector('.op[tabindex="0"]'), seen = [];
        const at = () => seen.push([document.activeElement.textContent, document.querySelector('.told').textContent]);
        first.focus(); at();
        for (const key of ['n', 'n', 'ArrowUp', 'End', 'Home', 'p']) {
          document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true})); at();
        }
        return {seen, stops: document.querySelectorAll('.op[tabindex="0"]').length,
          lit: document.querySelectorAll('tr.lit').length};
        """,
        tmp_path,
    )

    labels = [label for label, _ in told["seen"]]
    assert labels[0] == "1put 'a'"
    assert labels[2] == "3read → 'a'"
    assert labels[3].startswith("2put ")
    assert labels[5] == labels[0]
    assert "Process 3 asked for read and was told ok: 'a'" in told["seen"][2][1]
    assert told["stops"] == 1
    assert told["lit"] == 1


@needs_chromium
def test_views_can_be_changed(tmp_path: Path) -> None:
    told = in_browser(
        """
        const buttons = [...document.querySelectorAll('.choice button')];
        const click = name => buttons.find(button => button.textContent === name).click();
        const seen = () => [...document.querySelectorAll('.op')].filter(op => op.offsetParent !== null).length;
        const before = seen(); click('only these 3'); const only = seen(); click('all around'); const after = seen();
        const style = document.createElement('style'); style.textContent = '.op { transition: none !important; }';
        document.head.append(style);
        const lefts = () => [...document.querySelectorAll('.op')].map(op => op.getBoundingClientRect().left);
        const byOrder = lefts(); click('by time'); const byTime = lefts();
        return {before, only, after, moved: byOrder.some((left, i) => left !== byTime[i])};
        """,
        tmp_path,
    )

    assert told == {"before": 5, "only": 3, "after": 5, "moved": True}


@needs_chromium
def test_it_has_a_dark_side(tmp_path: Path) -> None:
    script = "return getComputedStyle(document.body).backgroundColor;"

    light = in_browser(script, tmp_path)
    dark = in_browser(script, tmp_path, "--blink-settings=preferredColorScheme=0")

    assert light != dark
