"""`payments smoke`, against services that are well, and others."""

import asyncio
import ssl
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from payments import auth, smoke
from tests import PATIENCE_SECONDS
from tests.command import launch
from tests.conftest import API_DIRECTORY, Database, Serve, client

pytestmark = pytest.mark.usefixtures("command")


async def run(url: str, key: str = "", *options: str) -> tuple[int, str]:
    """Runs the command without patience; returns its status and what it said."""
    variables = {"PAYMENTS_SMOKE_KEY": key} if key else {}
    process = await launch("smoke", url, "--wait-seconds=0", *options, variables=variables)
    async with asyncio.timeout(PATIENCE_SECONDS):
        output, error = await process.communicate()
    assert b"Traceback" not in error, error.decode()
    assert process.returncode is not None
    return process.returncode, (output + error).decode()


def marks(output: str) -> dict[str, str]:
    """Returns how each check ended."""
    lines = [line for line in output.splitlines() if line.startswith(("ok", "FAILED"))]
    return {line[8:].split(" (")[0].split(":")[0]: line.split()[0] for line in lines}


async def left(database: Database) -> list[int]:
    """Returns the payments that are there for clients."""
    rows = await database.fetch("SELECT id FROM payments WHERE deleted_at IS NULL")
    return [row["id"] for row in rows]


async def test_all_is_well(start: Serve, database: Database) -> None:
    status, output = await run(await start(), await database.key())
    assert marks(output) == {
        "ready": "ok",
        "access": "ok",
        "life of a payment": "ok",
        "consumptions": "ok",
        "old routes": "ok",
    }
    assert status == 0


async def test_what_it_made_is_marked_and_deleted(start: Serve, database: Database) -> None:
    await run(await start(), await database.key())
    rows = await database.fetch("SELECT payment::text, data ? 'smoke' AS marked FROM payments")
    assert [tuple(row) for row in rows] == [("0.01", True)] * 2
    assert await left(database) == []


