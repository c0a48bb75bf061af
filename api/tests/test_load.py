"""`make load` passes where all is well, and finds what is not."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT

import pytest

from tests import PATIENCE_SECONDS
from tests.conftest import API_DIRECTORY, Database, Serve

pytestmark = pytest.mark.slow

SCRIPT = API_DIRECTORY.parent / "load" / "staging.py"


# What it says of a machine that has too much to do; the tests are not about this machine.
BUSY = "this machine is too slow or too busy"


async def run(url: str, key: str, *options: str) -> tuple[int, str]:
    """Runs the load for two seconds; returns its status and what it said."""
    bare = (sys.executable, "-S")  # without installed packages, as in the pipeline
    process = await asyncio.create_subprocess_exec(
        *(*bare, str(SCRIPT), url, "--rate=50", "--seconds=2", "--p99-ms=60000", *options),
        env={"LOAD_KEY": key, "PATH": "/usr/bin:/bin"},
        stdout=PIPE,
        stderr=STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_all_is_well(start: Serve, database: Database) -> None:
    status, output = await run(await start(), await database.key())
    failures = [line for line in output.splitlines() if line.startswith("FAILED")]
    assert [line for line in failures if not line.endswith(BUSY)] == []
    assert status == bool(failures)
    assert "100 requests at 50 a second" in output
    made = await database.fetch(
        "SELECT count(*), count(*) FILTER (WHERE data ? 'load'), count(deleted_at) FROM payments"
    )
    assert made[0]["count"] >= 50
    assert len(set(made[0].values())) == 1
    assert f"{made[0]['count']} payments accepted, 0 of them amiss" in output


async def test_an_accepted_payment_that_is_lost_is_found(start: Serve, database: Database) -> None:
    url, key = await start(), await database.key()
    running = asyncio.create_task(run(url, key))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (lost := await database.fetch("DELETE FROM payments RETURNING id")):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    status, output = await running
    assert status == 1
    assert f"payment {lost[0]['id']} was accepted and is not there" in output


async def test_a_payment_that_was_made_twice_is_found(start: Serve, database: Database) -> None:
    await database.fetch("""
        CREATE FUNCTION double() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
          IF NEW.data ->> 'number' = '10' AND pg_trigger_depth() = 1 THEN
            INSERT INTO payments (status, payment, data, created_by)
            VALUES (NEW.status, NEW.payment, NEW.data, NEW.created_by);
          END IF;
          RETURN NULL;
        END $$
    """)
    await database.fetch(
        "CREATE TRIGGER double AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION double()"
    )
    status, output = await run(await start(), await database.key())
    assert status == 1
    assert "request 10 made [" in output


async def test_a_failed_request_fails_and_its_creation_is_settled(
    start: Serve, database: Database
) -> None:
    await database.fetch("CREATE SEQUENCE tried")
    await database.fetch("GRANT USAGE ON SEQUENCE tried TO payments_app")
    await database.fetch("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF NEW.data ->> 'number' = '20' AND nextval('tried') <= 2 THEN RAISE 'not now'; END IF;
          RETURN NEW;
        END $$
    """)
    await database.fetch(
        "CREATE TRIGGER refuse BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    status, output = await run(await start(), await database.key())
    assert status == 1
    assert "503 Service Unavailable" in output
    assert "0 of them amiss" in output
    made = await database.fetch("SELECT FROM payments WHERE data ->> 'number' = '20'")
    assert len(made) == 1


async def test_a_slow_service_fails(start: Serve, database: Database) -> None:
    status, output = await run(await start(), await database.key(), "--p99-ms=0.1")
    assert status == 1
    assert "above 0.1 ms" in output


async def test_a_machine_that_is_too_slow_says_so(start: Serve, database: Database) -> None:
    # Nothing sends this many in the tenth of a second after which a request is late.
    rate = ("--rate=500000", "--seconds=0.01")
    status, output = await run(await start(), await database.key(), *rate)
    assert status == 1
    assert BUSY in output


async def test_a_key_that_is_none(start: Serve) -> None:
    status, output = await run(await start(), "x" * 43)
    assert status == 1
    assert "nothing was accepted" in output
    assert "401 Unauthorized" in output


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ((), "", "LOAD_KEY is not set"),
        (("--rate=0",), "key", "at least one request"),
        (("--seconds=-1",), "key", "at least one request"),
    ],
    ids=["no key", "no rate", "no time"],
)
async def test_what_is_missing(options: tuple[str, ...], key: str, message: str) -> None:
    status, output = await run("http://127.0.0.1:1", key, *options)
    assert status == 2
    assert message in output


async def test_nobody_there() -> None:
    status, output = await run("http://127.0.0.1:1", "key", "--seconds=0.1")
    assert status == 1
    assert "ConnectionRefusedError" in output
