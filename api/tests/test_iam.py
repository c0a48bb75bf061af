"""IAM in place of a password: the token, its credentials, and a database that asks for one."""

import asyncio
import json
import os
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.session  # type: ignore[import-untyped]
import pytest

from laptop.postgres import Cluster
from payments import config, iam
from tests import command
from tests.command import launch
from tests.conftest import Database, Serve, client

REGION = "eu-west-1"

KEYS = ("ASIAEXAMPLE", "secret/with+signs")
SESSION = "session//token+=="


@cache
def _botocore(*keys: str) -> Any:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    given = {name: key for name, key in zip(names, keys, strict=True) if key}
    return botocore.session.Session().create_client("rds", region_name=REGION, **given)


def botocore_token(host: str, user: str, session: str, at: datetime) -> str:
    """Returns the token of AWS's own library."""
    name, port = host.rsplit(":", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", lambda: at.replace(tzinfo=None))
        return str(
            _botocore(*KEYS, session).generate_db_auth_token(
                DBHostname=name, Port=int(port), DBUsername=user
            )
        )


@pytest.mark.parametrize("session", ["", SESSION])
@pytest.mark.parametrize("user", ["payments_app", "a user/with=signs&é~"])
@pytest.mark.parametrize("host", ["db.c1.eu-west-1.rds.amazonaws.com:5432", "localhost:15432"])
def test_the_token_is_botocores(host: str, user: str, session: str) -> None:
    at = datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC)
    ours = iam.sign(iam.Credentials(*KEYS, session, 0), REGION, host, user, at)
    theirs = botocore_token(host, user, session, at)
    # They are URLs, whose parameters botocore has in another order.
    assert _parts(ours) == _parts(theirs)
    assert len(_parts(ours)[1]["X-Amz-Signature"][0]) == 64


def _parts(token: str) -> tuple[str, dict[str, list[str]]]:
    url = urlsplit(f"//{token}")
    return url.netloc + url.path, parse_qs(url.query, strict_parsing=True)


# Credentials


class Endpoint:
    """The credentials endpoint of a node."""

    def __init__(self, token_file: Path) -> None:
        self.token_file = token_file
        self.lifetime_seconds = 3600.0
        self.status = 200
        self.requests = 0
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.requests += 1
                good = self.headers["Authorization"] == endpoint.token_file.read_text().strip()
                self.send_response(endpoint.status if good else 403)
                self.end_headers()
                self.wfile.write(endpoint.answer())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def environ(self) -> dict[str, str]:
        """What EKS sets in a pod."""
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{self.server.server_port}/v1",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(self.token_file),
        }

    def answer(self) -> bytes:
        """Returns the credentials, as the Pod Identity agent spells them."""
        end = datetime.fromtimestamp(time.time() + self.lifetime_seconds, UTC)
        return json.dumps(
            {
                "AccessKeyId": KEYS[0],
                "SecretAccessKey": KEYS[1],
                "Token": SESSION,
                "AccountId": "123456789012",
                "Expiration": f"{end:%Y-%m-%dT%H:%M:%SZ}",
            }
        ).encode()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    """A running endpoint."""
    token_file = tmp_path / "token"
    token_file.write_text("pod\n")
    endpoint = Endpoint(token_file)
    thread = threading.Thread(target=endpoint.server.serve_forever, args=(0.01,))
    thread.start()
    yield endpoint
    endpoint.server.shutdown()
    thread.join()
    endpoint.server.server_close()


def tokens(environ: dict[str, str]) -> iam.Tokens:
    """Returns what gives the passwords of a database."""
    return iam.Tokens("postgresql://payments_app@db:5432/payments", REGION, environ)


async def test_credentials_of_the_environment() -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    token = await tokens(dict(zip(names, (*KEYS, SESSION), strict=True)))()
    assert token.startswith("db:5432/?Action=connect&DBUser=payments_app&")
    assert _parts(token)[1]["X-Amz-Security-Token"] == [SESSION]
    without = await tokens(dict(zip(names[:2], KEYS, strict=True)))()
    assert "X-Amz-Security-Token" not in without


async def test_many_connections_ask_once(endpoint: Endpoint) -> None:
    password = tokens(endpoint.environ)
    assert len(await asyncio.gather(*(password() for _ in range(20)))) == 20
    await password()
    assert endpoint.requests == 1


async def test_credentials_are_renewed_before_their_end(endpoint: Endpoint) -> None:
    password = tokens(endpoint.environ)
    endpoint.lifetime_seconds = iam.RENEW_BEFORE_SECONDS - 10
    await password()
    endpoint.token_file.write_text("rotated")
    endpoint.lifetime_seconds = 3600
    await password()
    await password()
    assert endpoint.requests == 2


