"""The port of `/metrics`: a server of its own, in a thread of its own."""

import contextlib
import logging
import socket
import sys
import threading
from http.server import HTTPServer, ThreadingHTTPServer
from typing import Any

from prometheus_client import MetricsHandler

from payments import __version__, metrics
from payments.config import Settings, variable
from payments.server import listen

_logger = logging.getLogger(__name__)

# A scrape has one, for some milliseconds. Each costs a thread, and a pod may have 64 of these.
CONNECTIONS_LIMIT = 16


class _Handler(MetricsHandler):
    timeout = 5  # seconds that one read or write may wait: Prometheus sends its request at once


class _Server(ThreadingHTTPServer):
    """Answers each connection in a thread; a new one takes the place of the oldest."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
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


def serve(settings: Settings) -> HTTPServer:
    """Serves `/metrics` from a thread of its own; returns the server.

    Raises:
        SettingsError: the address is taken or impossible; the message names the variable.
    """
    metrics.build_info.labels(__version__, settings.revision).set(1)
    listener = listen(settings.http_host, settings.metrics_port, variable("metrics_port"))
    server = _Server(listener)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
