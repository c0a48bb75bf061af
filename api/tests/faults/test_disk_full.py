"""The database's disk is full, and has space again."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults import mix, power
from tests.faults.conftest import Progress, Seen
from tests.faults.system import System, system

DISK_BYTES = 256 * 1024**2
FULL_SECONDS = 6.0

# Segments that are kept for later would be written into while the disk is full.
POSTGRESQL = {"min_wal_size": "32MB", "max_wal_size": "64MB"}


@contextmanager
def _filled(disk: Path) -> Iterator[None]:
    file = disk / "filling"
    try:
        for piece in (b"0" * 1024**2, b"0" * 4096):
            with file.open("ab", buffering=0) as filling, suppress(OSError):
                while True:
                    filling.write(piece)
        yield
    finally:
        file.unlink()


async def test_disk_full(directory: Path, seed: str, progress: Progress, seen: Seen) -> None:
    if lacking := power.missing():
        seen("the database's disk is full", f"not run: {lacking}")
        return
    ended = False

    async def fill(made: System, chance: random.Random) -> str:
        nonlocal ended
        await asyncio.sleep(chance.uniform(0.5, 1.5))
        with _filled(made.cluster.data.parent):
            await asyncio.sleep(FULL_SECONDS)
        # PostgreSQL ends where it cannot write its log. To start it again is somebody else's task,
        # RDS's or the reader's of an alarm; the service has to come back by itself.
        ended = not made.cluster.running
        if ended:
            await made.in_thread(made.cluster.start)
        return f"disk full for {FULL_SECONDS:g} s"

    with power.small_disk(directory, DISK_BYTES) as disk:
        async with system(disk, settings=POSTGRESQL) as made:
            report = await mix.run(
                made,
                directory,
                seed=seed,
                acknowledgements=2000,
                faults=1,
                time_limit_seconds=60,
                kinds={fill: 1},
                progress=progress,
            )
    seen(
        f"the database's disk is full for {FULL_SECONDS:g} s",
        f"{report.counts['503']:,} times 503, {len(report.violations)} violations;"
        f" PostgreSQL {'ended' if ended else 'lived on'}",
    )
    assert report.counts["503"] > 0
    assert report.failures(acknowledgements=2000, faults=1) == []
