"""The command `payments`, run as its users run it."""

import asyncio
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

from payments import auth, cli, migrate
from tests import PATIENCE_SECONDS, command
from tests.command import launch
from tests.conftest import API_DIRECTORY, Database, Serve, client

pytestmark = pytest.mark.usefixtures("command")

NOWHERE = "postgresql://payments_app@/payments?host=/nowhere"


class Result(NamedTuple):
    """What a command left behind."""

    status: int
    output: str
    error: str


async def run(*arguments: str, **variables: str) -> Result:
    """Runs the command with these `PAYMENTS_*` variables and no others."""
    process = await launch(
        *arguments,
        variables={f"PAYMENTS_{name}": value for name, value in variables.items()},
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        output, error = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in error, error.decode()
    return Result(process.returncode, output.decode(), error.decode())


async def run_on(database: Database, *arguments: str, user: str = "payments_migrator") -> Result:
    """Runs the command on the test's database."""
    return await run(*arguments, DATABASE_URL=database.url(user))


async def invoke(*arguments: str, **variables: str) -> Result:
    """Does the same in this process: starting one takes longer than most commands run."""
    if command.image is not None:
        return await run(*arguments, **variables)
    environment: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("PAYMENTS_")
    }
    environment |= {f"PAYMENTS_{name}": value for name, value in variables.items()}
    runner = CliRunner(env=environment, catch_exceptions=False)
    result = await asyncio.to_thread(runner.invoke, cli.main, arguments, prog_name="payments")
    return Result(result.exit_code, result.stdout, result.stderr)


async def invoke_on(database: Database, *arguments: str, user: str = "payments_migrator") -> Result:
    """Runs the command on the test's database, in this process."""
    return await invoke(*arguments, DATABASE_URL=database.url(user))


HELP = {
    "": ["serve", "migrate", "keys", "purge", "roles", "PAYMENTS_DATABASE_URL"],
    "serve": ["SIGTERM"],
    "migrate": ["--dry-run", "Safe to run again"],
    "roles": ["administrator", "--environment dev", "payments_app_NAME"],
    "keys": ["create", "list", "revoke"],
    "keys create": ["CLIENT", "--scope", "payments:read", "keys create shop"],
    "keys list": ["not stored"],
    "keys revoke": ["ID", "keys list", "30 seconds"],
    "purge": ["--retention-days", "365", "Idempotency-Key"],
    "audit": ["exit with 1", "--serve", "PAYMENTS_METRICS_PORT"],
    "smoke": ["PAYMENTS_SMOKE_KEY", "exit with 1"],
    "import": ["--dry-run", "Safe to run again", "IMPORT_AUTHORIZATION"],
    "verify": ["exit with 1"],
}


def commands(group: click.Command, name: str = "") -> set[str]:
    """Returns the names of a command and of all that it holds."""
    held = group.commands if isinstance(group, click.Group) else {}
    return {name}.union(*(commands(held[part], f"{name} {part}".strip()) for part in held))


@pytest.mark.in_process
def test_every_command_has_its_row() -> None:
    assert commands(cli.main) == HELP.keys()


@pytest.mark.parametrize(("words", "teaches"), HELP.items())
async def test_help_teaches(words: str, teaches: list[str]) -> None:
    result = await invoke(*words.split(), "--help")
    assert result.status == 0
    text = " ".join(result.output.split())
    for lesson in teaches:
        assert lesson in text


async def test_a_key_is_made_listed_and_revoked(start: Serve, database: Database) -> None:
    url = await start(key_refresh_seconds=0.1)
    scopes = ("--scope", auth.READ, "--scope", auth.WRITE)
    made = await run_on(database, "keys", "create", "shop", *scopes, "--expires-in-days", "7")
    assert (made.status, made.error) == (0, "")
    key = made.output.strip()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", key)
    async with client(url, key) as api:
        payment = await api.payment()
        forbidden = await api.send("DELETE", f"/v1/payments/{payment['id']}")
        assert forbidden.status_code == 403
        listed = await run_on(database, "keys", "list")
        assert listed.status == 0
        [_, line] = listed.output.splitlines()
        id, name, state, *_, first, second = line.split()
        assert (name, state, first, second) == ("shop", "live", auth.READ, auth.WRITE)
        assert key not in listed.output
        revoked = await run_on(database, "keys", "revoke", id)
        assert revoked.status == 0
        assert "shop" in revoked.output
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await api.create({"payment": 1})).status_code == 201:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert "revoked" in (await run_on(database, "keys", "list")).output
    again = await run_on(database, "keys", "revoke", id)
    assert again.status == 1
    assert f"no live key {id}" in again.error


