"""Consumption of the oldest payments: where the queue of inserted ones begins."""

import math
import time

from payments import queries
from payments.db import Database
from payments.models import Payment
from payments.queries import FIRST, Dequeue, Dequeued, Position

# A walk from the first payment on may take this part of the time, whatever it costs.
WALK_RATIO = 0.05


class Queue:
    """The inserted payments, oldest first, and from where on this process looks for them.

    A consumed payment leaves an index entry at the head of the queue until vacuum removes it, which
    it may not while any transaction is older. To step over them all in each call would cost more
    the more was consumed. So a call begins after the last payment that an earlier one consumed.

    Payments can appear before that position: their transaction was slower, they were imported, or
    a lock on them was skipped and did not consume them. A walk from the first payment on finds
    these. It is due again after 20 times as long as the last one took: at once where it is cheap.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._after: Position | None = None
        self._furthest = FIRST
        self._walk_at = 0.0

    async def consume(self, call: Dequeue) -> Dequeued:
        """Consumes payments, or gives again what the call's key consumed before."""
        async with self._database.connection() as connection:
            if self._after is None:
                # If the first walk takes too long for a statement, the next call begins here.
                self._after = self._furthest = await queries.last_consumed(connection)
            began = time.monotonic()
            walk = began >= self._walk_at
            if walk:
                self._walk_at = math.inf  # one at a time
            try:
                answer = await queries.dequeue(connection, call, FIRST if walk else self._after)
            finally:
                if walk:
                    ended = time.monotonic()
                    self._walk_at = ended + (ended - began) / WALK_RATIO
        if not answer.replayed:
            self._move(answer.payments, call.limit)
        return answer

    def _move(self, payments: list[Payment], limit: int) -> None:
        if payments:
            self._furthest = max(self._furthest, payments[-1].position)
        # Behind a walk's full answer there can be more, before the furthest position.
        full = len(payments) == limit
        self._after = payments[-1].position if full else self._furthest
