"""A deployed service as a client sees it: `payments smoke URL`.

Needs the standard library alone, so that it runs wherever the image does. It is safe in production:
what it creates is one cent each, marked with `{"smoke": …}`, and deleted again whatever fails.

It consumes only payments that it created, each by its id. `POST /v1/consumptions` would take the
oldest payment, whose worker would never see it. So this route is sent only what it must refuse:
a limit of 0, which could take nothing even from a service that accepts it.
"""

import itertools
import json
import secrets
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

TIMEOUT_SECONDS = 10  # the service answers within 5 s, or says that it cannot
CERTIFICATE_DAYS = 14  # ACM renews 60 days before the end: less means that it could not
LIST_PAGES = 20  # of 1,000 payments that others made in the same second

# The beginning is enough to see that the old list answers; the rest can be millions of payments.
LIST_BYTES = 64


class Failed(Exception):
    """The service did not do what it promises; the message says what it did."""


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        """Returns the body's value."""
        return json.loads(self.body)


class Target:
    """A service at an address, called with or without a key."""

    def __init__(self, url: str, key: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
            raise Failed(f"{url} is not the address of a service: http[s]://host[:port]")
        self.secure = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.secure else 80)
        self.key = key
        self.run = secrets.token_hex(8)
        self._context = ssl.create_default_context()
        self._numbers = itertools.count(1)

    def connect(self, secure: bool, port: int) -> HTTPConnection:
        """Returns a connection, not opened yet."""
        if secure:
            return HTTPSConnection(self.host, port, timeout=TIMEOUT_SECONDS, context=self._context)
        return HTTPConnection(self.host, port, timeout=TIMEOUT_SECONDS)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        status: int | tuple[int, ...],
        key: str | None = None,
        bytes_read: int | None = None,
        **headers: str,
    ) -> Answer:
        """Sends one request on a connection of its own; `_` in a header's name is `-`.

        An empty `key` sends none. Of several statuses each is right.

        Raises:
            Failed: the status is another, or the answer lacks what every answer has.
            OSError: there was no answer.
        """
        request_id = f"smoke-{self.run}-{next(self._numbers)}"
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["X-Request-Id"] = request_id
        if key := self.key if key is None else key:
            sent["Authorization"] = f"Bearer {key}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        connection = self.connect(self.secure, self.port)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read(bytes_read))
        except HTTPException as error:
            raise Failed(f"{method} {path}: no HTTP in the answer ({error!r})") from None
        finally:
            connection.close()
        what = f"{method} {path} ({request_id})"
        statuses = status if isinstance(status, tuple) else (status,)
        if answer.status not in statuses:
            wanted = " or ".join(map(str, statuses))
            raise Failed(f"{what}: {answer.status} in place of {wanted}: {answer.body[:300]!r}")
        expect(what, "X-Request-Id", answer.headers["X-Request-Id"], request_id)
        if answer.status >= 400:
            expect(what, "type", answer.headers["Content-Type"], "application/problem+json")
        return answer


def expect(what: str, name: str, found: Any, expected: Any) -> None:
    """Checks a value.

    Raises:
        Failed: it is another.
    """
    if found != expected:
        raise Failed(f"{what}: {name} is {found!r} in place of {expected!r}")


def check(
    url: str,
    key: str | None,
    report: Callable[[str], None],
    *,
    anonymous: bool = False,
    wait_seconds: float = 30,
) -> int:
    """Makes all checks that the key allows, one after the other; returns how many failed.

    Raises:
        Failed: `url` is not the address of a service.
    """
    target = Target(url, key)
    checks: list[tuple[str, Callable[[], None]]] = [
        ("ready", lambda: ready(target, wait_seconds)),
        ("access", lambda: access(target, anonymous)),
    ]
    if target.secure:
        checks.append(("certificate", lambda: certificate(target)))
        if target.port == 443:
            checks.append(("redirect", lambda: redirect(target)))
    if key is not None or anonymous:
        checks.append(("life of a payment", lambda: life(target)))
        checks.append(("consumptions", lambda: consumptions(target, key, 422)))
        checks.append(("old routes", lambda: old_routes(target)))
    failures = 0
    for name, run in checks:
        began = time.monotonic()
        try:
            run()
        except (Failed, OSError, ValueError, KeyError) as error:
            failures += 1
            reason = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            report(f"FAILED  {name}: {reason}")
        else:
            report(f"ok      {name} ({time.monotonic() - began:.2f} s)")
    if key is None and not anonymous:
        report("No key was given: payments were not tried")
    return failures


