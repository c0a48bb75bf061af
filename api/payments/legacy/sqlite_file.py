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
from payments.legacy.row import OldPayment, cents, document, fault, old_id, refused
from payments.legacy.survey import (
    COLUMN_PROPOSALS,
    FIELDS,
    NEEDED,
    Options,
    SourceError,
    Survey,
    printable,
)

MAGIC = b"SQLite format 3\0"
# Rows of SQLite that are read at one time, fewer where they are large. Between two reads the old
# system can write: one read of all would lock it out.
SQLITE_ROWS = 10_000
SQLITE_CHARACTERS = 8 * 1024 * 1024
SQLITE_LOCK_SECONDS = 30.0

# Flask-SQLAlchemy calls the table of `class Payment` the first, and most people the second.
USUAL_TABLES = ("payment", "payments")

TABLES = "SELECT name, type FROM pragma_table_list WHERE schema = 'main' ORDER BY name"

# table_info would hide generated columns; 1 is what a virtual table hides itself.
COLUMNS = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden <> 1"

# What a failure means, by SQLite's extended code, and what to do. {0} is the file, quoted.
_COPY = (
    "make a copy as the file's owner, and import that: sqlite3 {0} \"VACUUM INTO 'copy.sqlite3'\""
)
_LOG = (
    "it has a write-ahead log, so that its directory must be writable: import it as a user who may"
    " write there or, if no program uses it, copy it together with {0}-wal and import the copy"
)
_ADVICE = {
    sqlite3.SQLITE_BUSY: "a writer has held it for more than 30 s; try again, or " + _COPY,
    sqlite3.SQLITE_NOTADB: "it is encrypted, damaged, or no SQLite file",
    sqlite3.SQLITE_FULL: "the disk for temporary files is full; name another one in SQLITE_TMPDIR",
    sqlite3.SQLITE_READONLY_ROLLBACK: "its last writer ended within a transaction, which only a"
    " writer can undo: let the old system open it once, or " + _COPY,
    sqlite3.SQLITE_READONLY: _LOG,
    sqlite3.SQLITE_CANTOPEN: _LOG,
}


