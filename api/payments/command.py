"""Runs a command's work on the database: settings, connection, and a message for each failure."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import asyncpg
import click

from payments import auth, config, iam, migrate, upkeep

Result = TypeVar("Result")

# What it means that the database refuses something, by its constraint.
REFUSALS = {
    "api_keys_client_name": (
        "CLIENT must have 1 to 63 characters of a-z, 0-9, '.', '_' and '-', and begin with a"
        " letter or a digit"
    )
}


def load_settings() -> config.Settings:
    """Returns the settings.

    Raises:
        click.ClickException: one is missing or wrong.
    """
    try:
        settings = config.load()
        config.check_here(settings.database_url)
        return settings
    except config.SettingsError as error:
        raise click.ClickException(str(error)) from None


def database() -> tuple[str, iam.Tokens | None]:
    """Returns the settings that the commands for upkeep need: the URL, and the source of passwords.

    Raises:
        click.ClickException: one is missing or wrong.
    """
    url = os.environ.get("PAYMENTS_DATABASE_URL")
    region = os.environ.get("PAYMENTS_DATABASE_IAM_REGION", "")
    if not url:
        raise click.ClickException("PAYMENTS_DATABASE_URL is not set")
    try:
        config.check_database(url, region)
        config.check_here(url)
        return url, iam.password(url, region)
    except config.SettingsError as error:
        raise click.ClickException(str(error)) from None


def on_database(
    work: Callable[[asyncpg.Connection], Awaitable[Result]], session: dict[str, str] | None = None
) -> Result:
    """Returns what the work returns, which gets a connection with the owner's privileges.

    Raises:
        click.ClickException: the database cannot be reached, or refuses it.
    """

    async def connect_and_work() -> Result:
        async with upkeep.connect(*database(), session) as connection:
            if await connection.fetchval("SELECT pg_has_role('payments_owner', 'SET')"):
                await connection.execute("SET ROLE payments_owner")
            return await work(connection)

    return run(connect_and_work())


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Returns what the work returns.

    Raises:
        click.ClickException: it failed; the message says what to do.
    """
    try:
        return asyncio.run(work)
    except (migrate.MigrationError, auth.KeyLimitError, upkeep.Unreachable) as error:
        raise click.ClickException(str(error)) from None
    except asyncpg.CheckViolationError as error:
        reason = REFUSALS.get(str(error.constraint_name), f"refused by {error.constraint_name}")
        raise click.ClickException(reason) from None
    except asyncpg.LockNotAvailableError:
        raise click.ClickException(
            "PAYMENTS_DATABASE_URL: another command or session keeps a lock that this needs; run it"
            " again when that has ended"
        ) from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise click.ClickException(
            f"the user of PAYMENTS_DATABASE_URL may not do this ({error}): `roles` connects as the"
            " administrator, other commands as payments_migrator"
        ) from None
    except asyncpg.PostgresError as error:
        raise click.ClickException(f"PAYMENTS_DATABASE_URL: {error}") from None
    except OSError as error:
        raise click.ClickException(upkeep.failure(error)) from None
