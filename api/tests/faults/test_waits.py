"""A database that makes everybody wait: nothing hangs, and the cluster is told no lie."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults import mix
from tests.faults.client import Connection
from tests.faults.conftest import Progress, Seen
from tests.faults.probes import READY_SECONDS, Probes
from tests.faults.system import System, system

# The service's deadline is 5 s; two busy cores may keep a finished answer for a moment.
DEADLINE_SECONDS = 5.0 + 0.75

# A probe every 0.25 s, and the time that readiness gives the database: two of the chart's probes,
# which come every 5 s, see what the last second's answer was.
NOTICED_SECONDS = 2.0

SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM pg_sleep(10); RETURN NEW; END';
CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON payments FOR EACH ROW EXECUTE FUNCTION slow()
"""

LISTS = 100  # at one time: many more than a pool has connections


@asynccontextmanager
async def _away(system: System) -> AsyncIterator[None]:
    await system.in_thread(system.cluster.stop)
    yield
    await system.in_thread(system.cluster.start)


@asynccontextmanager
async def _silent(system: System) -> AsyncIterator[None]:
    for proxy in system.proxies:
        proxy.blackhole()
    yield
    for proxy in system.proxies:
        proxy.heal()


@asynccontextmanager
async def _locked(system: System) -> AsyncIterator[None]:
    async with system.database() as connection, connection.transaction():
        await connection.execute("LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
        yield


@asynccontextmanager
async def _full_pool(system: System) -> AsyncIterator[None]:
    async with _locked(system), asyncio.TaskGroup() as group:
        lists = [group.create_task(_list_for_ever(system, number)) for number in range(LISTS)]
        yield
        for task in lists:
            task.cancel()


async def _list_for_ever(system: System, number: int) -> None:
    connection = Connection(system.ports[number % len(system.ports)])
    headers = {"Authorization": f"Bearer {next(iter(system.keys.values()))}"}
    try:
        while True:
            answer = await connection.request("GET", "/v1/payments", headers)
            assert answer.status in {200, 503}
    finally:
        connection.close()


@asynccontextmanager
async def _slow(system: System) -> AsyncIterator[None]:
    async with system.database() as connection:
        await connection.execute(SLOW)
        yield
        await connection.execute("DROP FUNCTION slow CASCADE")


class Trouble(NamedTuple):
    """What PostgreSQL does to the service, and whether that makes it unready."""

    begins: Callable[[System], AbstractAsyncContextManager[None]]
    seconds: float
    long_seconds: float
    unready: bool


TROUBLES = {
    "PostgreSQL is away": Trouble(_away, 6, 60, unready=True),
    "PostgreSQL is silent": Trouble(_silent, 8, 60, unready=True),
    "the table is locked": Trouble(_locked, 6, 20, unready=False),
    "the pool is full": Trouble(_full_pool, 6, 20, unready=False),
    "every write is slow": Trouble(_slow, 6, 20, unready=False),
}


@pytest.mark.parametrize("name", TROUBLES)
async def test_waits(
    memory: Path, seed: str, long: bool, name: str, *, progress: Progress, seen: Seen
) -> None:
    trouble = TROUBLES[name]
    seconds = trouble.long_seconds if long else trouble.seconds
    began = ended = 0.0

    async def fault(made: System, chance: random.Random) -> str:
        nonlocal began, ended
        async with trouble.begins(made):
            began = time.monotonic()
            await asyncio.sleep(seconds)
            ended = time.monotonic()
        return f"{name}, {seconds:g} s"

    fault.__name__ = name
    over = asyncio.Event()
    async with system(memory) as made, asyncio.TaskGroup() as group:
        probes = Probes(made.ports)
        group.create_task(probes.run(over.is_set))
        report = await mix.run(
            made,
            memory,
            seed=seed,
            acknowledgements=500,
            faults=1,
            time_limit_seconds=60,
            kinds={fault: 1},
            progress=progress,
        )
        await asyncio.sleep(NOTICED_SECONDS)
        healed = time.monotonic()
        over.set()
    told = probes.not_ready(began, ended)
    noticed = f"not ready after {told[0].began - began:.1f} s" if told else "ready throughout"
    back = probes.not_ready(ended, healed)
    returned = f", ready again after {back[-1].began - ended:.1f} s" if back else ""
    seen(
        f"{name} for {seconds:g} s",
        f"slowest answer {report.slowest_seconds:.1f} s, {len(probes.live)} liveness probes,"
        f" {len(probes.not_live())} failed; {noticed}{returned}",
    )
    assert report.failures(acknowledgements=500, faults=1) == []
    assert report.slowest_seconds < DEADLINE_SECONDS
    assert probes.not_live() == []
    assert bool(told) == trouble.unready
    if trouble.unready:
        # None that began later said that it is ready; the last ones may have been answered after.
        during = probes.between(began + NOTICED_SECONDS, ended - READY_SECONDS)
        assert [probe for probe in during if probe not in told] == []
    assert probes.not_ready(ended + NOTICED_SECONDS, healed) == []
