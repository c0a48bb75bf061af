"""Migrations and roles, on databases of their own."""

import asyncio
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from laptop.postgres import Cluster
from payments import migrate
from tests import PATIENCE_SECONDS
from tests.conftest import Database

OWNER = "SET ROLE payments_owner"

FILES = [path.stem for path in sorted(migrate.DIRECTORY.glob("0*.sql"))]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a file into a copy of the migrations' directory, and returns the directory."""
    directory = tmp_path / "migrations"
    shutil.copytree(migrate.DIRECTORY, directory)

    def write(what: str, sql: str) -> Path:
        number = len(list(directory.glob("0*.sql"))) + 1
        (directory / f"{number:04}_{what}.sql").write_text(sql)
        return directory

    return write


async def _migrate(database: Database, directory: Path = migrate.DIRECTORY) -> list[str]:
    return await migrate.migrate(database.url("payments_migrator"), directory=directory)


async def _applied(database: Database) -> list[str]:
    rows = await database.fetch("SELECT name FROM schema_migrations ORDER BY version")
    return [row["name"] for row in rows]


async def test_all_files_in_order_and_then_none(empty: Database) -> None:
    lines: list[str] = []
    url = empty.url("payments_migrator")
    assert await migrate.migrate(url, report=lines.append) == FILES
    assert lines == [f"{name} applied" for name in FILES]
    assert await _applied(empty) == FILES
    assert await _migrate(empty) == []
    assert migrate.newest_version() == len(FILES)


