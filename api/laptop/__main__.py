"""`make run`: PostgreSQL and the server, until Ctrl-C, SIGTERM, or the end of one of the two."""

import argparse
import asyncio
import contextlib
import http.client
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import asyncpg
import psutil

from laptop import files
from laptop.children import environment, prefix, wait_until
from laptop.lock import AlreadyRunning
from laptop.postgres import Cluster, ClusterError
from payments import auth, migrate

HOST = "127.0.0.1"
DATABASE = "payments"
CLIENT = "laptop"
CHECKOUT = Path(__file__).resolve().parents[2]
SERVER = Path(sysconfig.get_path("scripts")) / "payments"

WATCH_SECONDS = 0.2
READY_TIMEOUT_SECONDS = 30.0

# The launcher before us may just have been told to stop, because its `make` was killed.
LOCK_PATIENCE_SECONDS = 3.0

# Requests that run when Ctrl-C is pressed get this long; in production it is longer.
SHUTDOWN_TIMEOUT_SECONDS = 5
KILL_AFTER_SECONDS = SHUTDOWN_TIMEOUT_SECONDS + 5

READY = """
The payments API is ready.

  API        {url}/v1/payments
  Docs       {url}/docs
  Metrics    http://{host}:{metrics_port}/metrics
  API key    {key}

Create a payment:

  {curl}

Tell the command `payments` where the database is:

  export PAYMENTS_DATABASE_URL='{database}'

Ctrl-C stops it; the data stays in {data}.
"""

CURL = (
    "curl -H \"Authorization: Bearer $(cat {key})\" -H 'Content-Type: application/json'"
    " -H 'Idempotency-Key: A-1'"
    ' -d \'{{"payment": "12345.67", "data": {{"order": "A-1"}}}}\' {url}/v1/payments'
)


class LaunchError(Exception):
    """The service does not run, or runs no more; the message says why."""


class Options(NamedTuple):
    """What the command line says."""

    port: int
    metrics_port: int
    data: Path

    @property
    def key(self) -> Path:
        """The file with the API key."""
        return self.data / "api-key"

    @property
    def server(self) -> Path:
        """The file with the pid of the server."""
        return self.data / "server.pid"


