"""What tests share: one PostgreSQL a session, a database of their own, and a real server on it."""

import asyncio
import json
import re
import shutil
import tempfile
import threading
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec
import pytest
import uvloop

from laptop.postgres import Cluster
from payments import auth, config, migrate
from payments.app import Application
from payments.server import Server, listen
from tests import PATIENCE_SECONDS, command
from tests.command import Image, free_port, launch
from tests.pooler import Poolers

pytest_plugins = ["leaks"]

TEMPLATE = "payments_template"
CLIENT = "shop"

# The service's own waits where a test is not about them: on a busy machine it would answer 503.
PATIENT = {
    "connect_timeout_seconds": 30.0,
    "acquire_timeout_seconds": 31.0,
    "lock_timeout_seconds": 24.0,
    "statement_timeout_seconds": 25.0,
    "command_timeout_seconds": 26.0,
    "request_timeout_seconds": 58.0,
    "ready_timeout_seconds": 30.0,
    "shutdown_timeout_seconds": 60.0,
}

# Where a statement is to give up soon: it waits for a lock that nobody releases.
IMPATIENT = {
    "lock_timeout_seconds": 0.3,
    "statement_timeout_seconds": 10.0,
    "command_timeout_seconds": 11.0,
}


# Who uses one of these talks to the service as its clients and operators do.
FROM_OUTSIDE = {"start", "api", "shared", "command"}

