"""The old system's SQLite file: every row comes out, as it is or with the reason why not."""

import json
import math
import os
import re
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from payments import models
from payments.errors import Problem
from payments.legacy import sqlite_file as sqlite_source
from payments.legacy.row import LAST_OLD_ID
from payments.legacy.survey import SourceError
from tests.test_sources import (
    in_tmp_path,
    read,
    row,
    script,
    source,
    sqlite_file,
    unprivileged_directory,
    without_privileges,
    write_ahead,
)


def test_rows_of_sqlite(tmp_path: Path) -> None:
    path = sqlite_file(
        tmp_path / "old",
        [
            (1, "inserted", '{"a": 1.50}', 12.1),
            (3, "consumed", "null", None),
            (2**40, "inserted", None, 5),
        ],
    )
    assert read(path) == [
        row(1, data='{"a": 1.50}', cents=1210),
        row(3, status="consumed"),
        row(2**40, cents=500),
    ]


def test_a_file_with_ids_and_statuses_alone(tmp_path: Path) -> None:
    table = "CREATE TABLE payments (ID INTEGER PRIMARY KEY, Status VARCHAR(10))"
    path = sqlite_file(tmp_path / "old", [(1, "consumed")], table)
    assert read(path) == [row(1, status="consumed", payment_given=False, data=None)]


@pytest.mark.parametrize(
    ("id", "status", "data", "payment", "says"),
    [
        (1, None, None, None, "status must be inserted or consumed; it is null"),
        (1, "", None, None, 'it is ""'),
        (1, "Inserted", None, None, 'it is "Inserted"'),
        (1, "paid\x00\n", None, None, "status"),
        (1, 5, None, None, 'it is "5"'),
        (1, b"\xff", None, None, "status"),
        (0, "inserted", None, None, "id must be"),
        (-5, "inserted", None, None, "id must be"),
        (LAST_OLD_ID + 1, "inserted", None, None, "id must be"),
        (2**63 - 1, "inserted", None, None, "id must be"),
        (1, "inserted", "{", None, "`data` is not JSON"),
        (1, "inserted", "hello", None, "`data` is not JSON"),
        (1, "inserted", "", None, "`data` is empty"),
        (1, "inserted", '{"a": NaN}', None, "`data` is not JSON"),
        (1, "inserted", '"\\u0000"', None, "U+0000"),
        (1, "inserted", '"\\ud800"', None, "surrogate"),
        (1, "inserted", "[" * 33 + "]" * 33, None, "32 levels"),
        (1, "inserted", "[" * 9999 + "]" * 9999, None, "levels"),
        (1, "inserted", f'"{"x" * 65536}"', None, "64 KiB"),
        (1, "inserted", f"[{'1e300,' * 300}1]", None, "64 KiB"),
        (1, "inserted", "[1e99999]", None, "`data` holds the number 1e99999"),
        (1, "inserted", f"[{'9' * 331}]", None, "`data` holds the number 99"),
        (1, "inserted", b"{}", None, "`data` is a blob"),
        (1, "inserted", None, 0.1 + 0.2, "at most two decimals"),
        (1, "inserted", None, 1.005, "at most two decimals"),
        (1, "inserted", None, 99999.995, "between"),
        (1, "inserted", None, 100000.0, "between"),
        (1, "inserted", None, -0.01, "between"),
        (1, "inserted", None, math.inf, "`payment` must be a number"),
        (1, "inserted", None, -math.inf, "`payment` must be a number"),
        (1, "inserted", None, 2**62, "between"),
        (1, "inserted", None, "much", "must look like"),
        (1, "inserted", None, "", "must look like"),
        (1, "inserted", None, "5.000.000", "must look like"),
        (1, "inserted", None, "5,000", "three decimals"),
        (1, "inserted", None, b"5", "`payment` is a blob"),
    ],
)
def test_what_cannot_be_taken_says_why(  # noqa: PLR0917
    tmp_path: Path, id: int, status: Any, data: Any, payment: Any, says: str
) -> None:
    path = sqlite_file(tmp_path / "old", [(id, status, data, payment), (7, "inserted", None, 7.5)])
    refused, taken = sorted(read(path), key=lambda old: old.id == 7)
    assert says in (refused.reason or "")
    assert refused.id == id
    assert refused.data is None
    assert taken == row(7, cents=750)
    assert (refused.reason or "").isprintable()


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    path = sqlite_file(tmp_path / "old", [(1, "inserted", None, None)])
    for number, column in enumerate(("status", "data", "payment"), start=1):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM payments")
            connection.execute("INSERT INTO payments VALUES (?, 'inserted', NULL, NULL)", (number,))
            connection.execute(f"UPDATE payments SET {column} = CAST(X'22FF22' AS TEXT)")  # noqa: S608
        [refused] = read(path)
        assert column in (refused.reason or "")


