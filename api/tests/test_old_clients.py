"""What an old client gets here, beside what the old system answered: docs/legacy.md, as a test."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from payments import metrics
from tests import old_system
from tests.conftest import Api, Database

Step = tuple[str, str, Any, tuple[int, Any], tuple[int, Any]]

# An address, a body, and the answer of each: its status, and what is looked for in its body.
INSERTED = {"status": "inserted"}
CONSUMED = {"status": "consumed"}

SAME = [
    ("POST /create", INSERTED, (200, {"id": 1, **INSERTED})),
    ("POST /create", {"status": "consumed"}, (200, {"id": 2, **CONSUMED})),
    ("POST /create", {**INSERTED, "payment": 12.5, "data": {"a": [1]}}, (200, {"id": 3})),
    ("PUT /update/1", CONSUMED, (200, {"id": 1, **CONSUMED})),
    ("PUT /update/1", CONSUMED, (200, {"id": 1, **CONSUMED})),
    ("PUT /update/3", INSERTED, (200, {"id": 3, **INSERTED})),
    ("DELETE /delete/2", None, (200, {"id": 2, **CONSUMED})),
    ("GET /status", None, (200, "ok")),
]

# One payment, inserted, is there before each.
DIFFERENT: dict[str, Step] = {
    "a status that is not there": ("POST", "/create", {}, (200, {"status": None}), (200, INSERTED)),
    "null as status": ("POST", "/create", {"status": None}, (200, {"status": None}), (422, None)),
    "any text as status": ("POST", "/create", {"status": "x"}, (200, {"status": "x"}), (422, None)),
    "an id of its own": ("POST", "/create", {"id": 7, **INSERTED}, (200, {"id": 2}), (422, None)),
    "a field that is none": ("POST", "/create", {"x": 1}, (200, {"id": 2}), (422, None)),
    "a value": ("POST", "/create", {"payment": 1}, (200, {"payment": None}), (200, {"payment": 1})),
    "data": ("POST", "/create", {"data": [1]}, (200, {"data": None}), (200, {"data": [1]})),
    "a third decimal": ("POST", "/create", {"payment": 0.5e-2}, (200, {"id": 2}), (422, None)),
    "a negative payment": ("POST", "/create", {"payment": -1}, (200, {"id": 2}), (422, None)),
    "text": ("POST", "/create", {"payment": "1,5"}, (200, {"id": 2}), (200, {"payment": 1.5})),
    "another status": ("PUT", "/update/1", {"status": "x"}, (200, {"status": "x"}), (422, None)),
    "no status": ("PUT", "/update/1", {}, (200, {"status": None}), (422, None)),
    "an update of nothing": ("PUT", "/update/9", CONSUMED, (500, None), (404, None)),
    "a deletion of nothing": ("DELETE", "/delete/9", None, (500, None), (404, None)),
}  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> FlaskClient:
    """The old system, empty."""
    file = str(tmp_path / "old.sqlite3")
    with sqlite3.connect(file) as connection:
        connection.execute(old_system.TABLE)
    connection.close()
    old_system.app.config["FILE"] = file
    return old_system.app.test_client()


async def both(
    old: FlaskClient, api: Api, method: str, path: str, body: Any
) -> tuple[tuple[int, Any], tuple[int, Any]]:
    """Sends the same to both, and returns status and body of each."""
    there = old.open(path, method=method, json=body)
    here = await api.http.request(method, path, json=body)
    return (there.status_code, there.get_json(silent=True) or there.text), (
        here.status_code,
        here.json() if "json" in here.headers["Content-Type"] else here.text,
    )


def has(answer: tuple[int, Any], expected: tuple[int, Any]) -> bool:
    """Whether an answer has the status, and all that is looked for in its body."""
    status, body = answer
    wanted = expected[1]
    if isinstance(wanted, dict):
        body = {name: body.get(name) for name in wanted}
    return status == expected[0] and (wanted is None or body == wanted)


async def test_what_is_the_same(api: Api, old: FlaskClient) -> None:
    for address, body, expected in SAME:
        method, path = address.split()
        there, here = await both(old, api, method, path, body)
        assert has(there, expected), (address, there)
        assert has(here, expected), (address, here)
    there, here = await both(old, api, "GET", "/list", None)
    ids = [(1, "consumed"), (3, "inserted")]
    for status, payments in (there, here):
        assert status == 200
        assert [(one["id"], one["status"]) for one in payments] == ids
    # There is more in each than there was.
    assert set(there[1][0]) == {"id", "status"}
    assert set(here[1][0]) == {"id", "status", "data", "payment", "created_at", "updated_at"}


@pytest.mark.parametrize("name", DIFFERENT)
async def test_what_is_not(api: Api, old: FlaskClient, name: str) -> None:
    method, path, body, then, now = DIFFERENT[name]
    await both(old, api, "POST", "/create", INSERTED)
    there, here = await both(old, api, method, path, body)
    assert has(there, then), there
    assert has(here, now), here


async def test_consumed_is_for_good(api: Api, old: FlaskClient) -> None:
    await both(old, api, "POST", "/create", CONSUMED)
    there, here = await both(old, api, "PUT", "/update/1", INSERTED)
    assert has(there, (200, INSERTED))
    assert here[0] == 409


async def test_a_key_is_needed(api: Api, old: FlaskClient) -> None:
    del api.http.headers["Authorization"]
    there, here = await both(old, api, "GET", "/list", None)
    assert (there[0], here[0]) == (200, 401)
    there, here = await both(old, api, "GET", "/status", None)
    assert there == here == (200, "ok")


@pytest.mark.in_process  # reads counters
async def test_calls_are_counted_by_route_and_client(api: Api, database: Database) -> None:
    calls = {
        "/create": ("POST", "/create", INSERTED),
        "/update/{id}": ("PUT", "/update/1", CONSUMED),
        "/list": ("GET", "/list", None),
        "/delete/{id}": ("DELETE", "/delete/1", None),
        "/status": ("GET", "/status", None),
    }
    callers = dict.fromkeys(calls, "metered-shop") | {"/status": "anonymous"}

    def counted() -> list[float]:
        return [
            metrics.old_route_calls.labels(route, caller)._value.get()
            for route, caller in callers.items()
        ]

    before = counted()
    api.http.headers["Authorization"] = f"Bearer {await database.key('metered-shop')}"
    for method, path, body in calls.values():
        assert (await api.http.request(method, path, json=body)).status_code == 200
    await api.create({"payment": 1})
    assert counted() == [count + 1 for count in before]
