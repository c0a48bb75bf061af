"""`payments audit`: what it finds, what it counts, and what it costs."""

import asyncio
import math
import re
import signal
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from payments import audit, queries
from tests import PATIENCE_SECONDS
from tests.command import launch
from tests.conftest import API_DIRECTORY, Api, Database
from tests.test_cli import invoke_on

NO_LAG = timedelta(0)
NOTHING = {"created": 0.0, "consumed": 0.0, "deleted": 0.0, "value_created": 0.0}

# Payments 1 to 3 as the service leaves them: inserted, consumed, deleted.
PAYMENTS = """
INSERT INTO payments (created_by, payment, status, consumed_at, consumed_by, deleted_at, deleted_by)
VALUES
  ('shop', 1.10, 'inserted', NULL, NULL, NULL, NULL),
  ('shop', 2.20, 'consumed', now(), 'till', NULL, NULL),
  ('shop', 3.30, 'inserted', NULL, NULL, now(), 'shop')
"""

# How each invariant can come to be broken, and by which rows.
BROKEN = [
    ("event-without-client", "UPDATE payments SET created_by = '' WHERE id < 3", [1, 2]),
    (
        "event-without-client",
        (
            "ALTER TABLE payments DROP CONSTRAINT payments_consumed;"
            " UPDATE payments SET consumed_by = NULL WHERE id = 2"
        ),
        [2],
    ),
    ("event-without-client", "UPDATE payments SET consumed_by = '' WHERE id = 2", [2]),
    (
        "event-without-client",
        (
            "ALTER TABLE payments DROP CONSTRAINT payments_deleted;"
            " UPDATE payments SET deleted_at = NULL WHERE id = 3"
        ),
        [3],
    ),
    ("event-without-client", "UPDATE payments SET deleted_by = '' WHERE id = 3", [3]),
    (
        "status-without-event",
        (
            "ALTER TABLE payments DROP CONSTRAINT payments_consumed;"
            " UPDATE payments SET status = 'consumed'"
        ),
        [1, 3],
    ),
    (
        "status-without-event",
        (
            "ALTER TABLE payments DROP CONSTRAINT payments_consumed;"
            " UPDATE payments SET status = 'inserted'"
        ),
        [2],
    ),
    (
        "consumed-before-created",
        (
            "ALTER TABLE payments DROP CONSTRAINT IF EXISTS payments_event_order;"
            " UPDATE payments SET consumed_at = created_at - interval '1 us' WHERE id = 2"
        ),
        [2],
    ),
    (
        "deleted-before-created",
        (
            "ALTER TABLE payments DROP CONSTRAINT IF EXISTS payments_event_order;"
            " UPDATE payments SET deleted_at = created_at - interval '1 us' WHERE id = 3"
        ),
        [3],
    ),
    (
        "consumed-after-deleted",
        (
            "UPDATE payments SET created_at = now() - interval '1 day', deleted_by = 'x',"
            " deleted_at = now() - interval '11 s'"
        ),
        [2],
    ),
    (
        "event-in-the-future",
        (
            "UPDATE payments SET updated_at = now() + interval '1 hour' WHERE id = 1;"
            " UPDATE payments SET consumed_at = now() + interval '1 hour' WHERE id = 2;"
            " UPDATE payments SET deleted_at = now() + interval '1 hour' WHERE id = 3"
        ),
        [1, 2, 3],
    ),
    (
        "unreadable-number",
        (
            """UPDATE payments SET data = '{"a": [{"b": 1e16000}]}' WHERE id = 1;"""
            " UPDATE payments SET data = '-17976931348623159e292' WHERE id = 2;"
            """ UPDATE payments SET data = '["1e400", {"1e400": 17976931348623158e292}]'"""
            " WHERE id = 3"
        ),
        [1, 2],
    ),
    (
        "guard-missing",
        "ALTER TABLE payments DROP CONSTRAINT payments_payment_range",
        ["payments_payment_range"],
    ),
    (
        "guard-missing",
        (
            "ALTER TABLE payments DROP CONSTRAINT payments_deleted;"
            " ALTER TABLE payments ADD CONSTRAINT payments_deleted"
            " CHECK ((deleted_at IS NULL) = (deleted_by IS NULL)) NOT VALID"
        ),
        ["payments_deleted"],
    ),
    (
        "guard-missing",
        (
            "ALTER TABLE payments DISABLE TRIGGER payments_evidence;"
            " DROP INDEX payments_idempotency_key"
        ),
        ["payments_evidence", "payments_idempotency_key"],
    ),
    (
        "guard-missing",
        (
            "ALTER TABLE payments DISABLE ROW LEVEL SECURITY;"
            " ALTER TABLE payments DISABLE TRIGGER payments_update_event"
        ),
        ["payments_changed_by", "payments_created_by", "payments_update_event"],
    ),
    ("guard-missing", "DROP POLICY payments_created_by ON payments", ["payments_created_by"]),
    (
        "guard-missing",
        (
            "ALTER TABLE consumptions DROP CONSTRAINT consumptions_pkey;"
            " ALTER TABLE consumptions DISABLE ROW LEVEL SECURITY"
        ),
        ["consumptions_client", "consumptions_pkey"],
    ),
    (
        "not-from-migrations",
        (
            "RESET ROLE; SELECT lo_create(7); SET ROLE payments_owner;"
            " DO $$ BEGIN EXECUTE format('ALTER ROLE payments_owner IN DATABASE %I"
            " SET synchronous_commit = off', current_database()); END $$"
        ),
        ["large object 7 of postgres", "payments_owner: synchronous_commit=off"],
    ),
]
AS_THE_OWNER = "SET ROLE payments_owner;"  # whom no trigger hinders


