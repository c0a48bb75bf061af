"""What is read of the old system: every row comes out, as it is or with the reason why not."""

import json
import math
import socket
import sqlite3
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from payments import models
from payments.errors import Problem
from payments.legacy import http_list, json_list
from payments.legacy import sqlite_file as sqlite_source
from payments.legacy.row import LAST_OLD_ID, OldPayment
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


def read(name: Path | str, **options: Any) -> list[OldPayment]:
    """Reads a source to its end."""
    return list(source(name, **options).rows())


def source(name: Path | str, **options: Any) -> Source:
    """Opens a source."""
    return open_source(str(name), Options(**options))


def row(number: int = 1, **changes: Any) -> OldPayment:
    """A row as it comes out of SQLite if nothing else is said."""
    return OldPayment(number, number, "inserted", True, None, "null", None)._replace(**changes)


# SQLite


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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: it has 0 bytes"),
        (b"SQLite format 3\0" + b"x" * 200, "not a database|malformed|unsupported"),
        (b"id,status\n1,inserted\n", "is no JSON array; it begins with 'id,status"),
        (b"<!doctype html>", "is no JSON array"),
        (b'{"id": 1}', "is no JSON array"),
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
    path = sqlite_file(
        tmp_path / "old", table='CREATE TABLE payments (id, "\x1b]0;owned\x07")'
    )
    with pytest.raises(SourceError, match=r"\\x1b]0;owned\\x07"):
        read(path)


# JSON


