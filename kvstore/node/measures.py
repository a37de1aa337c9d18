"""What only a node can count, told to the metrics at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cluster.membership.topology import Topology
from cluster.node import ClusterNode
from kvstore.metrics import Metrics
from storage.engine import Engine
from storage.group_commit import GroupCommit

Labelled = Mapping[tuple[str, ...], float]


class Measures:
    """Registers the measures of one node."""

    def __init__(
        self,
        metrics: Metrics,
        cluster: ClusterNode,
        engine: Engine,
        commits: GroupCommit,
        topology: Callable[[], Topology],
        wall_ms: Callable[[], int],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._metrics, self._cluster, self._engine, self._commits = metrics, cluster, engine, commits
        self._topology, self._wall_ms, self._monotonic_s = topology, wall_ms, monotonic_s

    def register(self) -> None:
        """All of them."""
        self._register_node()
        self._register_memory()
        self._register_clock_and_disk()
        self._register_hints()
        self._register_anti_entropy()
        self._register_floors()

    def _register_node(self) -> None:
        cluster, metrics = self._cluster, self._metrics
        metrics.gauge("kvstore_epoch", "Number of the topology", lambda: self._topology().epoch)
        metrics.gauge("kvstore_commits_backlog_rows", "Rows not yet durable", lambda: self._commits.backlog)
        metrics.counter("kvstore_commits", "Transactions of this folder", lambda: self._engine.commit_sequence)
        metrics.gauge("kvstore_cached_keys", "Keys in memory", lambda: cluster.replica.cached_keys)
        metrics.gauge("kvstore_cached_bytes", "Estimated memory of them", lambda: cluster.replica.cached_bytes)
        metrics.counter(
            "kvstore_handed_over", "Changes of which a peer is primary", lambda: cluster.handover.handed_over
        )
        metrics.counter("kvstore_changes_refused", "Changes refused as primary", self._refused, ("reason",))
        metrics.gauge("kvstore_conversations", "Rounds under way", lambda: len(cluster.context.sweeper))

    def _refused(self) -> Labelled:
        cluster = self._cluster
        return {("key",): cluster.primary.refused, ("deadline",): cluster.forwards.admission.refused}

    def _register_memory(self) -> None:
        cluster, metrics = self._cluster, self._metrics
        metrics.gauge(
            "kvstore_quarantined_records", "Damaged, and not whole again yet", lambda: len(cluster.replica.damaged)
        )
        metrics.gauge(
            "kvstore_recovering_partitions", "Yet to be learned anew", lambda: len(cluster.fitness.recovering)
        )
        metrics.counter("kvstore_scrubbed_rows", "Rows looked at", lambda: cluster.recollection.scrubbing.rows)

    def _register_clock_and_disk(self) -> None:
        cluster, metrics = self._cluster, self._metrics
        metrics.gauge(
            "kvstore_clock_offset_seconds", "How far a peer's wall clock is ahead of ours", self._offsets, ("peer",)
        )
        metrics.gauge(
            "kvstore_clock_refused", "1 while this node's wall clock is off", lambda: int(cluster.wall_watch.is_barred)
        )
        metrics.gauge("kvstore_disk_free_bytes", "Room on the disk", lambda: cluster.disk_watch.free_bytes)
        metrics.gauge(
            "kvstore_disk_full", "1 while this node is read-only", lambda: int(cluster.disk_watch.is_read_only)
        )

    def _register_anti_entropy(self) -> None:
        ledger, metrics = self._cluster.anti_entropy.ledger, self._metrics
        totals = ledger.totals
        metrics.gauge("kvstore_partitions_in_sync", "Equal when last compared", lambda: ledger.standing().in_sync)
        metrics.gauge("kvstore_partitions_differing", "Not so", lambda: ledger.standing().differing)
        metrics.gauge("kvstore_partitions_unchecked", "Not compared yet", lambda: ledger.standing().unchecked)
        metrics.gauge(
            "kvstore_anti_entropy_age_seconds", "Since all peers had been compared with; NaN before", self._round_age_s
        )
        metrics.counter("kvstore_anti_entropy_keys_differed", "Keys found differing", lambda: totals.keys_differed)
        metrics.counter("kvstore_anti_entropy_keys_fetched", "Records taken over", lambda: totals.keys_fetched)
        metrics.counter("kvstore_anti_entropy_keys_sent", "Records that others took", lambda: totals.keys_sent)
        metrics.counter("kvstore_anti_entropy_keys_cleared", "Promises out of the way", lambda: totals.keys_cleared)
        metrics.counter("kvstore_anti_entropy_bytes", "Sums and digests, both ways", lambda: totals.comparing_bytes)
        metrics.counter("kvstore_anti_entropy_record_bytes", "Records, both ways", lambda: totals.record_bytes)

    def _round_age_s(self) -> float:
        last_s = self._cluster.anti_entropy.ledger.last_round_s
        return float("nan") if last_s is None else self._monotonic_s() - last_s

    def _register_hints(self) -> None:
        hints, merge_back, metrics = self._cluster.hints, self._cluster.merge_back, self._metrics
        metrics.gauge("kvstore_hints", "Weak writes kept for replicas that are away", lambda: len(hints))
        metrics.gauge("kvstore_hints_bytes", "What they count for at hints_bytes_max", lambda: hints.size_bytes)
        metrics.gauge("kvstore_hints_sole", "Those that may be their write's only copy", lambda: hints.soles)
        metrics.gauge("kvstore_hints_waiting", "Hints for each replica", self._hints_waiting, ("peer",))
        metrics.gauge("kvstore_hints_oldest_seconds", "Age of the oldest", lambda: hints.oldest_age_s(self._wall_ms()))
        metrics.counter("kvstore_hints_delivered", "Hints that a replica was done with", lambda: hints.delivered)
        metrics.counter("kvstore_hints_dropped", "Hints dropped unsent for want of room", lambda: hints.dropped)
        metrics.gauge("kvstore_kept_aside_records", "Weak writes to merge back", lambda: len(merge_back))
        metrics.gauge(
            "kvstore_kept_aside_bytes", "What they count for at hints_bytes_max", lambda: merge_back.size_bytes
        )

    def _register_floors(self) -> None:
        cluster, metrics = self._cluster, self._metrics
        metrics.counter("kvstore_tombstones_purged", "Rows that went for good", lambda: cluster.floor_member.purged)
        metrics.gauge(
            "kvstore_purges_held_back", "Partitions that can't be purged now", lambda: len(cluster.floors.held_back_by)
        )
        metrics.gauge("kvstore_floor_age_seconds", "Age of what was purged last", self._floor_ages, ("partition",))

    def _floor_ages(self) -> Labelled:
        ages = {partition: self._cluster.floors.age_s(partition) for partition in range(self._topology().partitions)}
        return {(str(partition),): age_s for partition, age_s in ages.items() if age_s is not None}

    def _hints_waiting(self) -> Labelled:
        by_slot = self._topology().by_slot
        return {(by_slot[slot].name,): count for slot, count in self._cluster.hints.per_target().items()}

    def _offsets(self) -> Labelled:
        by_slot = self._topology().by_slot
        return {(by_slot[slot].name,): offset_s for slot, offset_s in self._cluster.wall_watch.offsets_s().items()}
