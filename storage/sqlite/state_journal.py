"""StateJournal: states that are on disk as the batches they came in, and whose rows are still to be written.

To write a row costs a page of the log for it alone, and its way through a B-tree. Under load a transaction has many
small rows, all over the table. So it writes them as one entry of a journal instead; the rows follow later, in order of
their keys and a few at a time, in transactions that are written anyway. Of a key that is written again before that,
only the last state is. (O'Neil et al., "The Log-Structured Merge-Tree", 1996, with SQLite's tables as its last level.)

    newest      journalled since the last folding began
    folding     journalled before that. Their rows are being written; their entries stay until all of them are

What is in either is the truth, and the row is not. So whatever writes a row of such a key past the journal says so
there (None), and a key of which an entry is on disk is not written past it in silence: a start goes by the entries.

Lives on the event loop; what it plans is on disk when done() is called, or was undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter

import msgspec

from storage.ballot import BALLOT_MAX
from storage.engine import Batch
from storage.record import ReplicaState
from storage.sqlite.leaf_sums import packed_changes

ROWS_MIN = 8
"""Fewer in a transaction are written as rows at once: an entry would cost as much, and the row would come on top."""
VALUE_BYTES_MAX = 2_048
"""A larger value is written once, into its row: its bytes cost more than its place."""
ENTRY_BYTES_MAX = 1024 * 1024
"""A batch with more is a bulk load, and its rows are written at once."""
FOLD_ROWS, FOLD_BYTES = 16_384, 16 * 1024 * 1024
"""So many states, or entries of so many bytes, and the rows are written. The states are in memory meanwhile."""
FOLD_STEP = 384
"""Rows that one transaction writes of those: two milliseconds or so, which those who wait for it hardly notice."""
FOLD_AFTER_S = 4.0
"""Where less comes, the rows are written after that time: a start has little to read, and the table is up to date."""

Entry = list[tuple[bytes, ReplicaState | None]]
"""What changed, by key, as it stands on disk. None: from here on the row is true, or there is none."""
_encode = msgspec.msgpack.Encoder().encode
_promise_of = attrgetter("promised")
decode_entry = msgspec.msgpack.Decoder(tuple[Entry, bytes]).decode
"""An entry, and what leaf_sums.packed_changes gave of the leaves that its commit changed."""


class Plan(msgspec.Struct, gc=False):
    """What one transaction writes of states, in this order: folded, direct, dropped, entry."""

    number: int
    """Of the entry: its commit's."""
    journalled: Mapping[bytes, ReplicaState]
    """The states in its entry."""
    now_true: list[bytes]
    """Keys of which the entry says that from here on their rows are true."""
    encoded: bytes
    """The entry; empty where there is none."""
    direct: list[tuple[bytes, ReplicaState]]
    folded: list[tuple[bytes, ReplicaState]]
    places: int
    """How many keys of the folding are done with it."""
    emptied_to: int
    """Entries up to this number go; 0 for none."""


