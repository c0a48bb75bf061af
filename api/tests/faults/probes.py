"""What the cluster asks of a server, again and again: is it alive, is it ready?"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from tests.faults.client import Connection, Hangs, NotSent, Unanswered

PERIOD_SECONDS = 0.25

# The chart's timeoutSeconds: a probe that takes longer has failed.
LIVE_SECONDS = 5.0
READY_SECONDS = 2.0


class Probe(NamedTuple):
    """One probe and its answer; 0 is none."""

    began: float  # as time.monotonic()
    seconds: float
    status: int


class Probes:
    """The probes of some servers."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self.live: list[Probe] = []
        self.ready: list[Probe] = []

    async def run(self, until: Callable[[], bool]) -> None:
        """Probes all servers until the condition holds."""
        async with asyncio.TaskGroup() as group:
            for port in self._ports:
                group.create_task(_probe(port, "/livez", self.live, until))
                group.create_task(_probe(port, "/readyz", self.ready, until))

    def not_live(self) -> list[Probe]:
        """Returns the liveness probes that failed."""
        return [probe for probe in self.live if _failed(probe, LIVE_SECONDS)]

    def between(self, since: float, until: float) -> list[Probe]:
        """Returns the readiness probes that began between two times."""
        return [probe for probe in self.ready if since <= probe.began <= until]

    def not_ready(self, since: float, until: float) -> list[Probe]:
        """Returns those of them that failed."""
        return [probe for probe in self.between(since, until) if _failed(probe, READY_SECONDS)]


def _failed(probe: Probe, seconds: float) -> bool:
    return probe.status != 200 or probe.seconds > seconds


async def _probe(port: int, path: str, probes: list[Probe], until: Callable[[], bool]) -> None:
    with closing(Connection(port)) as connection:
        while not until():
            began = time.monotonic()
            try:
                status = (await connection.request("GET", path, {})).status
            except (NotSent, Unanswered, Hangs):
                status = 0
            probes.append(Probe(began, time.monotonic() - began, status))
            await asyncio.sleep(PERIOD_SECONDS)
