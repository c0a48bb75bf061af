"""The primary is lost and a synchronous standby takes its place, under the same name."""

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import pytest

from laptop.postgres import Cluster, program
from tests import PATIENCE_SECONDS
from tests.faults import mix
from tests.faults.conftest import Progress, Seen
from tests.faults.system import System, socket_of, system


@contextmanager
def _standby(primary: Cluster, data: Path) -> Iterator[Cluster]:
    """Runs a copy of a PostgreSQL that follows it."""
    subprocess.run(
        [
            *(program("pg_basebackup"), "--pgdata", data, "--checkpoint=fast"),
            *("--write-recovery-conf", "--dbname", primary.url()),
        ],
        check=True,
        capture_output=True,
    )
    owner = primary.data.stat()
    for path in [data, *data.rglob("*")]:
        os.chown(path, owner.st_uid, owner.st_gid)
    with Cluster(data) as standby:
        yield standby


async def _make_synchronous(made: System) -> None:
    """Lets no commit be acknowledged from now on that the standby has not."""
    async with made.database() as connection:
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await connection.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await connection.fetchval(  # noqa: ASYNC110
                "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            ):
                await asyncio.sleep(0.05)


async def _promote(standby: Cluster) -> None:
    connection = await asyncpg.connect(standby.url())
    assert await connection.fetchval("SELECT pg_promote()")
    await connection.close()


async def _lost(made: System, standby: Cluster) -> None:
    """The primary's machine is lost and the network says so."""
    os.kill(made.cluster.pid, signal.SIGKILL)
    await _promote(standby)
    for proxy in made.proxies:
        proxy.switch(socket_of(standby))
        proxy.reset()


async def _unreachable(made: System, standby: Cluster) -> None:
    """The primary's machine is gone without a word: its connections stay, silent for ever."""
    for proxy in made.proxies:
        proxy.blackhole()
    os.kill(made.cluster.pid, signal.SIGKILL)
    await _promote(standby)
    for proxy in made.proxies:
        proxy.switch(socket_of(standby))


async def _read_only(made: System, standby: Cluster) -> None:
    """The old primary lives on, read-only, and keeps its connections; only the name moves on."""
    async with made.database() as connection:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
    await asyncio.sleep(0.5)
    await _promote(standby)
    for proxy in made.proxies:
        proxy.switch(socket_of(standby))


# Each, and the seconds to every server's first success, since the new primary accepts connections.
FAILOVERS = {
    "reset": (_lost, 2.0),
    "without a word": (_unreachable, 5.0),
    "old primary read-only": (_read_only, 2.0),
}


@pytest.mark.parametrize("name", FAILOVERS)
async def test_failover(memory: Path, seed: str, name: str, progress: Progress, seen: Seen) -> None:
    fail_over, limit_seconds = FAILOVERS[name]
    accepts = 0.0
    with ExitStack() as stack:

        async def fault(made: System, chance: random.Random) -> str:
            nonlocal accepts
            standby = await made.in_thread(
                lambda: stack.enter_context(_standby(made.cluster, memory / "standby"))
            )
            await _make_synchronous(made)
            await asyncio.sleep(chance.uniform(0.5, 1.5))
            await fail_over(made, standby)
            accepts = time.monotonic()
            made.primary = standby
            await asyncio.sleep(limit_seconds + 1)
            return f"failover, {name}"

        async with system(memory) as made:
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
            await made.in_thread(stack.close)
    first = [min(t for t in times if t > accepts) - accepts for times in report.made.values()]
    seen(
        f"failover, {name}",
        f"first success after {', '.join(f'{seconds:.1f}' for seconds in first)} s;"
        f" {report.acknowledged:,} acknowledged, {len(report.violations)} violations",
    )
    assert report.failures(acknowledgements=500, faults=1) == []
    assert len(first) == len(made.ports)
    assert max(first) < limit_seconds
