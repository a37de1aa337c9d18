"""Many more seeds than the suite runs: `python -m tests.protocol.campaign [SEEDS] [FIRST]`.

Prints each violation with its preset and seed, and exits 1 if there was one.
"""

from __future__ import annotations

import sys

from tests.protocol.test_random_schedules import PRESETS, holds
from tests.protocol.world import Rules


def main(seeds: int = 20_000, first: int = 0) -> int:
    found = 0
    for name, options in PRESETS.items():
        bad = [seed for seed in range(first, first + seeds) if not holds(seed, options, Rules())]
        found += len(bad)
        print(f"{name}: {seeds} seeds from {first}, {len(bad)} violations {bad[:5] or ''}", flush=True)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