def test_numbers_in_a_column_of_json(tmp_path: Path) -> None:
    path = sqlite_file(tmp_path / "old", [(1, "inserted", "12", None), (2, "inserted", "1.50", 1)])
    assert [old.data for old in read(path)] == ["12", "1.5"]


@in_tmp_path
@given(
    st.one_of(
        st.floats(allow_nan=False),
        st.integers(-(2**63), 2**63 - 1),
        st.decimals(0, 100_000, places=2).map(float),
        st.decimals(0, 100_000, places=3).map(float),
    )
)
@example(-0.0)
@example(99999.99)
@example(99999.994999999999)
@example(0.005)
@example(5e-324)
def test_a_number_is_its_shortest_decimal_or_refused(tmp_path: Path, number: float) -> None:
    [old] = read(sqlite_file(tmp_path / "old", [(1, "inserted", None, number)]))
    exact = Decimal(repr(number))
    if 0 <= exact <= models.MOST and exact == exact.quantize(models.CENT):
        assert old.reason is None
        assert Decimal(old.cents or 0) == exact * 100
    else:
        assert old.reason is not None
        assert old.cents is None


@in_tmp_path
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20))
@example("12.345,67")
@example("12345,67")
def test_text_as_a_payment_is_what_the_api_takes(tmp_path: Path, text: str) -> None:
    table = "CREATE TABLE payments (id INTEGER PRIMARY KEY, status TEXT, data TEXT, payment TEXT)"
    [old] = read(sqlite_file(tmp_path / "old", [(1, "inserted", None, text)], table))
    try:
        amount = models.value(Raw(json.dumps(text).encode()))
    except Problem:
        assert old.reason is not None
    else:
        assert amount is not None
        assert old.cents == Decimal(amount) * 100


def test_more_rows_than_are_read_at_one_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_source, "SQLITE_ROWS", 4)
    for count in (0, 3, 4, 5, 8, 9):
        rows = [(2 * n, "inserted", None, None) for n in range(1, count + 1)]
        path = sqlite_file(tmp_path / "old", rows)
        opened = source(path)
        assert [old.id for old in opened.rows()] == [values[0] for values in rows]
        assert opened.total() == count


def test_the_last_rowid_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_source, "SQLITE_ROWS", 1)
    path = sqlite_file(tmp_path / "old", [(2**63 - 1, "inserted", None, None)])
    assert len(read(path)) == 1


def test_the_old_system_can_write_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_source, "SQLITE_ROWS", 2)
    path = sqlite_file(tmp_path / "old", [(n, "inserted", None, None) for n in range(1, 6)])
    rows = source(path).rows()
    assert next(rows).id == 1
    with closing(sqlite3.connect(path, timeout=0)) as old, old:
        old.execute("INSERT INTO payments VALUES (6, 'inserted', NULL, NULL)")
    assert [left.id for left in rows] == [2, 3, 4, 5, 6]


def test_what_is_in_the_write_ahead_log_is_read(tmp_path: Path) -> None:
    path = sqlite_file(tmp_path / "old", [(1, "inserted", None, None)])
    with closing(sqlite3.connect(path)) as old:
        old.execute("PRAGMA journal_mode = wal")
        with old:
            old.execute("INSERT INTO payments VALUES (2, 'inserted', NULL, NULL)")
        assert [row.id for row in read(path)] == [1, 2]


