"""The database's URL: each option is honoured or refused by its name, and each file is read."""

import asyncio
import ctypes
import struct
import subprocess
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import asyncpg
import click
import pytest

from laptop.postgres import program
from payments import config, database_url, db, errors, upkeep
from payments.command import run
from tests import command
from tests.conftest import Database

URL = "postgresql://payments_app@host/payments"
LOCAL = "postgresql://payments_app@/payments"
PASSWORD = "hunter2"


class _LibpqOption(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("keyword", "environment", "compiled", "value")),
        *((name, ctypes.c_char_p) for name in ("label", "display")),
        ("size", ctypes.c_int),
    ]


def libpq_options() -> Iterator[str]:
    """Gives the names of all options of PostgreSQL's own client library."""
    directory = Path(program("postgres")).parent.parent / "lib"
    library = ctypes.CDLL(str(next(directory.glob("libpq.*"))))
    library.PQconndefaults.restype = ctypes.POINTER(_LibpqOption)
    for option in library.PQconndefaults():
        if option.keyword is None:
            return
        yield option.keyword.decode()


def test_every_option_of_libpq_is_accepted_or_refused_by_name() -> None:
    accepted = set()
    for name in libpq_options():
        mistake = database_url.mistake(f"{LOCAL}?{name}=x")
        if mistake is None or "must be" in mistake:
            accepted.add(name)
        else:
            assert mistake.startswith(f"PAYMENTS_DATABASE_URL has the option {name}"), mistake
            assert "remove it" in mistake
    assert accepted == {
        *("host", "port", "dbname", "user", "password", "passfile", "options"),
        *("sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl"),
        *("sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
        "target_session_attrs",
    }


async def test_what_is_accepted_is_honoured(database: Database) -> None:
    wanted = (
        "&sslmode=disable&sslnegotiation=postgres&target_session_attrs=primary"
        "&ssl_min_protocol_version=TLSv1.2&ssl_max_protocol_version=TLSv1.3&password=x"
        "&options=-c%20work_mem%3D64MB"
    )
    url = database.url() + wanted
    config.check_database(url)
    config.check_here(url, {})
    async with upkeep.connect(url) as connection:
        assert await connection.fetchval("SHOW work_mem") == "64MB"
    with pytest.raises(upkeep.Unreachable, match="standby"):
        async with upkeep.connect(url.replace("=primary", "=standby")):
            pass


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "connect_timeout=5",
            (
                "has the option connect_timeout: remove it; PAYMENTS_CONNECT_TIMEOUT_SECONDS is the"
                " time to open a connection"
            ),
        ),
        (
            "sslmode=require&channel_binding=require",
            (
                "has the option channel_binding: remove it; sslmode=verify-full checks the server"
                " instead"
            ),
        ),
        (
            "keepalives_idle=30",
            (
                "has the option keepalives_idle: remove it; PAYMENTS_COMMAND_TIMEOUT_SECONDS limits"
                " the wait on a dead network"
            ),
        ),
        ("pgbouncer=true", "has the option pgbouncer, which is not supported: remove it"),
        ("search_path=x", "has the option search_path, which is not supported: remove it"),
        ("sslmode=", "has the option sslmode without a value: write one, or remove it"),
        ("sslmode", "has an option without a value: write ?name=value&name=value"),
        (
            "sslrootcert=system",
            (
                "has sslrootcert=system, which is not supported: name the file, such as"
                " /etc/ssl/certs/ca-certificates.crt"
            ),
        ),
        (
            "port=6432",
            (
                "has the option port beside a host: remove it, and write host:port before the name"
                " of the database"
            ),
        ),
    ],
)
def test_an_option_that_cannot_be_honoured(query: str, message: str) -> None:
    with pytest.raises(config.SettingsError) as raised:
        config.load({"PAYMENTS_DATABASE_URL": f"{URL}?{query}"})
    assert str(raised.value) == f"PAYMENTS_DATABASE_URL {message}"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "sslmode=no-verify",
            (
                "sslmode is 'no-verify', but must be one of disable, allow, prefer, require,"
                " verify-ca, verify-full"
            ),
        ),
        ("sslmode=verify_full", "sslmode is 'verify_full', but must be one of disable"),
        ("target_session_attrs=master", "target_session_attrs is 'master', but must be one of any"),
        ("ssl_min_protocol_version=SSLv3", "ssl_min_protocol_version is 'SSLv3', but must be"),
        ("port=http", "port must be a number from 1 to 65535"),
        ("port=5432,0", "port must be a number from 1 to 65535"),
        ("host=a,,b", "host has '': write a name, an address, or one of them with its port"),
        ("host=127.0.0.1:abc", "host has '127.0.0.1:abc': write a name"),
        ("host=127.0.0.1:0", "host has '127.0.0.1:0': write a name"),
        ("host=[::1", "host has '[::1': write a name"),
        ("host=::1", "host has '::1': write a name"),
        ("host=a..b", "host has 'a..b': write a name"),
        (f"host={'a' * 64}.b", f"host has '{'a' * 64}.b': write a name"),
        ("host=a%00", "host has 'a\\x00': write a name"),
        ("host=a,b&port=1,2,3", "port has 3 ports for the hosts a,b: write one for each, or one"),
    ],
)
def test_a_value_that_is_none(query: str, message: str) -> None:
    with pytest.raises(config.SettingsError) as raised:
        config.load({"PAYMENTS_DATABASE_URL": f"{LOCAL}?{query}"})
    assert str(raised.value).startswith(f"PAYMENTS_DATABASE_URL: {message}")


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.b", "a,b..c", ":5432", "[::1"])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises(config.SettingsError, match="is not postgresql://user@host:port/name"):
        config.check_database(f"postgresql://payments_app@{host}/payments")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@%2Ftmp%2F..%2Fx:5433/x",
        "postgresql://u@[::1]:5432,ação.example:1,h_1./x",
        f"{LOCAL}?host=/tmp,[::1],a:1&port=1,2,3",
        f"{LOCAL}?host=a,b&port=1",
    ],
)
def test_hosts(url: str) -> None:
    config.check_database(url)
    config.check_here(url, {})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@x@host/payments",
        "postgresql://u:hunter2#x@host/payments",
        "postgresql://u:hunter2/x@host/payments",
        "postgresql://u:1?hunter2=x@host/payments",
        "postgresql://u:hunter2@host/payments?user=u@server",
    ],
)
def test_a_character_that_must_be_encoded(url: str) -> None:
    # The driver would take a part of the password for the host, and name it in its errors.
    mistake = database_url.mistake(url)
    assert mistake is not None
    assert "write %40 for @" in mistake
    assert PASSWORD not in mistake