async def test_an_endpoint_that_is_away_is_felt_when_the_credentials_end(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = tokens(endpoint.environ)
    endpoint.lifetime_seconds = iam.RENEW_BEFORE_SECONDS
    await password()
    endpoint.status = 500
    await password()
    later = time.time() + iam.RENEW_BEFORE_SECONDS
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(ConnectionError, match="AWS_CONTAINER_CREDENTIALS_FULL_URI gives no"):
        await password()
    endpoint.status = 200
    await password()


async def test_who_gives_up_leaves_the_answer_to_the_next(endpoint: Endpoint) -> None:
    password = tokens(endpoint.environ)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await password()
    answers = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await asyncio.gather(*answers)  # with nobody who waits
    await password()
    assert endpoint.requests == 1


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"[]", b'{"Code": "AccessDenied"}', b"\xff"),
        (
            b'{"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "c",'
            b' "Expiration": "0001-01-01T00:00:00"}'  # of no time zone
        ),
    ],
)
async def test_an_answer_without_credentials(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(endpoint, "answer", lambda: answer)
    with pytest.raises(ConnectionError, match="AWS_CONTAINER_CREDENTIALS_FULL_URI gives no"):
        await tokens(endpoint.environ)()


# Settings


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@db/x",
        "postgresql://u@db/x?sslmode=verify-full",
        "postgresql://u@db/x?sslmode=require&sslrootcert=/ca",
        "postgresql://u:password@db/x?sslmode=verify-full&sslrootcert=/ca",
        "postgresql://db/x?sslmode=verify-full&sslrootcert=/ca",
        "postgresql://u@a,b/x?sslmode=verify-full&sslrootcert=/ca",
        "postgresql://u@/x?host=%2Ftmp&sslmode=verify-full&sslrootcert=/ca",
    ],
)
def test_a_database_that_no_token_goes_to(url: str) -> None:
    environ = {"PAYMENTS_DATABASE_URL": url}
    config.load(environ)
    with pytest.raises(config.SettingsError, match=r"PAYMENTS_DATABASE_URL .*verify-full"):
        config.load(environ | {"PAYMENTS_DATABASE_IAM_REGION": REGION})


@pytest.mark.parametrize("region", ["Ireland", "eu-west", "eu-west-1/x"])
def test_a_region_that_is_none(region: str) -> None:
    environ = {"PAYMENTS_DATABASE_URL": "postgresql://u@db/x"}
    with pytest.raises(config.SettingsError, match="PAYMENTS_DATABASE_IAM_REGION"):
        config.load(environ | {"PAYMENTS_DATABASE_IAM_REGION": region})


KEY_ID, SECRET, ENDPOINT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
TOKEN_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
NO_CREDENTIALS = f"PAYMENTS_DATABASE_IAM_REGION needs AWS credentials: neither {ENDPOINT} nor"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, NO_CREDENTIALS),
        ({KEY_ID: "", SECRET: ""}, NO_CREDENTIALS),
        ({KEY_ID: "", SECRET: "", ENDPOINT: ""}, NO_CREDENTIALS),
        ({TOKEN_FILE: "/token"}, NO_CREDENTIALS),
        ({KEY_ID: "x"}, f"{SECRET} is not set, but {KEY_ID} is: set both or neither"),
        ({KEY_ID: "x", SECRET: ""}, f"{SECRET} is not set, but {KEY_ID} is: set both or neither"),
        ({SECRET: "x"}, f"{KEY_ID} is not set, but {SECRET} is: set both or neither"),
        ({KEY_ID: "", SECRET: "x", ENDPOINT: "http://node/"}, f"{KEY_ID} is not set, but"),
        ({ENDPOINT: "node/v1"}, f"{ENDPOINT} is not http://host:port/path"),
        ({ENDPOINT: "http://node:port/"}, f"{ENDPOINT} is not http://host:port/path"),
        ({ENDPOINT: f"http://{'n' * 64}.node/"}, f"{ENDPOINT} is not http://host:port/path"),
        ({ENDPOINT: "http://a..b/"}, f"{ENDPOINT} is not http://host:port/path"),
        (
            {ENDPOINT: "http://node/", TOKEN_FILE: "/none"},
            f"{TOKEN_FILE}: the file /none cannot be read (No such file or directory)",
        ),
    ],
)
def test_an_environment_without_credentials(environ: dict[str, str], message: str) -> None:
    with pytest.raises(config.SettingsError) as raised:
        tokens(environ)
    assert str(raised.value).startswith(message)


