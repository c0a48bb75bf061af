"""`payments import` and `payments verify`: the old system's payments, here and compared.

What is read goes by COPY into a temporary table. One statement compares it with the payments that
are here; what it found is done in statements that are checked against it. New payments are
committed by the 50,000, in the order of their ids: a run that is cut off is finished by the next
one, and a run with nothing to do changes nothing.

Only payments that the import created, and it alone has changed, follow the old system. By itself
it moves forward: a new payment, one consumed. Where the old system took something back, it is only
told, unless `take_back` allows it.
"""

import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

import asyncpg
from tqdm import tqdm

from payments import locks
from payments.legacy.report import Report
from payments.legacy.row import LAST_OLD_ID, OldPayment
from payments.legacy.source import Source

# Who made, consumed or deleted a payment that came from the old system. No key can have this name,
# because a client's has no space.
IMPORTER = "payments import"

BATCH_ROWS = 50_000
PROGRESS_ROWS = 1000  # rows between two looks at the clock
LINE_SECONDS = 5.0  # between two lines where there is no terminal

# Ids that are left for what the old system makes until the cut-over: a payment made here meanwhile,
# as a trial, must not have the id of the old system's next one.
SPARE_IDS = 1_000_000

# The number is arbitrary; every run of this program takes the same.
ADVISORY_LOCK = 7_246_301_956

# The service draws an id in every statement that creates, and waits while the sequence is locked.
SESSION = """
SET lock_timeout = '1s';
SET statement_timeout = 0;
SET work_mem = '64MB';
SET temp_buffers = '64MB';
SET application_name = 'payments import';
"""

STAGING = """
CREATE TEMPORARY TABLE old_payments (
  number bigint NOT NULL,
  id bigint,
  status text,
  payment_given boolean NOT NULL,
  cents bigint,
  data jsonb,
  reason text
);
"""

INDEX = """
CREATE UNIQUE INDEX ON old_payments (id);
ANALYZE old_payments;
"""

INDEX_WITH_DOUBLES = """
CREATE INDEX ON old_payments (id);
ANALYZE old_payments;
UPDATE old_payments SET reason = 'another row has the same id'
WHERE
  reason IS NULL
  AND id IN (SELECT id FROM old_payments GROUP BY id HAVING count(*) > 1);
"""

# What is to be done, and with which rows, as they are now; rows that are equal are left out. Where
# a client created or changed a payment here, `client` is its name, and the payment stays as it is.
COMPARE = """
CREATE TEMPORARY TABLE changes AS
SELECT
  o.number, coalesce(o.id, p.id) AS id, o.status, o.payment_given, o.cents * 0.01 AS payment,
  o.data, o.reason, p.updated_at, c.client,
  CASE
    WHEN o.reason IS NOT NULL THEN 'refused'
    WHEN p.id IS NULL THEN 'new'
    WHEN p.created_by <> 'payments import' THEN 'made here'
    WHEN c.client IS NOT NULL AND p.deleted_by IS NOT NULL THEN 'deleted here'
    WHEN c.client IS NOT NULL THEN 'consumed here'
    WHEN o.id IS NULL THEN 'gone'
    WHEN p.deleted_at IS NOT NULL THEN 'returned'
    WHEN d.differs THEN 'replaced'
    WHEN p.status = 'consumed' THEN 'reopened'
    ELSE 'consumed'
  END AS verdict
FROM old_payments AS o
FULL JOIN payments AS p ON p.id = o.id
CROSS JOIN LATERAL (
  SELECT
    CASE
      WHEN p.created_by <> 'payments import' THEN p.created_by
      WHEN p.deleted_by <> 'payments import' THEN p.deleted_by
      WHEN p.consumed_by <> 'payments import' THEN p.consumed_by
    END AS client
) AS c
CROSS JOIN LATERAL (
  SELECT
    o.payment_given AND p.payment IS DISTINCT FROM o.cents * 0.01
    OR o.data IS NOT NULL AND p.data IS DISTINCT FROM o.data AS differs
) AS d
WHERE
  CASE
    WHEN o.number IS NULL THEN
      p.created_by = 'payments import' AND p.deleted_at IS NULL
    WHEN o.reason IS NOT NULL OR p.id IS NULL THEN true
    ELSE
      p.created_by <> 'payments import' OR p.deleted_at IS NOT NULL
      OR p.status::text <> o.status OR d.differs
  END;
CREATE INDEX ON changes (verdict, id);
ANALYZE changes;
"""

