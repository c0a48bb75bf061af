"""HTTP for callers that count: it says what is known about a request that got no answer."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

# The service promises an answer, whatever happens, 5 s after the whole request (10 s for one that
# never ends are its server's). What takes longer than this hangs: 2.5 s are for two busy cores.
HANGS_SECONDS = 7.5


class Answer(NamedTuple):
    """An answer, whole; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NotSent(Exception):
    """There was no connection to send the request on: it has no effect."""


class Unanswered(Exception):
    """The request may have been sent, and no whole answer came: nothing is known."""


class Hangs(Exception):
    """The connection stands, and no answer came within `HANGS_SECONDS`."""


class Connection:
    """One connection to one server, opened when it is needed; requests go one after the other."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._busy = False

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        patience_seconds: float | None = None,
    ) -> Answer:
        """Sends a request and returns its answer; hangs up when its patience is over.

        Raises:
            NotSent, Unanswered, Hangs: there is no answer.
        """
        head = [f"{method} {path} HTTP/1.1", "Host: payments", f"Content-Length: {len(body)}"]
        head += [f"{name}: {text}" for name, text in headers.items()]
        request = "\r\n".join([*head, "", ""]).encode() + body
        try:
            async with asyncio.timeout(patience_seconds or HANGS_SECONDS):
                return await self._exchange(request)
        except TimeoutError:
            if patience_seconds is None:
                raise Hangs(f"{method} {path}") from None
            raise Unanswered("the caller hung up") from None
        except NotSent:
            raise
        except (OSError, EOFError) as error:
            raise Unanswered(repr(error)) from error
        finally:
            if self._streams is not None and self._busy:
                self.close()

    async def _exchange(self, request: bytes) -> Answer:
        self._busy = True
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError as error:
                raise NotSent(repr(error)) from error
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in head[1:] if line)
        headers = {name.lower(): text for name, _, text in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self._busy = False
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(head[0].split()[1]), headers, body)

    def close(self) -> None:
        """Drops the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