class SqliteSource:
    """The old system's file, opened read-only, whether or not the old system still runs on it."""

    def __init__(self, path: Path, options: Options) -> None:
        self.survey = Survey(options)
        self.survey.where = printable(str(path))
        # SQLite looks for what belongs to a file beside the file itself, not beside a link to it.
        self._path = path.resolve()
        self._options = options
        self._total: int | None = None

    def total(self) -> int | None:
        """Returns the number of rows when reading began."""
        return self._total

    def rows(self) -> Iterator[OldPayment]:
        """Reads the rows in the order of their rowid; a view's in its own."""
        try:
            # Before SQLite opens it: to close a file gives up all locks of this process on it.
            bare = self._is_without_log()
            before = _state(self._path)
            with closing(self._connect(bare)) as connection:
                yield from self._rows(connection)
            changed = bare and _state(self._path) != before
        except sqlite3.Error as error:
            raise self._failed(error) from None
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from None
        except UnicodeEncodeError:
            raise SourceError(
                f"{self._path}: a table or column has a name that is not UTF-8; rename it in a copy"
            ) from None
        if changed:
            raise SourceError(f"{self._path} was opened by a writer while it was read: try again")

    def _connect(self, bare: bool) -> sqlite3.Connection:
        """Opens the file; one that lacks its write-ahead log is opened as immutable.

        Otherwise SQLite would create a new log beside it, and leave that behind.
        """
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self._path))}?mode=ro" + ("&immutable=1" if bare else ""),
            uri=True,
            timeout=SQLITE_LOCK_SECONDS,
        )
        # Text that is not UTF-8 is one row's fault, and not the end of reading.
        connection.text_factory = lambda text: str(text, "utf-8", "surrogateescape")
        return connection

    def _rows(self, connection: sqlite3.Connection) -> Iterator[OldPayment]:
        survey = self.survey
        self._check_whole(connection)
        table = self._table(connection)
        survey.where = f"{survey.where}, table {table}"
        names = _columns(connection, table)
        survey.meet(names)
        survey.check_columns()
        sql = _select(connection, table, survey.columns)
        [version] = connection.execute("PRAGMA data_version").fetchone()
        [self._total] = connection.execute(sql.all).fetchone()
        given = ("payment" in survey.columns, "data" in survey.columns)
        first = -(2**63)
        for row in _read_all(connection, sql.page):
            if row[0] < first:
                raise self._damaged(f"row {row[0]} follows row {first - 1}")
            first = row[0] + 1
            survey.rows += 1
            yield self._from_sqlite(row, *given)
        [after] = connection.execute("PRAGMA data_version").fetchone()
        if after == version and survey.rows != self._total:
            raise self._damaged(f"it has {self._total:,} rows, and {survey.rows:,} could be read")

    def _table(self, connection: sqlite3.Connection) -> str:
        kinds: dict[str, str] = {
            name: kind
            for name, kind in connection.execute(TABLES)
            if not name.startswith("sqlite_") and kind in {"table", "view", "virtual"}
        }
        if given := self._options.table:
            for name in kinds:
                if name.casefold() == given.casefold():
                    return name
            names = ", ".join(kinds) or "no table at all"
            raise SourceError(f"{self._path} has no table {given}; it has {names}")
        # Of a view, or a table of an extension, it may not even be possible to ask for the columns.
        own = {name: _columns(connection, name) for name in kinds if kinds[name] == "table"}
        fit = [name for name in own if self._fits(own[name])]
        chosen = [name for name in fit if name.casefold() in USUAL_TABLES] or fit
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            raise SourceError(
                f"{self._path} has several tables that could be it: {', '.join(chosen)}."
                " Name one with --table"
            )
        found = "; ".join(
            f"table {name} ({', '.join(own[name])})" if name in own else f"{kind} {name}"
            for name, kind in kinds.items()
        )
        raise SourceError(
            f"{self._path} has no table with id and status; it has {found or 'no table at all'}."
            " Name one with --table, and its columns with --column"
        )

    def _fits(self, columns: list[str]) -> bool:
        names = {name.casefold() for name in columns}
        return all(
            self._options.columns.get(field, field).casefold() in names
            or not names.isdisjoint(COLUMN_PROPOSALS[field])
            for field in NEEDED
        )

    def _check_whole(self, connection: sqlite3.Connection) -> None:
        """Refuses a file whose last page is cut off: SQLite would read zeros in its place."""
        connection.execute("BEGIN")
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        [page_bytes] = connection.execute("PRAGMA page_size").fetchone()
        self._check_size(pages * page_bytes)
        connection.execute("COMMIT")

    def _check_size(self, expected: int) -> None:
        there = self._path.stat().st_size + _size(_beside(self._path, "-wal"))
        if there < expected:
            raise SourceError(
                f"{self._path} is cut off: {there:,} bytes of {expected:,} are there. Copy it again"
            )

    def _is_without_log(self) -> bool:
        """Returns whether the file had a write-ahead log and is here without it, and warns of that.

        Raises:
            SourceError: the log is here, and is another user's.
        """
        if not _writes_ahead(self._path):
            return False
        if _beside(self._path, "-wal").exists():
            _check_owner(self._path)
            return False
        self.survey.warnings.append(
            f"{self._path} was used with a write-ahead log, and {self._path}-wal is not there."
            " If this is a bare copy of a file in use, its newest payments are missing: copy the"
            " original file with sqlite3 FILE \"VACUUM INTO 'copy.sqlite3'\""
        )
        return True

    def _failed(self, error: sqlite3.Error) -> SourceError:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF == sqlite3.SQLITE_CORRUPT:
            self._check_size(_size_in_header(self._path))
            return self._damaged(str(error))
        advice = _ADVICE.get(code, _ADVICE.get(code & 0xFF, ""))
        advice = advice.format(shlex.quote(str(self._path)))
        return SourceError(f"{self._path}: {error}" + (advice and f": {advice}"))

    def _damaged(self, how: str) -> SourceError:
        return SourceError(
            f"{self._path} is damaged ({how}): copy it again, or save what can be saved with"
            f" sqlite3 {shlex.quote(str(self._path))} .recover | sqlite3 copy.sqlite3"
        )

    def _from_sqlite(
        self, row: tuple[Any, ...], payment_given: bool, data_given: bool
    ) -> OldPayment:
        number, id, given, payment, data = row
        id = old_id(id)
        amount: int | None = None
        text: str | None = None
        status = self.survey.status(given)
        wrong: str | None = None
        try:
            if payment is not None:
                amount = cents(payment, in_cents=self._options.payment_in_cents)
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

    A reader of a file with a write-ahead log creates its `-wal` and `-shm`, and may leave them.
    """
    owner = path.stat().st_uid
    if os.geteuid() not in {0, owner}:
        raise SourceError(
            f"{path} has a write-ahead log and belongs to user {owner}: if another user opens it,"
            " its owner may be locked out. Run this as its owner, or have the owner make a copy:"
            f" sqlite3 {shlex.quote(str(path))} \"VACUUM INTO 'copy.sqlite3'\""
        )


def _writes_ahead(path: Path) -> bool:
    return _header(path)[18:19] == b"\x02"


def _size_in_header(path: Path) -> int:
    header = _header(path)
    page_bytes = int.from_bytes(header[16:18])
    return int.from_bytes(header[28:32]) * (65536 if page_bytes == 1 else page_bytes)


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def _state(path: Path) -> tuple[int, int, bool]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, _beside(path, "-wal").exists()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
