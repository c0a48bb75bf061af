"""The load test of a deployed service: a constant rate of arrival, thresholds, reconciliation.

    LOAD_KEY=… python staging.py URL [--rate 50] [--seconds 60] [--p99-ms 500]

A request is sent when its time has come, whether or not the earlier ones were answered, and its
latency counts from that time. Half of the requests create a payment, the others read one or consume
one. A creation without a clear answer is repeated with its Idempotency-Key once the load is over.
Then the service lists what it has: every accepted payment must be there, once, and everything that
was made is deleted. The key needs all three scopes. Not for production: it is real load.

It needs the standard library alone: the pipeline runs it beside credentials, where no package is
installed.
"""

import argparse
import asyncio
import json
import os
import secrets
import select
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

TIMEOUT_SECONDS = 10  # the service answers within 5 s, or says that it cannot; more hangs
SETTLE_SECONDS = 60  # for creations in doubt, so that a rolling update or a failover can end
AT_ONCE = 10  # requests when time does not matter any more
IN_FLIGHT = 500  # requests at most: 50 a second that all hang; a wait for a place counts as latency
LATE_SHARE = 0.01  # more requests sent late than this, and it is this machine that was measured
LATE_SECONDS = 0.1

CREATED = {200, 201}


class Failed(Exception):
    """A request had no answer, or one that is no success; the message says which."""


class Answer(NamedTuple):
    """A response."""

    status: int
    reason: str
    body: bytes

    def json(self) -> Any:
        """Returns the value of the body."""
        return json.loads(self.body)

    def check(self) -> "Answer":
        """Returns the answer.

        Raises:
            Failed: it is no success.
        """
        if not 200 <= self.status < 300:
            raise Failed(f"{self.status} {self.reason}")
        return self


class Client:
    """Sends each request from a thread; connections are kept open between requests."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.netloc
        self._headers = {"Authorization": f"Bearer {key}"}
        self._tls = ssl.create_default_context()
        self._idle: list[HTTPConnection] = []
        self._threads = ThreadPoolExecutor(IN_FLIGHT)

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Returns the answer to a request; `_` in a header's name is `-`.

        Raises:
            Failed: there was none.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._send, method, path, body, headers)

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
        sent = self._headers | {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent["Content-Type"] = "application/json"
        connection = self._connection()
        try:
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            response = connection.getresponse()
            answer = Answer(response.status, response.reason, response.read())
        except (OSError, HTTPException) as error:
            connection.close()
            raise Failed(f"{type(error).__name__} {error}".strip()) from error
        if not response.will_close:
            self._idle.append(connection)
        return answer

    def _connection(self) -> HTTPConnection:
        """Returns one that is open and idle, or a new one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            # An idle connection that can be read from is one that the server has closed.
            readable = select.poll()
            readable.register(connection.sock, select.POLLIN)
            if not readable.poll(0):
                return connection
            connection.close()
        if self._secure:
            return HTTPSConnection(self._host, timeout=TIMEOUT_SECONDS, context=self._tls)
        return HTTPConnection(self._host, timeout=TIMEOUT_SECONDS)

    def close(self) -> None:
        """Closes what is idle; no request may be under way."""
        self._threads.shutdown()
        for connection in self._idle:
            connection.close()


