"""A violation as a page for a browser: processes as lanes, calls as bars, those that can't be ordered marked.

One file that loads nothing. Bars are drawn by the order of events, so that each has room for its words; by time at a
click. Everything that comes from the history is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from kvstore.verify.checkers.registers import ONLY_NAMED
from kvstore.verify.explain.page import HOW_TO_READ, SCRIPT, STYLE
from kvstore.verify.explain.text import COLUMNS, answered, asked, moment, rows_of, told
from kvstore.verify.history import Kind, Operation, Outcome
from kvstore.verify.verdict import Finding, Judgement

FINDINGS_MAX: Final = 20
CONTEXT_MAX: Final = 150
"""Other calls on the key that are drawn beside those that matter."""
LABEL_SIGNS_MAX: Final = 30
SIGN_PX: Final = 7.3
PADDING_PX: Final = 26
NUMBER_PX: Final = 24
GAP_PX: Final = 14
ROW_PX: Final = 38
TIME_PX: Final = 1_200
"""How wide the drawing by time is, at least."""


def write_timeline(operations: Iterable[Operation], judgement: Judgement, path: Path, source: str = "") -> None:
    """Writes the page for the judgement's findings. `operations`: all of the history, for what happened beside."""
    path.write_text(timeline(operations, judgement, source), "utf-8")


def timeline(operations: Iterable[Operation], judgement: Judgement, source: str = "") -> str:
    """The page."""
    findings = [finding for finding in judgement.findings if ONLY_NAMED not in finding.details][:FINDINGS_MAX]
    keys = {finding.key for finding in findings}
    by_key: dict[str, list[Operation]] = {key: [] for key in keys}
    for operation in operations:
        if operation.key in keys:
            by_key[operation.key].append(operation)
    cards = "".join(_card(finding, by_key[finding.key]) for finding in findings)
    hidden = len(judgement.findings) - len(findings)
    more = f'<p class="soft">{hidden} further findings are not drawn.</p>' if hidden else ""
    count = f"{len(judgement.findings)} finding{'s' if len(judgement.findings) != 1 else ''}"
    where = f" in <code>{escape(source)}</code>" if source else ""
    plural = "" if judgement.keys == 1 else "s"
    judged = f"{judgement.operations:,} operations on {judgement.keys:,} key{plural} were judged: {judgement.check}."
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>kvstore verify: {judgement.verdict}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1><span class="verdict">{str(judgement.verdict).capitalize()}</span>: {count}{where}</h1>
<p class="soft">{escape(judged)}</p>
{cards}{more}
{HOW_TO_READ}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _card(finding: Finding, of_key: Sequence[Operation]) -> str:
    shown = {operation.invoked: number for number, operation in enumerate(finding.operations, 1)}
    drawn = sorted({op.invoked: op for op in (*_around(finding, of_key), *finding.operations)}.values(), key=_invoked)
    context = len(drawn) - len(shown)
    return f"""<section class="card" aria-label="{escape(finding.check)} of {escape(finding.key)}">
<span class="tag">{escape(finding.check)}</span>
<h2>{escape(finding.what)}</h2>
<p class="soft">Key <code>{escape(finding.key)}</code></p>
<div class="bar">
<span class="choice"><button aria-pressed="true" data-off="by-time">by order</button>\
<button aria-pressed="false" data-on="by-time">by time</button></span>
{_context_choice(len(shown), context)}
{LEGEND}
</div>
<div class="scroll"><div class="lanes" role="group" aria-label="Calls by process">
{_lanes(drawn, shown)}
</div></div>
<div class="told" aria-live="polite"><p class="soft">Point at a bar, or go there with the Tab and arrow keys, for what \
was asked and told.</p></div>
{_table(finding)}
</section>
"""


def _context_choice(shown: int, context: int) -> str:
    if not context:
        return ""
    return (
        '<span class="choice"><button aria-pressed="true" data-off="only">all around</button>'
        f'<button aria-pressed="false" data-on="only">only these {shown}</button></span>'
    )


_NAMES: Final = (
    ("ok", "ok"),
    ("conflict", "conflict: saw something else"),
    ("fail", "proved not done"),
    ("unknown", "unknown, open for ever"),
)
LEGEND: Final = (
    '<span class="legend">'
    + "".join(
        f'<span class="{name}"><i style="border-color:var(--edge);background:var(--fill)"></i>{words}</span>'
        for name, words in _NAMES
    )
    + '<span><i style="border-color:var(--alarm);box-shadow:0 0 0 2px var(--alarm-soft)"></i>the violation</span>'
    + "</span>"
)


def _invoked(operation: Operation) -> int:
    return operation.invoked


def _around(finding: Finding, of_key: Sequence[Operation]) -> list[Operation]:
    """What else happened to the key from the first of the finding's operations to the last answer among them."""
    if not finding.operations:
        return list(of_key[-CONTEXT_MAX:])
    first = min(operation.invoked for operation in finding.operations)
    last = max(operation.completed or operation.invoked for operation in finding.operations)
    beside = [op for op in of_key if op.invoked < last and (op.completed is None or op.completed > first)]
    return beside[-CONTEXT_MAX:]