async def test_a_failure_is_named_and_leaves_nothing(start: Serve, database: Database) -> None:
    await database.fetch("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.status = 'consumed' AND NEW.deleted_at IS NULL
        THEN RAISE 'no'; END IF; RETURN NEW; END $$;
    """)
    await database.fetch(
        "CREATE TRIGGER refuse BEFORE UPDATE ON payments FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    status, output = await run(await start(), await database.key())
    assert status == 1
    assert marks(output)["life of a payment"] == "FAILED"
    assert "PATCH /v1/payments/" in output
    assert "503 in place of 200 or 409" in output
    assert await left(database) == []


async def test_a_payment_that_waits_in_the_queue_stays_there(
    start: Serve, database: Database
) -> None:
    url = await start()
    async with client(url, await database.key()) as shop:
        waiting = await shop.payment()
        status, output = await run(url, await database.key("smoke"))
        assert (status, marks(output)["consumptions"]) == (0, "ok")
        left = await shop.send("GET", f"/v1/payments/{waiting['id']}")
    assert left.json() == waiting


CONSUME_AT_ONCE = """
CREATE FUNCTION be_faster() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  UPDATE payments SET
    status = 'consumed', consumed_at = created_at + interval '1 us', consumed_by = '{client}',
    updated_at = created_at + interval '1 us'
  WHERE id = NEW.id;
  RETURN NEW;
END $$;
CREATE TRIGGER be_faster AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION be_faster();
"""


@pytest.mark.parametrize("consumed_by", ["worker", "smoke"])
async def test_another_worker_may_be_faster(
    start: Serve, database: Database, consumed_by: str
) -> None:
    async with database.connect() as connection:
        await connection.execute(CONSUME_AT_ONCE.format(client=consumed_by))
    status, output = await run(await start(), await database.key("smoke"))
    faster = consumed_by == "worker"
    assert (status, marks(output)["life of a payment"]) == ((0, "ok") if faster else (1, "FAILED"))
    assert faster or "the first consumption was refused as the second one" in output
    assert await left(database) == []


async def test_a_consumption_that_does_not_last_is_found(start: Serve, database: Database) -> None:
    async with database.connect() as connection:
        await connection.execute("""
            CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
            BEGIN
              SET LOCAL session_replication_role = 'replica';  -- past the other triggers
              UPDATE payments SET
                status = 'inserted', consumed_at = NULL, consumed_by = NULL, consumption_key = NULL
              WHERE id = NEW.id;
              RETURN NEW;
            END $$;
            CREATE TRIGGER forget AFTER UPDATE ON payments FOR EACH ROW
            WHEN (NEW.status = 'consumed' AND OLD.status = 'inserted')
            EXECUTE FUNCTION forget();
        """)
    status, output = await run(await start(), await database.key())
    assert (status, marks(output)["life of a payment"]) == (1, "FAILED")
    assert "PATCH /v1/payments/" in output
    assert " repeated: " in output
    assert await left(database) == []


async def test_a_key_that_may_not_write(start: Serve, database: Database) -> None:
    status, output = await run(await start(), await database.key(scopes=(auth.READ,)))
    assert status == 1
    assert marks(output)["access"] == "ok"
    assert "403 in place of 201" in output


async def test_without_a_key_payments_are_not_tried(start: Serve, database: Database) -> None:
    status, output = await run(await start())
    assert status == 0
    assert marks(output) == {"ready": "ok", "access": "ok"}
    assert "payments were not tried" in output
    assert await left(database) == []


async def test_a_service_that_asks_for_no_key(start: Serve, database: Database) -> None:
    url = await start(authentication=False)
    status, output = await run(url, "", "--anonymous")
    assert (status, marks(output)["life of a payment"]) == (0, "ok")
    status, output = await run(url)
    assert (status, marks(output)["access"]) == (1, "FAILED")


async def test_a_database_that_is_away(start: Serve, database: Database) -> None:
    url, key = await start(), await database.key()
    async with database.away():
        status, output = await run(url, key)
    assert status == 1
    assert marks(output)["ready"] == "FAILED"
    assert "/readyz" in output


async def test_it_waits_for_a_service_that_is_not_ready_yet(
    start: Serve, database: Database
) -> None:
    url = await start()
    process = None
    async with database.away():
        process = await launch("smoke", url, "--wait-seconds=30", variables={})
        await asyncio.sleep(2)
        assert process.returncode is None
    output, _ = await process.communicate()
    assert marks(output.decode()) == {"ready": "ok", "access": "ok"}


@pytest.mark.parametrize("url", ["payments", "ftp://payments", "http:///v1", "http://host/v1"])
async def test_what_is_no_address(url: str) -> None:
    status, output = await run(url)
    assert status == 1
    assert f"{url} is not the address of a service" in output


# With TLS, as behind a load balancer.


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the certificates are."""
    return tmp_path_factory.mktemp("tls")


def make_certificate(directory: Path, name: str, days: int) -> Path:
    """Makes a certificate of its own authority; returns the file, with its key beside it."""
    certificate = directory / f"{name}-{days}.pem"
    arguments = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days {days}"
    subprocess.run(
        [
            *("openssl", *arguments.split(), "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", certificate.with_suffix(".key"), "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate


@asynccontextmanager
async def encrypted(url: str, certificate: Path) -> AsyncIterator[str]:
    """Puts TLS before a service; gives the address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    target = urlsplit(url)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(target.hostname, target.port)
        try:
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
        except OSError:
            writer.transport.abort()
            there[1].transport.abort()

    async with await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"


async def run_over_tls(url: str, key: str, known: Path) -> tuple[int, str]:
    """Runs the command with one certificate authority that it knows."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "payments", "smoke", url, "--wait-seconds=0"),
        cwd=API_DIRECTORY,
        env={"PATH": "/usr/bin:/bin", "SSL_CERT_FILE": str(known), "PAYMENTS_SMOKE_KEY": key},
        stdout=PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.in_process
@pytest.mark.parametrize(
    ("certificate", "failure"),
    [
        (("localhost", 90, True), ""),
        (("localhost", 5, True), "its renewal fails"),
        (("elsewhere", 90, True), "Hostname mismatch"),
        (("localhost", 90, False), "CERTIFICATE_VERIFY_FAILED"),
    ],
    ids=["good", "about to end", "another name", "unknown authority"],
)
async def test_certificates(
    start: Serve,
    database: Database,
    directory: Path,
    certificate: tuple[str, int, bool],
    failure: str,
) -> None:
    name, days, known = certificate
    file = make_certificate(directory, name, days)
    other = make_certificate(directory, "stranger", 90)
    async with encrypted(await start(), file) as url:
        key = await database.key()
        status, output = await run_over_tls(url, key, file if known else other)
    assert (status, marks(output)["certificate"]) == ((1, "FAILED") if failure else (0, "ok"))
    assert failure in output
    assert failure or set(marks(output).values()) == {"ok"}


@pytest.mark.in_process
@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://localhost:443/status", True),
        (b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://elsewhere/status", False),
        (b"HTTP/1.1 200 OK", False),
    ],
    ids=["to TLS", "elsewhere", "served without TLS"],
)
async def test_who_comes_without_tls_is_sent_to_it(
    start: Serve, answer: bytes, passes: bool
) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(respond, "localhost", 0) as server:
        port = server.sockets[0].getsockname()[1]
        look = asyncio.to_thread(smoke.redirect, smoke.Target("https://localhost", None), port)
        if passes:
            await look
        else:
            with pytest.raises(smoke.Failed, match="GET /status without TLS"):
                await look