class Load:
    """The requests of one run, and what came of them."""

    def __init__(self, http: Client, rate: float, seconds: float) -> None:
        self.run = secrets.token_hex(8)
        self.latencies: list[float] = []
        self.failures: list[str] = []
        self.accepted: dict[int, dict[str, Any]] = {}  # by the number of the request
        self.in_doubt: set[int] = set()
        self.late = 0
        self._http = http
        self._rate = rate
        self._count = int(rate * seconds)

    async def send(self) -> None:
        """Sends all requests, each at its time, and waits for the answers."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as requests:
            for number in range(self._count):
                due = began + number / self._rate
                await asyncio.sleep(due - loop.time())
                self.late += loop.time() - due > LATE_SECONDS
                requests.create_task(self._one(number, due))
                if number % max(1, int(self._rate * 10)) == 0:
                    print(f"{number} of {self._count} sent", file=sys.stderr, flush=True)

    async def _one(self, number: int, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            if number % 2 == 0 or not self.accepted:
                await self._create(number)
            else:
                some = [*self.accepted][number * 7919 % len(self.accepted)]
                await self._use(number, f"/v1/payments/{self.accepted[some]['id']}")
        except Failed as error:
            self.failures.append(f"request {number}: {error}")
        finally:
            self.latencies.append(loop.time() - due)

    async def _create(self, number: int) -> None:
        self.in_doubt.add(number)
        answer = await self._http.send(
            "POST",
            "/v1/payments",
            {"payment": 0.01, "data": {"load": self.run, "number": number}},
            Idempotency_Key=f"load-{self.run}-{number}",
        )
        if answer.status in CREATED:
            self.accepted[number] = answer.json()
        # A refusal made nothing; after a 5xx nobody knows.
        if answer.status < 500:
            self.in_doubt.discard(number)
        answer.check()

    async def _use(self, number: int, path: str) -> None:
        if number % 10 == 1:
            # The same payment can come again; with its key it is no conflict then.
            key = f"load-{self.run}"
            change = {"status": "consumed"}
            answer = await self._http.send("PATCH", path, change, Idempotency_Key=key)
        else:
            answer = await self._http.send("GET", path)
        answer.check()

    async def settle(self) -> None:
        """Repeats creations in doubt until each has a clear answer, or the time for it is over."""
        deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
        # Where nothing was ever accepted, nothing will be.
        while self.accepted and self.in_doubt and asyncio.get_running_loop().time() < deadline:
            for number in sorted(self.in_doubt):
                try:
                    await self._create(number)
                except Failed:
                    await asyncio.sleep(1)

    async def reconcile(self) -> list[str]:
        """Compares what was accepted with what the service lists; returns the differences."""
        if not self.accepted:
            return ["nothing was accepted"]
        found: dict[int, list[int]] = {}
        async for payment in self._listed():
            data = payment["data"]
            if isinstance(data, dict) and data.get("load") == self.run:
                found.setdefault(data["number"], []).append(payment["id"])
        return [
            *(
                f"payment {payment['id']} was accepted and is not there"
                for number, payment in self.accepted.items()
                if payment["id"] not in found.get(number, [])
            ),
            *(f"request {number} made {ids}" for number, ids in found.items() if len(ids) > 1),
            *(f"request {number} is still in doubt" for number in sorted(self.in_doubt)),
        ]

    async def _listed(self) -> AsyncIterator[dict[str, Any]]:
        """Gives every payment since the first of this run, by the service's own clock."""
        first = min(payment["created_at"] for payment in self.accepted.values())
        # Others can have been accepted a little before the first that was answered.
        after = datetime.fromisoformat(first) - timedelta(seconds=TIMEOUT_SECONDS)
        query: dict[str, str] = {"created_after": after.isoformat(), "limit": "1000"}
        while True:
            answer = await self._http.send("GET", f"/v1/payments?{urlencode(query)}")
            page = answer.check().json()
            for payment in page["items"]:
                yield payment
            if page["next"] is None:
                return
            query["cursor"] = page["next"]

    async def remove(self) -> None:
        """Deletes what was made."""
        limit = asyncio.Semaphore(AT_ONCE)

        async def remove(id: int) -> None:
            async with limit:
                answer = await self._http.send("DELETE", f"/v1/payments/{id}")
                if answer.status != 404:  # lost, which was told, or deleted by a first try
                    answer.check()

        async with asyncio.TaskGroup() as requests:
            for payment in self.accepted.values():
                requests.create_task(remove(payment["id"]))


def percentile(latencies: list[float], share: float) -> float:
    """Returns a latency in milliseconds."""
    ordered = sorted(latencies)
    return 1000 * ordered[int(share * (len(ordered) - 1))]


async def patiently(work: Callable[[], Awaitable[Any]]) -> Any:
    """Does what is no part of the measurement, three times if need be."""
    for _ in range(2):
        try:
            return await work()
        except* Failed:
            await asyncio.sleep(5)
    return await work()


async def measure(arguments: argparse.Namespace, key: str) -> list[str]:
    """Runs the load and prints what it saw; returns what is not as it should be."""
    with closing(Client(arguments.url, key)) as http:
        load = Load(http, arguments.rate, arguments.seconds)
        await load.send()
        await load.settle()
        differences = await patiently(load.reconcile)
        await patiently(load.remove)
    p99 = percentile(load.latencies, 0.99)
    print(f"{len(load.latencies)} requests at {arguments.rate:g} a second")
    print(f"p50 {percentile(load.latencies, 0.5):.1f} ms, p99 {p99:.1f} ms", end=", ")
    print(f"longest {1000 * max(load.latencies):.1f} ms")
    print(f"{len(load.accepted)} payments accepted, {len(differences)} of them amiss; all deleted")
    problems = [*differences]
    for failure, times in Counter(f.split(": ", 1)[1] for f in load.failures).most_common(5):
        problems.append(f"{times} times: {failure}")
    if p99 > arguments.p99_ms:
        problems.append(f"p99 is {p99:.1f} ms, above {arguments.p99_ms:g} ms")
    if load.late > LATE_SHARE * len(load.latencies):
        problems.append(
            f"{load.late} requests were sent late: this machine is too slow or too busy"
        )
    return problems


def main() -> None:
    """Runs the load of the command line.

    Raises:
        SystemExit: a threshold was passed; or something is missing.
    """
    parser = argparse.ArgumentParser(description="Load with thresholds and reconciliation.")
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--p99-ms", type=float, default=500, help="the longest p99 that passes")
    arguments = parser.parse_args()
    if arguments.rate <= 0 or arguments.seconds <= 0 or arguments.rate * arguments.seconds < 1:
        parser.error("--rate and --seconds must make at least one request")
    if not arguments.url.startswith(("http://", "https://")):
        parser.error(f"{arguments.url!r} is not the address of a service: http[s]://host[:port]")
    key = os.environ.get("LOAD_KEY", "")
    if not key:
        parser.error("LOAD_KEY is not set: a key with all three scopes")
    problems = asyncio.run(measure(arguments, key))
    for problem in problems[:20]:
        print(f"FAILED  {problem}")
    if problems:
        sys.exit(f"{len(problems)} problems")


if __name__ == "__main__":
    main()
