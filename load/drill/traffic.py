"""Clients, few and slow: every route is asked, old ones and refusals among them."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import httpx

CALLERS = 4
PAUSE_SECONDS = 0.05  # about 60 requests a second, so that there is room for the rest of the drill
TIMEOUT_SECONDS = 7.5  # the service promises an answer in 5


class Traffic:
    """Callers that live with whatever they are answered, and count it."""

    def __init__(self, ports: Sequence[int], keys: Mapping[str, str]) -> None:
        self._ports = ports
        self._keys = keys
        self.answers: Counter[int] = Counter()  # by status; 0 is none

    async def run(self) -> None:
        """Asks until it is cancelled."""
        limits = httpx.Limits(max_connections=64)
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(CALLERS):
                chance = random.Random(number)  # noqa: S311 - no secret
                group.create_task(self._call(client, chance))

    async def _call(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        while True:
            with suppress(httpx.TransportError, KeyError):
                # No id in an answer that is no payment: this one's life ends there.
                await self._live(client, chance)

    async def _live(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        """Makes a payment, and lets it have one of the lives that payments have."""
        base = f"http://127.0.0.1:{chance.choice(self._ports)}"
        headers = {"Authorization": f"Bearer {chance.choice([*self._keys.values()])}"}

        async def ask(method: str, path: str, body: object = None, **more: str) -> httpx.Response:
            await asyncio.sleep(chance.uniform(0, 2 * PAUSE_SECONDS))
            try:
                answer = await client.request(
                    method, base + path, headers={**headers, **more}, json=body
                )
            except httpx.TransportError:
                self.answers[0] += 1
                raise
            self.answers[answer.status_code] += 1
            return answer

        value = f"{chance.randrange(10_000_000) / 100:.2f}"
        body = {"payment": value, "data": {"order": chance.randrange(1000)}}
        if chance.random() < 0.1:
            id = (await ask("POST", "/create", body)).json()["id"]
            await ask("PUT", f"/update/{id}", {"status": "consumed"})
            await ask("DELETE", f"/delete/{id}")
            await ask("GET", "/status")
            return
        key = {"Idempotency-Key": f"{chance.getrandbits(64):x}"}
        id = (await ask("POST", "/v1/payments", body, **key)).json()["id"]
        if chance.random() < 0.1:
            await ask("POST", "/v1/payments", body, **key)
        if chance.random() < 0.1:
            await ask("POST", "/v1/payments", {"payment": "1.999"})
            await ask("GET", "/v1/payments?limit=20")
        if chance.random() < 0.005:
            await ask("GET", "/list")
            await ask("GET", "/v1/payments", Accept="application/x-ndjson")
        await ask("GET", f"/v1/payments/{id}")
        if chance.random() < 0.4:
            await ask("PATCH", f"/v1/payments/{id}", {"status": "consumed"})
        for _ in range(chance.choice((0, 0, 0, 1, 1, 2))):  # repeated with its key
            await ask("POST", "/v1/consumptions", {"limit": 2}, **key)
        if chance.random() < 0.2:
            await ask("DELETE", f"/v1/payments/{id}")


@asynccontextmanager
async def asking(ports: Sequence[int], keys: Mapping[str, str]) -> AsyncIterator[Traffic]:
    """Lets them ask until the end of the block."""
    traffic = Traffic(ports, keys)
    task = asyncio.create_task(traffic.run())
    try:
        yield traffic
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
