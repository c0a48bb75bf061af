"""Load at a constant rate of arrival, from inside the cluster; needs nothing but Python.

Runs in a pod of the service's own image until SIGTERM, then prints what it saw as one line of JSON.
A request is sent when its time has come, whether or not the earlier ones were answered, and its
latency counts from that time. Nothing is ever tried again. Half of the requests create a payment,
half read one; half go over connections that are kept, half over a new one each.

Settings are environment variables: LOAD_HOST, LOAD_PORT, LOAD_KEY, LOAD_RATE (requests a second).
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter, deque
from itertools import count
from typing import NamedTuple

HOST, PORT = os.environ.get("LOAD_HOST", ""), int(os.environ.get("LOAD_PORT", "80"))
KEY, RATE = os.environ.get("LOAD_KEY", ""), float(os.environ.get("LOAD_RATE", "0"))
RUN = str(time.time_ns())  # makes each run's Idempotency-Keys its own

# The service answers within 5 s, or says that it cannot; more is a request that hangs.
TIMEOUT_SECONDS = 10

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    closes: bool


class Load:
    """The requests of one run."""

    def __init__(self) -> None:
        self.latencies: dict[str, list[float]] = {"kept": [], "new": []}
        self.statuses: Counter[str] = Counter()
        self.failures: list[str] = []
        self.created: list[int] = []
        self.connections = 0
        self._idle: deque[Connection] = deque()
        self._numbers = count()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Sends until it is stopped, then waits for what is under way."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopped.set)
        began = loop.time()
        async with asyncio.TaskGroup() as requests:
            while not self._stopped.is_set():
                number = next(self._numbers)
                due = began + number / RATE
                await asyncio.sleep(due - loop.time())
                requests.create_task(self._send(number, due))

    async def _send(self, number: int, due: float) -> None:
        loop = asyncio.get_running_loop()
        kept = number % 4 < 2
        creates = number % 2 == 0 or not self.created
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                answer = await self._exchange(self._request(number, creates), kept)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            self._fail(number, kept, creates, f"{type(error).__name__} {error}".strip())
            return
        self.latencies["kept" if kept else "new"].append(loop.time() - due)
        self.statuses[str(answer.status)] += 1
        if answer.status != (201 if creates else 200):
            self._fail(number, kept, creates, f"status {answer.status} {answer.body[:200]!r}")
        elif creates:
            self.created.append(json.loads(answer.body)["id"])

    def _fail(self, number: int, kept: bool, creates: bool, reason: str) -> None:
        what = f"{'create' if creates else 'read'} over a {'kept' if kept else 'new'} connection"
        self.failures.append(f"after {number / RATE:.1f} s, {what}: {reason}")

    def _request(self, number: int, creates: bool) -> bytes:
        head = f"Host: {HOST}\r\nAuthorization: Bearer {KEY}\r\n"
        if not creates:
            payment = self.created[number * 7919 % len(self.created)]
            return f"GET /v1/payments/{payment} HTTP/1.1\r\n{head}\r\n".encode()
        body = json.dumps({"payment": 12.5, "data": {"order": number}})
        return (
            f"POST /v1/payments HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
            f"Idempotency-Key: {RUN}-{number}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    async def _exchange(self, request: bytes, kept: bool) -> Answer:
        reader, writer = await self._connection(kept)
        try:
            writer.write(request)
            answer = await _read(reader)
        except BaseException:
            writer.transport.abort()
            raise
        if kept and not answer.closes:
            self._idle.append((reader, writer))
        else:
            writer.close()
        return answer

    async def _connection(self, kept: bool) -> Connection:
        while kept and self._idle:
            # The one that was idle longest, so that all of them are used.
            reader, writer = self._idle.popleft()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        self.connections += 1
        return await asyncio.open_connection(HOST, PORT)


async def _read(reader: asyncio.StreamReader) -> Answer:
    """Reads one answer.

    Raises:
        EOFError: the connection ended before the answer did.
        ValueError: it is no answer.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines if line)
    body = await reader.readexactly(int(fields["content-length"]))
    return Answer(int(first.split()[1]), body, fields.get("connection") == "close")


def _percentiles(latencies: list[float]) -> dict[str, float]:
    """Returns what they are in milliseconds."""
    ordered = sorted(latencies)
    return {
        name: round(1000 * ordered[int(share * (len(ordered) - 1))], 2)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1))
    }


def main() -> None:
    """Runs the load and prints its result."""
    load = Load()
    asyncio.run(load.run())
    both = [latency for latencies in load.latencies.values() for latency in latencies]
    json.dump(
        {
            "requests": len(both) + sum("status" not in failure for failure in load.failures),
            "connections": load.connections,
            "statuses": load.statuses,
            "failures": load.failures,
            "latency": _percentiles(both),
            **{f"latency_{name}": _percentiles(some) for name, some in load.latencies.items()},
            "created": load.created,
        },
        sys.stdout,
    )
    print()


if __name__ == "__main__":
    main()
