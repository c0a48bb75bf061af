"""The old system's payments: out of its SQLite file, or its `/list`, asked for or saved.

The old system checked nothing, so that every value is checked here, by the rules of the API. A row
that breaks one still comes out, with the reason; what cannot be read at all is a SourceError.
"""

import codecs
import http.client
import json
import math
import os
import re
import shlex
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, get_args
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Raw

from payments import models
from payments.errors import InvalidRequest, Problem
from payments.expected import shown

STATUSES = frozenset(get_args(models.Status))
FIELDS = ("id", "status", "payment", "data")
NEEDED = {"id", "status"}

# New ids are drawn after the old ones, and JavaScript reads integers exactly up to 9e15: an old
# client that chose itself a larger id must not push all new ones out of that range.
LAST_OLD_ID = 10**15

# Rows of SQLite that are read at one time, fewer where they are large. Between two reads whoever
# writes into the file can: one read of all would lock an old system that still runs.
SQLITE_ROWS = 10_000
SQLITE_CHARACTERS = 8 * 1024 * 1024
SQLITE_LOCK_SECONDS = 30.0

JSON_CHUNK_BYTES = 64 * 1024
JSON_ROW_LIMIT = 1024 * 1024  # characters; a row that is not whole by then is no row

# Longer than Heroku's router, which gives up after 30 s, lets anybody wait for a byte.
HTTP_TIMEOUT_SECONDS = 60.0

SHOWN = 60  # characters of a value in a reason

_MOST = float(models.MOST)  # a Decimal is slow to compare with

_SPACE = re.compile(r"[ \t\n\r]*")


class SourceError(Exception):
    """The old system's payments cannot be read, or not whole; the message says which and why.

    It may quote the old system, whose names and answers can hold what a terminal obeys.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message))


class OldPayment(NamedTuple):
    """One row. `number` is its place: SQLite's rowid, or its place in the array, from 1."""

    number: int
    id: int | None
    status: str | None
    payment_given: bool
    cents: int | None
    data: str | None  # JSON text; None where the source has no such field
    reason: str | None  # why it cannot be taken


class Source(Protocol):
    """Where the payments come from."""

    def total(self) -> int | None:
        """Returns how many rows there are, as far as is known so far."""

    def rows(self) -> Iterator[OldPayment]:
        """Reads them, once, in constant memory.

        Raises:
            SourceError: they cannot be read to their end.
        """


def open_source(name: str, *, table: str, ignored: Collection[str] = ()) -> Source:
    """Returns the source of this name: a URL, a file, or `-` for standard input.

    Raises:
        SourceError: it is none of these.
    """
    if re.match(r"https?://", name, re.IGNORECASE):
        return JsonSource(_Url(name), ignored)
    if name == "-":
        return JsonSource(_Stdin(), ignored)
    path = Path(name)
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise SourceError(f"{name} {what}: give a SQLite file, a JSON file, or an http(s) address")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise SourceError(f"{name}: {error.strerror}") from None
    if start == b"SQLite format 3\0" or not start:
        return SqliteSource(path, table, ignored)
    return JsonSource(_File(path), ignored)


# SQLite


