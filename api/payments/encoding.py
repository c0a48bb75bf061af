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
    """Returns whether a client prefers gzip to no coding."""
    accepted = weights(accept_encoding)
    gzip = accepted.get(b"gzip", accepted.get(b"*", 0.0))
    return gzip > 0 and gzip >= accepted.get(b"identity", 0.0)


def weights(header: bytes) -> dict[bytes, float]:
    """Returns the weight of each member of an Accept or Accept-Encoding; an invalid one is 0."""
    found = {}
    for member in header.lower().translate(None, b" \t").split(b","):
        name, *parameters = member.split(b";")
        [weight] = [text[2:] for text in parameters if text.startswith(b"q=")][:1] or [b"1"]
        try:
            found[name] = float(weight)
        except ValueError:
            found[name] = 0.0
    return found


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
