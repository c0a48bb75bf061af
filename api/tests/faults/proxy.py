"""A TCP proxy before PostgreSQL or before the service, to be cut in the ways that networks are."""

import asyncio
import contextlib
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

Direction = Literal["requests", "answers"]

_PIECE_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, for 0 s


class Proxy:
    """Forwards TCP connections to a unix socket or a local port; fails when it is told."""

    def __init__(self, target: Path | int, *, cut_every: int = 0) -> None:
        """With `cut_every` 10, the connection is reset in the middle of every tenth answer."""
        self.port = 0
        self.cuts = 0
        self._cut_every = cut_every
        self._answered = 0
        self._ends: set[StreamWriter] = set()
        self.switch(target)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        """Listens on a free port of 127.0.0.1 until the end of the block."""
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.reset()
            await server.wait_closed()

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._ends) // 2

    def reset(self) -> None:
        """Ends all connections with RST, on both sides, and what was under way in them."""
        for end in [*self._ends]:
            _reset(end)

    def blackhole(self, directions: Iterable[Direction] = ("requests", "answers")) -> None:
        """From now on nothing arrives in these directions, and nobody is told.

        What is sent meanwhile arrives late, as what TCP repeats does.
        """
        for direction in directions:
            self._flows[direction].clear()

    def heal(self) -> None:
        """Ends the blackhole."""
        for flow in self._flows.values():
            flow.set()

    def switch(self, target: Path | int) -> None:
        """Leads new connections to another server; those that there are stay as they are."""
        self._target = target
        self._flows: dict[Direction, asyncio.Event] = {
            "requests": asyncio.Event(),
            "answers": asyncio.Event(),
        }
        self.heal()

    async def _forward(self, caller_reads: StreamReader, caller_writes: StreamWriter) -> None:
        self._ends.add(caller_writes)
        flows = self._flows
        try:
            await flows["requests"].wait()
            server_reads, server_writes = await _connect(self._target)
        except OSError:
            _reset(caller_writes)
            self._ends.discard(caller_writes)
            return
        self._ends.add(server_writes)
        try:
            await asyncio.gather(
                _pump(flows["requests"], caller_reads, server_writes),
                _pump(flows["answers"], server_reads, caller_writes, self._is_cut),
            )
        finally:
            self._ends -= {caller_writes, server_writes}

    def _is_cut(self) -> bool:
        self._answered += 1
        cut = self._cut_every > 0 and self._answered % self._cut_every == 0
        self.cuts += cut
        return cut


async def _connect(target: Path | int) -> tuple[StreamReader, StreamWriter]:
    if isinstance(target, int):
        return await asyncio.open_connection("127.0.0.1", target)
    return await asyncio.open_unix_connection(target)


async def _pump(
    flow: asyncio.Event,
    source: StreamReader,
    sink: StreamWriter,
    is_cut: Callable[[], bool] = lambda: False,
) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(_PIECE_BYTES):
            await flow.wait()
            if sink.is_closing():
                return  # reset meanwhile
            if is_cut():
                sink.write(piece[: len(piece) // 2])
                await sink.drain()
                _reset(sink)
                return
            sink.write(piece)
            await sink.drain()
    await flow.wait()  # a blackhole swallows the end, too
    sink.close()


def _reset(end: StreamWriter) -> None:
    transport = end.transport
    if not transport.is_closing():
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
