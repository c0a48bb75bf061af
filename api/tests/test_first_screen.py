"""The first import of an unknown file: it prints what it found, and the command that works."""

import asyncio
import json
import os
import re
import shlex
import sqlite3
import sys
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
    assert "4 payments imported or changed; 2 rows are left out." in second.output
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
    assert "--ignore kwota" not in result.output
    assert "If the source has no values: --without-payment" in result.output
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
        ('--status="x=inserted', "begins with a quote, and is no JSON string"),
        ('--status={"x"}=inserted', "does not exist"),
        ("--status=x=inserted --status=x=consumed", "'x' is given twice"),
        ('--ignore="x', "begins with a quote, and is no JSON string"),
        ("--column=amount", "is not FIELD=NAME, with id or status or payment or data"),
        ("--column=amount=payment", "is not FIELD=NAME"),
        ("--column=payment=", "is not FIELD=NAME"),
        ("--column=payment=a --column=data=a", "two fields cannot come from one column"),
    ],
)
async def test_an_option_that_names_nothing(database: Database, option: str, says: str) -> None:
    result = await invoke_on(database, "import", "--from", "none", *option.split())
    assert result.status == (1 if says == "does not exist" else 2)
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


def json_file(path: Path, text: str) -> str:
    """Makes a list."""
    path.write_text(text)
    return str(path)


CLASHES = {
    "amount, then payment": (
        '{"id": 1, "status": "paid", "amount": 10}, {"id": 2, "status": "paid", "payment": 20}',
        "row 2 has no amount, but payment: give the field one name in all rows",
    ),
    "Status, then status": (
        '{"id": 1, "Status": "consumed", "payment": 1}, {"id": 2, "status": "consumed"}',
        "row 2 has no Status, but status: give the field one name in all rows",
    ),
    "no status in any row": (
        '{"id": 1, "payment": 1, "consumed": true}',
        "has no status; it has consumed, id, payment: say which one it is with --column status",
    ),
    "no id in any row": ('{"status": "inserted", "payment": 1}', "has no id; it has payment"),
}


@pytest.mark.parametrize("name", CLASHES)
async def test_rows_that_do_not_agree(database: Database, tmp_path: Path, name: str) -> None:
    rows, says = CLASHES[name]
    path = json_file(tmp_path / "list", f"[{rows}]")
    result = await invoke_on(database, "import", "--from", path)
    assert result.status == 1
    assert says in result.error
    assert "--ignore" not in result.output


async def test_amounts_that_are_cents(database: Database, tmp_path: Path) -> None:
    rows = ", ".join(
        f'{{"id": {n}, "status": "inserted", "payment": {n}00, "data": 0}}' for n in range(1, 11)
    )
    path = json_file(tmp_path / "list", f"[{rows}]")
    look = await invoke_on(database, "import", "--from", path, "--dry-run")
    assert "say --payment-in-cents" in look.error
    taken = await invoke_on(database, "import", "--from", path, "--payment-in-cents")
    assert taken.status == 0, taken.error
    assert "say --payment-in-cents" not in taken.error
    [row] = await database.fetch("SELECT sum(payment)::text FROM payments")
    assert row["sum"] == "55.00"
    verified = await invoke_on(database, "verify", "--from", path, "--payment-in-cents")
    assert verified.output.endswith("No difference.\n")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("12.5", "whole number of cents from 0 to 9999999, not 12.5"),
        ("-1", "not -1"),
        ("10000000", "not 10000000"),
        ('"12,50"', 'not "12,50"'),
        ("true", "not true"),
        ('""', 'not ""'),
    ],
)
async def test_what_is_no_number_of_cents(
    database: Database, tmp_path: Path, value: str, says: str
) -> None:
    good = '{"id": 1, "status": "inserted", "payment": "0"}'
    bad = f'{{"id": 2, "status": "inserted", "payment": {value}}}'
    path = json_file(tmp_path / "list", f"[{good}, {bad}]")
    result = await invoke_on(database, "import", "--from", path, "--payment-in-cents")
    assert result.status == 1
    assert says in result.error


async def test_a_source_of_which_no_row_can_be_imported(database: Database, tmp_path: Path) -> None:
    path = json_file(tmp_path / "list", '[{"id": "b7-1", "status": "inserted", "payment": 1}]')
    for options in ((), ("--take-the-rest",), ("--dry-run",)):
        result = await invoke_on(database, "import", "--from", path, *options)
        assert result.status == 1
        assert "no row of the source can be imported" in result.error
        assert "This imports it" not in result.output


async def test_nothing_is_gone_while_an_id_cannot_be_read(
    database: Database, tmp_path: Path
) -> None:
    row = '{{"id": {}, "status": "inserted", "payment": 1}}'
    path = json_file(tmp_path / "list", f"[{row.format(1)}, {row.format(2)}]")
    assert (await invoke_on(database, "import", "--from", path)).status == 0
    json_file(tmp_path / "list", f"[{row.format(1)}, {row.format(chr(34) + 'n2' + chr(34))}]")
    options = ("--take-the-rest", "--take-back", "5")
    result = await invoke_on(database, "import", "--from", path, *options)
    assert result.status == 1
    assert "1 rows have no id that can be read" in result.error
    [count] = await database.fetch("SELECT count(*) FROM payments WHERE deleted_at IS NULL")
    assert count["count"] == 2


