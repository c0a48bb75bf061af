"""What a service that was broken into reaches with its database role, or with a login of it."""

# The statements are put together from constants of this file.
# ruff: noqa: S608

import asyncio
from datetime import timedelta
from typing import get_type_hints

import asyncpg
import pytest

from laptop.postgres import Cluster
from payments import audit, auth, config, db, locks, migrate
from payments.legacy import importer
from tests.conftest import Database, settings_for
from tests.test_cli import invoke_on

# Payments 1 to 3: inserted, consumed, deleted, an hour ago.
PAYMENTS = """
INSERT INTO payments (
  payment, created_by, created_at, updated_at, status, consumed_at, consumed_by, deleted_at,
  deleted_by, idempotency_key
)
SELECT
  10, 'shop', past, past, status::payment_status, CASE WHEN status = 'consumed' THEN past END,
  CASE WHEN status = 'consumed' THEN 'shop' END, CASE WHEN deleted THEN past END,
  CASE WHEN deleted THEN 'shop' END, id
FROM
  (VALUES ('1', 'inserted', false), ('2', 'consumed', false), ('3', 'inserted', true))
    AS p (id, status, deleted),
  (SELECT now() - interval '1 hour') AS t (past)
"""

CONSUME = (
    "UPDATE payments SET status = 'consumed', consumed_at = {at}, consumed_by = {by},"
    " updated_at = {updated} WHERE id = {id}"
)
DELETE = (
    "UPDATE payments SET deleted_at = {at}, deleted_by = {by}, updated_at = {updated}"
    " WHERE id = {id}"
)
RIGHT = {"id": "1", "at": "now()", "by": "'shop'", "updated": "now()"}
REMEMBER = (
    "INSERT INTO consumptions (client, idempotency_key, requested, payment_ids)"
    " VALUES ({client}, {key}, {requested}, {ids})"
)
RIGHT_MEMORY = {"client": "'shop'", "key": "'key'", "requested": "1", "ids": "'{2}'"}
CREATE_CONSUMED = (
    "INSERT INTO payments (created_by, status, consumed_at, consumed_by)"
    " VALUES ('shop', 'consumed', {at}, {by})"
)


def consume(**wrong: str) -> str:
    """Returns a consumption that is right but for this."""
    return CONSUME.format_map(RIGHT | wrong)


def delete(**wrong: str) -> str:
    """Returns a deletion that is right but for this."""
    return DELETE.format_map(RIGHT | wrong)


def remember(**wrong: str) -> str:
    """Returns the memory of a consumption that is right but for this."""
    return REMEMBER.format_map(RIGHT_MEMORY | wrong)


TIMES = ("'1999-01-01'", "now() - interval '1 us'", "now() + interval '1 us'", "'infinity'")
# Unknown, revoked, the name of the import, and no name. No other role's name means anything.
STRANGERS = ("'stranger'", "'revoked'", "'payments import'", "''", "'payments_owner'")

