"""What a handler takes and gives: a request whose body has arrived, and its answer."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec

Headers = list[tuple[bytes, bytes]]
Body = bytes | AsyncGenerator[bytes, None] | None

JSON = (b"content-type", b"application/json")

# Payments are nobody's to keep, nor are failures.
NO_STORE = b"no-store"


class Request(msgspec.Struct):
    """One request; the names of its headers are in small letters."""

    id: str
    method: str  # GET for HEAD as well
    head: bool
    path: str
    query_string: str
    headers: dict[bytes, bytes]
    receive: Callable[[], Awaitable[dict[str, Any]]]  # with the body read: the caller has left
    body: bytes = b""
    route: str = ""  # the template of the path; empty where nothing is found
    client: str | None = None

    def header(self, name: bytes) -> str | None:
        """Returns a header's value, its repetitions joined by commas (RFC 9110, 5.2)."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Response(msgspec.Struct):
    """One answer; a streamed body has no Content-Length.

    Who sends it closes the generator, also when the caller has left.
    """

    status: int
    headers: Headers
    body: Body = None
    cache: bytes = NO_STORE  # who may keep it, and for how long
    compress: bool = False  # whether clients that accept gzip get it in gzip
    compressed: bytes | None = None  # the body in gzip, if that is kept