async def test_a_dry_run_changes_nothing(empty: Database) -> None:
    lines: list[str] = []
    url = empty.url("payments_migrator")
    assert await migrate.migrate(url, dry_run=True, report=lines.append) == FILES
    assert lines == [f"{name} would be applied" for name in FILES]
    assert (
        await empty.fetch("SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []
    )
    await _migrate(empty)
    assert await migrate.migrate(url, dry_run=True) == []


async def test_each_file_twice_does_no_harm(empty: Database) -> None:
    await _migrate(empty)
    before = await _catalogue(empty)
    async with empty.connect("payments_migrator") as connection:
        await connection.execute(OWNER)
        for name in FILES:
            await connection.execute((migrate.DIRECTORY / f"{name}.sql").read_text())
    assert await _catalogue(empty) == before
    await migrate.apply_roles(empty.url("postgres"))
    assert await _catalogue(empty) == before


async def _catalogue(database: Database) -> list[str]:
    """Returns every column, constraint, index, trigger, policy and privilege as text."""
    rows = await database.fetch("""
        SELECT format(
          '%s.%s %s %s %s', attrelid::regclass, attname, atttypid::regtype, attnotnull, attacl
        ) AS line
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace AND attnum > 0
        UNION ALL
        SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
        UNION ALL
        SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL
        SELECT format('%s %s %s %s', relname, relowner::regrole, relacl, relrowsecurity)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT pg_get_triggerdef(oid) FROM pg_trigger
        UNION ALL
        SELECT policies::text FROM pg_policies AS policies
        UNION ALL
        SELECT format('%s %s', nspname, nspacl) FROM pg_namespace
        UNION ALL
        SELECT format('%s %s %s', datname, datdba::regrole, datacl) FROM pg_database
        WHERE datname = current_database()
        ORDER BY line
    """)
    return [row["line"] for row in rows]


async def test_a_changed_file_is_refused(
    database: Database, write: Callable[[str, str], Path]
) -> None:
    directory = write("more", "SELECT 1;")
    assert await _migrate(database, directory) == [f"{len(FILES) + 1:04}_more"]
    first = directory / f"{FILES[0]}.sql"
    first.write_text(first.read_text() + "\n-- changed\n")
    for dry_run in (True, False):
        with pytest.raises(migrate.MigrationError, match=f"{FILES[0]} was changed"):
            await migrate.migrate(
                database.url("payments_migrator"), directory=directory, dry_run=dry_run
            )


async def test_an_older_service_leaves_a_newer_database(
    database: Database, write: Callable[[str, str], Path]
) -> None:
    await _migrate(database, write("more", "SELECT 1;"))
    assert await _migrate(database) == []
    assert len(await _applied(database)) == len(FILES) + 1


async def test_a_failing_file_is_rolled_back_whole(
    database: Database, write: Callable[[str, str], Path]
) -> None:
    write("good", "CREATE TABLE good (id int);")
    directory = write(
        "bad", "CREATE TABLE bad (id int); SELECT 1 / 0; CREATE TABLE worse (id int);"
    )
    directory = write("after", "CREATE TABLE after (id int);")
    with pytest.raises(migrate.MigrationError, match="_bad failed: division by zero"):
        await _migrate(database, directory)
    tables = await database.fetch(
        "SELECT to_regclass(n) AS t FROM unnest('{good,bad,after}'::text[]) n"
    )
    assert [row["t"] for row in tables] == ["good", None, None]
    assert (await _applied(database))[-1].endswith("_good")
    bad = next(directory.glob("*_bad.sql"))
    bad.write_text("CREATE TABLE bad (id int);")
    assert [name[5:] for name in await _migrate(database, directory)] == ["bad", "after"]


async def test_no_transaction(database: Database, write: Callable[[str, str], Path]) -> None:
    directory = write(
        "index",
        "-- no transaction\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS by_who ON payments (created_by);\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS by_whom ON payments (consumed_by);\n",
    )
    assert [name[5:] for name in await _migrate(database, directory)] == ["index"]
    rows = await database.fetch(
        "SELECT indexrelid::regclass::text AS name, indisvalid FROM pg_index"
        " WHERE indexrelid::regclass::text IN ('by_who', 'by_whom')"
    )
    assert sorted((row["name"], row["indisvalid"]) for row in rows) == [
        ("by_who", True),
        ("by_whom", True),
    ]


async def test_a_file_without_transaction_that_fails_can_be_tried_again(
    database: Database, write: Callable[[str, str], Path]
) -> None:
    directory = write(
        "index",
        "-- no transaction\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS by_who ON payments (created_by);\n"
        "SELECT 1 / 0;\n",
    )
    with pytest.raises(migrate.MigrationError, match="_index failed"):
        await _migrate(database, directory)
    assert await _applied(database) == FILES
    file = next(directory.glob("*_index.sql"))
    file.write_text(file.read_text().replace("1 / 0", "1"))
    assert [name[5:] for name in await _migrate(database, directory)] == ["index"]


async def test_an_index_that_is_left_invalid_is_not_taken_for_applied(
    database: Database, write: Callable[[str, str], Path]
) -> None:
    await database.fetch("INSERT INTO payments (created_by) VALUES ('shop'), ('shop')")
    directory = write(
        "index",
        "-- no transaction\n"
        "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS one ON payments (created_by);\n",
    )
    with pytest.raises(migrate.MigrationError, match="_index failed"):
        await _migrate(database, directory)
    with pytest.raises(migrate.MigrationError, match=r"invalid indexes.*'one'"):
        await _migrate(database, directory)
    await database.fetch("DROP INDEX one")
    await database.fetch("UPDATE payments SET created_by = id::text")
    assert [name[5:] for name in await _migrate(database, directory)] == ["index"]


async def test_a_lock_that_is_let_go(
    database: Database, write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.01)
    directory = write("column", "ALTER TABLE payments ADD COLUMN note text;")
    lines: list[str] = []
    waited = asyncio.Event()

    def report(line: str) -> None:
        lines.append(line)
        waited.set()

    async with database.connect() as holder:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("SELECT FROM payments")
        migration = asyncio.create_task(
            migrate.migrate(database.url("payments_migrator"), directory=directory, report=report)
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            await waited.wait()
        # Between two attempts nobody waits behind it for long: a payment can be made.
        await database.fetch("INSERT INTO payments (created_by) VALUES ('shop')")
        await transaction.rollback()
    assert [name[5:] for name in await migration] == ["column"]
    assert "waits for a lock, attempt 1 of 10" in lines[0]
    assert lines[-1].endswith("_column applied")


async def test_a_lock_that_is_never_let_go(
    database: Database, write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(migrate, "ATTEMPTS", 2)
    directory = write("column", "CREATE TABLE t (); ALTER TABLE payments ADD COLUMN note text;")
    async with database.connect() as holder, holder.transaction():
        await holder.execute("SELECT FROM payments")
        with pytest.raises(migrate.MigrationError, match="_column got no lock in 2 attempts"):
            await _migrate(database, directory)
    assert await database.fetch("SELECT FROM pg_class WHERE relname = 't'") == []


async def test_two_at_once(empty: Database, write: Callable[[str, str], Path]) -> None:
    write("slow", "SELECT pg_sleep(0.2); CREATE TABLE once (id int);")
    directory = write(
        "index", "-- no transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON once (id);\n"
    )
    applied = await asyncio.gather(*(_migrate(empty, directory) for _ in range(3)))
    assert sorted(map(len, applied)) == [0, 0, len(FILES) + 2]


async def test_no_files_at_all(tmp_path: Path) -> None:
    with pytest.raises(migrate.MigrationError, match="no migrations"):
        migrate.load(tmp_path)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["0002_late"], "0002_late should have the number 0001"),
        (["0001_a", "0003_c"], "0003_c should have the number 0002"),
        (["0001_a", "0001_b"], "0001_b should have the number 0002"),
    ],
)
async def test_numbers_without_gaps(tmp_path: Path, names: list[str], says: str) -> None:
    for name in names:
        (tmp_path / f"{name}.sql").write_text("SELECT 1;")
    with pytest.raises(migrate.MigrationError, match=re.escape(says)):
        migrate.load(tmp_path)