# Every column of the service's tables, and the writes to it that must be refused.
WRITES = {
    "payments.id": [
        "UPDATE payments SET id = 9",
        "INSERT INTO payments (id, created_by) VALUES (1, 'shop')",
        "INSERT INTO payments (id, created_by) VALUES (0, 'shop')",
        "INSERT INTO payments (id, created_by) VALUES (-7, 'shop')",
    ],
    "payments.status": [
        "UPDATE payments SET status = 'inserted' WHERE id = 2",
        "UPDATE payments SET status = 'consumed', updated_at = now() WHERE id = 1",
        "INSERT INTO payments (created_by, status) VALUES ('shop', 'consumed')",
    ],
    "payments.data": ["UPDATE payments SET data = '{}'"],
    "payments.payment": [
        "UPDATE payments SET payment = 1",
        "INSERT INTO payments (created_by, payment) VALUES ('shop', -0.01)",
        "INSERT INTO payments (created_by, payment) VALUES ('shop', 'NaN')",
    ],
    "payments.created_at": [
        "UPDATE payments SET created_at = now()",
        "INSERT INTO payments (created_by, created_at) VALUES ('shop', now())",
    ],
    "payments.created_by": [
        "UPDATE payments SET created_by = 'shop'",
        "INSERT INTO payments (created_by) VALUES (NULL)",
        *(f"INSERT INTO payments (created_by) VALUES ({name})" for name in STRANGERS),
    ],
    "payments.updated_at": [
        "INSERT INTO payments (created_by, updated_at) VALUES ('shop', now())",
        "UPDATE payments SET updated_at = now()",  # without an event
        *(consume(updated=time) for time in TIMES),
        *(delete(updated=time) for time in TIMES),
        consume(updated="updated_at"),
    ],
    "payments.consumed_at": [
        *(CREATE_CONSUMED.format(at=time, by="'shop'") for time in TIMES),
        *(consume(at=time) for time in TIMES),
        consume(id="2"),  # again
        consume(id="3"),  # deleted
        (
            "UPDATE payments SET status = 'inserted', consumed_at = NULL, consumed_by = NULL,"
            " updated_at = now() WHERE id = 2"
        ),
    ],
    "payments.consumed_by": [
        *(CREATE_CONSUMED.format(at="now()", by=name) for name in (*STRANGERS, "'till'")),
        *(consume(by=name) for name in (*STRANGERS, "NULL")),
        "UPDATE payments SET consumed_by = 'till', updated_at = now() WHERE id = 2",
    ],
    "payments.deleted_at": [
        "INSERT INTO payments (created_by, deleted_at, deleted_by) VALUES ('shop', now(), 'shop')",
        *(delete(at=time) for time in TIMES),
        delete(id="3"),  # again
        "UPDATE payments SET deleted_at = NULL, deleted_by = NULL, updated_at = now() WHERE id = 3",
        # Two events at once, of which one would hide the client of the other.
        (
            "UPDATE payments SET status = 'consumed', consumed_at = now(), updated_at = now(),"
            " consumed_by = 'stranger', deleted_at = now(), deleted_by = 'shop' WHERE id = 1"
        ),
    ],
    "payments.deleted_by": [
        *(delete(by=name) for name in (*STRANGERS, "NULL")),
        "UPDATE payments SET deleted_by = 'till', updated_at = now() WHERE id = 3",
    ],
    "payments.idempotency_key": [
        "UPDATE payments SET idempotency_key = 'x'",
        "INSERT INTO payments (created_by, idempotency_key) VALUES ('shop', '1')",
        "INSERT INTO payments (created_by, idempotency_key) VALUES ('shop', '')",
    ],
    "payments.consumption_key": [
        "UPDATE payments SET consumption_key = 'x', updated_at = now() WHERE id = 1",
        "UPDATE payments SET consumption_key = 'x', updated_at = now() WHERE id = 2",
        "INSERT INTO payments (created_by, consumption_key) VALUES ('shop', 'x')",
        consume(by="'shop', consumption_key = ''"),
    ],
    "consumptions.client": [
        *(remember(client=name) for name in (*STRANGERS, "NULL")),
        "UPDATE consumptions SET client = 'till'",
    ],
    "consumptions.idempotency_key": [
        *(remember(key=key) for key in ("''", "NULL", "repeat('x', 256)")),
        f"{remember()}; {remember()}",
        "UPDATE consumptions SET idempotency_key = 'x'",
    ],
    "consumptions.requested": [
        *(remember(requested=limit) for limit in ("0", "1001", "NULL")),
        "UPDATE consumptions SET requested = 2",
    ],
    "consumptions.payment_ids": [
        *(remember(ids=ids) for ids in ("'{}'", "'{1, 2}'", "NULL")),
        "UPDATE consumptions SET payment_ids = '{1}'",
    ],
    "consumptions.consumed_at": [
        (
            "INSERT INTO consumptions (client, idempotency_key, requested, payment_ids,"
            " consumed_at) VALUES ('shop', 'x', 1, '{2}', now())"
        ),
        "UPDATE consumptions SET consumed_at = now()",
    ],
    **{
        f"{table}.{column}": [
            f"UPDATE {table} SET {column} = DEFAULT",
            f"INSERT INTO {table} ({column}) VALUES (DEFAULT)",
        ]
        for table, columns in {
            "api_keys": "id client hash scopes created_at expires_at revoked_at",
            "schema_migrations": "version name checksum applied_at",
        }.items()
        for column in columns.split()
    },
}

