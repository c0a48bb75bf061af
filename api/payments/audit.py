"""The auditor: holds the payments to what must be true of them, and counts them by itself.

`payments audit` looks at every row once. `payments audit --serve` looks, each minute, at what
happened since, and at a slice of the rest. Prometheus compares the events that it finds in the rows
with those that the service says it made: a payment that was consumed twice, or lost, was counted
and has no row. It only reads, over one connection, which it closes after each round.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
from prometheus_client import CollectorRegistry, Counter, Gauge, make_asgi_app

from payments import iam, queries
from payments.config import Settings

_logger = logging.getLogger(__name__)

# The invariants that a row can break, as the columns of AUDIT; and those about the database.
OF_ROWS = (
    "event-without-client",
    "status-without-event",
    "consumed-before-created",
    "deleted-before-created",
    "consumed-after-deleted",
    "event-in-the-future",
)
OF_THE_DATABASE = ("guard-missing", "not-from-migrations")
# Older versions of the service may have stored what breaks this one, and nothing does since: it is
# looked for once, and not each minute.
OF_DATA = "unreadable-number"

# What makes each event happen to a payment once, and a key make one payment: while these stand, no
# second consumption can hide in the row of the first.
GUARDS = (
    "payments_consumed",
    "payments_deleted",
    "payments_payment_range",
    "payments_idempotency_key",
    "payments_evidence",
    "payments_creation_event",
    "payments_update_event",
    "payments_created_by",
    "payments_changed_by",
    "payments_event_order",
    "payments_id_range",
    "payments_consumption_key",
    "consumptions_pkey",  # a key that is remembered twice would consume twice
    "consumptions_client",
)

# How old an event is before it is counted, if no open transaction makes it wait longer (STATE): a
# transaction has its time a moment before it is seen to be open, and the clock of a server that
# takes over can be behind.
LAG = timedelta(seconds=5)

NEVER = datetime.max.replace(tzinfo=UTC)  # PostgreSQL's infinity

# After an outage what happened meanwhile is counted in steps, each of them short.
STEP = timedelta(seconds=60)

# At a slice a minute, 14 million rows are looked at again each day.
SWEEP_ROWS = 10_000

# Known breaches are looked at again in each round until they are mended: at most so many.
BREACHES_LIMIT = 10_000

# Rows whose data is read at one time: 64 KiB of small numbers take PostgreSQL 4 ms.
DATA_ROWS = 500

EXAMPLES = 5

STATEMENT_SECONDS = 10

SESSION = queries.SESSION | {
    "application_name": "payments-audit",
    "timezone": "UTC",
    "default_transaction_read_only": "on",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "lock_timeout": "2s",
    "jit": "off",
    # Every condition of AUDIT has its index; no plan may read the whole table.
    "enable_seqscan": "off",
}

# Rows become visible when their transaction ends, and bear the time at which it began. Whatever
# began before `settled`, of the role's own or one whose privileges it has (the service, while an
# update moves it to another login), has ended: what a later statement does not see of it will never
# be there. Hence this one comes first.
STATE = """
SELECT
  least(
    now() - $1::interval,
    (
      SELECT min(xact_start) FROM pg_stat_activity
      WHERE
        pg_has_role(usesysid, 'USAGE') AND datname = current_database()
        AND pid <> pg_backend_pid()
    )
  ) AS settled,
  (
    SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL
  ) AS connections,
  current_setting('max_connections')::int AS connections_max,
  pg_database_size(current_database()) AS size_bytes,
  pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS wal_bytes,
  extract(epoch FROM now() - oldest_transaction())::float8 AS oldest_transaction_seconds,
  (
    SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'payments'::regclass
  ) AS dead_rows
