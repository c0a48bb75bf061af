"""The way to PostgreSQL: connections, their time limits, and what their failures mean."""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from payments import iam, metrics, migrate, queries, telemetry
from payments.config import Settings
from payments.errors import UNAVAILABLE, DatabaseUnavailable, NotReady

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

_logger = logging.getLogger(__name__)

# What says that another server has taken over: the one at the other end does not answer, not even
# that the statement took too long, or lives on read-only. All connections of the pool lead there.
_LOST = (TimeoutError, asyncpg.ReadOnlySQLTransactionError)


# How many connections there are before the first caller: creations, reads and consumptions share
# one each, and there is one for whatever else.
_WARM = 4


class Connection(asyncpg.Connection):
    """A connection that tells of its statements.

    It goes back to the pool without a round trip: every statement of the service stands alone, and
    no session state is ever set that a reset would have to undo.
    """

    async def fetch(  # type: ignore[override]  # nobody asks for another class of rows
        self, query: str, *arguments: Any, **options: Any
    ) -> list[asyncpg.Record]:
        """Runs one of the statements of `queries`; another runs as well, under no name."""
        with telemetry.statement(queries.NAMES.get(query, "_OTHER")):
            return await super().fetch(query, *arguments, **options)

    def get_reset_query(self) -> str:
        """Returns no query at all."""
        return ""


def options(settings: Settings) -> dict[str, Any]:
    """Returns what asyncpg is told of a connection, besides its address."""
    names = {"application_name": "payments", "timezone": "UTC"}
    if settings.database_pooler:
        # The next statement may come to another connection of PostgreSQL, where none is prepared,
        # and what is set is set for others as well: the session is the pooler's to set.
        return {"server_settings": names, "statement_cache_size": 0}
    return {"server_settings": names | session(settings)}


def session(settings: Settings) -> dict[str, str]:
    """Returns what is set for each connection, by its name in PostgreSQL; times in milliseconds.

    It is sent as the connection is opened, so that no `ALTER ROLE` or `ALTER DATABASE` overrides
    it: every role may change its own defaults.
    """
    return queries.SESSION | {
        # A payment is on disk before it is acknowledged.
        "synchronous_commit": "on",
        # No query is long enough to gain from compilation, and a plan's estimated cost can say so.
        "jit": "off",
        # Every statement has an index to go by. A plan that was made while the table was small, and
        # is kept, would read it from end to end when it is not small any more.
        "enable_seqscan": "off",
        # Nor is any better off with all of an index than with its beginning: without statistics, a
        # page of a list looks as if it were.
        "enable_bitmapscan": "off",
        "statement_timeout": str(round(settings.statement_timeout_seconds * 1000)),
        "lock_timeout": str(round(settings.lock_timeout_seconds * 1000)),
        "idle_in_transaction_session_timeout": str(round(settings.request_timeout_seconds * 1000)),
    }


