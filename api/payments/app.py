"""The route table, and what happens to every request, in order."""

import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import asyncpg

from payments import auth, docs, encoding, logs, metrics, queries, telemetry, tracing
from payments.config import Settings
from payments.db import Database
from payments.deadline import Deadline
from payments.errors import (
    MEDIA_TYPE,
    BodyTooLarge,
    DatabaseUnavailable,
    InternalError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    Problem,
    UnsupportedMediaType,
)
from payments.handlers import Handlers
from payments.messages import Body, Headers, Request, Response

ANONYMOUS = "anonymous"

# The old routes: since when they are deprecated (RFC 9745), when they end (RFC 8594), and what is
# there instead (RFC 5829).
DEPRECATION = "@1795478400"
SUNSET = "Tue, 30 Nov 2027 00:00:00 GMT"
OLD_ROUTE_HEADERS = (
    (b"deprecation", DEPRECATION.encode()),
    (b"sunset", SUNSET.encode()),
    (b"link", b'</v1/payments>; rel="successor-version"'),
)

# What a log line and a metric say of a request whose caller did not wait for the answer; the code
# is nginx's.
CALLER_LEFT = 499

_ID = re.compile(r"[1-9][0-9]{0,18}")

_logger = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[..., Awaitable[Response]]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Route(NamedTuple):
    """One method of one address, who may call it, and what it does."""

    method: str
    path: str
    scope: str | None  # None: no key is needed
    handler: Handler
    old: bool = False


def routes(handlers: Handlers) -> list[Route]:
    """Returns the route table; `{id}` is a payment's id, `{asset}` is any other last part."""
    one = "/v1/payments/{id}"
    return [
        Route("POST", "/v1/payments", auth.WRITE, handlers.create),
        Route("GET", "/v1/payments", auth.READ, handlers.list),
        Route("GET", one, auth.READ, handlers.read),
        Route("PATCH", one, auth.WRITE, handlers.update),
        Route("DELETE", one, auth.DELETE, handlers.delete),
        Route("POST", "/v1/consumptions", auth.WRITE, handlers.consume_oldest),
        Route("POST", "/create", auth.WRITE, handlers.legacy_create, old=True),
        Route("PUT", "/update/{id}", auth.WRITE, handlers.legacy_update, old=True),
        Route("GET", "/list", auth.READ, handlers.legacy_list, old=True),
        Route("DELETE", "/delete/{id}", auth.DELETE, handlers.legacy_delete, old=True),
        Route("GET", "/status", None, handlers.legacy_status, old=True),
        Route("GET", "/livez", None, handlers.live),
        Route("GET", "/readyz", None, handlers.ready),
        Route("GET", "/openapi.json", None, docs.answer_openapi),
        Route("GET", "/docs", None, docs.answer_page),
        Route("GET", "/docs/{asset}", None, docs.answer_asset),
    ]


# For people, and therefore not in the contract.
ROOT = Route("GET", "/", None, docs.answer_root)


def _table(routes: Iterable[Route]) -> dict[tuple[str, str], dict[str, Route]]:
    """Returns the routes by what comes before a parameter, the parameter, and the method."""
    table: dict[tuple[str, str], dict[str, Route]] = {}
    for route in routes:
        parent, _, parameter = route.path.partition("/{")
        table.setdefault((parent, parameter), {})[route.method] = route
    return table