class SqliteSource:
    """The old system's file, opened read-only, whether or not the old system still runs on it."""

    def __init__(self, path: Path, table: str, ignored: Collection[str]) -> None:
        self._path = path
        self._table = table
        self._ignored = ignored
        self._total: int | None = None

    def total(self) -> int | None:
        """Returns the number of rows when reading began."""
        return self._total

    def rows(self) -> Iterator[OldPayment]:
        """Reads the rows in the order of their rowid."""
        try:
            with closing(self._connect()) as connection:
                columns = self._columns(connection)
                name = _identifier(self._table)
                (self._total,) = connection.execute(
                    f"SELECT count(*) FROM {name}"  # noqa: S608 - an identifier, quoted
                ).fetchone()
                chosen = ", ".join(column if column in columns else "NULL" for column in FIELDS)
                sql = (
                    f"SELECT _rowid_, {chosen} FROM {name}"  # noqa: S608
                    " WHERE _rowid_ >= ? ORDER BY _rowid_ LIMIT ?"
                )
                given = ("payment" in columns, "data" in columns)
                for row in _read_all(connection, sql):
                    yield _from_sqlite(row, *given)
        except sqlite3.Error as error:
            raise SourceError(f"{self._path}: {error}") from None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self._path.absolute()))}?mode=ro",
            uri=True,
            timeout=SQLITE_LOCK_SECONDS,
        )
        # Text that is not UTF-8 is one row's fault, and not the end of reading.
        connection.text_factory = lambda text: str(text, "utf-8", "surrogateescape")
        return connection

    def _columns(self, connection: sqlite3.Connection) -> set[str]:
        found = connection.execute("SELECT lower(name) FROM pragma_table_info(?)", (self._table,))
        columns = {name for (name,) in found}
        if not columns:
            tables = connection.execute(
                "SELECT name FROM sqlite_schema"
                " WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
            )
            names = ", ".join(name for (name,) in tables) or "no table at all"
            raise SourceError(
                f"{self._path} has no table {self._table}; it has {names}: name one with --table"
            )
        if missing := NEEDED - columns:
            raise SourceError(
                f"{self._path}: the table {self._table} has no column {', '.join(sorted(missing))}"
            )
        if others := columns - set(FIELDS) - set(self._ignored):
            raise SourceError(_no_place_for(str(self._path), sorted(others)))
        return columns