COLUMNS = """
SELECT format('%s.%s', attrelid::regclass, attname) AS name
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE
  relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
  AND attnum > 0 AND NOT attisdropped
"""

REFUSED = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.IntegrityConstraintViolationError,
)

# Beside the columns: what it must not read, create, run or become.
STATEMENTS = [
    "DELETE FROM payments",
    "TRUNCATE payments",
    "DELETE FROM consumptions",
    "TRUNCATE consumptions",
    "ALTER TABLE consumptions DISABLE ROW LEVEL SECURITY",
    "DELETE FROM api_keys",
    "COPY payments FROM '/etc/hostname'",
    "COPY payments TO '/tmp/payments'",
    "COPY payments TO PROGRAM 'id'",
    "COPY payments (created_by) FROM PROGRAM 'id'",
    "SELECT setval('payments_id_seq', 1)",
    "ALTER SEQUENCE payments_id_seq RESTART",
    "ALTER TABLE payments DISABLE TRIGGER ALL",
    "ALTER TABLE payments DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE payments DROP CONSTRAINT payments_consumed",
    "DROP TRIGGER payments_update_event ON payments",
    "DROP POLICY payments_created_by ON payments",
    "DROP INDEX payments_idempotency_key",
    "CREATE POLICY mine ON payments USING (true)",
    "CREATE INDEX ON payments (id)",
    "CREATE TRIGGER mine BEFORE INSERT ON payments EXECUTE FUNCTION refuse_event()",
    "CREATE TABLE mine ()",
    "CREATE TEMPORARY TABLE mine ()",
    "CREATE VIEW mine AS SELECT 1",
    "CREATE SEQUENCE mine",
    "CREATE TYPE mine AS ENUM ('x')",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DO LANGUAGE plpgsql $$ BEGIN EXECUTE 'CREATE TABLE mine ()'; END $$",
    "CREATE SCHEMA mine",
    "CREATE DATABASE mine",
    "CREATE ROLE mine",
    "CREATE EXTENSION dblink",
    "CREATE FOREIGN DATA WRAPPER mine",
    "CREATE PUBLICATION mine FOR TABLE payments",
    "CREATE SUBSCRIPTION mine CONNECTION '' PUBLICATION mine",
    "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION refuse_event()",
    "ALTER ROLE {app} SUPERUSER",
    "ALTER ROLE {app} BYPASSRLS",
    "ALTER ROLE payments_owner SET role = 'postgres'",
    "ALTER DATABASE {database} SET synchronous_commit = off",
    "ALTER SYSTEM SET fsync = off",
    "GRANT payments_owner TO {app}",
    "SET ROLE payments_owner",
    "SET SESSION AUTHORIZATION payments_owner",
    "SET session_replication_role = replica",
    "SET log_statement = 'none'",
    "SELECT pg_reload_conf()",
    "SELECT pg_read_file('/etc/hostname')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/hostname')",
    "SELECT lo_export(lo_create(0), '/tmp/x')",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_file_settings",
    "SELECT pg_create_physical_replication_slot('mine')",
    "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "DO $$ BEGIN LOCK TABLE payments IN ACCESS EXCLUSIVE MODE NOWAIT; END $$",
    "DO $$ BEGIN LOCK TABLE schema_migrations IN ROW EXCLUSIVE MODE; END $$",
    "DO $$ BEGIN LOCK TABLE api_keys IN ROW EXCLUSIVE MODE; END $$",
]

