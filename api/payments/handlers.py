"""What each route means: from a checked request to a query and an answer."""

import asyncio
import re
from collections.abc import Sequence
from typing import NamedTuple

from payments import lists, metrics, models, parameters, queries
from payments.batch import Batch
from payments.config import Settings
from payments.db import Database, Probe
from payments.errors import (
    AlreadyConsumed,
    IdempotencyKeyReused,
    InvalidRequest,
    NotReady,
    PaymentNotFound,
    PreconditionFailed,
    StatusConflict,
    UnsupportedMediaType,
)
from payments.messages import JSON, Request, Response
from payments.models import (
    ConsumptionRequest,
    LegacyNewPayment,
    LegacyPayment,
    NewPayment,
    Payment,
    Status,
    StatusChange,
)
from payments.queries import Consumption, Created, Creation, Dequeue, Found, Page
from payments.queue import Queue

MEDIA_TYPE = JSON[1]
NDJSON = (b"content-type", b"application/x-ndjson")
VARY = (b"vary", b"accept")
LOCKED_PAUSE_SECONDS = 0.05  # many round trips to the database, and short for who waits

_ENTITY_TAG = re.compile(r'[ \t]*(?:(W/)?("[^"]*")[ \t]*)?(?:,|$)')


class _Consumed(NamedTuple):
    """A payment that this call consumed, an earlier call with its key, or another one before."""

    payment: Payment
    replayed: bool = False
    before: bool = False


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
        self._queue = Queue(database)

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

    async def _run_reads(self, ids: Sequence[int]) -> list[Found | None]:
        async with self._database.connection() as connection:
            return await queries.read(connection, ids)

    async def _run_consumptions(self, consumptions: Sequence[Consumption]) -> list[Payment | None]:
        async with self._database.connection() as connection:
            payments = await queries.consume(connection, consumptions)
        metrics.payments_consumed.inc(len(payments) - payments.count(None))
        return payments

    # Version 1

    async def create(self, request: Request, client: str) -> Response:
        """Creates a payment, or gives the first answer of its Idempotency-Key again."""
        new = models.decode(_json_body(request), NewPayment)
        value = models.value(new.payment)
        if value is None:
            raise InvalidRequest("`payment` must not be null.")
        document = models.document(new.data)
        created = await self._create(request, client, "inserted", value, document)
        response = _answer(created.payment, status=201, replayed=created.replayed)
        response.headers.append((b"location", b"/v1/payments/%d" % created.payment.id))
        return response

    async def read(self, request: Request, client: str, id: int) -> Response:
        """Answers with one payment, or with 304 if the caller has it as it is."""
        payment = await self._find(id)
        _check_if_match(request, payment)
        known = request.header(b"if-none-match")
        if known is not None and _names(known, payment.etag, weak=True):
            return Response(304, [(b"etag", payment.etag.encode())])
        return _answer(payment)

    async def list(self, request: Request, client: str) -> Response:
        """Answers with one page, or with a stream of everything."""
        streamed = lists.wants_stream(request.headers.get(b"accept"))
        if streamed:
            request.route = lists.STREAM_ROUTE
        query = lists.parse(request.query_string, self._settings.page_limit_bytes, streamed)
        async with self._database.connection() as connection:
            if query.idempotency_key is None:
                payments, more = await queries.list_page(connection, query.page)
            else:
                payments = await queries.find_by_key(connection, client, query.idempotency_key)
                more = False
        if streamed:
            pages = lists.pages(self._database, request, query.page, payments, more)
            stream = None if request.head else lists.lines(pages)
            return Response(200, [NDJSON, VARY], stream, compress=True)
        cursor = lists.cursor(payments[-1]) if more else None
        body = models.encode_list(payments, cursor)
        response = Response(200, [JSON, VARY], body, compress=True)
        if cursor is not None:
            link = lists.next_link(request.query_string, cursor)
            response.headers.append((b"link", link.encode()))
        return response

    async def update(self, request: Request, client: str, id: int) -> Response:
        """Sets a payment's status: consumes it, once."""
        key = _idempotency_key(request)
        change = models.decode(_json_body(request), StatusChange)
        if change.status == "inserted":
            return _answer(await self._leave_inserted(request, id))
        consumed = await self._consume(request, client, id, key)
        if consumed.before:
            raise _already_consumed(consumed.payment)
        return _answer(consumed.payment, replayed=consumed.replayed)

    async def delete(self, request: Request, client: str, id: int) -> Response:
        """Deletes a payment; its row stays as evidence."""
        await self._delete(request, client, id)
        return Response(204, [])

    async def consume_oldest(self, request: Request, client: str) -> Response:
        """Consumes the oldest inserted payments and answers with them."""
        key = _idempotency_key(request)
        limit = models.decode(_json_body(request), ConsumptionRequest).limit
        call = Dequeue(client, key, limit, self._settings.page_limit_bytes)
        consumed = await self._queue.consume(call)
        replayed = consumed.first_limit is not None
        if replayed and consumed.first_limit != limit:
            raise IdempotencyKeyReused(
                f"This Idempotency-Key was used with the `limit` {consumed.first_limit},"
                f" not {limit}."
            )
        if replayed:
            metrics.idempotent_replays.inc()
        else:
            metrics.payments_consumed.inc(len(consumed.payments))
        body = models.encode_items(consumed.payments)
        return _marked(Response(200, [JSON], body), replayed)

    # The old routes

    async def legacy_create(self, request: Request, client: str) -> Response:
        """Creates a payment out of whatever an old client sends."""
        new = models.decode(_json_body(request), LegacyNewPayment)
        value, document = models.value(new.payment), models.document(new.data)
        created = await self._create(request, client, new.status, value, document)
        return _answer(created.payment, replayed=created.replayed, old=True)

    async def legacy_list(self, request: Request, client: str) -> Response:
        """Streams all payments."""
        page = Page(lists.STREAM_FIRST_ROWS, lists.STREAM_BYTES)
        async with self._database.connection() as connection:
            first = await queries.list_page(connection, page)
        pages = lists.pages(self._database, request, page, *first)
        body = None if request.head else lists.array(pages)
        return Response(200, [JSON], body, compress=True)

    async def legacy_update(self, request: Request, client: str, id: int) -> Response:
        """Sets a payment's status; to consume it again changes nothing."""
        change = models.decode(_json_body(request), StatusChange)
        if change.status == "inserted":
            return _answer(await self._leave_inserted(request, id), old=True)
        return _answer((await self._consume(request, client, id, None)).payment, old=True)

    async def legacy_delete(self, request: Request, client: str, id: int) -> Response:
        """Deletes a payment and answers with what it was."""
        return _answer(await self._delete(request, client, id), old=True)

    async def legacy_status(self, request: Request, client: str) -> Response:
        """Says that the process answers, as the old healthcheck did."""
        return Response(200, [(b"content-type", b"text/plain")], b"ok")

    # Health

    async def live(self, request: Request, client: str) -> Response:
        """Says that the process answers. Asks nothing else: a restart mends no database."""
        return Response(200, [JSON], b'{"status":"live"}')

    async def ready(self, request: Request, client: str) -> Response:
        """Says whether this process should be sent requests."""
        if self.draining:
            raise NotReady("The service is shutting down.")
        await self._probe.check()
        if not self._warmed:
            self._warmed = True
            await self._database.warm()
        return Response(200, [JSON], b'{"status":"ready"}')

    def close(self) -> None:
        """Lets go of the readiness check's connection."""
        self._probe.close()

    # What the versions share

    async def _create(
        self, request: Request, client: str, status: Status, value: str | None, document: str
    ) -> Created:
        key = _idempotency_key(request)
        created = await self._creations.submit(Creation(client, key, status, value, document))
        if not created.matches:
            id = created.payment.id
            raise IdempotencyKeyReused(
                f"This Idempotency-Key created payment {id}, from another body.",
                {"payment_id": id},
            )
        if created.replayed:
            metrics.idempotent_replays.inc()
        return created

    async def _find(self, id: int) -> Payment:
        return _existing(await self._reads.submit(id), id)

    async def _leave_inserted(self, request: Request, id: int) -> Payment:
        payment = await self._find(id)
        _check_conditions(request, payment)
        if payment.status != "inserted":
            raise StatusConflict(f"Payment {id} is consumed and cannot become inserted again.")
        return payment

    async def _consume(self, request: Request, client: str, id: int, key: str | None) -> _Consumed:
        changed = None
        conditional = _is_conditional(request)
        if not conditional:
            changed = await self._consumptions.submit(Consumption(client, id, key, None))
        while changed is None:
            found = await self._reads.submit(id)
            if found is not None and found.is_consumed_with(client, key):
                metrics.idempotent_replays.inc()
                return _Consumed(found.as_consumed(), replayed=True)
            payment = _existing(found, id)
            _check_conditions(request, payment)
            if payment.status == "consumed":
                return _Consumed(payment, before=True)
            unchanged_since = payment.updated_at if conditional else None
            consumption = Consumption(client, id, key, unchanged_since)
            changed = await self._consumptions.submit(consumption)
            if changed is None:
                # Another caller was faster, or holds it: look again, until the time is up.
                await asyncio.sleep(LOCKED_PAUSE_SECONDS)
        return _Consumed(changed)

    async def _delete(self, request: Request, client: str, id: int) -> Payment:
        deleted = None
        conditional = _is_conditional(request)
        while deleted is None:
            payment = await self._find(id)
            _check_conditions(request, payment)
            unchanged_since = payment.updated_at if conditional else None
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


