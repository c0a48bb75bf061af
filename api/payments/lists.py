"""What `GET /v1/payments` asks for, and the lists that are streamed."""

import asyncio
import base64
import re
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import NamedTuple, get_args
from urllib.parse import parse_qsl, urlencode

from payments import encoding, models, parameters, queries
from payments.db import Database
from payments.errors import InvalidRequest
from payments.messages import Request
from payments.models import Payment, Status
from payments.queries import LAST_ID, Page, Position

LIMIT = 1000  # payments of a page
DEFAULT_LIMIT = 100

# A page of a stream. Each of its readers holds some times its bytes in memory. PostgreSQL reads all
# rows that are asked for, also where a few large ones are enough: their number begins small, and
# doubles while pages are not cut.
STREAM_FIRST_ROWS = 50
STREAM_ROWS = 1000
STREAM_BYTES = 256 * 1024

KNOWN = (
    "status",
    "created_after",
    "created_before",
    "created_by",
    "idempotency_key",
    "order",
    "limit",
    "cursor",
)

# What metrics call the route of a stream, which lasts as long as there are payments.
STREAM_ROUTE = "/v1/payments stream"

_CURSOR = re.compile(r"[A-Za-z0-9_-]{22}")


def wants_stream(accept: bytes | None) -> bool:
    """Returns whether an Accept header asks for JSON lines.

    One that names JSON too gets a page: generated clients name each media type of the contract.
    """
    weights = encoding.weights(accept or b"")
    return weights.get(b"application/x-ndjson", 0) > 0 >= weights.get(b"application/json", 0)


class Query(NamedTuple):
    """The page that a list begins with, or the Idempotency-Key whose payment is asked for."""

    page: Page
    idempotency_key: str | None = None


def parse(query_string: str, limit_bytes: int, streamed: bool) -> Query:
    """Returns what a list asks for.

    Raises:
        InvalidRequest: a parameter is not known or not right.
    """
    given = parameters.parse_query(query_string, KNOWN)
    if streamed and "limit" in given:
        raise InvalidRequest("A stream has everything that matches; send no `limit` with it.")
    page = Page(STREAM_FIRST_ROWS, STREAM_BYTES)
    if not streamed:
        limit = parameters.parse_limit("limit", given.get("limit", str(DEFAULT_LIMIT)), LIMIT)
        page = Page(limit, limit_bytes)
    if (key := given.get("idempotency_key")) is not None:
        if len(given) > 1:
            raise InvalidRequest(
                "`idempotency_key` names one payment; send no other parameter with it."
            )
        name = "idempotency_key"
        return Query(page, parameters.parse_printable(name, key, models.IDEMPOTENCY_KEY_LENGTH))
    return Query(_bounded(_filtered(page, given), given))


def _filtered(page: Page, given: dict[str, str]) -> Page:
    if (text := given.get("status")) is not None:
        page = page._replace(status=parameters.parse_choice("status", text, get_args(Status)))
    if (text := given.get("created_by")) is not None:
        text = parameters.parse_printable("created_by", text, models.CLIENT_NAME_LENGTH)
        page = page._replace(created_by=text)
    if (text := given.get("order")) is not None:
        order = parameters.parse_choice("order", text, ("asc", "desc"))
        page = page._replace(descending=order == "desc")
    return page


def _bounded(page: Page, given: dict[str, str]) -> Page:
    # Both times are exclusive: the page begins after all payments of that time.
    if (text := given.get("created_after")) is not None:
        page = page._replace(after=(parameters.parse_time("created_after", text), LAST_ID))
    if (text := given.get("created_before")) is not None:
        page = page._replace(before=(parameters.parse_time("created_before", text), 0))
    if (text := given.get("cursor")) is None:
        return page
    if page.descending:
        return page._replace(before=min(page.before, _position(text)))
    return page._replace(after=max(page.after, _position(text)))


def cursor(payment: Payment) -> str:
    """Returns where the list goes on after this payment."""
    created_at, id = payment.position
    position = struct.pack(">qq", models.microseconds(created_at), id)
    return base64.urlsafe_b64encode(position).decode()[:22]


def _position(cursor: str) -> Position:
    try:
        if _CURSOR.fullmatch(cursor):
            microseconds, id = struct.unpack(">qq", base64.urlsafe_b64decode(f"{cursor}=="))
            return models.EPOCH + timedelta(microseconds=microseconds), id
    except OverflowError:
        pass
    raise InvalidRequest("`cursor` must be the `next` of an earlier page, unchanged.")


def next_link(query_string: str, cursor: str) -> str:
    """Returns the Link header (RFC 8288) to the page at the cursor."""
    query = urlencode(dict(parse_qsl(query_string)) | {"cursor": cursor})
    return f'</v1/payments?{query}>; rel="next"'


async def pages(
    database: Database, request: Request, page: Page, payments: list[Payment], more: bool
) -> AsyncGenerator[list[Payment], None]:
    """Yields a first page that was fetched already, and all that follow it.

    Each page has a connection of its own, so that no slow reader holds one.
    """
    # What is sent after the caller has left goes nowhere, in silence.
    gone = asyncio.ensure_future(request.receive())
    try:
        while payments and not gone.done():
            yield payments
            if not more:
                break
            limit = min(2 * len(payments), STREAM_ROWS)
            page = page.following(payments[-1])._replace(limit=limit)
            async with database.connection() as connection:
                payments, more = await queries.list_page(connection, page)
    finally:
        gone.cancel()


async def lines(pages: AsyncGenerator[list[Payment], None]) -> AsyncGenerator[bytes, None]:
    """Yields the payments as JSON, one a line."""
    async with aclosing(pages):
        async for payments in pages:
            yield models.encode_lines(payments)


async def array(pages: AsyncGenerator[list[Payment], None]) -> AsyncGenerator[bytes, None]:
    """Yields the payments as one JSON array of what the old routes answer."""
    separator = b"["
    async with aclosing(pages):
        async for payments in pages:
            yield separator + models.encode_legacy(payments)[1:-1]
            separator = b","
    yield b"[]" if separator == b"[" else b"]"
