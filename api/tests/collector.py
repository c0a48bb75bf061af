"""A collector of traces: takes OTLP over HTTP, in JSON, and keeps every span that it is sent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

SERVER, CLIENT, ERROR = 2, 3, 2  # OTLP's numbers for kinds of spans, and for a status


class Link(msgspec.Struct, rename="camel", frozen=True):
    """A link to a span, its ids in hexadecimal digits."""

    trace_id: str
    span_id: str


class Attribute(msgspec.Struct):
    """A name and a value, which has one member that is named after its type."""

    key: str
    value: dict[str, Any]


class Span(msgspec.Struct, rename="camel"):
    """A span as OTLP has it; times in nanoseconds."""

    trace_id: str
    span_id: str
    name: str
    kind: int
    start_time_unix_nano: int
    end_time_unix_nano: int
    parent_span_id: str = ""
    attributes: list[Attribute] = []
    links: list[Link] = []
    events: list[Any] = []
    status: dict[str, Any] = {}

    @property
    def values(self) -> dict[str, Any]:
        """The attributes' values; OTLP has numbers as text."""
        return {each.key: next(iter(each.value.values())) for each in self.attributes}


class _Scope(msgspec.Struct):
    spans: list[Span]


class _Resource(msgspec.Struct, rename="camel"):
    scope_spans: list[_Scope]


class _Export(msgspec.Struct, rename="camel"):
    resource_spans: list[_Resource]


class Collector:
    """What came, as it came and decoded."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[bytes] = []
        self.addresses: set[str] = set()

    @property
    def spans(self) -> list[Span]:
        """Every span, in the order of its end."""
        return [
            span
            for body in self.bodies
            for resource in msgspec.json.decode(body, type=_Export, strict=False).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError):  # the service has gone
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                assert "content-type: application/json" in head
                self.addresses.add(head.split()[1])
                length = int(head.split("content-length:")[1].split()[0])
                self.bodies.append(await reader.readexactly(length))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Runs a collector on a free port."""
    collector = Collector()
    server = await asyncio.start_server(collector.answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        collector.url = f"http://127.0.0.1:{port}"
        yield collector
