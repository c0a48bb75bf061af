"""Compression of responses: gzip, for clients that accept it (RFC 9110, section 12.5.3)."""

import asyncio
import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import lru_cache

# A third of the CPU time of zlib's usual level 6, for 65 instead of 56 KB of 1,000 payments.
_LEVEL = 1
_GZIP = 16 + zlib.MAX_WBITS

# A smaller body fits into one network packet as it is.
SMALLEST_BYTES = 1400

# A larger body takes longer to compress, 0.1 ms, than to hand it to a thread: meanwhile the event
# loop answers other requests.
_THREAD_BYTES = 16 * 1024


@lru_cache
def accepts_gzip(accept_encoding: bytes) -> bool:
    """Returns whether a client prefers gzip to no coding; an invalid weight is none."""
    weights: dict[bytes, float] = {}
    for member in accept_encoding.lower().split(b","):
        coding, _, parameter = member.replace(b" ", b"").replace(b"\t", b"").partition(b";")
        weights[coding] = _weight(parameter)
    gzip = weights.get(b"gzip", weights.get(b"*", 0.0))
    return gzip > 0 and gzip >= weights.get(b"identity", 0.0)


def _weight(parameter: bytes) -> float:
    try:
        return float(parameter.removeprefix(b"q=")) if parameter else 1.0
    except ValueError:
        return 0.0


def gzip(body: bytes, level: int = _LEVEL) -> bytes:
    """Returns the body compressed."""
    compressor = zlib.compressobj(level, wbits=_GZIP)
    return compressor.compress(body) + compressor.flush()


async def compress(body: bytes) -> bytes:
    """Returns the body compressed; the event loop does not wait for a large one."""
    return gzip(body) if len(body) < _THREAD_BYTES else await asyncio.to_thread(gzip, body)


async def compress_pieces(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yields the pieces compressed, each as soon as it is there."""
    compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)

    def flushed(piece: bytes) -> bytes:
        return compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH)

    async with aclosing(pieces):
        async for piece in pieces:
            small = len(piece) < _THREAD_BYTES
            yield flushed(piece) if small else await asyncio.to_thread(flushed, piece)
    yield compressor.flush()
