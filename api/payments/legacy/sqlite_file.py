"""The old system's SQLite file: found out, checked, and read without a trace in it."""

import os
import shlex
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from payments.errors import Problem
from payments.legacy.row import OldPayment, cents, document, fault, refused
from payments.legacy.survey import COLUMN_PROPOSALS, FIELDS, Options, SourceError, Survey

MAGIC = b"SQLite format 3\0"
NEEDED = ("id", "status")

# Rows of SQLite that are read at one time, fewer where they are large. Between two reads the old
# system can write: one read of all would lock it out.
SQLITE_ROWS = 10_000
SQLITE_CHARACTERS = 8 * 1024 * 1024
SQLITE_LOCK_SECONDS = 30.0

# Flask-SQLAlchemy calls the table of `class Payment` the first, and most people the second.
USUAL_TABLES = ("payment", "payments")

TABLES = "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' ORDER BY name"

# table_info would hide generated columns; 1 is what a virtual table hides itself.
COLUMNS = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden <> 1"

# What a failure means, by SQLite's extended code, and what to do. {0} is the file, quoted.
_COPY = "make a copy as the file's owner, and import that: sqlite3 {0} '.backup copy.sqlite3'"
_ADVICE = {
    sqlite3.SQLITE_BUSY: "a writer has held it for more than 30 s; try again, or " + _COPY,
    sqlite3.SQLITE_CORRUPT: "it is damaged; sqlite3 {0} .recover | sqlite3 copy.sqlite3 saves what"
    " can be saved",
    sqlite3.SQLITE_NOTADB: "it is encrypted, damaged, or no SQLite file",
    sqlite3.SQLITE_FULL: "the disk for temporary files is full; name another one in SQLITE_TMPDIR",
    sqlite3.SQLITE_READONLY: "its last writer ended within a transaction, which only a writer can"
    " undo: let the old system open it once, or " + _COPY,
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; if it has a write-ahead log, its directory must"
    " be writable: " + _COPY,
}


class SqliteSource:
    """The old system's file, opened read-only, whether or not the old system still runs on it."""

    def __init__(self, path: Path, options: Options) -> None:
        self.survey = Survey(options)
        self.survey.where = str(path)
        self._path = path
        self._options = options
        self._total: int | None = None

    def total(self) -> int | None:
        """Returns the number of rows when reading began."""
        return self._total

    def rows(self) -> Iterator[OldPayment]:
        """Reads the rows in the order of their rowid; a view's in its own."""
        _check_owner(self._path)
        try:
            with closing(self._connect()) as connection:
                yield from self._rows(connection)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0)
            advice = _ADVICE.get(code, _ADVICE.get(code & 0xFF, ""))
            advice = advice.format(shlex.quote(str(self._path)))
            raise SourceError(f"{self._path}: {error}" + (advice and f": {advice}")) from None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self._path.absolute()))}?mode=ro",
            uri=True,
            timeout=SQLITE_LOCK_SECONDS,
        )
        # Text that is not UTF-8 is one row's fault, and not the end of reading.
        connection.text_factory = lambda text: str(text, "utf-8", "surrogateescape")
        return connection

    def _rows(self, connection: sqlite3.Connection) -> Iterator[OldPayment]:
        survey = self.survey
        table = self._table(connection)
        survey.where = f"{self._path}, table {table}"
        survey.resolve(_columns(connection, table))
        for field in NEEDED:
            if field not in survey.columns:
                names = ", ".join(_columns(connection, table))
                raise SourceError(
                    f"{survey.where} has no column {field}; it has {names}:"
                    f" say which one it is with --column {field}=NAME"
                )
        survey.seen.update(survey.columns)
        self._check_whole(connection)
        sql = _select(connection, table, survey.columns)
        [version] = connection.execute("PRAGMA data_version").fetchone()
        [self._total] = connection.execute(sql.all).fetchone()
        given = ("payment" in survey.columns, "data" in survey.columns)
        for row in _read_all(connection, sql.page):
            survey.rows += 1
            yield self._from_sqlite(row, *given)
        [after] = connection.execute("PRAGMA data_version").fetchone()
        if after == version and survey.rows != self._total:
            raise SourceError(
                f"{survey.where} has {self._total:,} rows, of which {survey.rows:,} could be read:"
                f" it is damaged; check it with PRAGMA integrity_check"
            )

    def _table(self, connection: sqlite3.Connection) -> str:
        tables: dict[str, str] = {
            name: kind
            for name, kind, _ in connection.execute(TABLES)
            if not name.startswith("sqlite_") and kind in {"table", "view", "virtual"}
        }
        if given := self._options.table:
            for name in tables:
                if name.casefold() == given.casefold():
                    return name
            names = ", ".join(tables) or "no table at all"
            raise SourceError(f"{self._path} has no table {given}; it has {names}")
        columns = {name: _columns(connection, name) for name in tables}
        own = [name for name in tables if tables[name] == "table"]
        fit = [name for name in own if self._fits(columns[name], proposed=False)] or [
            name for name in own if self._fits(columns[name], proposed=True)
        ]
        chosen = [name for name in fit if name.casefold() in USUAL_TABLES] or fit
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            raise SourceError(
                f"{self._path} has several tables that could be it: {', '.join(chosen)}."
                " Name one with --table"
            )
        found = "; ".join(
            f"{tables[name]} {name} ({', '.join(names)})" for name, names in columns.items()
        )
        raise SourceError(
            f"{self._path} has no table with id and status; it has {found or 'no table at all'}."
            " Name one with --table, and its columns with --column"
        )

    def _fits(self, columns: list[str], *, proposed: bool) -> bool:
        names = {name.casefold() for name in columns}
        return all(
            self._options.columns.get(field, field).casefold() in names
            or (proposed and not names.isdisjoint(COLUMN_PROPOSALS[field]))
            for field in NEEDED
        )

    def _check_whole(self, connection: sqlite3.Connection) -> None:
        """Refuses a file that is cut off or damaged: it can be read, with rows that never were."""
        connection.execute("BEGIN")
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        [page_bytes] = connection.execute("PRAGMA page_size").fetchone()
        there = self._path.stat().st_size + _size(_beside(self._path, "-wal"))
        if there < pages * page_bytes:
            raise SourceError(
                f"{self._path} is cut off: {there:,} bytes of {pages * page_bytes:,} are there."
                " Copy it again"
            )
        for (message,) in connection.execute("PRAGMA quick_check"):
            # Rows that break a constraint of the table are no damage.
            if message.startswith("***"):
                raise sqlite3.DatabaseError(message.splitlines()[-1])
        connection.execute("COMMIT")
        if _writes_ahead(self._path) and not _beside(self._path, "-wal").exists():
            self.survey.warnings.append(
                f"{self._path} was used with a write-ahead log, and {self._path}-wal is not there."
                " If this is a copy of a file in use, its newest payments are missing: copy it with"
                f" sqlite3 {shlex.quote(str(self._path))} '.backup copy.sqlite3'"
            )

    def _from_sqlite(
        self, row: tuple[Any, ...], payment_given: bool, data_given: bool
    ) -> OldPayment:
        number, id, given, payment, data = row
        amount: int | None = None
        text: str | None = None
        status = self.survey.status(given)
        wrong: str | None = None
        try:
            if payment is not None:
                amount = cents(payment)
            if data_given:
                text = document(data)
        except Problem as error:
            wrong = str(error)
        reason = fault(id, status, given, wrong)
        old = OldPayment(number, id, status, payment_given, amount, text, reason)
        return old if reason is None else refused(old, given)


