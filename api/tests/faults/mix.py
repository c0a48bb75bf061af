"""A seeded mix of faults under load, and the reckoning after it."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from tests.faults.history import History, Kind, Violation, compare
from tests.faults.system import System
from tests.faults.workload import DEQUEUE_SHARE, HANG_UP_SHARE, Workload

CALLERS = 48
SETTLE_SECONDS = 120.0

# A process looks for payments before its position again after 20 times as long as the last look
# took, which a fault can make 4 s.
DRAIN_SECONDS = 100.0

Fault = Callable[[System, random.Random], Coroutine[Any, Any, str]]

# How often each comes, relative to the others.
FAULTS: Mapping[Fault, float] = {
    System.kill_server: 3,
    System.kill_postmaster: 3,
    System.kill_backend: 2,
    System.reset: 3,
    System.blackhole: 2,
    System.stop_postgres: 2,
}


class Report(NamedTuple):
    """What a mix of faults came to."""

    acknowledged: int
    faults: Counter[str]
    counts: Counter[str]
    violations: list[Violation]
    slowest_seconds: float
    made: dict[int, list[float]]
    seconds: float

    def summary(self) -> str:
        """Returns the figures in one line."""
        kinds = Counter(violation.kind for violation in self.violations)
        wrong = [f"{kinds[kind]} {kind}" for kind in get_args(Kind)]
        faults = [f"{number} {name.replace('_', ' ')}" for name, number in self.faults.items()]
        return (
            f"{self.acknowledged:,} acknowledged creations and consumptions over"
            f" {self.faults.total()} faults ({', '.join(faults)}): {', '.join(wrong)};"
            f" {self.counts['settled']:,} calls in doubt settled;"
            f" slowest answer {self.slowest_seconds:.1f} s; {self.seconds:.0f} s in all"
        )

    def failures(self, *, acknowledgements: int, faults: int) -> list[str]:
        """Returns why the run is no proof, or that it disproves."""
        reasons = [f"{violation.kind}: {violation.what}" for violation in self.violations]
        if self.acknowledged < acknowledgements:
            reasons.append(f"{self.acknowledged} acknowledgements, not {acknowledgements}")
        if self.faults.total() < faults:
            reasons.append(f"{self.faults.total()} faults, not {faults}")
        return reasons


async def run(
    system: System,
    directory: Path,
    *,
    seed: str,
    acknowledgements: int,
    faults: int,
    time_limit_seconds: float,
    kinds: Mapping[Fault, float] = FAULTS,
    dequeue_share: float = DEQUEUE_SHARE,
    hang_up_share: float = HANG_UP_SHARE,
    new_key_each_time: bool = False,
    drain_seconds: float = DRAIN_SECONDS,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Puts load on the system while faults come, one after the other; then compares.

    It ends when there are enough acknowledgements and faults, or when its time is up: the report
    then shows too few.
    """
    history = History(directory / "history.jsonl")
    workload = Workload(
        history,
        system.ports,
        system.keys,
        seed,
        dequeue_share=dequeue_share,
        hang_up_share=hang_up_share,
        new_key_each_time=new_key_each_time,
    )
    done: Counter[str] = Counter()
    began = time.monotonic()
    over = asyncio.Event()
    with contextlib.closing(history):
        async with asyncio.TaskGroup() as group:
            group.create_task(workload.run(CALLERS, over.is_set))
            chance = random.Random(seed)
            for number in range(1, faults + 1):
                # Between two faults the service has to have worked: each meets a load.
                enough = acknowledgements * number / faults
                if not await _reaches(history, enough, began + time_limit_seconds):
                    break
                await asyncio.sleep(chance.uniform(0, 0.2))
                (fault,) = chance.choices([*kinds], [*kinds.values()])
                history.note("fault", name=fault.__name__)
                what = await fault(system, chance)
                history.note("healed", what=what)
                done[fault.__name__] += 1
                progress(f"{number}/{faults} {what}; {history.acknowledged} acknowledged")
            over.set()
        await system.wait_until_ready()
        with contextlib.suppress(TimeoutError):  # what is not settled is found below
            async with asyncio.timeout(SETTLE_SECONDS):
                await workload.settle(CALLERS)
            async with asyncio.timeout(drain_seconds):
                await workload.drain(CALLERS, system.is_drained)
        compare(history, await system.rows())
        system.look()
        for ended in system.ended:
            history.violate("hangs", ended)
    return Report(
        history.acknowledged,
        done,
        history.counts,
        history.violations,
        history.slowest_seconds,
        history.made,
        time.monotonic() - began,
    )


async def _reaches(history: History, acknowledged: float, deadline: float) -> bool:
    while history.acknowledged < acknowledged and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return history.acknowledged >= acknowledged