# Which table, and which columns


# As Flask-SQLAlchemy makes it of `class Payment(db.Model)`.
MVP = "CREATE TABLE payment (id INTEGER NOT NULL, status VARCHAR(10), PRIMARY KEY (id))"


def test_the_table_of_the_real_mvp(tmp_path: Path) -> None:
    insert = "INSERT INTO payment (status) VALUES ('inserted'), (NULL)"
    path = script(tmp_path / "old", MVP, insert)
    opened = source(path)
    rows = list(opened.rows())
    assert rows[0] == row(1, payment_given=False, data=None)
    assert rows[1].reason == "status must be inserted or consumed; it is null"
    assert opened.survey.where.endswith("old, table payment")
    assert opened.survey.layout_options() == ["--without-payment"]


FITS = "(id INTEGER PRIMARY KEY, status TEXT)"


@pytest.mark.parametrize(
    ("tables", "chosen"),
    [
        (f"CREATE TABLE other {FITS}; CREATE TABLE PAYMENT {FITS}", "PAYMENT"),
        (f"CREATE TABLE payments {FITS}; CREATE TABLE user (id, state)", "payments"),
        (f"CREATE TABLE orders {FITS}; CREATE TABLE user (id)", "orders"),
        (f"CREATE TABLE payments (id); CREATE TABLE orders {FITS}", "orders"),
        (f"CREATE TABLE orders {FITS}; CREATE VIEW payments AS SELECT * FROM orders", "orders"),  # noqa: S608
        ("CREATE TABLE orders (pk, estado, valor); CREATE TABLE user (id)", "orders"),
    ],
)
def test_the_table_is_found(tmp_path: Path, tables: str, chosen: str) -> None:
    opened = source(script(tmp_path / "old", tables))
    assert list(opened.rows()) == []
    assert opened.survey.where.endswith(f", table {chosen}")


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (
            f"CREATE TABLE a {FITS}; CREATE TABLE b {FITS}; CREATE TABLE c (id)",
            r"several tables that could be it: a, b\. Name one with --table",
        ),
        (
            f"CREATE TABLE payment {FITS}; CREATE TABLE payments {FITS}",
            "several tables that could be it: payment, payments",
        ),
        (
            "CREATE TABLE a (id); CREATE VIEW b AS SELECT id, 'inserted' AS status FROM a",
            r"no table with id and status; it has table a \(id\); view b\. Name one with --table",
        ),
        ("", "is empty: it has 0 bytes"),
    ],
)
def test_a_table_that_is_not_found(tmp_path: Path, tables: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        read(script(tmp_path / "old", tables))


BROKEN = """
CREATE TABLE payments (id INTEGER PRIMARY KEY, status TEXT);
INSERT INTO payments VALUES (1, 'inserted');
CREATE TABLE gone (id);
CREATE VIEW bad AS SELECT id FROM gone;
PRAGMA writable_schema = on;
INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql)
VALUES ('table', 'map', 'map', 0, 'CREATE VIRTUAL TABLE map USING nowhere(id)');
DROP TABLE gone;
"""


def test_what_else_is_in_the_file_may_be_broken(tmp_path: Path) -> None:
    path = script(tmp_path / "old", BROKEN)
    assert [old.id for old in read(path)] == [1]
    with pytest.raises(SourceError, match=r"no such table: main\.gone"):
        read(path, table="bad")
    with pytest.raises(SourceError, match="no such module: nowhere"):
        read(path, table="map")


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE payments (id INTEGER PRIMARY KEY, status TEXT, payment) WITHOUT ROWID",
        "CREATE TABLE payments (id, status, payment, PRIMARY KEY (id, status)) WITHOUT ROWID",
        "CREATE TABLE payments (id INTEGER, status TEXT, payment, rowid)",
        "CREATE TABLE payments (id INTEGER, status TEXT, payment, _RowID_, oid)",
        "CREATE TABLE payments (id INTEGER, status TEXT, payment, rowid, _rowid_, oid)",
        "CREATE TABLE old (id, status, payment); CREATE VIEW payments AS SELECT * FROM old",
        "CREATE VIRTUAL TABLE payments USING fts5(id, status, payment)",
    ],
)
def test_every_kind_of_table_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setattr(sqlite_source, "SQLITE_ROWS", 2)
    into = "old" if "VIEW" in table else "payments"
    rows = ", ".join(f"({n}, 'consumed', {n}.5)" for n in range(1, 6))
    insert = f"INSERT INTO {into} (id, status, payment) VALUES {rows}"  # noqa: S608
    path = script(tmp_path / "old", table, insert)
    opened = source(path, table="payments")
    old = list(opened.rows())
    assert [(one.id or 0, one.status, one.cents) for one in old if not one.reason] == [
        (n, "consumed", n * 100 + 50) for n in range(1, 6) if "TEXT, status" not in table
    ]
    assert opened.total() == len(old) == 5


