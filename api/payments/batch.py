"""Group commit: calls that arrive while a statement runs share the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import asyncpg

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


class Batch(Generic[Item, Answer]):
    """Runs items through `run`, many at a time, and gives each caller its own answer.

    At most one `run` is under way. Items that arrive meanwhile wait, in order, and go into the next
    one together: the busier the service, the larger its statements, and the fewer commits a call
    costs. A caller alone waits for nothing.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        size: int,
        queue_limit: int,
    ) -> None:
        """`run` answers each of at most `size` items in order; `queue_limit` more may wait.

        An answer that is an exception is raised in its caller alone. What `run` itself raises must
        mean that nothing at all was changed, where it is one of `_ONE_ROWS_FAULT`: the items are
        then run again, each alone.
        """
        self._run = run
        self._size = size
        self._queue_limit = queue_limit
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
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
            raise Overloaded("Too many requests are waiting for the database.")
        if self._loop is None:  # Python 3.11 makes a system call to tell which loop runs.
            self._loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting.append((item, answer))
        if self._worker is None:
            self._worker = self._loop.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        try:
            while batch := self._next():
                await self._answer(batch)
        finally:
            self._worker = None

    def _next(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._size:
            item, answer = self._waiting.popleft()
            if not answer.done():  # its caller has not gone
                batch.append((item, answer))
        return batch

    async def _answer(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
            answered = [*zip(batch, results, strict=True)]
        except _ONE_ROWS_FAULT as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            for single in batch:
                if not single[1].done():  # its caller has not gone meanwhile
                    await self._answer([single])
        except Exception as error:
            _fail(batch, error)
        else:
            for (_, answer), result in answered:
                if answer.done():
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)


def _fail(batch: Sequence[tuple[Item, asyncio.Future[Answer]]], error: Exception) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)
