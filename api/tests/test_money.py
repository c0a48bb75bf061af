"""The value of a payment: refused, or kept to the cent, however it is spelled."""

import json
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from payments import errors, models
from tests.conftest import Api, Database, problem

MANY_NINES = "9" * 5000
MANY_ZEROS = "0" * 5000


class Number(str):
    """A JSON number as it was spelled."""

    __slots__ = ()


def exact(digits: str, decimals: str, exponent: str) -> Decimal | None:
    """Returns the value, or None if it has a third decimal or is out of range.

    Works on the places of the digits alone, so that no exponent is too large.
    """
    power = int(exponent or 0)
    places = {
        len(digits) - 1 - index + power: digit
        for index, digit in enumerate(digits + decimals)
        if digit != "0"
    }
    if not places:
        return Decimal("0.00")
    if min(places) < -2 or max(places) > 4:
        return None
    cents = "".join(places.get(place, "0") for place in range(4, -3, -1))
    return Decimal(cents) / 100


def meant(value: Any) -> Decimal | None:
    """Returns what the JSON value of `payment` means by DESIGN.md, or None if it is refused."""
    if not isinstance(value, str):
        return None
    plain = re.fullmatch(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?", value)
    if plain is None and not isinstance(value, Number):
        local = re.fullmatch(r"(-?)([0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+),([0-9]+)()", value)
        plain = local
    if plain is None:
        return None
    sign, digits, decimals, exponent = plain.groups()
    amount = exact(digits.replace(".", ""), decimals or "", exponent or "")
    return None if sign and amount else amount


def parsed(body: str) -> Any:
    """Returns the body as JSON, numbers as they are spelled, or None if it is none."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        return json.loads(body, parse_int=Number, parse_float=Number, parse_constant=refuse)
    except ValueError:
        return None


def spelled(amount: Decimal | None) -> str:
    """Returns how every answer has to spell the value."""
    return f'"payment":{"null" if amount is None else f"{amount:.2f}"},'


_digits = st.text("0123456789", min_size=1, max_size=9)
_sign = st.sampled_from(["", "", "", "-", "+"])
_exponent = st.one_of(
    st.just(""),
    st.integers(-8, 8).map("e{}".format),
    st.integers(-(10**20), 10**20).map("E{}".format),
)
_number = st.builds(
    "{}{}{}{}".format, _sign, _digits, st.just("") | _digits.map(".{}".format), _exponent
)
_cents = st.integers(0, 9_999_999)
_canonical = _cents.map(lambda cents: f"{cents / 100:.2f}")
_local = _cents.map(lambda cents: f"{cents / 100:,.2f}".translate(str.maketrans(",.", ".,")))
_string = st.one_of(
    _number,
    _canonical,
    _local,
    _local.map(lambda text: text.replace(".", "")),
    st.text("0123456789.,-+eE ", max_size=12),
    st.text(st.characters(categories=["Nd"]), min_size=1, max_size=6),
    st.text(max_size=8),
).map(json.dumps)
_text = st.one_of(
    _number,
    _canonical,
    _string,
    st.recursive(
        st.none() | st.booleans() | st.floats(), lambda inner: st.lists(inner, max_size=2)
    ).map(json.dumps),
    st.text('0123456789.,-+eE"{}[]: ntfN', max_size=10),
)


@pytest.fixture
async def administrator(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the service's database, for all examples."""
    async with database.connect() as connection:
        yield connection


@settings(
    max_examples=300,
    deadline=None,
    # One server for all examples is what is wanted here.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=_text)
@example(text=MANY_NINES)
@example(text=f"1.{MANY_ZEROS}")
@example(text=f"0.{MANY_ZEROS}1")
@example(text=f"{MANY_ZEROS}1e-5000")
@example(text=f"1{MANY_ZEROS}e-5000")
@example(text=f'"1{MANY_ZEROS}e-5000"')
@example(text="1e-400")
@example(text="1e-99999999999999999999")
@example(text="0e99999999999999999999")
@example(text='"1e-99999999999999999999"')
@example(text="1e99999999999999999999")
@example(text="-0")
@example(text="NaN")
@example(text='"NaN"')
@example(text='"Infinity"')
@example(text="null")
@example(text='"12.345,67"')
@example(text='"0.001,00"')
@example(text='"5.000"')
@example(text='"\u0661\u0662,50"')
@example(text='"\uff11"')
@example(text='"\\u0031"')
@example(text='1, "payment": 2')
async def test_a_value_is_refused_or_kept(
    api: Api, administrator: asyncpg.Connection, text: str
) -> None:
    body = f'{{"payment": {text}}}'
    document = parsed(body)
    amount = meant(document.get("payment")) if isinstance(document, dict) else None
    for route in ("/v1/payments", "/create"):
        await administrator.fetch("DELETE FROM payments")
        answer = await api.send("POST", route, body)
        if answer.is_client_error:
            assert not await administrator.fetch("SELECT FROM payments"), text
            continue
        assert answer.is_success, (text, answer.text)
        if amount is None:
            # Only the old route takes none, and only if none was sent.
            assert route == "/create", text
            assert document["payment"] is None
        [row] = await administrator.fetch("SELECT id, payment::text FROM payments")
        assert row["payment"] == (None if amount is None else f"{amount:.2f}"), text
        assert spelled(amount) in answer.text, text
        for path in (f"/v1/payments/{row['id']}", "/v1/payments", "/list"):
            assert spelled(amount) in (await api.send("GET", path)).text, (path, text)


def forms(cents: int) -> list[str]:
    """Returns the spellings in JSON of an amount."""
    amount = Decimal(cents) / 100
    plain = f"{amount:.2f}"
    local = f"{amount:,.2f}".translate(str.maketrans(",.", ".,"))
    return [
        plain,
        f"{plain}000",
        f"{cents}e-2",
        f"{cents}E-02",
        f"{cents / 10**7:.9f}e+5",
        f'"{plain}"',
        f'"{local}"',
        f'"{local.replace(".", "")}"',
        *([] if cents % 100 else [f"{cents // 100}", f'"{cents // 100}"']),
    ]


@pytest.mark.parametrize("most", ["0.00", "9.99", "49999.99", "99999.99", "100000.00"])
def test_the_highest_value_is_one_constant(monkeypatch: pytest.MonkeyPatch, most: str) -> None:
    monkeypatch.setattr(models, "MOST", Decimal(most))
    limit = int(Decimal(most) * 100)

    @settings(max_examples=100, deadline=None)
    @given(cents=st.integers(0, 10**8) | st.integers(max(0, limit - 200), limit + 200))
    @example(cents=limit)
    @example(cents=limit + 1)
    def each(cents: int) -> None:
        for text in forms(cents):
            if cents > limit:
                with pytest.raises(errors.InvalidRequest, match=f"between 0.00 and {most}, not"):
                    models.value(Raw(text.encode()))
            else:
                assert models.value(Raw(text.encode())) == f"{Decimal(cents) / 100:.2f}", text

    each()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cents=_cents)
@example(cents=0)
@example(cents=1)
@example(cents=9_999_999)
async def test_each_value_is_taken_in_each_form(shared: Api, cents: int) -> None:
    amount = Decimal(cents) / 100
    for text in forms(cents):
        for route in ("/v1/payments", "/create"):
            answer = await shared.send("POST", route, f'{{"payment": {text}}}')
            assert answer.is_success, (text, answer.text)
            assert spelled(amount) in answer.text, text


@pytest.mark.parametrize(
    ("text", "answered"),
    [
        ("0", "0.00"),
        ("-0", "0.00"),
        ("-0.00", "0.00"),
        ("0e5", "0.00"),
        ("1", "1.00"),
        ("1e2", "100.00"),
        ("1E+2", "100.00"),
        ("100000e-1", "10000.00"),
        ("5.000", "5.00"),
        ("0.1", "0.10"),
        ("0.01", "0.01"),
        ("1.005e1", "10.05"),
        ("99999.99", "99999.99"),
        ("99999.9900000", "99999.99"),
        ('"12345.67"', "12345.67"),
        ('"12.345,67"', "12345.67"),
        ('"12345,67"', "12345.67"),
        ('"1234,56"', "1234.56"),
        ('"0,5"', "0.50"),
        ('"5"', "5.00"),
        ('"\\u0035"', "5.00"),
    ],
)
async def test_accepted(shared: Api, text: str, answered: str) -> None:
    answer = await shared.send("POST", "/v1/payments", f'{{"payment": {text}}}')
    assert answer.status_code == 201, answer.text
    assert f'"payment":{answered},' in answer.text


@pytest.mark.parametrize(
    "text",
    [
        "-0.01",
        "-1",
        "0.001",
        "1.999",
        "99999.991",
        "99999.999",
        "99999.995",
        "100000",
        "1e5",
        "1e-3",
        "1e-400",
        "1e400",
        "1e-99999999999999999999",
        MANY_NINES,
        '""',
        '" "',
        '" 1"',
        '"1 "',
        '"1\\n"',
        '"+1"',
        '"R$ 1,00"',
        '"1,"',
        '",1"',
        '".5"',
        '"1."',
        '"NaN"',
        '"Infinity"',
        '"-Infinity"',
        '"sNaN"',
        '"1_000"',
        '"1,234.56"',
        '"12.34,56"',
        '"1.2345,67"',
        # Five, or five thousand: what could mean two values means none.
        '"5.000"',
        '"12.345"',
        '"1.234.567"',
        '"1,500"',
        '"12,000"',
        '"12.345.67"',
        '"12.345,678"',
        '"1,2,3"',
        '"0x10"',
        '"١٢"',
        '"１"',
        '"1e"',
        '"null"',
        "true",
        "[1]",
        '{"value": 1}',
        "null",
    ],
)
async def test_refused(shared: Api, text: str) -> None:
    answer = await shared.send("POST", "/v1/payments", f'{{"payment": {text}}}')
    assert "payment" in problem(answer, 422, "invalid-request")["detail"]


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "+1", "01", ".5", "1.", "1,5", "0x1", ""]
)
async def test_no_json_number(shared: Api, text: str) -> None:
    answer = await shared.send("POST", "/v1/payments", f'{{"payment": {text}}}')
    problem(answer, 400, "malformed-request")


async def test_old_clients_may_send_no_value(api: Api) -> None:
    for body in ("{}", '{"payment": null}'):
        answer = await api.send("POST", "/create", body)
        assert answer.status_code == 200
        assert '"payment":null,' in answer.text
    assert (await api.send("GET", "/list")).text.count('"payment":null,') == 2