"""

# Apart from STATE, which must also be told while the table is locked. It is found as a call that
# consumes the oldest payments finds the first one.
OLDEST_INSERTED = """
SELECT extract(epoch FROM now() - created_at)::float8 AS seconds
FROM payments
WHERE status <= 'inserted' AND deleted_at IS NULL
ORDER BY status, created_at, id
LIMIT 1
"""

# Which rows: those with an event since $1 and before $2, the next $4 after the id $3, and those of
# $5. Each line of the last WHERE has its index, and each row is met once, however many lines it
# fits. Indexes by creation leave deleted payments out: one that was made and deleted since $1 is
# found by its deletion.
AUDIT = """
WITH slice AS (
  SELECT max(id) AS last FROM (
    SELECT id FROM payments WHERE id > $3::bigint ORDER BY id LIMIT $4::bigint
  ) AS next
)
SELECT
  (SELECT last FROM slice) AS swept,
  count(*) FILTER (WHERE id > $3 AND id <= (SELECT last FROM slice)) AS swept_rows,
  count(*) FILTER (WHERE created_at >= $1 AND created_at < $2) AS created,
  coalesce(sum(payment) FILTER (WHERE created_at >= $1 AND created_at < $2), 0) AS value_created,
  count(*) FILTER (WHERE consumed_at >= $1 AND consumed_at < $2) AS consumed,
  count(*) FILTER (WHERE deleted_at >= $1 AND deleted_at < $2) AS deleted,
  array_agg(id) FILTER (WHERE
    created_by IS NULL OR created_by = ''
    OR (consumed_at IS NULL) <> (consumed_by IS NULL) OR consumed_by = ''
    OR (deleted_at IS NULL) <> (deleted_by IS NULL) OR deleted_by = ''
  ) AS "event-without-client",
  array_agg(id) FILTER (WHERE
    (status = 'consumed') <> (consumed_at IS NOT NULL)
  ) AS "status-without-event",
  array_agg(id) FILTER (WHERE consumed_at < created_at) AS "consumed-before-created",
  array_agg(id) FILTER (WHERE deleted_at < created_at) AS "deleted-before-created",
  -- A deletion that waited for the consumption bears the time at which it began to wait.
  array_agg(id) FILTER (WHERE
    consumed_at > deleted_at + interval '10 seconds'
  ) AS "consumed-after-deleted",
  -- The clock of a server that takes over can be behind.
  array_agg(id) FILTER (WHERE
    greatest(created_at, updated_at, consumed_at, deleted_at) > now() + interval '1 minute'
  ) AS "event-in-the-future"
FROM payments
WHERE
  (created_at >= $1::timestamptz AND created_at < $2::timestamptz AND deleted_at IS NULL)
  OR (consumed_at >= $1 AND consumed_at < $2)
  OR deleted_at >= $1
  OR (id > $3 AND id <= (SELECT last FROM slice))
  OR id = ANY($5::bigint[])
"""

# The next $2 rows after the id $1, and those that hold a number which rounds to no finite double,
# half a unit in the last place beyond the largest one, or which has more than 330 characters.
UNREADABLE = """
WITH slice AS MATERIALIZED (
  SELECT id, data FROM payments WHERE id > $1::bigint ORDER BY id LIMIT $2::bigint
)
SELECT
  max(id) AS swept,
  array_agg(id) FILTER (
    WHERE data @? '
      strict $.** ? (
        @.type() == "number"
        && (@ > 1.797693134862315807937e308 || @ < -1.797693134862315807937e308)
      )
    '
    -- A regular expression of PostgreSQL counts to 255.
    OR length(data::text) > 330 AND data @? '
      strict $.** ? (@.type() == "number").string() ? (@ like_regex "^.{255}.{76}")
    '
  ) AS ids
FROM slice
"""

MISSING_GUARDS = """
SELECT name FROM unnest($1::text[]) AS guard (name)
WHERE
  NOT EXISTS (
    SELECT FROM pg_constraint
    WHERE
      conrelid IN ('payments'::regclass, 'consumptions'::regclass)
      AND conname = name AND convalidated AND conenforced
  )
  AND NOT EXISTS (
    SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = 'payments'::regclass AND relname = name AND indisunique AND indisvalid
  )
  AND NOT EXISTS (
    SELECT FROM pg_trigger
    WHERE tgrelid = 'payments'::regclass AND tgname = name AND tgenabled IN ('O', 'A')
  )
  AND NOT EXISTS (
    SELECT FROM pg_policy JOIN pg_class ON pg_class.oid = polrelid
    WHERE
      polrelid IN ('payments'::regclass, 'consumptions'::regclass)
      AND polname = name AND relrowsecurity
  )
ORDER BY name
"""

# What every role may do in PostgreSQL, no privilege needed, and no migration does: change its own
# defaults, and make large objects.
NOT_FROM_MIGRATIONS = """
SELECT format('%s: %s', setrole::regrole, setting) AS name
FROM pg_db_role_setting CROSS JOIN unnest(setconfig) AS setting
WHERE
  setrole IN (SELECT oid FROM pg_roles WHERE rolname ~ '^payments_(app|migrator|owner)(_|$)')
  AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