class Application:
    """The ASGI application."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings)
        self._keys = auth.Keys(self._database, settings.key_refresh_seconds)
        self._handlers = Handlers(settings, self._database)
        self._deadline = Deadline(settings.request_timeout_seconds)
        self._active = 0
        self.routes = routes(self._handlers)
        self._table = _table([*self.routes, ROOT])
        self._old_paths = tuple(route.path.split("{")[0] for route in self.routes if route.old)

    def drain(self) -> None:
        """Makes `/readyz` answer 503 and every answer close its connection."""
        self._handlers.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        started = time.perf_counter()
        request = _request(scope, receive)
        span = tracing.begin(request.headers)
        status = CALLER_LEFT
        metrics.Active.requests += 1
        try:
            response = await self._respond(request)
            if response is not None:
                status = response.status
                await self._send(request, response, send)
        finally:
            metrics.Active.requests -= 1
            seconds = time.perf_counter() - started
            telemetry.observe(
                scope["method"], request.route, status, seconds, request.client, span=span
            )

    async def _respond(self, request: Request) -> Response | None:
        """Returns the answer, whatever goes wrong, or None if the caller has left before it."""
        try:
            return await self._answer(request)
        except Exception as error:
            return _failure(request, error)

    async def _answer(self, request: Request) -> Response | None:
        """Asks for a body only when nothing but the body can be wrong any more.

        The time of the key check is limited, then the server limits the time of the body, then
        that of the handler is limited.
        """
        route, arguments = self._find(request.method, request.path)
        request.route = route.path
        client = await self._in_time(route, self._authenticate, request, route)
        body = await self._read_body(request)
        if body is None:
            return None
        request.body = body
        return await self._in_time(route, route.handler, request, client, *arguments)

    async def _in_time(
        self, route: Route, step: Callable[..., Awaitable[T]], *arguments: object
    ) -> T:
        # A body that does not arrive is not counted: it costs nothing but its connection.
        if self._active >= self._settings.active_requests_limit and route.scope is not None:
            raise Overloaded("Too many requests are being answered; nothing was changed.")
        self._active += 1
        try:
            with self._deadline:
                return await step(*arguments)
        finally:
            self._active -= 1

    async def _authenticate(self, request: Request, route: Route) -> str:
        """Returns the caller's name."""
        client = ANONYMOUS
        if route.scope is not None:
            if self._settings.authentication:
                header = request.header(b"authorization")
                client = await self._keys.authenticate(header, route.scope)
            request.client = client
        if route.old:
            metrics.old_route_calls.labels(route.path, client).inc()
        return client

    async def _read_body(self, request: Request) -> bytes | None:
        """Returns the whole body, or None if the caller has gone; the server limits its time."""
        limit = self._settings.body_limit_bytes
        length = int(request.headers.get(b"content-length", b"0"))
        if length > limit:
            raise BodyTooLarge(f"The body must be at most {limit} bytes.")
        if length or b"transfer-encoding" in request.headers:
            coding = request.headers.get(b"content-encoding", b"")
            # `identity` names no coding (RFC 9110, section 8.4.1).
            if coding.lower() not in (b"", b"identity"):
                raise UnsupportedMediaType(
                    "Send the body as it is, without Content-Encoding.", Accept_Encoding="identity"
                )
        body = b""
        more = True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > limit:
                raise BodyTooLarge(f"The body must be at most {limit} bytes.")
            more = message.get("more_body", False)
        return body

    def _find(self, method: str, path: str) -> tuple[Route, tuple[int | str, ...]]:
        """Returns the route, and the arguments that stand in the path."""
        methods, arguments = self._find_methods(path)
        route = methods.get(method)
        if route is None:
            allowed = ", ".join(sorted(methods.keys() | ({"HEAD"} if "GET" in methods else set())))
            raise MethodNotAllowed(f"This address takes {allowed}.", Allow=allowed)
        return route, arguments

    def _find_methods(self, path: str) -> tuple[dict[str, Route], tuple[int | str, ...]]:
        """Returns what an address takes, by method, and the arguments that stand in it."""
        methods = self._table.get((path, ""))
        if methods is not None:
            return methods, ()
        parent, _, last = path.rpartition("/")
        methods = self._table.get((parent, "id}"))
        if methods is not None and (id := payment_id(last)) is not None:
            return methods, (id,)
        methods = self._table.get((parent, "asset}"))
        if methods is not None:
            return methods, (last,)
        raise NotFound(
            "No operation has this path. An id is a whole number from 1; a path has no `/` at its"
            " end."
        )

    async def _send(self, request: Request, response: Response, send: Send) -> None:
        headers = [
            *response.headers,
            (b"cache-control", response.cache),
            (b"x-request-id", request.id.encode()),
        ]
        body = response.body
        if response.compress:
            headers.append((b"vary", b"accept-encoding"))
            if encoding.accepts_gzip(request.headers.get(b"accept-encoding", b"")):
                body = await _compress(response, headers)
        if isinstance(body, bytes):
            headers.append((b"content-length", b"%d" % len(body)))
        if request.path.startswith(self._old_paths):  # so that 404, 405 and 413 say it too
            headers += OLD_ROUTE_HEADERS
        if self._handlers.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if body is None or isinstance(body, bytes):
            await send({"type": "http.response.body", "body": body or b""})
            return
        async with contextlib.aclosing(body):
            async for piece in body:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._database.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._handlers.close()
        await self._database.close()
        await send({"type": "lifespan.shutdown.complete"})


def payment_id(text: str) -> int | None:
    """Returns the id that stands in a path, a positive 64-bit number in its plain spelling."""
    if not _ID.fullmatch(text):
        return None
    id = int(text)
    return id if id <= queries.LAST_ID else None


def _request(scope: Scope, receive: Receive) -> Request:
    fields = scope["headers"]
    headers = dict(fields)
    if len(headers) < len(fields):
        # Lists: the server refuses others that are sent twice.
        headers = {}
        for name, value in fields:
            headers[name] = b"%b, %b" % (headers[name], value) if name in headers else value
    method = scope["method"]
    head = method == "HEAD"
    return Request(
        logs.take_request_id(headers.get(b"x-request-id")),
        "GET" if head else method,
        head,
        scope["path"],
        scope["query_string"].decode("latin-1"),
        headers,
        receive,
    )


async def _compress(response: Response, headers: Headers) -> Body:
    """Returns the body to send, and names its coding in the headers."""
    body = response.body
    if isinstance(body, bytes):
        if len(body) < encoding.SMALLEST_BYTES:
            return body
        body = response.compressed or await encoding.compress(body)
    elif body is not None:
        body = encoding.compress_pieces(body)
    headers.append((b"content-encoding", b"gzip"))
    return body


def _failure(request: Request, error: Exception) -> Response:
    """Returns the answer that tells the caller what went wrong, and logs what is our fault."""
    problem = _problem(error)
    metrics.refusals.labels(problem.reason).inc()
    if problem.status >= 500 and problem is error:
        fields = {"problem": problem.type, "cause": repr(problem.__cause__)}
        _logger.warning(problem.detail, extra={"fields": fields})
    headers = [(name.encode(), text.encode()) for name, text in problem.headers.items()]
    headers.append((b"content-type", MEDIA_TYPE.encode()))
    return Response(problem.status, headers, problem.body(request.id))


def _problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    # Input is checked before it gets to the database: where it is refused there all the same, to
    # try again would not help. Else the schema is not ours yet, or others came first.
    ours = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, ours):
        _logger.error("statement failed", exc_info=error)
        return DatabaseUnavailable("The database could not do this; nothing was changed.")
    _logger.error("unexpected error", exc_info=error)
    return InternalError("The service made a mistake; the log tells more under this request id.")
