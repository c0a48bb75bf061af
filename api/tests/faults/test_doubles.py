"""The harness itself: a fault that is planted is found, each by what it does to payments."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults import doubles, mix
from tests.faults.conftest import Progress, Seen
from tests.faults.history import Kind
from tests.faults.system import NotReady, System, system
from tests.faults.workload import DEQUEUE_SHARE, HANG_UP_SHARE

NO_UNIQUE_KEY = "DROP INDEX payments_idempotency_key"
KINDS: Mapping[mix.Fault, float] = {
    System.kill_server: 1,
    System.kill_postmaster: 1,
    System.reset: 1,
}


class Planted(NamedTuple):
    """A fault, what is run for it, and how it must be found."""

    finds: Kind
    fault: str | None = None  # in the service
    sql: str = "SELECT"  # in the database
    new_key_each_time: bool = False  # in the callers
    kinds: Mapping[mix.Fault, float] = KINDS  # what shows it
    dequeue_share: float = DEQUEUE_SHARE
    hang_up_share: float = HANG_UP_SHARE
    acknowledgements: int = 600
    drain_seconds: float = mix.DRAIN_SECONDS


PLANTED = {
    "answers before commit": Planted("lost", "answer_before_commit"),
    "no unique key": Planted("doubled", "ignore_keys", NO_UNIQUE_KEY),
    "key in another transaction": Planted("doubled", "keep_keys_apart", doubles.KEYS_TABLE),
    "synchronous_commit off": Planted(
        "lost",
        "say_that_all_is_well",
        # What it writes late is late by a fifth of a second: one end in that time may lose nothing.
        kinds={System.kill_postmaster: 1},
    ),
    "retry with a new key": Planted("doubled", new_key_each_time=True),
    "consumption's key in another transaction": Planted(
        "handed to no caller", "keep_consumption_keys_apart", hang_up_share=0.5
    ),
    "no turns for a consumption's key": Planted(
        "handed to no caller",
        "take_no_turns",
        dequeue_share=0.8,  # the queue must be empty often: then a repeat is told so
        hang_up_share=0.9,
        acknowledgements=1_800,
    ),
    "no walk for late payments": Planted(
        "never handed out",
        "walk_once",
        kinds={System.reset: 1},  # a process that begins again walks
        dequeue_share=0.4,  # positions must pass payments that are not committed yet
        drain_seconds=5,
    ),
}


@pytest.mark.parametrize("name", PLANTED)
async def test_a_planted_fault_is_found(
    memory: Path, seed: str, name: str, progress: Progress, seen: Seen
) -> None:
    planted = PLANTED[name]
    module = ("tests.faults.doubles", planted.fault) if planted.fault else ("payments", "serve")
    async with system(memory, module=module, sql=planted.sql) as made:
        report = await mix.run(
            made,
            memory,
            seed=seed,
            acknowledgements=planted.acknowledgements,
            faults=6,
            time_limit_seconds=60,
            kinds=planted.kinds,
            progress=progress,
            dequeue_share=planted.dequeue_share,
            hang_up_share=planted.hang_up_share,
            new_key_each_time=planted.new_key_each_time,
            drain_seconds=planted.drain_seconds,
        )
    found = [violation for violation in report.violations if violation.kind == planted.finds]
    seen(f"planted: {name}", f"found: {len(found)} {planted.finds} in {report.seconds:.0f} s")
    assert found


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_database_that_could_lose_payments_gets_none(memory: Path, setting: str) -> None:
    with pytest.raises(NotReady, match=f"could lose payments: {setting} is off"):
        async with system(memory, settings={setting: "off"}):
            pass


async def test_too_few_of_them_is_a_failure(memory: Path, seed: str) -> None:
    async with system(memory) as made:
        report = await mix.run(
            made,
            memory,
            seed=seed,
            acknowledgements=1_000_000,
            faults=10,
            time_limit_seconds=1,
        )
    assert [
        reason.split(" ", 1)[1] for reason in report.failures(acknowledgements=1_000_000, faults=10)
    ] == ["acknowledgements, not 1000000", "faults, not 10"]
