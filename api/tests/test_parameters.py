"""Query parameters: what is taken, and what a caller is told about the rest."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from payments.errors import InvalidRequest
from payments.parameters import (
    parse_choice,
    parse_limit,
    parse_printable,
    parse_query,
    parse_time,
)

ORDERS = ("asc", "desc")


def refused(parse: Callable[..., Any], *arguments: Any) -> str:
    """Returns the message of the refusal."""
    with pytest.raises(InvalidRequest) as raised:
        parse(*arguments)
    return raised.value.detail


def test_each_parameter_by_its_name() -> None:
    text = "status=inserted&created_after=2026-01-01T00%3A00%3A00%2B01:00&limit="
    assert parse_query(text, ("status", "created_after", "limit")) == {
        "status": "inserted",
        "created_after": "2026-01-01T00:00:00+01:00",
        "limit": "",
    }
    assert parse_query("", ("limit",)) == {}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("offset=1", 'The parameter "offset" is unknown; known are `status`, `limit`.'),
        ("=1", 'The parameter "" is unknown; known are `status`, `limit`.'),
        ("%0A=1", r'The parameter "\n" is unknown; known are `status`, `limit`.'),
        ("limit=1&limit=1", "The parameter `limit` is given twice; send it once."),
        ("limit&status=&limit", "The parameter `limit` is given twice; send it once."),
    ],
)
def test_a_query_that_is_refused(query: str, message: str) -> None:
    assert refused(parse_query, query, ("status", "limit")) == message


def test_a_long_name_is_repeated_shortened() -> None:
    assert len(refused(parse_query, "a" * 10_000, ("limit",))) < 200


def test_a_choice() -> None:
    assert [parse_choice("order", text, ORDERS) for text in ORDERS] == ["asc", "desc"]
    for text in ("", "ASC", "asc,desc", " asc"):
        message = refused(parse_choice, "order", text, ORDERS)
        assert message == f'`order` must be `asc` or `desc`, not "{text}".'


@pytest.mark.parametrize(("text", "limit"), [("1", 1), ("1000", 1000), ("0007", 7)])
def test_a_limit(text: str, limit: int) -> None:
    assert parse_limit("limit", text, 1000) == limit


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "+1", "1001", "9" * 40, "abc", "1.0", "1e2", "1_0", " 1", "1\n", "١", "²"],
)
def test_a_limit_that_is_refused(text: str) -> None:
    message = refused(parse_limit, "limit", text, 1000)
    assert message.startswith("`limit` must be a whole number from 1 to 1000, not ")


def test_a_limit_of_any_length_is_refused() -> None:
    assert len(refused(parse_limit, "limit", "9" * 10_000, 1000)) < 200


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456-03:00", datetime(2026, 1, 31, 15, 0, 0, 123456, UTC)),
        ("2026-01-31t12:00:00z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time(text: str, time: datetime) -> None:
    parsed = parse_time("created_after", text)
    assert (parsed, parsed.tzinfo) == (time, UTC)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "1767225600", "2026-01-31", "2026-02-30T00:00:00Z", "infinity"]
)
def test_a_time_that_is_refused(text: str) -> None:
    message = refused(parse_time, "after", text)
    example = "2026-01-31T12:00:00Z"
    assert message == f'`after` must be a time with an offset, such as {example}, not "{text}".'


@pytest.mark.parametrize("offset", ["00:00", "05:30"])
def test_a_plus_that_arrived_as_a_space(offset: str) -> None:
    text = parse_query(f"t=2026-01-31T12:00:00+{offset}", ("t",))["t"]
    message = refused(parse_time, "t", text)
    assert message.endswith(f'T12:00:00 {offset}". Send the `+` of an offset as `%2B`.')


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+12:00", "9999-12-31T23:59:59-12:00"])
def test_a_time_beyond_all_years(text: str) -> None:
    message = refused(parse_time, "t", text)
    assert message == f'`t` must be in the years 1 to 9999 of UTC, which "{text}" is not.'


@pytest.mark.parametrize("text", ["x", "a b~", "k" * 255])
def test_a_printable_text(text: str) -> None:
    assert parse_printable("key", text, 255) == text


@pytest.mark.parametrize("text", ["", "k" * 256])
def test_a_text_that_is_empty_or_too_long(text: str) -> None:
    message = refused(parse_printable, "key", text, 255)
    assert message == f"`key` must have 1 to 255 printable ASCII characters, not {len(text)}."


@pytest.mark.parametrize("text", ["é", "é" * 256, "a\n", "\x00", "\x7f"])
def test_a_text_that_is_not_printable(text: str) -> None:
    message = refused(parse_printable, "key", text, 255)
    assert message.startswith("`key` must have 1 to 255 printable ASCII characters, unlike ")
    assert message.isprintable()
