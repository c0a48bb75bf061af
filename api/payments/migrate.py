"""Migrations: the plain SQL files of `api/migrations`, forward only, each applied once.

A file runs in one transaction with its own record, so that it is applied whole or not at all. A
file that begins with `-- no transaction` (CREATE INDEX CONCURRENTLY) runs statement by statement,
each ended by `;` and a line's end, so that it can hold no function body. All files are safe to run
twice.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import asyncpg

from payments import locks, upkeep
from payments.iam import Tokens

DIRECTORY = Path(__file__).parent.parent / "migrations"
ROLES = DIRECTORY / "roles.sql"

# ALTER TABLE waits for what runs, and everything else waits behind it: better to give up soon and
# try again than to stop the service.
LOCK_TIMEOUT_SECONDS = 2
ATTEMPTS = 10
PAUSE_SECONDS = 1
OTHERS_SECONDS = 600

# The number is arbitrary; every run of this program takes the same.
ADVISORY_LOCK = 7_246_301_955

HISTORY = """
CREATE TABLE IF NOT EXISTS public.schema_migrations (
  version integer PRIMARY KEY,
  name text NOT NULL,
  checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON public.schema_migrations TO payments_app;
"""

INVALID_INDEXES = """
SELECT indexrelid::regclass::text AS name
FROM pg_index
WHERE NOT indisvalid AND indrelid::regclass::text NOT LIKE 'pg_%'
"""

APPLIED = "SELECT version, name, checksum FROM public.schema_migrations ORDER BY version"

RECORD = "INSERT INTO public.schema_migrations (version, name, checksum) VALUES ($1, $2, $3)"


class MigrationError(Exception):
    """The files and the database do not fit together, or a file could not be applied."""


class Migration(NamedTuple):
    """One file."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def transactional(self) -> bool:
        """Whether the file is applied in one transaction."""
        return not self.sql.startswith("-- no transaction")


def load(directory: Path = DIRECTORY) -> list[Migration]:
    """Returns the files in the order of their numbers.

    Raises:
        MigrationError: there is no file, two have one number, or a number is missing.
    """
    files = sorted(directory.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    if not files:
        raise MigrationError(f"there are no migrations in {directory}")
    migrations = [Migration(int(file.stem[:4]), file.stem, file.read_text()) for file in files]
    for number, migration in enumerate(migrations, start=1):
        if migration.version != number:
            raise MigrationError(f"{migration.name} should have the number {number:04}")
    return migrations


@cache
def newest_version() -> int:
    """Returns the number of the migration that this version of the service needs."""
    return len(load())


async def apply_roles(
    url: str, password: Tokens | None = None, *, environment: str | None = None
) -> None:
    """Makes the roles in the database, or leaves them; needs an administrator's URL.

    With `environment`, also the two logins that are named after it.
    """
    settings = {"payments.environment": environment} if environment else None
    async with upkeep.connect(url, password, settings) as connection:
        await connection.execute(ROLES.read_text())


async def migrate(
    url: str,
    password: Tokens | None = None,
    *,
    dry_run: bool = False,
    report: Callable[[str], None] = lambda line: None,
    directory: Path = DIRECTORY,
) -> list[str]:
    """Applies what is not applied yet, in order; returns the names.

    Several runs at once wait for each other. With `dry_run` nothing is changed.

    Raises:
        MigrationError: an applied file was changed, another run does not end, or a file failed:
            what it did is rolled back, unless it is one without a transaction.
    """
    migrations = load(directory)
    async with upkeep.connect(url, password) as connection:
        await _wait_for_others(connection, report)
        await connection.execute("SET ROLE payments_owner")
        await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
        pending = _pending(migrations, await _history(connection, dry_run))
        for migration in pending:
            if dry_run:
                report(f"{migration.name} would be applied")
            else:
                await _apply_patiently(connection, migration, report)
                report(f"{migration.name} applied")
        return [migration.name for migration in pending]


async def _wait_for_others(connection: asyncpg.Connection, report: Callable[[str], None]) -> None:
    # Asked again and again: a statement that waits holds a snapshot, which CREATE INDEX
    # CONCURRENTLY of the run that is waited for would wait for in turn.
    deadline = time.monotonic() + OTHERS_SECONDS
    while time.monotonic() < deadline:
        if await locks.take(connection, ADVISORY_LOCK):
            return
        report("another migration runs; waiting for it")
        await asyncio.sleep(PAUSE_SECONDS)
    raise MigrationError(f"another migration still runs after {OTHERS_SECONDS} s")


async def _history(connection: asyncpg.Connection, dry_run: bool) -> dict[int, asyncpg.Record]:
    if not dry_run:
        await connection.execute(HISTORY)
    elif await connection.fetchval("SELECT to_regclass('public.schema_migrations')") is None:
        return {}
    return {row["version"]: row for row in await connection.fetch(APPLIED)}


def _pending(migrations: list[Migration], applied: dict[int, asyncpg.Record]) -> list[Migration]:
    pending = []
    for migration in migrations:
        record = applied.get(migration.version)
        if record is None:
            pending.append(migration)
        elif record["checksum"] != migration.checksum:
            raise MigrationError(
                f"{migration.name} was changed after it was applied; make a new file instead"
            )
    # A version of the service older than the database is normal: a rollback leaves the schema.
    return pending


async def _apply_patiently(
    connection: asyncpg.Connection, migration: Migration, report: Callable[[str], None]
) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await _apply(connection, migration)
            return
        except asyncpg.LockNotAvailableError:
            report(f"{migration.name} waits for a lock, attempt {attempt} of {ATTEMPTS}")
            await asyncio.sleep(PAUSE_SECONDS)
        except asyncpg.PostgresError as error:
            raise MigrationError(f"{migration.name} failed: {error}") from error
    raise MigrationError(
        f"{migration.name} got no lock in {ATTEMPTS} attempts; nothing was changed"
    )


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    record = (migration.version, migration.name, migration.checksum)
    if migration.transactional:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(RECORD, *record)
        return
    # What is built without a transaction blocks no writer, and left half-built it would be in the
    # way of the next attempt: it waits as long as it must.
    await connection.execute("SET lock_timeout = 0")
    for statement in migration.sql.split(";\n"):
        if statement.strip():
            await connection.execute(statement)
    if invalid := [row["name"] for row in await connection.fetch(INVALID_INDEXES)]:
        raise MigrationError(
            f"{migration.name} left invalid indexes; drop them and run it again: {invalid}"
        )
    await connection.execute(RECORD, *record)
    await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
