"""The route table, and what happens to every request, in order."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import asyncpg
import falcon
import falcon.asgi
from falcon.asgi import Request, Response
from falcon.routing import BaseConverter

from payments import auth, docs, telemetry
from payments.config import Settings
from payments.db import Database
from payments.errors import (
    MEDIA_TYPE,
    BodyTooLarge,
    DatabaseUnavailable,
    DeadlineExceeded,
    InternalError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    Problem,
)
from payments.handlers import Handlers

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

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})

_logger = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[None]]
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
    """Returns the route table."""
    one = "/v1/payments/{id:id}"
    return [
        Route("POST", "/v1/payments", auth.WRITE, handlers.create),
        Route("GET", "/v1/payments", auth.READ, handlers.list),
        Route("GET", one, auth.READ, handlers.read),
        Route("PATCH", one, auth.WRITE, handlers.update),
        Route("DELETE", one, auth.DELETE, handlers.delete),
        Route("POST", "/create", auth.WRITE, handlers.legacy_create, old=True),
        Route("PUT", "/update/{id:id}", auth.WRITE, handlers.legacy_update, old=True),
        Route("GET", "/list", auth.READ, handlers.legacy_list, old=True),
        Route("DELETE", "/delete/{id:id}", auth.DELETE, handlers.legacy_delete, old=True),
        Route("GET", "/status", None, handlers.legacy_status, old=True),
        Route("GET", "/livez", None, handlers.live),
        Route("GET", "/readyz", None, handlers.ready),
        Route("GET", "/openapi.json", None, docs.answer_openapi),
        Route("GET", "/docs", None, docs.answer_page),
        Route("GET", "/docs/{asset}", None, docs.answer_asset),
    ]


class Application:
    """The ASGI application."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings)
        self._keys = auth.Keys(self._database, settings.key_refresh_seconds)
        self._handlers = Handlers(settings, self._database)
        self._active = 0
        self.routes = routes(self._handlers)
        self._old_paths = tuple(route.path.split("{")[0] for route in self.routes if route.old)
        self._falcon = self._build()

    def drain(self) -> None:
        """Makes `/readyz` answer 503 and every answer close its connection."""
        self._handlers.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = telemetry.take_request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        status = 0
        # By its address alone, so that 404, 405 and 413 say it too.
        old = scope["path"].startswith(self._old_paths)

        async def observed_send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if "deadline" in inner:  # from here on the server limits the time
                    inner["deadline"].reschedule(None)
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                if old:
                    message["headers"] += OLD_ROUTE_HEADERS
                if self._handlers.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        # HEAD is GET; the server leaves the body of the answer out. Any method that is not in the
        # route table is routed as one that nothing takes: 405, with what the address does take.
        method = scope["method"]
        routed = "GET" if method == "HEAD" else method if method in METHODS else "TRACE"
        inner = {
            **scope,
            "method": routed,
            "head": method == "HEAD",
            "route": "",
            "client_name": None,
        }
        telemetry.active_requests.inc()
        try:
            body = await self._read_body(headers, receive)
            if body is not None:
                inner["body"] = body
                inner["gone"] = receive  # with the body read, it returns when the caller has left
                await self._route(inner, observed_send)
        except Exception as error:
            if status:  # too late to say anything else: the server breaks the connection off
                raise
            problem = error if isinstance(error, Problem) else _mistake(error)
            await _send_problem(problem, request_id, observed_send)
        finally:
            telemetry.active_requests.dec()
            seconds = time.perf_counter() - started
            telemetry.observe(method, inner["route"], status, seconds, inner["client_name"])

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """Returns the whole body, or None if the caller has gone; the server limits its time."""
        limit = self._settings.body_limit_bytes
        # Refused before the first byte where the caller says the size, so that one that sends
        # `Expect: 100-continue` does not send it at all.
        length = headers.get(b"content-length", b"0")
        body = b""
        more = True
        while more:
            if int(length) > limit or len(body) > limit:
                raise BodyTooLarge(f"The body must be at most {limit} bytes.")
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if len(body) > limit:
            raise BodyTooLarge(f"The body must be at most {limit} bytes.")
        return body

    async def _route(self, scope: Scope, send: Send) -> None:
        seconds = self._settings.request_timeout_seconds
        # Counted from here, because a body that does not arrive costs nothing but its connection.
        self._active += 1
        try:
            async with asyncio.timeout(seconds) as deadline:
                scope["deadline"] = deadline
                await self._falcon(scope, _no_body, send)
        except TimeoutError:
            del scope["deadline"]  # it is over, and the answer that says so has none
            raise DeadlineExceeded(
                f"The request was not answered within {seconds:g} s; it may or may not have taken"
                " effect. Repeat it, a creation with its Idempotency-Key."
            ) from None
        finally:
            self._active -= 1

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._database.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._handlers.close()
        await self._database.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _build(self) -> falcon.asgi.App[Request, Response]:
        app = falcon.asgi.App[Request, Response]()
        app.router_options.converters["id"] = IdConverter
        app.add_error_handler(Exception, _answer_mistake)
        app.add_error_handler(asyncpg.PostgresError, _answer_database_error)
        app.add_error_handler(falcon.HTTPError, self._answer_falcon_error)
        app.add_error_handler(Problem, _answer_problem)
        resources: dict[str, SimpleNamespace] = {}
        for route in self.routes:
            resource = resources.setdefault(route.path, SimpleNamespace())
            setattr(resource, f"on_{route.method.lower()}", self._responder(route))
        for path, resource in resources.items():
            app.add_route(path, resource)
        return app

    def _responder(self, route: Route) -> Handler:
        """Returns what happens to a request of this route, in order, before its handler."""
        template = re.sub(r":\w+", "", route.path)

        async def respond(request: Request, response: Response, **parameters: Any) -> None:
            request.scope["route"] = template
            client = ANONYMOUS
            if route.scope is not None:
                if self._active > self._settings.active_requests_limit:
                    raise Overloaded("Too many requests are being answered.")
                if self._settings.authentication:
                    header = request.get_header("Authorization")
                    client = await self._keys.authenticate(header, route.scope)
                request.scope["client_name"] = client
            if route.old:
                telemetry.old_route_calls.labels(template, client).inc()
            await route.handler(request, response, client, **parameters)

        return respond

    async def _answer_falcon_error(
        self,
        request: Request,
        response: Response,
        error: falcon.HTTPError,
        parameters: dict[str, Any],
    ) -> None:
        problem: Problem
        if isinstance(error, falcon.HTTPMethodNotAllowed):
            methods = {route.method for route in self.routes if route.path == request.uri_template}
            allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
            problem = MethodNotAllowed(f"This address takes {allowed}.", Allow=allowed)
        elif isinstance(error, falcon.HTTPNotFound):
            problem = NotFound("There is nothing at this address.")
        else:
            problem = _mistake(error)
        await _answer_problem(request, response, problem, parameters)