# What an image can get wrong is tested in these files; the others ask the same code as without an
# image. Of those, only tests of the shared service run on it: one container answers them all.
FILES_FOR_IMAGE = {
    "test_access.py",  # every route
    "test_cli.py",  # every command
    "test_docs_page.py",  # files of a package that the image thins out
    "test_iam.py",  # TLS, and requests of AWS
    "test_image.py",
    "test_metrics.py",  # the second port
    "test_smoke.py",  # what checks a deployed service
    "test_tracing.py",  # packages that are imported only where traces are sent
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--image`: what talks to the service from outside runs, on a container of this image.

    And `--pooler`: the service reaches PostgreSQL through PgBouncer.
    """
    parser.addoption("--image", help="name of the image that the service is run from")
    parser.addoption("--pooler", action="store_true", help="put PgBouncer before the database")


def pytest_configure(config: pytest.Config) -> None:
    """Names the image, in each worker."""
    if name := config.getoption("--image"):
        command.image = Image(name)


def pytest_report_header() -> str | None:
    """Tells what the tests run against."""
    return f"image: {command.image.name}" if command.image else None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out the tests of the image itself where there is none."""
    return True if collection_path.name == "test_image.py" and command.image is None else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what does not use the image, or what no pooler can be before."""
    if config.getoption("--pooler"):
        left_out = [item for item in items if item.get_closest_marker("direct")]
    elif command.image is not None:
        left_out = [item for item in items if not _is_for_image(item)]
    else:
        return
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
    if command.image is None:
        return
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    if whole and (lost := FILES_FOR_IMAGE - {item.path.name for item in items}):
        raise pytest.UsageError(f"no test of {', '.join(sorted(lost))} uses the image")


def _is_for_image(item: pytest.Item) -> bool:
    used = FROM_OUTSIDE.intersection(getattr(item, "fixturenames", ()))
    if not used or item.get_closest_marker("in_process"):
        return False
    return used == {"shared"} or item.path.name in FILES_FOR_IMAGE


@pytest.fixture(autouse=True)
def _image_is_used() -> Iterator[None]:
    """Holds each test that `--image` runs to having used the image."""
    image = command.image
    before = image.uses if image else 0
    yield
    assert image is None or image.uses > before, "mark this test as in_process"


@pytest.fixture(name="command")
def _command() -> None:
    """Tells that a test runs the command `payments`."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop that the service runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, session_directory: Path) -> Iterator[Cluster]:
    """A PostgreSQL with the migrated template database."""
    with tempfile.TemporaryDirectory(
        prefix=f"{session_directory.name}-", dir=fast_directory(), ignore_cleanup_errors=True
    ) as directory:
        cluster = Cluster(Path(directory) / "data")
        cluster.start()
        try:
            asyncio.run(_make_template(cluster))
            with command.visible(command.sockets(cluster)), ExitStack() as stack:
                if request.config.getoption("--pooler"):
                    command.poolers = Poolers(cluster, stack)
                yield cluster
            left = asyncio.run(_databases(cluster))
        finally:
            cluster.stop()
    assert left == {"postgres", TEMPLATE}, f"the tests left behind databases: {left}"


def fast_directory() -> str | None:
    """Returns a directory in memory if there is a large one: a copy of a database costs a tenth."""
    memory = Path("/dev/shm")  # noqa: S108 - a directory of its own is made in it
    large = memory.is_dir() and shutil.disk_usage(memory).free > 2 * 1024**3
    return str(memory) if large else None


async def _make_template(cluster: Cluster) -> None:
    connection = await asyncpg.connect(cluster.url("postgres", "postgres"))
    await connection.execute(f"CREATE DATABASE {TEMPLATE}")
    await connection.close()
    await migrate.apply_roles(cluster.url(TEMPLATE, "postgres"), environment="dev")
    await migrate.migrate(cluster.url(TEMPLATE, "payments_migrator"))


async def _databases(cluster: Cluster) -> set[str]:
    connection = await asyncpg.connect(cluster.url("postgres", "postgres"))
    rows = await connection.fetch("SELECT datname FROM pg_database WHERE NOT datistemplate")
    await connection.close()
    return {row["datname"] for row in rows}


class Database:
    """A test's own database."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def url(self, user: str = "payments_app") -> str:
        """Returns the URL for a role."""
        return self.cluster.url(self.name, user)

    @asynccontextmanager
    async def connect(self, user: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        """Lends a connection of its own."""
        connection = await asyncpg.connect(self.url(user))
        try:
            yield connection
        finally:
            await connection.close()

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Runs one statement as the administrator."""
        async with self.connect() as connection:
            return await connection.fetch(sql, *arguments)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Ends all connections to the database, and has it refuse new ones."""
        administrator = await asyncpg.connect(self.cluster.url("postgres", "postgres"))
        try:
            await administrator.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false")
            await administrator.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1",
                self.name,
            )
            yield
        finally:
            await administrator.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true")
            await administrator.close()

    async def key(self, client: str = CLIENT, scopes: tuple[str, ...] = auth.SCOPES) -> str:
        """Makes a key."""
        async with self.connect() as connection:
            return await auth.create_key(connection, client, scopes)


_numbers = count(1)


@asynccontextmanager
async def copy(cluster: Cluster) -> AsyncIterator[Database]:
    """Lends a copy of the template."""
    name = f"test_{next(_numbers)}"
    administrator = await asyncpg.connect(cluster.url("postgres", "postgres"))
    await administrator.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY wal_log")
    # Privileges on a database are not copied with it: these are those of roles.sql.
    await administrator.execute(
        f"ALTER DATABASE {name} OWNER TO payments_owner;"
        f" REVOKE ALL ON DATABASE {name} FROM PUBLIC;"
        f" GRANT CONNECT ON DATABASE {name} TO payments_migrator, payments_app"
    )
    try:
        yield Database(cluster, name)
    finally:
        await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await administrator.close()


@pytest.fixture
async def database(cluster: Cluster) -> AsyncIterator[Database]:
    """A database of the test's own."""
    async with copy(cluster) as database:
        yield database


@pytest.fixture
async def empty(cluster: Cluster) -> AsyncIterator[Database]:
    """A database with the roles and nothing else."""
    administrator = await asyncpg.connect(cluster.url("postgres", "postgres"))
    await administrator.execute("CREATE DATABASE empty")
    try:
        await migrate.apply_roles(cluster.url("empty", "postgres"))
        yield Database(cluster, "empty")
    finally:
        await administrator.execute("DROP DATABASE empty WITH (FORCE)")
        await administrator.close()


def settings_for(database: Database, **changes: Any) -> config.Settings:
    """Returns settings for a server that ends at once."""
    settings = config.check(
        config.Settings(
            **{
                "database_url": database.url(),
                "http_host": "127.0.0.1",
                "http_port": 0,
                "shutdown_delay_seconds": 0,
                **PATIENT,
                **changes,
            }
        )
    )
    return command.poolers.before(settings) if command.poolers else settings


@asynccontextmanager
async def serve(
    settings: config.Settings, application: Application | None = None
) -> AsyncIterator[str]:
    """Runs the service on a free port, in this process or from the image; gives its URL."""
    if command.image is not None and application is None:
        async with _serve_image(settings) as url:
            yield url
        return
    listener = listen(settings.http_host, settings.http_port, "PAYMENTS_HTTP_PORT")
    server = Server(application or Application(settings), settings, listener)
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if task.done():
                await task
                raise RuntimeError("the server ended before it started")
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.begin_shutdown()
        await task


@asynccontextmanager
async def _serve_image(settings: config.Settings) -> AsyncIterator[str]:
    values = msgspec.structs.asdict(settings) | {"metrics_port": 0}
    variables = {config.variable(name): str(value) for name, value in values.items()}
    process = await launch("serve", variables=variables, stderr=asyncio.subprocess.STDOUT)
    assert process.stdout is not None
    log = b""
    while not (listening := re.search(rb"Listening on .*, port (\d+)", log)):
        line = await process.stdout.readline()
        assert line, log.decode()
        log += line
    rest = asyncio.create_task(process.stdout.read())
    try:
        yield f"http://127.0.0.1:{int(listening[1])}"
    finally:
        process.terminate()
        log += await rest
        assert await process.wait() == 0, log.decode()


@asynccontextmanager
async def serve_process(
    database: Database,
    variables: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] = DEVNULL,
) -> AsyncIterator[tuple[str, str, Process]]:
    """Runs `payments serve`; gives the URLs of the API and of the metrics, and the process."""
    port, metrics_port = free_port(), free_port()
    process = await launch(
        "serve",
        variables={
            "PAYMENTS_DATABASE_URL": database.url(),
            "PAYMENTS_HTTP_HOST": "127.0.0.1",
            "PAYMENTS_HTTP_PORT": str(port),
            "PAYMENTS_METRICS_PORT": str(metrics_port),
            "PAYMENTS_SHUTDOWN_DELAY_SECONDS": "0",
            **{config.variable(name): str(value) for name, value in PATIENT.items()},
            **(variables or {}),
        },
        stdout=stdout,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), httpx.AsyncClient() as http:
            while True:
                try:
                    await http.get(f"http://127.0.0.1:{port}/livez")
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}/metrics", process
    finally:
        if process.returncode is None:
            process.terminate()
        assert await process.wait() == 0


@pytest.fixture(autouse=True)
async def _nothing_launched_outlives_its_test() -> AsyncIterator[None]:
    """A loop whose child still runs is never closed: a test that fails would hang."""
    yield
    for process in command.launched.pop(asyncio.get_running_loop(), []):
        if process.returncode is None:
            process.kill()
            await process.wait()


class Serve(Protocol):
    """Starts a server on the test's database, with other settings if need be; gives its URL."""

    def __call__(self, **changes: Any) -> Awaitable[str]: ...


@pytest.fixture
async def start(database: Database) -> AsyncIterator[Serve]:
    """Starts servers that end with the test."""
    async with AsyncExitStack() as stack:

        async def start(**changes: Any) -> str:
            return await stack.enter_async_context(serve(settings_for(database, **changes)))

        yield start


# What every response has, whatever the test is about.
SECURITY_HEADERS = {
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
}


class Api:
    """A client of the service that holds a key."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        # Without TLS there is nothing to verify, and loading the certificates takes 80 ms.
        self.http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=PATIENCE_SECONDS,
            limits=httpx.Limits(max_connections=None),
            event_hooks={"response": [self._check]},
            verify=False,  # noqa: S501
            trust_env=False,
        )

    async def _check(self, answer: httpx.Response) -> None:
        if answer.url.netloc == self.http.base_url.netloc:  # metrics have a port of their own
            assert answer.headers.items() >= SECURITY_HEADERS.items()

    async def create(self, body: Any, **headers: str) -> httpx.Response:
        """Sends a JSON value to `POST /v1/payments`; `_` in a header's name is `-`."""
        return await self.send("POST", "/v1/payments", json.dumps(body), **headers)

    async def send(
        self, method: str, path: str, content: str | bytes | None = None, **headers: str
    ) -> httpx.Response:
        """Sends a body as it is, as JSON unless a header says otherwise."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if content is not None:
            named.setdefault("Content-Type", "application/json")
        return await self.http.request(method, path, content=content, headers=named)

    async def payment(self, payment: Any = 10, data: Any = None) -> dict[str, Any]:
        """Makes a payment and returns it."""
        answer = await self.create({"payment": payment, "data": data})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = msgspec.json.decode(answer.content)
        return made


@asynccontextmanager
async def client(url: str, key: str) -> AsyncIterator[Api]:
    """Lends a client."""
    api = Api(url, key)
    async with api.http:
        yield api


@pytest.fixture
async def api(start: Serve, database: Database) -> AsyncIterator[Api]:
    """A running service, and a client with all scopes."""
    async with client(await start(), await database.key()) as api:
        yield api


@pytest.fixture(scope="session")
def shared_service(cluster: Cluster) -> Iterator[tuple[str, str, Database]]:
    """A service that runs in a thread as long as the tests do: its URL, a key and its database."""
    started: Future[tuple[str, str, Database]] = Future()
    ended = threading.Event()

    async def run() -> None:
        async with copy(cluster) as database, serve(settings_for(database)) as url:
            started.set_result((url, await database.key(), database))
            await asyncio.to_thread(ended.wait)

    with ThreadPoolExecutor(1) as executor, asyncio.Runner(loop_factory=uvloop.new_event_loop) as r:
        running = executor.submit(r.run, run())
        yield started.result(PATIENCE_SECONDS)
        ended.set()
        running.result()


@pytest.fixture
async def shared(shared_service: tuple[str, str, Database]) -> AsyncIterator[Api]:
    """A service for tests that look at nothing but the answers that they get: starts in no time."""
    if command.image is not None:
        command.image.uses += 1
    async with client(*shared_service[:2]) as api:
        yield api


async def send_raw(url: str, head: str) -> httpx.Response:
    """Sends what no client of HTTP would; the service must close the connection."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"{head}\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    start, *fields = answer.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    return httpx.Response(int(start.split(" ")[1]), headers=headers, content=body)


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Checks that an answer is this problem, whole, and returns it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["type"] == f"/problems/{kind}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == answer.headers["X-Request-Id"]
    return body


@asynccontextmanager
async def at_capacity(start: Serve, database: Database) -> AsyncIterator[tuple[Api, int]]:
    """Lends a client of a service that answers as much as it may, and the id of a payment."""
    url = await start(active_requests_limit=1)
    async with (
        client(url, await database.key()) as api,
        database.connect() as holder,
        holder.transaction(),
    ):
        id = (await api.payment())["id"]
        await holder.execute("LOCK TABLE payments IN EXCLUSIVE MODE")
        consumption = api.send("PATCH", f"/v1/payments/{id}", '{"status": "consumed"}')
        waiting = asyncio.create_task(consumption)
        await waits_for_a_lock(database)
        try:
            yield api, id
        finally:
            waiting.cancel()


async def waits_for_a_lock(database: Database, count: int = 1) -> None:
    """Returns once somebody waits for a lock in the database, or so many do."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(await database.fetch("SELECT FROM pg_locks WHERE NOT granted")) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


API_DIRECTORY = Path(__file__).parent.parent