def _lanes(drawn: Sequence[Operation], shown: dict[int, int]) -> str:
    places = _places(drawn, shown)
    begin = min(operation.start for operation in drawn) if drawn else 0.0
    last = max([operation.end or operation.start for operation in drawn], default=begin)
    right = max((place + width for place, width in places.values()), default=0)
    wide = max(TIME_PX, right * 0.8)
    scale = wide / ((last - begin) or 1.0)
    lanes: dict[str, list[Operation]] = {}
    for operation in drawn:
        lanes.setdefault(str(operation.process), []).append(operation)
    html = []
    for process, operations in sorted(lanes.items(), key=lambda lane: (not lane[0].isdigit(), lane[0].zfill(12))):
        rows, bars = _rows(operations)
        parts = [
            _bar(
                operation,
                shown.get(operation.invoked),
                places[operation.invoked],
                row,
                (operation.start - begin) * scale,
                ((operation.end or last) - operation.start) * scale,
            )
            for operation, row in bars
        ]
        html.append(
            f'<div class="lane" style="height:{rows * ROW_PX + 4}px;width:{right + 140:.0f}px;min-width:100%">'
            f'<span class="who" title="process {escape(process)}">process {escape(process)}</span>'
            f"{''.join(parts)}</div>"
        )
    return "\n".join(html)


def _rows(operations: Sequence[Operation]) -> tuple[int, list[tuple[Operation, int]]]:
    """(how many rows, operation and row): a call of a process that has an open one already goes below."""
    free: list[float] = []
    bars = []
    for operation in operations:
        row = next((row for row, until in enumerate(free) if until < operation.invoked), len(free))
        until = float("inf") if operation.completed is None else float(operation.completed)
        free[row : row + 1] = [until]
        bars.append((operation, row))
    return max(len(free), 1), bars


def _label(operation: Operation) -> str:
    words = asked(operation)
    if operation.kind in _ANSWER_FIRST and operation.outcome is Outcome.OK:
        words += f" → {answered(operation).removeprefix('ok: ')}"
    elif operation.outcome is not Outcome.OK:
        words += f" · {answered(operation)}"
    return words if len(words) <= LABEL_SIGNS_MAX else words[: LABEL_SIGNS_MAX - 1] + "…"


_ANSWER_FIRST: Final = (
    Kind.READ,
    Kind.WEAK_READ,
    Kind.READ_ALL,
    Kind.COUNT,
    Kind.RESULT,
    Kind.VOTE,
    Kind.INSPECT,
    Kind.ACQUIRE,
)


def _places(drawn: Sequence[Operation], shown: dict[int, int]) -> dict[int, tuple[float, float]]:
    """invoked -> (left, width): events stand in their order, each bar wide enough for its label."""
    needed = {
        op.invoked: len(_label(op)) * SIGN_PX + PADDING_PX + (NUMBER_PX if op.invoked in shown else 0) for op in drawn
    }
    events = [(op.invoked, op.invoked, True) for op in drawn]
    events += [(op.completed, op.invoked, False) for op in drawn if op.completed is not None]
    at = 0.0
    left: dict[int, float] = {}
    right: dict[int, float] = {}
    for _, who, begins in sorted(events):
        at += GAP_PX
        if begins:
            left[who] = at
        else:
            at = right[who] = max(at, left[who] + needed[who])
    end = max([at, *(left[who] + needed[who] for who in left)], default=0.0) + GAP_PX
    return {who: (left[who], right.get(who, end) - left[who]) for who in left}


def _bar(
    operation: Operation, number: int | None, place: tuple[float, float], row: int, time_at: float, time_wide: float
) -> str:
    classes = ["op", str(operation.outcome), "shown" if number else "context"]
    if operation.is_open:
        classes.append("open")
    until = "open" if operation.end is None else f"until {moment(operation.end)}"
    where = f"from {moment(operation.start)} {until}"
    where += "".join(f" · {name}: {value}" for name, value in operation.more.items())
    badge = f"<b>{number}</b>" if number else ""
    style = f"--x:{place[0]:.0f};--w:{place[1]:.0f};--tx:{time_at:.1f};--tw:{time_wide:.1f};top:{row * ROW_PX + 7}px"
    words = told(operation)
    return (
        f'<button type="button" class="{" ".join(classes)}" style="{style}" data-op="{operation.invoked}" '
        f'tabindex="{0 if number == 1 else -1}" data-told="{escape(words)}" data-where="{escape(where)}" '
        f'aria-label="{escape(f"{number}: {words}" if number else words)}">'
        f"<span>{badge}{escape(_label(operation))}</span></button>"
    )


def _table(finding: Finding) -> str:
    if not finding.operations:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("", *COLUMNS))
    rows = "".join(
        f'<tr data-op="{operation.invoked}"><td>{number}</td>'
        + "".join(f"<td>{escape(row[column])}</td>" for column in COLUMNS)
        + "</tr>"
        for number, (operation, row) in enumerate(zip(finding.operations, rows_of(finding), strict=True), 1)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
