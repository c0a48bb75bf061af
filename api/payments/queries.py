"""The service's SQL, whole and static; each statement runs in a transaction of its own.

What callers share (creations, reads, consumptions) takes many callers' rows at once as arrays, and
gives their answers in the order of its input.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import asyncpg
import msgspec

from payments.errors import DatabaseUnavailable
from payments.models import Payment, readable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy


LAST_ID = 2**63 - 1

# Numbers of so much data can be looked through in 10 ms.
TURN_CHARACTERS = 256 * 1024


class Creation(NamedTuple):
    """One payment to be made."""

    client: str
    idempotency_key: str | None
    status: str
    payment: str | None  # with two decimals
    data: str  # JSON text


class Created(NamedTuple):
    """The answer to a creation: `replayed` when its key had created this payment before."""

    payment: Payment
    replayed: bool
    matches: bool  # the first request's payment, data and status equal this one's


class Found(NamedTuple):
    """A payment as it is in the database, deleted or not."""

    payment: Payment
    deleted: bool
    consumption_key: str | None

    def is_consumed_with(self, client: str, idempotency_key: str | None) -> bool:
        """Returns whether this client consumed it with this key."""
        return (
            idempotency_key is not None
            and self.consumption_key == idempotency_key
            and self.payment.consumed_by == client
        )

    def as_consumed(self) -> Payment:
        """Returns a consumed payment as it was before a deletion moved `updated_at`."""
        consumed_at = self.payment.consumed_at
        if not self.deleted or consumed_at is None:
            return self.payment
        moved = self.payment.created_at + timedelta.resolution
        return msgspec.structs.replace(self.payment, updated_at=max(consumed_at, moved))


class Consumption(NamedTuple):
    """One payment to be consumed, if it was last changed at `unchanged_since` (None: whenever)."""

    client: str
    id: int
    idempotency_key: str | None
    unchanged_since: datetime | None


class Dequeue(NamedTuple):
    """A call that consumes the oldest inserted payments."""

    client: str
    idempotency_key: str | None
    limit: int
    limit_bytes: int


class Dequeued(NamedTuple):
    """The payments, and the limit that the key consumed them with, if that was before."""

    payments: list[Payment]
    first_limit: int | None = None


# Where a payment stands in every list and in the queue: by its creation, then its id.
Position: TypeAlias = tuple[datetime, int]

FIRST: Position = (datetime.min.replace(tzinfo=UTC), 0)
LAST: Position = (datetime.max.replace(tzinfo=UTC), LAST_ID)


class Page(NamedTuple):
    """What a list asks for: payments between two positions, both exclusive."""

    limit: int
    limit_bytes: int
    status: str | None = None
    created_by: str | None = None
    after: Position = FIRST
    before: Position = LAST
    descending: bool = False

    def following(self, payment: Payment) -> "Page":
        """Returns the page after the one that ends with this payment."""
        if self.descending:
            return self._replace(before=payment.position)
        return self._replace(after=payment.position)


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

# A payment as it was answered when its key created it: whatever became of it since is left out.
# A payment that an old client created as consumed was consumed by it at that very time. So was one
# that a transaction consumed whose now() is before the creation; but that moved updated_at. After a
# deletion, which moves it as well, the request says which of the two it was.
# OFFSET 0 keeps the look-up of a key from being made a join.
REPLAY = """
SELECT
  p.id, p.first_status AS status, p.data::text, p.payment::text, p.created_at, p.created_by,
  p.created_at AS updated_at,
  CASE WHEN p.first_status = 'consumed' THEN p.consumed_at END AS consumed_at,
  CASE WHEN p.first_status = 'consumed' THEN p.consumed_by END AS consumed_by,
  p.first_status = i.status
  AND p.payment IS NOT DISTINCT FROM i.payment::numeric AND p.data = i.data::jsonb AS matches
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
  WITH ORDINALITY AS i (client, idempotency_key, status, payment, data, ordinality)
