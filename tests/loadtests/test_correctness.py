"""The trackers: what they hold against a store, and what they must not."""

from __future__ import annotations

import msgspec
import pytest

from loadtests.correctness.holders import Hold, Holders
from loadtests.correctness.increments import Increments, Tally, added_up, violations
from loadtests.correctness.ledger import CHECKS, HOLDERS, INCREMENTS, READS, Audit, Ledger
from loadtests.correctness.strong_reads import ABSENT, StrongReads


def hold(fence: int, begin_s: float, end_s: float, lock: str = "l", machine: str = "m") -> Hold:
    return Hold(machine, lock, fence, begin_s, end_s)


class TestIncrements:
    def test_an_increment_is_unknown_until_it_is_settled(self) -> None:
        increments = Increments()
        for _ in range(3):
            increments.tried("c")
        increments.acknowledged("c")
        increments.refuted("c")

        assert increments.tallies == {"c": Tally(3, 1, 1)}
        assert increments.tallies["c"].unknown == 1
        assert increments.floor("c") == 1

    @pytest.mark.parametrize(
        ("read", "said"), [(4, "lost increments"), (5, None), (6, None), (7, None), (8, "increments too many")]
    )
    def test_the_counter_lies_between_what_was_acknowledged_and_what_may_be(self, read: int, said: str | None) -> None:
        tally = Tally(tried=10, acknowledged=5, refuted=3)

        found = violations({"c": tally}, {"c": [6, read]})

        assert [words.split(":")[0] for words in found] == ([said] if said else [])

    def test_processes_are_added_up(self) -> None:
        assert added_up([{"a": Tally(3, 1, 1)}, {"a": Tally(2, 2, 0), "b": Tally(1, 0, 0)}]) == {
            "a": Tally(5, 3, 1),
            "b": Tally(1, 0, 0),
        }


class TestStrongReads:
    def test_newer_and_equal_versions_are_right(self) -> None:
        reads = StrongReads()

        for version in (ABSENT, "01", "01", "02"):
            assert reads.seen("k", version, reads.floor("k")) is None

    @pytest.mark.parametrize("older", ["01", ABSENT])
    def test_an_older_version_is_a_violation(self, older: str) -> None:
        reads = StrongReads()
        reads.seen("k", "02")

        assert "after 02 had been told" in (reads.seen("k", older, reads.floor("k")) or "")
        assert reads.floor("k") == "02"

    def test_a_read_that_began_before_the_newer_one_was_answered_may_be_older(self) -> None:
        reads = StrongReads()
        floor = reads.floor("k")
        reads.seen("k", "02")

        assert reads.seen("k", "01", floor) is None

    def test_keys_have_nothing_to_do_with_each_other(self) -> None:
        reads = StrongReads()
        reads.seen("k", "02")

        assert reads.seen("other", "01", reads.floor("other")) is None


class TestHolders:
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
    def test_leases_one_after_another_are_right_in_whatever_order_they_are_told(self, order: tuple[int, ...]) -> None:
        leases = [hold(1, 0, 1), hold(2, 1, 2), hold(5, 2.5, 3)]
        holders = Holders()

        assert [holders.take(leases[number]) for number in order] == [[], [], []]

    @pytest.mark.parametrize("turned", [False, True])
    def test_two_at_once_are_a_violation(self, turned: bool) -> None:
        leases = [hold(1, 0, 2), hold(2, 1.5, 3)]
        holders = Holders()

        found = [holders.take(lease) for lease in (reversed(leases) if turned else leases)]

        assert found == [[], ["two holders: l under fences 1 and 2 at once, for 0.500 s"]]

    def test_one_within_another_is_a_violation(self) -> None:
        holders = Holders()
        holders.take(hold(1, 0, 10))

        assert "for 1.000 s" in holders.take(hold(2, 4, 5))[0]

    @pytest.mark.parametrize("fence", [3, 2])
    def test_a_fence_that_does_not_grow_is_a_violation(self, fence: int) -> None:
        holders = Holders()
        holders.take(hold(3, 0, 1))

        assert holders.take(hold(fence, 2, 3)) == [f"fences out of order: l was granted under fence {fence} after 3"]

    def test_a_lease_that_was_over_before_it_was_answered_proves_nothing(self) -> None:
        holders = Holders()
        holders.take(hold(2, 0, 2))

        assert holders.take(hold(1, 1, 1)) == []

    def test_locks_and_clocks_of_other_machines_are_not_compared(self) -> None:
        holders = Holders()
        holders.take(hold(2, 0, 2))

        assert holders.take(hold(1, 1, 3, lock="other")) == []
        assert holders.take(hold(1, 1, 3, machine="other")) == []


