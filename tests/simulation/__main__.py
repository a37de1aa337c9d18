"""`python -m tests.simulation SEED`: one seed again, with all that happens in it."""

from __future__ import annotations

import sys

from tests.simulation.options import draw
from tests.simulation.world import run_seed

seed = int(sys.argv[1])
print(f"seed {seed}: {draw(seed).shown()}")
report = run_seed(seed, tells=True)
print(report)
