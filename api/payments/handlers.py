"""What each route means: from a checked request to a query and an answer."""

import asyncio
import base64
import re
import struct
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import parse_qsl, urlencode

import msgspec

from payments import metrics, models, queries
from payments.batch import Batch
from payments.config import Settings
from payments.db import Database, Probe
from payments.errors import (
    IdempotencyKeyReused,
    InvalidRequest,
    NotReady,
    PaymentNotFound,
    PreconditionFailed,
    StatusConflict,
    UnsupportedMediaType,
)
from payments.messages import JSON, Request, Response
from payments.models import LegacyNewPayment, NewPayment, Payment, Status, StatusChange
from payments.queries import Consumption, Created, Creation, Page

MEDIA_TYPE = JSON[1]
LEGACY_PAGE_ROWS = 1000
LEGACY_PAGE_BYTES = 256 * 1024  # what each reader of /list costs in memory, some times over
LOCKED_PAUSE_SECONDS = 0.05  # many round trips to the database, and short for who waits

_ENTITY_TAG = re.compile(r'[ \t]*(?:(W/)?("[^"]*")[ \t]*)?(?:,|$)')
_IDEMPOTENCY_KEY = re.compile(r"[ -~]{1,255}")
_LIMIT = re.compile(r"[0-9]{1,4}")
_CURSOR = re.compile(r"[A-Za-z0-9_-]{22}")

Time = Annotated[datetime, msgspec.Meta(tz=True)]


class ListQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query parameters of `GET /v1/payments`."""

    status: Status | None = None
    created_after: Time | None = None
    created_before: Time | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    cursor: Annotated[str, msgspec.Meta(pattern=rf"^{_CURSOR.pattern}\Z")] | None = None


class Handlers:
    """The handlers and what they share: the database, its batches, and whether the end is near."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._probe = Probe(settings)
        self.draining = False
        self._warmed = False
        size, queue_limit = settings.batch_size, settings.batch_queue_limit
        self._creations = Batch(
            "create",
            self._run_creations,
            size=size,
            queue_limit=queue_limit,
            limit_bytes=settings.batch_limit_bytes,
            measure=lambda creation: len(creation.data),
        )
        self._reads = Batch("read", self._run_reads, size=size, queue_limit=queue_limit)
        self._consumptions = Batch(
            "consume", self._run_consumptions, size=size, queue_limit=queue_limit
        )

    async def _run_creations(self, creations: Sequence[Creation]) -> list[Created | Exception]:
        async with self._database.connection() as connection:
            answers = await queries.create(connection, creations)
        made = [
            new
            for new, answer in zip(creations, answers, strict=True)
            if isinstance(answer, Created) and not answer.replayed
        ]
        metrics.payments_created.inc(len(made))
        metrics.created_value.inc(sum(float(new.payment or 0) for new in made))
        metrics.payments_consumed.inc(sum(new.status == "consumed" for new in made))
        return answers

    async def _run_reads(self, ids: Sequence[int]) -> list[Payment | None]:
        async with self._database.connection() as connection:
            return await queries.read(connection, ids)

    async def _run_consumptions(self, consumptions: Sequence[Consumption]) -> list[Payment | None]:
        async with self._database.connection() as connection:
            payments = await queries.consume(connection, consumptions)
        metrics.payments_consumed.inc(len(payments) - payments.count(None))
        return payments

    # Version 1

    async def create(self, request: Request, client: str) -> Response:
        """Makes a payment, or gives the first answer of its Idempotency-Key again."""
        key = request.header(b"idempotency-key")
        if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
            raise InvalidRequest("Idempotency-Key must have 1 to 255 printable ASCII characters.")
        new = models.decode(_json_body(request), NewPayment)
        value = models.value(new.payment)
        if value is None:
            raise InvalidRequest("`payment` must not be null.")
        creation = Creation(client, key, "inserted", value, models.document(new.data))
        created = await self._creations.submit(creation)
        if not created.matches:
            raise IdempotencyKeyReused("This Idempotency-Key made a payment with another body.")
        response = _answer(created.payment, status=201)
        response.headers.append((b"location", b"/v1/payments/%d" % created.payment.id))
        if created.replayed:
            metrics.idempotent_replays.inc()
            response.headers.append((b"idempotent-replayed", b"true"))
        return response

    async def read(self, request: Request, client: str, id: int) -> Response:
        """Answers with one payment, or with 304 if the caller has it as it is."""
        payment = await self._find(id)
        known = request.header(b"if-none-match")
        if known is not None and _names(known, payment.etag, weak=True):
            return Response(304, [(b"etag", payment.etag.encode())])
        return _answer(payment)

    async def list(self, request: Request, client: str) -> Response:
        """Answers with one page."""
        query = _list_query(request.query_string)
        page = Page(
            status=query.status,
            created_after=_utc("created_after", query.created_after),
            created_before=_utc("created_before", query.created_before),
            after=None if query.cursor is None else _position(query.cursor),
            limit=query.limit,
            limit_bytes=self._settings.page_limit_bytes,
        )
        async with self._database.connection() as connection:
            payments, more = await queries.list_page(connection, page)
        cursor = _cursor(payments[-1]) if more else None
        response = Response(200, [JSON], models.encode_list(payments, cursor))
        if cursor is not None:
            parameters = dict(parse_qsl(request.query_string)) | {"cursor": cursor}
            link = f'</v1/payments?{urlencode(parameters)}>; rel="next"'
            response.headers.append((b"link", link.encode()))
        return response

    async def update(self, request: Request, client: str, id: int) -> Response:
        """Sets a payment's status."""
        change = models.decode(_json_body(request), StatusChange)
        if_match = request.header(b"if-match")
        return _answer(await self._set_status(client, id, change.status, if_match))

    async def delete(self, request: Request, client: str, id: int) -> Response:
        """Deletes a payment; its row stays as evidence."""
        await self._delete(client, id, request.header(b"if-match"))
        return Response(204, [])

    # The old routes

    async def legacy_create(self, request: Request, client: str) -> Response:
        """Makes a payment out of whatever an old client sends."""
        new = models.decode(_json_body(request), LegacyNewPayment)
        value, document = models.value(new.payment), models.document(new.data)
        created = await self._creations.submit(Creation(client, None, new.status, value, document))
        return _answer(created.payment)

    async def legacy_list(self, request: Request, client: str) -> Response:
        """Streams all payments; a page at a time, so that no slow reader holds a connection."""
        page = Page(limit=LEGACY_PAGE_ROWS, limit_bytes=LEGACY_PAGE_BYTES)
        async with self._database.connection() as connection:
            first = await queries.list_page(connection, page)
        return Response(200, [JSON], None if request.head else self._stream(request, page, *first))

    async def _stream(
        self, request: Request, page: Page, payments: Sequence[Payment], more: bool
    ) -> AsyncGenerator[bytes, None]:
        # What is sent after the caller has left goes nowhere, in silence.
        gone = asyncio.ensure_future(request.receive())
        separator = b"["
        try:
            while payments and not gone.done():
                yield separator + msgspec.json.encode(payments)[1:-1]
                separator = b","
                if not more:
                    break
                page = page._replace(after=(payments[-1].created_at, payments[-1].id))
                async with self._database.connection() as connection:
                    payments, more = await queries.list_page(connection, page)
            yield b"[]" if separator == b"[" else b"]"
        finally:
            gone.cancel()

    async def legacy_update(self, request: Request, client: str, id: int) -> Response:
        """Sets a payment's status."""
        change = models.decode(_json_body(request), StatusChange)
        return _answer(await self._set_status(client, id, change.status, None))

    async def legacy_delete(self, request: Request, client: str, id: int) -> Response:
        """Deletes a payment and answers with what it was."""
        return _answer(await self._delete(client, id, None))

    async def legacy_status(self, request: Request, client: str) -> Response:
        """Says that the process answers, as the old healthcheck did."""
        return Response(200, [(b"content-type", b"text/plain")], b"ok")

    # Health

    async def live(self, request: Request, client: str) -> Response:
        """Says that the process answers. Asks nothing else: a restart mends no database."""
        return Response(200, [JSON], b'{"status":"live"}')

    async def ready(self, request: Request, client: str) -> Response:
        """Says whether this process should be sent requests."""
        reason = "the service is shutting down" if self.draining else await self._probe.check()
        if reason is not None:
            raise NotReady(f"{reason[0].upper()}{reason[1:]}.")
        if not self._warmed:
            self._warmed = True
            await self._database.warm()
        return Response(200, [JSON], b'{"status":"ready"}')

    def close(self) -> None:
        """Lets go of the readiness check's connection."""
        self._probe.close()

    # What the versions share

    async def _find(self, id: int) -> Payment:
        payment = await self._reads.submit(id)
        if payment is None:
            raise PaymentNotFound(f"There is no payment {id}.")
        return payment

    async def _set_status(
        self, client: str, id: int, status: Status, if_match: str | None
    ) -> Payment:
        """Returns the payment with the wanted status; looks at it only where it must."""
        changed = None
        if status == "consumed" and if_match is None:
            changed = await self._consumptions.submit(Consumption(client, id, None))
        while changed is None:
            payment = await self._find(id)
            _check_precondition(if_match, payment)
            if payment.status == status:
                return payment
            if status == "inserted":
                raise StatusConflict(f"Payment {id} is consumed and cannot become inserted again.")
            unchanged_since = None if if_match is None else payment.updated_at
            changed = await self._consumptions.submit(Consumption(client, id, unchanged_since))
            if changed is None:
                # Somebody else was faster, or holds it: look again, until the request's time is up.
                await asyncio.sleep(LOCKED_PAUSE_SECONDS)
        return changed

    async def _delete(self, client: str, id: int, if_match: str | None) -> Payment:
        deleted = None
        while deleted is None:
            payment = await self._find(id)
            _check_precondition(if_match, payment)
            unchanged_since = None if if_match is None else payment.updated_at
            async with self._database.connection() as connection:
                deleted = await queries.delete(connection, id, client, unchanged_since)
            if deleted is None:
                await asyncio.sleep(LOCKED_PAUSE_SECONDS)
        metrics.payments_deleted.inc()
        return deleted


