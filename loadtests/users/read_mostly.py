"""Nine of ten requests read, at each level; some of the rest write, so that there is something to read."""

from __future__ import annotations

from locust import task

from loadtests.users.answers import Answer
from loadtests.users.base import KvUser

LISTED = 20


class ReadMostlyUser(KvUser):
    """A web application's cache or configuration: many readers, few writers, on keys that nobody deletes."""

    weight = 5

    @task(50)
    def read_strong(self) -> None:
        """Linearizable; this is the one that must never go back."""
        self.read(self.a_key("read"), "strong")

    @task(25)
    def read_weak(self) -> None:
        """One replica's word."""
        self.read(self.a_key("read"), "weak")

    @task(15)
    def read_eventual(self) -> None:
        """Whoever answers."""
        self.read(self.a_key("read"), "eventual")

    @task(1)
    def list_strong(self) -> None:
        """A page of the run's keys."""

        def check(answer: Answer) -> str | None:
            return self.level_check(answer, "strong")

        path = f"/v1/kv?prefix={self.load_test.prefix}read/&limit={LISTED}&consistency=strong"
        self.ask("GET", path, "/v1/kv?prefix [strong]", check=check)

    @task(6)
    def write_strong(self) -> None:
        """Every later strong read shows it, or a newer one."""
        self.write(self.a_key("read"), self.load_test.value, "strong")

    @task(3)
    def write_weak(self) -> None:
        """Mixed with strong ones on the same keys, as nothing forbids it."""
        self.write(self.a_key("read"), self.load_test.value, "weak")