COUNTS = "SELECT verdict, count(*) AS rows FROM changes GROUP BY verdict"

# Reasons of one kind differ in the value that they repeat. Statuses are counted apart.
KINDS = r"""
SELECT
  regexp_replace(reason, '"[^"]*"|, (not|unlike) .*|; it is .*|number \S+,', '…', 'g') AS kind,
  count(*) AS rows, min(number) AS first
FROM old_payments
WHERE reason IS NOT NULL AND NOT starts_with(reason, 'status must be')
GROUP BY kind
ORDER BY rows DESC, kind
LIMIT 20
"""

FOUND = """
SELECT
  count(cents) AS amounts, min(cents) * 0.01 AS lowest, max(cents) * 0.01 AS highest,
  sum(cents) * 0.01 AS sum, bool_and(cents % 100 = 0) AS whole,
  count(*) FILTER (WHERE payment_given AND cents IS NULL AND reason IS NULL) AS "null",
  count(*) FILTER (WHERE NOT payment_given AND reason IS NULL) AS absent,
  count(*) FILTER (WHERE id IS NULL) AS without_id,
  count(*) FILTER (WHERE reason IS NOT NULL) AS refused,
  count(*) FILTER (WHERE NOT starts_with(reason, 'status must be')) AS faulty
FROM old_payments
"""

# A field that some rows of a list have and others leave out is null, or empty, in these.
FILL_PAYMENT = "UPDATE old_payments SET payment_given = true WHERE NOT payment_given"
FILL_DATA = "UPDATE old_payments SET data = '{}' WHERE data IS NULL AND reason IS NULL"

LAST_ID = "SELECT coalesce(max(id), 0) FROM old_payments WHERE id <= $1"

BEHIND = "SELECT last_value <= $1 FROM payments_id_seq"

# Changing nothing of the sequence locks it until the end of the transaction: nobody draws an id
# between the look at it and its move.
LOCK_SEQUENCE = "ALTER SEQUENCE payments_id_seq CACHE 1"

MOVE_SEQUENCE = """
SELECT CASE WHEN last_value <= $1 THEN setval('payments_id_seq', $1 + $2) END FROM payments_id_seq
"""

BATCH_END = """
SELECT max(id) FROM (
  SELECT id FROM changes WHERE verdict = 'new' AND id > $1 ORDER BY id LIMIT $2
) AS batch
"""

# An id that was taken since the comparison fails the batch.
INSERT = """
INSERT INTO payments (id, status, data, payment, created_by, consumed_at, consumed_by)
SELECT
  id, status::payment_status, coalesce(data, '{}'), payment, 'payments import',
  CASE WHEN status = 'consumed' THEN now() END,
  CASE WHEN status = 'consumed' THEN 'payments import' END
FROM changes
WHERE verdict = 'new' AND id > $1 AND id <= $2
ORDER BY id
"""

# `updated_at` is looked at again: a row that somebody changed since the comparison stays.
CHANGE = """
UPDATE payments AS p
SET
  status = coalesce(c.status::payment_status, p.status),
  payment = CASE WHEN c.payment_given THEN c.payment ELSE p.payment END,
  data = coalesce(c.data, p.data),
  consumed_at = CASE
    WHEN coalesce(c.status, p.status::text) = 'consumed' THEN coalesce(p.consumed_at, now())
  END,
  consumed_by = CASE
    WHEN coalesce(c.status, p.status::text) = 'consumed' THEN 'payments import'
  END,
  deleted_at = CASE WHEN c.verdict = 'gone' THEN now() END,
  deleted_by = CASE WHEN c.verdict = 'gone' THEN 'payments import' END,
  updated_at = greatest(now(), p.updated_at + interval '1 microsecond')
FROM changes AS c
WHERE c.verdict = ANY($1) AND p.id = c.id AND p.updated_at = c.updated_at
"""