class Database:
    """A pool of connections that are made on demand, so that the service starts without any."""

    _pool: asyncpg.Pool

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._password = iam.password(settings.database_url, settings.database_iam_region)
        # asyncpg's own queue sends whom a newcomer has overtaken back to its end, again and again.
        self._turns = asyncio.Semaphore(settings.pool_size)

    async def open(self) -> None:
        """Makes the pool; asks nothing of the database yet."""
        settings = self._settings
        self._pool = await asyncpg.create_pool(
            settings.database_url,
            password=self._password,
            min_size=0,
            max_size=settings.pool_size,
            connection_class=Connection,
            timeout=settings.connect_timeout_seconds,
            command_timeout=settings.command_timeout_seconds,
            **options(settings),
        )
        metrics.watch(self._pool)

    async def warm(self) -> None:
        """Makes connections that know the table already, so that the first callers wait for none.

        It is no failure when they cannot be had: who needs one makes it.
        """
        met = asyncio.Barrier(min(_WARM, self._settings.pool_size))

        async def make() -> None:
            async with self.connection() as connection:
                await connection.fetch(queries.READ, [])
                await met.wait()  # one that goes back at once would be lent again

        try:
            async with asyncio.timeout(self._settings.ready_timeout_seconds):
                async with asyncio.TaskGroup() as group:
                    for _ in range(met.parties):
                        group.create_task(make())
        except* (TimeoutError, DatabaseUnavailable, asyncpg.PostgresError) as errors:
            _logger.info("the pool could not be warmed: %r", errors.exceptions[0])

    async def close(self) -> None:
        """Closes the pool; what still runs is cut off after the request timeout."""
        try:
            async with asyncio.timeout(self._settings.request_timeout_seconds):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> "AsyncIterator[PoolConnectionProxy]":
        """Lends a connection.

        Raises:
            DatabaseUnavailable: none could be had in time, or it failed while it was lent. Whether
                a write was committed is then not known.
        """
        try:
            connection = await self._acquire()
        except (*UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
            raise DatabaseUnavailable(
                "No database connection could be had in time; nothing was changed."
            ) from error
        try:
            try:
                yield connection
            except _LOST:
                # Not to be waited for any longer, nor to be lent again; nor are the others.
                connection.terminate()
                await self._pool.expire_connections()
                raise
            finally:
                try:
                    await self._pool.release(
                        connection, timeout=self._settings.acquire_timeout_seconds
                    )
                finally:
                    self._turns.release()
        except asyncpg.LockNotAvailableError:
            raise  # It can be about one row of a batch, that then tries the others alone.
        except UNAVAILABLE as error:
            raise DatabaseUnavailable(
                "The database did not answer in time; the request may or may not have taken"
                " effect. Repeat it, with its Idempotency-Key if it had one."
            ) from error

    async def _acquire(self) -> "PoolConnectionProxy":
        asked = time.perf_counter()
        metrics.Active.waits += 1
        try:
            async with asyncio.timeout(self._settings.acquire_timeout_seconds):
                await self._turns.acquire()
                try:
                    return await self._pool.acquire()
                except BaseException:
                    self._turns.release()
                    raise
        except TimeoutError:
            metrics.connection_timeouts.inc()
            raise
        finally:
            metrics.Active.waits -= 1
            metrics.connection_wait.observe(time.perf_counter() - asked)


# Why there is no connection, the most special error first. `/readyz` needs no key: names of hosts
# and users stand in the log alone.
_REASONS = (
    (iam.CredentialsError, "AWS credentials for the database cannot be had"),
    (asyncpg.InvalidAuthorizationSpecificationError, "database refuses the user or the password"),
    (asyncpg.InvalidCatalogNameError, "database does not exist on its server"),
    (asyncpg.InsufficientPrivilegeError, "database's user lacks a privilege"),
    (asyncpg.TooManyConnectionsError, "database has no connection left"),
    (asyncpg.TargetServerAttributeNotMatched, "target_session_attrs match no server"),
    (ssl.SSLCertVerificationError, "database's certificate is not trusted"),
    (ssl.SSLError, "database cannot be reached over TLS"),
    # Of the driver, that was given what cannot be a host, a port or the like.
    (ValueError, "settings of the database connection are wrong"),
    (TimeoutError, "database does not answer in time"),
    (OSError, "database cannot be reached"),
)


def _reason(error: Exception) -> str:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    state = getattr(error, "sqlstate", None)
    return f"database does not answer{f' (SQLSTATE {state})' if state else ''}"


class Probe:
    """The readiness check's own connection, so that a busy pool does not make it lie."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._password = iam.password(settings.database_url, settings.database_iam_region)
        self._connection: asyncpg.Connection | None = None
        self._checking: asyncio.Task[NotReady | None] | None = None

    async def check(self) -> None:
        """Checks that the database can serve; callers at one time share one answer.

        Raises:
            NotReady: it cannot; its cause, for the log, is the database's or the driver's error.
        """
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        if (failure := await asyncio.shield(self._checking)) is not None:
            raise failure

    async def _check(self) -> NotReady | None:
        cause: Exception | None = None
        try:
            async with asyncio.timeout(self._settings.ready_timeout_seconds):
                reason = await self._ask()
        except asyncpg.UndefinedTableError:
            reason = "database is not migrated"
        except (*UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
            self.close()
            reason, cause = _reason(error), error
        if reason is None:
            return None
        failure = NotReady(f"The {reason}.")
        failure.__cause__ = cause
        return failure

    async def _ask(self) -> str | None:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._settings.database_url,
                password=self._password,
                timeout=self._settings.ready_timeout_seconds,
                command_timeout=self._settings.ready_timeout_seconds,
                **options(self._settings),
            )
        wanted = session(self._settings)
        (state,) = await self._connection.fetch(queries.READINESS, [*wanted], [*wanted.values()])
        if state["read_only"]:
            self.close()  # another server may have taken over: the next check asks that one
            return "database is read-only"
        if state["unsafe"]:
            return f"database could lose payments: {', '.join(state['unsafe'])} is off"
        if state["unlimited"]:
            return f"pooler's connections lack {', '.join(state['unlimited'])} as set here"
        if state["version"] < migrate.newest_version():
            return f"database is at migration {state['version']}, older than this service"
        return None

    def close(self) -> None:
        """Drops the connection without waiting for the server."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
