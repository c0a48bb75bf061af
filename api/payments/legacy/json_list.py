"""A list of payments as JSON: an array of objects, as `/list` returns it, in constant memory."""

import codecs
import http.client
import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from msgspec import Raw

from payments import models
from payments.errors import InvalidRequest, Problem
from payments.legacy.row import OldPayment, cents, checked, fault, old_id, refused
from payments.legacy.survey import FIELDS, Options, SourceError, Survey, printable

JSON_CHUNK_BYTES = 64 * 1024
JSON_ROW_LIMIT = 1024 * 1024  # characters; a row that is not whole by then is no row

SHOWN = 60  # characters of what is no list


def _utf_16(encoding: str) -> str:
    return (
        f"is encoded in {encoding}: give it in UTF-8, as iconv --from-code {encoding} --to-code"
        " UTF-8 FILE | payments import --from - does"
    )


_COMMAS = re.compile(r"\w+(?:,\w+)+\r?\n")
_BINARY = re.compile("[\0-\x08\x0e-\x1f\udc80-\udcff]")
_SPACE = re.compile(r"[ \t\n\r]*")

# What an answer, or an object in the place of an array, says of a next page.
_NEXT_PAGE = re.compile(
    r'"(next\w*|has_?(?:more|next)\w*)"\s*:\s*+(?!null|false|""|\[\]|\{\})', re.IGNORECASE
)

# How what is no JSON begins, what it is, and what to do.
_OTHERS = (
    (rb"SQLite format 3\0", "is a SQLite file: give its name, not its content"),
    (rb"\x1f\x8b", "is compressed with gzip: decompress it with gunzip, and import the result"),
    (
        rb"\x28\xb5\x2f\xfd",
        "is compressed with zstd: decompress it with unzstd, and import the result",
    ),
    (rb"PK\x03\x04", "is a ZIP archive: decompress it with unzip, and import what was in it"),
    (rb"\xff\xfe|\xfe\xff", _utf_16("UTF-16")),
    (rb"[^\0]\0", _utf_16("UTF-16LE")),
    (rb"\0[^\0]", _utf_16("UTF-16BE")),
)


class Input(Protocol):
    """Where bytes of JSON come from."""

    name: str

    def pages(self) -> Iterator["Page"]:
        """Opens one answer after the other; most sources have one.

        Raises:
            SourceError: there is none, or more than are asked for.
        """

    def check(self, rows: int) -> None:
        """Refuses a list of another length than the source says it has.

        Raises:
            SourceError: it has.
        """


class Page:
    """One answer: its bytes, and how many there are, if that is known."""

    def __init__(self, stream: BinaryIO, size: int | None) -> None:
        self.stream = stream
        self.size = size