REFUSALS = """
SELECT number, id, verdict, reason, client FROM changes
WHERE verdict = ANY($1)
ORDER BY number NULLS LAST, id
"""

# The digest does not depend on an order, so that no list of all ids is ever held: the sum of the
# ids' hashes, to 60 bits.
OLD = """
SELECT
  count(*) AS payments,
  count(*) FILTER (WHERE status = 'inserted') AS inserted,
  count(*) FILTER (WHERE status = 'consumed') AS consumed,
  CASE WHEN bool_and(payment_given) THEN coalesce(sum(cents), 0) * 0.01 END AS sum,
  to_hex((
    coalesce(sum(('x' || left(encode(sha256(id::text::bytea), 'hex'), 15))::bit(60)::bigint), 0)
    % (1::bigint << 60)
  )::bigint) AS ids
FROM old_payments
"""

NEW = """
SELECT
  count(*) AS payments,
  count(*) FILTER (WHERE status = 'inserted') AS inserted,
  count(*) FILTER (WHERE status = 'consumed') AS consumed,
  coalesce(sum(payment), 0.00) AS sum,
  to_hex((
    coalesce(sum(('x' || left(encode(sha256(id::text::bytea), 'hex'), 15))::bit(60)::bigint), 0)
    % (1::bigint << 60)
  )::bigint) AS ids
FROM payments
WHERE deleted_at IS NULL
"""

DIFFERENCES = """
SELECT
  o.number, coalesce(o.id, p.id) AS id, e.is_excepted,
  count(*) FILTER (WHERE NOT e.is_excepted) OVER () AS all,
  count(*) FILTER (WHERE e.is_excepted) OVER () AS excepted,
  CASE
    WHEN o.reason IS NOT NULL THEN o.reason
    WHEN p.id IS NULL THEN 'it is not here'
    WHEN p.deleted_at IS NOT NULL THEN 'it was deleted here by ' || p.deleted_by
    WHEN o.number IS NULL THEN 'it is here alone; it was made by ' || p.created_by
    WHEN p.status::text <> o.status THEN format('it is %s, and %s here', o.status, p.status)
    WHEN o.payment_given AND p.payment IS DISTINCT FROM o.cents * 0.01 THEN format(
      'its payment is %s, and %s here',
      coalesce((o.cents * 0.01)::text, 'null'), coalesce(p.payment::text, 'null')
    )
    ELSE 'its data is not the same here'
  END AS what
FROM old_payments AS o
FULL JOIN payments AS p ON p.id = o.id
CROSS JOIN LATERAL (
  SELECT
    $2 AND o.number IS NOT NULL AND (
      o.reason IS NOT NULL OR p.created_by <> 'payments import'
      OR coalesce(p.consumed_by <> 'payments import', false)
      OR coalesce(p.deleted_by <> 'payments import', false)
    ) IS TRUE AS is_excepted
) AS e
WHERE
  CASE
    WHEN o.number IS NULL THEN p.deleted_at IS NULL
    WHEN p.id IS NULL OR p.deleted_at IS NOT NULL OR o.reason IS NOT NULL THEN true
    ELSE
      p.status::text <> o.status
      OR o.payment_given AND p.payment IS DISTINCT FROM o.cents * 0.01
      OR o.data IS NOT NULL AND p.data IS DISTINCT FROM o.data
  END
ORDER BY e.is_excepted, o.number NULLS LAST, id
LIMIT $1
"""

FORWARD = ("new", "consumed")
BACK = {
    "gone": "it was imported, and is gone from the old system since",
    "returned": "it was gone, so that an import deleted it, and is there again",
    "replaced": "it has another payment or other data than when it was imported",
    "reopened": "it was imported as consumed, and is inserted again, or by another --status",
}
KEPT = {
    "refused": "{reason}",
    "made here": "{client} made a payment with this id here",
    "deleted here": "{client} deleted it here",
    "consumed here": "{client} consumed it here",
}