async def test_a_third_key(database: Database) -> None:
    for _ in range(2):
        await database.key("shop")
    result = await run_on(database, "keys", "create", "shop", "--scope", auth.READ)
    assert result.status == 1
    assert "shop has 2 live keys" in result.error


@pytest.mark.parametrize("name", ["Shop", "a shop", "x" * 64, ""])
async def test_a_bad_client_name(database: Database, name: str) -> None:
    result = await run_on(database, "keys", "create", name, "--scope", auth.READ)
    assert result.status != 0
    assert "CLIENT" in result.error
    assert await database.fetch("SELECT FROM api_keys") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["keys", "create", "shop"], "--scope"),
        (["keys", "create", "--scope", auth.READ], "CLIENT"),
        (["keys", "create", "shop", "--scope", "payments:everything"], "payments:write"),
        (["keys", "create", "shop", "--scope", auth.READ, "--expires-in-days", "0"], "expires-in"),
        (["keys", "revoke", "shop"], "ID"),
        (["purge", "--retention-days", "0"], "retention-days"),
        (["roles", "--environment", ""], "--environment"),
        (["roles", "--environment", "d"], "--environment"),
        (["roles", "--environment", "d" * 21], "2 to 20 lower-case letters and digits"),
        (["roles", "--environment", "1d"], "--environment"),
        (["roles", "--environment", "Dev"], "--environment"),
        (["roles", "--environment", 'dev"; DROP ROLE x'], "--environment"),
        (["roles", "--environment", "dev\n"], "--environment"),
        (["migrat"], "migrat"),
    ],
    ids=" ".join,
)
async def test_bad_arguments(arguments: list[str], says: str) -> None:
    result = await invoke(*arguments, DATABASE_URL=NOWHERE)
    assert result.status == 2
    assert says in result.error


@pytest.mark.parametrize(
    "words",
    [["serve"], ["migrate"], ["roles"], ["keys", "list"], ["purge"], ["audit"]],
    ids=" ".join,
)
async def test_without_a_database_url(words: list[str]) -> None:
    result = await invoke(*words)
    assert result.status == 1
    assert "PAYMENTS_DATABASE_URL is not set" in result.error


@pytest.mark.parametrize(
    ("words", "url"),
    [
        (["serve"], "nonsense"),
        (["serve"], "mysql://host/payments"),
        (["migrate"], "nonsense"),
        (["migrate"], NOWHERE),
        (["keys", "list"], "postgresql://user@127.0.0.1:1/payments"),
        (["keys", "list"], "postgresql://user@host:port/payments"),
        (["purge"], "postgresql://user@host.invalid/payments"),
        (["roles"], "postgres://%zz@/x?host=/nowhere"),
    ],
)
async def test_a_bad_database_url(words: list[str], url: str) -> None:
    result = await invoke(*words, DATABASE_URL=url)
    assert result.status == 1
    assert "PAYMENTS_DATABASE_URL" in result.error


@pytest.mark.parametrize(
    "words",
    [["serve"], ["migrate"], ["roles"], ["keys", "list"], ["purge"], ["audit"]],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("connect_timeout=5", "has the option connect_timeout: remove it"),
        ("sslmode=no-verify", "sslmode is 'no-verify', but must be one of disable"),
        ("sslrootcert=/none", "sslrootcert: the file /none cannot be read (No such file"),
    ],
)
async def test_an_option_of_the_url_that_would_fail_for_ever(
    words: list[str], query: str, says: str
) -> None:
    result = await invoke(*words, DATABASE_URL=f"postgresql://u:hunter2@127.0.0.1:1/x?{query}")
    assert result.status == 1
    assert says in result.error
    assert "hunter2" not in result.error


