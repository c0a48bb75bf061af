"""The power is cut: what was acknowledged is on the disk. A kill -9 alone cannot show that."""

import asyncio
import functools
import random
import time
from pathlib import Path

import asyncpg

from laptop.postgres import Cluster, ClusterError
from tests.faults import power
from tests.faults.conftest import Progress, Seen
from tests.faults.history import ROWS, History, lost_before
from tests.faults.system import DATABASE, system
from tests.faults.workload import Workload

CALLERS = 32


async def _lost(
    directory: Path, seed: str, images: int, progress: Progress, *, trusting: bool = False
) -> tuple[int, int]:
    """Cuts the power that often, under load; returns how much was acknowledged, and how much lost.

    Each cut is a copy of the disk, on which PostgreSQL is started and asked for all that was
    acknowledged before the copy began. The double that is `trusting` is told of no fsync.
    """
    module = ("tests.faults.doubles", "say_that_all_is_well") if trusting else ("payments", "serve")
    settings = {"fsync": "off" if trusting else "on"}
    chance, over, lost, checked = random.Random(seed), asyncio.Event(), 0, 0
    history = History(directory / "history.jsonl")
    with power.disk(directory) as disk:
        async with (
            system(disk.directory, module=module, settings=settings) as made,
            asyncio.TaskGroup() as group,
        ):
            # The new database is on the disk; from here on it is for PostgreSQL to see to that.
            disk.sync()
            workload = Workload(history, made.ports, made.keys, seed)
            group.create_task(workload.run(CALLERS, over.is_set))
            for number in range(1, images + 1):
                before = history.acknowledged
                while history.acknowledged < before + 100:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await asyncio.sleep(chance.uniform(0, 0.5))
                moment, checked = time.time(), history.acknowledged
                copy = await asyncio.to_thread(disk.copy, number)
                rows = await made.in_thread(functools.partial(_recover, copy, directory / "copy"))
                copy.unlink()
                missing = lost_before(history, rows, moment)
                lost += len(missing)
                progress(f"{number}/{images} {checked} acknowledged, lost: {missing[:3]}")
            over.set()
    history.close()
    return checked, lost


def _recover(file: Path, place: Path) -> list[asyncpg.Record]:
    async def rows(url: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(ROWS)
        finally:
            await connection.close()

    with power.mounted(file, place):
        try:
            with Cluster(place / "data") as cluster:
                return asyncio.run(rows(cluster.url(DATABASE)))
        except (ClusterError, asyncpg.PostgresError):
            return []  # all is lost


async def test_power_loss(
    directory: Path, seed: str, long: bool, progress: Progress, seen: Seen
) -> None:
    if lacking := power.missing():
        seen("power cut under load", f"not run: {lacking}")
        return
    images = 25 if long else 4
    checked, lost = await _lost(directory, seed, images, progress)
    seen("power cut under load", f"{images} images, {checked:,} acknowledged, {lost} lost")
    assert lost == 0


async def test_a_planted_fault_is_found(
    directory: Path, seed: str, progress: Progress, seen: Seen
) -> None:
    if lacking := power.missing():
        seen("planted: fsync off", f"not run: {lacking}")
        return
    _, lost = await _lost(directory, seed, 2, progress, trusting=True)
    seen("planted: fsync off", f"found: {lost} lost")
    assert lost > 0