# What PostgreSQL allows every role, and what the service needs itself: docs/security.md has it.
REMAINS = [
    "SELECT hash FROM api_keys",
    "SELECT * FROM payments",  # in an open transaction, it holds up a migration of the table
    "INSERT INTO payments (created_by) VALUES ('shop')",  # in the name of any client with a key
    "INSERT INTO payments (created_by) VALUES ('anonymous')",
    consume(by="'till'"),
    # A key that a client has not used yet then names payments that the client consumed before.
    remember(ids="'{{2}}'"),
    delete(by="'till'"),
    "SELECT nextval('payments_id_seq')",
    "INSERT INTO payments (id, created_by) VALUES (1000, 'shop')",  # an id of a later payment
    "SELECT FROM payments FOR UPDATE",
    "SELECT pg_advisory_lock(1)",
    "SELECT lo_create(0)",
    "ALTER ROLE {app} IN DATABASE {database} SET work_mem = '1GB'",
    # Where logins have passwords, the service is locked out.
    "BEGIN; ALTER ROLE {app} PASSWORD 'x'; ROLLBACK",
    "LISTEN mine",
    "NOTIFY mine",
]


@pytest.fixture(params=["", "_dev"])
def app(request: pytest.FixtureRequest) -> str:
    """The role that the service logs in as, also where it has the environment's name."""
    return f"payments_app{request.param}"


@pytest.fixture
def migrator(app: str) -> str:
    """The role that the commands log in as beside it."""
    return app.replace("app", "migrator")


@pytest.fixture
async def attacked(database: Database) -> Database:
    """A database with three payments, two clients, and a third whose key was revoked."""
    for name in ("shop", "till", "revoked"):
        await database.key(name)
    await database.fetch(
        "UPDATE api_keys SET revoked_at = now() - interval '61 s' WHERE client = 'revoked'"
    )
    await database.fetch(PAYMENTS)
    return database


async def _content(database: Database) -> list[list[asyncpg.Record]]:
    tables = ("payments", "consumptions", "api_keys", "schema_migrations")
    return [await database.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in tables]


async def test_every_column_has_its_writes(database: Database) -> None:
    assert {row["name"] for row in await database.fetch(COLUMNS)} == WRITES.keys()


@pytest.mark.parametrize("column", WRITES)
async def test_no_illegal_write(attacked: Database, app: str, column: str) -> None:
    before = await _content(attacked)
    async with attacked.connect(app) as connection:
        for sql in WRITES[column]:
            try:
                await connection.execute(sql)
            except REFUSED:
                continue
            pytest.fail(f"not refused: {sql}")
    assert await _content(attacked) == before


async def test_nothing_else(attacked: Database, app: str) -> None:
    before = await _content(attacked)
    allowed = []
    async with attacked.connect(app) as connection:
        for sql in STATEMENTS:
            try:
                await connection.execute(sql.format(app=app, database=attacked.name))
                allowed.append(sql)
            except asyncpg.InsufficientPrivilegeError:
                pass
    assert allowed == []
    assert await _content(attacked) == before


