"""A Locust shape that follows a plan, for `--run-time` and up to `--users`."""

from __future__ import annotations

from typing import ClassVar

from locust import LoadTestShape

from loadtests.shapes.plans import Plan

RUN_TIME_S = 120.0
USERS = 60


class PlannedShape(LoadTestShape):
    """Ends by itself when the time is over."""

    abstract = True
    use_common_options = True
    plan: ClassVar[Plan]

    def tick(self) -> tuple[int, float] | None:
        """(users, users to start or stop a second); None at the end."""
        options = self.runner.environment.parsed_options if self.runner is not None else None
        total_s = float(getattr(options, "run_time", None) or RUN_TIME_S)
        peak = int(getattr(options, "num_users", None) or USERS)
        passed = self.get_run_time() / total_s
        return None if passed >= 1 else (type(self).plan(passed, peak), float(peak))
