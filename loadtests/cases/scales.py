"""How much is measured: all of it in about twenty minutes on two cores, or quickly."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Scale:
    """Every number that a group of cases takes from outside."""

    is_quick: bool = False
    rounds: int = 3
    """Of each case and side, alternating."""
    seconds: int = 2
    """Of each round: wrk knows only whole ones."""
    keys: int = 10_000
    """Written before the clock starts."""
    value_bytes: int = 255
    connections: int = 96
    connection_counts: tuple[int, ...] = (1, 4, 16, 64, 128, 256, 512)
    sweep_rounds: int = 2
    """Of the cases with many points."""
    value_sizes: tuple[int, ...] = (255, 4 << 10, 64 << 10, 1 << 20)
    value_size_connections: int = 48
    key_counts: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    probe_seconds: int = 4
    """Of a case at one number of keys; once, for cold keys are cold only once."""
    hot_clients: int = 64
    writers: tuple[int, ...] = (1, 8, 64)
    member_counts: tuple[int, ...] = (3, 5, 7)
    batch: int = 100
    batch_connections: int = 16
    put_rates: tuple[int, ...] = (250, 500, 1000, 2000, 4000)
    get_rates: tuple[int, ...] = (500, 1000, 2000, 4000, 8000)
    rate_seconds: float = 5.0
    rate_connections: int = 192
    death_rate: float = 1000.0
    death_after_s: float = 2.0
    death_connections: int = 900
    """Enough for all that are sent within a client's patience: waiting for a connection would be the client's fault."""
    death_timeout_s: float = 1.0
    """A client's patience."""
    death_seconds: float = 8.0
    """Of the whole time line."""

    def numbers(self) -> dict[str, float]:
        """Those that are one number each, by name."""
        return {name: value for name, value in asdict(self).items() if type(value) in (int, float)}


FULL = Scale()
QUICK = Scale(
    is_quick=True,
    rounds=1,
    seconds=1,
    keys=3_000,
    connection_counts=(1, 8, 64, 512),
    sweep_rounds=1,
    key_counts=(1_000, 5_000, 20_000),
    probe_seconds=1,
    member_counts=(3, 5, 7),
    put_rates=(250, 1000, 3000),
    get_rates=(500, 2000, 6000),
    rate_seconds=2.0,
    death_seconds=6.0,
)
