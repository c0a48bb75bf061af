"""The HTTP protocol: uvicorn's, with a limit on everything that a client can do to a connection."""

import asyncio
import contextvars
import logging
import socket
import struct
from itertools import chain
from typing import Any, ClassVar, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from payments import metrics, request_head, telemetry
from payments.config import Settings
from payments.errors import (
    MEDIA_TYPE,
    HeadersTooLarge,
    MalformedRequest,
    Problem,
    RequestTimeout,
)
from payments.messages import NO_STORE, Headers

_logger = logging.getLogger(__name__)

# A socket that is closed with unread bytes sends a reset, which can destroy an answer that the
# client has not read yet. What still comes is discarded this long, many round trips, first.
_LINGER_SECONDS = 1.0

# What stands around a method and an address (two spaces, "HTTP/1.1", two line ends), and around
# a field's name and value (": " and a line end).
_REQUEST_LINE_BYTES = 14
_FIELD_BYTES = 4


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection, with a limit on everything that a client can do to it.

    A request has a head, then a body, and both have a deadline; each timer is made only if
    what it guards did not arrive in one piece, so that a usual request makes none. What is
    refused here never reaches the application.
    """

    settings: ClassVar[Settings]

    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _discarding = False  # Nothing more is parsed: the connection is about to close.
    _refusal: Problem | None = None  # Waits for the answers of earlier, pipelined requests.
    _running: RequestResponseCycle | None = None
    _in_body = False
    _keep_alive = True
    _idle_since = 0.0  # When the last answer ended, on the loop's clock.
    _pending_bytes = 0  # Read since the parser last finished a head, a piece of body, a request.
    _chunk_bytes = 0
    _unread_bytes = 0
    _unfinished_line = b""  # What came of a head's last line, where a head comes in pieces.

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.lingering_transport = cast("asyncio.Transport", _LingeringTransport(self))
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        self._cancel_write_timer()
        self._unset_keepalive_if_required()
        self._discarding = True
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells only the newest of pipelined requests.
            _disconnect(self._running)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self._chunk_bytes = len(data)
        self._pending_bytes += self._chunk_bytes
        line = self._unfinished_line + data
        if request_head.is_rtsp(line):
            self._refuse(MalformedRequest("This is a request in RTSP, not in HTTP/1.1."))
            return
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(self._problem(error))
            return
        self._unfinished_line = b""
        if self._pending_bytes > self.settings.header_limit_bytes:
            # A field reaches on_header only when it is whole, so that here alone one is seen
            # that never ends. Chunk extensions and empty lines are caught as well.
            self._refuse(self._headers_too_large())
        elif self._in_body:
            if self._timer is None:
                self._expect_body()
        elif self._in_head or self._pending_bytes:
            line = line[-self.settings.header_limit_bytes :]
            self._unfinished_line = line.rpartition(b"\n")[2]
            if self._timer is None:
                self._expect_head()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Lets a client that has shut down its sending half have its answers; then closes."""
        if not self._discarding and (self._in_head or self._in_body):
            self._refuse(MalformedRequest("The connection ended before the request did."))
        running = self._running
        if running is None or running.response_complete or running.disconnected:
            self._close()
        elif self._refusal is None:  # which closes as well, after the answers before it
            self.cycle.keep_alive = False  # the newest of pipelined requests
        return True

    def _feed(self, data: bytes | memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # The parser takes every Upgrade to be accepted and what follows to be no HTTP: a
                # body would be read as the next request. So it reads the head again, without it.
                data = memoryview(data)[upgrade.args[0] :]
                self.parser.feed_data(self._head_without_upgrade())
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    # The parser's callbacks; on Python 3.11 super() would cost each request 1 µs more

    def on_header(self, name: bytes, value: bytes) -> None:
        # The parser leaves white space after a value (RFC 9112, section 5.1).
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        settings = self.settings
        if (
            # At most this many bytes can be the head, nearly always few enough not to count them.
            self._pending_bytes + self._chunk_bytes > settings.header_limit_bytes
            or len(self.headers) > settings.header_limit_fields
        ):
            self._check_fields(self.headers)
        version = self.parser.get_http_version()
        fields = request_head.check(version, self.headers)
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise MalformedRequest("CONNECT is for proxies.")
            return  # See _feed.
        if self.parser.get_method() == b"SOURCE":
            # httptools takes ICE for HTTP, with this method alone.
            raise MalformedRequest("SOURCE is for media streams.")
        if b"#" in self.url:
            raise MalformedRequest("The request's address has a fragment.")
        # HTTP/1.0 does not know it (RFC 9110, section 10.1.1). Other expectations are not met.
        self.expect_100_continue = (
            fields.get(b"expect", b"").lower() == b"100-continue"
            and version == "1.1"
            and (b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0")
        )
        if not self.url.startswith(b"/"):
            self.url = _origin_form(self.url)
        if self._timer is not None:
            self._cancel_timer()
        self._in_body = True
        self._pending_bytes = 0
        self._begin()
        # Trailers would otherwise be added to the headers that the application sees.
        self.headers = []

    def _begin(self) -> None:
        """Starts the application on the request, or has it wait for those before it."""
        path, _, query = self.url.partition(b"?")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["path"] = request_head.path(path)
        self.scope["raw_path"] = path
        self.scope["query_string"] = query
        existing: RequestResponseCycle | None = self.cycle
        version = self.parser.get_http_version()
        if version != "1.1":
            self.scope["http_version"] = version
        self._keep_alive = version == "1.1" and self.parser.should_keep_alive()
        self.cycle = _Cycle(self)
        if existing is None or existing.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        self._pending_bytes = 0
        HttpToolsProtocol.on_body(self, body)

    def on_message_complete(self) -> None:
        if not self._in_body:
            return  # See _feed.
        if self.headers:
            self._check_fields([*self.scope["headers"], *self.headers])
        if self._timer is not None:
            self._cancel_timer()
        self._in_body = False
        self._pending_bytes = 0
        cycle = self.cycle
        if not cycle.response_started:
            cycle.keep_alive = self._keep_alive
            cycle.transport = self.transport
        HttpToolsProtocol.on_message_complete(self)

    def _problem(self, error: httptools.HttpParserError) -> Problem:
        """Returns what was raised in a callback of the parser, or why it rejects the request."""
        cause = error.__context__
        if isinstance(cause, Problem):
            return cause
        if cause is not None and not isinstance(cause, httptools.HttpParserError):
            _logger.error("The server could not take a request", exc_info=cause)
        return request_head.refusal(str(error), self.parser.get_http_version())

    def _check_fields(self, fields: list[tuple[bytes, bytes]]) -> None:
        size = len(self.parser.get_method()) + len(self.url) + _REQUEST_LINE_BYTES
        size += sum(map(len, chain(*fields))) + len(fields) * _FIELD_BYTES
        settings = self.settings
        if size > settings.header_limit_bytes or len(fields) > settings.header_limit_fields:
            raise self._headers_too_large()

    def _headers_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            f"A request may have {self.settings.header_limit_bytes} bytes"
            f" and {self.settings.header_limit_fields} fields of headers."
        )

    # Deadlines

    @property
    def _in_head(self) -> bool:
        # uvicorn makes a scope at a request's first byte, and a cycle when its head is whole.
        return self.scope is not getattr(self.cycle, "scope", None)

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(self.settings.header_timeout_seconds, self._head_is_late)

    def _expect_body(self) -> None:
        self._timer = self.loop.call_later(self.settings.body_timeout_seconds, self._body_is_late)

    def _head_is_late(self) -> None:
        self._timer = None
        if self.flow.read_paused:
            # Earlier requests keep the connection from being read; that is not the client's fault.
            self._expect_head()
        elif self._in_head:
            seconds = self.settings.header_timeout_seconds
            self._refuse(RequestTimeout(f"The headers did not arrive within {seconds:g} s."))
        elif self._running is None or self._running.response_complete:
            self._close()

    def _body_is_late(self) -> None:
        self._timer = None
        seconds = self.settings.body_timeout_seconds
        self._refuse(RequestTimeout(f"The body did not arrive within {seconds:g} s."))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Answers that the application does not give

    def _refuse(self, problem: Problem) -> None:
        """Answers the request that is arriving, once those before it are answered; then closes."""
        self._discarding = True
        self._cancel_timer()
        if self._in_body and self.cycle is self._running:
            _disconnect(self.cycle)
            if self.cycle.response_started:
                self.linger()
                return
        elif self._in_body:
            self.pipeline.popleft()
        running = self._running
        if running is None or running.response_complete or running.disconnected:
            self._answer(problem)
        else:
            self._refusal = problem

    def _answer(self, problem: Problem) -> None:
        if self.transport.is_closing():
            return
        metrics.refusals.labels(problem.reason).inc()
        # Outside the request before it, at whose end this may be, so not under its id.
        contextvars.Context().run(
            telemetry.observe, metrics.OTHER_METHOD, "", problem.status, 0.0, None
        )
        body = problem.body()
        own = {
            **problem.headers,
            "content-type": MEDIA_TYPE,
            "content-length": str(len(body)),
            "cache-control": NO_STORE.decode(),
            "connection": "close",
        }
        fields = self.server_state.default_headers + [
            (name.encode(), value.encode()) for name, value in own.items()
        ]
        lines = [b"%b: %b\r\n" % field for field in fields]
        self.transport.write(b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", body]))
        self.linger()

    # The end of an answer

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        task = self.loop.create_task(cycle.run_asgi(app))
        cast("_Cycle", cycle).task = task
        self.tasks.add(task)

    def on_response_complete(self) -> None:
        if self._discarding and not self.pipeline and not self.transport.is_closing():
            self.server_state.total_requests += 1
            if self._refusal is not None:
                self._answer(self._refusal)
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._close()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._expect_request(self.timeout_keep_alive)

    def linger(self) -> None:
        """Closes, but so that a client that is still sending can read its answer."""
        if self.transport.is_closing():
            return
        self._discarding = True
        self._cancel_timer()
        self.flow.resume_reading()
        self.transport.write_eof()
        self._timer = self.loop.call_later(_LINGER_SECONDS, self._close)

    def _expect_request(self, seconds: float) -> None:
        # It stays when a request arrives, and is then found to be early: much cheaper than to make
        # one for each request and cancel it.
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._in_head or self._pending_bytes or not self.cycle.response_complete:
            return  # Made anew at the end of the answer.
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._expect_request(left)
        else:
            self._close()

    def _close(self) -> None:
        """Closes, within the write timeout also if the client does not take what is left."""
        self.transport.close()
        if self._write_timer is None and self.transport.get_write_buffer_size():
            self._expect_reader()

    def shutdown(self) -> None:
        self._keep_alive = False
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    # A client that does not read

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._expect_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_write_timer()
        if self.transport.is_closing():
            self._close()

    def _expect_reader(self) -> None:
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(
            self.settings.write_timeout_seconds, self._reader_is_late
        )

    def _reader_is_late(self) -> None:
        # A large answer may be one write, that a slow client takes for longer; but not byte by
        # byte: it must take what a stream, that waits at this mark, would make it take.
        taken = self._unread_bytes - self.transport.get_write_buffer_size()
        if taken >= HIGH_WATER_LIMIT:
            self._expect_reader()
        else:
            self.transport.abort()

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


class _Cycle(RequestResponseCycle):
    """One request and its answer, as uvicorn has it, but for what an answer costs.

    The head waits for the first piece of the body, so that a usual answer is one write. The
    application is ours: it sends a start, then bodies, and headers that it has checked itself.
    """

    task: asyncio.Task[None]
    _head = b""

    def __init__(self, protocol: LimitedProtocol) -> None:
        super().__init__(
            scope=protocol.scope,
            # Unless the body is whole before the answer begins, it is the connection's last.
            transport=protocol.lingering_transport,
            keep_alive=False,
            flow=protocol.flow,
            logger=protocol.logger,
            access_logger=protocol.access_logger,
            access_log=False,
            default_headers=protocol.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=protocol.expect_100_continue,
            on_response=protocol.on_response_complete,
        )
        self.tasks = protocol.tasks

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Runs the application, whose only failure that gets here is a stream that broke off."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            _logger.exception("An answer broke off")
            if self.chunked_encoding:  # its end is missing
                self.transport.close()
            else:
                _reset(self.transport)
        finally:
            self.tasks.discard(self.task)

    async def send(self, message: Any) -> None:
        """Takes the start, or a piece of the body."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            self.response_started = True
            self.waiting_for_100_continue = False
            self._head = self._make_head(message["status"], message["headers"])
            return
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            body = b""
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        self.transport.write(self._head + body)
        self._head = b""
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _make_head(self, status: int, headers: Headers) -> bytes:
        lines = [STATUS_LINE[status]]
        sized = status in (204, 304)
        for name, value in chain(self.default_headers, headers):
            if name == b"connection":  # the application never says anything but close
                self.keep_alive = False
                continue
            sized = sized or name == b"content-length"
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if not sized:
            # For HTTP/1.0 the end of the connection is the end of the body (RFC 9112, section 6.1).
            version = self.scope["http_version"]
            self.chunked_encoding = self.scope["method"] != "HEAD" and version == "1.1"
            if self.chunked_encoding:
                lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)


class _LingeringTransport:
    """What uvicorn answers through while a request is still arriving: it lingers to close."""

    def __init__(self, protocol: LimitedProtocol) -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.linger


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Lets the application see a disconnect, and drops what it sends from now on."""
    cycle.disconnected = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()


def _reset(transport: asyncio.Transport) -> None:
    """Closes with a reset: an orderly end would be that of an answer without a length."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _origin_form(url: bytes) -> bytes:
    """Returns `/path?query` of an absolute URL, which RFC 9112, section 3.2.2 makes us accept.

    Raises:
        httptools.HttpParserInvalidURLError: it is none.
    """
    if url == b"*":
        return url
    parsed = httptools.parse_url(url)
    return (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")


def limited(settings: Settings) -> type[LimitedProtocol]:
    """Returns the protocol with these limits, for uvicorn to make one of for each connection."""
    return type("LimitedProtocol", (LimitedProtocol,), {"settings": settings})