class FileInput:
    """A file."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def pages(self) -> Iterator[Page]:
        """Opens it."""
        yield Page(self._path.open("rb"), self._path.stat().st_size)

    def check(self, rows: int) -> None:
        """A file says nothing about its length."""


class StandardInput:
    """Standard input."""

    name = "standard input"

    def pages(self) -> Iterator[Page]:
        """Takes it as it is."""
        if sys.stdin is None:
            raise SourceError("standard input is closed")
        yield Page(sys.stdin.buffer, None)

    def check(self, rows: int) -> None:
        """It says nothing about its length."""


class JsonSource:
    """One JSON array of objects, or several that follow each other as pages."""

    def __init__(self, source: Input, options: Options) -> None:
        self.survey = Survey(options)
        self.survey.where = printable(source.name)
        self._options = options
        self._input = source
        self._size: int | None = None
        self._bytes_read = 0

    def total(self) -> int | None:
        """Returns an estimate: as many rows in all bytes as there were in those read."""
        if not self._size or not self._bytes_read:
            return None
        return math.ceil(self.survey.rows * max(1, self._size / self._bytes_read))

    def rows(self) -> Iterator[OldPayment]:
        """Reads the elements in their order."""
        survey = self.survey
        try:
            for value, text in self._elements():
                survey.rows += 1
                yield self._from_json(survey.rows, value, text)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SourceError(f"{self._input.name}: {reason} (after {survey.rows} rows)") from None
        self._input.check(survey.rows)
        if survey.rows:
            survey.check_columns()

    def _elements(self) -> Iterator[tuple[object, str]]:
        begin: str | None = ""  # the first row of the page before; None if it had no row
        for page in self._input.pages():
            self._size = page.size
            first: str | None = None
            with closing(page.stream) as stream:
                for value, text in _Array(self._input.name, self._chunks(stream)).elements():
                    if first is None and text == begin:
                        raise self._no_end()
                    first = first or text
                    yield value, text
            if first is None and begin is None:
                raise self._no_end()
            begin = first

    def _no_end(self) -> SourceError:
        """Returns the error of a server that does not look at which page it is asked for."""
        return SourceError(
            f"{self._input.name}: two pages begin with the same row, or have none; give the address"
            " of a list of all"
        )

    def _chunks(self, stream: BinaryIO) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        if not (chunk := stream.read(JSON_CHUNK_BYTES)):
            raise SourceError(f"{self._input.name} is empty: it has 0 bytes")
        for beginning, what in _OTHERS:
            if re.match(beginning, chunk, re.DOTALL):
                raise SourceError(f"{self._input.name} {what}")
        while chunk:
            self._bytes_read += len(chunk)
            yield decoder.decode(chunk)
            chunk = stream.read(JSON_CHUNK_BYTES)
        yield decoder.decode(b"", final=True)

    def _from_json(self, number: int, value: object, text: str) -> OldPayment:
        survey = self.survey
        if not isinstance(value, dict):
            nothing = OldPayment(number, None, None, False, None, None, f"it is no object: {text}")
            return refused(nothing, None)
        if survey.is_new(value):
            survey.meet(value)
        if any(name not in value for name in survey.columns.values()):
            survey.check_row(value)
        # A field without a column is in no row: None is the name of nothing in JSON.
        names: list[Any] = [survey.columns.get(field) for field in FIELDS]
        id, given, payment, data = (value.get(name) for name in names)
        id = old_id(id)
        status = survey.status(given)
        amount: int | None = None
        document: str | None = None
        wrong: str | None = None
        _, _, payment_name, data_name = names
        try:
            # Read once more, this time by the rules of the API and with numbers as they stand.
            fields = _fields(value, text)
            if payment is not None:
                amount = cents(payment, in_cents=self._options.payment_in_cents)
            if isinstance(data, str) and data.startswith(("{", "[")):
                survey.texts_of_json += 1
            if data_name in fields:
                document = checked(bytes(fields[data_name]))
        except Problem as error:
            wrong = str(error)
        reason = fault(id, status, given, wrong)
        old = OldPayment(number, id, status, payment_name in value, amount, document, reason)
        return old if reason is None else refused(old, given)


def _fields(value: dict[str, object], text: str) -> dict[str, Raw]:
    try:
        return models.decode(text.encode("utf-8", "surrogateescape"), dict[str, Raw])
    except Problem:
        for name, held in value.items():
            try:
                models.decode(json.dumps(held).encode(), Raw)
            except Problem as error:
                raise InvalidRequest(str(error).replace("The body", f"`{name}`")) from None
        raise


class _Array:
    """A JSON array that arrives in pieces of text; one element is held at a time."""

    def __init__(self, name: str, chunks: Iterator[str]) -> None:
        self._name = name
        self._chunks = chunks
        self._text = ""
        self._position = 0
        self._count = 0
        self._decoder = json.JSONDecoder(parse_int=_integer)

    def elements(self) -> Iterator[tuple[object, str]]:
        """Gives each element, read without care for numbers, and its text."""
        if self._next() != "[":
            raise self._no_array()
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

    def _no_array(self) -> SourceError:
        begin = self._text[self._position :]
        if begin.startswith("{") and (more := _NEXT_PAGE.search(begin)):
            return SourceError(
                f"{self._name} is one page of several: it has {more[1]}. Give one array of all"
                " pages' payments"
            )
        if begin.startswith("{"):
            return SourceError(f"{self._name} is {self._object()}")
        if _COMMAS.match(begin):
            return SourceError(
                f"{self._name} is no JSON array; if it is CSV, make a SQLite file of it with"
                " sqlite3 copy.sqlite3 '.import --csv FILE payments', and import that"
            )
        if _BINARY.search(begin[:SHOWN]):
            return SourceError(
                f"{self._name} is neither a SQLite file nor JSON: it is encrypted, damaged, or of"
                " another kind"
            )
        return SourceError(f"{self._name} is no JSON array; it begins with {begin[:SHOWN]!r}")

    def _object(self) -> str:
        """Returns what an object in the place of an array is, and what makes an array of it."""
        while self._read():
            if len(self._text) > JSON_ROW_LIMIT:
                break
        try:
            value, end = self._decoder.raw_decode(self._text, self._position)
        except (json.JSONDecodeError, RecursionError):
            return "an object, not an array: give an array of all payments"
        if self._text[end:].lstrip().startswith("{"):
            return (
                "one object after the other, not an array: give it as jq --slurp . FILE |"
                " payments import --from - does"
            )
        path = _path_of_rows(value)
        return "an object, not an array" + (
            f": give its array alone, and of all pages, as jq '{path}' FILE | payments import"
            " --from - does"
            if path
            else ": give an array of all payments"
        )

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


def _path_of_rows(value: dict[str, Any]) -> str:
    """Returns jq's path of the first array of objects, at most one level down; "" if none."""
    for name, held in value.items():
        rows = held if isinstance(held, list) else [None]
        if all(isinstance(row, dict) for row in rows[:1]) and name.isidentifier():
            return f".{name}"
    for name, held in value.items():
        if isinstance(held, dict) and name.isidentifier() and (path := _path_of_rows(held)):
            return f".{name}{path}"
    return ""


def _integer(text: str) -> int | str:
    return int(text) if len(text) < 20 else text