class StateJournal:
    """Decides which states are written as rows, and when."""

    def __init__(self, states: Mapping[bytes, ReplicaState], last: int, pace: float = 1.0) -> None:
        """What the entries on disk come to, and the number of the last one.

        pace: of the usual number of states and bytes, so many are gathered before their rows are written.
        """
        self._rows_max, self._bytes_max = FOLD_ROWS * pace, FOLD_BYTES * pace
        self._newest = dict(states)
        self._folding: dict[bytes, ReplicaState] = {}
        self._keys: list[bytes] = []
        """Of the folding, in order; the first `_done` have their rows."""
        self._done = 0
        self._last = last
        self._bytes = 0
        """Of the entries since the folding began."""
        self._boundary = 0
        """The entries of the folding end here."""
        self._lowest = min((state.promised for state in states.values()), default=BALLOT_MAX)
        self._folding_lowest = BALLOT_MAX
        """No promise among the newest, or the folding, is below that."""
        self._emptied_to = 0
        self.is_tight = False
        """Whether there was no room for the last transaction: then no rows are written on top of it."""

    def __len__(self) -> int:
        return len(self._newest) + len(self._folding)

    @property
    def is_empty(self) -> bool:
        """Whether the table has all there is, and the journal on disk nothing."""
        return not self._newest and not self._folding and self._emptied_to == self._last

    @property
    def is_folding(self) -> bool:
        """Whether rows are being written."""
        return bool(self._boundary)

    def get(self, key: bytes) -> ReplicaState | None:
        """What is true of the key, whatever its row says; None where the row is true."""
        state = self._newest.get(key)
        return state if state is not None else self._folding.get(key)

    def may_promise_up_to(self, ballot: int) -> bool:
        """Whether a journalled state may have a promise as low as this."""
        return min(self._lowest, self._folding_lowest) <= ballot

    def fold(self) -> None:
        """From now on the rows of what is journalled are written, unless that is under way."""
        if self._boundary or self.is_empty:
            return
        self._folding, self._newest = self._newest, {}
        self._keys, self._done = sorted(self._folding), 0
        self._boundary, self._bytes = self._last, 0
        self._folding_lowest, self._lowest = self._lowest, BALLOT_MAX

    def plan(self, batch: Batch, sequence: int) -> Plan:
        """What the next transaction, the commit of this sequence, writes, if it is to write this batch."""
        if len(self._newest) >= self._rows_max or self._bytes >= self._bytes_max:
            self.fold()
        journalled, direct = _divided(batch.states, self._has)
        now_true = [key for key in (*direct, *batch.drop) if self._has(key)]
        leaves = b"" if batch.leaves_are_all else packed_changes(batch.leaves)
        encoded = _encoded(journalled, now_true, leaves)
        if encoded is None:
            journalled, direct = {}, batch.states
            now_true = [key for key in (*direct, *batch.drop) if self._has(key)]
            encoded = _encoded(journalled, now_true, leaves) or b""
        plan = Plan(sequence, journalled, now_true, encoded, list(direct.items()), [], 0, 0)
        if self._boundary and not self.is_tight:
            keys = self._keys[self._done : self._done + FOLD_STEP]
            plan.places = len(keys)
            plan.folded = [(key, self._folding[key]) for key in keys if key in self._folding]
            if self._done + len(keys) == len(self._keys):
                plan.emptied_to = self._boundary
        return plan

    def done(self, plan: Plan) -> None:
        """The transaction is on disk."""
        self.is_tight = False
        if plan.encoded:
            self._last = plan.number
            self._bytes += len(plan.encoded)
        newest = self._newest
        newest.update(plan.journalled)
        if plan.journalled:
            self._lowest = min(self._lowest, *map(_promise_of, plan.journalled.values()))
        for key in plan.now_true:
            newest.pop(key, None)
            self._folding.pop(key, None)
        self._done += plan.places
        if plan.emptied_to:
            self._emptied_to, self._boundary = plan.emptied_to, 0
            self._folding, self._keys = {}, []
            self._folding_lowest = BALLOT_MAX

    def _has(self, key: bytes) -> bool:
        return key in self._newest or key in self._folding


def _divided(
    states: Mapping[bytes, ReplicaState], has: Callable[[bytes], bool]
) -> tuple[Mapping[bytes, ReplicaState], Mapping[bytes, ReplicaState]]:
    """What is journalled, and what is written as rows at once."""
    are_many = len(states) >= ROWS_MIN
    if are_many and _are_small(states.values()):
        return states, {}
    journalled = {key: state for key, state in states.items() if (are_many or has(key)) and _are_small((state,))}
    return journalled, {key: state for key, state in states.items() if key not in journalled}


def _are_small(states: Iterable[ReplicaState]) -> bool:
    for state in states:
        record = state.record
        if record is not None and record.value is not None and len(record.value) > VALUE_BYTES_MAX:
            return False
    return True


def _encoded(journalled: Mapping[bytes, ReplicaState], now_true: Iterable[bytes], leaves: bytes) -> bytes | None:
    """The entry's bytes, empty for an empty one; None for what is better written as rows."""
    entry: Entry = [*journalled.items(), *((key, None) for key in now_true)]
    if not entry:
        return b""
    try:
        encoded = _encode((entry, leaves))
    except UnicodeEncodeError:  # a stray byte in a header: rows take it
        return None
    return None if journalled and len(encoded) > ENTRY_BYTES_MAX else encoded
