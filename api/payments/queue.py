"""Consumption of the oldest payments: where the queue of inserted ones begins."""

import logging
import math
import time
from typing import TYPE_CHECKING

import asyncpg

from payments import queries
from payments.db import Database
from payments.errors import DatabaseUnavailable
from payments.models import Payment
from payments.queries import FIRST, Dequeue, Dequeued, Position

# A walk from the first payment on may take this part of the time of each process.
WALK_RATIO = 0.02

if TYPE_CHECKING:
    from payments.queries import Connection

_logger = logging.getLogger(__name__)


class Queue:
    """The inserted payments, oldest first, and from where on this process looks for them.

    A consumed payment leaves an index entry at the head of the queue until vacuum removes it, which
    it may not while any transaction is older. To step over them all in each call would cost more
    the more was consumed. So a call begins after the last payment that an earlier one consumed.

    Payments can appear before that position: their transaction was slower, the import reopened
    them, or a lock on them was skipped and did not consume them. A walk from the first payment on
    finds these. It is due again after 50 times as long as the last one took: at once where it is
    cheap.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._after: Position | None = None
        self._furthest = FIRST
        self._walk_at = 0.0
        self._walked = True

    async def consume(self, call: Dequeue) -> Dequeued:
        """Consumes payments, or returns again what the call's key consumed before.

        Raises:
            DatabaseUnavailable: there is none, as far as is known: the last walk did not end.
        """
        async with self._database.connection() as connection:
            if self._after is None:
                self._after = self._furthest = await queries.last_consumed(connection)
            answer = await self._walk(connection, call) if self._is_walk_due() else None
            if answer is None:
                answer = await queries.dequeue(connection, call, self._after)
        if not answer.payments and not self._walked:
            raise DatabaseUnavailable("The queue could not be read in time; nothing was consumed.")
        if answer.first_limit is None:
            self._move(answer.payments)
        return answer

    def _is_walk_due(self) -> bool:
        return time.monotonic() >= self._walk_at

    async def _walk(self, connection: "Connection", call: Dequeue) -> Dequeued | None:
        """Consumes from the first payment on, or returns None if that takes too long."""
        self._walk_at = math.inf  # one at a time
        began = time.monotonic()
        try:
            answer = await queries.dequeue(connection, call, FIRST)
            self._walked = True
            return answer
        except asyncpg.QueryCanceledError:
            self._walked = False
            _logger.warning(
                "the queue could not be walked in time: payments that appeared late wait until"
                " vacuum has removed the entries of consumed ones"
            )
            return None
        finally:
            ended = time.monotonic()
            self._walk_at = ended + (ended - began) / WALK_RATIO

    def _move(self, payments: list[Payment]) -> None:
        # Behind what a walk found there can be more; where nothing was left, there is not.
        self._after = payments[-1].position if payments else self._furthest
        self._furthest = max(self._furthest, self._after)