class _Select(NamedTuple):
    all: str  # counts the rows
    page: str


def _select(connection: sqlite3.Connection, table: str, columns: Mapping[str, str]) -> _Select:
    """Returns the statements that read a table by pages; a view is copied for it."""
    names = {name.casefold() for name in _columns(connection, table)}
    rowid = next((name for name in ("_rowid_", "rowid", "oid") if name not in names), None)
    [(kind, without)] = connection.execute(
        "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ?", (table,)
    )
    source = f"main.{_identifier(table)}"
    chosen = {
        field: _identifier(columns[field]) if field in columns else "NULL" for field in FIELDS
    }
    if kind != "table" or without or rowid is None:
        # Nothing else tells one row from the next one: an id can be NULL, or there twice.
        made = ", ".join(f"{column} AS {field}" for field, column in chosen.items())
        connection.execute(f"CREATE TEMPORARY TABLE read_payments AS SELECT {made} FROM {source}")  # noqa: S608 - identifiers, quoted
        source, rowid, chosen = "temp.read_payments", "_rowid_", {field: field for field in FIELDS}
    values = ", ".join(chosen.values())
    return _Select(
        f"SELECT count(*) FROM {source}",  # noqa: S608
        f"SELECT {rowid}, {values} FROM {source}"  # noqa: S608
        f" WHERE {rowid} >= ? ORDER BY {rowid} LIMIT ?",
    )


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [name for (name,) in connection.execute(COLUMNS, (table,))]


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


def _check_owner(path: Path) -> None:
    """Refuses a file whose owner could not write any more once another user has read it.

    Who opens a file with a write-ahead log makes its `-wal` and `-shm`, and leaves them behind.
    """
    owner = path.stat().st_uid
    if _writes_ahead(path) and os.geteuid() not in {0, owner}:
        raise SourceError(
            f"{path} has a write-ahead log and belongs to user {owner}: if another user opens it,"
            " its owner may be locked out. Run this as its owner, or have the owner make a copy:"
            f" sqlite3 {shlex.quote(str(path))} '.backup copy.sqlite3'"
        )


def _writes_ahead(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(20)[18:19] == b"\x02"


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