def counted(registry: CollectorRegistry) -> dict[str, float]:
    """Returns what an auditor counted."""
    values = {
        event: registry.get_sample_value(f"payments_audit_rows_{event}_total")
        for event in ("created", "consumed", "deleted")
    }
    values["value_created"] = registry.get_sample_value("payments_audit_value_created_total")
    return {name: value for name, value in values.items() if value is not None}


def violations(registry: CollectorRegistry, of: Iterable[str] = audit.OF_ROWS) -> dict[str, float]:
    """Returns the invariants that are broken now, and by how many rows."""
    found = {
        name: registry.get_sample_value("payments_audit_violations", {"invariant": name})
        for name in of
    }
    return {name: value for name, value in found.items() if value}


SETTLED = "payments_audit_settled_timestamp_seconds"


class Rounds:
    """An auditor, as it connects."""

    def __init__(
        self, database: Database, lag: timedelta = NO_LAG, user: str = "payments_app"
    ) -> None:
        self.registry = CollectorRegistry()
        self.auditor = audit.Auditor(self.registry, lag)
        self.asked: list[tuple[Any, ...]] = []  # what AUDIT was given, each time
        self._url = database.url(user)

    async def __call__(self) -> dict[str, float]:
        """Does a round; returns what was counted so far."""
        connection = await asyncpg.connect(self._url, server_settings=audit.SESSION)
        connection.add_query_logger(self._log)
        try:
            await self.auditor.round(connection)
        finally:
            await connection.close()
        return counted(self.registry)

    def _log(self, query: Any) -> None:
        if query.query == audit.AUDIT:
            self.asked.append(query.args)


@pytest.fixture
def rounds(database: Database) -> Rounds:
    """An auditor of the test's database."""
    return Rounds(database)


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize("user", ["payments_app", "payments_migrator", "payments_app_dev"])
async def test_nothing_is_broken(database: Database, user: str) -> None:
    await database.fetch(PAYMENTS)
    result = await invoke_on(database, "audit", user=user)
    assert (result.status, result.error) == (0, "")
    header, *lines, last = result.output.splitlines()
    assert header.split() == ["INVARIANT", "BROKEN", "BY", "EXAMPLES"]
    assert [line.split() for line in lines] == [
        [name, "0"] for name in (*audit.OF_ROWS, audit.OF_DATA, *audit.OF_THE_DATABASE)
    ]
    assert last == "3 payments audited."


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(("invariant", "sql", "by"), BROKEN)
async def test_what_is_broken_is_told(
    database: Database, invariant: str, sql: str, by: list[int | str]
) -> None:
    await database.fetch(PAYMENTS)
    async with database.connect() as connection:
        await connection.execute(AS_THE_OWNER + sql)
    result = await invoke_on(database, "audit", user="payments_app")
    assert (result.status, result.error) == (1, "")
    told = dict(re.split(r" {2,}", line, maxsplit=1) for line in result.output.splitlines()[1:-1])
    assert told[invariant] == f"{len(by)}  {', '.join(map(str, by))}"
    # What a broken guard let in is broken as well; of the rest nothing is.
    others = {name for name, says in told.items() if says != "0"} - {invariant}
    assert others <= {"guard-missing", "event-without-client", "consumed-after-deleted"}