async def test_without_the_roles(cluster: Cluster) -> None:
    administrator = await asyncpg.connect(cluster.url("postgres", "postgres"))
    await administrator.execute("CREATE DATABASE bare")
    try:
        # The roles are the cluster's; what they may do in this database was not said.
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await migrate.migrate(cluster.url("bare", "payments_migrator"))
    finally:
        await administrator.execute("DROP DATABASE bare WITH (FORCE)")
        await administrator.close()


# What the service may do: this, and nothing else.

APP_PRIVILEGES = {
    "database CONNECT",
    "schema public USAGE",
    "table api_keys SELECT",
    "column payments.id INSERT",
    "column payments.status INSERT",
    "column payments.data INSERT",
    "column payments.payment INSERT",
    "column payments.created_by INSERT",
    "column payments.idempotency_key INSERT",
    "column payments.consumed_at INSERT",
    "column payments.consumed_by INSERT",
    "table payments SELECT",
    "table schema_migrations SELECT",
    "column payments.consumed_at UPDATE",
    "column payments.consumed_by UPDATE",
    "column payments.deleted_at UPDATE",
    "column payments.deleted_by UPDATE",
    "column payments.status UPDATE",
    "column payments.updated_at UPDATE",
    "column payments.consumption_key UPDATE",
    "table consumptions SELECT",
    "column consumptions.client INSERT",
    "column consumptions.idempotency_key INSERT",
    "column consumptions.requested INSERT",
    "column consumptions.payment_ids INSERT",
    "sequence payments_id_seq USAGE",
    "function oldest_transaction()",
}

PRIVILEGES = """
WITH relations AS (
  SELECT c.oid, c.relkind, c.oid::regclass::text AS name
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'
), held AS (
  SELECT format('database %s', p) AS line
  FROM unnest('{CONNECT,CREATE,TEMPORARY}'::text[]) AS p
  WHERE has_database_privilege($1, current_database(), p)
  UNION ALL
  SELECT format('schema %s %s', nspname, p)
  FROM pg_namespace CROSS JOIN unnest('{USAGE,CREATE}'::text[]) AS p
  WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_'
    AND has_schema_privilege($1, oid, p)
  UNION ALL
  SELECT format('table %s %s', name, p)
  FROM relations CROSS JOIN
    unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER,MAINTAIN}'::text[]) AS p
  WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND has_table_privilege($1, oid, p)
  UNION ALL
  SELECT format('column %s.%s %s', name, attname, p)
  FROM relations
  JOIN pg_attribute ON attrelid = oid AND attnum > 0 AND NOT attisdropped
  CROSS JOIN unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) AS p
  WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
    AND has_column_privilege($1, oid, attnum, p) AND NOT has_table_privilege($1, oid, p)
  UNION ALL
  SELECT format('sequence %s %s', name, p)
  FROM relations CROSS JOIN unnest('{USAGE,SELECT,UPDATE}'::text[]) AS p
  -- The catalogue has to be read in this order: a table is no sequence.
  WHERE CASE WHEN relkind = 'S' THEN has_sequence_privilege($1, oid, p) END
  UNION ALL
  SELECT format('function %s', p.oid::regprocedure)
  FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
  WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND has_function_privilege($1, p.oid, 'EXECUTE')
  UNION ALL
  SELECT format('member of %s', roleid::regrole) FROM pg_auth_members WHERE member = $1::regrole
  UNION ALL
  SELECT format('owner of %s', name) FROM relations JOIN pg_class AS c USING (oid)
  WHERE c.relowner = $1::regrole
  UNION ALL
  SELECT format('attribute %s', key)
  FROM pg_roles AS r CROSS JOIN jsonb_each_text(to_jsonb(r))
  WHERE r.rolname = $1 AND value = 'true' AND key NOT IN ('rolinherit', 'rolcanlogin')
)
SELECT line FROM held
"""


