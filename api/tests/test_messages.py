"""What a caller is told: the parameter, what is wrong with its value, and what is right."""

import json
import re
import secrets
from typing import Annotated, Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from payments import config, errors, expected, models
from payments.errors import quoted
from tests.conftest import Api, problem, send_raw

# A library's words, a type of the implementation language, or a regular expression.
FOREIGN = re.compile(
    r"msgspec|Expected|Expecting|Invalid|malformed|codec|regex|pattern|\bstr\b|\bint\b|\bNone\b"
    r"|\bTrue\b|\bFalse\b|\$\.|\\A|\\Z|\(\?|Traceback|object at 0x",
    re.ASCII,
)

PAYMENT = "must be a number or a string, such as 12345.67, not"

BODIES = [
    # How, where, the body, and the whole message.
    ("POST", "/v1/payments", "", "The body is empty; it must be JSON."),
    (
        *("POST", "/v1/payments", '\n{"payment": 1,\n "data": nul}'),
        "The body is not JSON: there is a mistake at line 3, column 10.",
    ),
    (
        *("POST", "/v1/payments", '\u00a0{"payment": 1}'),
        "The body is not JSON: there is a mistake at line 1, column 1.",
    ),
    ("POST", "/v1/payments", '{"payment": NaN}', "The body is not JSON: NaN is no JSON value."),
    ("POST", "/v1/payments", b'{"\xff', "The body is not UTF-8: its byte 3 is 0xff."),
    ("POST", "/v1/payments", "[1]", "The body must be a JSON object, not an array."),
    ("POST", "/v1/payments", '"a"', 'The body must be a JSON object, not "a".'),
    ("POST", "/v1/payments", "null", "The body must be a JSON object, not null."),
    ("POST", "/v1/payments", "1e5", "The body must be a JSON object, not 1e5."),
    ("POST", "/v1/payments", "{}", "The body must have the field `payment`."),
    (
        *("POST", "/v1/payments", '{"payment": 1, "datum": 1}'),
        'The body has the unknown field "datum"; known are `payment`, `data`.',
    ),
    ("POST", "/v1/payments", '{"payment": true}', f"`payment` {PAYMENT} true."),
    ("POST", "/v1/payments", '{"payment": [1]}', f"`payment` {PAYMENT} an array."),
    ("POST", "/v1/payments", '{"payment": {}}', f"`payment` {PAYMENT} an object."),
    (
        *("POST", "/v1/payments", '{"payment": 100000}'),
        "`payment` must be between 0.00 and 99999.99, not 100000.",
    ),
    (
        *("POST", "/v1/payments", f'{{"payment": {"9" * 5000}}}'),
        "`payment` must be between 0.00 and 99999.99, not 9999....",
    ),
    (
        *("POST", "/v1/payments", '{"payment": "1,234"}'),
        (
            '`payment` "1,234" could have thousands or three decimals: write thousands as in 1234'
            " or 1.234,00, and at most two decimals."
        ),
    ),
    (
        *("POST", "/v1/payments", '{"payment": "12.345"}'),
        (
            '`payment` "12.345" could have thousands or three decimals: write thousands as in 1234'
            " or 1.234,00, and at most two decimals."
        ),
    ),
    (
        *("POST", "/v1/payments", '{"payment": "1.234.567"}'),
        '`payment` must look like 12345.67 or 12.345,67, not like "1.234.567".',
    ),
    (
        *("POST", "/v1/payments", '{"payment": "-1.234"}'),
        '`payment` must be between 0.00 and 99999.99, not "-1.234".',
    ),
    (
        *("POST", "/v1/payments", '{"payment": 0.30000000000000004}'),
        (
            "`payment` must have at most two decimals, unlike 0.30000000000000004; it is never"
            ' rounded. Send a string, such as "0.30".'
        ),
    ),
    (
        *("POST", "/v1/payments", '{"payment": "0.305"}'),
        '`payment` must have at most two decimals, unlike "0.305"; it is never rounded.',
    ),
    (
        *("POST", "/v1/payments", '{"payment": "R$ 5"}'),
        '`payment` must look like 12345.67 or 12.345,67, not like "R$ 5".',
    ),
    ("PATCH", "/v1/payments/1", "{}", "The body must have the field `status`."),
    (
        *("PATCH", "/v1/payments/1", '{"status": "paid"}'),
        '`status` must be `inserted` or `consumed`, not "paid".',
    ),
    (
        *("PATCH", "/v1/payments/1", '{"status": 1.50}'),
        "`status` must be `inserted` or `consumed`, not 1.50.",
    ),
    (
        *("PUT", "/update/1", '{"status": null}'),
        "`status` must be `inserted` or `consumed`, not null.",
    ),
    (
        *("POST", "/create", '{"status": "paid", "status": "consumed"}'),
        "The body has a field twice; send it once.",
    ),
    (
        *("POST", "/v1/consumptions", '{"limit": 1001}'),
        "`limit` must be a whole number from 1 to 1000, not 1001.",
    ),
    (
        *("POST", "/v1/consumptions", '{"limit": "5"}'),
        '`limit` must be a whole number from 1 to 1000, not "5".',
    ),
]

