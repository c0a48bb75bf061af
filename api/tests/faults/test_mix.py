"""The mix of faults: nothing acknowledged is lost, nothing is done twice, nothing hangs."""

from pathlib import Path

import pytest

from tests.faults import mix
from tests.faults.conftest import Progress, Seen
from tests.faults.system import system


@pytest.mark.timeout(1800)
async def test_mix(directory: Path, seed: str, long: bool, progress: Progress, seen: Seen) -> None:
    acknowledgements, faults, limit_seconds = (100_000, 200, 1500) if long else (5_000, 20, 150)
    async with system(directory) as made:
        report = await mix.run(
            made,
            directory,
            seed=seed,
            acknowledgements=acknowledgements,
            faults=faults,
            time_limit_seconds=limit_seconds,
            progress=progress,
        )
    seen("a mix of faults under load", report.summary())
    assert report.failures(acknowledgements=acknowledgements, faults=faults) == []
