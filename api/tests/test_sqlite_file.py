"""The old system's SQLite file: every row comes out, as it is or with the reason why not."""

import json
import math
import sqlite3
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
    source,
    sqlite_file,
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


def test_nothing_is_written_into_the_file(tmp_path: Path) -> None:
    path = sqlite_file(tmp_path / "old", [(1, "inserted", None, None)])
    before = path.read_bytes()
    read(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


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
    opened = source(path, ignored=("Who", "at"), without_payment=True)
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


def test_a_damaged_file(tmp_path: Path) -> None:
    rows = [(n, "inserted", f'"{"x" * 200}"', None) for n in range(1, 2000)]
    path = sqlite_file(tmp_path / "old", rows)
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"damaged.*\.recover"):
        read(path)


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
