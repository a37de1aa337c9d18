"""What stands in the files that containers are made and run from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RATE_INTERVAL = "$__rate_interval"
"""Grafana's name for a window in which there are some scrapes."""

_METRIC = re.compile(r"\b(?:up|(?:kvstore|process)_\w+)\b")
_MATCHERS = re.compile(r"\{([^}]*)\}")
_BY = re.compile(r"\bby \(([^)]*)\)")
_LEGEND = re.compile(r"\{\{(\w+)\}\}")


def yaml_of(path: str) -> Any:
    """A file of the project, parsed."""
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    parsed: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/kvstore.json").read_text("utf-8"))
    return parsed


@dataclass(frozen=True)
class Query:
    """One query of the dashboard."""

    panel: str
    expression: str
    legend: str

    @property
    def metrics(self) -> set[str]:
        """Names of the metrics that it reads."""
        return set(_METRIC.findall(_MATCHERS.sub("", self.expression)))

    @property
    def labels(self) -> set[str]:
        """Labels that it chooses by, sums by, or shows."""
        chosen = {matcher for inside in _MATCHERS.findall(self.expression) for matcher in re.findall(r"(\w+)=", inside)}
        summed = {name.strip() for inside in _BY.findall(self.expression) for name in inside.split(",")}
        return chosen | summed | set(_LEGEND.findall(self.legend))

    def as_prometheus_takes_it(self, window: str) -> str:
        """With Grafana's variables filled in: all nodes, and that window."""
        return self.expression.replace(RATE_INTERVAL, window).replace("$instance", ".*")


def queries() -> list[Query]:
    """All that the dashboard asks."""
    return [
        Query(panel["title"], target["expr"], target["legendFormat"])
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]


def stages() -> Iterator[tuple[str, str, list[str]]]:
    """The Dockerfile's stages: name, what each begins with, and its lines."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    begins = [number for number, line in enumerate(lines) if line.startswith("FROM ")]
    for begin, end in zip(begins, [*begins[1:], len(lines)], strict=True):
        _, base, _, name = lines[begin].split()
        yield name, base, lines[begin + 1 : end]


def environment_of(stage: str) -> Mapping[str, str]:
    """What the stage's own ENV lines set."""
    lines = next(lines for name, _, lines in stages() if name == stage)
    pairs = [pair for line in lines if line.startswith("ENV ") for pair in line.split()[1:]]
    return dict(pair.split("=", 1) for pair in pairs)
