"""What is broken, and which alerts must say so."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import asyncpg

from drill.auditor import Auditor
from tests.faults.system import System
from tests.faults.test_waits import TROUBLES

# Statements that the fault lasts; each is a whole transaction.
REPEAT_SECONDS = 0.2

CRASH_SECONDS = 3.0  # a server is ready in one

SLOW_SECONDS = 0.4  # above the objective's 250 ms, far below every time limit

SLOW = f"""
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM pg_sleep({SLOW_SECONDS}); RETURN NULL; END';
CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON payments FOR EACH STATEMENT EXECUTE FUNCTION slow()
"""

# Who wants to change evidence must be the tables' owner; the trigger lets nobody else pass.
WRONG = """
SET ROLE payments_owner;
UPDATE payments SET consumed_by = '' WHERE id = (
  SELECT max(id) FROM payments WHERE status = 'consumed'
)
"""
RIGHT = """
SET ROLE payments_owner;
UPDATE payments SET consumed_by = 'shop' WHERE consumed_by = ''
"""

# A payment that was consumed twice has two acknowledgements and one row. So has, to whoever
# compares counts, one that was consumed and whose row says so no longer.
UNCONSUME = """
SET ROLE payments_owner;
UPDATE payments SET status = 'inserted', consumed_at = NULL, consumed_by = NULL
WHERE consumed_at > now() - interval '3 seconds'
"""
LOSE = """
SET ROLE payments_owner;
DELETE FROM payments WHERE created_at > now() - interval '3 seconds'
"""

CONNECTIONS = 85  # with the service's own; PostgreSQL takes 100 by default
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
WAL_BYTES = 20_000_000  # two or three times a second; the alert's bound is 20 MB/s
WRITE_LOG = f"SELECT pg_logical_emit_message(false, 'drill', repeat('x', {WAL_BYTES}))"


class Scene(NamedTuple):
    """What there is to break."""

    system: System
    auditor: Auditor


Begins = Callable[[Scene], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _killed(scene: Scene) -> AsyncIterator[None]:
    async with scene.system.without_servers():
        yield


@asynccontextmanager
async def _crashing(scene: Scene) -> AsyncIterator[None]:
    over = asyncio.Event()
    task = asyncio.create_task(_crash(scene.system, over))
    yield
    over.set()
    await task


async def _crash(system: System, over: asyncio.Event) -> None:
    chance = random.Random(0)  # noqa: S311 - no secret
    while not over.is_set():
        await system.kill_server(chance)
        await asyncio.sleep(CRASH_SECONDS)


@asynccontextmanager
async def _no_auditor(scene: Scene) -> AsyncIterator[None]:
    await scene.auditor.kill()
    yield
    await scene.auditor.start()


@asynccontextmanager
async def _strangers(scene: Scene) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(scene.system.database())
        for _ in range(await connection.fetchval(COUNT), CONNECTIONS):
            await stack.enter_async_context(scene.system.database())
        yield


def _trouble(name: str) -> Begins:
    """Returns one of the reliability harness's."""
    return lambda scene: TROUBLES[name].begins(scene.system)


def _sql(begin: str, end: str) -> Begins:
    """Returns what one statement breaks, and another one mends."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        async with scene.system.database() as connection:
            await connection.execute(begin)
        yield
        async with scene.system.database() as connection:
            await connection.execute(end)

    return fault


def _again_and_again(sql: str) -> Begins:
    """Returns what breaks for as long as it is repeated."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        async with scene.system.database() as connection:
            task = asyncio.create_task(_repeat(connection, sql))
            yield
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return fault


async def _repeat(connection: asyncpg.Connection, sql: str) -> None:
    while True:
        await connection.execute(sql)
        await asyncio.sleep(REPEAT_SECONDS)


class Fault(NamedTuple):
    """What is done, and the alerts that must fire while it lasts and resolve after.

    Of an objective's alerts, which differ in their window alone, the one that pages first is named.
    """

    what: str
    begins: Begins
    alerts: tuple[str, ...]


FAULTS = (
    Fault(
        "kill -9 of all servers",
        _killed,
        ("PaymentsAbsent", "PaymentsNoPodAvailable", "PaymentsPodsNotReady"),
    ),
    Fault(
        f"kill -9 of a server, every {CRASH_SECONDS:g} s", _crashing, ("PaymentsContainerRestarts",)
    ),
    Fault(
        "PostgreSQL is away",
        _trouble("PostgreSQL is away"),
        ("PaymentsRequestsFail 1h", "PaymentsAuditStale"),
    ),
    Fault(
        "PostgreSQL is silent",
        _trouble("PostgreSQL is silent"),
        ("PaymentsRequestsFail 1h",),
    ),
    Fault(
        "the table is locked",
        _trouble("the table is locked"),
        ("PaymentsRequestsFail 1h", "PaymentsTransactionOld"),
    ),
    Fault(
        "the pool is full",
        _trouble("the pool is full"),
        ("PaymentsRequestsFail 1h", "PaymentsPoolTimesOut", "PaymentsPoolQueued"),
    ),
    Fault(
        "every write takes longer than it may",
        _trouble("every write is slow"),
        ("PaymentsRequestsFail 1h",),
    ),
    Fault(
        f"every write takes {SLOW_SECONDS} s",
        _sql(SLOW, "DROP FUNCTION slow CASCADE"),
        ("PaymentsRequestsSlow 1h",),
    ),
    Fault("a payment is consumed by nobody", _sql(WRONG, RIGHT), ("PaymentsInvariantBroken",)),
    Fault("consumptions are no more", _again_and_again(UNCONSUME), ("PaymentsConsumedTwice",)),
    Fault(
        "payments are no more",
        _again_and_again(LOSE),
        ("PaymentsRowsMissing", "PaymentsValueMissing"),
    ),
    Fault("kill -9 of the auditor", _no_auditor, ("PaymentsAuditAbsent",)),
    Fault("strangers take connections", _strangers, ("PaymentsConnectionsNearMax",)),
    Fault("somebody writes much log", _again_and_again(WRITE_LOG), ("PaymentsWalHigh",)),
)

# What no fault here can make true: what a cluster alone says, or what takes days. promtool shows
# that these fire.
BEYOND = (
    "PaymentsAutoscalerAtMax",
    "PaymentsCpuThrottled",
    "PaymentsDiskFills",
    "PaymentsMemoryNearLimit",
    "PaymentsMigrationFailed",
    "PaymentsOldRoutesCalled",
    # The slower burns of both objectives: they fire with the first, and take hours to resolve.
    *(
        f"Payments{what} {window}"
        for what in ("RequestsFail", "RequestsSlow")
        for window in ("6h", "1d", "3d")
    ),
)
