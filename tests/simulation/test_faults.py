"""The simulator notices what it must: the quickest of the faults here, all of them with `make campaign`."""

from __future__ import annotations

import re

import pytest

from tests.simulation.faults import BEGIN, BY_NAME, DOCUMENT, END, SEEDS_MAX, catch

QUICK = {
    "ack-before-commit": 10,
    "cached-ballot-shared": 5,
    "second-proposer-after-silence": 5,
    "silence-taken-for-a-no": 8,
    "expiry-not-settled": 5,
    "hint-dropped": 8,
    "fence-reset-on-release": 5,
    "fence-not-looked-at": 5,
    "lease-broken-early": 5,
}
"""And within how many seeds each is caught, with some to spare."""


@pytest.mark.parametrize("name", QUICK)
def test_a_fault_is_caught(name: str) -> None:
    assert catch(BY_NAME[name], QUICK[name]) is not None


def test_the_page_has_all_faults_and_each_was_caught() -> None:
    written = DOCUMENT.read_text().split(BEGIN)[1].split(END)[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| .* \| ([^|]+) \|$", written, re.MULTILINE)
    assert [name for name, _ in rows] == list(BY_NAME)
    assert all(seeds.strip().isdigit() and int(seeds) <= SEEDS_MAX for _, seeds in rows)
