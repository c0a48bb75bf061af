"""Who calls: API keys, their scopes, and how a revoked one is felt within seconds.

A key is 256 random bits. Only its SHA-256 is stored: a random key cannot be guessed from its hash,
so that nothing slower is needed.
"""

import asyncio
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from payments import queries
from payments.errors import Forbidden, Unauthenticated

if TYPE_CHECKING:
    from payments.db import Database

_logger = logging.getLogger(__name__)

READ = "payments:read"
WRITE = "payments:write"
DELETE = "payments:delete"
SCOPES = (READ, WRITE, DELETE)

LIVE_KEYS_LIMIT = 2  # one in use and the next one: enough to change a key without a gap

# Keys older than this are not trusted, so that a revoked one is felt within 30 s, the time of a
# read included.
_TRUSTED_SECONDS = 25.0

# An unknown key may have been made a moment ago, so that it waits for the keys to be read again;
# but they are not read more often than this, however many unknown keys somebody tries.
_PAUSE_SECONDS = 0.25

# More unknown keys than this at one time are somebody's guesses: the rest do not wait.
_UNKNOWN_KEYS_LIMIT = 50

_KEY_BYTES = 32
KEY_LENGTH = len(secrets.token_urlsafe(_KEY_BYTES))  # characters
_KEY = re.compile(rf"[A-Za-z0-9_-]{{{KEY_LENGTH}}}")
_PROOF_LENGTH = len("Bearer ") + KEY_LENGTH


class Client(NamedTuple):
    """The holder of a key."""

    name: str
    scopes: frozenset[str]
    ends: float  # as time.monotonic(): a wrong or changed clock neither ends a key nor lengthens it


class Keys:
    """All live keys, in memory, read again every few seconds."""

    def __init__(self, database: "Database", refresh_seconds: float) -> None:
        self._database = database
        self._refresh_seconds = refresh_seconds
        self._clients: dict[bytes, Client] = {}
        # What header proved which client since the keys were read: it need not be hashed again.
        self._proved: dict[str, Client] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._unknown = 0

    async def authenticate(self, authorization: str | None, scope: str) -> str:
        """Returns the name of the client that an `Authorization` header proves.

        Raises:
            Unauthenticated: there is no key, or it is malformed, unknown, expired or revoked.
            Forbidden: the key lacks the scope.
            DatabaseUnavailable: the keys are too old to be trusted, and cannot be read again.
        """
        authorization = authorization or ""
        client = self._proved.get(authorization)
        if client is None or time.monotonic() - self._read_at > self._refresh_seconds:
            scheme, _, key = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthenticated("Send `Authorization: Bearer <key>`.")
            if not _KEY.fullmatch(key.strip()):
                raise Unauthenticated(
                    f"The key must have {KEY_LENGTH} characters: letters, digits, `-` and `_`,"
                    " without quotes.",
                    error="invalid_token",
                )
            client = await self._find(_hash(key.strip()))
        if client is None or client.ends <= time.monotonic():
            raise Unauthenticated("This key is unknown, revoked or expired.", error="invalid_token")
        if len(authorization) == _PROOF_LENGTH:  # not with more spaces: there are few such forms
            self._proved[authorization] = client
        if scope not in client.scopes:
            raise Forbidden(f"This key lacks the scope {scope}.")
        return client.name

    async def _find(self, digest: bytes) -> Client | None:
        now = time.monotonic()
        if now - self._read_at > _TRUSTED_SECONDS:
            await self._read_since(now - _TRUSTED_SECONDS)
        elif now - self._read_at > self._refresh_seconds:
            self._read_soon()  # nobody waits for it
        if digest not in self._clients and self._unknown < _UNKNOWN_KEYS_LIMIT:
            self._unknown += 1
            try:
                await self._read_since(now)
            finally:
                self._unknown -= 1
        return self._clients.get(digest)

    async def _read_since(self, moment: float) -> None:
        while self._read_at < moment:
            # Shielded: a caller that gives up leaves the reading to the others.
            await asyncio.shield(self._read_soon())

    def _read_soon(self) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(_log_failure)
        return self._reading

    async def _read(self) -> None:
        await asyncio.sleep(self._read_at + _PAUSE_SECONDS - time.monotonic())
        started = time.monotonic()
        async with self._database.connection() as connection:
            rows = await connection.fetch(queries.LIVE_KEYS)
        self._clients = {row["hash"]: _client(row, started) for row in rows}
        self._proved = {}
        self._read_at = started


def _log_failure(reading: asyncio.Task[None]) -> None:
    if not reading.cancelled() and (error := reading.exception()) is not None:
        _logger.warning("the keys could not be read: %s", error.__cause__ or error)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _client(row: asyncpg.Record, read_at: float) -> Client:
    left = row["seconds_left"]
    ends = float("inf") if left is None else read_at + left
    return Client(row["client"], frozenset(row["scopes"]), ends)


class KeyLimitError(Exception):
    """A client has its two live keys already; revoke one first."""


# A key is printed before it is committed, to a reader that may never read: the lock ends with it.
PRINT_SECONDS = 5
# What the commands for keys set: one waits longer for the lock than another one can hold it.
SESSION = {
    "idle_in_transaction_session_timeout": f"{PRINT_SECONDS}s",
    "lock_timeout": f"{2 * PRINT_SECONDS}s",
}

# Two keys made at once would both be counted as the second. The service's role only reads the keys,
# and can hold no lock that this waits for.
LOCK_KEYS = "LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE"

COUNT_LIVE = """
SELECT count(*) FROM api_keys
WHERE client = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""

INSERT_KEY = """
INSERT INTO api_keys (client, hash, scopes, expires_at) VALUES ($1, $2, $3, $4)
"""

LIST_KEYS = """
SELECT id, client, scopes, created_at, expires_at, revoked_at
FROM api_keys
ORDER BY client, id
"""

REVOKE_KEY = """
UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING client
"""

IS_LIVE = """
SELECT EXISTS (
  SELECT FROM api_keys
  WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
)
"""


async def create_key(
    connection: asyncpg.Connection,
    client: str,
    scopes: Collection[str],
    expires_at: datetime | None = None,
) -> str:
    """Makes a key for the client and returns it; it cannot be had again.

    Raises:
        KeyLimitError: the client has two live keys.
        asyncpg.CheckViolationError: the client's name is not one.
    """
    key = secrets.token_urlsafe(_KEY_BYTES)
    async with connection.transaction():
        await connection.execute(LOCK_KEYS)
        if await connection.fetchval(COUNT_LIVE, client) >= LIVE_KEYS_LIMIT:
            raise KeyLimitError(f"{client} has {LIVE_KEYS_LIMIT} live keys; revoke one first")
        await connection.execute(INSERT_KEY, client, _hash(key), sorted(scopes), expires_at)
    return key


async def is_live(connection: asyncpg.Connection, key: str) -> bool:
    """Returns whether the key would be accepted now."""
    return bool(await connection.fetchval(IS_LIVE, _hash(key)))


async def list_keys(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """Returns all keys there ever were, without what would let anybody use them."""
    return await connection.fetch(LIST_KEYS)


async def revoke_key(connection: asyncpg.Connection, id: int) -> str | None:
    """Revokes a key; returns its client, or None if there is no such live key."""
    client: str | None = await connection.fetchval(REVOKE_KEY, id)
    return client