async def test_empty_is_as_good_as_not_set(endpoint: Endpoint) -> None:
    token = await tokens(endpoint.environ | {KEY_ID: "", SECRET: ""})()
    assert _parts(token)[1]["X-Amz-Credential"][0].startswith(KEYS[0])
    assert endpoint.requests == 1
    given = {
        KEY_ID: KEYS[0],
        SECRET: KEYS[1],
        "AWS_SESSION_TOKEN": "",
        ENDPOINT: "",
        TOKEN_FILE: "",
    }
    assert "X-Amz-Security-Token" not in await tokens(given)()


@pytest.mark.parametrize("content", [b"\xffsecret", b"sec\nret", "secret→".encode()])
async def test_a_token_file_without_a_token(endpoint: Endpoint, content: bytes) -> None:
    password = tokens(endpoint.environ)
    endpoint.token_file.write_bytes(content)
    message = f"{TOKEN_FILE}: the file {endpoint.token_file} is not one line of ASCII characters"
    with pytest.raises(iam.CredentialsError) as raised:
        await password()
    assert str(raised.value) == message
    assert raised.value.__cause__ is None  # which a log would repeat
    with pytest.raises(config.SettingsError) as refused:
        tokens(endpoint.environ)
    assert str(refused.value) == message


async def test_an_endpoint_that_breaks_off() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
        await _close(writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        for path in ("v1", "v 1"):
            password = tokens({ENDPOINT: f"http://127.0.0.1:{port}/{path}"})
            with pytest.raises(iam.CredentialsError, match=f"{ENDPOINT} gives no credentials"):
                await password()


async def test_a_token_file_that_goes_away(endpoint: Endpoint) -> None:
    password = tokens(endpoint.environ)
    endpoint.token_file.unlink()
    with pytest.raises(iam.CredentialsError, match=f"{ENDPOINT} gives no credentials: .*token"):
        await password()


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize("name", ["serve", "migrate"])
async def test_without_credentials_nothing_starts(
    monkeypatch: pytest.MonkeyPatch, name: str, rds: "Rds"
) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    variables = {
        "PAYMENTS_DATABASE_URL": rds.url("payments", "payments_app"),
        "PAYMENTS_DATABASE_IAM_REGION": REGION,
    }
    process = await launch(name, variables=variables)
    _, error = await process.communicate()
    assert process.returncode == 1
    assert b"PAYMENTS_DATABASE_IAM_REGION needs AWS credentials" in error


# A database that asks for tokens


class Rds:
    """What RDS puts in front of PostgreSQL: TLS, and a token in place of a password."""

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        self.certificate = directory / "certificate.pem"
        self.sockets = command.sockets(cluster)
        self.tokens: list[str] = []
        self.port = 0
        self._key = directory / "key.pem"
        self._conversations: list[asyncio.Task[None]] = []
        self._make_certificate()

    def _make_certificate(self) -> None:
        files = ("-keyout", self._key, "-out", self.certificate)
        kind = ("-x509", "-nodes", "-days", "1", "-newkey", "rsa:2048")
        name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        subprocess.run(["openssl", "req", *kind, *files, *name], check=True, capture_output=True)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Accepts connections."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield
        server.close()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    def url(self, name: str, user: str, certificate: Path | None = None) -> str:
        """Returns the URL of a database."""
        return (
            f"postgresql://{user}@localhost:{self.port}/{name}"
            f"?sslmode=verify-full&sslrootcert={certificate or self.certificate}"
        )

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(self._converse(reader, writer))
        self._conversations.append(conversation)
        # Clients leave when they like, and the end of a test ends the rest.
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await conversation
        await _close(writer)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self._key)
        assert await reader.readexactly(8) == struct.pack("!ii", 8, 80877103)  # SSLRequest
        writer.write(b"S")
        await writer.drain()
        await writer.start_tls(context)
        startup = await self._message(reader)
        writer.write(b"R" + struct.pack("!ii", 8, 3))  # AuthenticationCleartextPassword
        assert await reader.readexactly(1) == b"p"
        token = (await self._message(reader))[4:-1].decode()
        self.tokens.append(token)
        words = startup[8:].split(b"\0")
        if not self._is_good(token, user=words[words.index(b"user") + 1].decode()):
            fields = b"SFATAL\0C28000\0MPAM authentication failed\0\0"
            writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
            return
        inner, outer = await asyncio.open_unix_connection(f"{self.sockets}/.s.PGSQL.5432")
        outer.write(startup)
        try:
            await asyncio.gather(self._pass_on(reader, outer), self._pass_on(inner, writer))
        finally:
            await _close(outer)

    @staticmethod
    async def _message(reader: asyncio.StreamReader) -> bytes:
        head = await reader.readexactly(4)
        return head + await reader.readexactly(struct.unpack("!i", head)[0] - 4)

    @staticmethod
    async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()  # who stops talking is told that the other did

    def _is_good(self, token: str, user: str) -> bool:
        at = datetime.strptime(_parts(token)[1]["X-Amz-Date"][0], "%Y%m%dT%H%M%S%z")
        age = time.time() - at.timestamp()
        right = botocore_token(f"localhost:{self.port}", user, SESSION, at)
        return -1 <= age <= 900 and _parts(token) == _parts(right)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@pytest.fixture
