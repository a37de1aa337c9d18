"""What all users share: nodes to go on with, names by level, receipts that are looked at, failures with clear names."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping

import gevent
from locust import FastHttpUser, between
from locust.exception import StopUser

from loadtests.correctness.ledger import LEVELS as NO_LOWER_LEVEL
from loadtests.correctness.ledger import READS, Ledger
from loadtests.load_test import LoadTest
from loadtests.users.answers import CONFLICTS, RETRY_LATER, Answer, failure_name, lower_level
from loadtests.users.once_only import OnceOnlyPool
from loadtests.users.ring import Ring

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 15.0
"""Longer than a node tries (5 s unless asked for more): its own answer says more than silence."""
BACK_OFF_S_MAX = 5.0

Check = Callable[[Answer], str | None]
_numbers = itertools.count(random.SystemRandom().randrange(1000))  # workers begin at different nodes


class Violation(Exception):
    """A promise was broken. Its words stand in the report."""


class KvUser(FastHttpUser):
    """A user of a kvstore cluster. Asks the node that has least to hand on, else its own, as long as that is there."""

    abstract = True
    connection_timeout = CONNECT_TIMEOUT_S
    network_timeout = ANSWER_TIMEOUT_S
    wait_time = between(0.02, 0.2)

    def __init__(self, environment) -> None:
        self.load_test = LoadTest.of(environment)
        self.number = next(_numbers)
        self.ring = Ring(self.load_test.nodes, self.number)
        self.host = self.ring.current()
        self.client_pool = OnceOnlyPool(
            concurrency=2, connection_timeout=self.connection_timeout, network_timeout=self.network_timeout
        )
        super().__init__(environment)
        self.dice = random.Random()

    @property
    def ledger(self) -> Ledger:
        """What users of this process did and saw."""
        return self.load_test.ledger

    def a_key(self, kind: str) -> str:
        """One of the run's keys of a kind, each as likely as the others."""
        return self.load_test.key(kind, self.dice.randrange(self.load_test.keys))

    def ask(
        self,
        method: str,
        path: str,
        name: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        fine: tuple[int, ...] = (200,),
        check: Check | None = None,
        waits: bool = False,
    ) -> Answer:
        """Asks once. Conflicts get a row of their own and are no failures; check says what a fine answer violates.

        waits: for a lock that others hold.
        """
        if self.ledger.is_closed:
            raise StopUser
        node = self.ring.current(self.load_test.best_node(method, path, headers or {}, waits))
        with self.client.request(
            method, node + path, name=name, data=data, headers=dict(headers or {}), catch_response=True
        ) as response:
            answer = Answer(
                response.status_code or 0,
                {key.lower(): value for key, value in (response.headers or {}).items()},
                response.content or b"",
                getattr(response, "error", None) or response.request_meta["exception"],
            )
            if answer.status in CONFLICTS:
                response.request_meta["name"] = f"{name}: {answer.status}"
            if answer.status not in (*fine, *CONFLICTS):
                response.failure(failure_name(answer, method))
            elif violation := check(answer) if check else None:
                response.failure(Violation(violation))
            else:
                response.success()
        if answer.status == 0 or answer.status in RETRY_LATER:
            self.ring.failed(node)
            self.load_test.routes.failed(node)
            gevent.sleep(min(answer.retry_after_s, BACK_OFF_S_MAX))
        return answer

    def read(self, key: str, level: str, *, is_never_deleted: bool = True) -> Answer:
        """Reads a key; strong reads of keys that nobody deletes must not go back."""
        is_held = level == "strong" and is_never_deleted
        floor = self.ledger.strong_reads.floor(key)

        def check(answer: Answer) -> str | None:
            return self.level_check(answer, level) or (self._note(key, answer, floor) if is_held else None)

        name = f"/v1/kv [{level}]"
        return self.ask("GET", f"/v1/kv/{key}?consistency={level}", name, fine=(200, 404), check=check)

    def write(
        self, key: str, value: bytes, level: str, *, headers: Mapping[str, str] | None = None, more_name: str = ""
    ) -> Answer:
        """Writes a key; later strong reads must show a strong write, or a newer one."""

        def check(answer: Answer) -> str | None:
            wrong = self.level_check(answer, level) if answer.status == 200 else None
            if level == "strong" and answer.status == 200:
                self.ledger.strong_reads.seen(key, answer.version)
            return wrong

        path = f"/v1/kv/{key}?consistency={level}"
        return self.ask("PUT", path, f"/v1/kv [{level}]{more_name}", data=value, headers=headers, check=check)

    def level_check(self, answer: Answer, level: str) -> str | None:
        """What is wrong with the level that the answer's receipt tells."""
        self.ledger.looked(NO_LOWER_LEVEL)
        wrong = lower_level(answer, level)
        if wrong and wrong.startswith("lower"):
            self.ledger.violated(NO_LOWER_LEVEL, wrong)
        return wrong

    def _note(self, key: str, answer: Answer, floor: str) -> str | None:
        self.ledger.looked(READS)
        version = answer.version if answer.status == 200 else ""
        if violation := self.ledger.strong_reads.seen(key, version, floor):
            self.ledger.violated(READS, violation)
        return violation


def now_s() -> float:
    """The machine's monotonic clock, which all its processes share."""
    return time.monotonic()