async def test_what_the_service_may_do(empty: Database) -> None:
    await _migrate(empty)
    rows = await empty.fetch(PRIVILEGES, "payments_app")
    assert {row["line"] for row in rows} == APP_PRIVILEGES
    login = await empty.fetch(PRIVILEGES, "payments_app_dev")
    assert {row["line"] for row in login} == APP_PRIVILEGES | {"member of payments_app"}


async def test_the_migrator_is_nothing_until_it_becomes_the_owner(empty: Database) -> None:
    await _migrate(empty)
    privileges = {"database CONNECT", "schema public USAGE", "member of payments_owner"}
    rows = await empty.fetch(PRIVILEGES, "payments_migrator")
    assert {row["line"] for row in rows} == privileges
    login = await empty.fetch(PRIVILEGES, "payments_migrator_dev")
    assert {row["line"] for row in login} == privileges | {"member of payments_migrator"}


async def test_nobody_logs_in_as_the_owner(empty: Database) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(empty.url("payments_owner"))


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM payments",
        "TRUNCATE payments",
        "UPDATE payments SET payment = 1",
        "UPDATE payments SET created_by = 'x'",
        "UPDATE payments SET created_at = now()",
        "INSERT INTO payments (created_at, created_by) VALUES ('2020-01-01', 'x')",
        "UPDATE payments SET data = '{}'",
        "SELECT setval('payments_id_seq', 1)",
        "INSERT INTO api_keys (client, hash, scopes) VALUES ('x', '', '{}')",
        "UPDATE api_keys SET revoked_at = NULL",
        "DELETE FROM schema_migrations",
        "CREATE TABLE mine ()",
        "CREATE SCHEMA mine",
        "SET ROLE payments_owner",
        "DROP TABLE payments",
    ],
)
async def test_what_the_service_may_not_do(database: Database, sql: str) -> None:
    async with database.connect("payments_app") as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(sql)


@pytest.mark.parametrize("user", ["payments_app", "payments_app_dev", "postgres"])
@pytest.mark.parametrize(
    "change",
    [
        "consumed_by = 'x'",
        "consumed_at = now()",
        "status = 'inserted', consumed_at = NULL, consumed_by = NULL",
        "deleted_by = 'x'",
        "deleted_at = now()",
        "deleted_at = NULL, deleted_by = NULL",
    ],
)
async def test_evidence_is_written_once(database: Database, change: str, user: str) -> None:
    for sql in (
        "INSERT INTO payments (created_by) VALUES ('x')",
        "UPDATE payments SET status = 'consumed', consumed_at = now(), consumed_by = 'y'",
        "UPDATE payments SET deleted_at = now(), deleted_by = 'z'",
    ):
        await database.fetch(sql)
    (before,) = await database.fetch("SELECT * FROM payments")
    async with database.connect(user) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="cannot be changed"):
            await connection.execute(f"UPDATE payments SET {change}")  # noqa: S608
    assert await database.fetch("SELECT * FROM payments") == [before]


@pytest.mark.parametrize(
    "row",
    [
        {"id": "0"},
        {"payment": "100000"},
        {"payment": "-0.01"},
        {"payment": "NaN"},
        {"status": "consumed"},
        {"consumed_by": "x"},
        {"deleted_by": "x"},
        {"idempotency_key": ""},
        {"idempotency_key": "x" * 256},
    ],
)
async def test_rows_that_the_database_itself_refuses(
    database: Database, row: dict[str, str]
) -> None:
    [(column, value)] = row.items()
    with pytest.raises((asyncpg.CheckViolationError, asyncpg.NumericValueOutOfRangeError)):
        await database.fetch(
            f"INSERT INTO payments (created_by, {column}) VALUES ('x', '{value}')"  # noqa: S608
        )