def _json_body(request: Request) -> bytes:
    sent = request.headers.get(b"content-type") or MEDIA_TYPE
    if sent != MEDIA_TYPE:
        media_type, *parameters = sent.lower().replace(b" ", b"").split(b";")
        charsets = {text for text in parameters if text.startswith(b"charset=")}
        if media_type != MEDIA_TYPE or not charsets <= {b"charset=utf-8", b'charset="utf-8"'}:
            raise UnsupportedMediaType("The body must be application/json in UTF-8.")
    return request.body


def _answer(payment: Payment, status: int = 200) -> Response:
    return Response(status, [JSON, (b"etag", payment.etag.encode())], models.encode(payment))


def _names(header: str, etag: str, *, weak: bool) -> bool:
    """Returns whether an If-Match or If-None-Match names the tag (RFC 9110, 8.8.3.2).

    One that is malformed names nothing.
    """
    if header.strip() == "*":
        return True
    named = False
    position = 0
    while position < len(header):
        member = _ENTITY_TAG.match(header, position)
        if member is None:
            return False
        named = named or (member[2] == etag and (weak or not member[1]))
        position = member.end()
    return named


def _check_precondition(if_match: str | None, payment: Payment) -> None:
    if if_match is not None and not _names(if_match, payment.etag, weak=False):
        raise PreconditionFailed(f"Payment {payment.id} has the ETag {payment.etag}.")


def _list_query(query_string: str) -> ListQuery:
    parameters: dict[str, str | int] = {}
    for name, text in parse_qsl(query_string, keep_blank_values=True):
        if name in parameters:
            raise InvalidRequest(f"The parameter `{name}` is given twice.")
        parameters[name] = int(text) if name == "limit" and _LIMIT.fullmatch(text) else text
    try:
        return msgspec.convert(parameters, ListQuery)
    except msgspec.ValidationError as error:
        refusal = models.refusal(error)
        refusal.detail = refusal.detail.replace("unknown field", "unknown parameter")
        raise refusal from None


def _utc(name: str, time: datetime | None) -> datetime | None:
    try:
        return None if time is None else time.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(f"`{name}` is too far away.") from None


def _cursor(payment: Payment) -> str:
    position = struct.pack(">qq", models.microseconds(payment.created_at), payment.id)
    return base64.urlsafe_b64encode(position).decode()[:22]


def _position(cursor: str) -> tuple[datetime, int]:
    microseconds, id = struct.unpack(">qq", base64.urlsafe_b64decode(f"{cursor}=="))
    try:
        return models.EPOCH + timedelta(microseconds=microseconds), id
    except OverflowError:
        raise InvalidRequest("`cursor` is not one that this service gave.") from None