LEFT JOIN LATERAL (
  SELECT
    id, data, payment, created_at, created_by, consumed_at, consumed_by,
    CASE
      WHEN consumed_at = created_at AND consumed_by = created_by
        THEN CASE
          WHEN updated_at = created_at THEN 'consumed'
          WHEN deleted_at IS NULL THEN 'inserted'
          ELSE i.status
        END
      ELSE 'inserted'
    END AS first_status
  FROM payments
  WHERE created_by = i.client AND idempotency_key = i.idempotency_key
  OFFSET 0
) AS p ON true
ORDER BY ordinality
"""

READ = """
SELECT
  id, status::text, data::text, payment::text, created_at, created_by, updated_at, consumed_at,
  consumed_by, deleted_at IS NOT NULL AS deleted, consumption_key
FROM payments
WHERE id = ANY($1::bigint[])
"""

# The guard against a second consumption stands in the WHERE, on the row as it is once it is
# locked: of any number of callers one makes the transition. A row that another transaction has
# locked is skipped and not waited for: it would otherwise stop all callers of the statement.
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
  consumption_key = ($3::text[])[array_position($2::bigint[], id)],
  updated_at = greatest(now(), updated_at + interval '1 microsecond')
WHERE
  id = ANY(ARRAY(SELECT id FROM wanted WHERE deleted_at IS NULL)) AND status = 'inserted'
  AND coalesce(updated_at = ($4::timestamptz[])[array_position($2::bigint[], id)], true)
RETURNING
  id, status::text, data::text, payment::text, created_at, created_by, updated_at, consumed_at,
  consumed_by
"""

# Payments are taken from the position ($4, $5) on. The walk goes by payments_list_by_status, since
# no other index has its order: beside a condition `status = 'inserted'` the planner could choose
# another one, and walk over all that is consumed. $6 ends an answer of large payments early.
#
# Two calls with one key take turns, for the length of a transaction. Otherwise the second one, for
# which the rows of the first are locked, could find nothing left and answer that nothing was
# consumed, while the first one commits. A key that was used before consumes nothing and locks
# nothing here. DEQUEUED looks it up, and sees what the first call committed.
DEQUEUE = """
WITH turn AS MATERIALIZED (
  SELECT pg_advisory_xact_lock(hashtextextended($1::text || ' ' || $2::text, 0))
  WHERE $2 IS NOT NULL
), oldest AS MATERIALIZED (
  SELECT id, octet_length(data::text) AS bytes
  FROM payments
  WHERE
    (SELECT count(*) FROM turn) < 2
    AND NOT EXISTS (SELECT FROM consumptions WHERE client = $1 AND idempotency_key = $2)
    AND (status, created_at, id) > ('inserted', $4::timestamptz, $5::bigint)
    AND status <= 'inserted' AND deleted_at IS NULL
  ORDER BY status, created_at, id
  LIMIT $3::bigint
  FOR UPDATE SKIP LOCKED
), taken AS MATERIALIZED (
  SELECT id FROM (
    SELECT id, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before FROM oldest
  ) AS measured
  WHERE bytes_before <= $6::bigint
), remembered AS (
  INSERT INTO consumptions (client, idempotency_key, requested, payment_ids)
  SELECT $1, $2, $3, array_agg(id) FROM taken
  WHERE $2 IS NOT NULL
  HAVING count(*) > 0
  ON CONFLICT DO NOTHING
  RETURNING client
)
UPDATE payments
SET
  status = 'consumed', consumed_at = greatest(now(), created_at), consumed_by = $1,
  updated_at = greatest(now(), updated_at + interval '1 microsecond')
WHERE
  id = ANY(ARRAY(SELECT id FROM taken WHERE $2 IS NULL OR EXISTS (SELECT FROM remembered)))
  AND status = 'inserted'
RETURNING
  id, status::text, data::text, payment::text, created_at, created_by, updated_at, consumed_at,
  consumed_by
"""

# The payments as they were answered when the key consumed them. A deletion is all that can have
# happened since; it moved updated_at, which the consumption had set to the time restored here.
DEQUEUED = """
SELECT
  p.id, 'consumed' AS status, p.data::text, p.payment::text, p.created_at, p.created_by,
  CASE
    WHEN p.deleted_at IS NULL THEN p.updated_at
    ELSE greatest(p.consumed_at, p.created_at + interval '1 microsecond')
  END AS updated_at,
  p.consumed_at, p.consumed_by, c.requested
FROM consumptions AS c
CROSS JOIN LATERAL (
  SELECT
    id, data, payment, created_at, created_by, updated_at, consumed_at, consumed_by, deleted_at
  FROM payments
  WHERE id = ANY(c.payment_ids) AND consumed_by = c.client
  OFFSET 0
) AS p
WHERE c.client = $1 AND c.idempotency_key = $2
"""