@pytest.mark.parametrize("role", ["payments_app", "payments_migrator"])
async def test_a_login_of_an_environment_is_not_the_role_that_it_has_the_privileges_of(
    attacked: Database, role: str
) -> None:
    """As that role it could set a password, and log in with it where IAM is not asked."""
    async with attacked.connect(f"{role}_dev") as connection:
        for sql in (f"SET ROLE {role}", f"ALTER ROLE {role} PASSWORD 'x'"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(sql)


@pytest.mark.parametrize("sql", REMAINS)
async def test_what_remains(attacked: Database, app: str, sql: str) -> None:
    async with attacked.connect(app) as connection:
        await connection.execute(sql.format(app=app, database=attacked.name))


@pytest.mark.parametrize("name", ["postgres", "template1"])
async def test_what_remains_in_other_databases(cluster: Cluster, app: str, name: str) -> None:
    """It may connect, so also stay connected; the audit does not look there."""
    async with Database(cluster, name).connect(app) as connection:
        await connection.execute("BEGIN; SELECT lo_create(0); ROLLBACK")


async def test_it_may_end_the_sessions_of_its_own_role_alone(
    attacked: Database, app: str, migrator: str
) -> None:
    async with (
        attacked.connect(app) as attacker,
        attacked.connect(app) as own,
        attacked.connect(migrator) as other,
    ):
        end = "SELECT pg_terminate_backend($1, 60000)"
        assert await attacker.fetchval(end, own.get_server_pid())
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await attacker.fetchval(end, other.get_server_pid())


async def test_what_the_service_writes_is_allowed_a_minute_after_a_key_ends(
    attacked: Database,
    app: str,
) -> None:
    await attacked.fetch(
        "UPDATE api_keys SET revoked_at = now() - interval '50 s' WHERE client = 'shop'"
    )
    async with attacked.connect(app) as connection:
        for sql in (
            "INSERT INTO payments (created_by) VALUES ('shop')",
            CREATE_CONSUMED.format(at="now()", by="'shop'"),
            consume(),
            delete(),
        ):
            await connection.execute(sql)


def _longest_statement() -> timedelta:
    """Returns the greatest `statement_timeout` that the service can be set to."""
    field = get_type_hints(config.Settings, include_extras=True)["statement_timeout_seconds"]
    [meta] = field.__metadata__
    return timedelta(seconds=meta.le)


@pytest.mark.parametrize(
    ("trigger", "write"),
    [
        ("payments_creation_event", "INSERT INTO payments (created_by) VALUES ('shop')"),
        ("payments_creation_event", CREATE_CONSUMED.format(at="now()", by="'shop'")),
        ("payments_update_event", consume()),
        ("payments_update_event", delete()),
    ],
)
async def test_no_event_has_the_time_of_a_transaction_that_was_kept_open(
    attacked: Database, app: str, trigger: str, write: str
) -> None:
    """The limit is the longest statement; moved below zero, each transaction is too old for it."""
    [(definition,)] = await attacked.fetch(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = $1", trigger
    )
    limit = f"(now() + '{_longest_statement()!s:0>8}'::interval)"
    assert f"clock_timestamp() > {limit}" in definition
    await attacked.fetch(
        definition.replace("CREATE", "CREATE OR REPLACE", 1).replace(
            limit, "(now() - interval '1 minute')"
        )
    )
    async with attacked.connect(app) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="transaction"):
            await connection.execute(write)
    async with attacked.connect() as administrator:
        await administrator.execute(write)


# What each of them costs: the tables are not found, or not read; every statement or session ends.
DEFAULTS = {
    "search_path": ("pg_catalog", "public"),
    "row_security": ("off", "on"),
    "transaction_timeout": ("1", "0"),
    "idle_session_timeout": ("1", "0"),
}


@pytest.mark.direct  # a pooler sets its connections itself: test_pooler.py
@pytest.mark.in_process  # looks at its connections
@pytest.mark.parametrize("name", DEFAULTS)
async def test_its_own_defaults_stop_neither_service_nor_audit(
    attacked: Database, app: str, name: str
) -> None:
    wrong, right = DEFAULTS[name]
    async with attacked.connect(app) as attacker:
        await attacker.execute(f"ALTER ROLE {app} IN DATABASE {attacked.name} SET {name} = {wrong}")
    pool = db.Database(settings_for(attacked, database_url=attacked.url(app)))
    await pool.open()
    try:
        async with pool.connection() as connection:
            assert await connection.fetchval(f"SHOW {name}") == right
    finally:
        await pool.close()
    auditor = await asyncpg.connect(attacked.url(app), server_settings=audit.SESSION)
    try:
        assert await auditor.fetchval(f"SHOW {name}") == right
    finally:
        await auditor.close()
    result = await invoke_on(attacked, "audit", user=app)
    assert f"{app}: {name}={wrong}" in result.output, result.error


async def test_clients_of_earlier_events_may_be_gone(attacked: Database, app: str) -> None:
    await attacked.fetch("UPDATE api_keys SET expires_at = '2020-01-01' WHERE client = 'shop'")
    async with attacked.connect(app) as connection:
        await connection.execute(delete(id="2", by="'till'"))


