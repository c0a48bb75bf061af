"""More requests than the service can take: it does what it can, and refuses the rest at once.

The load is an open model: requests come at their rate, whether or not others were answered. For a
driver in one process to be three times as fast as the service, the service is made slow: statements
of few rows, on a database that takes its time for each.
"""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.client import Connection, Hangs, NotSent, Unanswered
from tests.faults.conftest import Seen
from tests.faults.probes import Probes
from tests.faults.system import System, system

pytestmark = pytest.mark.long

TICK_SECONDS = 0.01
BODY = json.dumps({"payment": 1, "data": {}}).encode()

SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END';
CREATE TRIGGER slow BEFORE INSERT ON payments EXECUTE FUNCTION slow()
"""
VARIABLES = {"PAYMENTS_BATCH_SIZE": "8", "PAYMENTS_BATCH_QUEUE_LIMIT": "200"}

CLOSED_CALLERS = 100
OVERLOAD = 3.0
GOODPUT = 0.9
REFUSED_SECONDS = 0.05
NORMAL_AFTER_SECONDS = 10.0


class Sent(NamedTuple):
    """A request, and how it was answered; status 0 is not at all."""

    began: float
    seconds: float
    status: int
    retry_after: bool


class Load:
    """Sends creations to one server, and keeps its connections open."""

    def __init__(self, made: System) -> None:
        self._port = made.ports[0]
        self._headers = {"Authorization": f"Bearer {next(iter(made.keys.values()))}"}
        self._idle: list[Connection] = []
        self.sent: list[Sent] = []

    async def send(self) -> None:
        """Sends one."""
        connection = self._idle.pop() if self._idle else Connection(self._port)
        began, status, retry_after = time.monotonic(), 0, False
        try:
            answer = await connection.request("POST", "/v1/payments", self._headers, BODY)
            status, retry_after = answer.status, "retry-after" in answer.headers
        except (NotSent, Unanswered, Hangs):
            pass  # counted as status 0
        self.sent.append(Sent(began, time.monotonic() - began, status, retry_after))
        self._idle.append(connection)

    async def closed(self, callers: int, seconds: float) -> list[Sent]:
        """Lets callers send, each as soon as it is answered; returns what they sent."""
        end, first = time.monotonic() + seconds, len(self.sent)

        async def call() -> None:
            while time.monotonic() < end:
                await self.send()

        await asyncio.gather(*(call() for _ in range(callers)))
        return self.sent[first:]

    async def open(self, rate: float, seconds: float) -> list[Sent]:
        """Sends at a rate per second, whatever becomes of it; returns what was sent."""
        began, first, due = time.monotonic(), len(self.sent), 0
        async with asyncio.TaskGroup() as group:
            while (passed := time.monotonic() - began) < seconds:
                while due < passed * rate:
                    group.create_task(self.send())
                    due += 1
                await asyncio.sleep(TICK_SECONDS)
        return self.sent[first:]

    def close(self) -> None:
        """Closes the connections."""
        for connection in self._idle:
            connection.close()


@asynccontextmanager
async def _load(made: System) -> AsyncIterator[Load]:
    load = Load(made)
    try:
        yield load
    finally:
        load.close()


def _goodput(sent: list[Sent]) -> float:
    """Returns the creations a second, from the first request to the last one's answer."""
    ends = [one.began + one.seconds for one in sent]
    made = sum(one.status == 201 for one in sent)
    return made / (max(ends) - min(one.began for one in sent))


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]


async def test_overload(memory: Path, seen: Seen) -> None:
    over = asyncio.Event()
    async with (
        system(memory, sql=SLOW, variables=VARIABLES) as made,
        _load(made) as load,
        asyncio.TaskGroup() as group,
    ):
        probes = Probes(made.ports[:1])
        group.create_task(probes.run(over.is_set))
        peak = _goodput(await load.closed(CLOSED_CALLERS, 4))
        flood = await load.open(OVERLOAD * peak, 8)
        ended = time.monotonic()
        after = await load.open(peak / 2, NORMAL_AFTER_SECONDS + 2)
        over.set()
    goodput = _goodput(flood)
    refused = [one.seconds for one in flood if one.status == 503 and one.retry_after]
    others = [one for one in flood if one.status != 201 and not one.retry_after]
    late = [one.began + one.seconds for one in after if one.status != 201 or one.seconds > 1]
    normal = max(late, default=ended) - ended
    seen(
        f"{OVERLOAD:g} times the capacity for 8 s",
        f"goodput {goodput / peak:.0%} of {peak:.0f}/s, {len(refused):,} of {len(flood):,} refused,"
        f" p99 {_p99(refused) * 1000:.0f} ms; normal again after {normal:.1f} s;"
        f" {len(probes.live)} liveness probes, {len(probes.not_live())} failed",
    )
    assert goodput >= GOODPUT * peak
    assert others == []
    assert len(refused) > len(flood) / 3
    assert _p99(refused) < REFUSED_SECONDS
    assert normal < NORMAL_AFTER_SECONDS
    assert probes.not_live() == []