QUERIES = [
    "limit=10000",
    "limit=abc",
    "limit=",
    "limit=1&limit=1",
    "cursor=abc",
    "cursor=",
    "created_after=2026-01-01T00:00:00+00:00",
    "created_before=yesterday",
    "created_before=9999-12-31T23:59:59-12:00",
    "status=paid",
    "order=up",
    "created_by=",
    "created_by=%00",
    "idempotency_key=%0A",
    "offset=5",
    "%00=1",
]


@pytest.mark.parametrize(("method", "path", "body", "message"), BODIES)
async def test_a_body(shared: Api, method: str, path: str, body: str | bytes, message: str) -> None:
    answer = await shared.send(method, path, body)
    assert answer.json()["detail"] == message
    problem(answer, answer.status_code, answer.json()["type"].removeprefix("/problems/"))
    assert answer.status_code == (
        400 if message.startswith(("The body is not", "The body is empty")) else 422
    )


KEY = (
    f"The key must have {len(secrets.token_urlsafe(32))} characters: letters, digits, `-` and `_`,"
    " without quotes."
)
SEND_A_KEY = "Send `Authorization: Bearer <key>`."
IDEMPOTENCY_KEY = "`Idempotency-Key` must have 1 to 255 printable ASCII characters"


@pytest.mark.parametrize(
    ("header", "value", "status", "message"),
    [
        ("Authorization", "", 401, SEND_A_KEY),
        ("Authorization", f"Basic {'x' * 43}", 401, SEND_A_KEY),
        ("Authorization", "x" * 43, 401, SEND_A_KEY),
        ("Authorization", "Bearer", 401, KEY),
        ("Authorization", "Bearer x", 401, KEY),
        ("Authorization", f"Bearer {'x' * 42}", 401, KEY),
        ("Authorization", f'Bearer "{"x" * 43}"', 401, KEY),
        ("Authorization", f"Bearer {'x' * 42}+", 401, KEY),
        ("Idempotency-Key", "x" * 256, 422, f"{IDEMPOTENCY_KEY}, not 256."),
        ("Idempotency-Key", "", 422, f"{IDEMPOTENCY_KEY}, not 0."),
        ("Idempotency-Key", "a\tb", 422, f'{IDEMPOTENCY_KEY}, unlike "a\\tb".'),
    ],
)
async def test_a_header(shared: Api, header: str, value: str, status: int, message: str) -> None:
    answer = await shared.create({"payment": 1}, **{header: value})
    assert (answer.status_code, answer.json()["detail"]) == (status, message)


@pytest.mark.parametrize(
    "path", ["/v1/payment", "/v1/payments/", "/v1/payments/abc", "/v1/payments/0"]
)
async def test_a_path(shared: Api, path: str) -> None:
    answer = await shared.send("GET", path)
    assert problem(answer, 404, "not-found")["detail"] == (
        "No operation has this path. An id is a whole number from 1; a path has no `/` at its end."
    )


LENGTH = "The header Content-Length must be one whole number of bytes."
EITHER = "Send either Transfer-Encoding or Content-Length, not both."


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", EITHER),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", EITHER),
        ("Content-Length: five", LENGTH),
        ("Content-Length: 5\r\nContent-Length: 5", LENGTH),
        ("Content-Length:", LENGTH),
        ("Content-Length: 99999999999999999999", LENGTH),
        ("a b: c", "This is not a request in HTTP/1.1."),
    ],
)
async def test_fields_of_http(shared: Api, fields: str, message: str) -> None:
    answer = await send_raw(shared.url, f"POST /v1/payments HTTP/1.1\r\nHost: a\r\n{fields}")
    assert (answer.status_code, answer.json()["detail"]) == (400, message)


