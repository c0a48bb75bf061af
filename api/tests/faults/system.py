"""What is under test: servers as processes, each with its network, on one PostgreSQL."""

import asyncio
import os
import random
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeVar

import asyncpg
import psutil

from laptop.children import prefix
from laptop.postgres import Cluster
from payments import auth, migrate
from tests.command import free_port, sockets
from tests.faults.client import Connection, NotSent, Unanswered
from tests.faults.history import ROWS
from tests.faults.proxy import Direction, Proxy

DATABASE = "payments"
CLIENTS = ("shop", "till", "desk", "kiosk")
SERVERS = 2
READY_SECONDS = 30.0

Result = TypeVar("Result")


class NotReady(Exception):
    """A server does not become ready; the message is its own."""


class System:
    """Servers on one PostgreSQL, each behind a proxy of its own; every fault is a method.

    PostgreSQL is started from a thread of its own that lives as long as this, since a start blocks.
    """

    def __init__(
        self, cluster: Cluster, module: Sequence[str], variables: Mapping[str, str], log: Path
    ) -> None:
        self.cluster = cluster
        self.primary = cluster  # where the truth is: after a failover, another one
        self.keys: dict[str, str] = {}
        self.ports = [free_port() for _ in range(SERVERS)]
        self.metrics_ports = [free_port() for _ in range(SERVERS)]
        self.ended: list[str] = []  # servers that ended without having been killed
        self.proxies: list[Proxy] = []
        self._processes: list[Process] = []
        self._command = [*prefix("KILL"), sys.executable, "-m", *module]
        self._variables = variables
        self._log = log
        self._thread = ThreadPoolExecutor(1)

    @property
    def pids(self) -> list[int]:
        """The servers' process ids."""
        return [process.pid for process in self._processes]

    async def in_thread(self, call: Callable[[], Result]) -> Result:
        """Runs what blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def prepare(self, sql: str = "SELECT") -> None:
        """Makes the database and the clients' keys; `sql` is what a double wants changed in it."""
        administrator = await asyncpg.connect(self.cluster.url())
        await administrator.execute(f"CREATE DATABASE {DATABASE}")
        await administrator.close()
        await migrate.apply_roles(self.cluster.url(DATABASE))
        await migrate.migrate(self.cluster.url(DATABASE, "payments_migrator"))
        async with self.database() as connection:
            await connection.execute(sql)
            self.keys = {
                name: await auth.create_key(connection, name, auth.SCOPES) for name in CLIENTS
            }
            # A double whose PostgreSQL writes late must not lose this as well, or none is ready.
            await connection.execute("CHECKPOINT")

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        """Lends an administrator's connection, past the proxies."""
        connection = await asyncpg.connect(self.primary.url(DATABASE))
        try:
            yield connection
        finally:
            await connection.close()

    async def rows(self) -> list[asyncpg.Record]:
        """Returns all payments as they are."""
        async with self.database() as connection:
            return await connection.fetch(ROWS)

    async def is_drained(self) -> bool:
        """Returns whether no payment is left to be consumed."""
        async with self.database() as connection:
            left = "SELECT FROM payments WHERE status = 'inserted' AND deleted_at IS NULL"
            return not await connection.fetchval(f"SELECT EXISTS ({left})")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Runs the servers until the end of the block.

        Raises:
            NotReady: one does not become ready.
        """
        async with AsyncExitStack() as stack:
            for _ in range(SERVERS):
                proxy = await stack.enter_async_context(Proxy(socket_of(self.cluster)).running())
                self.proxies.append(proxy)
            try:
                for number in range(SERVERS):
                    self._processes.append(await self._launch(number))
                await self.wait_until_ready()
                yield self
            finally:
                self.look()
                for process in self._processes:
                    with suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()

    async def wait_until_ready(self) -> None:
        """Returns once every server is ready.

        Raises:
            NotReady: one does not become so in time.
        """
        for port in self.ports:
            deadline = time.monotonic() + READY_SECONDS
            with closing(Connection(port)) as connection:
                said = "nothing"
                while True:
                    with suppress(NotSent, Unanswered):
                        answer = await connection.request("GET", "/readyz", {})
                        if answer.status == 200:
                            break
                        said = answer.body.decode()
                    if time.monotonic() > deadline or "could lose" in said:
                        raise NotReady(said)
                    await asyncio.sleep(0.05)

    async def _launch(self, number: int) -> Process:
        variables = {
            "PAYMENTS_DATABASE_URL": (
                f"postgresql://payments_app@127.0.0.1:{self.proxies[number].port}/{DATABASE}"
            ),
            "PAYMENTS_HTTP_HOST": "127.0.0.1",
            "PAYMENTS_HTTP_PORT": str(self.ports[number]),
            "PAYMENTS_METRICS_PORT": str(self.metrics_ports[number]),
            "PAYMENTS_SHUTDOWN_DELAY_SECONDS": "0",
            **self._variables,
        }
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *self._command,
                env={"PATH": os.environ["PATH"], **variables},
                stdout=log,
                stderr=log,
            )

    def look(self) -> None:
        """Notes each server that has ended by itself."""
        for number, process in enumerate(self._processes):
            if process.returncode is not None:
                self.ended.append(f"server {number} ended with {process.returncode}")

    # The faults. Each ends the processes that this object started, by pid, and heals what it did.

    async def kill_server(self, chance: random.Random) -> str:
        """Kills a server with SIGKILL and starts it again."""
        self.look()
        number = chance.randrange(SERVERS)
        process = self._processes[number]
        process.kill()
        await process.wait()
        self._processes[number] = await self._launch(number)
        return f"kill -9 of server {number}"

    @asynccontextmanager
    async def without_servers(self) -> AsyncIterator[None]:
        """Kills all servers with SIGKILL, and starts them again at the end of the block."""
        self.look()
        for process in self._processes:
            process.kill()
            await process.wait()
        yield
        for number in range(SERVERS):
            self._processes[number] = await self._launch(number)

    async def kill_postmaster(self, chance: random.Random) -> str:
        """Kills PostgreSQL's first process; its children may finish what they have begun."""
        os.kill(self.cluster.pid, signal.SIGKILL)
        await asyncio.sleep(chance.uniform(0, 0.5))
        while self.cluster.running:  # noqa: ASYNC110 - a killed process takes a moment to end
            await asyncio.sleep(0.001)
        await self.in_thread(self.cluster.start)
        return "kill -9 of PostgreSQL"

    async def kill_backend(self, chance: random.Random) -> str:
        """Kills one of PostgreSQL's other processes, so that it ends all and recovers."""
        children = psutil.Process(self.cluster.pid).children()
        chance.choice(children).kill()
        await asyncio.sleep(chance.uniform(0.2, 0.6))
        return "kill -9 of a PostgreSQL process"

    async def stop_postgres(self, chance: random.Random) -> str:
        """Stops PostgreSQL (SIGSTOP) for up to 4 s, longer than a statement may take."""
        seconds = chance.uniform(0.1, 4)
        postmaster = psutil.Process(self.cluster.pid)
        processes = [postmaster, *postmaster.children()]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            await asyncio.sleep(seconds)
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        return f"SIGSTOP of PostgreSQL, {seconds:.1f} s"

    async def reset(self, chance: random.Random) -> str:
        """Resets all connections of a server to PostgreSQL."""
        chance.choice(self.proxies).reset()
        return "connections reset"

    async def blackhole(self, chance: random.Random) -> str:
        """Lets nothing through between a server and PostgreSQL, one way or both, for up to 4 s."""
        seconds = chance.uniform(0.1, 4)
        directions: list[Direction] = chance.choice(
            [["requests"], ["answers"], ["requests", "answers"]]
        )
        proxy = chance.choice(self.proxies)
        proxy.blackhole(directions)
        await asyncio.sleep(seconds)
        if chance.random() < 0.5:
            proxy.reset()  # the connections are dead for good
        proxy.heal()
        return f"blackhole for {' and '.join(directions)}, {seconds:.1f} s"


def socket_of(cluster: Cluster) -> Path:
    """Returns the socket that a PostgreSQL listens on."""
    return sockets(cluster) / ".s.PGSQL.5432"


@asynccontextmanager
async def system(
    directory: Path,
    *,
    module: Sequence[str] = ("payments", "serve"),
    settings: Mapping[str, str] = MappingProxyType({}),
    sql: str = "SELECT",
    variables: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[System]:
    """Makes a PostgreSQL in a directory, and runs servers on it until the end of the block.

    `module` is what Python runs as a server, and its arguments; `variables` are its environment's,
    `settings` are PostgreSQL's, and `sql` is run in the new database.
    """
    cluster, log = Cluster(directory / "data", settings), directory / "servers.log"
    made = System(cluster, module, variables, log)
    await made.in_thread(made.cluster.start)
    try:
        await made.prepare(sql)
        async with made.serving():
            yield made
    finally:
        await made.in_thread(made.cluster.stop)
        made._thread.shutdown()
