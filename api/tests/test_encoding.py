"""Compressed responses: who gets one, that it is the same, and that it comes as fast."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncGenerator

import httpx
import pytest

from payments import docs, encoding
from tests import PATIENCE_SECONDS
from tests.conftest import Api, Database

COMPRESSED = ["/list", "/openapi.json", "/docs/swagger-ui-bundle.js", "/docs/page.css"]


async def _get(api: Api, path: str, accept_encoding: str | None) -> tuple[httpx.Headers, bytes]:
    """Returns the headers, and the body as it was sent."""
    headers = {} if accept_encoding is None else {"Accept-Encoding": accept_encoding}
    request = api.http.build_request("GET", path, headers=headers)
    if accept_encoding is None:
        del request.headers["Accept-Encoding"]  # that httpx adds
    answer = await api.http.send(request, stream=True)
    body = b"".join([piece async for piece in answer.aiter_raw()])
    assert answer.status_code == 200
    return answer.headers, body


@pytest.mark.parametrize("path", COMPRESSED)
async def test_gzip_is_for_clients_that_accept_it(shared: Api, path: str) -> None:
    await shared.payment(data="x" * 10_000)
    _, plain = await _get(shared, path, None)
    for accepted in (None, "", "identity", "br", "gzip;q=0"):
        headers, body = await _get(shared, path, accepted)
        assert body == plain
        assert "Content-Encoding" not in headers
        assert headers["Vary"] == "accept-encoding"
    headers, compressed = await _get(shared, path, "gzip, br")
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Vary"] == "accept-encoding"
    assert len(compressed) < len(plain) / 2
    assert gzip.decompress(compressed) == plain


@pytest.mark.parametrize("path", ["/livez", "/docs/favicon.svg", "/docs"])
async def test_a_small_body_is_never_compressed(shared: Api, path: str) -> None:
    headers, _ = await _get(shared, path, "gzip")
    assert "Content-Encoding" not in headers


async def test_a_single_payment_is_never_compressed(shared: Api) -> None:
    made = await shared.payment(data="x" * 10_000)
    headers, body = await _get(shared, f"/v1/payments/{made['id']}", "gzip")
    assert "Content-Encoding" not in headers
    assert "Vary" not in headers
    assert len(body) > 10_000


@pytest.mark.parametrize("path", COMPRESSED)
async def test_head_has_the_headers_of_get(shared: Api, path: str) -> None:
    for accepted in ("gzip", "identity"):
        got, _ = await _get(shared, path, accepted)
        head = await shared.http.head(path, headers={"Accept-Encoding": accepted})
        for name in ("Content-Encoding", "Vary", "Content-Type"):
            assert head.headers.get(name) == got.get(name)
        if "Content-Length" in got:
            assert head.headers["Content-Length"] == got["Content-Length"]


@pytest.mark.parametrize(
    ("header", "accepts"),
    [
        (b"gzip", True),
        (b"GZIP", True),
        (b"gzip, deflate, br, zstd", True),
        (b"deflate,gzip;q=1.0,*;q=0.5", True),
        (b"gzip ; q = 0.001", True),
        (b"*", True),
        (b"*;q=0.1", True),
        (b"identity;q=0, gzip", True),
        (b"identity, gzip", True),
        (b"", False),
        (b",", False),
        (b"identity", False),
        (b"br", False),
        (b"xgzip", False),
        (b"gzip;q=0", False),
        (b"gzip;q=0.000", False),
        (b"*;q=0", False),
        (b"*, gzip;q=0", False),
        (b"gzip;q=0.5, identity;q=0.8", False),
        (b"gzip;q=x", False),
        (b"gzip;level=1", True),
    ],
)
def test_weights_are_those_of_rfc_9110(header: bytes, accepts: bool) -> None:
    assert encoding.accepts_gzip(header) == accepts


@pytest.mark.parametrize("size", [1, 100_000])
async def test_a_piece_is_sent_before_the_next_one_is_there(size: int) -> None:
    first = bytes(size)
    may_end = asyncio.Event()
    closed = False

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal closed
        try:
            yield first
            await may_end.wait()
            yield b"last"
        finally:
            closed = True

    compressed = encoding.compress_pieces(pieces())
    decompressor = zlib.decompressobj(wbits=31)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert decompressor.decompress(await anext(compressed)) == first
        may_end.set()
        rest = b"".join([decompressor.decompress(piece) async for piece in compressed])
    assert rest == b"last"
    assert decompressor.eof
    abandoned = encoding.compress_pieces(pieces())
    closed = False
    await anext(abandoned)
    await abandoned.aclose()
    assert closed


async def test_a_long_stream_takes_the_memory_of_a_piece() -> None:
    piece = docs.openapi()[:50_000]
    count = 200

    async def pieces() -> AsyncGenerator[bytes, None]:
        for _ in range(count):
            yield piece

    tracemalloc.start()
    sent = 0
    async for compressed in encoding.compress_pieces(pieces()):
        sent += len(compressed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sent > count * 1000
    assert peak < 20 * len(piece)


async def test_a_large_body_is_compressed_beside_the_event_loop() -> None:
    size = 20_000_000
    compressing = asyncio.create_task(encoding.compress(bytes(size)))
    turns = 0
    while not compressing.done():
        await asyncio.sleep(0)
        turns += 1
    assert len(gzip.decompress(await compressing)) == size
    assert turns > 2  # the loop went round meanwhile


async def test_the_old_list_is_whole_in_http_1_0(api: Api, database: Database) -> None:
    made = await api.payment()
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /list HTTP/1.0\r\nAuthorization: Bearer {api.key}\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE_SECONDS):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert b"transfer-encoding" not in head
    [listed] = httpx.Response(200, content=body).json()
    assert listed["id"] == made["id"]