class ImportFailed(Exception):
    """Nothing more was imported; the message says why, and what to do."""


class Plan(NamedTuple):
    """What an import found."""

    counts: dict[str, int]  # by verdict; rows that are equal on both sides have none
    kinds: list[asyncpg.Record]  # what is wrong with rows: kind, rows, first row
    found: asyncpg.Record  # amounts, and how many rows lack something

    @property
    def forward(self) -> int:
        """How many payments are new, or were consumed."""
        return sum(self.counts.get(verdict, 0) for verdict in FORWARD)

    @property
    def back(self) -> int:
        """How many payments the old system took back in one way or another."""
        return sum(self.counts.get(verdict, 0) for verdict in BACK)

    @property
    def kept(self) -> int:
        """How many rows cannot be taken at all."""
        return sum(self.counts.get(verdict, 0) for verdict in KEPT)


class Difference(NamedTuple):
    """A payment that is not the same on both sides."""

    number: int | None
    id: int | None
    what: str


class Comparison(NamedTuple):
    """Both sides as a whole, and the first payments that differ."""

    old: dict[str, object]
    new: dict[str, object]
    differences: int
    excepted: int  # rows that an import leaves out, and that count as no difference
    first: list[Difference]

    @property
    def equal(self) -> bool:
        """Whether nothing differs; a sum that the source does not have is not compared."""
        return not self.differences and (
            self.excepted > 0
            or all(value is None or value == self.new[name] for name, value in self.old.items())
        )


async def plan(connection: asyncpg.Connection, source: Source) -> Plan:
    """Reads the source into the database and compares; changes no payment.

    The connection must be the schema owner's, or an administrator's, and is the import's until it
    is closed.

    Raises:
        ImportFailed: another import runs.
        SourceError: the source cannot be read to its end.
    """
    if not await locks.take(connection, ADVISORY_LOCK):
        raise ImportFailed("another import runs on this database; wait for its end")
    await _stage(connection, source)
    [found] = await connection.fetch(FOUND)
    await _fill(connection, source)
    await connection.execute(COMPARE)
    counts = {row["verdict"]: row["rows"] for row in await connection.fetch(COUNTS)}
    return Plan(counts, await connection.fetch(KINDS), found)


async def carry_out(connection: asyncpg.Connection, found: Plan, *, take_back: bool) -> None:
    """Does what was planned, but for what cannot be taken.

    Raises:
        ImportFailed: payments were changed since the plan was made.
    """
    try:
        await _move_sequence(connection)
        await _insert(connection, found.counts.get("new", 0))
        await _change(connection, found, take_back)
    except asyncpg.UniqueViolationError:
        raise ImportFailed("a payment was made here meanwhile; run it again") from None
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        raise ImportFailed("the service held a lock for too long; run it again") from None
    if found.forward:
        await connection.execute("ANALYZE (SKIP_LOCKED) payments")


async def write_report(
    connection: asyncpg.Connection, report: Report, *, take_back: bool
) -> list[Difference]:
    """Writes the rows that are left out, and returns the first ten.

    Raises:
        ReportError: it cannot be written.
    """
    reasons = KEPT if take_back else KEPT | BACK
    first: list[Difference] = []
    async with connection.transaction():
        async for row in connection.cursor(REFUSALS, list(reasons), prefetch=1000):
            reason = reasons[row["verdict"]].format_map(row)
            line = Difference(row["number"], row["id"], reason)
            report.write(line)
            if len(first) < 10:
                first.append(line)
    report.finish()
    return first


