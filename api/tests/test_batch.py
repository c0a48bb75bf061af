"""Group commit: callers share statements, and none has to answer for another."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import pytest

from payments import metrics
from payments.batch import Batch
from payments.errors import Overloaded
from tests import PATIENCE_SECONDS
from tests.conftest import Api, Database, Serve, client, waits_for_a_lock


class Statement:
    """What a batch runs: notes its items, waits until it may go on, and doubles them."""

    def __init__(self, fails: Callable[[Sequence[int]], Exception | None] | None = None) -> None:
        self.runs: list[list[int]] = []
        self.may_go_on = asyncio.Event()
        self._fails = fails or (lambda items: None)

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.runs.append([*items])
        await self.may_go_on.wait()
        if (error := self._fails(items)) is not None:
            raise error
        return [item * 2 for item in items]


def batch_of(statement: Statement, size: int = 100, queue_limit: int = 100) -> Batch[int, int]:
    return Batch("double", statement, size=size, queue_limit=queue_limit)


async def submitted(batch: Batch[int, int], *items: int) -> list[asyncio.Task[int]]:
    """Returns the callers, each of which has put its item into the batch."""
    tasks = [asyncio.create_task(batch.submit(item)) for item in items]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def results(tasks: Sequence[asyncio.Task[int]]) -> list[Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_caller_alone_waits_for_nothing() -> None:
    statement = Statement()
    statement.may_go_on.set()
    batch = batch_of(statement)
    assert [await batch.submit(1), await batch.submit(2)] == [2, 4]
    assert statement.runs == [[1], [2]]


async def test_who_comes_during_a_statement_shares_the_next() -> None:
    statement = Statement()
    batch = batch_of(statement)
    tasks = await submitted(batch, 1)
    tasks += await submitted(batch, 2, 3)
    tasks += await submitted(batch, 4)
    assert statement.runs == [[1]]
    statement.may_go_on.set()
    assert await results(tasks) == [2, 4, 6, 8]
    assert statement.runs == [[1], [2, 3, 4]]


async def test_statements_have_a_size_and_keep_the_order() -> None:
    statement = Statement()
    batch = batch_of(statement, size=4)
    tasks = await submitted(batch, 0)
    tasks += await submitted(batch, *range(1, 11))
    statement.may_go_on.set()
    assert await results(tasks) == [item * 2 for item in range(11)]
    assert statement.runs == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


async def test_statements_have_a_size_in_bytes() -> None:
    statement = Statement()
    batch: Batch[int, int] = Batch(
        "double", statement, size=100, queue_limit=100, limit_bytes=10, measure=lambda item: item
    )
    tasks = await submitted(batch, 0)
    tasks += await submitted(batch, 4, 6, 1, 50, 2, 3)
    statement.may_go_on.set()
    assert await results(tasks) == [0, 8, 12, 2, 100, 4, 6]
    assert statement.runs == [[0], [4, 6], [1], [50], [2, 3]]


async def test_the_queue_has_a_limit() -> None:
    statement = Statement()
    batch = batch_of(statement, queue_limit=3)
    tasks = await submitted(batch, 0)
    tasks += await submitted(batch, 1, 2, 3)
    with pytest.raises(Overloaded, match="nothing was changed"):
        await batch.submit(4)
    statement.may_go_on.set()
    assert await results(tasks) == [0, 2, 4, 6]
    assert await batch.submit(5) == 10


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InvalidTextRepresentationError,
        asyncpg.NumericValueOutOfRangeError,
        asyncpg.CheckViolationError,
        asyncpg.UniqueViolationError,
        asyncpg.ProgramLimitExceededError,
        asyncpg.DeadlockDetectedError,
        asyncpg.LockNotAvailableError,
    ],
)
async def test_a_bad_row_fails_alone(error: type[Exception]) -> None:
    statement = Statement(lambda items: error("bad") if 3 in items else None)
    batch = batch_of(statement)
    statement.may_go_on.set()
    tasks = await submitted(batch, 1, 2, 3, 4)
    *good, bad = await results([tasks[index] for index in (0, 1, 3, 2)])
    assert good == [2, 4, 8]
    assert isinstance(bad, error)
    assert await batch.submit(5) == 10


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.ConnectionDoesNotExistError,
        asyncpg.QueryCanceledError,
        asyncpg.AdminShutdownError,
        asyncpg.UndefinedTableError,
        OSError,
        TimeoutError,
        Overloaded,
    ],
)
async def test_an_error_of_no_row_goes_to_all_and_nothing_runs_twice(
    error: type[Exception],
) -> None:
    statement = Statement(lambda items: error("away") if 2 in items else None)
    batch = batch_of(statement)
    tasks = await submitted(batch, 0)
    tasks += await submitted(batch, 1, 2, 3)
    statement.may_go_on.set()
    first, *others = await results(tasks)
    assert first == 0
    assert [type(other) for other in others] == [error] * 3
    assert statement.runs == [[0], [1, 2, 3]]
    assert await batch.submit(4) == 8


async def test_a_missing_answer_is_an_error_for_all() -> None:
    async def run(items: Sequence[int]) -> list[int]:
        return [0] * (len(items) - 1)

    batch: Batch[int, int] = Batch("double", run, size=10, queue_limit=10)
    tasks = await submitted(batch, 1, 2)
    assert [type(result) for result in await results(tasks)] == [ValueError] * 2


async def test_who_leaves_while_waiting_takes_the_item_along() -> None:
    statement = Statement()
    batch = batch_of(statement)
    tasks = await submitted(batch, 1)
    tasks += await submitted(batch, 2, 3, 4)
    tasks[2].cancel()
    await asyncio.sleep(0)
    statement.may_go_on.set()
    assert await results([tasks[0], tasks[1], tasks[3]]) == [2, 4, 8]
    assert statement.runs == [[1], [2, 4]]


async def test_when_all_who_wait_have_left_nothing_runs() -> None:
    statement = Statement()
    batch = batch_of(statement)
    [first] = await submitted(batch, 1)
    tasks = await submitted(batch, 2, 3)
    for task in tasks:
        task.cancel()
    await asyncio.sleep(0)
    statement.may_go_on.set()
    assert await first == 2
    assert await batch.submit(4) == 8
    assert statement.runs == [[1], [4]]


async def test_who_leaves_during_the_statement_leaves_it_to_the_others() -> None:
    statement = Statement()
    batch = batch_of(statement)
    tasks = await submitted(batch, 0)
    tasks += await submitted(batch, 1, 2, 3)
    tasks[0].cancel()
    statement.may_go_on.set()
    statement.may_go_on = asyncio.Event()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(statement.runs) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    tasks[1].cancel()
    statement.may_go_on.set()
    assert await results(tasks[2:]) == [4, 6]
    assert statement.runs == [[0], [1, 2, 3]]


async def test_who_leaves_before_the_rows_are_tried_alone_is_not_tried() -> None:
    statement = Statement(lambda items: asyncpg.DataError("bad") if len(items) > 1 else None)
    batch = batch_of(statement)
    tasks = await submitted(batch, 1, 2, 3)
    tasks[1].cancel()
    await asyncio.sleep(0)
    statement.may_go_on.set()
    assert await results([tasks[0], tasks[2]]) == [2, 6]
    assert [2] not in statement.runs


@pytest.mark.slow
@pytest.mark.slow
async def test_a_held_key_keeps_nobody_else(start: Serve, database: Database) -> None:
    url = await start(lock_timeout_seconds=10.0)
    async with client(url, await database.key()) as api, database.connect() as holder:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute(
            "INSERT INTO payments (created_by, idempotency_key) VALUES ('shop', 'held')"
        )
        held = asyncio.create_task(api.create({"payment": 1}, Idempotency_Key="held"))
        await waits_for_a_lock(database)
        # These share the next statement, with one more caller of that key.
        late = [asyncio.create_task(api.create({"payment": 1}, Idempotency_Key="held"))]
        others = [asyncio.create_task(api.create({"payment": 1})) for _ in range(20)]
        answers = await asyncio.gather(*others)
        assert not late[0].done()
        assert [answer.status_code for answer in answers] == [201] * 20
        # Once it is known that somebody holds the key, who comes later does not wait for him.
        assert (await api.create({"payment": 1})).status_code == 201
        assert not late[0].done()
        await transaction.rollback()
        assert (await held).status_code == 503
        assert (await late[0]).status_code == 201


@pytest.mark.in_process  # reads a gauge
async def test_200_creates_while_one_statement_is_slow(api: Api, database: Database) -> None:
    async with database.connect() as holder:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("LOCK payments IN SHARE MODE")
        creates = [asyncio.create_task(api.create({"payment": n, "data": n})) for n in range(200)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while metrics.Active.requests < 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await transaction.rollback()
    for number, answer in enumerate(await asyncio.gather(*creates)):
        assert answer.status_code == 201
        assert answer.json()["data"] == number
    [row] = await database.fetch(
        "SELECT count(*) AS rows, count(DISTINCT xmin::text) AS commits FROM payments"
    )
    assert row["rows"] == 200
    assert row["commits"] <= 50
