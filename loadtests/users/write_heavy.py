"""Mostly writes and deletions, at each level."""

from __future__ import annotations

from locust import task

from loadtests.users.answers import Answer
from loadtests.users.base import KvUser


class WriteHeavyUser(KvUser):
    """Sessions, events, measurements: what is written is seldom read."""

    weight = 3

    @task(40)
    def write_strong(self) -> None:
        """On a majority's disks."""
        self.write(self.a_key("write"), self.load_test.value, "strong")

    @task(25)
    def write_weak(self) -> None:
        """On one disk at least, the others follow."""
        self.write(self.a_key("write"), self.load_test.value, "weak")

    @task(15)
    def write_eventual(self) -> None:
        """On any disk."""
        self.write(self.a_key("write"), self.load_test.value, "eventual")

    @task(5)
    def delete_strong(self) -> None:
        """Deleting what is not there succeeds, too."""

        def check(answer: Answer) -> str | None:
            return self.level_check(answer, "strong")

        path = f"/v1/kv/{self.a_key('write')}?consistency=strong"
        self.ask("DELETE", path, "/v1/kv [strong]", check=check)

    @task(15)
    def read_strong(self) -> None:
        """May find it deleted."""
        self.read(self.a_key("write"), "strong", is_never_deleted=False)
