"""Connections are lent in the order in which they were asked for."""

import asyncio

from payments.db import Database as Pool
from tests.conftest import Database, settings_for

CALLERS = 64
CALLS = 50  # of each caller, one after the other
CONNECTIONS = 4


async def test_nobody_who_waits_for_a_connection_is_overtaken(database: Database) -> None:
    pool = Pool(settings_for(database, pool_size=CONNECTIONS))
    await pool.open()
    await pool.warm()  # who makes a connection is overtaken meanwhile by those who find one
    asked: list[int] = []
    overtaken: list[int] = []

    async def call() -> None:
        for _ in range(CALLS):
            number = len(asked)
            asked.append(number)
            async with pool.connection() as connection:
                overtaken.append(len(overtaken) - number)
                await connection.fetch("SELECT 1")

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(call())
    finally:
        await pool.close()
    assert len(overtaken) == CALLERS * CALLS
    # Two that get theirs in the same turn of the event loop may change places.
    assert max(overtaken) < CONNECTIONS