async def test_what_a_dry_run_proposes_imports(database: Database, old: str) -> None:
    options = ("--dry-run", "--take-back", "3")
    result = await invoke_on(database, "import", "--from", old, *options)
    (printed,) = re.findall(r"^  payments (import .*)$", result.output, re.MULTILINE)
    assert "--dry-run" not in printed
    assert "--take-back 3" in printed


async def test_the_report_is_not_the_standard_input(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text('[{"id": 1, "status": "inserted", "payment": 1}]')
    before = path.read_bytes()
    with path.open("rb") as stdin:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "payments", "import", "--from", "-", "--report", str(path)),
            env=os.environ | {"PAYMENTS_DATABASE_URL": database.url("payments_migrator")},
            stdin=stdin,
            stderr=asyncio.subprocess.PIPE,
        )
        _, error = await process.communicate()
    assert process.returncode == 1
    assert b"is the source itself" in error
    assert path.read_bytes() == before


@pytest.mark.parametrize("closed", ["--from - 0<&-", "--from list --report - 1>&-"])
async def test_a_stream_that_is_closed(database: Database, tmp_path: Path, closed: str) -> None:
    (tmp_path / "list").write_text('[{"id": 1, "status": "inserted", "payment": 1}]')
    process = await asyncio.create_subprocess_shell(
        f"{shlex.quote(sys.executable)} -m payments import {closed}",
        cwd=tmp_path,
        env=os.environ | {"PAYMENTS_DATABASE_URL": database.url("payments_migrator")},
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()
    assert process.returncode == 1
    assert b"Traceback" not in error
    assert b"closed" in error


async def test_names_that_a_terminal_would_obey(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "old"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute('CREATE TABLE "p\x1b[31m" (id, status, payment, "a\nb\x1b[0m")')
        connection.execute("INSERT INTO \"p\x1b[31m\" VALUES (1, 'inserted', 1, 2)")
    first = await invoke_on(database, "import", "--from", str(path))
    assert "\x1b" not in first.output + first.error
    (printed,) = re.findall(r"^  payments (import .*)$", first.output, re.MULTILINE)
    second = await invoke_on(database, *shlex.split(printed))
    assert second.status == 0, second.error


async def test_what_may_mean_something_else_is_said(database: Database, tmp_path: Path) -> None:
    rows = '{"id": 1, "status": "inserted", "payment": 1, "data": "{}", "deleted_at": null}'
    path = json_file(tmp_path / "list", f"[{rows}]")
    result = await invoke_on(database, "import", "--from", path)
    assert "deleted_at may mark removed payments" in result.error
    assert "in 1 rows `data` is text that looks like JSON" in result.error


async def test_a_column_of_times_as_status(database: Database, tmp_path: Path) -> None:
    rows = [f'{{"id": {n}, "status": "2026-01-{n:02} 10:00", "payment": 1}}' for n in range(1, 25)]
    rows += ['{"id": 25, "status": "inserted", "payment": 1}']
    rows += [f'{{"id": 26, "status": "{"x" * 99}", "payment": 1}}']
    path = json_file(tmp_path / "list", f"[{', '.join(rows)}]")
    result = await invoke_on(database, "import", "--from", path)
    assert result.status == 1
    assert "there are 24 statuses without a meaning here" in result.error
    assert "no text, or a long one" in result.output
    assert "This imports it" not in result.output


async def test_verify_says_what_it_compared(database: Database, tmp_path: Path) -> None:
    first = {"id": 1, "status": "inserted", "payment": 1, "data": {}}
    second = {"id": 2, "status": "consumed", "payment": 2}

    def listed(*rows: object) -> str:
        return json_file(tmp_path / "list", json.dumps(rows))

    path = listed(first, second)
    assert (await invoke_on(database, "import", "--from", path)).status == 0
    same = await invoke_on(database, "verify", "--from", path)
    assert same.output.endswith("No difference.\n")
    listed(first | {"payment": 2, "data": 1}, second | {"payment": 1})
    hidden = await invoke_on(database, "verify", "--from", path, "--show", "0")
    assert hidden.status == 1
    assert "2 payments differ" in hidden.error
    # A row that leaves out what others have is one without it, and differs.
    listed(first, {"id": 2, "status": "consumed"})
    absent = await invoke_on(database, "verify", "--from", path)
    assert absent.status == 1
    assert "row 2, id 2: its payment is null, and 2.00 here" in absent.output


async def test_the_usual_table_before_any_other(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "old"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE payments (id, state, amount)")
        connection.execute("CREATE TABLE refunds (id, status, payment)")
        connection.execute("INSERT INTO refunds VALUES (1, 'inserted', 1)")
        connection.execute("INSERT INTO payments VALUES (1, 'inserted', 1)")
    result = await invoke_on(database, "import", "--from", str(path), "--dry-run")
    assert "table payments: 1 rows read" in result.output
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE payments RENAME TO invoices")
    result = await invoke_on(database, "import", "--from", str(path), "--dry-run")
    assert result.status == 1
    assert "several tables that could be it: invoices, refunds" in result.error


@pytest.mark.parametrize(
    ("rows", "field", "choice"),
    [
        (
            [{"id": 1, "value": 5}, {"id": 2, "amount": 7, "value": None}],
            "payment",
            "value or amount",
        ),
        ([{"id": 1, "payment": None, "amount": 7}], "payment", "payment or amount"),
        ([{"id": 1, "payment": 1, "state": "done"}], "status", "status or state"),
    ],
)
async def test_two_columns_that_could_be_one_field(
    database: Database, tmp_path: Path, rows: list[dict[str, object]], field: str, choice: str
) -> None:
    rows = [{"status": "inserted"} | row for row in rows]
    path = json_file(tmp_path / "list", json.dumps(rows))
    result = await invoke_on(database, "import", "--from", path)
    assert result.status == 1
    assert f"{field} could be {choice}: name one with --column" in result.output
    assert f"--column {field}=CHOOSE" in result.output
    assert "--ignore amount" not in result.output
    assert "--ignore state" not in result.output
    one, other = choice.split(" or ")
    decided = ("--column", f"{field}={other}", "--ignore", one)
    taken = await invoke_on(
        database, "import", "--from", path, *decided, "--status", "done=consumed"
    )
    assert taken.status == 0, taken.error + taken.output


async def test_payments_that_were_taken_back(database: Database, tmp_path: Path) -> None:
    rows = [{"id": n, "status": "inserted", "payment": 1} for n in (1, 2, 3)]
    path = json_file(tmp_path / "list", json.dumps(rows))
    assert (await invoke_on(database, "import", "--from", path)).status == 0
    await database.fetch(
        "UPDATE payments SET status = 'consumed', consumed_at = now(), consumed_by = 'shop',"
        " updated_at = clock_timestamp() WHERE id = 1"
    )
    # One is gone; one is consumed here, which is no fault of the row.
    json_file(tmp_path / "list", json.dumps(rows[:2]))
    result = await invoke_on(database, "import", "--from", path)
    assert result.status == 1
    assert "took back 1 payments; if that is right, follow it with --take-back 1" in result.error
    assert "and --take-the-rest for the other 1 rows" in result.error
    assert "This imports it" not in result.output  # it would keep the payment that is gone
    look = await invoke_on(
        database, "import", "--from", path, "--dry-run", "--take-back", "1", "--take-the-rest"
    )
    assert "is gone from the old system since" in look.error
    assert "1 payments would be imported or changed; 1 rows are left out." in look.output
    options = ("--take-back", "1", "--take-the-rest")
    assert (await invoke_on(database, "import", "--from", path, *options)).status == 0
    again = await invoke_on(database, "import", "--from", path, *options)
    assert "Nothing to do; 1 rows are left out." in again.output
    strict = await invoke_on(database, "verify", "--from", path)
    assert strict.status == 1
    assert "row 1, id 1: it is inserted, and consumed here" in strict.output
    verified = await invoke_on(database, "verify", "--from", path, "--take-the-rest")
    assert verified.status == 0, verified.error
    assert "1 rows are left out." in verified.output


async def test_verify_leaves_out_only_what_the_import_does(
    database: Database, tmp_path: Path
) -> None:
    rows = [{"id": n, "status": "inserted", "payment": n} for n in (1, 2, 3)]
    rows.append({"id": 4, "status": "inserted", "payment": -4})
    path = json_file(tmp_path / "list", json.dumps(rows))
    assert (await invoke_on(database, "import", "--from", path, "--take-the-rest")).status == 0
    verified = await invoke_on(database, "verify", "--from", path, "--take-the-rest")
    assert verified.status == 0, verified.error
    json_file(tmp_path / "list", json.dumps([rows[0], rows[1] | {"payment": 9}, rows[3]]))
    await database.fetch("INSERT INTO payments (id, created_by) VALUES (9, 'shop')")
    result = await invoke_on(database, "verify", "--from", path, "--take-the-rest")
    assert result.status == 1
    assert "row 2, id 2: its payment is 9.00, and 2.00 here" in result.output
    assert "id 3: it is here alone" in result.output
    assert "id 9: it is here alone; it was made by shop" in result.output
    assert "3 payments differ" in result.error


async def test_an_option_that_matches_nothing(database: Database, old: str) -> None:
    options = ("--ignore", "customr", "--status", "don=consumed")
    result = await invoke_on(database, "import", "--from", old, *options)
    assert "--ignore names what the source does not have: customr" in result.error
    assert "--status names what the source does not have: don" in result.error


async def test_an_empty_list_that_is_right(database: Database, tmp_path: Path) -> None:
    path = json_file(tmp_path / "list", "[]")
    assert "say --allow-empty" in (await invoke_on(database, "import", "--from", path)).error
    taken = await invoke_on(database, "import", "--from", path, "--allow-empty")
    assert taken.status == 0, taken.error
    verified = await invoke_on(database, "verify", "--from", path, "--allow-empty")
    assert verified.output.endswith("there is no payment on either side.\n")