# The first of the last thousand: a single one can have been consumed by its id, out of order.
LAST_CONSUMED = """
SELECT created_at, id FROM (
  SELECT created_at, id FROM payments
  WHERE consumed_at IS NOT NULL
  ORDER BY consumed_at DESC
  LIMIT 1000
) AS last
ORDER BY created_at, id
LIMIT 1
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
RETURNING
  id, status::text, data::text, payment::text, created_at, created_by, updated_at, consumed_at,
  consumed_by
"""

# One branch for each status; the condition on $1 alone shuts one before it starts. The statuses
# stand in the comparison and in the order, so that no index fits but the one that begins with them,
# from the page's first row on. The running sum ends a page of large payments early.
_LIST = """
SELECT
  id, status, data, payment, created_at, created_by, updated_at, consumed_at, consumed_by, bytes
FROM (
  SELECT
    id, status, data, payment, created_at, created_by, updated_at, consumed_at, consumed_by,
    sum(octet_length(data)) OVER (ORDER BY created_at {way}, id {way}) AS bytes,
    octet_length(data) AS own_bytes
  FROM (
    (
      SELECT
        id, status::text, data::text, payment::text, created_at, created_by, updated_at,
        consumed_at, consumed_by
      FROM payments
      WHERE
        coalesce($1::text, 'inserted') = 'inserted' AND deleted_at IS NULL
        AND ({columns} created_at, id) > ({values} 'inserted', $2::timestamptz, $3::bigint)
        AND ({columns} created_at, id) < ({values} 'inserted', $4::timestamptz, $5::bigint)
      ORDER BY {order}, created_at {way}, id {way}
      LIMIT $6::bigint
    )
    UNION ALL
    (
      SELECT
        id, status::text, data::text, payment::text, created_at, created_by, updated_at,
        consumed_at, consumed_by
      FROM payments
      WHERE
        coalesce($1::text, 'consumed') = 'consumed' AND deleted_at IS NULL
        AND ({columns} created_at, id) > ({values} 'consumed', $2::timestamptz, $3::bigint)
        AND ({columns} created_at, id) < ({values} 'consumed', $4::timestamptz, $5::bigint)
      ORDER BY {order}, created_at {way}, id {way}
      LIMIT $6::bigint
    )
  ) AS page
) AS measured
WHERE bytes - own_bytes <= $7::bigint
ORDER BY created_at {way}, id {way}
LIMIT $6::bigint
"""

# By whether the payments are one client's ($8), and whether the latest come first.
LIST = {
    (one_client, descending): _LIST.format(
        way="DESC" if descending else "ASC",
        columns="created_by, status," if one_client else "status,",
        values="$8::text," if one_client else "",
        order=", ".join(
            f"{column} {'DESC' if descending else 'ASC'}"
            # With the table's name: the status alone is the text that is answered.
            for column in (["created_by"] if one_client else []) + ["payments.status"]
        ),
    )
    for one_client in (False, True)
    for descending in (False, True)
}

BY_KEY = """
SELECT
  id, status::text, data::text, payment::text, created_at, created_by, updated_at, consumed_at,
  consumed_by, deleted_at IS NOT NULL AS deleted
FROM payments
WHERE created_by = $1 AND idempotency_key = $2
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

PURGE_CONSUMPTIONS = """
DELETE FROM consumptions
WHERE (client, idempotency_key) IN (
  SELECT client, idempotency_key FROM consumptions
  WHERE consumed_at < $1::timestamptz
  ORDER BY consumed_at
  LIMIT $2
)
"""

PURGE = """
DELETE FROM payments
WHERE id IN (
  SELECT id FROM payments
  WHERE deleted_at < $1::timestamptz
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
    # Each statement has one plan that is right whatever its parameters are. To plan it for each
    # call is a third of what a consumption costs.
    "plan_cache_mode": "force_generic_plan",
}