def ready(target: Target, wait_seconds: float) -> None:
    """The service is alive and ready, now or soon."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            expect("GET /readyz", "body", target.send("GET", "/readyz", status=200).json(), READY)
            break
        except (Failed, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
    target.send("GET", "/livez", status=200)
    expect("GET /status", "body", target.send("GET", "/status", status=200).body, b"ok")


READY = {"status": "ready"}


def access(target: Target, anonymous: bool) -> None:
    """No request gets in without a key, and the metrics stay inside."""
    for key in ("", "x" * 43):
        answer = target.send(
            "GET", "/v1/payments?limit=1", key=key, status=200 if anonymous else 401
        )
        if not anonymous and "Bearer" not in answer.headers.get("WWW-Authenticate", ""):
            raise Failed("GET /v1/payments without a key: no WWW-Authenticate asks for one")
        consumptions(target, key, 422 if anonymous else 401)
    target.send("GET", "/metrics", status=404)


def consumptions(target: Target, key: str | None, status: int) -> None:
    """The queue is served, and refuses a consumption of no payments."""
    target.send("POST", "/v1/consumptions", {"limit": 0}, key=key, status=status)


def certificate(target: Target) -> None:
    """The certificate is for this name, from an authority that is known, and not about to end."""
    connection = target.connect(True, target.port)
    connection.connect()
    try:
        socket = connection.sock
        if not isinstance(socket, ssl.SSLSocket):
            raise Failed("the connection is not encrypted")
        ends = ssl.cert_time_to_seconds(str((socket.getpeercert() or {})["notAfter"]))
        if (days := (ends - time.time()) / 86400) < CERTIFICATE_DAYS:
            raise Failed(f"the certificate ends in {days:.0f} days: its renewal fails")
        if socket.version() not in {"TLSv1.2", "TLSv1.3"}:
            raise Failed(f"the connection is {socket.version()}")
    finally:
        connection.close()


def redirect(target: Target, port: int = 80) -> None:
    """Whoever comes without TLS is sent to it, and served nothing."""
    connection = target.connect(False, port)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        to = urlsplit(response.headers.get("Location", ""))
        found = (response.status in {301, 308}, to.scheme, to.hostname)
        expect("GET /status without TLS", "redirect", found, (True, "https", target.host))
    finally:
        connection.close()


def life(target: Target) -> None:
    """A payment is created once, consumed once, read, listed and deleted."""
    body = {"payment": 0.01, "data": {"smoke": target.run}}
    again = f"smoke-{target.run}"
    with removed(target) as made:
        first = target.send("POST", "/v1/payments", body, status=201, Idempotency_Key=again)
        payment = first.json()
        path = f"/v1/payments/{payment['id']}"
        made.append(path)
        expect("POST /v1/payments", "Location", first.headers["Location"], path)
        expected = {"status": "inserted", **body}
        expect("POST /v1/payments", "payment", {n: payment[n] for n in expected}, expected)

        # At once: until then a worker can be handed this payment.
        consume(target, path, again, payment["created_by"])

        second = target.send("POST", "/v1/payments", body, status=201, Idempotency_Key=again)
        expect("a repeated creation", "body", second.body, first.body)
        expect("a repeated creation", "mark", second.headers["Idempotent-Replayed"], "true")
        other = {**body, "payment": 0.02}
        refused = target.send("POST", "/v1/payments", other, status=422, Idempotency_Key=again)
        expect("another creation", "payment_id", refused.json()["payment_id"], payment["id"])

        if payment["id"] not in listed(target, payment["created_at"]):
            raise Failed(f"GET /v1/payments: payment {payment['id']} is not in the list")

        target.send("PATCH", path, {"status": "inserted"}, status=409)
        target.send("DELETE", path, status=204)
        target.send("GET", path, status=404)
        made.remove(path)


def consume(target: Target, path: str, idempotency_key: str, client: str) -> None:
    """A payment that the client created is consumed once, and the service says by which client.

    A worker may be faster. That is no failure.
    """
    what = f"PATCH {path}"
    change = {"status": "consumed"}
    first = target.send("PATCH", path, change, status=(200, 409), Idempotency_Key=idempotency_key)
    if first.status == 200:
        second = target.send("PATCH", path, change, status=200, Idempotency_Key=idempotency_key)
        expect(f"{what} repeated", "body", second.body, first.body)
        expect(f"{what} repeated", "mark", second.headers["Idempotent-Replayed"], "true")
    refusal = target.send("PATCH", path, change, status=409).json()
    expect(what, "type", refusal["type"], "/problems/already-consumed")
    payment = target.send("GET", path, status=200).json()
    expect(f"GET {path}", "status", payment["status"], "consumed")
    for name in ("consumed_at", "consumed_by"):
        expect(what, name, refusal[name], payment[name])
    if first.status == 200:
        expect(what, "payment", first.json(), payment)
    elif payment["consumed_by"] == client:
        raise Failed(f"{what}: the first consumption was refused as the second one")


def listed(target: Target, created_at: str) -> Iterator[int]:
    """Gives the ids of payments that were made within a second of a time."""
    time_ = datetime.fromisoformat(created_at)
    second = timedelta(seconds=1)
    query = f"/v1/payments?limit=1000&created_after={_iso(time_ - second)}"
    query += f"&created_before={_iso(time_ + second)}"
    cursor = ""
    for _ in range(LIST_PAGES):
        page = target.send("GET", query + cursor, status=200).json()
        yield from (payment["id"] for payment in page["items"])
        if page["next"] is None:
            return
        cursor = f"&cursor={page['next']}"


def _iso(time_: datetime) -> str:
    return quote(time_.isoformat())


def old_routes(target: Target) -> None:
    """The routes of the old clients still serve, and say until when."""
    with removed(target) as made:
        body = {"payment": "0,01", "data": {"smoke": target.run}}
        created = target.send("POST", "/create", body, status=200)
        id = created.json()["id"]
        path = f"/delete/{id}"
        made.append(path)
        for name in ("Deprecation", "Sunset"):
            if name not in created.headers:
                raise Failed(f"POST /create: no {name}")
        updated = target.send("PUT", f"/update/{id}", {"status": "consumed"}, status=200).json()
        expect("PUT /update", "status", updated["status"], "consumed")
        start = target.send("GET", "/list", status=200, bytes_read=LIST_BYTES).body
        expect("GET /list", "beginning", start[:7], b'[{"id":')
        deleted = target.send("DELETE", path, status=200).json()
        expect("DELETE /delete", "id", deleted["id"], id)
        made.remove(path)


@contextmanager
def removed(target: Target) -> Iterator[list[str]]:
    """Lends a list of paths; what it still names in the end is deleted."""
    made: list[str] = []
    try:
        yield made
    finally:
        for path in made:
            target.send("DELETE", path, status=200 if path.startswith("/delete") else 204)
