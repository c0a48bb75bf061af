"""Group commit: calls that arrive while a statement runs share the next one."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import asyncpg
import msgspec
from opentelemetry.trace import Span

from payments import telemetry, tracing
from payments.errors import Overloaded

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# What one row of a statement can do to all of it: a bad value, a broken constraint, a limit, a lock
# that somebody else holds. PostgreSQL has then rolled the statement back for certain, so that it is
# safe to try again.
_ONE_ROWS_FAULT = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)

# How many rows of failed statements are tried alone at one time. One that waits for a lock does not
# keep the others, and together they leave half of the pool's connections to who comes later.
_ALONE = 4


class Call(msgspec.Struct, Generic[Item, Answer]):
    """One caller's item, and the answer that it waits for."""

    item: Item
    answer: asyncio.Future[Answer]
    since: float  # on time.perf_counter's clock
    span: Span | None


class Batch(Generic[Item, Answer]):
    """Runs items through `run`, many at a time, and gives each caller its own answer.

    At most one `run` is under way, besides the rows of one that failed. Items that arrive meanwhile
    wait, in order, and go into the next one together: the busier the service, the larger its
    statements, and the fewer commits a call costs. A caller alone waits for nothing.
    """

    def __init__(
        self,
        operation: str,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        size: int,
        queue_limit: int,
        limit_bytes: int = 0,
        measure: Callable[[Item], int] = lambda item: 0,
    ) -> None:
        """`run` answers each of at most `size` items in order; `queue_limit` more may wait.

        Metrics call what it does `operation`.

        Items that `measure` more than `limit_bytes` together are not put into one statement, so
        that it ends well within its time; one that alone is larger has a statement of its own.

        An answer that is an exception is raised in its caller alone. What `run` itself raises must
        mean that nothing at all was changed, where it is one of `_ONE_ROWS_FAULT`: the items are
        then run again, each alone.
        """
        self._operation = operation
        self._run = run
        self._size = size
        self._queue_limit = queue_limit
        self._limit_bytes = limit_bytes
        self._measure = measure
        self._alone = asyncio.Semaphore(_ALONE)
        self._tried_alone: set[asyncio.Task[None]] = set()
        self._waiting: deque[Call[Item, Answer]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def submit(self, item: Item) -> Answer:
        """Returns the item's answer, once the statement that it rode in is committed.

        A caller that is cancelled while it waits takes its item along; one that is cancelled later
        leaves the statement to the others, and does not learn what became of its item.

        Raises:
            Overloaded: too many wait already.
            Exception: whatever `run` raised for this item.
        """
        if len(self._waiting) >= self._queue_limit:
            raise Overloaded("Too many requests are waiting for the database; nothing was changed.")
        if self._loop is None:  # Python 3.11 makes a system call to tell which loop runs.
            self._loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting.append(Call(item, answer, time.perf_counter(), tracing.current()))
        if self._worker is None:
            self._worker = self._loop.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        try:
            while batch := self._next():
                await self._answer(batch)
        finally:
            self._worker = None

    def _next(self) -> list[Call[Item, Answer]]:
        batch: list[Call[Item, Answer]] = []
        bytes = 0
        while self._waiting and len(batch) < self._size:
            call = self._waiting[0]
            bytes += self._measure(call.item)
            if batch and bytes > self._limit_bytes:
                break
            self._waiting.popleft()
            if not call.answer.done():  # its caller has not gone
                batch.append(call)
        return batch

    async def _answer(self, batch: Sequence[Call[Item, Answer]]) -> None:
        try:
            with telemetry.batch(self._operation, batch):
                results = await self._run([call.item for call in batch])
            answered = [*zip(batch, results, strict=True)]
        except _ONE_ROWS_FAULT as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            for call in batch:
                task = asyncio.create_task(self._answer_alone(call))
                self._tried_alone.add(task)
                task.add_done_callback(self._tried_alone.discard)
        except Exception as error:
            _fail(batch, error)
        else:
            for call, result in answered:
                if call.answer.done():
                    continue
                if isinstance(result, Exception):
                    call.answer.set_exception(result)
                else:
                    call.answer.set_result(result)

    async def _answer_alone(self, call: Call[Item, Answer]) -> None:
        # Nobody waits for this: the next statement is under way.
        async with self._alone:
            if not call.answer.done():  # its caller has not gone meanwhile
                await self._answer([call])


def _fail(batch: Sequence[Call[Item, Answer]], error: Exception) -> None:
    for call in batch:
        if not call.answer.done():
            call.answer.set_exception(error)
