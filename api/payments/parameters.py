"""Query parameters: from text to values, or a message that says which values are right."""

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Annotated, TypeVar
from urllib.parse import parse_qsl

import msgspec

from payments.errors import InvalidRequest, quoted
from payments.expected import either

Choice = TypeVar("Choice", bound=str)
Time = Annotated[datetime, msgspec.Meta(tz=True)]

_DIGITS = re.compile(r"[0-9]{1,9}")
# In a query, `+` is a space: an offset that is not encoded arrives as ` 00:00`.
_LOST_PLUS = re.compile(r".*[0-9] [0-9]{2}:[0-9]{2}")


def parse_query(query_string: str, known: Collection[str]) -> dict[str, str]:
    """Returns each parameter's text by its name.

    Raises:
        InvalidRequest: a parameter is not one of the known ones, or stands twice.
    """
    parameters: dict[str, str] = {}
    for name, text in parse_qsl(query_string, keep_blank_values=True):
        if name not in known:
            names = ", ".join(f"`{name}`" for name in known)
            raise InvalidRequest(f"The parameter {quoted(name)} is unknown; known are {names}.")
        if name in parameters:
            raise InvalidRequest(f"The parameter `{name}` is given twice; send it once.")
        parameters[name] = text
    return parameters


def parse_choice(name: str, text: str, choices: Sequence[Choice]) -> Choice:
    """Returns the choice that the text is.

    Raises:
        InvalidRequest: it is none of them.
    """
    for choice in choices:
        if text == choice:
            return choice
    raise InvalidRequest(f"`{name}` must be {either(choices)}, not {quoted(text)}.")


def parse_limit(name: str, text: str, most: int) -> int:
    """Returns the whole number, 1 to `most`.

    Raises:
        InvalidRequest: it is no number, or another one.
    """
    if not _DIGITS.fullmatch(text) or not 1 <= int(text) <= most:
        raise InvalidRequest(
            f"`{name}` must be a whole number from 1 to {most}, not {quoted(text)}."
        )
    return int(text)


def parse_time(name: str, text: str) -> datetime:
    """Returns the time of RFC 3339, in UTC.

    Raises:
        InvalidRequest: it is none, has no offset, or is not in the years 1 to 9999 of UTC.
    """
    try:
        return msgspec.convert(text, Time).astimezone(UTC)
    except msgspec.ValidationError:
        advice = " Send the `+` of an offset as `%2B`." if _LOST_PLUS.fullmatch(text) else ""
        raise InvalidRequest(
            f"`{name}` must be a time with an offset, such as 2026-01-31T12:00:00Z,"
            f" not {quoted(text)}.{advice}"
        ) from None
    except OverflowError:
        raise InvalidRequest(
            f"`{name}` must be in the years 1 to 9999 of UTC, which {quoted(text)} is not."
        ) from None


def parse_printable(name: str, text: str, most: int) -> str:
    """Returns the text, 1 to `most` printable ASCII characters.

    Raises:
        InvalidRequest: it is empty, longer, or holds another character.
    """
    rule = f"`{name}` must have 1 to {most} printable ASCII characters"
    if not text.isascii() or not text.isprintable():
        raise InvalidRequest(f"{rule}, unlike {quoted(text)}.")
    if not 1 <= len(text) <= most:
        raise InvalidRequest(f"{rule}, not {len(text)}.")
    return text
