"""A seed is a run: the same in every process, whatever hashes bytes and texts have there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.options import draw
from tests.simulation.world import run_seed

SEEDS = (3, 10, 36)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_is_the_same_run_in_processes_that_hash_otherwise(seed: int) -> None:
    program = f"from tests.simulation.world import run_seed; print(run_seed({seed}).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "4242")
    }
    digests.add(run_seed(seed).digest)
    assert len(digests) == 1, digests


def test_seeds_differ() -> None:
    assert run_seed(1).digest != run_seed(2).digest
    assert draw(1) != draw(2)
    assert draw(1) == draw(1)