async def test_every_row_is_looked_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SWEEP_ROWS", 7)
    monkeypatch.setattr(audit, "DATA_ROWS", 7)
    await database.fetch(
        # Deleted later than the audit begins, as others do while it runs.
        "INSERT INTO payments (id, created_by, deleted_at, deleted_by, data)"
        " SELECT 3 * n, '', now() + interval '1 hour', 'shop', '1e400'"
        " FROM generate_series(1, 50) AS n"
    )
    async with database.connect("payments_app") as connection:
        rows, breaches = await audit.once(connection)
    assert rows == 50
    for invariant in ("event-without-client", "unreadable-number"):
        assert (invariant, 50, [3, 6, 9, 12, 15]) in breaches


@pytest.mark.parametrize("sql", ["UPDATE payments SET status = 'consumed'", "CREATE TABLE t ()"])
async def test_it_only_reads(database: Database, sql: str) -> None:
    connection = await asyncpg.connect(database.url(), server_settings=audit.SESSION)
    try:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute(sql)
    finally:
        await connection.close()


async def test_what_the_service_does_is_counted(api: Api, rounds: Rounds) -> None:
    await api.payment(5)
    assert await rounds() == NOTHING  # from now on
    for value in ("1.10", "2.20", "3.30"):
        await api.payment(value)
    assert (await api.send("POST", "/create", '{"status": "consumed"}')).status_code == 200
    assert (await api.send("PATCH", "/v1/payments/1", '{"status": "consumed"}')).status_code == 200
    assert (await api.send("DELETE", "/v1/payments/1")).status_code == 204
    assert (await api.send("DELETE", "/v1/payments/2")).status_code == 204
    for _ in range(2):  # the second time nothing is consumed
        answer = await api.send("POST", "/v1/consumptions", "{}", Idempotency_Key="a")
        assert [item["id"] for item in answer.json()["items"]] == [3]
    after = {"created": 4.0, "consumed": 3.0, "deleted": 2.0, "value_created": 6.6}
    assert await rounds() == pytest.approx(after)
    assert await rounds() == pytest.approx(after)
    assert (await api.send("DELETE", "/v1/payments/3")).status_code == 204
    assert await rounds() == pytest.approx(after | {"deleted": 3.0})
    assert violations(rounds.registry) == {}