async def rds(
    cluster: Cluster, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rds]:
    """A database that asks for tokens, and an environment that gives credentials for it."""
    for variable, value in endpoint.environ.items():
        monkeypatch.setenv(variable, value)
    rds = Rds(tmp_path, cluster)
    with command.visible(tmp_path):
        async with rds.serve():
            yield rds


@pytest.fixture
def stranger(cluster: Cluster, tmp_path: Path) -> Path:
    """A certificate that the database does not have."""
    directory = tmp_path / "stranger"
    directory.mkdir()
    return Rds(directory, cluster).certificate


async def test_the_service_signs_in(start: Serve, database: Database, rds: Rds) -> None:
    url = rds.url(database.name, "payments_app")
    async with client(
        await start(database_url=url, database_iam_region=REGION), await database.key()
    ) as api:
        assert (await api.send("GET", "/readyz")).status_code == 200
        await asyncio.gather(*(api.payment() for _ in range(20)))
    assert len(rds.tokens) >= 2  # the pool's, and the readiness check's


async def test_a_database_that_takes_no_such_token(
    start: Serve, database: Database, rds: Rds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-somebody-else")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    url = rds.url(database.name, "payments_app")
    async with client(
        await start(database_url=url, database_iam_region=REGION), await database.key()
    ) as api:
        answer = await api.create({"payment": 1})
        assert answer.status_code == 503
        assert (await api.send("GET", "/readyz")).status_code == 503
        assert (await api.send("GET", "/livez")).status_code == 200
    assert rds.tokens


async def test_no_token_goes_to_a_stranger(
    start: Serve, database: Database, rds: Rds, stranger: Path
) -> None:
    url = rds.url(database.name, "payments_app", certificate=stranger)
    async with client(
        await start(database_url=url, database_iam_region=REGION), await database.key()
    ) as api:
        assert (await api.send("GET", "/readyz")).status_code == 503
        assert (await api.create({"payment": 1})).status_code == 503
    assert not rds.tokens


@pytest.mark.usefixtures("command")
async def test_credentials_that_fail_are_not_blamed_on_the_database(
    rds: Rds, endpoint: Endpoint
) -> None:
    endpoint.status = 500
    variables = {
        "PAYMENTS_DATABASE_URL": rds.url("payments", "payments_migrator"),
        "PAYMENTS_DATABASE_IAM_REGION": REGION,
    }
    process = await launch("keys", "list", variables=variables)
    _, error = await process.communicate()
    assert process.returncode == 1
    assert error.startswith(f"Error: {ENDPOINT} gives no credentials: HTTP Error 500".encode())


async def test_readiness_names_credentials_that_fail(
    start: Serve, database: Database, rds: Rds, endpoint: Endpoint
) -> None:
    endpoint.status = 500
    url = rds.url(database.name, "payments_app")
    served = await start(database_url=url, database_iam_region=REGION)
    async with client(served, "x" * 43) as api:
        answer = await api.send("GET", "/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "The AWS credentials for the database cannot be had."


@pytest.mark.usefixtures("command")
async def test_the_commands_sign_in(database: Database, rds: Rds) -> None:
    for arguments, says in (
        (("migrate",), b"up to date"),
        (("keys", "create", "iam", "--scope", "payments:read"), b""),
        (("keys", "list"), b"payments:read"),
    ):
        process = await launch(
            *arguments,
            variables={
                "PAYMENTS_DATABASE_URL": rds.url(database.name, "payments_migrator"),
                "PAYMENTS_DATABASE_IAM_REGION": REGION,
            },
        )
        output, error = await process.communicate()
        assert process.returncode == 0, error.decode()
        assert says in output
