"""The server: uvicorn, its connections limited, and with an orderly end."""

import asyncio
import errno
import gc
import logging
import os
import socket
from collections.abc import Awaitable
from types import FrameType
from typing import Any, Protocol

import uvicorn

from payments import protocol
from payments.config import Settings, SettingsError, variable

_logger = logging.getLogger(__name__)

# Connections that the kernel completes while the event loop is busy; uvicorn's own default.
_BACKLOG = 2048

# Whatever the address, it is the port that is taken, or that needs a privilege.
_OF_THE_PORT = (errno.EADDRINUSE, errno.EACCES)

# In every response, also those of the protocol. The load balancer ends TLS before the service. On a
# local machine, over plain HTTP, browsers ignore HSTS (RFC 6797, section 8.1).
_SECURITY_HEADERS = [
    ("strict-transport-security", "max-age=31536000"),  # a year
    ("x-content-type-options", "nosniff"),
]


def listen(host: str, port: int, port_variable: str) -> socket.socket:
    """Returns a socket that listens.

    Args:
        host: an address or a name; `::` is every address, of IPv4 too.
        port: 0 takes a free one.
        port_variable: the environment variable that has the port.

    Raises:
        SettingsError: the address is taken or impossible; the message names the variable.
    """
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=_BACKLOG,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        reason = _reason(error)
        if error.errno in _OF_THE_PORT:
            raise SettingsError(
                f"{port_variable}: cannot listen on {host}, port {port} ({reason}): choose another"
                " port"
            ) from None
        raise SettingsError(
            f"{variable('http_host')}: cannot listen on {host!r} ({reason}): name an address of"
            " this machine"
        ) from None


def _reason(error: OSError) -> str:
    # What Python adds repeats the address; below 0 are the resolver's own numbers.
    if (number := error.errno or 0) > 0:
        return os.strerror(number)
    return str(error.strerror).partition(" (while")[0]


class Application(Protocol):
    """An ASGI application that can be told that the server is about to stop."""

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]: ...

    def drain(self) -> None:
        """From now on /readyz answers 503 and every answer carries `Connection: close`."""


class Server(uvicorn.Server):
    """Serves an application until it is told to stop, then drains.

    Drain: the application is told at once and stops being ready; all is served on for
    `shutdown_delay_seconds`, until the load balancer has noticed; then no connection is
    accepted, what runs is finished, and the application's lifespan ends.
    """

    def __init__(self, app: Application, settings: Settings, listener: socket.socket) -> None:
        """Takes a listening socket, and closes it at the end."""
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                loop="uvloop",
                http=protocol.limited(settings),
                ws="none",
                lifespan="on",
                log_config=None,
                log_level=settings.log_level.lower(),
                access_log=False,
                server_header=False,
                headers=_SECURITY_HEADERS,
                proxy_headers=False,
                # uvicorn declares whole seconds, and only hands them on to asyncio.
                timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]
                timeout_graceful_shutdown=settings.shutdown_timeout_seconds,  # type: ignore[arg-type]
            )
        )
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._app = app
        self._settings = settings
        self._stops_asked = 0
        self._delay: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until the end of the drain."""
        self._loop = asyncio.get_running_loop()
        with self._listener:
            try:
                await super().serve([self._listener])
            finally:
                if self._delay is not None:
                    self._delay.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _logger.info("Listening on %s, port %d", self._settings.http_host, self.port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Takes a signal; not kept as uvicorn does, which would raise it again at the end."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.begin_shutdown)

    def begin_shutdown(self) -> None:
        """Begins the drain; the second call skips its delay, the third waits for nothing."""
        self._stops_asked += 1
        if self._stops_asked == 1:
            _logger.info("Draining for %g s", self._settings.shutdown_delay_seconds)
            self._app.drain()
            if self.started and self._loop is not None:
                self._delay = self._loop.call_later(
                    self._settings.shutdown_delay_seconds, self._stop
                )
                return
        self._stop()
        if self._stops_asked > 2:
            self.force_exit = True
            # An application that hangs in its own start or end is not waited for either.
            self.lifespan.startup_event.set()
            self.lifespan.shutdown_event.set()

    def _stop(self) -> None:
        self.should_exit = True


def run(app: Application, settings: Settings, listener: socket.socket) -> int:
    """Serves on uvloop until a signal; returns the process's exit status, 0 after a drain."""
    server = Server(app, settings, listener)
    # What was made so far stays; the garbage collector need not look at it again. And it looks for
    # cycles after 20,000 new objects, not 700: those of a batch under way are more than that, and
    # were a fifth of a creation's cost (docs/bottlenecks.md). One look takes a millisecond.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        server.run()
    except SystemExit as exit_:  # uvicorn's way to say that the lifespan failed, and logged why.
        return int(exit_.code or 0)
    return 1 if server.force_exit else 0