async def verify(
    connection: asyncpg.Connection, source: Source, show: int, *, take_the_rest: bool
) -> Comparison:
    """Compares all payments and returns the first `show` that differ.

    Changes nothing but a temporary table; the connection must be able to make one. With
    `take_the_rest`, rows that the import leaves out count as no difference.

    Raises:
        SourceError: the source cannot be read to its end.
    """
    await _stage(connection, source)
    await _fill(connection, source)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        [old], [new] = await connection.fetch(OLD), await connection.fetch(NEW)
        # Each row has the number of all.
        rows = await connection.fetch(DIFFERENCES, max(show, 1), take_the_rest)
    first = [
        Difference(row["number"], row["id"], row["what"])
        for row in rows[:show]
        if not row["is_excepted"]
    ]
    differences, excepted = (rows[0]["all"], rows[0]["excepted"]) if rows else (0, 0)
    return Comparison(dict(old), dict(new), differences, excepted, first)


async def _stage(connection: asyncpg.Connection, source: Source) -> None:
    await connection.execute(SESSION)
    await connection.execute(STAGING)
    with Progress("Reading") as progress:
        await connection.copy_records_to_table(
            "old_payments", records=_counted(source, progress), columns=OldPayment._fields
        )
    try:
        await connection.execute(INDEX)
    except asyncpg.UniqueViolationError:
        await connection.execute(INDEX_WITH_DOUBLES)


async def _fill(connection: asyncpg.Connection, source: Source) -> None:
    for field, statement in (("payment", FILL_PAYMENT), ("data", FILL_DATA)):
        if field in source.survey.columns:
            await connection.execute(statement)


def _counted(source: Source, progress: "Progress") -> Iterator[OldPayment]:
    number = 0
    for number, row in enumerate(source.rows(), start=1):
        yield row
        if number % PROGRESS_ROWS == 0:
            progress.show(number, source.total())
    progress.show(number, number)


async def _move_sequence(connection: asyncpg.Connection) -> None:
    """Moves the sequence past all old ids, before the first payment with one of them is here."""
    last = await connection.fetchval(LAST_ID, LAST_OLD_ID)
    if await connection.fetchval(BEHIND, last):
        async with connection.transaction():
            await connection.execute(LOCK_SEQUENCE)
            await connection.execute(MOVE_SEQUENCE, last, SPARE_IDS)


async def _insert(connection: asyncpg.Connection, rows: int) -> None:
    if not rows:
        return
    with Progress("Writing") as progress:
        last = 0
        while end := await connection.fetchval(BATCH_END, last, BATCH_ROWS):
            result = await connection.execute(INSERT, last, end)
            progress.show(progress.rows + int(result.split()[-1]), rows)
            last = end


async def _change(connection: asyncpg.Connection, found: Plan, take_back: bool) -> None:
    verdicts = ["consumed", *(BACK if take_back else ())]
    expected = sum(found.counts.get(verdict, 0) for verdict in verdicts)
    if not expected:
        return
    async with connection.transaction():
        result = await connection.execute(CHANGE, verdicts)
        if int(result.split()[-1]) != expected:
            raise ImportFailed("payments were changed here meanwhile; run it again")


class Progress:
    """How far it is, on standard error: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.rows = 0
        self._began = self._said = time.monotonic()
        self._bar = tqdm(desc=what, unit=" rows", unit_scale=True, file=sys.stderr, disable=None)
        self._plain = bool(self._bar.disable)  # no terminal; asked before `close` says so of any

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._plain and (self.rows or error is None):
            self._say("" if error is None else ", not finished")

    def show(self, rows: int, total: int | None) -> None:
        """Shows that so many rows are done, of so many, if that is known."""
        self._bar.total = total
        self._bar.update(rows - self.rows)
        self.rows = rows
        if self._plain and time.monotonic() - self._said >= LINE_SECONDS:
            left = f", {(total - rows) / self._rate():.0f} s left" if total else ""
            self._say(left, f" of {total:,}" if total else "")

    def _say(self, more: str, total: str = "") -> None:
        self._said = time.monotonic()
        line = f"{self._what}: {self.rows:,}{total} rows, {self._rate():,.0f} a second{more}"
        print(line, file=sys.stderr, flush=True)

    def _rate(self) -> float:
        return self.rows / max(time.monotonic() - self._began, 0.001)