async def test_a_clock_that_is_behind(attacked: Database, app: str) -> None:
    await attacked.fetch(
        "UPDATE payments SET created_at = past, updated_at = past"
        " FROM (SELECT now() + interval '1 hour' AS past) AS t WHERE id = 1"
    )
    later = "updated_at + interval '1 us'"
    async with attacked.connect(app) as connection:
        await connection.execute(consume(at="created_at", updated=later))
        await connection.execute(delete(at="created_at", updated=later))


async def test_who_can_become_the_owner_is_exempt_from_the_rules_of_events(
    attacked: Database,
    migrator: str,
) -> None:
    async with attacked.connect(migrator) as connection:
        await connection.execute("SET ROLE payments_owner")
        await connection.execute(delete(at="'2999-01-01'", by="'payments import'"))


async def test_what_it_leaves_behind_is_told(attacked: Database, app: str) -> None:
    async with attacked.connect(app) as connection:
        number = await connection.fetchval("SELECT lo_create(0)")
        await connection.execute(
            f"ALTER ROLE {app} IN DATABASE {attacked.name} SET work_mem = '1GB'"
        )
        _, breaches = await audit.once(connection)
    told = {breach.invariant: breach.examples for breach in breaches}
    assert told["not-from-migrations"] == [
        f"large object {number} of {app}",
        f"{app}: work_mem=1GB",
    ]


@pytest.mark.parametrize("number", [migrate.ADVISORY_LOCK, importer.ADVISORY_LOCK])
async def test_it_holds_up_no_command_by_a_lock(
    attacked: Database, app: str, migrator: str, number: int
) -> None:
    async with (
        attacked.connect(app) as attacker,
        attacked.connect(migrator) as first,
        attacked.connect(migrator) as second,
    ):
        assert await locks.take(first, number)
        assert not await locks.take(second, number)
        await first.fetchval("SELECT pg_advisory_unlock($1::bigint)", number)
        await attacker.execute(f"SELECT pg_advisory_lock({number})")
        assert await locks.take(second, number)


async def test_a_lock_whose_holder_ends_meanwhile_is_taken(
    attacked: Database, migrator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        attacked.connect(migrator) as first,
        attacked.connect(migrator) as second,
        attacked.connect(migrator) as third,
    ):
        assert await locks.take(first, 1)
        ends = f"SELECT pg_terminate_backend({first.get_server_pid()}, 10000) AND $1 = 0"
        monkeypatch.setattr(locks, "IS_A_COMMANDS", ends)
        assert await locks.take(second, 1)
        monkeypatch.undo()
        assert not await locks.take(third, 1)


async def test_its_advisory_locks_and_reads_of_their_tables_hold_up_neither_migration_nor_key(
    attacked: Database, app: str, migrator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "OTHERS_SECONDS", 1)
    async with (
        attacked.connect(app) as attacker,
        attacked.connect(migrator) as operator,
        attacker.transaction(),
    ):
        await attacker.execute(f"SELECT pg_advisory_lock({migrate.ADVISORY_LOCK})")
        await attacker.execute("SELECT pg_advisory_lock(hashtextextended('api_keys:shop', 0))")
        await attacker.execute("SELECT FROM api_keys, schema_migrations")
        await attacked.fetch("DELETE FROM schema_migrations WHERE name LIKE '%_validate'")
        assert await migrate.migrate(attacked.url(migrator)) == ["0005_validate"]
        await operator.execute("SET ROLE payments_owner; SET lock_timeout = '1s'")
        assert await auth.create_key(operator, "shop", auth.SCOPES)


async def test_two_keys_at_once_are_two(attacked: Database) -> None:
    async def make() -> str | None:
        try:
            return await attacked.key("shop")
        except auth.KeyLimitError:
            return None

    made = await asyncio.gather(*(make() for _ in range(5)))
    assert len([key for key in made if key]) == auth.LIVE_KEYS_LIMIT - 1
