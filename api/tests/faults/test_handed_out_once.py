"""Workers share a queue, and lose servers and answers: each payment is handed out once."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import PATIENCE_SECONDS
from tests.faults import doubles
from tests.faults.conftest import Progress, Seen
from tests.faults.history import History, Violation, compare
from tests.faults.proxy import Proxy
from tests.faults.system import System, system
from tests.faults.workload import Workload

WORKERS = 16  # of four clients
PAYMENTS = 10_000
KILLS = 4
CUT_EVERY = 10

# All at one time: the order of their ids is then the order of the queue.
FILL = """
INSERT INTO payments (payment, data, created_by)
SELECT 1, jsonb_build_object('operation', operation), 'shop'
FROM unnest($1::bigint[]) AS operation
ORDER BY operation
RETURNING id, (data ->> 'operation')::bigint AS operation
"""


async def _fill(made: System, history: History) -> None:
    for _ in range(PAYMENTS):
        history.create("shop", "1.00", None)
    async with made.database() as connection:
        rows = await connection.fetch(FILL, [*history.creations])
    for row in rows:
        creation = history.creations[row["operation"]]
        creation.id, creation.acknowledged = row["id"], time.time()


@asynccontextmanager
async def _cut_off(made: System) -> AsyncIterator[list[Proxy]]:
    """Runs a proxy before each server that cuts off every tenth answer."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Proxy(port, cut_every=CUT_EVERY).running())
            for port in made.ports
        ]


class Report(NamedTuple):
    """What became of the payments."""

    violations: list[Violation]
    counts: Counter[str]
    cuts: int
    seconds: float


async def _handed_out(history: History, count: int) -> None:
    while history.counts["handed out"] < count:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def _drained(made: System) -> None:
    while not await made.is_drained():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def _hand_out(made: System, directory: Path, seed: str, progress: Progress) -> Report:
    """Lets the workers consume until nothing is left, while servers are killed."""
    history, began = History(directory / "history.jsonl"), time.monotonic()
    with contextlib.closing(history):
        async with _cut_off(made) as proxies:
            await _fill(made, history)
            workload = Workload(history, [proxy.port for proxy in proxies], made.keys, seed)
            over, chance = asyncio.Event(), random.Random(seed)
            # What was not handed out by then is found below.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
                    group.create_task(workload.hand_out(WORKERS, over.is_set))
                    for number in range(1, KILLS + 1):
                        await _handed_out(history, PAYMENTS * number // (KILLS + 1))
                        progress(await made.kill_server(chance))
                    await _drained(made)
                    over.set()
            compare(history, await made.rows())
            cuts = sum(proxy.cuts for proxy in proxies)
    return Report(history.violations, history.counts, cuts, time.monotonic() - began)


async def test_handed_out_once(memory: Path, seed: str, progress: Progress, seen: Seen) -> None:
    async with system(memory) as made:
        report = await _hand_out(made, memory, seed, progress)
    counts = report.counts
    seen(
        f"{PAYMENTS:,} payments to {WORKERS} workers of {len(made.keys)} clients,"
        f" every tenth answer cut off, {KILLS} times kill -9 of a server",
        f"{counts['handed out']:,} handed out by {counts['dequeue acknowledged']:,} calls,"
        f" {report.cuts:,} answers cut off, {len(report.violations)} violations;"
        f" {report.seconds:.0f} s in all",
    )
    assert report.violations == []
    assert counts["handed out"] == PAYMENTS
    assert counts["in doubt"] >= report.cuts > 0
    assert made.ended == []


# The fault in the service, and what is changed in the database for it.
PLANTED = {
    "consumption without a lock": ("lock_nothing", "SELECT"),
    "consumption without lock or guard": (
        "lock_and_guard_nothing",
        doubles.NO_EVIDENCE_TRIGGER,
    ),
}


@pytest.mark.parametrize("name", PLANTED)
async def test_a_planted_fault_is_found(
    memory: Path, seed: str, name: str, progress: Progress, seen: Seen
) -> None:
    fault, sql = PLANTED[name]
    async with system(memory, module=("tests.faults.doubles", fault), sql=sql) as made:
        report = await _hand_out(made, memory, seed, progress)
    found = [one for one in report.violations if one.kind == "handed out twice"]
    seen(
        f"planted: {name}",
        f"found: {len(found)} handed out twice in {report.seconds:.0f} s",
    )
    assert found
