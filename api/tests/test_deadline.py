"""One time limit for many tasks: each ends at its own time, and by nobody else's doing."""

import asyncio
import time

import pytest

from payments.deadline import Deadline
from payments.errors import DeadlineExceeded
from tests import PATIENCE_SECONDS


async def test_each_task_ends_at_its_own_time() -> None:
    deadline = Deadline(0.2)

    async def late() -> float:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded), deadline:
            await asyncio.sleep(60)
        return time.monotonic() - began

    first = asyncio.create_task(late())
    await asyncio.sleep(0.1)
    second = asyncio.create_task(late())
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await first >= 0.19
        assert await second >= 0.19


async def test_one_that_is_in_time_is_left_alone() -> None:
    deadline = Deadline(0.1)
    with deadline:
        await asyncio.sleep(0)
    await asyncio.sleep(0.3)  # the timer of the one that has ended fires, and finds nobody
    with pytest.raises(DeadlineExceeded), deadline:
        await asyncio.sleep(60)


async def test_a_cancellation_from_outside_stays_one() -> None:
    deadline = Deadline(60)

    async def wait() -> None:
        with deadline:
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_fails_by_itself_fails_as_it_did() -> None:
    with pytest.raises(KeyError), Deadline(60):
        raise KeyError


async def test_a_task_can_go_on_after_its_deadline() -> None:
    deadline = Deadline(0.05)
    with pytest.raises(DeadlineExceeded), deadline:
        await asyncio.sleep(60)
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    await asyncio.sleep(0)
