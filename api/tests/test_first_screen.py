"""The first import of an unknown file: it prints what it found, and the command that works."""

import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.test_cli import invoke_on

pytestmark = pytest.mark.in_process  # a container does not see the files to import

PAGE = Path(__file__).parents[2] / "docs/legacy.md"

ORDERS = [
    (1, "inserted", 12.1, "ana"),
    (2, None, 30, "ana"),
    (3, "done", 7.5, "rui"),
    (4, "done", 120000, "rui"),
    (5, " consumed", 0.125, "eva"),
    (6, "inserted", 99999.99, "eva"),
]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with other names, other statuses and values that are out of range."""
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("old.sqlite3")) as connection, connection:
        connection.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT, amount FLOAT, customer TEXT)"
        )
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", ORDERS)
    return "old.sqlite3"


async def test_the_page_shows_what_is_printed(database: Database, old: str) -> None:
    result = await invoke_on(database, "import", "--from", old)
    assert result.status == 1
    (shown,) = re.findall(
        r"```console\n\$ payments import --from old.sqlite3\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    assert f"{result.output}{result.error.splitlines()[-1]}\n" == shown


async def test_the_printed_command_imports_it(database: Database, old: str) -> None:
    first = await invoke_on(database, "import", "--from", old)
    (printed,) = re.findall(r"^  payments (import .*)$", first.output, re.MULTILINE)
    second = await invoke_on(database, *shlex.split(printed))
    assert second.status == 0, second.error
    assert "4 payments imported or changed." in second.output
    rows = await database.fetch("SELECT id, status::text, payment::text FROM payments ORDER BY id")
    assert [tuple(row) for row in rows] == [
        (1, "inserted", "12.10"),
        (2, "inserted", "30.00"),
        (3, "consumed", "7.50"),
        (6, "inserted", "99999.99"),
    ]


async def test_what_only_the_operator_knows_is_left_open(database: Database, old: str) -> None:
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE orders SET state = 'refunded' WHERE id = 3")
        connection.execute("ALTER TABLE orders RENAME amount TO kwota")
    result = await invoke_on(database, "import", "--from", old)
    assert "Replace CHOOSE" in result.output
    assert "--column payment=CHOOSE" in result.output  # not --ignore kwota, which loses it
    assert "--ignore" not in result.output
    assert "refunded=CHOOSE" in result.output
    left = await invoke_on(
        database, "import", "--from", old, "--column", "status=state", "--ignore", "kwota",
        "--ignore", "customer", "--take-the-rest",
    )  # fmt: skip
    assert left.status == 1
    assert "--without-payment" in left.output
    assert await database.fetch("SELECT FROM payments") == []


async def test_by_make_it_prints_a_command_for_make(
    database: Database, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORT_BY_MAKE", "1")
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE orders SET state = '$(exit 3)' WHERE id = 3")
    result = await invoke_on(database, "import", "--from", old)
    (printed,) = re.findall(r"^  make import (.*)$", result.output, re.MULTILINE)
    variables = dict(word.split("=", 1) for word in shlex.split(printed))
    assert variables["FROM"] == old
    # As make reads it: two dollars are one.
    flags = shlex.split(variables["IMPORT_FLAGS"].replace("$$", "$"))
    assert "$(exit 3)=CHOOSE" in flags


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--status=done", "is not OLD=inserted or OLD=consumed"),
        ("--status=done=paid", "is not OLD=inserted or OLD=consumed"),
        ("--status==inserted", "is not OLD=inserted or OLD=consumed"),
        ("--status=inserted=consumed", "does not name a status of the old system's own"),
        ('--status="x=inserted', "does not name a status of the old system's own"),
        ("--column=amount", "is not FIELD=NAME, with id or status or payment or data"),
        ("--column=amount=payment", "is not FIELD=NAME"),
        ("--column=payment=", "is not FIELD=NAME"),
    ],
)
async def test_an_option_that_names_nothing(database: Database, option: str, says: str) -> None:
    result = await invoke_on(database, "import", "--from", "old.sqlite3", option)
    assert result.status == 2
    assert says in " ".join(result.error.split())


@pytest.mark.parametrize(
    ("status", "option"),
    [
        (None, "null=inserted"),
        ("", '""=inserted'),
        ("null", '"null"=inserted'),
        ('"', '"\\""=inserted'),
        ("a=b", "a=b=inserted"),
        ("a\tb", '"a\\tb"=inserted'),
        ("ção", "ção=inserted"),
        (7, "7=inserted"),
    ],
)
async def test_any_status_can_be_named(
    database: Database, old: str, status: str | int | None, option: str
) -> None:
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("DELETE FROM orders WHERE id > 1")
        connection.execute("UPDATE orders SET state = ?", (status,))
    options = ("--column", "status=state", "--column", "payment=amount", "--ignore", "customer")
    refused = await invoke_on(database, "import", "--from", old, *options)
    assert refused.status == 1
    (printed,) = re.findall(r"^  payments (import .*)$", refused.output, re.MULTILINE)
    name, _, _ = option.rpartition("=")
    assert name in {word.rpartition("=")[0] for word in shlex.split(printed)}
    taken = await invoke_on(database, "import", "--from", old, *options, "--status", option)
    assert taken.status == 0, taken.error


async def test_rows_that_leave_out_what_is_null(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(
        '[5, {"id": 1}, {"id": 2, "state": "done"}, {"id": 3, "state": "inserted", "amount": 1}]'
    )
    options = ("--column", "status=state", "--column", "payment=amount")
    statuses = ("--status", "done=consumed", "--status", "null=inserted")
    result = await invoke_on(
        database, "import", "--from", str(path), *options, *statuses, "--take-the-rest"
    )
    assert result.status == 0, result.error
    assert "1 values; 1.00 to 1.00, sum 1.00; 2 absent" in result.output
    rows = await database.fetch("SELECT id, status::text, payment::text FROM payments ORDER BY id")
    assert [tuple(row) for row in rows] == [
        (1, "inserted", None),
        (2, "consumed", None),
        (3, "inserted", "1.00"),
    ]
    again = await invoke_on(database, "import", "--from", str(path))
    assert " ".join(options) in again.output  # although the first row has neither
    wrong = await invoke_on(database, "import", "--from", str(path), "--column", "payment=valor")
    assert wrong.status == 1
    assert "has no valor, which --column payment=valor names; it has amount, id, state" in (
        wrong.error
    )


@pytest.mark.parametrize("command", ["import", "verify"])
async def test_payments_that_are_said_not_to_be_there(
    database: Database, old: str, command: str
) -> None:
    options = ("--column", "payment=amount", "--column", "status=state", "--without-payment")
    result = await invoke_on(database, command, "--from", old, *options)
    assert result.status == 1
    assert "has payments: leave out --without-payment" in result.error


@pytest.mark.parametrize("kind", ["sqlite", "json"])
async def test_a_payment_that_is_left_behind(database: Database, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "old"
    if kind == "json":
        path.write_text('[{"id": 1, "status": "inserted", "payment": 5}]')
    else:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE payment (id, status, payment)")
            connection.execute("INSERT INTO payment VALUES (1, 'inserted', 5)")
    options = ("--from", str(path), "--ignore", "payment")
    refused = await invoke_on(database, "import", *options)
    assert refused.status == 1
    assert "--without-payment" in refused.output
    taken = await invoke_on(database, "import", *options, "--without-payment")
    assert taken.status == 0, taken.error
    [row] = await database.fetch("SELECT payment FROM payments")
    assert row["payment"] is None