def test_an_encoded_password() -> None:
    assert database_url.mistake("postgresql://u:a%40b%23c%2Fd%3Fe@host/payments") is None


# Variables that the driver reads

TCP = "postgresql://payments_app@127.0.0.1:1/payments"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PGSSLMODE": "no-verify"}, "PGSSLMODE is 'no-verify', but must be one of disable"),
        ({"PGSSLMODE": ""}, "PGSSLMODE is '', but must be one of disable"),
        ({"PGTARGETSESSIONATTRS": "nonsense"}, "PGTARGETSESSIONATTRS is 'nonsense', but must be"),
        ({"PGSSLNEGOTIATION": "x"}, "PGSSLNEGOTIATION is 'x', but must be one of postgres"),
        ({"PGPORT": "x"}, "PGPORT must be a number from 1 to 65535"),
        ({"PGPORT": "1,2"}, "PGPORT has 2 ports for the hosts 127.0.0.1:1: write one for each, or"),
        (
            {"PGSSLROOTCERT": "/x", "PGSSLMODE": "require"},
            "PGSSLROOTCERT: the file /x cannot be read (No such file",
        ),
        (
            {"PGSSLCRL": "/x", "PGSSLMODE": "require"},
            "PGSSLCRL: the file /x cannot be read (No such file",
        ),
        ({"PGSSLCERT": "/x"}, "PGSSLCERT: the file /x cannot be read (No such file"),
        (
            {"PGSSLNEGOTIATION": "direct"},
            "PGSSLNEGOTIATION is direct, which needs sslmode=require or verify-ca or verify-full",
        ),
        ({"PGSSLMODE": "verify-full"}, "PGSSLMODE is verify-full, which needs sslrootcert=FILE"),
    ],
)
def test_a_variable_that_breaks_the_connection(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(config.SettingsError) as raised:
        config.check_here(TCP, variables)
    assert str(raised.value).startswith(message)
    # As the driver sees it: if it took such a value, to refuse it here would be wrong.
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with pytest.raises((ValueError, FileNotFoundError)):
            asyncio.run(asyncpg.connect(TCP, timeout=10))


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        (f"{TCP}?sslmode=disable", {"PGSSLMODE": "no-verify", "PGSSLROOTCERT": "/x"}),
        (f"{TCP}?target_session_attrs=any", {"PGTARGETSESSIONATTRS": "nonsense"}),
        ("postgresql://u@/x?host=%2Fnowhere", {"PGSSLCERT": "/x"}),
        ("postgresql://u@%2Fnowhere:1/x", {"PGSSLCERT": "/x"}),
        ("postgresql://u@/x", {"PGHOST": "/nowhere", "PGSSLCERT": "/x"}),
        ("postgresql://u@/x?host=127.0.0.1&port=1", {"PGPORT": "x"}),
        (TCP, {"PGHOST": "a..b"}),
        (TCP, {"PGSSLROOTCERT": "/x", "PGSSLCRL": "/x"}),  # sslmode is prefer
        (TCP, {"PGSSLROOTCERT": "", "PGPORT": "", "PGSSLMINPROTOCOLVERSION": ""}),
        (TCP, {"PGSERVICE": "nonsense"}),  # nothing reads it
    ],
)
def test_a_variable_that_does_not_matter(
    url: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config.check_here(url, variables)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)) as raised:
        asyncio.run(asyncpg.connect(url, timeout=10))
    assert "'/x'" not in str(raised.value)