UNION ALL
SELECT format('large object %s of %s', oid, lomowner::regrole) FROM pg_largeobject_metadata
ORDER BY name
"""


class Breach(NamedTuple):
    """An invariant, how many rows (or objects) break it, and the first ids (or names) of them."""

    invariant: str
    rows: int
    examples: list[int | str]


async def once(connection: asyncpg.Connection) -> tuple[int, list[Breach]]:
    """Looks at every row, a slice at a time; returns how many there are, and every invariant.

    The connection was opened with `SESSION`.
    """
    rows = 0
    swept: int | None = 0
    counts = dict.fromkeys(OF_ROWS, 0)
    examples: dict[str, list[int | str]] = {name: [] for name in OF_ROWS}
    while swept is not None:
        (found,) = await connection.fetch(AUDIT, NEVER, NEVER, swept, SWEEP_ROWS, [])
        rows, swept = rows + found["swept_rows"], found["swept"]
        for name in OF_ROWS:
            ids = found[name] or []
            counts[name] += len(ids)
            examples[name] += sorted(ids)[: EXAMPLES - len(examples[name])]
    return rows, [
        *(Breach(name, counts[name], examples[name]) for name in OF_ROWS),
        await _unreadable(connection),
        *(
            Breach(name, len(found), [*found[:EXAMPLES]])
            for name, found in (await _in_the_database(connection)).items()
        ),
    ]


async def _unreadable(connection: asyncpg.Connection) -> Breach:
    rows = 0
    examples: list[int | str] = []
    swept: int | None = 0
    while swept is not None:
        (found,) = await connection.fetch(UNREADABLE, swept, DATA_ROWS)
        ids = sorted(found["ids"] or [])
        rows, swept = rows + len(ids), found["swept"]
        examples += ids[: EXAMPLES - len(examples)]
    return Breach(OF_DATA, rows, examples)


async def _in_the_database(connection: asyncpg.Connection) -> dict[str, list[str]]:
    """Returns what breaks each invariant about the database, by name."""
    missing = await connection.fetch(MISSING_GUARDS, GUARDS)
    added = await connection.fetch(NOT_FROM_MIGRATIONS)
    return {
        name: [row["name"] for row in rows]
        for name, rows in zip(OF_THE_DATABASE, (missing, added), strict=True)
    }


class Auditor:
    """What was counted since it was made, and what is broken now; written by `round`."""

    def __init__(self, registry: CollectorRegistry, lag: timedelta = LAG) -> None:
        def counter(name: str, says: str) -> Counter:
            return Counter(name, says, registry=registry)

        def gauge(name: str, says: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(name, says, labels, registry=registry)

        self._counters = {
            "created": counter("payments_audit_rows_created", "Payments made, by their rows."),
            "consumed": counter(
                "payments_audit_rows_consumed", "Payments consumed, by their rows."
            ),
            "deleted": counter("payments_audit_rows_deleted", "Payments deleted, by their rows."),
            "value_created": counter(
                "payments_audit_value_created", "Sum of the payments made, by their rows."
            ),
        }
        self._violations = gauge(
            "payments_audit_violations", "Rows that break an invariant now.", ["invariant"]
        )
        self._last_success = gauge(
            "payments_audit_last_success_timestamp_seconds", "When the last audit ended."
        )
        self._since_gauge = gauge(
            "payments_audit_since_timestamp_seconds", "Events from this time on are counted."
        )
        self._settled_gauge = gauge(
            "payments_audit_settled_timestamp_seconds", "Events before this time are counted."
        )
        self._duration = gauge(
            "payments_audit_duration_seconds", "How long the last audit took, connection included."
        )
        self._state = {
            "connections": gauge("payments_database_connections", "Connections of clients."),
            "connections_max": gauge(
                "payments_database_connections_max", "Connections that the server allows."
            ),
            "size_bytes": gauge("payments_database_size_bytes", "Size of the database on disk."),
            "oldest_transaction_seconds": gauge(
                "payments_database_oldest_transaction_seconds",
                "Age of the oldest transaction, of any client.",
            ),
            "dead_rows": gauge(
                "payments_database_dead_rows", "Row versions of payments that wait for vacuum."
            ),
        }
        self._oldest_inserted = gauge(
            "payments_oldest_inserted_seconds",
            "Age of the oldest payment that waits to be consumed; 0 if none waits.",
        )
        self._wal = counter("payments_database_wal_bytes", "Write-ahead log written.")
        self._wal_bytes: int | None = None
        self._lag = lag
        self._settled: datetime | None = None  # Events before it are counted.
        self._swept = 0  # The last id of the last slice.
        self._broken: set[int] = set()

    async def round(self, connection: asyncpg.Connection) -> None:
        """Counts what happened since the last round; what fails is counted by the next one."""
        (state,) = await connection.fetch(STATE, self._lag)
        self._observe(state)
        oldest = await connection.fetch(OLDEST_INSERTED)
        self._oldest_inserted.set(oldest[0]["seconds"] if oldest else 0)
        if self._settled is None:
            self._since_gauge.set(state["settled"].timestamp())
        since = self._settled or state["settled"]
        settled = max(state["settled"], since)
        while True:
            until = min(settled, since + STEP)
            (found,) = await connection.fetch(
                AUDIT, since, until, self._swept, SWEEP_ROWS, sorted(self._broken)
            )
            self._count(found)
            self._settled = since = until
            self._settled_gauge.set(until.timestamp())
            if until == settled:
                break
        for name, broken in (await _in_the_database(connection)).items():
            self._tell(name, broken)

    def ended(self, seconds: float) -> None:
        """Says that a round was whole, and how long it took."""
        self._duration.set(seconds)
        self._last_success.set_to_current_time()

    def _observe(self, state: asyncpg.Record) -> None:
        for name, gauge in self._state.items():
            # What the maker of `oldest_transaction()` may not see is unknown: no reason to fail.
            gauge.set(math.nan if state[name] is None else state[name])
        # Less than before in a database that was restored to an earlier time.
        self._wal.inc(max(0, state["wal_bytes"] - (self._wal_bytes or state["wal_bytes"])))
        self._wal_bytes = state["wal_bytes"]

    def _count(self, found: asyncpg.Record) -> None:
        for name, counter in self._counters.items():
            # A sum can be negative, or no number, once the guard of the range is gone.
            counter.inc(max(0.0, float(found[name])))
        # After the last row it begins again; rows that come meanwhile must not keep it at the end.
        self._swept = found["swept"] if found["swept_rows"] == SWEEP_ROWS else 0
        self._broken = set()
        for name in OF_ROWS:
            ids = sorted(found[name] or [])
            self._broken.update(ids[:BREACHES_LIMIT])
            self._tell(name, ids)

    def _tell(self, invariant: str, broken: Sequence[int | str]) -> None:
        self._violations.labels(invariant).set(len(broken))
        if broken:
            fields = {
                "invariant": invariant,
                "rows": len(broken),
                "examples": [*broken[:EXAMPLES]],
            }
            _logger.error("an invariant is broken", extra={"fields": fields})


class Application:
    """The ASGI application of `payments audit --serve`: `/metrics`, `/livez`, and the rounds."""

    def __init__(self, settings: Settings, period_seconds: float) -> None:
        self._settings = settings
        self._password = iam.password(settings.database_url, settings.database_iam_region)
        self._period_seconds = period_seconds
        registry = CollectorRegistry()
        self._auditor = Auditor(registry)
        self._metrics = make_asgi_app(registry)

    def drain(self) -> None:
        """Does nothing: nobody is sent here by a load balancer."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answers a request, or begins and ends the rounds with the server."""
        if scope["type"] == "lifespan":
            await receive()
            rounds = asyncio.create_task(self._rounds())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            rounds.cancel()
            await asyncio.wait([rounds])
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"] == "/metrics":
            await self._metrics(scope, receive, send)
        else:
            # A database that is away is no reason to start the auditor anew.
            status = 200 if scope["path"] == "/livez" else 404
            headers = [(b"content-length", b"0")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

    async def _rounds(self) -> None:
        while True:
            started = time.monotonic()
            try:
                await self._round()
            except asyncpg.UndefinedFunctionError:
                _logger.error("the audit failed: the database needs `payments roles` once more")
            except Exception:
                # Whatever it is: `payments_audit_last_success_timestamp_seconds` stands still.
                _logger.exception("the audit failed")
            else:
                self._auditor.ended(time.monotonic() - started)
            await asyncio.sleep(self._period_seconds)

    async def _round(self) -> None:
        connection = await asyncpg.connect(
            self._settings.database_url,
            password=self._password,
            timeout=self._settings.connect_timeout_seconds,
            command_timeout=STATEMENT_SECONDS + 1,
            server_settings=SESSION,
        )
        try:
            await self._auditor.round(connection)
        finally:
            await connection.close(timeout=1)
