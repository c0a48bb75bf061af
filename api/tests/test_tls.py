"""TLS to the database: with `verify-full` the service talks to nobody but the named database."""

import asyncio
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from laptop.postgres import Cluster
from tests import command
from tests.conftest import Database, Serve, client

pytestmark = pytest.mark.in_process  # a container does not see the authority's file

# What `openssl req` has no option for: a certificate whose time is over.
AUTHORITY = """
[ca]
default_ca = here
[here]
database = {directory}/index
new_certs_dir = {directory}
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
default_enddate = {end}
default_startdate = 20200101000000Z
[any]
commonName = supplied
"""


class Certificate(NamedTuple):
    """A certificate that is its own authority, and its key."""

    file: Path
    key: Path


def _certificate(
    directory: Path, name: str = "localhost", end: str = "20991231000000Z"
) -> Certificate:
    directory.mkdir()
    (directory / "index").touch()
    (directory / "config").write_text(AUTHORITY.format(directory=directory, end=end))
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    request = directory / "request.pem"
    names = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
    new = ("-new", "-nodes", "-newkey", "rsa:2048", "-keyout", made.key, "-out", request)
    sign = ("-batch", "-selfsign", "-config", directory / "config", "-keyfile", made.key)
    for arguments in (("req", *new, *names), ("ca", *sign, "-in", request, "-out", made.file)):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    return made


@asynccontextmanager
async def _front(cluster: Cluster, certificate: Certificate | None) -> AsyncIterator[int]:
    """Stands before PostgreSQL, with TLS or without; gives its port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            assert await reader.readexactly(8) == struct.pack("!ii", 8, 80877103)  # SSLRequest
            writer.write(b"N" if certificate is None else b"S")
            await writer.drain()
            if certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*certificate)
                await writer.start_tls(context)
            inner, outer = await asyncio.open_unix_connection(
                command.sockets(cluster) / ".s.PGSQL.5432"
            )
            await asyncio.gather(_pass_on(reader, outer), _pass_on(inner, writer))
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    ("case", "status"),
    [("right", 201), ("no TLS", 503), ("wrong CA", 503), ("wrong name", 503), ("expired", 503)],
)
async def test_verify_full(
    start: Serve, database: Database, tmp_path: Path, case: str, status: int
) -> None:
    right = _certificate(tmp_path / "right")
    shown: Certificate | None = right
    trusted = right
    if case == "no TLS":
        shown = None
    elif case == "wrong CA":
        trusted = _certificate(tmp_path / "other")
    elif case == "wrong name":
        shown = trusted = _certificate(tmp_path / "other", name="elsewhere.example")
    elif case == "expired":
        shown = trusted = _certificate(tmp_path / "other", end="20200102000000Z")
    async with _front(database.cluster, shown) as port:
        url = (
            f"postgresql://payments_app@localhost:{port}/{database.name}"
            f"?sslmode=verify-full&sslrootcert={trusted.file}"
        )
        with command.visible(tmp_path):
            served = await start(database_url=url)
            async with client(served, await database.key()) as api:
                assert (await api.create({"payment": 1})).status_code == status
                ready = (await api.send("GET", "/readyz")).status_code
                assert ready == (200 if status == 201 else 503)
    [row] = await database.fetch("SELECT count(*) AS made FROM payments")
    assert row["made"] == (1 if status == 201 else 0)
