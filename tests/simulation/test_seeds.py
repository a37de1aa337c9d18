"""Some seeds with every run of the suite, and those that once found something. More: tests/simulation/campaign.py."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.options import Options, draw
from tests.simulation.world import Report, run_seed

SEEDS, CHUNK = 160, 8
REGRESSIONS = tomllib.loads((Path(__file__).parent / "regressions.toml").read_text())["found"]


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_seeds(first: int) -> None:
    reports: list[Report] = [run_seed(seed) for seed in range(first, first + CHUNK)]
    assert sum(report.outcomes.get("ok", 0) for report in reports) > 100, "hardly anything was done"


def _marked(found: dict[str, Any]) -> Any:
    marks = [pytest.mark.xfail(strict=True, reason=found["known"])] if "known" in found else []
    return pytest.param(found, id=f"seed {found['seed']}", marks=marks)


@pytest.mark.parametrize("found", [_marked(found) for found in REGRESSIONS])
def test_what_was_found_once(found: dict[str, Any]) -> None:
    run_seed(found["seed"], Options(**found["options"]))


def test_the_seeds_of_the_suite_have_all_features_and_faults() -> None:
    """Swarm options leave most out of each seed, and none out of all."""
    drawn = [draw(seed) for seed in range(SEEDS)]
    default = Options()
    for name in Options.__dataclass_fields__:
        if name != "value_bytes":
            assert any(getattr(options, name) != getattr(default, name) for options in drawn), name
