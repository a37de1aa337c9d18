"""Operations and findings in words, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import UNSET

from kvstore.verify.history import Kind, Operation, Outcome
from kvstore.verify.verdict import Finding

VALUE_SIGNS_MAX: Final = 60
COLUMNS: Final = ("process", "operation", "answer", "from", "until")


def value_of(value: Any) -> str:
    """A value as one reads it: texts in quotes, nothing for an absent key, the middle of a long one left out."""
    if value is None:
        return "nothing"
    text = f"{value!r}" if isinstance(value, str) else str(value)
    if len(text) <= VALUE_SIGNS_MAX:
        return text
    half = VALUE_SIGNS_MAX // 2 - 2
    return f"{text[:half]} … {text[-half:]}"


def asked(operation: Operation) -> str:
    """What the client asked for: `cas 'a' → 'b'`."""
    parts = [operation.kind]
    if operation.kind == Kind.CAS:
        if operation.expected_version is not UNSET:
            expected = operation.expected_version
            parts.append("absent" if expected is None else f"version {expected}")
        else:
            parts.append(value_of(None if operation.expected is UNSET else operation.expected))
        parts.append(f"→ {value_of(operation.argument)}")
    elif operation.argument is not None:
        parts.append(value_of(operation.argument))
    asks = ("ttl",) if operation.kind == Kind.ACQUIRE else ("lock", "fence", "ttl")
    parts += [f"{name} {operation.more[name]}" for name in asks if name in operation.more]
    return " ".join(parts)


def answered(operation: Operation) -> str:
    """What it was told: `ok: 'a', version 6c1f`."""
    said = [] if operation.result is UNSET else [value_of(operation.result)]
    if operation.version is not UNSET:
        said.append("no version" if operation.version is None else f"version {operation.version}")
    if operation.kind == Kind.ACQUIRE and operation.outcome is Outcome.OK and "fence" in operation.more:
        said.append(f"fence {operation.more['fence']}")
    if operation.outcome is Outcome.UNKNOWN and "error" in operation.more:
        said.append(str(operation.more["error"]))
    return f"{operation.outcome}: {', '.join(said)}" if said else str(operation.outcome)


def told(operation: Operation) -> str:
    """Both, as one sentence without its full stop."""
    return f"Process {operation.process} asked for {asked(operation)} and was told {answered(operation)}"


def rows_of(finding: Finding) -> list[dict[str, str]]:
    """The operations of a finding as rows of COLUMNS, in order of time."""
    not_needed = set(finding.details.get("answer_not_needed", ()))
    return [
        {
            "process": str(operation.process),
            "operation": asked(operation),
            "answer": answered(operation) + (" (not needed here)" if operation.invoked in not_needed else ""),
            "from": moment(operation.start),
            "until": "open" if operation.end is None else moment(operation.end),
        }
        for operation in finding.operations
    ]


def moment(seconds: float) -> str:
    """Seconds since the history began; line numbers, where there are no times, without decimals."""
    return f"{seconds:.0f}" if seconds == int(seconds) else f"{seconds:.6f}".rstrip("0")


def as_table(rows: Sequence[dict[str, str]], columns: Sequence[str] = COLUMNS) -> list[str]:
    """Lines of a plain table, as wide as its contents."""
    widths = {column: max([len(column), *(len(row[column]) for row in rows)]) for column in columns}
    lines = ["  ".join(column.ljust(widths[column]) for column in columns).rstrip()]
    lines += ["  ".join(row[column].ljust(widths[column]) for column in columns).rstrip() for row in rows]
    return lines


def explain_text(finding: Finding) -> str:
    """The finding with its operations: some lines of text."""
    lines = [f"{finding.check}, {finding.key!r}: {finding.what}"]
    if finding.operations:
        lines += ["", *(f"  {line}" for line in as_table(rows_of(finding)))]
    if finding.operations and not finding.is_minimal and finding.check == "linearizability":
        lines += ["", "  There may be fewer that show it: the search for the fewest was cut short."]
    return "\n".join(lines)