def _idempotency_key(request: Request) -> str | None:
    key = request.header(b"idempotency-key")
    if key is None:
        return None
    return parameters.parse_printable("Idempotency-Key", key, models.IDEMPOTENCY_KEY_LENGTH)


def _answer(
    payment: Payment, status: int = 200, *, replayed: bool = False, old: bool = False
) -> Response:
    headers = [JSON, (b"etag", payment.etag.encode())]
    body = models.encode(LegacyPayment.of(payment) if old else payment)
    return _marked(Response(status, headers, body), replayed)


def _marked(response: Response, replayed: bool) -> Response:
    if replayed:
        response.headers.append((b"idempotent-replayed", b"true"))
    return response


def _existing(found: Found | None, id: int) -> Payment:
    if found is None or found.deleted:
        raise PaymentNotFound(f"There is no payment {id}.")
    return found.payment


def _already_consumed(payment: Payment) -> AlreadyConsumed:
    return AlreadyConsumed(
        f"Payment {payment.id} was consumed by {payment.consumed_by}.",
        {"consumed_at": payment.consumed_at, "consumed_by": payment.consumed_by},
    )


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


def _is_conditional(request: Request) -> bool:
    return b"if-match" in request.headers or b"if-none-match" in request.headers


def _check_if_match(request: Request, payment: Payment) -> None:
    tags = request.header(b"if-match")
    if tags is not None and not _names(tags, payment.etag, weak=False):
        raise PreconditionFailed(f"Payment {payment.id} has the ETag {payment.etag}.")


def _check_conditions(request: Request, payment: Payment) -> None:
    """Checks what a write depends on (RFC 9110, section 13.1)."""
    _check_if_match(request, payment)
    tags = request.header(b"if-none-match")
    if tags is not None and _names(tags, payment.etag, weak=True):
        raise PreconditionFailed(
            f"Payment {payment.id} has the ETag {payment.etag}, which If-None-Match excludes."
        )
