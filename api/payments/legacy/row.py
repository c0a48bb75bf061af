"""One payment of the old system, checked by the rules of the API.

The old system checked nothing. A row that breaks a rule still comes out, with the reason.
"""

import json
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from payments import models
from payments.errors import InvalidRequest
from payments.expected import shown
from payments.legacy.survey import printable

# New ids are drawn after the old ones, and JavaScript reads integers exactly up to 9e15: an old
# client that chose itself a larger id must not push all new ones out of that range.
LAST_OLD_ID = 10**15

REASON_CHARACTERS = 240

_MOST = float(models.MOST)  # a Decimal is slow to compare with


class OldPayment(NamedTuple):
    """One row. `number` is its place: SQLite's rowid, or its place in the list, from 1."""

    number: int
    id: int | None
    status: str | None
    payment_given: bool
    cents: int | None
    data: str | None  # JSON text; None where the source has no such field
    reason: str | None  # why it cannot be imported


def old_id(value: Any) -> Any:
    """Returns the number of an id that a source holds as text, else the value itself."""
    if type(value) is int:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and value[0] != "0":
        return int(value) if len(value) <= len(str(LAST_OLD_ID)) else value
    return value


def fault(id: object, status: str | None, given: object, value_fault: str | None) -> str | None:
    """Returns what is wrong with a row: with its id, else with a value, else with its status.

    Statuses come last because the operator can say what they become.
    """
    if type(id) is not int or not 1 <= id <= LAST_OLD_ID:
        return f"id must be an integer from 1 to {LAST_OLD_ID}; it is {_shown(id)}"
    if value_fault is None and status is None:
        return f"status must be inserted or consumed; it is {_shown(given)}"
    return value_fault


def cents(value: object, *, in_cents: bool) -> int:
    """Returns the cents of a payment that a source holds, in cents already or not.

    Raises:
        InvalidRequest: it is no amount that the API takes.
    """
    if in_cents:
        return _whole_cents(value)
    if isinstance(value, float) and 0 <= value <= _MOST:
        # A double is taken for the shortest decimal that is read as this double, as it was written
        # and answered: 12.1, and not the 12.0999999999999996447 that it is in binary.
        count = round(value * 100)
        if count / 100 == value:
            return count
    if isinstance(value, str):
        text = _json_string(value)
    elif isinstance(value, bytes):
        raise InvalidRequest("`payment` is a blob.")
    else:
        text = json.dumps(value).encode()
    amount = models.value(Raw(text))
    if amount is None:
        raise AssertionError(value)
    return int(amount.replace(".", ""))


def _whole_cents(value: object) -> int:
    count = old_id(value) if value not in {0, "0"} else 0
    if type(count) is not int or not 0 <= count <= models.MOST * 100:
        raise InvalidRequest(
            f"`payment` must be a whole number of cents from 0 to {models.MOST * 100:.0f}, not"
            f" {_shown(value)}."
        )
    return count


def _json_string(text: str) -> bytes:
    try:
        return msgspec.json.encode(text)
    except UnicodeEncodeError:
        raise InvalidRequest("`payment` is not UTF-8.") from None


def document(value: object) -> str:
    """Returns the JSON text of a `data` that SQLite holds; NULL is what `/list` showed: null.

    Raises:
        Problem: it is no JSON that the API takes.
    """
    if value is None:
        return "null"
    if isinstance(value, str):
        return checked(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, bytes):
        raise InvalidRequest("`data` is a blob.")
    # A column of the type JSON turns the text of a number into a number.
    return checked(repr(value).encode())


def checked(text: bytes) -> str:
    """Returns the JSON text of a `data`.

    Raises:
        Problem: it is no JSON that the API takes.
    """
    if len(text) > models.DATA_BYTES:
        raise InvalidRequest(f"`data` is larger than {models.DATA_BYTES // 1024} KiB.")
    return models.document(models.decode(text, Raw))


def _shown(value: object) -> str:
    return "a blob" if isinstance(value, bytes) else shown(json.dumps(value))


def refused(old: OldPayment, given: object) -> OldPayment:
    """Returns the row as PostgreSQL can hold it, whatever is wrong with it or its status."""
    id: object = old.id
    return old._replace(
        id=id if type(id) is int and abs(id) < 2**63 else None,
        status=None if given is None else _plain(str(given)),
        data=None,
        reason=_plain((old.reason or "").replace("The body", "`data`")),
    )


def _plain(text: str) -> str:
    """Returns the text, not too long, as PostgreSQL and a terminal can hold it."""
    cut = "…" if len(text) > REASON_CHARACTERS else ""
    return printable(text[:REASON_CHARACTERS]) + cut