@pytest.mark.parametrize("query", QUERIES)
async def test_a_query(shared: Api, query: str) -> None:
    answer = await shared.send("GET", f"/v1/payments?{query}")
    detail = problem(answer, 422, "invalid-request")["detail"]
    assert not FOREIGN.search(detail), detail
    assert "`" in detail
    assert detail.isprintable()


_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
_body = st.one_of(
    _value.map(json.dumps),
    st.dictionaries(
        st.sampled_from(["payment", "status", "limit", "other"]), _value, max_size=3
    ).map(json.dumps),
    st.text('{}[]",:\\ud8e1-NaIl', max_size=12),
).map(str.encode) | st.binary(max_size=20)


@settings(max_examples=500, deadline=None)
@given(body=_body)
@example(body=b'{"status": "\\ud800"}')
@example(body=b'{"status": "' + b"x" * 5000 + b'"}')
def test_any_body(body: bytes) -> None:
    for shape in (
        models.NewPayment,
        models.LegacyNewPayment,
        models.StatusChange,
        models.ConsumptionRequest,
    ):
        told = _told(body, shape)
        # What was sent is in quotes; what is left are the service's own words.
        own = re.sub(r'"(?:[^"\\]|\\.)*"', "", told)
        assert not FOREIGN.search(own), told
        assert len(told) < 300, told
        assert told.isprintable(), told
        assert "twice" not in told, told


def _told(body: bytes, shape: type[Any]) -> str:
    try:
        models.decode(body, shape)
    except errors.Problem as refused:
        return refused.detail
    return ""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Literal["a"], "`a`"),
        (Literal["a", "b", "c"], "`a`, `b` or `c`"),
        (bool, "`true` or `false`"),
        (Annotated[int, Meta(ge=1, le=5)], "a whole number from 1 to 5"),
        (Annotated[int, Meta(ge=1)], "a whole number from 1 on"),
        (Annotated[float, Meta(gt=0, le=3600)], "a number above 0, at most 3600"),
        (Annotated[str, Meta(pattern="x", examples=["xyz"])], "text such as xyz"),
    ],
)
def test_the_values_of_a_type_in_words(kind: Any, words: str) -> None:
    assert expected.values(kind) == words


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("PAYMENTS_HTTP_PORT", "http", "must be a whole number from 0 to 65535"),
        ("PAYMENTS_AUTHENTICATION", "maybe", "must be `true` or `false`"),
        ("PAYMENTS_LOG_LEVEL", "info", "must be `DEBUG`, `INFO`, `WARNING` or `ERROR`"),
        ("PAYMENTS_LOCK_TIMEOUT_SECONDS", "0", "must be a number above 0, at most 3600"),
        ("PAYMENTS_POOL_SIZE", "0", "must be a whole number from 1 on"),
        ("PAYMENTS_OTLP_ENDPOINT", "collector", "must be text such as http://collector:4318"),
        ("PAYMENTS_DATABASE_IAM_REGION", "x", "must be text such as sa-east-1"),
        ("PAYMENTS_DATABASE_URL", "", "is not postgresql://user@host:port/name"),
    ],
)
def test_a_setting(variable: str, text: str, message: str) -> None:
    url = {"PAYMENTS_DATABASE_URL": "postgresql://u@host/payments"}
    with pytest.raises(config.SettingsError) as raised:
        config.load(url | {variable: text})
    assert str(raised.value) == f"{variable} {message}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("4111111111111111", '"4111..."'),
        ("4111 1111 1111 1111", '"4111..."'),
        ("no. 4111-1111-1111-1111, 3 times", '"no. 4111..., 3 times"'),
        ("4" * 200, '"4444..."'),
        ("4111111111111111.50", '"4111....50"'),
        ("411111111111.50", '"4111....50"'),
        ("0.30000000000000004", '"0.30000000000000004"'),
        ("no. 1.50 4111111111111111", '"no. 1.50 4111..."'),
        ("100000.01", '"100000.01"'),
        ("2026-01-31 12:00:00", '"2026-01-31 12:00:00"'),
    ],
)
def test_no_number_of_a_card_is_repeated(text: str, shown: str) -> None:
    assert quoted(text) == shown
