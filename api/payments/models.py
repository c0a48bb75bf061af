"""The shapes that go in and out, and what counts as a payment's value and as its data."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
from msgspec import Raw

from payments import expected
from payments.errors import InvalidRequest, MalformedRequest, quoted
from payments.expected import shown

Status = Literal["inserted", "consumed"]

Shape = TypeVar("Shape")

CENT = Decimal("0.01")
MOST = Decimal("99999.99")
CONSUMPTION_LIMIT = 1000  # payments, of one call
IDEMPOTENCY_KEY_LENGTH = 255
CLIENT_NAME_LENGTH = 63
DATA_DEPTH = 32
DATA_BYTES = 64 * 1024
# The longest finite double written out (-2.2250738585072014e-308) has 327 characters.
NUMBER_CHARACTERS = 330

_IN_CENTS = re.compile(r"(?:0|[1-9][0-9]{0,9})\.[0-9]{2}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_COMMA_DECIMAL = re.compile(r"-?([0-9]{1,3}(\.[0-9]{3})+|[0-9]+),[0-9]+")
_THOUSANDS_OR_DECIMALS = re.compile(r"[1-9][0-9]{0,2}[.,][0-9]{3}")
# Possessive, and only from where a number begins: otherwise a long one would be read again from
# each of its digits. A double's digits fill 309 places, so that a shorter plain number is one.
_LONG_DIGITS = 309
_DUBIOUS = re.compile(rf"(?<![0-9.])(-?[0-9.]++[eE]([+-]?[0-9]++)|-?[0-9.]{{{_LONG_DIGITS},}}+)")
# As many digits in a row, of which every 30th is looked at.
_STRIDE = 30
_LONG_SAMPLE = re.compile(rf"[0-9.]{{{_LONG_DIGITS // _STRIDE}}}")
_EXPONENT = re.compile(r"[0-9][eE]")
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"')
_STRING_OR_DUBIOUS = re.compile(f"{_STRING.pattern}|{_DUBIOUS.pattern}")
_BRACKET = re.compile(r"[\[\]{}]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Payment(msgspec.Struct, frozen=True):
    """A payment as it is answered; `payment` and `data` are JSON already."""

    id: int
    status: str
    data: Raw
    payment: Raw
    created_at: datetime
    created_by: str
    updated_at: datetime
    consumed_at: datetime | None
    consumed_by: str | None

    @property
    def position(self) -> tuple[datetime, int]:
        """Where it stands in every list and in the queue."""
        return self.created_at, self.id

    @property
    def etag(self) -> str:
        """The strong validator (RFC 9110, 8.8.3): whatever changes a payment moves `updated_at`."""
        return f'"{self.id:x}-{microseconds(self.updated_at):x}"'


class LegacyPayment(msgspec.Struct, frozen=True):
    """A payment as the old routes answer it."""

    id: int
    status: str
    data: Raw
    payment: Raw
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, payment: Payment) -> "LegacyPayment":
        """Returns the payment with the fields that old clients know."""
        return cls(
            payment.id,
            payment.status,
            payment.data,
            payment.payment,
            payment.created_at,
            payment.updated_at,
        )


def microseconds(time: datetime) -> int:
    """Returns the exact number of microseconds since 1970, as PostgreSQL keeps times."""
    return (time - EPOCH) // timedelta.resolution


class NewPayment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/payments`."""

    payment: Raw
    data: Raw = Raw(b"{}")


class LegacyNewPayment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /create`: old clients send anything from `{}` on."""

    payment: Raw = Raw(b"null")
    data: Raw = Raw(b"{}")
    status: Status = "inserted"


class ConsumptionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/consumptions`."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=CONSUMPTION_LIMIT)] = 1


class StatusChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PATCH /v1/payments/{id}` and `PUT /update/{id}`."""

    status: Status


def decode(body: bytes, shape: type[Shape]) -> Shape:
    """Returns the body as `shape`.

    Raises:
        MalformedRequest: it is not JSON in UTF-8 (400).
        InvalidRequest: it is JSON of another shape, too deep, or holds half a surrogate pair (422).
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedRequest(
            f"The body is not UTF-8: its byte {error.start + 1} is 0x{body[error.start]:02x}."
        ) from None
    try:
        return msgspec.json.decode(text, type=shape)
    except msgspec.DecodeError:
        _refuse(text, shape)
    except RecursionError:
        raise _too_deep() from None


def _refuse(text: str, shape: type[Any]) -> NoReturn:
    """Raises why a body is refused: first whether it is JSON at all, then what it should be."""
    if not text.strip():
        raise MalformedRequest("The body is empty; it must be JSON.") from None
    try:
        # This parser lets half a surrogate pair pass; no number is converted.
        body = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
        if _SURROGATE.search(text):
            json.dumps(body, ensure_ascii=False).encode()
        if not isinstance(body, dict):
            given = shown(text.strip())
            raise InvalidRequest(f"The body must be a JSON object, not {given}.") from None
        fields = msgspec.json.decode(text, type=dict[str, Raw])
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedRequest(f"The body is not JSON: there is a mistake at {where}.") from None
    except UnicodeEncodeError:
        raise InvalidRequest("The body must not hold half a surrogate pair.") from None
    except RecursionError:
        raise _too_deep() from None
    raise InvalidRequest(_fault(fields, shape)) from None


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"`data` must have at most {DATA_DEPTH} levels.")


def _refuse_constant(name: str) -> None:
    raise MalformedRequest(f"The body is not JSON: {name} is no JSON value.")


def _fault(body: dict[str, Raw], shape: type[Any]) -> str:
    fields = {field.name: field for field in msgspec.structs.fields(shape)}
    for name in body:
        if name not in fields:
            known = ", ".join(f"`{name}`" for name in fields)
            return f"The body has the unknown field {quoted(name)}; known are {known}."
    for name, field in fields.items():
        if name not in body and field.required:
            return f"The body must have the field `{name}`."
        if name in body and not _fits(body[name], field.type):
            given = shown(bytes(body[name]).decode())
            return f"`{name}` must be {expected.values(field.type)}, not {given}."
    return "The body has a field twice; send it once."


def _fits(value: Raw, kind: Any) -> bool:
    try:
        msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError:
        return False
    return True


def value(raw: Raw) -> str | None:
    """Returns the JSON text of a `payment` with exactly two decimals, or None for `null`.

    Takes a number, or a string in one of the forms `12345.67`, `12345,67` and `12.345,67`.

    Raises:
        InvalidRequest: it is none of these, has a third decimal, or is not within 0 to `MOST`.
    """
    text = bytes(raw).decode()
    if _IN_CENTS.fullmatch(text) and Decimal(text) <= MOST:  # as nearly all are
        return text
    if text == "null":
        return None
    if text[0] == '"':
        plain = _plain(msgspec.json.decode(raw, type=str))
    elif _NUMBER.fullmatch(text):
        plain = text
    else:
        raise InvalidRequest(
            f"`payment` must be a number or a string, such as 12345.67, not {shown(text)}."
        )
    try:
        amount = Decimal(plain)
    except InvalidOperation:
        raise InvalidRequest(f"`payment` has too long an exponent: {shown(text)}.") from None
    if not 0 <= amount <= MOST:
        raise InvalidRequest(f"`payment` must be between 0.00 and {MOST}, not {shown(text)}.")
    cents = abs(amount.quantize(CENT))
    if cents != amount:
        # Calculated with doubles, 0.1 + 0.2 has seventeen decimals.
        advice = "" if text[0] == '"' else ' Send a string, such as "0.30".'
        raise InvalidRequest(
            f"`payment` must have at most two decimals, unlike {shown(text)}; it is never rounded."
            + advice
        )
    return str(cents)


def _plain(text: str) -> str:
    if _THOUSANDS_OR_DECIMALS.fullmatch(text):
        raise InvalidRequest(
            f"`payment` {quoted(text)} could have thousands or three decimals: write thousands as"
            " in 1234 or 1.234,00, and at most two decimals."
        )
    if _COMMA_DECIMAL.fullmatch(text):
        return text.replace(".", "").replace(",", ".")
    if not _NUMBER.fullmatch(text):
        raise InvalidRequest(
            f"`payment` must look like 12345.67 or 12.345,67, not like {quoted(text)}."
        )
    return text


def document(raw: Raw) -> str:
    """Returns the JSON text of a decoded `data` for a jsonb parameter.

    Raises:
        InvalidRequest: it has more than 32 levels, or 64 KiB with its numbers written out; it holds
            NUL, which PostgreSQL cannot, or a number that not every client can read (RFC 8259, 6).
    """
    text = bytes(raw).decode()
    if text.count("[") + text.count("{") > DATA_DEPTH:
        _refuse_deep(text)
    if "\\u0000" in text:
        _refuse_nul(text)
    if _EXPONENT.search(text) or _may_hold_long_digits(text):
        _refuse_unreadable_numbers(text)
    return text


def _refuse_deep(text: str) -> None:
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DATA_DEPTH:
            raise InvalidRequest(f"`data` must have at most {DATA_DEPTH} levels.")


def _refuse_nul(text: str) -> None:
    # An escaped backslash before u0000 is a backslash and five characters, not NUL.
    if "\\u0000" in text.replace("\\\\", ""):
        raise InvalidRequest("`data` must not hold the character U+0000.")


def _may_hold_long_digits(text: str) -> bool:
    return len(text) >= _LONG_DIGITS and _LONG_SAMPLE.search(text[::_STRIDE]) is not None


def _refuse_unreadable_numbers(text: str) -> None:
    """Refuses numbers that not every client can read, or that together are long once written out.

    A number is answered as jsonb writes it, without an exponent.
    """
    characters = len(text)
    for number, exponent in _DUBIOUS.findall(_STRING.sub("", text)):
        # Eight digits are enough to be refused, and converting more could take long.
        zeros = int(exponent.lstrip("+-0")[:8] or 0)
        if len(number) + zeros >= _LONG_DIGITS and not _is_readable(number):
            raise InvalidRequest(
                f"`data` holds the number {shown(number)}, which not every JSON"
                f" client can read: a number must be less than 1.8e308, and have at most"
                f" {NUMBER_CHARACTERS} characters without an exponent. Send it as a string."
            )
        characters += zeros
        if characters > DATA_BYTES:
            raise InvalidRequest(
                f"`data` must be at most {DATA_BYTES // 1024} KiB with its numbers written out"
                " without exponents."
            )


def _is_readable(number: str) -> bool:
    """Returns whether a number is a finite double, and short enough with and without exponent."""
    if len(number) > NUMBER_CHARACTERS or math.isinf(float(number)):
        return False
    try:
        amount = Decimal(number)
    except InvalidOperation:  # The exponent has twenty digits.
        return False
    # Also of zero: from 1e9 on, jsonb takes no exponent at all.
    return abs(amount.adjusted()) <= NUMBER_CHARACTERS and len(f"{amount:f}") <= NUMBER_CHARACTERS


def readable(text: str) -> str:
    """Returns what jsonb wrote, with each number in quotes that not every client can read.

    An older version of the service may have stored it.
    """
    return _STRING_OR_DUBIOUS.sub(_in_quotes, text) if _may_hold_long_digits(text) else text


def _in_quotes(token: re.Match[str]) -> str:
    text = token[0]
    return text if text[0] == '"' or _is_readable(text) else f'"{text}"'


def encode(payment: Payment | LegacyPayment) -> bytes:
    """Returns the payment as JSON."""
    return _encoder.encode(payment)


def encode_list(payments: list[Payment], next_cursor: str | None) -> bytes:
    """Returns one page as JSON."""
    return _encoder.encode({"items": payments, "next": next_cursor})


def encode_items(payments: list[Payment]) -> bytes:
    """Returns payments that have no next page as JSON."""
    return _encoder.encode({"items": payments})


def encode_lines(payments: list[Payment]) -> bytes:
    """Returns the payments as JSON, one a line."""
    return _encoder.encode_lines(payments)


def encode_legacy(payments: list[Payment]) -> bytes:
    """Returns the payments as the JSON array that the old routes answer."""
    return _encoder.encode([*map(LegacyPayment.of, payments)])


_encoder = msgspec.json.Encoder()