def test_a_view_with_ids_that_are_none(tmp_path: Path) -> None:
    path = script(
        tmp_path / "old",
        """
        CREATE TABLE a (id, status);
        INSERT INTO a VALUES
          (1, 'inserted'), (NULL, 'inserted'), (1, 'consumed'), (2.5, 'inserted'), (NULL, NULL),
          (3.0, 'inserted');
        CREATE VIEW payments AS SELECT id, status FROM a;
        """,
    )
    rows = read(path, table="payments")
    assert [old.id for old in rows] == [1, None, 1, None, None, None]
    assert [bool(old.reason) for old in rows] == [False, True, False, True, True, True]


@pytest.mark.parametrize("kind", ["VIRTUAL", "STORED"])
def test_a_generated_column_is_read(tmp_path: Path, kind: str) -> None:
    amount = f"GENERATED ALWAYS AS (json_extract(data, '$.amount')) {kind}"
    table = f"CREATE TABLE payment (id INTEGER PRIMARY KEY, status, data JSON, payment {amount})"
    insert = """INSERT INTO payment (status, data) VALUES ('inserted', '{"amount": 12.5}')"""
    path = script(tmp_path / "old", table, insert)
    assert read(path) == [row(1, cents=1250, data='{"amount": 12.5}')]


def test_a_column_by_another_name(tmp_path: Path) -> None:
    path = script(
        tmp_path / "old",
        """
        CREATE TABLE payments (Number INTEGER, state TEXT, "Amount" REAL, fee REAL, payload TEXT);
        INSERT INTO payments VALUES (5, 'inserted', 1.5, 9, '{}');
        """,
    )
    names = {"id": "number", "status": "STATE", "payment": "amount"}
    opened = source(path, columns=names, ignored=("fee",))
    assert list(opened.rows()) == [row(1, id=5, cents=150, data="{}")]
    assert opened.survey.layout_options() == ["--column", "data=payload"]
    with pytest.raises(SourceError, match=r"no price, which --column payment=price names.*fee"):
        read(path, columns=names | {"payment": "price"})


# While the old system works, and where it ended


def test_nothing_is_written_into_the_file_or_beside_it(tmp_path: Path) -> None:
    for mode in ("delete", "wal"):
        path = sqlite_file(tmp_path / "old", [(1, "inserted", None, None)])
        with closing(sqlite3.connect(path)) as old:
            old.execute(f"PRAGMA journal_mode = {mode}")
        before = path.read_bytes()
        read(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_rows_that_go_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_source, "SQLITE_ROWS", 2)
    path = sqlite_file(tmp_path / "old", [(n, "inserted", None, None) for n in range(1, 6)])
    rows = source(path).rows()
    assert next(rows).id == 1
    with closing(sqlite3.connect(path, timeout=0)) as old, old:
        old.execute("DELETE FROM payments WHERE id > 3")
    assert [left.id for left in rows] == [2, 3]


WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0)
with connection:
    connection.execute("INSERT INTO payments VALUES (NULL, 'inserted', NULL, NULL)")
connection.close()
"""


def test_the_write_ahead_log_stays_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_source, "SQLITE_ROWS", 2)
    path = write_ahead(tmp_path / "old", [(n, "inserted", None, None) for n in range(1, 6)])
    rows = source(path).rows()
    assert next(rows).id == 1
    # The last connection of all removes the log: in another process, it must see this one's locks.
    subprocess.run([sys.executable, "-c", WRITE, path], check=True)
    assert (tmp_path / "old-wal").exists()
    assert [left.id for left in rows] == [2, 3, 4, 5, 6]


def test_a_link_to_a_file_with_a_write_ahead_log(tmp_path: Path) -> None:
    path = write_ahead(tmp_path / "old", [(1, "inserted", None, None)])
    link = tmp_path / "directory" / "link"
    link.parent.mkdir()
    link.symlink_to(path)
    opened = source(link)
    assert len(list(opened.rows())) == 1
    assert opened.survey.warnings == []


def test_a_copy_without_its_write_ahead_log_is_said(tmp_path: Path) -> None:
    path = write_ahead(tmp_path / "old", [(1, "inserted", None, None)])
    (tmp_path / "old-wal").unlink()
    for _ in range(2):
        opened = source(path)
        assert list(opened.rows()) == []
        [warning] = opened.survey.warnings
        assert "its newest payments are missing" in warning
        assert "sqlite3 FILE \"VACUUM INTO 'copy.sqlite3'\"" in warning


def test_a_copy_that_a_writer_opens_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_source, "SQLITE_ROWS", 2)
    path = sqlite_file(tmp_path / "old", [(n, "inserted", None, None) for n in range(1, 6)])
    with closing(sqlite3.connect(path)) as old:
        old.execute("PRAGMA journal_mode = wal")
    rows = source(path).rows()
    next(rows)
    subprocess.run([sys.executable, "-c", WRITE, path], check=True)
    with pytest.raises(SourceError, match="opened by a writer while it was read: try again"):
        list(rows)


def test_the_owner_can_write_after_another_user_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with unprivileged_directory() as directory:
        with without_privileges():
            path = write_ahead(directory / "old", [(1, "inserted", None, None)])
            owner = os.geteuid()
        # root may read it: SQLite gives what it makes to the file's owner.
        assert len(read(path)) == 1
        with without_privileges():
            with closing(sqlite3.connect(path)) as old, old:
                old.execute("UPDATE payments SET status = 'consumed'")
            write_ahead(path, [(1, "inserted", None, None)])
        before = sorted(directory.iterdir())
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        command = re.escape(f"sqlite3 {path} \"VACUUM INTO 'copy.sqlite3'\"")
        with pytest.raises(SourceError, match=f"belongs to user {owner}: .*{command}"):
            read(path)
        assert sorted(directory.iterdir()) == before


def test_a_write_ahead_log_in_a_directory_that_is_read_only() -> None:
    with unprivileged_directory() as directory, without_privileges():
        path = write_ahead(directory / "old", [(1, "inserted", None, None)])
        directory.chmod(0o500)
        with pytest.raises(SourceError, match=r"its directory must be writable: .*old-wal and"):
            read(path)
        directory.chmod(0o700)
        (directory / "old-wal").unlink()
        directory.chmod(0o500)
        assert read(path) == []


HOT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
connection.execute("UPDATE payments SET status = 'consumed'")
print(flush=True)
sys.stdin.read()
"""


def test_a_writer_that_was_killed_in_a_transaction(tmp_path: Path) -> None:
    rows = [(n, "inserted", f'"{"x" * 2000}"', None) for n in range(1, 200)]
    path = sqlite_file(tmp_path / "old", rows)
    with subprocess.Popen(
        [sys.executable, "-c", HOT, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout
        writer.stdout.readline()
        writer.kill()
    assert (tmp_path / "old-journal").stat().st_size > 0
    before = path.read_bytes()
    with pytest.raises(SourceError, match=r"ended within a transaction, .* open it once, or"):
        read(path)
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path)) as old:
        old.execute("SELECT * FROM payments").fetchall()
    assert {old.status for old in read(path)} == {"inserted"}