@pytest.mark.in_process
async def test_a_payment_that_is_consumed_twice_has_one_row(
    api: Api, database: Database, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service as it would be without its guard, on a database without its own."""

    def says() -> float:
        return REGISTRY.get_sample_value("payments_consumed_total") or 0.0

    monkeypatch.setattr(queries, "CONSUME", queries.CONSUME.replace("AND status = 'inserted'", ""))
    await database.fetch("ALTER TABLE payments DISABLE TRIGGER payments_evidence")
    await rounds()
    before = says()
    payment = await api.payment()
    for _ in range(2):
        path = f"/v1/payments/{payment['id']}"
        answer = await api.send("PATCH", path, '{"status": "consumed"}')
        assert answer.status_code == 200
    assert says() - before == 2.0
    assert (await rounds())["consumed"] == 1.0
    assert violations(rounds.registry, audit.OF_THE_DATABASE) == {"guard-missing": 1.0}


@pytest.mark.parametrize("user", ["payments_app", "payments_app_dev"])
async def test_a_transaction_that_is_held_open_is_counted_when_it_ends(
    database: Database, user: str
) -> None:
    """Also where an update moves the auditor to another login before the service."""
    rounds = Rounds(database, user=user)
    await database.key()
    await rounds()
    async with database.connect("payments_app") as held:
        transaction = held.transaction()
        await transaction.start()
        await held.execute("INSERT INTO payments (created_by, payment) VALUES ('shop', 10)")
        async with database.connect("payments_app") as other:
            await other.execute("INSERT INTO payments (created_by, payment) VALUES ('shop', 1)")
        # Its time is later than that of the row that nobody sees yet.
        assert await rounds() == NOTHING
        settled = rounds.registry.get_sample_value(SETTLED)
        assert await rounds() == NOTHING
        # So that nobody takes the counts for those of now.
        assert rounds.registry.get_sample_value(SETTLED) == settled
        await transaction.commit()
    both = NOTHING | {"created": 2.0, "value_created": 11.0}
    since = rounds.registry.get_sample_value("payments_audit_since_timestamp_seconds")
    assert since is not None
    assert settled is not None
    assert time.time() - 60 < since < settled < time.time()
    assert await rounds() == both
    assert await rounds() == both


async def test_the_age_of_the_oldest_payment_that_waits(database: Database, rounds: Rounds) -> None:
    async def age() -> float | None:
        await rounds()
        return rounds.registry.get_sample_value("payments_oldest_inserted_seconds")

    assert await age() == 0
    await database.fetch("""
        INSERT INTO payments (created_by, created_at, consumed_at, consumed_by, status, deleted_at,
          deleted_by)
        SELECT 'shop', now() - hours * interval '1 hour',
          CASE WHEN hours = 3 THEN now() END, CASE WHEN hours = 3 THEN 'shop' END,
          CASE WHEN hours = 3 THEN 'consumed' ELSE 'inserted' END::payment_status,
          CASE WHEN hours = 4 THEN now() END, CASE WHEN hours = 4 THEN 'shop' END
        FROM generate_series(1, 4) AS hours
    """)
    assert 7200 <= (await age() or 0) < 3 * 3600


async def test_a_table_that_is_locked_hides_no_old_transaction(
    database: Database, rounds: Rounds
) -> None:
    async with database.connect() as holder:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("LOCK TABLE payments")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await rounds()
        age = rounds.registry.get_sample_value("payments_database_oldest_transaction_seconds")
        await transaction.rollback()
    assert age is not None
    assert age > 0


async def test_what_is_rolled_back_is_never_counted(database: Database, rounds: Rounds) -> None:
    await database.key()
    await rounds()
    async with database.connect("payments_app") as held:
        transaction = held.transaction()
        await transaction.start()
        await held.execute("INSERT INTO payments (created_by) VALUES ('shop')")
        assert await rounds() == NOTHING
        await transaction.rollback()
    assert await rounds() == NOTHING


async def test_what_the_functions_maker_may_not_see_is_unknown(
    database: Database, rounds: Rounds
) -> None:
    await database.fetch(
        "CREATE OR REPLACE FUNCTION oldest_transaction() RETURNS timestamptz"
        " LANGUAGE sql AS 'SELECT NULL::timestamptz'"
    )
    assert await rounds() == NOTHING
    age = rounds.registry.get_sample_value("payments_database_oldest_transaction_seconds")
    assert age is not None
    assert math.isnan(age)


async def test_others_that_are_idle_in_a_transaction_do_not_stop_it(
    database: Database, rounds: Rounds
) -> None:
    """As `pg_dump` is for hours, or an engineer with psql."""
    await database.key()
    await rounds()
    async with database.connect("postgres") as idle, idle.transaction():
        await idle.execute("SELECT FROM payments")
        async with database.connect("payments_app") as other:
            await other.execute("INSERT INTO payments (created_by) VALUES ('shop')")
        assert (await rounds())["created"] == 1.0
        age = rounds.registry.get_sample_value("payments_database_oldest_transaction_seconds")
        assert age is not None
        assert age > 0.0


@pytest.mark.slow
async def test_nothing_is_missed_or_doubled_while_the_service_is_busy(
    api: Api, database: Database
) -> None:
    lag = timedelta(seconds=3)  # longer than a transaction takes, on any machine
    rounds = Rounds(database, lag)
    await rounds()
    ended = asyncio.Event()

    async def caller(number: int) -> None:
        while not ended.is_set():
            payment = await api.payment("0.01")
            if number % 2:
                path = f"/v1/payments/{payment['id']}"
                await api.send("PATCH", path, '{"status": "consumed"}')
                await api.send("DELETE", path)

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(caller(number))
        while (await rounds())["deleted"] < 50:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        ended.set()
    await asyncio.sleep(lag.total_seconds() + 0.1)
    after = await rounds()
    [row] = await database.fetch(
        "SELECT count(*) AS created, count(consumed_at) AS consumed, count(deleted_at) AS deleted,"
        " sum(payment)::float8 AS value_created FROM payments"
    )
    assert row["deleted"] > 0
    assert after == pytest.approx(dict(row))


async def test_a_round_that_fails_is_made_up_for(database: Database, rounds: Rounds) -> None:
    await rounds()
    await database.fetch(PAYMENTS)
    await database.fetch("ALTER TABLE payments RENAME COLUMN payment TO value")
    with pytest.raises(asyncpg.UndefinedColumnError):
        await rounds()
    await database.fetch("ALTER TABLE payments RENAME COLUMN value TO payment")
    after = {"created": 3.0, "consumed": 1.0, "deleted": 1.0, "value_created": 6.6}
    assert await rounds() == pytest.approx(after)


async def test_an_outage_of_hours_is_made_up_for_in_steps(
    database: Database, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    monkeypatch.setattr(rounds.auditor, "_settled", now - timedelta(hours=3))
    # One a minute, from four hours ago until in four minutes; each second is deleted 90 min later.
    await database.fetch(
        """
        INSERT INTO payments (created_by, payment, created_at, deleted_at, deleted_by)
        SELECT
          'shop', 1, $1::timestamptz + n * interval '1 min',
          CASE WHEN n % 2 = 0 THEN $1 + (n + 90) * interval '1 min' END,
          CASE WHEN n % 2 = 0 THEN 'shop' END
        FROM generate_series(-240, 4) AS n
        """,
        now,
    )
    # Made in the minutes from -180 to 0; deleted in the even ones of -150 to 0.
    after = {"created": 181.0, "consumed": 0.0, "deleted": 76.0, "value_created": 181.0}
    assert await rounds() == after
    steps = [end - start for start, end, *_ in rounds.asked]
    assert max(steps) == audit.STEP
    assert sum(steps, timedelta()) >= timedelta(hours=3)


async def test_a_breach_is_seen_at_once_where_something_happened(
    database: Database, rounds: Rounds
) -> None:
    await rounds()
    await database.fetch("INSERT INTO payments (created_by) VALUES ('')")
    await rounds()
    assert violations(rounds.registry) == {"event-without-client": 1.0}


async def test_a_breach_elsewhere_is_swept_up_and_stays_until_it_is_mended(
    database: Database,
    rounds: Rounds,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(audit, "SWEEP_ROWS", 10)
    await database.fetch(
        "INSERT INTO payments (created_by, created_at)"
        " SELECT 'shop', now() - interval '1 day' FROM generate_series(1, 35)"
    )
    await database.fetch("UPDATE payments SET created_by = '' WHERE id IN (31, 33)")
    found = []
    for _ in range(6):
        await rounds()
        found.append(violations(rounds.registry))
    both = {"event-without-client": 2.0}
    assert found == [{}, {}, {}, both, both, both]
    assert vars(caplog.records[-1])["fields"] == {
        "invariant": "event-without-client",
        "rows": 2,
        "examples": [31, 33],
    }
    await database.fetch("UPDATE payments SET created_by = 'shop' WHERE id = 31")
    await rounds()
    assert violations(rounds.registry) == {"event-without-client": 1.0}
    await database.fetch("DELETE FROM payments WHERE id = 33")
    await rounds()
    assert violations(rounds.registry) == {}
    await database.fetch("UPDATE payments SET created_by = '' WHERE id = 1")
    for _ in range(6):  # it began again
        await rounds()
    assert violations(rounds.registry) == {"event-without-client": 1.0}


async def test_old_rows_are_looked_at_again_while_new_ones_come(
    database: Database, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SWEEP_ROWS", 10)
    row = "INSERT INTO payments (created_by, created_at) SELECT 'shop', now() - interval '1 day'"
    await database.fetch(f"{row} FROM generate_series(1, 15)")
    for _ in range(3):
        await rounds()
        await database.fetch(row)
    await database.fetch("UPDATE payments SET created_by = '' WHERE id = 1")
    for _ in range(3):
        await rounds()
        await database.fetch(row)
    assert violations(rounds.registry) == {"event-without-client": 1.0}


async def test_a_guard_that_is_taken_away(database: Database, rounds: Rounds) -> None:
    guards = audit.OF_THE_DATABASE
    await rounds()
    assert violations(rounds.registry, guards) == {}
    await database.fetch("ALTER TABLE payments DISABLE TRIGGER payments_evidence")
    await rounds()
    assert violations(rounds.registry, guards) == {"guard-missing": 1.0}
    await database.fetch("ALTER TABLE payments ENABLE TRIGGER payments_evidence")
    await rounds()
    assert violations(rounds.registry, guards) == {}


@pytest.mark.parametrize("value", ["-5", "NaN"])
async def test_a_value_that_no_payment_can_have_is_counted_as_none(
    database: Database, rounds: Rounds, value: str
) -> None:
    await rounds()
    await database.fetch("ALTER TABLE payments DROP CONSTRAINT payments_payment_range")
    await database.fetch(
        "INSERT INTO payments (created_by, payment) VALUES ('shop', $1::text::numeric)", value
    )
    assert await rounds() == NOTHING | {"created": 1.0}
    assert await rounds() == NOTHING | {"created": 1.0}


async def test_the_databases_own_figures(database: Database, rounds: Rounds) -> None:
    def value(name: str) -> float:
        found = rounds.registry.get_sample_value(f"payments_database_{name}")
        assert found is not None
        return found

    await rounds()
    connections, written = value("connections"), value("wal_bytes_total")
    assert written == 0.0
    assert value("connections_max") == float(
        (await database.fetch("SHOW max_connections"))[0]["max_connections"]
    )
    assert value("size_bytes") > 1_000_000
    async with database.connect("payments_app"), database.connect("payments_migrator"):
        await database.fetch(
            "INSERT INTO payments (created_by, data)"
            " SELECT 'shop', to_jsonb(repeat('x', 1000)) FROM generate_series(1, 100)"
        )
        await rounds()
    assert value("connections") >= connections + 2
    assert value("wal_bytes_total") > 10_000
    await database.fetch("UPDATE payments SET payment = 1")
    await database.fetch("SELECT pg_stat_force_next_flush()")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while value("dead_rows") < 100:
            await rounds()


@pytest.mark.parametrize("rows", [0, 20_000])
async def test_every_condition_has_its_index(database: Database, rows: int) -> None:
    """Also in the plan that PostgreSQL keeps for all parameters, of a table that was empty."""
    await database.fetch(
        "INSERT INTO payments (created_by) SELECT 'shop' FROM generate_series(1, $1::int)", rows
    )
    await database.fetch("ANALYZE payments")
    settings = audit.SESSION | {"plan_cache_mode": "force_generic_plan"}
    connection = await asyncpg.connect(database.url(), server_settings=settings)
    try:
        await connection.execute(f"PREPARE audit AS {audit.AUDIT}")
        lines = await connection.fetch(
            "EXPLAIN EXECUTE audit (now() - interval '1 min', now(), 0, 10000, '{1}')"
        )
        oldest = await connection.fetch(f"EXPLAIN {audit.OLDEST_INSERTED}")
    finally:
        await connection.close()
    plan = "\n".join(line[0] for line in lines)
    assert "Seq Scan" not in plan
    used = re.findall(r"Bitmap Index Scan on (\w+)", plan)
    # There are two statuses and few clients: an index that has them first is as good.
    assert sorted(re.sub("_by_(client|status)$", "", name) for name in used) == [
        "payments_consumed_at",
        "payments_deleted_at",
        "payments_list",
        "payments_pkey",
        "payments_pkey",
    ]
    assert "using payments_list_by_status on payments" in oldest[1][0]


LISTENING = re.compile(r"Listening on .*, port (\d+)")


def read(log: Path) -> str:
    """Returns what a process wrote."""
    return log.read_text()


@asynccontextmanager
async def served(database: Database, log: Path) -> AsyncIterator[str]:
    """Runs `payments audit --serve`, ten times a second; gives its URL."""
    with log.open("wb") as output:
        process = await launch(
            *("audit", "--serve", "--period-seconds", "0.1"),
            variables={
                "PAYMENTS_DATABASE_URL": database.url(),
                "PAYMENTS_HTTP_HOST": "127.0.0.1",
                "PAYMENTS_METRICS_PORT": "0",
            },
            stdout=output,
            stderr=output,
        )
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (listening := LISTENING.search(read(log))):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listening[1]}"
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            status = await process.wait()
    assert status == 0, read(log)


async def samples(url: str) -> dict[str, float]:
    """Returns what `/metrics` says, by a metric's name with its labels."""
    async with httpx.AsyncClient(verify=False, trust_env=False) as http:  # noqa: S501
        answer = await http.get(f"{url}/metrics")
        assert (await http.get(f"{url}/livez")).status_code == 200
        assert (await http.get(f"{url}/else")).status_code == 404
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def until(url: str, name: str, least: float) -> dict[str, float]:
    """Waits for a metric to come to a value."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (found := await samples(url)).get(name, -1.0) < least:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return found


LAST = "payments_audit_last_success_timestamp_seconds"


@pytest.mark.slow
@pytest.mark.usefixtures("command")
async def test_it_serves_what_it_counts_over_one_connection(
    database: Database, tmp_path: Path
) -> None:
    async with served(database, tmp_path / "log") as url:
        first = await until(url, LAST, 1.0)
        assert first["payments_audit_rows_created_total"] == 0.0
        assert first["payments_audit_duration_seconds"] > 0.0
        await database.fetch(PAYMENTS)
        most = 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await samples(url))["payments_audit_rows_created_total"] < 3.0:
                [row] = await database.fetch(
                    "SELECT count(*) AS connections FROM pg_stat_activity"
                    " WHERE application_name = 'payments-audit' AND datname = current_database()"
                )
                most = max(most, row["connections"])
        assert most == 1
    assert "Traceback" not in read(tmp_path / "log")


@pytest.mark.usefixtures("command")
async def test_roles_that_are_too_old_are_told_of(database: Database, tmp_path: Path) -> None:
    await database.fetch("DROP FUNCTION oldest_transaction")
    async with served(database, tmp_path / "log") as url:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "needs `payments roles`" not in read(tmp_path / "log"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert (await invoke_on(database, "roles", user="postgres")).status == 0
        await until(url, LAST, 1.0)


@pytest.mark.usefixtures("command")
async def test_without_its_database_it_lives_and_goes_on_when_it_is_back(
    database: Database, tmp_path: Path
) -> None:
    async with served(database, tmp_path / "log") as url:
        await until(url, LAST, 1.0)
        async with database.away():
            async with asyncio.timeout(PATIENCE_SECONDS):
                while "the audit failed" not in read(tmp_path / "log"):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            gone = (await samples(url))[LAST]
        await until(url, LAST, gone + 0.001)


async def test_the_page_names_every_metric_and_no_other(database: Database, rounds: Rounds) -> None:
    await rounds()
    page = (API_DIRECTORY.parent / "docs" / "observability.md").read_text()
    section = page.split("\n## Audit\n")[1].split("\n## ")[0]
    emitted = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in rounds.registry.collect()
    }
    assert set(re.findall(r"^\| `(payments_\w+)", section, re.MULTILINE)) == emitted
    told = set(re.findall(r"^\| `([a-z]+(?:-[a-z]+)+)` ", section, re.MULTILINE))
    assert told == {*audit.OF_ROWS, audit.OF_DATA, *audit.OF_THE_DATABASE}
