"""Asking: one message to one replica and its answer, counted."""

from __future__ import annotations

import asyncio

import msgspec

from cluster.coordination.drive import Context
from cluster.protocol.messages import Accept, Answer, Held, Lost, Read, Request
from cluster.repair.anti_entropy.answering import Compare
from cluster.repair.anti_entropy.ledger import Tally

ANSWER_S = 10.0
"""How long an answer may take: a replica may have to read thousands of rows."""
LOSSES_MAX = 16
"""Answers in a row that may fail to come before the peer is given up for now."""
RECORD_OVERHEAD_BYTES = 80
"""About what is around key and value in a message and its reply: ballots, tags, the number of the request."""
_encode = msgspec.msgpack.Encoder().encode


class Asking:
    """The messages of one comparison with one peer, and with this node's own replica."""

    def __init__(self, context: Context, slot: int, own_slot: int, tally: Tally) -> None:
        self._context, self.slot, self._own_slot, self.tally = context, slot, own_slot, tally
        self._losses = 0

    @property
    def is_vain(self) -> bool:
        """Whether the peer seems gone, so that nothing more is to be asked of it."""
        return self._losses >= LOSSES_MAX or not self._context.roster.is_readable(self.slot)

    async def compare(self, request: Compare) -> Answer:
        """One step of the comparison."""
        answer = await self._ask(self.slot, request)
        self.tally.comparing_bytes += len(_encode(request)) + (0 if isinstance(answer, Lost) else len(_encode(answer)))
        return answer

    async def there(self, request: Read | Accept) -> Answer:
        """Asks the peer's replica."""
        answer = await self._ask(self.slot, request)
        self.tally.record_bytes += (
            RECORD_OVERHEAD_BYTES + len(request.key) + _value_bytes(request) + _value_bytes(answer)
        )
        return answer

    async def here(self, request: Read | Accept) -> Answer:
        """Asks this node's own replica, as anybody would."""
        return await self._ask(self._own_slot, request)

    async def _ask(self, slot: int, request: Request) -> Answer:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()

        def on_answer(_: int, answer: Answer) -> None:
            if not answered.done():
                answered.set_result(answer)

        self._context.transport.send(slot, request, on_answer)
        timer = loop.call_later(ANSWER_S, on_answer, slot, Lost(sent=True))
        try:
            answer = await answered
        finally:
            timer.cancel()
        if slot != self._own_slot:
            self.tally.messages += 1
            self._losses = self._losses + 1 if isinstance(answer, Lost) else 0
        return answer


def _value_bytes(message: Request | Answer) -> int:
    record = message.record if isinstance(message, Accept | Held) else None
    return len(record.value or b"") if record is not None else 0