def main() -> int:
    """Runs the service; returns the exit status."""
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _run(options)
    except KeyboardInterrupt:
        print(f"Stopped; the data is in {options.data}.", flush=True)
    except AlreadyRunning as error:
        print(f"make run is {error}; end that one first", file=sys.stderr)
        return 1
    except (LaunchError, ClusterError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        # Of a file: others are no answers to what the caller did.
        if error.filename is None:
            raise
        print(
            f"{error.filename} cannot be used ({error.strerror}): make run keeps its data in"
            f" {options.data}, a directory of its own that this user can write",
            file=sys.stderr,
        )
        return 1
    return 0


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m laptop", description=__doc__)
    parser.add_argument("--port", type=_port("PORT"), default=8000)
    parser.add_argument("--metrics-port", type=_port("METRICS_PORT"), default=9464)
    parser.add_argument(
        "--data", type=Path, default=CHECKOUT / ".data", help="directory of all data"
    )
    values = parser.parse_args()
    if values.port == values.metrics_port:
        parser.error(f"PORT and METRICS_PORT are both {values.port}")
    return Options(values.port, values.metrics_port, values.data.resolve())


def _port(name: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
            raise argparse.ArgumentTypeError(f"{name}={text} is no port: give 1 to 65535")
        return int(text)

    return parse


def _run(options: Options) -> None:
    options.data.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(options.data / "postgres")
    cluster.lock(LOCK_PATIENCE_SECONDS)
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.stop)
        _end_orphan(options.server)
        _check_ports(options)
        cluster.start()
        asyncio.run(_prepare(cluster, options.key))
        server = stack.enter_context(_serving(cluster, options))
        _wait_until_ready(server, options)
        print(_ready_text(cluster, options), flush=True)
        _watch(server, cluster)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Begins the end, once: a second Ctrl-C must not cut off the database's own shutdown."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_orphan(record: Path) -> None:
    """Ends the server of an earlier run whose launcher was killed, so that its ports are free."""
    if not record.exists():
        return
    try:
        process = psutil.Process(int(record.read_text()))
        if str(SERVER) in process.cmdline():
            process.terminate()
            if not wait_until(lambda: _is_dead(process), KILL_AFTER_SECONDS):
                process.kill()
                wait_until(lambda: _is_dead(process), KILL_AFTER_SECONDS)
    except (ValueError, psutil.Error):
        pass  # it is gone, or the number now belongs to another program
    record.unlink()


def _is_dead(process: psutil.Process) -> bool:
    # In a container nobody may take notice of the dead, so that they stay as zombies.
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _check_ports(options: Options) -> None:
    for name, port in (("PORT", options.port), ("METRICS_PORT", options.metrics_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise LaunchError(
                    f"port {port} cannot be used ({error.strerror}):"
                    f" choose another one with `make run {name}=…`"
                ) from None


async def _prepare(cluster: Cluster, key: Path) -> None:
    """Brings the database to this version of the service, and the key's file to the database."""
    await _create_database(cluster.url())
    try:
        await migrate.apply_roles(cluster.url(DATABASE))
        await migrate.migrate(cluster.url(DATABASE, "payments_migrator"), report=_say)
    except migrate.MigrationError as error:
        raise LaunchError(f"the database cannot be migrated: {error}") from None
    await _keep_key(cluster.url(DATABASE), key)


async def _create_database(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        there = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
        if not await connection.fetchval(there, DATABASE):
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
    finally:
        await connection.close()


async def _keep_key(url: str, file: Path) -> None:
    """Makes a key with all scopes, unless the one in the file is still good."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        key = _read_private(file)
        if key and await auth.is_live(connection, key):
            return
        # Whoever lost the file cannot use its key any more, and a client has few.
        for row in await auth.list_keys(connection):
            if row["client"] == CLIENT:
                await auth.revoke_key(connection, row["id"])
        key = await auth.create_key(connection, CLIENT, auth.SCOPES)
        files.replace(file, f"{key}\n", mode=0o600)
    finally:
        await connection.close()


def _read_private(file: Path) -> str:
    if not file.exists():
        return ""
    file.chmod(0o600)
    return file.read_text(errors="replace").strip()


@contextlib.contextmanager
def _serving(cluster: Cluster, options: Options) -> Iterator[subprocess.Popen[bytes]]:
    server = subprocess.Popen(
        [*prefix("TERM"), sys.executable, str(SERVER), "serve"],
        env=_environment(cluster, options),
        stdin=subprocess.DEVNULL,
        # Ctrl-C goes to all processes of a terminal; the server is to be told by us alone.
        start_new_session=True,
    )
    try:
        options.server.write_text(f"{server.pid}\n")
        yield server
    finally:
        server.terminate()
        try:
            server.wait(KILL_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        options.server.unlink(missing_ok=True)


def _environment(cluster: Cluster, options: Options) -> dict[str, str]:
    return {
        "PAYMENTS_SHUTDOWN_TIMEOUT_SECONDS": str(SHUTDOWN_TIMEOUT_SECONDS),
        **environment(cluster.url(DATABASE, "payments_app")),
        "PAYMENTS_HTTP_HOST": HOST,
        "PAYMENTS_HTTP_PORT": str(options.port),
        "PAYMENTS_METRICS_PORT": str(options.metrics_port),
        "PAYMENTS_SHUTDOWN_DELAY_SECONDS": "0",
    }


def _wait_until_ready(server: subprocess.Popen[bytes], options: Options) -> None:
    if not wait_until(
        lambda: server.poll() is not None or _is_ready(options.port), READY_TIMEOUT_SECONDS
    ):
        raise LaunchError(f"the server is not ready in {READY_TIMEOUT_SECONDS:.0f} s")
    if server.poll() is not None:
        raise LaunchError(f"the server did not start (exit status {server.returncode})")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _ready_text(cluster: Cluster, options: Options) -> str:
    url, key = f"http://{HOST}:{options.port}", shlex.quote(str(options.key))
    return READY.format(
        url=url,
        host=HOST,
        metrics_port=options.metrics_port,
        key=options.key,
        database=cluster.url(DATABASE),
        curl=CURL.format(key=key, url=url),
        data=options.data,
    )


def _watch(server: subprocess.Popen[bytes], cluster: Cluster) -> None:
    while True:
        if server.poll() is not None:
            raise LaunchError(f"the server ended by itself (exit status {server.returncode})")
        if not cluster.running:
            raise LaunchError(f"PostgreSQL ended by itself; its log is {cluster.log}")
        time.sleep(WATCH_SECONDS)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
