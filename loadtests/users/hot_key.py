"""Many add one to the same few counters, by compare-and-set."""

from __future__ import annotations

from locust import task

from loadtests.correctness.increments import too_low
from loadtests.correctness.ledger import INCREMENTS
from loadtests.users.answers import Answer
from loadtests.users.base import KvUser


class HotKeyUser(KvUser):
    """Reads a counter strongly and writes one more under the version that it read. To lose is no failure."""

    weight = 2

    @task
    def increment(self) -> None:
        """One increment of one counter; a 412 is another's win."""
        counter = self.load_test.counter(self.dice.randrange(self.load_test.counters))
        floor = self.ledger.increments.floor(counter)
        before = self.read(counter, "strong")
        if before.status not in (200, 404):
            return
        value = int(before.body) if before.status == 200 else 0
        if violation := too_low(counter, value, floor):
            self.ledger.violated(INCREMENTS, violation)
        match = {"If-Match": f'"{before.version}"'} if before.status == 200 else {"If-None-Match": "*"}
        self.ledger.increments.tried(counter)  # from here on it may be applied, even if this user is stopped
        self._settle(
            counter, self.write(counter, str(value + 1).encode(), "strong", headers=match, more_name=" if-match")
        )

    def _settle(self, counter: str, answer: Answer) -> None:
        if answer.status == 200:
            self.ledger.increments.acknowledged(counter)
        elif answer.is_not_applied:
            self.ledger.increments.refuted(counter)