def test_a_host_of_the_environment() -> None:
    for host in ("a..b", "127.0.0.1:abc"):
        with pytest.raises(config.SettingsError, match=f"PGHOST has '{host}': write a name"):
            config.check_here(LOCAL, {"PGHOST": host})
    with pytest.raises(config.SettingsError, match="PGPORT has 3 ports for the hosts a,b"):
        config.check_here(LOCAL, {"PGHOST": "a,b", "PGPORT": "1,2,3"})


@pytest.mark.parametrize("mode", ["", "&sslmode=prefer", "&sslmode=disable"])
def test_direct_tls_that_is_not_insisted_on(mode: str) -> None:
    with pytest.raises(config.SettingsError, match="sslnegotiation is direct, which needs sslmode"):
        config.check_here(f"{URL}?sslnegotiation=direct{mode}", {})
    config.check_here(f"{URL}?sslnegotiation=direct&sslmode=require", {})
    config.check_here(f"{URL}?sslnegotiation=direct", {"PGSSLMODE": "require"})


# Files


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate, and its key."""
    return _certificate(tmp_path / "one")


def _certificate(directory: Path) -> tuple[Path, Path]:
    directory.mkdir()
    file, key = directory / "certificate.pem", directory / "key.pem"
    kind = ("-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost")
    subprocess.run(
        ["openssl", "req", *kind, "-keyout", key, "-out", file], check=True, capture_output=True
    )
    return file, key


def test_good_files(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    file, key = certificate
    config.check_here(f"{URL}?sslmode=verify-full&sslrootcert={file}&sslcert={file}&sslkey={key}")


@pytest.mark.parametrize("option", ["sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"])
def test_a_file_that_cannot_be_read(tmp_path: Path, option: str) -> None:
    for file, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(config.SettingsError) as raised:
            config.check_here(f"postgresql://u:{PASSWORD}@host/x?{option}={file}", {})
        assert str(raised.value).startswith(
            f"PAYMENTS_DATABASE_URL: {option}: the file {file} cannot be read ({reason}"
        )
        assert PASSWORD not in str(raised.value)


def test_files_that_are_not_what_they_should_be(
    certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file, key = certificate
    text = tmp_path / "text"
    text.write_text("not a certificate")
    with pytest.raises(config.SettingsError, match=f"sslrootcert: the file {text} is not in PEM"):
        config.check_here(f"{URL}?sslrootcert={text}", {})
    _, other = _certificate(tmp_path / "other")
    with pytest.raises(config.SettingsError, match=f"{file} and the key {other} do not belong"):
        config.check_here(f"{URL}?sslcert={file}&sslkey={other}", {})
    with pytest.raises(config.SettingsError, match=f"sslcert: the file {file} is not a certif"):
        config.check_here(f"{URL}?sslcert={file}", {})
    both = tmp_path / "both"
    both.write_text(file.read_text() + key.read_text())
    config.check_here(f"{URL}?sslcert={both}", {})


# Who is blamed

# The driver's errors for what no check of ours finds, such as a host that becomes wrong later.
NO_HOST = "postgresql://payments_app@a..b/payments"


async def test_a_mistake_that_the_driver_finds_is_one_of_the_settings() -> None:
    settings = config.Settings(database_url=NO_HOST)
    database = db.Database(settings)
    await database.open()
    with pytest.raises(errors.DatabaseUnavailable):
        async with database.connection():
            pass
    await database.close()
    with pytest.raises(errors.NotReady, match=r"The settings of the database connection are wrong"):
        await db.Probe(settings).check()
    with pytest.raises(upkeep.Unreachable, match=r"PAYMENTS_DATABASE_URL, or a PG\* variable, is"):
        async with upkeep.connect(NO_HOST):
            pass


def said_by(work: Coroutine[Any, Any, None]) -> str:
    """Returns what a command says when this fails."""
    with pytest.raises(click.ClickException) as raised:
        run(work)
    return raised.value.message


async def test_a_failure_of_a_file_is_not_the_databases(database: Database, tmp_path: Path) -> None:
    async def read() -> None:
        async with upkeep.connect(database.url()):
            (tmp_path / "none").read_text()

    async def late() -> None:
        async with upkeep.connect(database.url()):
            raise TimeoutError

    none = f"{tmp_path}/none: No such file or directory"
    assert await asyncio.to_thread(said_by, read()) == none
    assert await asyncio.to_thread(said_by, late()) == "it took too long"


async def test_a_database_that_goes_away_in_the_middle_is_blamed(database: Database) -> None:
    async def work() -> None:
        async with upkeep.connect(database.url()) as connection, database.away():
            await connection.fetch("SELECT 1")

    said = await asyncio.to_thread(said_by, work())
    assert said.startswith("PAYMENTS_DATABASE_URL: ")


async def test_a_network_that_goes_away_in_the_middle_is_blamed(database: Database) -> None:
    async def work() -> None:
        outside: list[asyncio.StreamWriter] = []

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner, outer = await asyncio.open_unix_connection(
                command.sockets(database.cluster) / ".s.PGSQL.5432"
            )
            outside.extend((writer, outer))
            await asyncio.gather(_pass_on(reader, outer), _pass_on(inner, writer))

        front = await asyncio.start_server(connected, "127.0.0.1", 0)
        port = front.sockets[0].getsockname()[1]
        url = f"postgresql://payments_app@127.0.0.1:{port}/{database.name}?sslmode=disable"
        async with front, upkeep.connect(url) as connection:
            assert await connection.fetchval("SELECT 1") == 1
            for writer in outside:
                no_wait = struct.pack("ii", 1, 0)  # the other end is reset, not ended
                writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, no_wait)
                writer.transport.abort()
            await connection.fetchval("SELECT 1")

    said = await asyncio.to_thread(said_by, work())
    assert said.startswith("PAYMENTS_DATABASE_URL: ")


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
