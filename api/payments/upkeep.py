"""What the commands for upkeep share: their connection, their output, and what failures mean."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import click

from payments import errors, iam
from payments.database_url import VARIABLE

CONNECT_TIMEOUT_SECONDS = 10


class Unreachable(Exception):
    """The database could not be reached, or went away; the message says why."""


@asynccontextmanager
async def connect(
    url: str, password: iam.Tokens | None = None, session: dict[str, str] | None = None
) -> AsyncIterator[asyncpg.Connection]:
    """Lends a connection of its own.

    Only a failure of this connection is blamed on the database: any other one, such as that of a
    file, passes as it is.

    Raises:
        Unreachable: there is no connection, or it ended while it was lent.
        asyncpg.PostgresError: PostgreSQL refused the connection, or a statement.
    """
    try:
        connection = await asyncpg.connect(
            url, password=password, timeout=CONNECT_TIMEOUT_SECONDS, server_settings=session
        )
    except iam.CredentialsError as error:
        raise Unreachable(str(error)) from error
    except asyncpg.PostgresError:
        raise
    except (ValueError, *errors.UNAVAILABLE) as error:
        # A certificate that is not trusted is both.
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            raise Unreachable(f"{VARIABLE}, or a PG* variable, is wrong: {error}") from error
        raise _unreachable(error) from error
    try:
        yield connection
    except asyncpg.PostgresError:
        raise
    except errors.UNAVAILABLE as error:
        if connection.is_closed():
            raise _unreachable(error) from error
        raise
    finally:
        await connection.close()


def _unreachable(error: Exception) -> Unreachable:
    reason = str(error) or f"no answer within {CONNECT_TIMEOUT_SECONDS} s"
    return Unreachable(f"{VARIABLE}: the database does not answer ({reason})")


def echo(text: str = "", *, err: bool = False) -> None:
    """Prints a line, at once.

    Raises:
        click.ClickException: it could not be written.
    """
    try:
        click.echo(text, err=err)
    except OSError as error:
        raise click.ClickException(f"standard output: {error.strerror}") from None


def echo_once(text: str) -> None:
    """Prints what cannot be printed a second time.

    Raises:
        click.ClickException: it could not be written, or there is no standard output.
    """
    if sys.stdout is None:
        raise click.ClickException("standard output is closed")
    echo(text)


def failure(error: OSError) -> str:
    """Returns what failed, by the name of the file if it was one."""
    reason = error.strerror or str(error) or "it took too long"
    return f"{error.filename}: {reason}" if error.filename else reason
