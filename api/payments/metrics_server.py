"""The port of `/metrics`: a server of its own, in a thread of its own."""

import contextlib
import logging
import socket
import sys
import threading
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from payments import __version__, metrics
from payments.config import Settings
from payments.server import listen

_logger = logging.getLogger(__name__)

# A scrape has one, for some milliseconds. Each costs a thread, and a pod may have 64 of these.
CONNECTIONS_LIMIT = 16


class _Handler(WSGIRequestHandler):
    timeout = 5  # seconds that one read or write may wait: Prometheus sends its request at once

    def log_message(self, format: str, *args: Any) -> None:
        """Logs no requests."""


class _Server(ThreadingWSGIServer):
    """Answers each connection in a thread; a new one takes the place of the oldest."""

    def __init__(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        super().__init__((host, port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = host, port
        self.setup_environ()
        self.set_app(make_wsgi_app())
        self._lock = threading.Lock()
        self._open: dict[socket.socket, None] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begins to answer a connection."""
        with self._lock:
            if len(self._open) >= CONNECTIONS_LIMIT:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):  # its client has gone
                    oldest.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs a mistake of ours, but not that a client sent no request, or did not wait."""
        if not isinstance(error := sys.exception(), OSError):
            _logger.error("/metrics could not be answered", exc_info=error)


def serve(settings: Settings) -> WSGIServer:
    """Serves `/metrics` from a thread of its own; returns the server.

    Raises:
        SettingsError: the address is taken or impossible; the message names the variable.
    """
    metrics.build_info.labels(__version__, settings.revision).set(1)
    server = _Server(listen(settings, "metrics_port"))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