@pytest.mark.in_process  # a container has no such variable
@pytest.mark.parametrize("words", [["serve"], ["keys", "list"]], ids=" ".join)
async def test_a_variable_of_the_driver_that_breaks_every_connection(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "no-verify")
    result = await invoke(*words, DATABASE_URL="postgresql://u@127.0.0.1:1/x")
    assert result.status == 1
    assert "PGSSLMODE is 'no-verify', but must be one of disable" in result.error


# Output that cannot be written

LOCKED_KEYS = """
SELECT FROM pg_locks WHERE granted AND relation = 'api_keys'::regclass
  AND mode = 'ShareRowExclusiveLock'
"""


class Output(NamedTuple):
    """A standard output that takes nothing, and what is said of it."""

    says: str
    open: Callable[[], int]


def _closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


FULL = Output("No space left on device", lambda: os.open("/dev/full", os.O_WRONLY))
PIPE = Output("Broken pipe", _closed_pipe)


async def run_into(output: Output, database: Database, *arguments: str) -> Result:
    """Runs the command with a standard output that takes nothing."""
    descriptor = output.open()
    with os.fdopen(descriptor, "wb") as stdout:
        variables = {"PAYMENTS_DATABASE_URL": database.url("payments_migrator")}
        process = await launch(*arguments, variables=variables, stdout=stdout)
        async with asyncio.timeout(PATIENCE_SECONDS):
            _, error = await process.communicate()
    assert process.returncode is not None
    return Result(process.returncode, "", error.decode())


@pytest.mark.in_process  # docker takes what a container prints
@pytest.mark.parametrize("output", [FULL, PIPE], ids=["full disk", "closed pipe"])
@pytest.mark.parametrize(
    "words",
    [
        ["migrate"],
        ["keys", "create", "shop", "--scope", auth.READ],
        ["keys", "list"],
        ["keys", "revoke", "1"],
        ["purge"],
        ["audit"],
    ],
    ids=" ".join,
)
async def test_output_that_cannot_be_written(
    database: Database, output: Output, words: list[str]
) -> None:
    await database.key()
    result = await run_into(output, database, *words)
    assert (result.status, result.error) == (1, f"Error: standard output: {output.says}\n")
    # A key that nobody has seen must not open anything.
    assert len(await database.fetch("SELECT FROM api_keys")) == 1


@pytest.mark.in_process  # docker takes what a container prints
async def test_a_key_that_is_not_read_hinders_no_other(database: Database) -> None:
    await database.key("leaked")
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "wb") as stdout:
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"x")
        os.set_blocking(writing, True)
        variables = {"PAYMENTS_DATABASE_URL": database.url("payments_migrator")}
        words = ("keys", "create", "shop", "--scope", auth.READ)
        waiting = await launch(*words, variables=variables, stdout=stdout)
        stdout.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await database.fetch(LOCKED_KEYS):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        others = (("keys", "revoke", "1"), words)
        results = await asyncio.gather(*(run_on(database, *other) for other in others))
        assert [(result.status, result.error) for result in results] == [(0, ""), (0, "")]
        key = (await asyncio.to_thread(reader.read)).strip(b"x\n").decode()
        _, error = await waiting.communicate()
    assert waiting.returncode == 1
    assert error.decode() == (
        "Error: the database ended the connection before the key was saved; standard output must be"
        " read within 5 s: create another key, and revoke this one if `payments keys list` has it\n"
    )
    hashes = [row["hash"] for row in await database.fetch("SELECT hash FROM api_keys")]
    assert len(hashes) == 2
    assert hashlib.sha256(key.encode()).digest() not in hashes