class IdConverter(BaseConverter):
    """A payment id in a path: a positive 64-bit number in its plain spelling, or else 404."""

    def convert(self, value: str) -> int | None:
        """Returns the id, or None."""
        if not re.fullmatch(r"[1-9][0-9]{0,18}", value):
            return None
        id = int(value)
        return id if id < 2**63 else None


async def _no_body() -> dict[str, Any]:
    # The body has been read; Falcon asks for it before it routes.
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send_problem(problem: Problem, request_id: str, send: Send) -> None:
    body = problem.body(request_id)
    headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
    await send(
        {
            "type": "http.response.start",
            "status": problem.status,
            "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _answer_problem(
    request: Request, response: Response, problem: Problem, parameters: dict[str, Any]
) -> None:
    if problem.status >= 500:
        fields = {"problem": problem.type, "cause": repr(problem.__cause__)}
        _logger.warning(problem.detail, extra={"fields": fields})
    response.status = problem.status
    response.content_type = MEDIA_TYPE
    for name, text in problem.headers.items():
        response.set_header(name, text)
    response.data = problem.body(telemetry.request_id.get())


async def _answer_database_error(
    request: Request, response: Response, error: asyncpg.PostgresError, parameters: dict[str, Any]
) -> None:
    """A statement that PostgreSQL refused: the schema is not ours yet, or others came first."""
    if isinstance(error, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError):
        # Input is checked before it gets there: to try again would not help.
        await _answer_mistake(request, response, error, parameters)
        return
    _logger.error("statement failed", exc_info=error)
    problem = DatabaseUnavailable("The database could not do this; nothing was changed.")
    await _answer_problem(request, response, problem, parameters)


async def _answer_mistake(
    request: Request, response: Response, error: Exception, parameters: dict[str, Any]
) -> None:
    await _answer_problem(request, response, _mistake(error), parameters)


def _mistake(error: Exception) -> InternalError:
    _logger.error("unexpected error", exc_info=error)
    return InternalError("The service made a mistake; the log tells more under this request id.")