class TestAudit:
    def worker(self, tried: int, acknowledged: int, *holds: Hold) -> Ledger:
        ledger = Ledger()
        for _ in range(tried):
            ledger.increments.tried("c")
        for _ in range(acknowledged):
            ledger.increments.acknowledged("c")
        for one in holds:
            ledger.held(one)
        return ledger

    def verdicts(self, audit: Audit, final: dict[str, list[int]]) -> dict[str, str]:
        return {finding.check: finding.verdict for finding in audit.findings(final)}

    def test_workers_that_did_right_together(self) -> None:
        audit = Audit()
        audit.take("w1", self.worker(3, 2, hold(1, 0, 1)).account())
        audit.take("w2", self.worker(2, 2, hold(2, 1, 2)).account())

        assert audit.counters == ["c"]
        assert self.verdicts(audit, {"c": [4, 5]}) == dict.fromkeys(CHECKS, "held")
        assert self.verdicts(audit, {"c": [3]})[INCREMENTS] == "violated"
        assert self.verdicts(audit, {"c": [6]})[INCREMENTS] == "violated"

    def test_a_worker_tells_its_sums_again_and_its_leases_once(self) -> None:
        ledger = self.worker(2, 1, hold(1, 0, 1))
        audit = Audit()
        audit.take("w1", ledger.account())
        ledger.increments.acknowledged("c")
        audit.take("w1", ledger.account())

        assert self.verdicts(audit, {"c": [2]}) == dict.fromkeys(CHECKS, "held")

    def test_holders_in_two_processes(self) -> None:
        audit = Audit()
        audit.take("w1", self.worker(0, 0, hold(1, 0, 2)).account())
        audit.take("w2", self.worker(0, 0, hold(2, 1, 3)).account())

        assert self.verdicts(audit, {}) == dict.fromkeys(CHECKS, "held") | {HOLDERS: "violated"}

    def test_what_a_user_saw_at_once(self) -> None:
        ledger = Ledger()
        ledger.violated(READS, "stale")
        audit = Audit()
        audit.take("w1", ledger.account())
        audit.take("w1", ledger.account())

        assert [f.words for f in audit.findings({}) if f.verdict == "violated"] == ["stale"]

    def test_a_counter_that_could_not_be_read_is_undecided(self) -> None:
        audit = Audit()
        audit.take("w1", self.worker(1, 1).account())

        assert self.verdicts(audit, {"c": []})[INCREMENTS] == "undecided"

    def test_a_lost_worker_leaves_everything_undecided_but_what_is_violated(self) -> None:
        audit = Audit()
        audit.take("w1", self.worker(0, 0, hold(1, 0, 2), hold(2, 1, 3)).account())
        audit.leave_open("1 of 2 workers did not say what they did")

        assert self.verdicts(audit, {}) == dict.fromkeys(CHECKS, "undecided") | {HOLDERS: "violated"}

    def test_an_account_is_made_of_plain_values(self) -> None:
        account = self.worker(1, 1, hold(1, 0, 1)).account()

        assert msgspec.msgpack.decode(msgspec.msgpack.encode(account)) == msgspec.json.decode(
            msgspec.json.encode(account)
        )
