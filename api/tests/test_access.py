"""Who may do what: every route against every kind of key."""

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import asyncpg
import httpx
import pytest

from payments import auth, config
from payments.app import Application
from tests import PATIENCE_SECONDS
from tests.conftest import CLIENT, Api, Database, Serve, client, problem

# Each route and the scope that it takes; None: no key at all.
ROUTES = {
    ("POST", "/v1/payments"): auth.WRITE,
    ("GET", "/v1/payments"): auth.READ,
    ("GET", "/v1/payments/{id}"): auth.READ,
    ("PATCH", "/v1/payments/{id}"): auth.WRITE,
    ("DELETE", "/v1/payments/{id}"): auth.DELETE,
    ("POST", "/v1/consumptions"): auth.WRITE,
    ("POST", "/create"): auth.WRITE,
    ("PUT", "/update/{id}"): auth.WRITE,
    ("GET", "/list"): auth.READ,
    ("DELETE", "/delete/{id}"): auth.DELETE,
    ("GET", "/status"): None,
    ("GET", "/livez"): None,
    ("GET", "/readyz"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/docs"): None,
    ("GET", "/docs/{asset}"): None,
}
BODIES = {
    ("POST", "/v1/payments"): '{"payment": 1}',
    ("PATCH", "/v1/payments/{id}"): '{"status": "consumed"}',
    ("POST", "/v1/consumptions"): "{}",
    ("POST", "/create"): "{}",
    ("PUT", "/update/{id}"): '{"status": "consumed"}',
}
closed = pytest.mark.parametrize("route", [route for route, scope in ROUTES.items() if scope])
open_to_all = pytest.mark.parametrize(
    "route", [route for route, scope in ROUTES.items() if not scope]
)

UNKNOWN = secrets.token_urlsafe(32)
MALFORMED = [
    "",
    "Bearer",
    "Bearer x",
    f"Bearer {UNKNOWN[:-1]}",
    f"Bearer {UNKNOWN}x",
    f"Bearer {UNKNOWN} {UNKNOWN}",
    f"Bearer {UNKNOWN},",
    f"Bearer {UNKNOWN[:-1]}=",
    f"Bearer {UNKNOWN[:-1]}é",
    f"Basic {UNKNOWN}",
    f"Bearer:{UNKNOWN}",
    UNKNOWN,
]


class Keys(NamedTuple):
    """Keys of a client each."""

    everything: str
    revoked: str
    expired: str
    only: dict[str, str]
    all_but: dict[str, str]


@pytest.fixture(scope="module")
def keys(shared_service: tuple[str, str, Database]) -> Keys:
    """Keys of every kind for the shared service."""
    return asyncio.run(_make_keys(shared_service[2]))


async def _make_keys(database: Database) -> Keys:
    hour = timedelta(hours=1)
    async with database.connect() as connection:
        keys = Keys(
            everything=await auth.create_key(connection, "everything", auth.SCOPES),
            revoked=await auth.create_key(connection, "revoked", auth.SCOPES),
            expired=await auth.create_key(
                connection, "expired", auth.SCOPES, datetime.now(UTC) - hour
            ),
            only={
                scope: await auth.create_key(connection, f"only.{number}", [scope])
                for number, scope in enumerate(auth.SCOPES)
            },
            all_but={
                scope: await auth.create_key(
                    connection,
                    f"all-but.{number}",
                    [other for other in auth.SCOPES if other != scope],
                )
                for number, scope in enumerate(auth.SCOPES)
            },
        )
        await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE client = 'revoked'")
    return keys


class Caller:
    """Calls a route with any `Authorization` header, or none."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def __call__(
        self, route: tuple[str, str], authorization: str | bytes | None
    ) -> httpx.Response:
        method, path = route
        request = self.api.http.build_request(
            method,
            path.replace("{id}", "999999999").replace("{asset}", "start.js"),
            content=BODIES.get(route),
        )
        del request.headers["Authorization"]
        if authorization is not None:
            value = authorization.encode() if isinstance(authorization, str) else authorization
            request.headers = type(request.headers)(
                [*request.headers.raw, (b"Authorization", value)]
            )
        return await self.api.http.send(request)


@pytest.fixture
def call(shared: Api) -> Caller:
    """Calls the shared service."""
    return Caller(shared)


def test_every_route_has_its_row() -> None:
    application = Application(config.Settings(database_url="postgresql://nowhere"))
    assert {(route.method, route.path): route.scope for route in application.routes} == ROUTES


@closed
async def test_no_key(call: Caller, route: tuple[str, str]) -> None:
    answer = await call(route, None)
    problem(answer, 401, "unauthenticated")
    # RFC 6750, 3.1: no error code where there was nothing wrong with a key.
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="payments"'


@closed
async def test_malformed_key(call: Caller, route: tuple[str, str]) -> None:
    for authorization in MALFORMED:
        answer = await call(route, authorization)
        problem(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("kind", ["unknown", "revoked", "expired"])
async def test_dead_key(call: Caller, keys: Keys, kind: str) -> None:
    key = UNKNOWN if kind == "unknown" else getattr(keys, kind)
    routes = [route for route, scope in ROUTES.items() if scope]
    # At once: each waits until the keys are read again.
    for answer in await asyncio.gather(*(call(route, f"Bearer {key}") for route in routes)):
        problem(answer, 401, "unauthenticated")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


@closed
async def test_wrong_scope(call: Caller, keys: Keys, route: tuple[str, str]) -> None:
    scope = ROUTES[route]
    assert scope is not None
    answer = await call(route, f"Bearer {keys.all_but[scope]}")
    assert scope in problem(answer, 403, "forbidden")["detail"]


@closed
async def test_right_scope(call: Caller, keys: Keys, route: tuple[str, str]) -> None:
    scope = ROUTES[route]
    assert scope is not None
    for scheme in ("Bearer", "bearer", "BEARER"):
        answer = await call(route, f"{scheme} {keys.only[scope]}")
        if "{id}" in route[1]:
            problem(answer, 404, "payment-not-found")
        else:
            assert answer.is_success, answer.text


@closed
async def test_a_refusal_comes_before_the_body_is_looked_at(
    call: Caller, route: tuple[str, str]
) -> None:
    method, path = route
    answer = await call.api.http.request(
        method,
        path.replace("{id}", "1"),
        content=b"{nonsense",
        headers={"Authorization": f"Bearer {UNKNOWN}", "Content-Type": "text/plain"},
    )
    problem(answer, 401, "unauthenticated")


@open_to_all
async def test_open_routes_need_no_key(call: Caller, route: tuple[str, str]) -> None:
    for authorization in (None, "nonsense", f"Bearer {UNKNOWN}"):
        assert (await call(route, authorization)).status_code == 200


async def test_a_key_works_as_soon_as_it_is_made(api: Api, database: Database) -> None:
    for name in ("one", "two", "three"):
        await api.payment()
        async with client(api.url, await database.key(name)) as other:
            assert (await other.create({"payment": 1})).status_code == 201


async def test_many_unknown_keys_do_not_keep_the_others_out(api: Api) -> None:
    async with client(api.url, UNKNOWN) as stranger:
        answers = await asyncio.gather(
            *(stranger.send("GET", "/v1/payments") for _ in range(50)),
            *(api.create({"payment": 1}) for _ in range(10)),
        )
    assert [answer.status_code for answer in answers] == [401] * 50 + [201] * 10


async def test_a_revocation_is_felt(start: Serve, database: Database) -> None:
    async with client(await start(key_refresh_seconds=0.2), await database.key()) as api:
        await api.payment()
        await database.fetch("UPDATE api_keys SET revoked_at = now()")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (answer := await api.create({"payment": 1})).status_code == 201:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        problem(answer, 401, "unauthenticated")


async def test_a_key_expires_to_the_second(api: Api, database: Database) -> None:
    a_second = timedelta(seconds=1)
    expires_at = datetime.now(UTC) + 2 * a_second
    async with database.connect() as connection:
        key = await auth.create_key(connection, "soon", auth.SCOPES, expires_at)
    async with client(api.url, key) as other:
        asked_at = datetime.now(UTC)
        while (answer := await other.create({"payment": 1})).status_code == 201:
            assert asked_at < expires_at + a_second
            asked_at = datetime.now(UTC)
        problem(answer, 401, "unauthenticated")
        assert datetime.now(UTC) > expires_at - a_second


async def test_without_authentication_everybody_is_anonymous(
    start: Serve, database: Database
) -> None:
    async with client(await start(authentication=False), "") as api:
        del api.http.headers["Authorization"]
        made = await api.payment()
        assert (await api.send("DELETE", f"/v1/payments/{made['id']}")).status_code == 204
    [row] = await database.fetch("SELECT created_by, deleted_by FROM payments")
    assert [*row] == ["anonymous", "anonymous"]


async def test_a_client_has_two_live_keys_at_most(database: Database) -> None:
    async with database.connect() as connection:
        for _ in range(2):
            await auth.create_key(connection, CLIENT, [auth.READ])
        with pytest.raises(auth.KeyLimitError, match=CLIENT):
            await auth.create_key(connection, CLIENT, [auth.READ])
        await auth.create_key(connection, "other", [auth.READ])
        first = next(row for row in await auth.list_keys(connection) if row["client"] == CLIENT)
        assert await auth.revoke_key(connection, first["id"]) == CLIENT
        await auth.create_key(connection, CLIENT, [auth.READ])
        with pytest.raises(auth.KeyLimitError, match=CLIENT):
            await auth.create_key(connection, CLIENT, [auth.READ])
        await connection.execute("UPDATE api_keys SET expires_at = now() - interval '1 second'")
        await auth.create_key(connection, CLIENT, [auth.READ])


async def test_two_live_keys_also_when_made_at_once(database: Database) -> None:
    answers = await asyncio.gather(
        *(database.key("shop") for _ in range(6)), return_exceptions=True
    )
    assert sum(isinstance(answer, str) for answer in answers) == 2
    assert sum(isinstance(answer, auth.KeyLimitError) for answer in answers) == 4


async def test_a_client_has_a_plain_name(database: Database) -> None:
    for name in ("", "Shop", "a b", "-shop", "x" * 64, "lojão", "a\n"):
        with pytest.raises(asyncpg.CheckViolationError):
            await database.key(name)


@pytest.mark.in_process  # reads its log
async def test_keys_are_kept_nowhere(
    api: Api, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [
        await api.create({"payment": 1}),
        await api.create({"payment": -1}),
        await api.send("GET", "/v1/payments/7"),
        await api.send("GET", "/nowhere"),
    ]
    async with client(api.url, UNKNOWN) as stranger:
        answers.append(await stranger.create({"payment": 1}))
    [row] = await database.fetch("SELECT api_keys::text AS text, hash FROM api_keys")
    told = [row["text"], *(str(vars(record)) for record in caplog.records)]
    told += [answer.text + str(answer.headers) for answer in answers]
    for key in (api.key, UNKNOWN):
        assert not any(key in text for text in told)
    assert row["hash"].hex() not in "".join(told[1:])