def _read_all(connection: sqlite3.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    first = -(2**63)
    while rows := _read_some(connection, sql, first):
        yield from rows
        if rows[-1][0] == 2**63 - 1:
            return
        first = rows[-1][0] + 1


def _read_some(connection: sqlite3.Connection, sql: str, first: int) -> list[tuple[Any, ...]]:
    rows = []
    characters = 0
    with closing(connection.execute(sql, (first, SQLITE_ROWS))) as cursor:
        for row in cursor:
            rows.append(row)
            characters += sum(len(value) for value in row if isinstance(value, str | bytes))
            if characters >= SQLITE_CHARACTERS:
                break
    return rows


def _from_sqlite(row: tuple[Any, ...], payment_given: bool, data_given: bool) -> OldPayment:
    number, id, status, payment, data = row
    cents: int | None = None
    document: str | None = None
    reason = _fault(id, status)
    try:
        if payment is not None:
            cents = _cents(payment)
        if data_given:
            document = _document(data)
    except Problem as error:
        reason = reason or str(error)
    old = OldPayment(number, id, status, payment_given, cents, document, reason)
    return old if reason is None else _refused(old)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cents(value: object) -> int:
    if isinstance(value, float) and 0 <= value <= _MOST:
        # A double is taken for the shortest decimal that is read as this double, as it was written
        # and answered: 12.1, and not the 12.0999999999999996447 that it is in binary.
        cents = round(value * 100)
        if cents / 100 == value:
            return cents
    if isinstance(value, str):
        amount = models.value(Raw(_json_string(value)))
    elif isinstance(value, bytes):
        raise InvalidRequest("`payment` is a blob.")
    else:
        amount = models.value(Raw(repr(value).encode()))
    if amount is None:
        raise AssertionError(value)
    return _count(amount)


def _count(amount: str) -> int:
    """Returns the cents of an amount with two decimals."""
    return int(amount.replace(".", ""))


def _json_string(text: str) -> bytes:
    try:
        return msgspec.json.encode(text)
    except UnicodeEncodeError:
        raise InvalidRequest("`payment` is not UTF-8.") from None


def _document(value: object) -> str:
    """Returns the JSON text of a `data` that SQLite holds; NULL is what `/list` showed: null."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return _checked(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, bytes):
        raise InvalidRequest("`data` is a blob.")
    # A column of the type JSON turns the text of a number into a number.
    return _checked(repr(value).encode())


def _checked(text: bytes) -> str:
    if len(text) > models.DATA_BYTES:
        raise InvalidRequest(f"`data` is larger than {models.DATA_BYTES // 1024} KiB.")
    return models.document(models.decode(text, Raw))


# JSON


class _Input(Protocol):
    """Where bytes of JSON come from."""

    name: str
    size: int | None

    def open(self) -> BinaryIO:
        """Begins to read; sets `size` where it is known."""


class _File:
    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.size: int | None = path.stat().st_size
        self._path = path

    def open(self) -> BinaryIO:
        return self._path.open("rb")


class _Stdin:
    name = "standard input"
    size: int | None = None

    def open(self) -> BinaryIO:
        return sys.stdin.buffer


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: what opens the old system must not be sent to another one."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


class _Url:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.password is not None or parts.username is not None:
            raise SourceError(
                "the address must not hold a password, which others on this machine could read:"
                " put the header's value into IMPORT_AUTHORIZATION"
            )
        self.name = url
        self.size: int | None = None

    def open(self) -> BinaryIO:
        request = urllib.request.Request(self.name, headers={"Accept": "application/json"})  # noqa: S310 - open_source has looked at the scheme
        if authorization := os.environ.get("IMPORT_AUTHORIZATION"):
            request.add_unredirected_header("Authorization", authorization)
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            answer = opener.open(request, timeout=HTTP_TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            to = error.headers.get("Location")
            raise SourceError(
                f"{self.name} answers {error.code} {error.reason}" + (f" ({to})" if to else "")
            ) from None
        except urllib.error.URLError as error:
            raise SourceError(f"{self.name}: {error.reason}") from None
        except ValueError:  # its message would repeat the header
            raise SourceError(
                f"{self.name} is no address, or IMPORT_AUTHORIZATION no header"
            ) from None
        if answer.status != 200:
            answer.close()
            raise SourceError(f"{self.name} answers {answer.status} {answer.reason}")
        length = answer.headers.get("Content-Length")
        self.size = int(length) if length else None
        stream: BinaryIO = answer
        return stream


class JsonSource:
    """One JSON array of objects, as `/list` answers it."""

    def __init__(self, source: _Input, ignored: Collection[str]) -> None:
        self._input = source
        self._known = {*FIELDS, *ignored}
        self._bytes_read = 0
        self._rows_read = 0

    def total(self) -> int | None:
        """Returns an estimate: as many rows in all bytes as there were in those read."""
        if not self._input.size or not self._bytes_read:
            return None
        return math.ceil(self._rows_read * max(1, self._input.size / self._bytes_read))

    def rows(self) -> Iterator[OldPayment]:
        """Reads the elements in their order."""
        try:
            with closing(self._input.open()) as stream:
                for value, text in _Array(self._input.name, self._chunks(stream)).elements():
                    self._rows_read += 1
                    yield self._from_json(self._rows_read, value, text)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise SourceError(
                f"{self._input.name}: {reason} (after {self._rows_read} rows)"
            ) from None

    def _chunks(self, stream: BinaryIO) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        while chunk := stream.read(JSON_CHUNK_BYTES):
            self._bytes_read += len(chunk)
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)

    def _from_json(self, number: int, value: object, text: str) -> OldPayment:
        if not isinstance(value, dict):
            old = OldPayment(number, None, None, False, None, None, f"it is no object: {text}")
            return _refused(old)
        if others := value.keys() - self._known:
            raise SourceError(_no_place_for(f"{self._input.name}, row {number}", sorted(others)))
        id, status = value.get("id"), value.get("status")
        cents: int | None = None
        document: str | None = None
        reason = _fault(id, status)
        try:
            # Read once more, this time by the rules of the API and with numbers as they stand.
            fields = models.decode(text.encode("utf-8", "surrogateescape"), dict[str, Raw])
            if "payment" in fields:
                amount = models.value(fields["payment"])
                cents = None if amount is None else _count(amount)
            if "data" in fields:
                document = _checked(bytes(fields["data"]))
        except Problem as error:
            reason = reason or str(error)
        old = OldPayment(number, id, status, "payment" in value, cents, document, reason)
        return old if reason is None else _refused(old)


class _Array:
    """A JSON array that arrives in pieces of text; one element is held at a time."""

    def __init__(self, name: str, chunks: Iterator[str]) -> None:
        self._name = name
        self._chunks = chunks
        self._text = ""
        self._position = 0
        self._count = 0
        self._decoder = json.JSONDecoder(parse_int=_integer, parse_constant=str)

    def elements(self) -> Iterator[tuple[object, str]]:
        """Gives each element, read without care for numbers, and its text."""
        if self._next() != "[":
            begin = self._text[self._position :][:SHOWN]
            raise SourceError(f"{self._name} is no JSON array; it begins with {begin!r}")
        self._position += 1
        if self._next() != "]":
            yield self._element()
            while self._next() == ",":
                self._position += 1
                yield self._element()
        if self._next() != "]":
            raise self._broken("does not begin with a comma, nor does the array end")
        self._position += 1
        if self._next():
            raise SourceError(f"{self._name} goes on after the end of the array")

    def _element(self) -> tuple[object, str]:
        while True:
            self._next()
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except RecursionError:
                raise self._broken("is nested too deep to be read") from None
            except json.JSONDecodeError as error:
                if len(self._text) - self._position > JSON_ROW_LIMIT:
                    raise self._broken(f"is not JSON: {error.msg}") from None
                # It may go on in the next piece.
                if not self._read():
                    raise self._broken(f"is cut off, or not JSON: {error.msg}") from None
            else:
                text = self._text[self._position : end]
                self._position = end
                self._count += 1
                return value, text

    def _next(self) -> str:
        """Returns the next character that is no space, without taking it; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._position)
            self._position = space.end() if space else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read():
                return ""

    def _read(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._text = self._text[self._position :] + chunk
                self._position = 0
                return True
        return False

    def _broken(self, what: str) -> SourceError:
        if not self._next():
            return SourceError(f"{self._name} is cut off after {self._count} whole rows")
        return SourceError(f"{self._name}, row {self._count + 1} {what}")


def _integer(text: str) -> int | str:
    return int(text) if len(text) < 20 else text


# What both share


def _fault(id: object, status: object) -> str | None:
    if type(id) is not int or not 1 <= id <= LAST_OLD_ID:
        return f"id must be an integer from 1 to {LAST_OLD_ID}; it is {_shown(id)}"
    # Not every value can be looked for in a set.
    if type(status) is not str or status not in STATUSES:
        return f"status must be inserted or consumed; it is {_shown(status)}"
    return None


def _shown(value: object) -> str:
    return "a blob" if isinstance(value, bytes) else shown(json.dumps(value))


def _refused(old: OldPayment) -> OldPayment:
    """Returns the row as PostgreSQL can hold it, whatever is wrong with it."""
    id: object = old.id
    status: object = old.status
    return old._replace(
        id=id if type(id) is int and abs(id) < 2**63 else None,
        status=None if status is None else _plain(str(status)),
        data=None,
        reason=_plain((old.reason or "").replace("The body", "`data`")),
    )


def _plain(text: str) -> str:
    """Returns the text, not too long, as PostgreSQL and a terminal can hold it."""
    text = text if len(text) <= 4 * SHOWN else f"{text[: 4 * SHOWN]}…"
    return _printable(text)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _no_place_for(where: str, names: list[str]) -> str:
    ignore = " ".join(f"--ignore {shlex.quote(name)}" for name in names)
    return (
        f"{where} has what the new system has no place for: {', '.join(names)};"
        f" to leave it behind, say {ignore}"
    )
