"""What an operator may name as a source; and how the tests make and read one."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from payments.legacy.row import OldPayment
from payments.legacy.source import Source, open_source
from payments.legacy.survey import Options, SourceError

# An old system that stores values as well.
TABLE = """
CREATE TABLE payments (id INTEGER PRIMARY KEY, status VARCHAR(10), data JSON, payment FLOAT)
"""

in_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def sqlite_file(path: Path, rows: list[tuple[Any, ...]] = [], table: str = TABLE) -> Path:  # noqa: B006
    """Makes an old system's file of (id, status, data, payment)."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(table)
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO payments VALUES ({marks})", rows)  # noqa: S608
    return path


def script(path: Path, *statements: str) -> Path:
    """Makes a file by a script."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(";".join(statements))
    return path


def write_ahead(path: Path, rows: list[tuple[Any, ...]]) -> Path:
    """Makes a file whose rows are all in its write-ahead log, as a killed process leaves it."""
    with closing(sqlite3.connect(sqlite_file(path.with_name("made")))) as old:
        old.execute("PRAGMA journal_mode = wal")
        with old:
            old.executemany("INSERT INTO payments VALUES (?, ?, ?, ?)", rows)
        for ending in ("", "-wal"):
            shutil.copy(f"{path.with_name('made')}{ending}", f"{path}{ending}")
    path.with_name("made").unlink()
    return path


def read(name: Path | str, **options: Any) -> list[OldPayment]:
    """Reads a source to its end."""
    return list(source(name, **options).rows())


def source(name: Path | str, **options: Any) -> Source:
    """Opens a source."""
    return open_source(str(name), Options(**options))


def row(number: int = 1, **changes: Any) -> OldPayment:
    """A row as it comes out of SQLite if nothing else is said."""
    return OldPayment(number, number, "inserted", True, None, "null", None)._replace(**changes)


def json_file(path: Path, text: str | bytes) -> Path:
    """Makes a file of this text."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


NOBODY = 65534


@contextmanager
def without_privileges() -> Iterator[None]:
    """Works as a user for whom permissions count: root would be let in everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def unprivileged_directory() -> Iterator[Path]:
    """Makes a directory of that user, below none that is closed to it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        with without_privileges():
            directory = Path(name) / "directory"
            directory.mkdir()
        try:
            yield directory
        finally:
            directory.chmod(0o700)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: it has 0 bytes"),
        (b"SQLite format 3\0" + b"x" * 200, "not a database|malformed|unsupported"),
        (b"id status\n1 inserted\n", "is no JSON array; it begins with 'id status"),
        (b"<!doctype html>", "is no JSON array"),
        (b"\xff\xfe[\0", "is encoded in UTF-16"),
        (b"   ", "is no JSON array; it begins with ''"),
        (b"[", "is cut off after 0 whole rows"),
        (b'[{"id": 1, "status": "inserted"}', "is cut off after 1 whole rows"),
        (b'[{"id": 1, "status": "inserted"},', "is cut off after 1 whole rows"),
        (b'[{"id": 1, "status": "inserted"}, {"id": 2, "sta', "row 2 is cut off, or not JSON"),
        (b'[{"id": 1, "status": "inserted"} {"id": 2}]', "row 2 does not begin with a comma"),
        (b"[] []", "goes on after the end"),
        (b"[{'id': 1}]", "row 1 is cut off, or not JSON"),
        (b"[{'id': 1}," + b"x" * 2_000_000, "row 1 is not JSON"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_file_that_is_no_source(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "old"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=says):
        read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        read(tmp_path / "none")
    with pytest.raises(SourceError, match="is not a file"):
        read(tmp_path)


@pytest.mark.parametrize("name", [b"old.sqlite3-\xff", b"o'ld \xc3\xa9?#%41.sqlite3"])
def test_a_name_of_any_bytes(tmp_path: Path, name: bytes) -> None:
    path = sqlite_file(tmp_path / "old", [(1, "inserted", None, None)])
    path = path.rename(tmp_path / os.fsdecode(name))
    opened = source(path)
    assert len(list(opened.rows())) == 1
    assert opened.survey.where.isprintable()
    with pytest.raises(SourceError, match="has no table x"):
        read(path, table="x")
    path.write_text("[]")
    assert read(path) == []
    assert source(path).survey.where.isprintable()


def test_what_is_closed_to_the_user() -> None:
    with unprivileged_directory() as directory, without_privileges():
        path = json_file(directory / "list", "[]")
        path.chmod(0)
        with pytest.raises(SourceError, match="list: Permission denied"):
            read(path)
        path.chmod(0o600)
        directory.chmod(0)
        with pytest.raises(SourceError, match="list: Permission denied"):
            read(path)


def test_what_looks_encrypted(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is neither a SQLite file nor JSON: it is encrypted"):
        read(json_file(tmp_path / "old", bytes(range(250, 0, -1)) * 16))
    with pytest.raises(SourceError, match="it is encrypted, damaged, or no SQLite file"):
        read(json_file(tmp_path / "old", b"SQLite format 3\0" + bytes(range(255, 0, -1)) * 16))
