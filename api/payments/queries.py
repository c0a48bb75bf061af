"""The service's SQL, whole and static; each statement runs in a transaction of its own.

What callers share (creations, reads, consumptions) takes many callers' rows at once as arrays, and
gives their answers in the order of its input.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import asyncpg
import msgspec

from payments.errors import DatabaseUnavailable
from payments.models import Payment

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy


LAST_ID = 2**63 - 1


class Creation(NamedTuple):
    """One payment to be made."""

    client: str
    idempotency_key: str | None
    status: str
    payment: str | None  # with two decimals
    data: str  # JSON text


class Created(NamedTuple):
    """The answer to a creation: `replayed` when its key had made this payment before."""

    payment: Payment
    replayed: bool
    matches: bool  # the first request's payment and data equal this one's


class Consumption(NamedTuple):
    """One payment to be consumed, if it was last changed at `unchanged_since` (None: whenever)."""

    client: str
    id: int
    unchanged_since: datetime | None


class Page(NamedTuple):
    """What a list asks for; times are exclusive, None is no bound."""

    limit: int
    limit_bytes: int
    status: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    after: tuple[datetime, int] | None = None


# The ids are drawn before the insert, so that a row which the key's index refuses is told from one
# that was made. Sorted by key: two statements that meet on several keys then wait in the same
# order, and cannot deadlock.
CREATE = """
WITH input AS MATERIALIZED (
  SELECT
    nextval('payments_id_seq') AS id, ordinality,
    client, idempotency_key, status, payment, data
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    WITH ORDINALITY AS i (client, idempotency_key, status, payment, data, ordinality)
), made AS (
  INSERT INTO payments (
    id, status, payment, data, created_by, idempotency_key, consumed_at, consumed_by
  )
  SELECT
    id, status::payment_status, payment::numeric, data::jsonb, client, idempotency_key,
    CASE WHEN status = 'consumed' THEN now() END, CASE WHEN status = 'consumed' THEN client END
  FROM input
  ORDER BY client, idempotency_key, ordinality
  ON CONFLICT (created_by, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
  RETURNING id, data::text, created_at
)
SELECT made.id, made.data, made.created_at
FROM input LEFT JOIN made USING (id)
ORDER BY ordinality
"""

# The statements below find each payment by an index whatever plan PostgreSQL has made and kept,
# even for an empty table, which it would otherwise walk from end to end when it has grown:
# ids are compared with an array and not joined, and a payment's deletion is looked at once it is
# found, since a condition on `deleted_at` beside the one on `id` admits the indexes of the lists.

# A payment as it was answered when its key made it: whatever became of it since is left out.
# OFFSET 0 keeps the look-up of a key from being made a join.
REPLAY = """
SELECT
  p.id, 'inserted' AS status, p.data::text, p.payment::text, p.created_at,
  p.created_at AS updated_at,
  p.payment IS NOT DISTINCT FROM i.payment::numeric AND p.data = i.data::jsonb AS matches
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
  WITH ORDINALITY AS i (client, idempotency_key, payment, data, ordinality)
LEFT JOIN LATERAL (
  SELECT id, data, payment, created_at FROM payments
  WHERE created_by = i.client AND idempotency_key = i.idempotency_key
  OFFSET 0
) AS p ON true
ORDER BY ordinality
"""

READ = """
SELECT
  id, status::text, data::text, payment::text, created_at, updated_at,
  deleted_at IS NOT NULL AS deleted
FROM payments
WHERE id = ANY($1::bigint[])
"""

# The guard against a second consumption stands in the WHERE, on the row as it is once it is
# locked: of any number of callers one makes the transition. A row that somebody else has locked is
# skipped and not waited for: one held row would otherwise stop all callers of the statement.
# `updated_at` always moves, because the ETag is made of it; no event is earlier than the creation,
# also on a server that takes over with its clock behind.
CONSUME = """
WITH wanted AS MATERIALIZED (
  SELECT id, deleted_at FROM payments
  WHERE id = ANY($2::bigint[]) AND status = 'inserted'
  ORDER BY id
  FOR UPDATE SKIP LOCKED
)
UPDATE payments
SET
  status = 'consumed', consumed_at = greatest(now(), created_at),
  consumed_by = ($1::text[])[array_position($2::bigint[], id)],
  updated_at = greatest(now(), updated_at + interval '1 microsecond')
WHERE
  id = ANY(ARRAY(SELECT id FROM wanted WHERE deleted_at IS NULL)) AND status = 'inserted'
  AND coalesce(updated_at = ($3::timestamptz[])[array_position($2::bigint[], id)], true)
RETURNING id, status::text, data::text, payment::text, created_at, updated_at
"""

DELETE = """
WITH wanted AS MATERIALIZED (
  SELECT id, deleted_at FROM payments
  WHERE id = $1 AND ($3::timestamptz IS NULL OR updated_at = $3)
  FOR UPDATE SKIP LOCKED
)
UPDATE payments
SET
  deleted_at = greatest(now(), created_at), deleted_by = $2,
  updated_at = greatest(now(), updated_at + interval '1 microsecond')
WHERE id = (SELECT id FROM wanted WHERE deleted_at IS NULL)
RETURNING id, status::text, data::text, payment::text, created_at, updated_at
"""

# One branch for each index; the condition on $1 alone shuts the other one before it starts, also in
# a plan that is kept for all parameters. There is one lower bound, cursor or time, because an index
# scan begins at one: with two it walks from the wrong one, as far as the list is long. The running
# sum ends a page of large payments early.
LIST = """
SELECT id, status, data, payment, created_at, updated_at, bytes
FROM (
  SELECT
    id, status, data, payment, created_at, updated_at,
    sum(octet_length(data)) OVER (ORDER BY created_at, id) AS bytes,
    octet_length(data) AS own_bytes
  FROM (
    (
      SELECT id, status::text, data::text, payment::text, created_at, updated_at
      FROM payments
      WHERE
        $1::text IS NULL AND deleted_at IS NULL
        AND (created_at, id) > (coalesce($2::timestamptz, '-infinity'), $3::bigint)
        AND created_at < coalesce($4::timestamptz, 'infinity')
      ORDER BY created_at, id
      LIMIT $5::bigint
    )
    UNION ALL
    (
      SELECT id, status::text, data::text, payment::text, created_at, updated_at
      FROM payments
      WHERE
        $1::text IS NOT NULL AND deleted_at IS NULL
        AND status = $1::text::payment_status
        AND (created_at, id) > (coalesce($2::timestamptz, '-infinity'), $3::bigint)
        AND created_at < coalesce($4::timestamptz, 'infinity')
      ORDER BY created_at, id
      LIMIT $5::bigint
    )
  ) AS page
) AS measured
WHERE bytes - own_bytes <= $6::bigint
ORDER BY created_at, id
"""

LIVE_KEYS = """
SELECT hash, client, scopes, extract(epoch FROM expires_at - now())::float8 AS seconds_left
FROM api_keys
WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""

READINESS = """
SELECT
  current_setting('transaction_read_only') = 'on' AS read_only,
  array(
    SELECT name FROM pg_settings
    WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off'
  ) AS unsafe,
  array(
    SELECT name
    FROM unnest($1::text[], $2::text[]) AS wanted (name, value)
    JOIN pg_settings USING (name)
    WHERE setting <> value
  ) AS unlimited,
  (SELECT coalesce(max(version), 0) FROM schema_migrations) AS version
"""

# Deletions whose times cannot be: a false one would have its row purged too early.
IMPOSSIBLE = """
SELECT id FROM payments
WHERE deleted_at < created_at OR deleted_at > now() + interval '1 minute'
ORDER BY id
LIMIT $1
"""

PURGE = """
DELETE FROM payments
WHERE id IN (
  SELECT id FROM payments
  WHERE deleted_at < now() - $1::interval
  ORDER BY deleted_at
  LIMIT $2
)
"""

# Sent as each connection is opened: the service's role may change its own defaults, and these would
# hide the tables or end every session. `default_transaction_read_only` is not among them: the
# service must notice a database that becomes read-only.
SESSION = {
    "search_path": "public",
    "row_security": "on",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
}

# What metrics call them.
NAMES = {
    CREATE: "create",
    REPLAY: "replay",
    READ: "read",
    CONSUME: "consume",
    DELETE: "delete",
    LIST: "list",
    LIVE_KEYS: "keys",
}


def _payment(row: asyncpg.Record) -> Payment:
    value = row["payment"]
    return Payment(
        id=row["id"],
        status=row["status"],
        data=msgspec.Raw(row["data"]),
        payment=msgspec.Raw(b"null" if value is None else value),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


async def create(
    connection: "Connection", creations: Sequence[Creation]
) -> list[Created | Exception]:
    """Makes the payments, in one transaction; a key that was used before answers its first one.

    The first answers are looked up after the commit. If that fails, it fails for them alone: what
    it raised would otherwise be taken for a failure of the creations, which stand.
    """
    clients, keys, statuses, values, documents = zip(*creations, strict=True)
    rows = await connection.fetch(CREATE, clients, keys, statuses, values, documents)
    # A statement does not see what others committed while it ran: hence a second one.
    again = [new for new, row in zip(creations, rows, strict=True) if row["id"] is None]
    replays = iter(await _replay(connection, again) if again else [])
    return [
        next(replays) if row["id"] is None else Created(_made(new, row), False, True)
        for new, row in zip(creations, rows, strict=True)
    ]


def _made(new: Creation, row: asyncpg.Record) -> Payment:
    # What is known already is not asked for: the value is stored as it stands here.
    id, data, created_at = row
    value = b"null" if new.payment is None else new.payment
    return Payment(id, new.status, msgspec.Raw(data), msgspec.Raw(value), created_at, created_at)


async def _replay(
    connection: "Connection", creations: Sequence[Creation]
) -> Sequence[Created | Exception]:
    clients, keys, _, values, documents = zip(*creations, strict=True)
    try:
        rows = await connection.fetch(REPLAY, clients, keys, values, documents)
    except Exception as error:
        return [_unknown(error) for _ in creations]
    return [
        # Purged since: as good as a failure to look it up.
        _unknown(None) if row["id"] is None else Created(_payment(row), True, row["matches"])
        for row in rows
    ]


def _unknown(cause: Exception | None) -> DatabaseUnavailable:
    error = DatabaseUnavailable("The first answer of this Idempotency-Key could not be read.")
    error.__cause__ = cause
    return error


async def read(connection: "Connection", ids: Sequence[int]) -> list[Payment | None]:
    """Returns each payment, or None where there is none (any more)."""
    rows = await connection.fetch(READ, ids)
    found = {row["id"]: _payment(row) for row in rows if not row["deleted"]}
    return [found.get(id) for id in ids]


async def consume(
    connection: "Connection", consumptions: Sequence[Consumption]
) -> list[Payment | None]:
    """Consumes the payments; returns each that this call changed, None for the others."""
    # Several callers for one payment: the first one's name goes into its row, the others are told
    # that they changed nothing.
    first = {consumption.id: consumption for consumption in reversed(consumptions)}
    clients, ids, times = zip(*first.values(), strict=True)
    changed = {
        row["id"]: _payment(row) for row in await connection.fetch(CONSUME, clients, ids, times)
    }
    return [changed.pop(consumption.id, None) for consumption in consumptions]


async def delete(
    connection: "Connection", id: int, client: str, unchanged_since: datetime | None
) -> Payment | None:
    """Deletes a payment; returns it with its last `updated_at`, or None if nothing was changed."""
    rows = await connection.fetch(DELETE, id, client, unchanged_since)
    return _payment(rows[0]) if rows else None


async def list_page(connection: "Connection", page: Page) -> tuple[list[Payment], bool]:
    """Returns payments by time of creation, and whether there may be more.

    There are at most `limit`, and fewer when their data passes `limit_bytes`, but at least one if
    there is one at all.
    """
    bounds = [page.after] if page.after else []
    if page.created_after:
        bounds.append((page.created_after, LAST_ID))
    time, id = max(bounds, default=(None, 0))
    rows = await connection.fetch(
        LIST,
        page.status,
        time,
        id,
        page.created_before,
        page.limit + 1,
        page.limit_bytes,
    )
    more = len(rows) > page.limit or (bool(rows) and rows[-1]["bytes"] > page.limit_bytes)
    return [_payment(row) for row in rows[: page.limit]], more