def json_file(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_rows_of_json(tmp_path: Path) -> None:
    text = """\ufeff [
      {"id": 1, "status": "inserted"},
      {"status": "consumed", "id": 2, "payment": 12.10, "data": {"a": 1.50}},
      {"id": 3, "status": "inserted", "payment": "12.345,67", "data": null},
      {"id": 4, "status": "inserted", "payment": null}
    ]
    """
    assert read(json_file(tmp_path / "list", text)) == [
        row(1, payment_given=False, data=None),
        row(2, status="consumed", cents=1210, data='{"a": 1.50}'),
        row(3, cents=1234567),
        row(4, data=None),
    ]


@pytest.mark.parametrize(
    ("element", "id", "says"),
    [
        ('{"id": 1, "status": null}', 1, "status must be inserted or consumed; it is null"),
        ('{"id": 1}', 1, "status"),
        ('{"id": 1, "status": ["inserted"]}', 1, "status"),
        ('{"id": 1, "status": "a\\u0000\\ud800"}', 1, "status"),
        ('{"status": "inserted"}', None, "id must be an integer"),
        ('{"id": "1", "status": "inserted"}', None, 'it is "1"'),
        ('{"id": true, "status": "inserted"}', None, "it is true"),
        ('{"id": 1.0, "status": "inserted"}', None, "id must be"),
        ('{"id": 1e3, "status": "inserted"}', None, "it is 1000.0"),
        (f'{{"id": {"9" * 5000}, "status": "inserted"}}', None, 'it is "9999'),
        ('{"id": 1, "status": "inserted", "payment": NaN}', 1, "must be a number, not NaN"),
        ('{"id": 1, "status": "inserted", "payment": Infinity}', 1, "number, not Infinity"),
        ('{"id": 1, "status": "inserted", "payment": 0.30000000000000004}', 1, "two decimals"),
        ('{"id": 1, "status": "inserted", "payment": true}', 1, "must be a number"),
        ('{"id": 1, "status": "inserted", "payment": {}}', 1, "must be a number"),
        ('{"id": 1, "status": "inserted", "data": {"a": NaN}}', 1, "not JSON"),
        ('{"id": 1, "status": "inserted", "data": "\\u0000"}', 1, "U+0000"),
        ('{"id": 1, "status": "inserted", "data": "\\ud800"}', 1, "surrogate"),
        ('{"id": 1, "status": "inserted", "data": 1e400}', 1, "the number 1e400"),
        (f'{{"id": 1, "status": "inserted", "data": "{"x" * 70_000}"}}', 1, "64 KiB"),
        (f'{{"id": 1, "status": "inserted", "data": {"[" * 40}{"]" * 40}}}', 1, "32 levels"),
        ("5", None, "it is no object: 5"),
        ('"two"', None, "it is no object"),
        ("null", None, "it is no object: null"),
        ("[1, 2]", None, "it is no object"),
    ],
)
def test_what_cannot_be_taken_of_json_says_why(
    tmp_path: Path, element: str, id: int | None, says: str
) -> None:
    text = f'[{element}, {{"id": 7, "status": "inserted"}}]'
    refused, taken = read(json_file(tmp_path / "list", text))
    assert says in (refused.reason or "")
    assert refused.id == id
    assert len(refused.reason or "") < 500
    assert taken == OldPayment(2, 7, "inserted", False, None, None, None)


def test_json_that_is_not_utf_8(tmp_path: Path) -> None:
    text = b'[{"id": 1, "status": "\xff"}, {"id": 2, "status": "inserted"}]'
    assert [bool(old.reason) for old in read(json_file(tmp_path / "list", text))] == [True, False]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@in_tmp_path
@given(
    st.lists(json_values, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans()
)
def test_however_it_is_cut_into_pieces(  # noqa: PLR0917
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    elements: list[Any],
    size: int,
    indent: int | None,
    ascii: bool,
) -> None:
    monkeypatch.setattr(json_list, "JSON_CHUNK_BYTES", size)
    rows = [{"id": n, "status": "inserted", "data": data} for n, data in enumerate(elements, 1)]
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii)
    try:
        path = json_file(tmp_path / "list", text)
    except UnicodeEncodeError:
        return
    read_rows = read(path)
    assert [old.id for old in read_rows] == [row["id"] for row in rows]
    for old, data in zip(read_rows, elements, strict=True):
        assert old.reason or json.loads(old.data or "") == data
    # One byte less is never the whole.
    with pytest.raises(SourceError):
        read(json_file(tmp_path / "list", text.rstrip()[:-1]))


# HTTP


@contextmanager
def http_server(answer: bytes) -> Iterator[tuple[str, list[str]]]:
    """Answers every request with these bytes; gives the address and the requests' headers."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(str(self.headers))
            self.wfile.write(answer)

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/list", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def whole(body: bytes, length: int | None = None) -> bytes:
    """An answer, with a Content-Length that may be wrong."""
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body) if length is None else length,
        body,
    )


LIST = b'[{"id": 1, "status": "inserted"}, {"id": 2, "status": "consumed"}]'


def test_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_AUTHORIZATION", "Basic c2VjcmV0")
    with http_server(whole(LIST)) as (url, seen):
        assert [old.id for old in read(url)] == [1, 2]
    assert "Authorization: Basic c2VjcmV0" in seen[0]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.0 500 Broken\r\n\r\n[]", "answers 500 Broken"),
        (b"HTTP/1.0 401 No\r\n\r\n[]", "answers 401 No"),
        (b"HTTP/1.0 204 Nothing\r\n\r\n", "answers 204"),
        (b"HTTP/1.0 302 There\r\nLocation: http://127.0.0.1:9/x\r\n\r\n", r"answers 302 .*9/x\)"),
        (whole(b"<html>"), "is no JSON array"),
        (whole(b""), "is empty: it has 0 bytes"),
        (whole(LIST[:-1], len(LIST)), "cut off|IncompleteRead"),
        (whole(LIST[:20], len(LIST)), "cut off|IncompleteRead"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + LIST[:-1], "is cut off after 2 whole rows"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n" + LIST[:32] + b"\r\n",
            "IncompleteRead|cut off",
        ),
        (b"nonsense\r\n\r\n", "nonsense"),
        (b"", "Remote end closed|127.0.0.1"),
    ],
)
def test_an_answer_that_is_not_whole(answer: bytes, says: str) -> None:
    with http_server(answer) as (url, _), pytest.raises(SourceError, match=says):
        read(url)


def test_an_address_where_nobody_is() -> None:
    with pytest.raises(SourceError, match="refused"):
        read("http://127.0.0.1:1/list")


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_list, "HTTP_TIMEOUT_SECONDS", 0.1)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(SourceError, match="timed out"):
            read(f"http://127.0.0.1:{port}/list")


def test_no_secret_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="IMPORT_AUTHORIZATION") as refused:
        read("https://user:hunter2@old.example.com/list")
    assert "hunter2" not in str(refused.value)
    monkeypatch.setenv("IMPORT_AUTHORIZATION", "Bearer hunter2\r\nX: y")
    with pytest.raises(SourceError, match="no header") as refused:
        read("http://127.0.0.1:1/list")
    assert "hunter2" not in str(refused.value)


def test_how_many_rows_there_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "JSON_CHUNK_BYTES", 1000)
    text = "[" + ",".join(f'{{"id": {n}, "status": "inserted"}}' for n in range(1, 1001)) + "]"
    opened = source(json_file(tmp_path / "list", text))
    assert opened.total() is None
    rows = opened.rows()
    for _ in range(200):
        next(rows)
    assert 800 < (opened.total() or 0) < 1200
    assert len(list(rows)) == 800
    assert opened.total() == 1000
