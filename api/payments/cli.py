"""The command `payments`: serve, migrate, and manage keys."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import asyncpg
import click

from payments import __version__, auth, config, db, iam, migrate, queries, smoke

Result = TypeVar("Result")

# What it means that the database refuses something, by its constraint.
REFUSALS = {
    "api_keys_client_name": (
        "CLIENT must have 1 to 63 characters of a-z, 0-9, '.', '_' and '-', and begin with a"
        " letter or a digit"
    )
}

PURGE_ROWS = 1000  # a statement's worth: short locks, and progress that can be seen


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """The payments API and its upkeep.

    Everything is set by environment variables; the database is PAYMENTS_DATABASE_URL, as
    postgresql://user@host:5432/payments. Commands that change the schema or the keys connect as
    payments_migrator, `serve` as payments_app, `roles` as the database's administrator.
    """


@main.command()
def serve() -> None:
    """Serve the API until SIGTERM or Ctrl-C."""
    # Imported here: no other command needs the web server, which takes a while to load.
    from payments import server, telemetry
    from payments.app import Application

    settings = _settings()
    try:
        application = Application(settings)
    except config.SettingsError as error:
        raise click.ClickException(str(error)) from None
    telemetry.configure_logging(settings)
    try:
        telemetry.serve_metrics(settings)
    except OSError as error:
        raise click.ClickException(
            f"PAYMENTS_METRICS_PORT {settings.metrics_port}: {error.strerror}"
        ) from None
    sys.exit(server.run(application, settings))


@main.command()
def roles() -> None:
    """Make the roles payments_owner, payments_migrator and payments_app.

    Once for each database, by its administrator, before the first `payments migrate`. Safe to run
    again.
    """
    _run(migrate.apply_roles(*_database()))
    click.echo("The roles are there.")


@main.command("migrate")
@click.option("--dry-run", is_flag=True, help="Say what would be applied, and change nothing.")
def migrate_command(dry_run: bool) -> None:
    """Bring the database's schema to this version.

    Applies the SQL files that are not applied yet, each in a transaction of its own, waiting for
    locks no longer than two seconds at a time. Safe to run again, and from several places at once.
    """
    names = _run(migrate.migrate(*_database(), dry_run=dry_run, report=click.echo))
    if not names:
        click.echo("The schema is up to date.")


@main.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command("create")
@click.argument("client")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(auth.SCOPES),
    help="What the key may do; give it once for each scope.",
)
@click.option(
    "--expires-in-days", type=click.IntRange(1, 3650), help="By default it never expires."
)
def keys_create(client: str, scopes: tuple[str, ...], expires_in_days: int | None) -> None:
    """Make a key for CLIENT and print it, this once.

    A client can have two live keys, so that it can change to a new one without a gap: make the
    second, give it to the client, revoke the first.

    \b
    payments keys create shop --scope payments:read --scope payments:write
    """
    expires_at = expires_in_days and datetime.now(UTC) + timedelta(days=expires_in_days)
    key = _on_database(
        lambda connection: auth.create_key(connection, client, scopes, expires_at or None)
    )
    click.echo(key)


@keys.command("list")
def keys_list() -> None:
    """List all keys there ever were; the keys themselves are not stored."""
    rows = _on_database(auth.list_keys)
    form = "{:>6}  {:<20}  {:<9}  {:<20}  {:<20}  {}"
    click.echo(form.format("ID", "CLIENT", "STATE", "CREATED", "EXPIRES", "SCOPES"))
    for row in rows:
        click.echo(
            form.format(
                row["id"],
                row["client"],
                _state(row),
                f"{row['created_at']:%Y-%m-%d %H:%M:%S}",
                f"{row['expires_at']:%Y-%m-%d %H:%M:%S}" if row["expires_at"] else "never",
                " ".join(row["scopes"]),
            )
        )


def _state(row: asyncpg.Record) -> str:
    if row["revoked_at"] is not None:
        return "revoked"
    if row["expires_at"] is not None and row["expires_at"] <= datetime.now(UTC):
        return "expired"
    return "live"


@keys.command("revoke")
@click.argument("id", type=int)
def keys_revoke(id: int) -> None:
    """Revoke the key with the number ID (see `payments keys list`); felt within 30 seconds."""
    client = _on_database(lambda connection: auth.revoke_key(connection, id))
    if client is None:
        raise click.ClickException(f"there is no live key {id}")
    click.echo(f"Key {id} of {client} is revoked.")


@main.command()
@click.option(
    "--retention-days",
    type=click.IntRange(1),
    default=365,
    show_default=True,
    help="How long a deleted payment's row is kept.",
)
def purge(retention_days: int) -> None:
    """Remove the rows of payments deleted longer ago than the retention.

    A removed row takes its Idempotency-Key along: the same key would make a new payment.
    """
    total = _on_database(lambda connection: _purge(connection, timedelta(days=retention_days)))
    click.echo(f"{total} payments removed.")


@main.command("smoke")
@click.argument("url")
@click.option("--anonymous", is_flag=True, help="The service is set to ask for no key.")
@click.option(
    "--wait-seconds",
    type=click.FloatRange(0),
    default=30,
    show_default=True,
    help="How long the service may take to become ready.",
)
def smoke_command(url: str, anonymous: bool, wait_seconds: float) -> None:
    """Check the deployed service at URL from outside; exit with 1 if anything fails.

    With a key in PAYMENTS_SMOKE_KEY, which needs all three scopes, payments of one cent are made,
    consumed and deleted; without one, what needs none is checked.
    """
    key = os.environ.get("PAYMENTS_SMOKE_KEY") or None
    try:
        failures = smoke.check(url, key, click.echo, anonymous=anonymous, wait_seconds=wait_seconds)
    except smoke.Failed as error:
        raise click.ClickException(str(error)) from None
    sys.exit(failures > 0)


async def _purge(connection: asyncpg.Connection, retention: timedelta) -> int:
    total = 0
    while True:
        result = await connection.execute(queries.PURGE, retention, PURGE_ROWS)
        removed = int(result.removeprefix("DELETE "))
        total += removed
        if removed < PURGE_ROWS:
            return total
        click.echo(f"{total} payments removed so far", err=True)


def _settings() -> config.Settings:
    try:
        return config.load()
    except config.SettingsError as error:
        raise click.ClickException(str(error)) from None


def _database() -> tuple[str, iam.Tokens | None]:
    """Returns the settings that the commands for upkeep need: the URL, and what gives passwords."""
    url = os.environ.get("PAYMENTS_DATABASE_URL")
    region = os.environ.get("PAYMENTS_DATABASE_IAM_REGION", "")
    if not url:
        raise click.ClickException("PAYMENTS_DATABASE_URL is not set")
    try:
        config.check_database(url, region)
        return url, iam.password(url, region)
    except config.SettingsError as error:
        raise click.ClickException(str(error)) from None


def _on_database(work: Callable[[asyncpg.Connection], Awaitable[Result]]) -> Result:
    async def connect_and_work() -> Result:
        url, password = _database()
        connection = await asyncpg.connect(url, password=password, timeout=10)
        try:
            if await connection.fetchval("SELECT current_user") == "payments_migrator":
                await connection.execute("SET ROLE payments_owner")
            return await work(connection)
        finally:
            await connection.close()

    return _run(connect_and_work())


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return asyncio.run(work)
    except (migrate.MigrationError, auth.KeyLimitError) as error:
        raise click.ClickException(str(error)) from None
    except asyncpg.CheckViolationError as error:
        reason = REFUSALS.get(str(error.constraint_name), f"refused by {error.constraint_name}")
        raise click.ClickException(reason) from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise click.ClickException(
            f"the user of PAYMENTS_DATABASE_URL may not do this ({error}): `roles` connects as the"
            " administrator, other commands as payments_migrator"
        ) from None
    except asyncpg.PostgresError as error:
        raise click.ClickException(f"PAYMENTS_DATABASE_URL: {error}") from None
    except db.UNAVAILABLE as error:
        reason = str(error) or type(error).__name__
        raise click.ClickException(
            f"PAYMENTS_DATABASE_URL: the database does not answer ({reason})"
        ) from None
