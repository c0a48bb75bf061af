"""What is nobody's business stands in no log, no error and no metric, also when things go wrong."""

import asyncio
import json
from pathlib import Path

import pytest

from tests import PATIENCE_SECONDS
from tests.command import free_port, launch
from tests.conftest import Database, client

CARD = "4111111111111111"
PASSWORD = "canary-password"

# Where a caller can put what it should not, each answered in its own way. The last member tells
# whether it stands for a name there: names and ids are told back to who sent them, values are not.
REQUESTS: list[tuple[str, str, str | None, dict[str, str], bool]] = [
    ("POST", "/v1/payments", f'{{"payment": 1, "data": "{CARD}"}}', {}, False),
    ("POST", "/v1/payments", f'{{"payment": "{CARD}"}}', {}, False),
    ("POST", "/v1/payments", f'{{"payment": {CARD}}}', {}, False),
    ("POST", "/v1/payments", f'{{"{CARD}": 1}}', {}, True),
    ("POST", "/v1/payments", f'{{"payment": 1, "data": {CARD}', {}, False),
    ("POST", "/v1/payments", f'{{"payment": 1, "data": "\\u0000{CARD}"}}', {}, False),
    ("POST", "/v1/payments", '{"payment": 1}', {"Idempotency-Key": CARD}, False),
    ("POST", "/v1/payments", '{"payment": 2}', {"Idempotency-Key": CARD}, False),
    ("POST", "/v1/payments", '{"payment": 2}', {"Content-Type": f"text/{CARD}"}, False),
    ("GET", "/v1/payments/1", None, {"If-None-Match": CARD}, False),
    ("PATCH", "/v1/payments/1", '{"status": "consumed"}', {"If-Match": CARD}, False),
    ("PATCH", "/v1/payments/1", f'{{"status": "{CARD}"}}', {}, False),
    ("GET", f"/v1/payments?status={CARD}", None, {}, False),
    ("GET", f"/v1/payments?{CARD}=1", None, {}, True),
    ("GET", f"/v1/payments?{CARD}=1&{CARD}=1", None, {}, True),
    ("GET", f"/v1/payments?limit={CARD}", None, {}, False),
    ("GET", f"/v1/payments?cursor={CARD}", None, {}, False),
    ("GET", f"/v1/payments?created_after={CARD}", None, {}, False),
    ("GET", f"/v1/payments/x{CARD}", None, {}, False),
    ("DELETE", f"/v1/payments/{CARD}", None, {}, True),
    ("GET", f"/{CARD}", None, {}, False),
    ("PUT", f"/update/{CARD}", '{"status": "consumed"}', {}, True),
    ("POST", "/create", f'{{"payment": 1, "id": {CARD}}}', {}, False),
    ("GET", "/v1/payments", None, {"Authorization": f"Bearer {CARD}"}, False),
    ("GET", "/v1/payments", None, {"Authorization": f"Basic {CARD}"}, False),
    ("GET", "/livez", None, {"Cookie": f"card={CARD}"}, False),
]


@pytest.mark.usefixtures("command")
async def test_canaries(database: Database, tmp_path: Path) -> None:
    ports, log = (free_port(), free_port()), tmp_path / "log"
    url = database.url()
    variables = {
        "PAYMENTS_DATABASE_URL": url.replace("payments_app@", f"payments_app:{PASSWORD}@"),
        "PAYMENTS_HTTP_HOST": "127.0.0.1",
        "PAYMENTS_HTTP_PORT": str(ports[0]),
        "PAYMENTS_METRICS_PORT": str(ports[1]),
        "PAYMENTS_SHUTDOWN_DELAY_SECONDS": "0",
        "PAYMENTS_LOG_LEVEL": "DEBUG",
    }
    assert PASSWORD in variables["PAYMENTS_DATABASE_URL"]
    key = await database.key()
    said: list[str] = []
    with log.open("wb") as file:
        process = await launch("serve", variables=variables, stdout=file, stderr=file)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b"Listening" not in log.read_bytes():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        async with client(f"http://127.0.0.1:{ports[0]}", key) as api:

            async def ask_all() -> set[int]:
                statuses = set()
                for method, path, body, headers, is_name in REQUESTS:
                    answer = await api.http.request(method, path, content=body, headers=headers)
                    statuses.add(answer.status_code)
                    if answer.status_code >= 400 and not is_name:
                        said.append(f"{answer.headers} {answer.text}")
                return statuses

            assert {201, 200, 400, 401, 404, 412, 415, 422} <= await ask_all()
            # The database refuses rows that the service found good, and names them as it does.
            await database.fetch("ALTER TABLE payments ADD CHECK (payment < 0) NOT VALID")
            assert 500 in await ask_all()
            async with database.away():
                assert 503 in await ask_all()
            await database.fetch("DROP TABLE payments")
            assert 503 in await ask_all()
            said.append((await api.http.get(f"http://127.0.0.1:{ports[1]}/metrics")).text)
        process.terminate()
        assert await process.wait() == 0
    said.append(log.read_text())
    _check(said, CARD, PASSWORD, key)
    assert "Traceback" in said[-1]  # a mistake is still told


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(
    "change",
    [
        {"PAYMENTS_DATABASE_URL": f"postgresql://payments_app:{PASSWORD}@host:port/name"},
        {"PAYMENTS_DATABASE_URL": f"mysql://payments_app:{PASSWORD}@host/name"},
        {"PAYMENTS_HTTP_PORT": PASSWORD},
        {"PAYMENTS_HTTP_HOST": "203.0.113.1"},
    ],
)
async def test_a_start_that_fails(change: dict[str, str]) -> None:
    variables = {
        "PAYMENTS_DATABASE_URL": f"postgresql://payments_app:{PASSWORD}@127.0.0.1:1/name",
        "PAYMENTS_METRICS_PORT": "0",
    }
    process = await launch("serve", variables=variables | change)
    said = b"".join(await process.communicate()).decode()
    assert process.returncode != 0
    assert said
    _check([said], PASSWORD)


def _check(said: list[str], *canaries: str) -> None:
    told = [
        f"{canary}: {line}"
        for text in said
        for line in text.splitlines()
        for canary in canaries
        if canary in line
    ]
    assert not told, "\n".join(told)


def test_the_canaries_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        _check([json.dumps({"message": f"card {CARD}"})], CARD)