# Sources that are none


def test_another_table(tmp_path: Path) -> None:
    table = 'CREATE TABLE "my ""orders" (id INTEGER PRIMARY KEY, status TEXT)'
    path = sqlite_file(tmp_path / "old", [], table)
    assert read(path, table='MY "orders') == read(path) == []
    with pytest.raises(SourceError, match='has no table payments; it has my "orders'):
        read(path, table="payments")


def test_columns_that_have_no_place(tmp_path: Path) -> None:
    table = "CREATE TABLE payments (id INTEGER PRIMARY KEY, status TEXT, who TEXT, at TEXT)"
    path = sqlite_file(tmp_path / "old", [(1, "inserted", "x", "y")], table)
    opened = source(path)
    assert len(list(opened.rows())) == 1
    assert opened.survey.unknown == ["at", "who"]
    # By its own name: in a list, another case can be another field.
    opened = source(path, ignored=("Who", "at"), without_payment=True)
    assert len(list(opened.rows())) == 1
    assert opened.survey.layout_options() == ["--ignore", "who"]
    opened = source(path, ignored=("who", "at"), without_payment=True)
    assert len(list(opened.rows())) == 1
    assert opened.survey.layout_options() == []


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("CREATE TABLE payments (id INTEGER PRIMARY KEY)", r"has table payments \(id\)"),
        ("CREATE TABLE payments (status TEXT)", "has no table with id and status.* with --column"),
    ],
)
def test_a_table_of_another_kind(tmp_path: Path, table: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        read(sqlite_file(tmp_path / "old", [], table))


def pages(path: Path) -> bytearray:
    """Returns a file of a hundred pages and more."""
    rows = [(n, "inserted", f'"{"x" * 200}"', None) for n in range(1, 2000)]
    return bytearray(sqlite_file(path, rows).read_bytes())


@pytest.mark.parametrize("left", [-100, -4096, -4096 * 50, 5000, 4096])
def test_a_file_that_is_cut_off(tmp_path: Path, left: int) -> None:
    whole = pages(tmp_path / "old")
    (tmp_path / "old").write_bytes(whole[:left])
    there = f"{len(whole[:left]):,} bytes of {len(whole):,}"
    with pytest.raises(SourceError, match=f"is cut off: {there} are there. Copy it again"):
        read(tmp_path / "old")


@pytest.mark.parametrize("first", [-2000, -4096, -4096 * 20, -4096 * 20 - 2000])
@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_a_file_that_was_written_over(tmp_path: Path, first: int, fill: bytes) -> None:
    content = pages(tmp_path / "old")
    content[first:] = fill * -first
    (tmp_path / "old").write_bytes(content)
    with pytest.raises(SourceError, match=r"is damaged \(.*\.recover \| sqlite3 copy"):
        read(tmp_path / "old")


def test_a_file_that_is_locked_for_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_source, "SQLITE_LOCK_SECONDS", 0.05)
    path = sqlite_file(tmp_path / "old", [(1, "inserted", None, None)])
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SourceError, match="locked"):
            read(path)


def test_large_rows_of_sqlite_are_not_held_together(tmp_path: Path) -> None:
    text = "x" * 500_000
    path = sqlite_file(tmp_path / "old", [(n, "inserted", text, 1) for n in range(1, 201)])
    tracemalloc.start()
    try:
        for _ in source(path).rows():
            pass
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_message_is_safe_on_a_terminal(tmp_path: Path) -> None:
    path = sqlite_file(tmp_path / "old", table='CREATE TABLE payments (id, "\x1b]0;owned\x07")')
    with pytest.raises(SourceError, match=r"\\x1b]0;owned\\x07"):
        read(path)