@pytest.mark.in_process  # changes a setting of the package
async def test_keys_that_are_locked(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(auth.SESSION, "lock_timeout", "10ms")
    async with database.connect() as connection, connection.transaction():
        await connection.execute("LOCK TABLE api_keys")
        for words in (["create", "shop", "--scope", auth.READ], ["list"], ["revoke", "1"]):
            result = await invoke_on(database, "keys", *words)
            assert result.status == 1
            assert result.error == (
                "Error: PAYMENTS_DATABASE_URL: another command or session keeps a lock that this"
                " needs; run it again when that has ended\n"
            )


@pytest.mark.in_process  # docker takes what a container prints
async def test_a_key_without_a_standard_output(database: Database) -> None:
    command = [sys.executable, "-m", "payments", "keys", "create", "shop", "--scope", auth.READ]
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", '"$@" >&-', "sh", *command),
        env=os.environ | {"PAYMENTS_DATABASE_URL": database.url("payments_migrator")},
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()
    assert (process.returncode, error) == (1, b"Error: standard output is closed\n")
    assert await database.fetch("SELECT FROM api_keys") == []


@pytest.mark.in_process  # changes a file of the package
async def test_a_file_that_cannot_be_read_is_named(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "ROLES", tmp_path)
    result = await invoke_on(database, "roles", user="postgres")
    assert (result.status, result.error) == (1, f"Error: {tmp_path}: Is a directory\n")


async def test_a_database_that_is_not_migrated(empty: Database) -> None:
    result = await run_on(empty, "keys", "list")
    assert result.status == 1
    assert "api_keys" in result.error


async def test_a_setting_that_does_not_exist() -> None:
    result = await run("serve", DATABASE_URL=NOWHERE, BATCH_SIZES="3")
    assert result.status == 1
    assert "PAYMENTS_BATCH_SIZES" in result.error


@pytest.mark.parametrize("variable", ["PAYMENTS_HTTP_PORT", "PAYMENTS_METRICS_PORT"])
async def test_a_port_that_is_taken(variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"HTTP_PORT": "0", "METRICS_PORT": "0"}
        ports[variable.removeprefix("PAYMENTS_")] = str(taken.getsockname()[1])
        result = await run("serve", DATABASE_URL=NOWHERE, HTTP_HOST="127.0.0.1", **ports)
    assert result.status == 1
    said = result.error + result.output
    assert variable in said
    assert "Address already in use" in said
    assert "PAYMENTS_HTTP_HOST" not in said


async def test_a_host_that_is_not_here() -> None:
    for words in (["serve"], ["audit", "--serve"]):
        result = await run(*words, DATABASE_URL=NOWHERE, HTTP_HOST="192.0.2.1")
        said = result.error + result.output
        assert result.status == 1
        assert "PAYMENTS_HTTP_HOST: cannot listen on '192.0.2.1'" in said
        assert "_PORT" not in said


async def test_the_port_of_the_audit_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        variables = {"HTTP_HOST": "127.0.0.1", "METRICS_PORT": port}
        result = await run("audit", "--serve", DATABASE_URL=NOWHERE, **variables)
    assert result.status == 1
    assert f"PAYMENTS_METRICS_PORT: cannot listen on 127.0.0.1, port {port}" in result.error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_ends_with_a_signal(
    database: Database, tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = await launch(
            "serve",
            variables={
                "PAYMENTS_DATABASE_URL": database.url(),
                "PAYMENTS_HTTP_HOST": "127.0.0.1",
                "PAYMENTS_HTTP_PORT": "0",
                "PAYMENTS_METRICS_PORT": "0",
                "PAYMENTS_SHUTDOWN_DELAY_SECONDS": "0",
            },
            stdout=output,
            stderr=output,
        )
    async with asyncio.timeout(PATIENCE_SECONDS):
        while b"Listening" not in log.read_bytes():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        process.send_signal(number)
        assert await process.wait() == 0
    assert b"Traceback" not in log.read_bytes()


async def test_migrate(empty: Database) -> None:
    dry = await run_on(empty, "migrate", "--dry-run")
    assert dry.status == 0
    assert "0001_payments would be applied" in dry.output
    assert "0001_payments applied" in (await run_on(empty, "migrate")).output
    assert (await run_on(empty, "migrate")).output == "The schema is up to date.\n"
    assert (await run_on(empty, "roles", user="postgres")).status == 0
    refused = await run_on(empty, "migrate", user="payments_app")
    assert refused.status == 1
    assert "payments_owner" in refused.error


async def test_purge_keeps_what_is_not_old_enough(database: Database) -> None:
    await database.fetch("""
        INSERT INTO payments (id, created_by, created_at, deleted_at, deleted_by)
        SELECT n, 'shop', now() - interval '11 years',
          CASE WHEN days IS NOT NULL THEN now() - days * interval '1 day' END,
          CASE WHEN days IS NOT NULL THEN 'shop' END
        FROM unnest('{NULL,0,199,201,364,366,4000}'::int[]) WITH ORDINALITY AS t (days, n)
    """)

    async def left() -> list[int]:
        rows = await database.fetch("SELECT id FROM payments ORDER BY id")
        return [row["id"] for row in rows]

    result = await run_on(database, "purge")
    assert (result.status, result.output) == (0, "2 payments removed.\n")
    assert await left() == [1, 2, 3, 4, 5]
    assert (await run_on(database, "purge", "--retention-days", "200")).status == 0
    assert await left() == [1, 2, 3]


async def test_purge_of_keys_of_consumptions(database: Database) -> None:
    await database.fetch(
        "INSERT INTO consumptions (client, idempotency_key, requested, payment_ids, consumed_at)"
        " SELECT 'shop', days::text, 1, '{1}', now() - days * interval '1 day'"
        " FROM unnest('{364, 366}'::int[]) AS days"
    )
    assert (await run_on(database, "purge")).output == "0 payments removed.\n"
    [left] = await database.fetch("SELECT idempotency_key FROM consumptions")
    assert left["idempotency_key"] == "364"


async def test_purge_of_many(database: Database) -> None:
    await database.fetch("""
        INSERT INTO payments (created_by, created_at, deleted_at, deleted_by)
        SELECT 'shop', now() - interval '3 years', now() - interval '2 years', 'shop'
        FROM generate_series(1, 2500)
    """)
    result = await run_on(database, "purge")
    assert (result.status, result.output) == (0, "2500 payments removed.\n")
    assert await database.fetch("SELECT FROM payments") == []


@pytest.mark.parametrize("deleted", ["created_at - interval '1 us'", "now() + interval '1 hour'"])
async def test_purge_refuses_impossible_times(database: Database, deleted: str) -> None:
    await database.fetch("ALTER TABLE payments DROP CONSTRAINT payments_event_order")
    await database.fetch("""
        INSERT INTO payments (created_by, created_at, deleted_at, deleted_by)
        SELECT 'shop', now() - interval '3 years', now() - interval '2 years', 'shop'
        FROM generate_series(1, 12)
    """)
    change = f"UPDATE payments SET deleted_at = {deleted} WHERE id IN (3, 5)"  # noqa: S608
    async with database.connect("payments_migrator") as connection:
        await connection.execute("SET ROLE payments_owner")
        await connection.execute(change)
    result = await run_on(database, "purge")
    assert result.status == 1
    assert "the deletions of payments 3, 5 have impossible times" in result.error
    assert len(await database.fetch("SELECT FROM payments")) == 12


async def test_the_service_itself_cannot_purge_or_make_keys(database: Database) -> None:
    for words in (["purge"], ["keys", "create", "shop", "--scope", auth.READ]):
        result = await run_on(database, *words, user="payments_app")
        assert result.status == 1
        assert "permission denied" in result.error


@pytest.mark.in_process  # looks at its modules
def test_a_command_loads_nothing_of_the_server() -> None:
    code = """
import sys
from payments import cli
print([name for name in sys.modules if name.startswith(("opentelemetry", "prometheus", "uvicorn"))])
"""
    python = [sys.executable, "-c", code]
    found = subprocess.run(python, cwd=API_DIRECTORY, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
