"""Users who want the same few locks, and write under their fence while they hold one."""

from __future__ import annotations

import json
from dataclasses import dataclass

import gevent
from locust import task

from loadtests.correctness.holders import Hold
from loadtests.correctness.ledger import HOLDERS
from loadtests.users.answers import Answer
from loadtests.users.base import KvUser, now_s

TTL_S = 5
WAIT_S = 2
WORK_S_MAX = 0.1
"""How long a holder works, at most."""
RENEW_SHARE = 0.3
TOLD_LOST = (410, 412)
JSON = {"Content-Type": "application/json"}


@dataclass
class Lease:
    """A lock as its holder counts it."""

    lock: str
    token: str
    fence: int
    begin_s: float
    end_s: float


class LockUser(KvUser):
    """Waits for a lock, writes under its fence, sometimes renews it, and releases it."""

    weight = 2

    @task
    def critical_section(self) -> None:
        """The whole of it. That others hold the lock (409) is no failure."""
        lease = self._acquire(self.load_test.lock(self.dice.randrange(self.load_test.locks)))
        if lease is None:
            return
        try:
            self._write_under(lease)
            gevent.sleep(self.dice.uniform(0, WORK_S_MAX))
            if self.dice.random() < RENEW_SHARE:
                self._renew(lease)
            self._release(lease)
        finally:  # also of a user who is stopped: from now on he does not count as a holder
            lease.end_s = min(lease.end_s, now_s())
            self.ledger.held(Hold(self.load_test.machine, lease.lock, lease.fence, lease.begin_s, lease.end_s))

    def _acquire(self, lock: str) -> Lease | None:
        wish = {"owner": f"{self.load_test.process}-{self.number}", "ttl": f"{TTL_S}s", "wait": f"{WAIT_S}s"}
        sent_s = now_s()
        body = json.dumps(wish).encode()
        path = f"/v1/locks/{lock}"
        answer = self.ask("POST", path, "/v1/locks [strong]", data=body, headers=JSON, fine=(201,), waits=True)
        if answer.status != 201:
            return None
        grant = json.loads(answer.body)
        return Lease(lock, grant["token"], int(grant["fence"]), now_s(), sent_s + TTL_S)

    def _write_under(self, lease: Lease) -> None:
        """A key that only holders write: while the lease lasts, nobody has a higher fence."""

        def check(answer: Answer) -> str | None:
            return self._cut_short(lease, "its fence was refused", lease.end_s, answer)

        lock = lease.lock.replace("/", "%2F")
        headers = {"KV-Fence": f"{lock}={lease.fence}"}
        path = f"/v1/kv/{lease.lock}.guarded?consistency=strong"
        value = str(lease.fence).encode()
        self.ask("PUT", path, "/v1/kv [strong] fence", data=value, headers=headers, check=check)

    def _renew(self, lease: Lease) -> None:
        sent_s = now_s()
        body = json.dumps({"token": lease.token}).encode()

        def check(answer: Answer) -> str | None:
            return self._cut_short(lease, "a renewal was told that it is lost", lease.end_s, answer)

        path = f"/v1/locks/{lease.lock}"
        answer = self.ask("PUT", path, "/v1/locks [strong]", data=body, headers=JSON, fine=(200, 410), check=check)
        if answer.status == 200:
            lease.end_s = sent_s + TTL_S

    def _release(self, lease: Lease) -> None:
        end_s, lease.end_s = lease.end_s, min(lease.end_s, now_s())

        def check(answer: Answer) -> str | None:
            return self._cut_short(lease, "its release was told that it is lost", end_s, answer)

        headers = {"KV-Lock-Token": lease.token}
        path = f"/v1/locks/{lease.lock}"
        self.ask("DELETE", path, "/v1/locks [strong]", headers=headers, fine=(200, 410), check=check)

    def _cut_short(self, lease: Lease, how: str, end_s: float, answer: Answer) -> str | None:
        """The violation, where the holder is told before the end of its lease that it has lost it."""
        if answer.status not in TOLD_LOST or now_s() >= end_s:
            return None
        violation = f"lease cut short: {lease.lock} under fence {lease.fence}: {how}, before it was over"
        self.ledger.violated(HOLDERS, violation)
        return violation
