"""Many more seeds than the suite runs: `python -m tests.protocol.campaign [SEEDS] [FIRST]`.

Prints each violation with its preset and seed, and exits 1 if there was one.
"""

from __future__ import annotations

import sys
from functools import partial

from tests.protocol import test_forgetful_schedules as forgetful
from tests.protocol import test_random_schedules as plain
from tests.protocol.world import Rules


def main(seeds: int = 20_000, first: int = 0) -> int:
    found = 0
    schedules = [(name, partial(plain.holds, options=options)) for name, options in plain.PRESETS.items()]
    schedules += [(name, partial(forgetful.holds, options=options)) for name, options in forgetful.PRESETS.items()]
    for name, holds in schedules:
        bad = [seed for seed in range(first, first + seeds) if not holds(seed, rules=Rules())]
        found += len(bad)
        print(f"{name}: {seeds} seeds from {first}, {len(bad)} violations {bad[:5] or ''}", flush=True)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
