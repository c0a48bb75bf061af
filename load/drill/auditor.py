"""`payments audit --serve` beside the servers, in the rules' time.

Run as `python -m drill.auditor`, it is that command, but for the seconds that it gives others'
transactions to end: the drill's are short.
"""

import asyncio
import functools
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from drill.monitoring import SCALE
from laptop.children import prefix
from payments import audit, config, logs, server
from tests.command import free_port
from tests.faults.system import DATABASE, System

PERIOD_SECONDS = 60 / SCALE


class Auditor:
    """The process; it can be killed and started again."""

    def __init__(self, system: System, log: Path) -> None:
        self.port = free_port()
        self._system = system
        self._log = log
        self._process: Process | None = None

    async def start(self) -> None:
        """Starts it."""
        variables = {
            "PAYMENTS_DATABASE_URL": self._system.cluster.url(DATABASE, "payments_app"),
            "PAYMENTS_HTTP_HOST": "127.0.0.1",
            "PAYMENTS_SHUTDOWN_DELAY_SECONDS": "0",
            "PAYMENTS_HTTP_PORT": str(self.port),
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH")},
        }
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *prefix("KILL"),
                *(sys.executable, "-m", "drill.auditor"),
                env=variables,
                stdout=log,
                stderr=log,
            )

    async def kill(self) -> None:
        """Kills it with SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def auditing(system: System, log: Path) -> AsyncIterator[Auditor]:
    """Runs it until the end of the block."""
    auditor = Auditor(system, log)
    await auditor.start()
    try:
        yield auditor
    finally:
        await auditor.kill()


if __name__ == "__main__":
    settings = config.load(os.environ)
    logs.configure(settings)
    slow = audit.Auditor
    audit.Auditor = functools.partial(slow, lag=audit.LAG / SCALE)  # type: ignore[misc, assignment]
    port = config.variable("http_port")
    listener = server.listen(settings.http_host, settings.http_port, port)
    sys.exit(server.run(audit.Application(settings, PERIOD_SECONDS), settings, listener))
