"""Bodies that are not JSON, or that are and should not be: refused with a reason, never a 5xx."""

import asyncio
import codecs
import json
import math
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from payments import models
from payments.expected import shown
from tests import PATIENCE_SECONDS
from tests.conftest import Api, Database, Serve, client, problem

LIMIT = 64 * 1024

# Each route that takes a body, and a body that it takes.
ROUTES = {
    ("POST", "/v1/payments"): b'{"payment": 1}',
    ("PATCH", "/v1/payments/{id}"): b'{"status": "consumed"}',
    ("POST", "/create"): b'{"payment": 1}',
    ("PUT", "/update/{id}"): b'{"status": "consumed"}',
}
each_route = pytest.mark.parametrize(("method", "path"), ROUTES)


def exactly(text: str | bytes) -> Any:
    """Returns JSON with its numbers as exact values."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_int=Decimal, parse_float=Decimal, parse_constant=refuse)


async def kept(api: Api, data: str) -> Any:
    """Sends `data`, reads it back on every way there is, and returns it."""
    answer = await api.send("POST", "/v1/payments", f'{{"payment": 1, "data": {data}}}')
    assert answer.status_code == 201, answer.text
    read = await api.send("GET", answer.headers["Location"])
    assert read.content == answer.content
    return exactly(answer.content)["data"]


async def refused(api: Api, data: str, says: str) -> None:
    """Checks that both ways to make a payment refuse `data` and tell why."""
    for path in ("/v1/payments", "/create"):
        answer = await api.send("POST", path, f'{{"payment": 1, "data": {data}}}')
        assert says in problem(answer, 422, "invalid-request")["detail"]


# What is not JSON


@each_route
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"nonsense",
        b'{"payment": 1',
        b'{"payment": 1,}',
        b'{"payment": 1}}',
        b'{"payment": 1} {"payment": 1}',
        b"{'payment': 1}",
        b"{payment: 1}",
        b'{"payment": 1 "data": 2}',
        b'{"payment": NaN}',
        b'{"data": -Infinity, "payment": 1}',
        b'{"data": 01, "payment": 1}',
        b'{"data": "\n", "payment": 1}',
        b'{"data": "\x00", "payment": 1}',
        b'{"data": "\\x", "payment": 1}',
        b'{"data": "\\u12", "payment": 1}',
        b'{"data": nul, "payment": 1}',
        b'{"data": tru, "payment": 1}',
        b'{"data": [1,], "payment": 1}',
        b'{"data": {"a"}, "payment": 1}',
        b'{"data": {"a": 1,}, "payment": 1}',
        b'{"data": {1: 1}, "payment": 1}',
        b'{"data": -, "payment": 1}',
        b'{"data": 1.e5, "payment": 1}',
        b'{"data": 1e, "payment": 1}',
        b'// comment\n{"payment": 1}',
        b'{"payment": 1, "data": "\xff"}',
        b'{"payment": 1, "data": "\xc3"}',
        b'{"payment": 1, "data": "\xc0\x80"}',
        b'{"payment": 1, "data": "\xed\xa0\x80"}',
        codecs.BOM_UTF8 + b'{"payment": 1}',
        '{"payment": 1}'.encode("utf-16"),
        '{"payment": 1}'.encode("utf-16-le"),
        '{"payment": 1}'.encode("utf-32"),
        b"[" * 60_000,
        b'{"data": ' + b"[" * 60_000,
        b"\x00" * 100,
    ],
    ids=repr,
)
async def test_not_json(shared: Api, method: str, path: str, body: bytes) -> None:
    answer = await shared.send(method, path.format(id=1), body)
    if body.endswith(b"[" * 60_000):
        # Whether it is JSON is not looked at as far as that.
        assert answer.status_code in (400, 422)
    else:
        problem(answer, 400, "malformed-request")


@each_route
@pytest.mark.parametrize(
    "body",
    [b"null", b"[]", b"1", b'"text"', b"true", b'{"unknown": 1}', b'[{"payment": 1}]'],
    ids=repr,
)
async def test_json_of_another_shape(shared: Api, method: str, path: str, body: bytes) -> None:
    problem(await shared.send(method, path.format(id=1), body), 422, "invalid-request")


# What is JSON, and more than it should be


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "document", [nested(32), '{"a":' * 31 + "[]" + "}" * 31, f'["{"[" * 99}"]']
)
async def test_32_levels(shared: Api, document: str) -> None:
    assert await kept(shared, document) == exactly(document)


@pytest.mark.parametrize(
    "document",
    [nested(33), nested(20_000), '{"a":' * 33 + "1" + "}" * 33, f"[{nested(5)},{nested(32)}]"],
)
async def test_33_levels(shared: Api, document: str) -> None:
    await refused(shared, document, "32 levels")


@each_route
async def test_deep_where_nothing_is_deep(shared: Api, method: str, path: str) -> None:
    for name in ("payment", "status", "unknown"):
        body = f'{{"{name}": {nested(30_000)}}}'
        problem(await shared.send(method, path.format(id=1), body), 422, "invalid-request")


@pytest.mark.parametrize(
    "document",
    [r'"\u0000"', r'{"\u0000": 1}', r'["a", {"b": "x\u0000y"}]', r'"\\\u0000"', r'"\"\u0000"'],
)
async def test_nul(shared: Api, document: str) -> None:
    await refused(shared, document, "U+0000")


@pytest.mark.parametrize("document", [r'"\\u0000"', r'{"\\u0000": "\\\\u0000"}'])
async def test_a_backslash_before_u0000_is_no_nul(shared: Api, document: str) -> None:
    assert await kept(shared, document) == exactly(document)


@pytest.mark.parametrize(
    "document",
    [
        r'"\ud800"',
        r'"\uDFFF"',
        r'"\udc00\ud800"',
        r'"\ud800\ud800"',
        r'"\ud800x"',
        r'{"\udbff": 1}',
        r'"\ud83d\n"',
    ],
)
async def test_half_a_surrogate_pair(shared: Api, document: str) -> None:
    await refused(shared, document, "surrogate")


@pytest.mark.parametrize(
    "document",
    [
        r'"\ud83d\ude00"',
        '"😀"',
        r'"\\ud800"',
        r'"\u00e9"',
        '"\x7f\u2028\ufeff\uffff"',
        r'"\/\b\f\n\r\t"',
    ],
)
async def test_characters_that_are_fine(shared: Api, document: str) -> None:
    assert await kept(shared, document) == exactly(document)


DIGITS_330 = "3." + "1" * 328


@pytest.mark.parametrize(
    "document",
    [
        "1.7976931348623157e308",
        "-1.7976931348623157E+308",
        "2.2250738585072014e-308",
        "-5e-324",
        "9" * 308,
        DIGITS_330,
        f"{DIGITS_330[:-4]}e-1",
        "0." + "0" * 300 + "1e300",
        "1e-328",
        "12345678901234567890.12345678901234567890",
        "-0",
        "-0.0",
        "0e10",
        "0e-328",
        "0e0000000000000000000000",
        "[1e3, 1.0, 1.00]",
        "0.1",
        f'["{"9" * 5000}", "1e400", {{"{"9" * 5000}": 1}}]',
    ],
    ids=lambda text: text[:12],
)
async def test_numbers_are_kept_exactly(shared: Api, document: str) -> None:
    assert await kept(shared, document) == exactly(document)


@pytest.mark.parametrize(
    "number",
    [
        "1e400",
        "-1E+400",
        "1.8e308",
        "18" + "0" * 307,
        "1e-329",
        "1e-400",
        "0e-329",
        "0e999999",
        "1e16000",
        "1e99999999999999999999",
        "0e99999999999999999999",
        "1e-99999999999999999999",
        "9" * 5000,
        "0." + "3" * 20_000,
        f"{DIGITS_330}1",
        "0." + "0" * 290 + "1e-40",
    ],
    ids=lambda text: text[:12],
)
async def test_numbers_that_not_every_client_can_read(shared: Api, number: str) -> None:
    for document in (number, f'{{"a": ["{number}", {number}]}}'):
        await refused(shared, document, f"`data` holds the number {shown(number)}, which")


async def test_numbers_that_are_long_together_once_written_out(shared: Api) -> None:
    await refused(shared, "[" + ",".join(["1e300"] * 300) + "]", "64 KiB")
    document = "[" + ",".join(["1e300"] * 200) + "]"
    assert await kept(shared, document) == exactly(document)


@pytest.mark.parametrize(
    ("stored", "answered"),
    [
        ("1e16000", f'"1{"0" * 16_000}"'),
        ("-18" + "0" * 307, f'"-18{"0" * 307}"'),
        (f"{DIGITS_330}1", f'"{DIGITS_330}1"'),
        # Readable ones, and what is in a string or is a name.
        ("17" + "0" * 307, "17" + "0" * 307),
        (DIGITS_330, DIGITS_330),
        (f'"\\"1{"0" * 400}"', f'"\\"1{"0" * 400}"'),
    ],
    ids=lambda text: text[:12],
)
async def test_what_an_older_version_stored_breaks_no_page(
    api: Api, database: Database, stored: str, answered: str
) -> None:
    data = f'{{"9{"0" * 400}": [{stored}, {stored}], "b": 1}}'
    await database.fetch(
        "INSERT INTO payments (created_by, payment, data) VALUES ('shop', 1, $1::text::jsonb)", data
    )
    await api.payment()
    for path in ("/v1/payments/1", "/v1/payments", "/list"):
        answer = await api.send("GET", path)
        assert f": [{answered}, {answered}]" in answer.text
        json.loads(answer.content)
    consumed = await api.send("PATCH", "/v1/payments/1", '{"status": "consumed"}')
    assert f": [{answered}, {answered}]" in consumed.text


def test_it_is_found_wherever_it_stands() -> None:
    number = "18" + "0" * 307
    for before in range(100):
        for after in range(30):
            data = f'["{"x" * before}", {number}, "{"x" * after}"]'
            assert models.readable(data) == data.replace(number, f'"{number}"')


_digits = st.text("0123456789", min_size=1, max_size=340)
_long_number = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.just("0") | st.builds("{}{}".format, st.integers(1, 9), st.just("") | _digits),
    st.just("") | _digits.map(".{}".format),
    st.just("") | st.integers(-700, 700).map("e{}".format),
)


def _is_readable(number: str) -> bool:
    """Returns whether each client can read the number, as it is sent and as it is answered."""
    written = f"{Decimal(number):f}"
    return max(len(number), len(written)) <= 330 and math.isfinite(float(number))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(number=_long_number | st.floats(allow_nan=False, allow_infinity=False).map(repr))
@example(number="-2.2250738585072014e-308")
@example(number="5e-324")
async def test_whatever_number_is_taken_every_client_can_read(shared: Api, number: str) -> None:
    answer = await shared.send("POST", "/v1/payments", f'{{"payment": 1, "data": [{number}]}}')
    if answer.status_code == 422:
        # A zero's exponent may not be large either.
        assert not _is_readable(number) or not float(number), number
        return
    assert answer.status_code == 201, answer.text
    assert _is_readable(number), number
    await shared.send("DELETE", answer.headers["Location"])
    # With Python's limits as they are, and as the double that every other client reads.
    [read] = json.loads(answer.content)["data"]
    assert float(read) == float(number)
    [text] = json.loads(answer.content, parse_int=str, parse_float=str)["data"]
    assert (len(text) <= 330, Decimal(text)) == (True, Decimal(number))


@pytest.mark.parametrize(
    "document", ["null", "{}", "[]", '""', "0", "false", '{"": null}', ' {"a" : 1 } ']
)
async def test_any_json_value(shared: Api, document: str) -> None:
    assert await kept(shared, document) == exactly(document)


async def test_of_duplicate_names_the_last_counts(shared: Api) -> None:
    assert await kept(shared, '{"a": 1, "b": 2, "a": 3}') == {"a": 3, "b": 2}
    answer = await shared.send("POST", "/v1/payments", '{"payment": 1, "payment": 2}')
    assert answer.is_client_error or answer.json()["payment"] == 2


# Content types


@each_route
@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
    ],
)
async def test_json_content_types(api: Api, method: str, path: str, content_type: str) -> None:
    made = await api.payment()
    answer = await api.send(
        method, path.format(id=made["id"]), ROUTES[method, path], Content_Type=content_type
    )
    assert answer.is_success, answer.text


@each_route
async def test_no_content_type(api: Api, method: str, path: str) -> None:
    made = await api.payment()
    answer = await api.http.request(
        method, path.format(id=made["id"]), content=ROUTES[method, path]
    )
    assert "Content-Type" not in answer.request.headers
    assert answer.is_success, answer.text


@each_route
@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/json",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/jsonx",
        "application/problem+json",
        "json",
        "*/*",
        ";",
        "application/json, text/plain",
    ],
)
async def test_other_content_types(shared: Api, method: str, path: str, content_type: str) -> None:
    answer = await shared.send(
        method, path.format(id=1), ROUTES[method, path], Content_Type=content_type
    )
    problem(answer, 415, "unsupported-media-type")


# Sizes


def sized(length: int) -> bytes:
    body = b'{"payment": 1, "data": ""}'
    return body[:-2] + b"x" * (length - len(body)) + body[-2:]


async def chunks(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("path", ["/v1/payments", "/create"])
async def test_64_kib(shared: Api, path: str) -> None:
    for content in (sized(LIMIT), chunks(sized(LIMIT), 10_000), chunks(b'{"payment": 1}', 1)):
        answer = await shared.http.post(path, content=content)
        assert answer.is_success, answer.text


@each_route
async def test_more_than_64_kib(shared: Api, method: str, path: str) -> None:
    for content in (
        sized(LIMIT + 1),
        chunks(sized(LIMIT + 1), 10_000),
        chunks(bytes(10**6), 70_000),
    ):
        answer = await shared.http.request(method, path.format(id=1), content=content)
        problem(answer, 413, "body-too-large")


async def test_a_body_that_never_ends_is_answered(shared: Api) -> None:
    host, port = shared.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /v1/payments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shared.key}\r\n"
        f"Content-Length: {10**12}\r\n\r\n".encode()
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert b" 413 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_is_cut_makes_no_payment(start: Serve, database: Database) -> None:
    url, key = await start(), await database.key()
    host, port = url.removeprefix("http://").split(":")
    for framing, body in (
        ("Content-Length: 40", b'{"payment": 1}'),
        ("Transfer-Encoding: chunked", b'e\r\n{"payment": 1}\r\n'),
    ):
        _, writer = await asyncio.open_connection(host, int(port))
        fields = ("Host: x", f"Authorization: Bearer {key}", framing)
        head = "\r\n".join(("POST /v1/payments HTTP/1.1", *fields, "", ""))
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    async with client(url, key) as api:
        assert (await api.send("GET", "/livez")).status_code == 200
        assert (await api.send("GET", "/v1/payments")).json()["items"] == []


# Anything at all


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)


def _spread(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)


def _array(numbers: list[str]) -> str:
    return f"[{','.join(numbers)}]"


# Named functions: Hypothesis parses the source of a lambda to describe it, which CPython 3.11.7 can
# fail at beside another thread (SystemError: AST constructor recursion depth mismatch).
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    _nested,
    max_leaves=12,
)
_number = st.from_regex(r"\A-?(0|[1-9][0-9]{0,6})(\.[0-9]{1,6})?([eE][+-]?[0-9]{1,5})?\Z")
_documents = st.one_of(
    _json.map(json.dumps),
    _json.map(_spread),
    _number,
    st.lists(_number, max_size=3).map(_array),
    st.text('{}[]",:\\u0d8Ce+-.truefalsn 1', max_size=20),
)


def _has_nul_or_half_a_pair(value: Any) -> bool:
    match value:
        case str():
            return "\0" in value or any("\ud800" <= character <= "\udfff" for character in value)
        case list():
            return any(map(_has_nul_or_half_a_pair, value))
        case dict():
            return any(map(_has_nul_or_half_a_pair, [*value, *value.values()]))
        case _:
            return False


@settings(
    max_examples=250,
    deadline=None,
    # One server for all examples is what is wanted here.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(document=_documents)
@example(document="[1e-300]")
@example(document='{"\\u0061": 1, "a": 2}')
@example(document='1, "data": 2')
async def test_any_document_is_kept_or_refused(shared: Api, document: str) -> None:
    body = f'{{"payment": 1, "data": {document}}}'
    answer = await shared.send("POST", "/v1/payments", body)
    assert answer.is_success or answer.is_client_error, (document, answer.text)
    try:
        sent = exactly(body)["data"]
    except ValueError:
        problem(answer, 400, "malformed-request")
        return
    if answer.is_success:
        assert exactly(answer.content)["data"] == sent, document
        await shared.send("DELETE", answer.headers["Location"])
    else:
        # Whatever is refused has a reason.
        large = re.search(r"[eE][+-]?[0-9]{3}", document)
        assert large or _has_nul_or_half_a_pair(sent), (document, answer.text)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.binary(max_size=60) | st.text(max_size=40).map(str.encode),
    route=st.sampled_from([*ROUTES]),
)
async def test_any_bytes_are_refused(shared: Api, body: bytes, route: tuple[str, str]) -> None:
    method, path = route
    answer = await shared.send(method, path.format(id=1), body)
    # `{}` is all that an old client has to send.
    assert answer.status_code in (400, 422) or json.loads(body) == {}, answer.text
