"""The command `payments`: serve, migrate, manage keys, and bring the old system's payments."""

import os
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import asyncpg
import click
import msgspec

from payments import __version__, auth, config, migrate, queries
from payments.command import database, load_settings, on_database, run
from payments.legacy import commands
from payments.upkeep import echo, echo_once

# A command imports what it alone needs: loading the web server, metrics and traces takes longer
# than most commands run.

PURGE_ROWS = 1000  # a statement's worth: short locks, and progress that can be seen
IMPOSSIBLE_ROWS = 10  # as many as fit into a message


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """The payments API and its upkeep.

    Everything is set by environment variables; the database is PAYMENTS_DATABASE_URL, as
    postgresql://user@host:5432/payments. `serve` and `audit` connect as payments_app, `roles` as
    the database's administrator, all other commands as payments_migrator; or as the logins that
    are named after an environment.
    """


def _check_environment(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    # As terraform/environment/variables.tf has it, which names the same logins.
    if value is not None and not re.fullmatch("[a-z][a-z0-9]{1,19}", value):
        raise click.BadParameter(
            f"{value!r} must have 2 to 20 lower-case letters and digits, and begin with a letter"
        )
    return value


@main.command()
def serve() -> None:
    """Serve the API until SIGTERM or Ctrl-C."""
    from payments import logs, metrics_server, server, tracing
    from payments.app import Application

    settings = load_settings()
    try:
        application = Application(settings)
        logs.configure(settings)
        tracing.configure(settings)
        metrics_server.serve(settings)
        port = config.variable("http_port")
        listener = server.listen(settings.http_host, settings.http_port, port)
    except config.SettingsError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(server.run(application, settings, listener))


@main.command()
@click.option(
    "--environment",
    metavar="NAME",
    callback=_check_environment,
    help="Also make the logins payments_app_NAME and payments_migrator_NAME, which have the"
    " privileges of the two. On RDS only these sign in with IAM then.",
)
def roles(environment: str | None) -> None:
    """Make the roles payments_owner, payments_migrator and payments_app.

    Once for each database, by its administrator, before the first `payments migrate`. Safe to run
    again.

    \b
    payments roles --environment dev
    """
    run(migrate.apply_roles(*database(), environment=environment))
    echo("The roles are there.")


@main.command("migrate")
@click.option("--dry-run", is_flag=True, help="Say what would be applied, and change nothing.")
def migrate_command(dry_run: bool) -> None:
    """Bring the database's schema to this version.

    Applies the SQL files that are not applied yet, each in a transaction of its own, waiting for
    locks no longer than two seconds at a time. Safe to run again, and from several places at once.
    """
    names = run(migrate.migrate(*database(), dry_run=dry_run, report=echo))
    if not names:
        echo("The schema is up to date.")


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

    async def work(connection: asyncpg.Connection) -> None:
        try:
            async with connection.transaction():
                # Printed before it is committed: a key that could not be printed does not exist.
                echo_once(await auth.create_key(connection, client, scopes, expires_at or None))
        except (
            asyncpg.IdleInTransactionSessionTimeoutError,
            asyncpg.InterfaceError,
            asyncpg.PostgresConnectionError,
        ):
            raise click.ClickException(
                "the database ended the connection before the key was saved; standard output must"
                f" be read within {auth.PRINT_SECONDS} s: create another key, and revoke this one"
                " if `payments keys list` has it"
            ) from None

    on_database(work, auth.SESSION)


@keys.command("list")
def keys_list() -> None:
    """List all keys there ever were; the keys themselves are not stored."""
    rows = on_database(auth.list_keys, auth.SESSION)
    form = "{:>6}  {:<20}  {:<9}  {:<20}  {:<20}  {}"
    echo(form.format("ID", "CLIENT", "STATE", "CREATED", "EXPIRES", "SCOPES"))
    for row in rows:
        echo(
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
    client = on_database(lambda connection: auth.revoke_key(connection, id), auth.SESSION)
    if client is None:
        raise click.ClickException(f"there is no live key {id}")
    echo(f"Key {id} of {client} is revoked.")


@main.command()
@click.option(
    "--retention-days",
    type=click.IntRange(1),
    default=365,
    show_default=True,
    help="How long a deleted payment's row is kept.",
)
def purge(retention_days: int) -> None:
    """Remove the rows of payments deleted longer ago than the retention, and old keys of consumers.

    A removed row takes its Idempotency-Key along: the same key would create a new payment. The keys
    of POST /v1/consumptions are removed as long after they were used. Nothing is
    removed while a payment is deleted before it was created, or in the future: its times are false.
    """
    total = on_database(lambda connection: _purge(connection, timedelta(days=retention_days)))
    echo(f"{total} payments removed.")


@main.command("audit")
@click.option("--serve", is_flag=True, help="Repeat it until SIGTERM, and serve its metrics.")
@click.option(
    "--period-seconds",
    type=click.FloatRange(0.1, 3600),
    default=60,
    show_default=True,
    help="With --serve, the pause between two audits.",
)
def audit_command(serve: bool, period_seconds: float) -> None:
    """Check what must be true of the payments; exit with 1 if anything is not. Reads only.

    Every row is looked at, ten thousand at a time, and no row is locked. With --serve, `/metrics`
    and `/livez` are on PAYMENTS_METRICS_PORT: docs/observability.md says what is audited, and how.
    """
    from payments import audit

    if serve:
        _serve_audit(period_seconds)
    rows, breaches = on_database(audit.once, audit.SESSION)
    form = "{:<24}  {:>10}  {}"
    echo(form.format("INVARIANT", "BROKEN BY", "EXAMPLES"))
    for invariant, broken, examples in breaches:
        echo(form.format(invariant, f"{broken:,}", ", ".join(map(str, examples))).rstrip())
    echo(f"{rows:,} payments audited.")
    sys.exit(any(breach.rows for breach in breaches))


def _serve_audit(period_seconds: float) -> NoReturn:
    from payments import audit, logs, server

    settings = load_settings()
    # No load balancer sends to it, so that none must notice its end.
    settings = msgspec.structs.replace(settings, shutdown_delay_seconds=0.0)
    try:
        application = audit.Application(settings, period_seconds)
        port = config.variable("metrics_port")
        listener = server.listen(settings.http_host, settings.metrics_port, port)
    except config.SettingsError as error:
        raise click.ClickException(str(error)) from None
    logs.configure(settings)
    sys.exit(server.run(application, settings, listener))


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
    from payments import smoke

    key = os.environ.get("PAYMENTS_SMOKE_KEY") or None
    try:
        failures = smoke.check(url, key, echo, anonymous=anonymous, wait_seconds=wait_seconds)
    except smoke.Failed as error:
        raise click.ClickException(str(error)) from None
    sys.exit(failures > 0)


async def _purge(connection: asyncpg.Connection, retention: timedelta) -> int:
    if impossible := await connection.fetch(queries.IMPOSSIBLE, IMPOSSIBLE_ROWS):
        ids = ", ".join(str(row["id"]) for row in impossible)
        raise click.ClickException(
            f"nothing was removed: the deletions of payments {ids} have impossible times; see"
            " `payments audit`, and correct them by a reviewed migration"
        )
    before = await connection.fetchval("SELECT now() - $1::interval", retention)
    # A payment is deleted after it was consumed: its key is removed before it.
    await _purge_all(connection, queries.PURGE_CONSUMPTIONS, before, "keys")
    return await _purge_all(connection, queries.PURGE, before, "payments")


async def _purge_all(connection: asyncpg.Connection, sql: str, before: datetime, name: str) -> int:
    total = 0
    while True:
        result = await connection.execute(sql, before, PURGE_ROWS)
        removed = int(result.removeprefix("DELETE "))
        total += removed
        if removed < PURGE_ROWS:
            return total
        echo(f"{total} {name} removed so far", err=True)


main.add_command(commands.import_command)
main.add_command(commands.verify_command)
