"""The servers' clocks are set forward and back while they run; the machine's own is left alone."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from payments import auth
from tests.faults import mix
from tests.faults.client import Connection
from tests.faults.conftest import Progress, Seen
from tests.faults.system import System, system

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
STEPS = ("+3600", "-3600", "+0")  # seconds
STEP_SECONDS = 3.0

# Longer than the run, and shorter than a step.
KEY_LIVES = timedelta(minutes=30)


async def test_clock(memory: Path, seed: str, progress: Progress, seen: Seen) -> None:
    if not LIBRARIES:
        seen("the servers' clocks 1 h forward and back", "not run: libfaketime is not installed")
        return
    clock = memory / "clock"
    clock.write_text("+0")
    variables = {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # no clock that is set does change that one
    }
    statuses: list[int] = []
    dates: set[str] = set()

    async def set_clock(made: System, chance: random.Random) -> str:
        async with made.database() as connection:
            end = datetime.now(UTC) + KEY_LIVES
            key = await auth.create_key(connection, "short", auth.SCOPES, end)
        for step in STEPS:
            clock.write_text(step)
            for port in made.ports:
                caller = Connection(port)
                headers = {"Authorization": f"Bearer {key}"}
                answer = await caller.request("GET", "/v1/payments?limit=1", headers)
                caller.close()
                statuses.append(answer.status)
                dates.add(answer.headers["date"].split(":")[0])
            await asyncio.sleep(STEP_SECONDS)
        return f"clocks set to {', '.join(STEPS)} s"

    async with system(memory, variables=variables) as made:
        report = await mix.run(
            made,
            memory,
            seed=seed,
            acknowledgements=1000,
            faults=1,
            time_limit_seconds=60,
            kinds={set_clock: 1},
            progress=progress,
        )
        log = (memory / "servers.log").read_text()
    seen(
        "the servers' clocks 1 h forward and back",
        f"{report.acknowledged:,} acknowledged, {len(report.violations)} violations;"
        f" a key of {KEY_LIVES.seconds // 60} minutes was taken {statuses.count(200)} times"
        f" of {len(statuses)}",
    )
    assert report.failures(acknowledgements=1000, faults=1) == []
    assert statuses == [200] * len(statuses)
    assert len(dates) >= 3  # the clocks were set, indeed
    assert '"duration_ms":-' not in log
