"""`/livez` and `/readyz`: what the cluster is told, and what a lost database costs."""

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest

from payments import db
from tests import PATIENCE_SECONDS, command
from tests.conftest import (
    Api,
    Database,
    Serve,
    client,
    problem,
    serve,
    serve_process,
    settings_for,
    waits_for_a_lock,
)

CONSUME = '{"status": "consumed"}'


async def _check_not_ready(api: Api, says: str) -> None:
    answer = await api.send("GET", "/readyz")
    assert says in problem(answer, 503, "not-ready")["detail"]
    assert int(answer.headers["Retry-After"]) >= 1


async def test_healthy(shared: Api) -> None:
    for path in ("/livez", "/readyz"):
        answer = await shared.send("GET", path)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "application/json"
        head = await shared.send("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.direct  # counts PostgreSQL's connections
async def test_who_is_ready_has_connections(start: Serve, database: Database) -> None:
    async with client(await start(), await database.key()) as api:
        await api.http.get("/livez")
        before = await _connections(database)
        assert (await api.send("GET", "/readyz")).status_code == 200
        assert await _connections(database) == before + 5  # one is the check's own


async def _connections(database: Database) -> int:
    [(count,)] = await database.fetch(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'payments'"
    )
    return int(count)


async def test_a_lost_database_comes_back_by_itself(api: Api, database: Database) -> None:
    made = await api.payment()
    path = f"/v1/payments/{made['id']}"
    assert (await api.send("GET", "/readyz")).status_code == 200
    async with database.away():
        assert (await api.send("GET", "/livez")).status_code == 200
        assert (await api.send("GET", "/status")).text == "ok"
        await _check_not_ready(api, "database")
        for method, address, body in (
            ("POST", "/v1/payments", '{"payment": 1}'),
            ("GET", "/v1/payments", None),
            ("GET", path, None),
            ("PATCH", path, CONSUME),
            ("DELETE", path, None),
            ("POST", "/create", "{}"),
            ("PUT", f"/update/{made['id']}", CONSUME),
            ("GET", "/list", None),
            ("DELETE", f"/delete/{made['id']}", None),
        ):
            answer = await api.send(method, address, body)
            problem(answer, 503, "database-unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
    await _pooler_looked_again(api)
    assert (await api.send("GET", path)).json() == made
    assert (await api.send("GET", "/readyz")).status_code == 200


async def _pooler_looked_again(api: Api) -> None:
    """Returns at once without a pooler: the service looks for itself whenever it is asked."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while command.poolers and (await api.send("GET", "/readyz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_lost_database_under_load(api: Api, database: Database) -> None:
    await api.payment()
    answers = []

    async def create() -> None:
        answers.append(await api.create({"payment": 1}))

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(create())
        async with database.away():
            for _ in range(20):
                group.create_task(create())
            await asyncio.sleep(0.1)
    assert {answer.status_code for answer in answers} <= {201, 503}
    assert (await api.create({"payment": 1})).status_code == 201


async def test_started_without_a_database(start: Serve, database: Database) -> None:
    key = await database.key()
    async with AsyncExitStack() as stack:
        async with database.away():
            api = await stack.enter_async_context(client(await start(), key))
            assert (await api.send("GET", "/livez")).status_code == 200
            await _check_not_ready(api, "database")
            # It could be a good key, so that 401 would be a lie.
            problem(await api.send("GET", "/v1/payments"), 503, "database-unavailable")
        await _pooler_looked_again(api)
        assert (await api.send("GET", "/readyz")).status_code == 200
        assert (await api.send("GET", "/v1/payments")).status_code == 200


async def test_a_server_that_is_not_there(start: Serve, database: Database) -> None:
    with socket.socket() as taken:
        # It listens and never answers.
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        silent = f"postgresql://payments_app@127.0.0.1:{taken.getsockname()[1]}/nothing"
        waits = {"connect_timeout_seconds": 0.2, "ready_timeout_seconds": 0.2}
        async with client(await start(database_url=silent, **waits), "x" * 43) as api:
            assert (await api.send("GET", "/livez")).status_code == 200
            await _check_not_ready(api, "database")
            problem(await api.send("GET", "/v1/payments"), 503, "database-unavailable")


async def test_a_busy_pool_is_ready(start: Serve, database: Database) -> None:
    # The probe waits as long for a connection before it takes the pool for busy.
    url = await start(pool_size=1, ready_timeout_seconds=2)
    async with client(url, await database.key()) as api, database.connect() as holder:
        made = await api.payment()
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("LOCK TABLE payments IN EXCLUSIVE MODE")
        waiting = asyncio.create_task(api.send("PATCH", f"/v1/payments/{made['id']}", CONSUME))
        await waits_for_a_lock(database)
        for path in ("/readyz", "/livez"):
            assert (await api.send("GET", path)).status_code == 200
        assert not waiting.done()
        await transaction.rollback()
        assert (await waiting).status_code == 200


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("DROP TABLE schema_migrations", "not migrated"),
        ("DELETE FROM schema_migrations", "migration"),
        ("ALTER DATABASE {} SET default_transaction_read_only = on", "read-only"),
        ("ALTER DATABASE {} CONNECTION LIMIT 0", "no connection left"),
        ("REVOKE SELECT ON schema_migrations FROM payments_app", "lacks a privilege"),
    ],
)
async def test_not_ready(start: Serve, database: Database, change: str, says: str) -> None:
    await database.fetch(change.format(database.name))
    async with client(await start(), "x" * 43) as api:
        await _check_not_ready(api, says)
        assert (await api.send("GET", "/livez")).status_code == 200


@pytest.mark.direct  # a pooler has a URL of its own
@pytest.mark.in_process  # reads the log
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("/test_", "/none_"), ("does not exist", 'database "none_')),
        (("payments_app@", "nobody@"), ("refuses the user", 'role "nobody" does not exist')),
        (("host=", "host=/nowhere"), ("cannot be reached", "No such file or directory")),
        (
            ("?", "?target_session_attrs=standby&"),
            ("target_session_attrs match no server", "TargetServerAttributeNotMatched"),
        ),
        (("?", "?options=-c%20nonsense%3D1&"), ("SQLSTATE 42704", "nonsense")),
    ],
)
async def test_why_there_is_no_connection(
    start: Serve,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    change: tuple[str, str],
    told: tuple[str, str],
) -> None:
    says, cause = told
    url = database.url().replace(*change)
    assert url != database.url()
    async with client(await start(database_url=url), "x" * 43) as api:
        await _check_not_ready(api, says)
        problem(await api.send("GET", "/v1/payments"), 503, "database-unavailable")
    logged = [
        getattr(record, "fields")["cause"]  # noqa: B009 - no attribute of its type
        for record in caplog.records
        if record.name == "payments.app"
    ]
    assert len(logged) == 2
    for line in logged:
        assert cause in line


@pytest.mark.in_process  # breaks what was right at the start
async def test_settings_that_break_later_are_no_outage(
    start: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client(await start(), "x" * 43) as api:
        monkeypatch.setenv("PGTARGETSESSIONATTRS", "nonsense")
        await _check_not_ready(api, "The settings of the database connection are wrong.")


@pytest.mark.direct  # a pooler sets its connections itself: test_pooler.py
@pytest.mark.in_process  # looks at its connections
@pytest.mark.parametrize("whose", ["DATABASE {}", "ROLE payments_app IN DATABASE {}"])
async def test_no_default_of_a_role_costs_durability(database: Database, whose: str) -> None:
    # Every role may change its own defaults. The service's connections, new ones too, ignore this.
    async with database.connect("payments_app" if "ROLE" in whose else "postgres") as connection:
        await connection.execute(
            f"ALTER {whose.format(database.name)} SET synchronous_commit = off"
        )
    async with database.connect("payments_app") as other:
        assert await other.fetchval("SHOW synchronous_commit") == "off"
    pool = db.Database(settings_for(database))
    await pool.open()
    try:
        async with pool.connection() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == "on"
    finally:
        await pool.close()
    async with serve(settings_for(database)) as url, client(url, "x" * 43) as api:
        assert (await api.send("GET", "/readyz")).status_code == 200


async def test_many_probes_share_one_question(api: Api) -> None:
    answers = await asyncio.gather(*(api.send("GET", "/readyz") for _ in range(200)))
    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.direct  # a pooler keeps its connections to the old server (server_lifetime)
async def test_a_database_that_becomes_read_only(api: Api, database: Database) -> None:
    await api.payment()
    assert (await api.send("GET", "/readyz")).status_code == 200
    await database.fetch(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    async with database.away():
        pass
    problem(await api.create({"payment": 1}), 503, "database-unavailable")
    await _check_not_ready(api, "read-only")
    # Another server takes over, and the old one lives on: what is connected to it stays read-only.
    async with database.connect() as administrator:
        await administrator.execute("SET default_transaction_read_only = off")
        await administrator.execute(
            f"ALTER DATABASE {database.name} RESET default_transaction_read_only"
        )
    assert (await api.create({"payment": 1})).status_code == 201
    assert (await api.send("GET", "/readyz")).status_code == 200


async def test_a_newer_schema_is_ready(start: Serve, database: Database) -> None:
    await database.fetch("INSERT INTO schema_migrations VALUES (9999, 'later', 'x')")
    async with client(await start(), "x" * 43) as api:
        assert (await api.send("GET", "/readyz")).status_code == 200


async def test_an_unmigrated_database_is_unavailable(api: Api, database: Database) -> None:
    await database.fetch("DROP TABLE payments, api_keys, consumptions")
    answer = await api.create({"payment": 1})
    problem(answer, 503, "database-unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.usefixtures("command")
async def test_a_service_that_is_told_to_stop(database: Database) -> None:
    async with serve_process(database, {"PAYMENTS_SHUTDOWN_DELAY_SECONDS": "3600"}) as (
        url,
        _,
        process,
    ):
        async with client(url, await database.key()) as api:
            assert (await api.send("GET", "/readyz")).status_code == 200
            process.terminate()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (answer := await api.send("GET", "/readyz")).status_code == 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert "shutting down" in problem(answer, 503, "not-ready")["detail"]
            # The load balancer does not know it yet.
            made = await api.create({"payment": 1})
            assert made.status_code == 201
            assert made.headers["Connection"] == "close"
            assert (await api.send("GET", "/livez")).status_code == 200
        process.terminate()  # a second time: no need to wait for the load balancer
        assert await process.wait() == 0


async def test_a_dead_database_does_not_delay_liveness(api: Api, database: Database) -> None:
    async with database.away():
        waiting = [asyncio.create_task(api.create({"payment": 1})) for _ in range(50)]
        assert (await api.send("GET", "/livez")).status_code == 200
        for answer in await asyncio.gather(*waiting):
            assert answer.status_code == 503
