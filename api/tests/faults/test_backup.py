"""A backup is restored to the moment before a mistake, with PostgreSQL's own programs."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import asyncpg

from laptop.postgres import Cluster, program
from tests import PATIENCE_SECONDS
from tests.faults.conftest import Seen
from tests.faults.history import ROWS, History, lost_before
from tests.faults.system import DATABASE, System, system
from tests.faults.workload import Workload

CALLERS = 16
WRITES_SECONDS = 3.0  # of load before the backup, between it and the mistake, and after that


def _archive(directory: Path, owner: os.stat_result) -> Path:
    archive = directory / "archive"
    archive.mkdir()
    os.chown(archive, owner.st_uid, owner.st_gid)
    return archive


def _back_up(primary: Cluster, data: Path) -> None:
    command: list[str | Path] = [program("pg_basebackup"), "--pgdata", data, "--checkpoint=fast"]
    subprocess.run([*command, "--dbname", primary.url()], check=True, capture_output=True)
    subprocess.run([program("pg_verifybackup"), data], check=True, capture_output=True)


def _hand_over(data: Path, owner: os.stat_result) -> None:
    (data / "recovery.signal").touch()
    for path in [data, *data.rglob("*")]:
        os.chown(path, owner.st_uid, owner.st_gid)


def _check_files(cluster: Cluster) -> None:
    """Has PostgreSQL compare every table with every index, row by row."""
    command = [program("pg_amcheck"), "--heapallindexed", "--install-missing"]
    subprocess.run([*command, cluster.url(DATABASE)], check=True, capture_output=True)


async def _delete_by_mistake(made: System) -> float:
    """Deletes all payments; returns the moment before, in seconds since 1970."""
    async with made.database() as connection:
        moment = time.time()
        assert await connection.execute("DELETE FROM payments") != "DELETE 0"
    return moment


async def _archive_all(made: System) -> None:
    async with made.database() as connection:
        segment = await connection.fetchval("SELECT pg_walfile_name(pg_switch_wal())")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (  # noqa: ASYNC110
                await connection.fetchval("SELECT last_archived_wal FROM pg_stat_archiver") or ""
            ) < segment:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def _restored(data: Path, archive: Path, moment: float) -> AsyncIterator[Cluster]:
    settings = {
        "restore_command": f"cp {archive}/%f %p",
        "recovery_target_time": f"{time.strftime('%F %T', time.gmtime(moment))}"
        f".{moment % 1 * 1e6:06.0f}+00",
        "recovery_target_action": "promote",
    }
    cluster = Cluster(data, settings)
    with cluster:
        connection = await asyncpg.connect(cluster.url(DATABASE))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await connection.fetchval("SELECT pg_is_in_recovery()"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await connection.close()
        yield cluster


async def test_restore(memory: Path, seed: str, seen: Seen) -> None:
    archive, backup = memory / "archive", memory / "backup"
    settings = {
        "archive_mode": "on",
        "archive_command": f"test ! -f {archive}/%f && cp %p {archive}/%f",
    }
    history, over = History(memory / "history.jsonl"), asyncio.Event()
    async with system(memory, settings=settings) as made, asyncio.TaskGroup() as group:
        owner = made.cluster.data.stat()
        _archive(memory, owner)
        workload = Workload(history, made.ports, made.keys, seed)
        group.create_task(workload.run(CALLERS, over.is_set))
        await asyncio.sleep(WRITES_SECONDS)
        await asyncio.to_thread(_back_up, made.cluster, backup)
        await asyncio.sleep(WRITES_SECONDS)
        moment = await _delete_by_mistake(made)
        await asyncio.sleep(WRITES_SECONDS)
        over.set()
        await _archive_all(made)
    history.close()
    began = time.monotonic()
    _hand_over(backup, owner)
    async with _restored(backup, archive, moment) as cluster:
        seconds = time.monotonic() - began
        connection = await asyncpg.connect(cluster.url(DATABASE))
        rows = await connection.fetch(ROWS)
        await connection.close()
        await asyncio.to_thread(_check_files, cluster)
    creations = history.creations.values()
    missing = lost_before(history, rows, moment)
    later = [row for row in rows if history.creations[row["operation"]].began > moment]
    wanted = [one for one in creations if one.acknowledged and one.acknowledged < moment]
    ids = {one.id for one in wanted}
    sums = (
        sum(Decimal(one.value) for one in wanted),
        sum(Decimal(row["payment"]) for row in rows if row["id"] in ids),
    )
    seen(
        "a backup restored to the moment before a mistaken DELETE",
        f"{len(wanted):,} acknowledged payments, {len(missing)} missing, {len(later)} later ones"
        f" there, sums {sums[0]} and {sums[1]}, pg_amcheck clean; restored in {seconds:.1f} s",
    )
    assert len(wanted) > 500
    assert missing == []
    assert later == []
    assert sums[0] == sums[1]