# What metrics call them.
NAMES = {
    CREATE: "create",
    REPLAY: "replay",
    READ: "read",
    CONSUME: "consume",
    DEQUEUE: "dequeue",
    DEQUEUED: "dequeued",
    LAST_CONSUMED: "last_consumed",
    DELETE: "delete",
    **dict.fromkeys((*LIST.values(), BY_KEY), "list"),
    LIVE_KEYS: "keys",
}


def _payment(row: asyncpg.Record) -> Payment:
    value = row["payment"]
    return Payment(
        id=row["id"],
        status=row["status"],
        data=msgspec.Raw(readable(row["data"])),
        payment=msgspec.Raw(b"null" if value is None else value),
        created_at=row["created_at"],
        created_by=row["created_by"],
        updated_at=row["updated_at"],
        consumed_at=row["consumed_at"],
        consumed_by=row["consumed_by"],
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
    consumed = (created_at, new.client) if new.status == "consumed" else (None, None)
    return Payment(
        id,
        new.status,
        msgspec.Raw(data),
        msgspec.Raw(value),
        created_at,
        new.client,
        created_at,
        *consumed,
    )


async def _replay(
    connection: "Connection", creations: Sequence[Creation]
) -> Sequence[Created | Exception]:
    try:
        rows = await connection.fetch(REPLAY, *zip(*creations, strict=True))
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


async def read(connection: "Connection", ids: Sequence[int]) -> list[Found | None]:
    """Returns each payment, also one that was deleted, or None where there never was one."""
    found = {
        row["id"]: Found(_payment(row), row["deleted"], row["consumption_key"])
        for row in await connection.fetch(READ, ids)
    }
    return [found.get(id) for id in ids]


async def consume(
    connection: "Connection", consumptions: Sequence[Consumption]
) -> list[Payment | None]:
    """Consumes the payments; returns each that this call changed, None for the others."""
    # Several callers for one payment: the first one's name goes into its row, the others are told
    # that they changed nothing.
    first = {consumption.id: consumption for consumption in reversed(consumptions)}
    rows = await connection.fetch(CONSUME, *zip(*first.values(), strict=True))
    changed = {row["id"]: _payment(row) for row in rows}
    return [changed.pop(consumption.id, None) for consumption in consumptions]


async def dequeue(connection: "Connection", call: Dequeue, after: Position) -> Dequeued:
    """Consumes the oldest inserted payments after a position; those of others' locks are skipped.

    There are at most `limit`, and fewer when their data passes `limit_bytes`, but at least one if
    there is one at all. A key that was used before answers what it consumed then.
    """
    rows = await connection.fetch(
        DEQUEUE, call.client, call.idempotency_key, call.limit, *after, call.limit_bytes
    )
    if rows or call.idempotency_key is None:
        return Dequeued(await _in_order(rows))
    rows = await connection.fetch(DEQUEUED, call.client, call.idempotency_key)
    return Dequeued(await _in_order(rows), rows[0]["requested"] if rows else None)


async def _in_order(rows: Sequence[asyncpg.Record]) -> list[Payment]:
    return sorted(await _payments(rows), key=lambda payment: payment.position)


async def _payments(rows: Sequence[asyncpg.Record]) -> list[Payment]:
    """Returns the payments; lets other requests go on between large ones."""
    payments = []
    characters = 0
    for row in rows:
        payments.append(_payment(row))
        characters += len(row["data"])
        if characters > TURN_CHARACTERS:
            characters = 0
            await asyncio.sleep(0)
    return payments


async def last_consumed(connection: "Connection") -> Position:
    """Returns a position near the payments that were consumed last."""
    rows = await connection.fetch(LAST_CONSUMED)
    return (rows[0]["created_at"], rows[0]["id"]) if rows else FIRST


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
    arguments = [page.status, *page.after, *page.before, page.limit + 1, page.limit_bytes]
    if page.created_by is not None:
        arguments.append(page.created_by)
    rows = await connection.fetch(LIST[page.created_by is not None, page.descending], *arguments)
    more = len(rows) > page.limit or (bool(rows) and rows[-1]["bytes"] > page.limit_bytes)
    return await _payments(rows[: page.limit]), more


async def find_by_key(connection: "Connection", client: str, idempotency_key: str) -> list[Payment]:
    """Returns the payment that the client's key created, or nothing."""
    rows = await connection.fetch(BY_KEY, client, idempotency_key)
    return [_payment(row) for row in rows if not row["deleted"]]
