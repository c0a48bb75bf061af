"""Migrations: the plain SQL files of `api/migrations`, forward only, each applied once.

A file runs in one transaction with its own record, so that it is applied whole or not at all. A
file that begins with `-- no transaction` (CREATE INDEX CONCURRENTLY) runs statement by statement,
and must be safe to run twice, as all of them are.
"""

import asyncio
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import asyncpg

DIRECTORY = Path(__file__).parent.parent / "migrations"
ROLES = DIRECTORY / "roles.sql"

# ALTER TABLE waits for what runs, and everything else waits behind it: better to give up soon and
# try again than to stop the service.
LOCK_TIMEOUT_SECONDS = 2
ATTEMPTS = 10
PAUSE_SECONDS = 1

# The number is arbitrary; every run of this program takes the same.
ADVISORY_LOCK = 7_246_301_955

HISTORY = """
CREATE TABLE IF NOT EXISTS public.schema_migrations (
  version integer PRIMARY KEY,
  name text NOT NULL,
  checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
)
"""

GRANT_HISTORY = "GRANT SELECT ON public.schema_migrations TO payments_app"

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
        MigrationError: two files have one number, or a number is missing.
    """
    files = sorted(directory.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    migrations = [Migration(int(file.stem[:4]), file.stem, file.read_text()) for file in files]
    for number, migration in enumerate(migrations, start=1):
        if migration.version != number:
            raise MigrationError(f"{migration.name} should have the number {number:04}")
    return migrations


@cache
def newest_version() -> int:
    """Returns the number of the migration that this version of the service needs."""
    return len(load())


async def apply_roles(url: str) -> None:
    """Makes the three roles in the database, or leaves them; needs an administrator's URL."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(ROLES.read_text())
    finally:
        await connection.close()


async def migrate(
    url: str,
    *,
    dry_run: bool = False,
    report: Callable[[str], None] = lambda line: None,
    directory: Path = DIRECTORY,
) -> list[str]:
    """Applies what is not applied yet, in order; returns the names.

    Several runs at once wait for each other. With `dry_run` nothing is changed.

    Raises:
        MigrationError: an applied file was changed or is missing, or a file failed; its effects
            are rolled back.
    """
    migrations = load(directory)
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute("SELECT pg_advisory_lock($1::bigint)", ADVISORY_LOCK)
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
    finally:
        await connection.close()


async def _history(connection: asyncpg.Connection, dry_run: bool) -> dict[int, asyncpg.Record]:
    exists = await connection.fetchval("SELECT to_regclass('public.schema_migrations')")
    if exists is None:
        if dry_run:
            return {}
        await connection.execute(HISTORY)
        await connection.execute(GRANT_HISTORY)
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
    else:
        for statement in migration.sql.split(";\n"):
            if statement.strip():
                await connection.execute(statement)
        await connection.execute(RECORD, *record)
