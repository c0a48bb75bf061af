"""`payments import` and `payments verify` on a real database."""

import asyncio
import csv
import fcntl
import json
import os
import pty
import shlex
import sqlite3
import struct
import sys
import termios
import tracemalloc
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from payments.legacy import importer
from payments.legacy.row import OldPayment
from payments.legacy.survey import Options, Survey
from tests.conftest import CLIENT, Api, Database
from tests.test_cli import Result, invoke, invoke_on, run_on
from tests.test_http_list import http_server, page, whole
from tests.test_sources import json_file, script, source, sqlite_file, write_ahead

pytestmark = pytest.mark.in_process  # a container does not see the files to import

Rows = list[tuple[Any, ...]]
Import = Callable[..., Coroutine[Any, Any, Result]]

OLD = [
    (1, "inserted", '{"a": 1.50}', 12.1),
    (2, "consumed", "null", None),
    (5, "inserted", None, 99999.99),
]

STORED = """
SELECT id, status::text, data::text, payment::text, created_by, consumed_by, deleted_by
FROM payments ORDER BY id
"""


@pytest.fixture
def import_(database: Database, tmp_path: Path) -> Import:
    """Imports rows of a SQLite file (or what another name says) into the test's database."""

    async def import_(rows: Rows | str, *options: str, user: str = "payments_migrator") -> Result:
        name = rows if isinstance(rows, str) else str(sqlite_file(tmp_path / "old", rows))
        report = ("--report", str(tmp_path / "report.csv"))
        return await invoke_on(database, "import", "--from", name, *report, *options, user=user)

    return import_


@pytest.fixture
def verify(database: Database, tmp_path: Path) -> Import:
    """Compares rows with the test's database."""

    async def verify(rows: Rows | str, *options: str) -> Result:
        name = rows if isinstance(rows, str) else str(sqlite_file(tmp_path / "old", rows))
        return await invoke_on(database, "verify", "--from", name, *options)

    return verify


def report_of(directory: Path) -> list[list[str]]:
    """Returns what the report says, its head left out."""
    with (directory / "report.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["row", "id", "reason"]
    return rows


async def stored(database: Database) -> list[tuple[Any, ...]]:
    """Returns the rows without their times."""
    return [tuple(row) for row in await database.fetch(STORED)]


async def everything(database: Database) -> list[tuple[Any, ...]]:
    """Returns the rows with all they have, and where the sequence is."""
    rows = await database.fetch("SELECT * FROM payments ORDER BY id")
    sequence = await database.fetch("SELECT last_value, is_called FROM payments_id_seq")
    return [tuple(row) for row in (*rows, *sequence)]


def ok(result: Result, *says: str) -> None:
    """Checks that a command succeeded, and said this."""
    assert result.status == 0, result.error
    text = " ".join(result.output.split())
    for words in says:
        assert words in text


def failed(result: Result, *says: str) -> None:
    """Checks that a command failed, and said this."""
    assert result.status == 1, result.output
    for words in says:
        assert words in result.error + result.output


# What arrives


async def test_import(database: Database, import_: Import, verify: Import, tmp_path: Path) -> None:
    ok(await import_(OLD), "3 rows read", "3 new", "3 payments imported or changed.")
    by = importer.IMPORTER
    assert await stored(database) == [
        (1, "inserted", '{"a": 1.50}', "12.10", by, None, None),
        (2, "consumed", "null", None, by, by, None),
        (5, "inserted", "null", "99999.99", by, None, None),
    ]
    assert report_of(tmp_path) == []
    ok(await verify(OLD), "payments 3 3", "sum 100,012.09 100,012.09", "No difference.")


async def test_again_changes_nothing_and_says_so(database: Database, import_: Import) -> None:
    ok(await import_(OLD))
    before = await everything(database)
    ok(await import_(OLD), "3 rows read", "Nothing to do.")
    assert await everything(database) == before


async def test_a_dry_run_changes_nothing(database: Database, import_: Import) -> None:
    before = await everything(database)
    ok(await import_(OLD, "--dry-run"), "3 new", "3 payments would be imported")
    assert await everything(database) == before == [(1, False)]
    bad = [*OLD, (6, None, None, None)]
    failed(await import_(bad, "--dry-run"), "nothing was imported", "row 6, id 6")


async def test_an_empty_source(database: Database, import_: Import, verify: Import) -> None:
    failed(await import_([]), "0 rows read", "has no payments", "--allow-empty")
    failed(await verify([]), "has no payments", "--allow-empty")
    ok(await import_([], "--allow-empty"), "0 rows read", "Nothing to do.")
    ok(await verify([], "--allow-empty"), "No difference: there is no payment on either side.")
    assert await everything(database) == [(1, False)]


async def test_new_ids_follow_the_old_ones(api: Api, import_: Import) -> None:
    ok(await import_(OLD))
    first = (await api.payment())["id"]
    assert first > 5
    # What the old system makes meanwhile still has its own ids.
    ok(await import_([*OLD, (6, "inserted", None, 1)]), "1 new")
    for id in (1, 2, 5, 6):
        assert (await api.send("GET", f"/v1/payments/{id}")).status_code == 200
    assert (await api.payment())["id"] == first + 1


@pytest.mark.parametrize("last", [1, 2, 10**15])
async def test_the_sequence_moves_past_the_last_id(
    api: Api, import_: Import, database: Database, last: int
) -> None:
    ok(await import_([(last, "inserted", None, None)]))
    assert (await api.payment())["id"] == last + importer.SPARE_IDS + 1
    assert len(await database.fetch("SELECT FROM payments")) == 2


async def test_a_refused_row_keeps_its_id(api: Api, import_: Import) -> None:
    ok(await import_([*OLD, (9, None, None, None)], "--take-the-rest"))
    assert (await api.payment())["id"] > 9


async def test_old_payments_are_served(api: Api, import_: Import) -> None:
    ok(await import_(OLD))
    listed = (await api.send("GET", "/list")).json()
    assert [(one["id"], one["status"], one["payment"]) for one in listed] == [
        (1, "inserted", 12.1),
        (2, "consumed", None),
        (5, "inserted", 99999.99),
    ]
    consumed = await api.send("PUT", "/update/1", '{"status": "consumed"}')
    assert consumed.json()["status"] == "consumed"
    assert (await api.send("DELETE", "/delete/5")).status_code == 200


async def test_a_list_of_ids_and_statuses(
    database: Database, import_: Import, verify: Import, tmp_path: Path
) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"id": id, "status": status} for id, status, _, _ in OLD]))
    failed(await import_(str(path)), "the source needs more options", "--without-payment")
    failed(await verify(str(path)), "needs more options", "--without-payment")
    assert await stored(database) == []
    ok(await import_(str(path), "--without-payment"), "3 new")
    assert (await stored(database))[0][:4] == (1, "inserted", "{}", None)
    ok(await import_(str(path), "--without-payment"), "Nothing to do.")
    result = await verify(str(path), "--without-payment")
    ok(result, "sum not compared 0.00", "No difference in id and status;", "no payment and data to")
    # The file knows more, and says so.
    failed(await verify(OLD), "row 1, id 1: its payment is 12.10, and null here")


async def test_standard_input(database: Database, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "payments", "import", "--from", "-"),
        *("--report", str(tmp_path / "report.csv"), "--without-payment"),
        env=os.environ | {"PAYMENTS_DATABASE_URL": database.url("payments_migrator")},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(b'[{"id": 4, "status": "consumed"}]')
    assert b"1 payments imported" in output
    assert [row[0] for row in await stored(database)] == [4]


# What cannot be taken


BAD = [
    (1, "inserted", None, 1),
    (2, None, None, 2),
    (3, "paid", None, 3),
    (4, "inserted", "oops", 4),
    (5, "inserted", None, 0.005),
    (6, "consumed", None, 6),
]


async def test_nothing_is_taken_if_a_row_cannot_be(
    database: Database, import_: Import, tmp_path: Path
) -> None:
    result = await import_(BAD)
    failed(result, 'row 3, id 3: status must be inserted or consumed; it is "paid"')
    failed(result, "4 rows cannot be imported", "report.csv", "nothing was", "--take-the-rest")
    assert [row[:2] for row in report_of(tmp_path)] == [[str(n), str(n)] for n in (2, 3, 4, 5)]
    assert await everything(database) == [(1, False)]


async def test_the_rest_is_taken_when_told_to(
    database: Database, import_: Import, verify: Import
) -> None:
    ok(await import_(BAD, "--take-the-rest"), "2 new", "4 refused", "2 payments imported")
    assert [row[0] for row in await stored(database)] == [1, 6]
    result = await verify(BAD, "--show", "1")
    failed(result, "row 2, id 2: status must be", "4 payments differ")
    assert "id 3" not in result.output
    # Mended at its source, a row is simply new.
    mended = [row if row[0] != 2 else (2, "inserted", None, 2) for row in BAD]
    ok(await import_(mended, "--take-the-rest"), "1 new", "3 refused", "1 payments imported")


async def test_an_id_that_occurs_twice(
    database: Database, import_: Import, verify: Import, tmp_path: Path
) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"id": id, "status": "inserted"} for id in (1, 2, 1, 3)]))
    options = (str(path), "--without-payment")
    failed(await import_(*options), "row 1, id 1: another row has the same id", "row 3, id 1")
    ok(await import_(*options, "--take-the-rest"), "2 new", "2 refused")
    assert [row[0] for row in await stored(database)] == [2, 3]
    failed(await verify(*options), "2 payments differ")


async def test_ten_rows_are_shown_and_all_are_in_the_report(
    import_: Import, tmp_path: Path
) -> None:
    result = await import_([(n, "no", None, None) for n in range(1, 31)])
    assert result.error.count(" id ") == 10
    assert len(report_of(tmp_path)) == 30


# What is missing, and what is said of it


AMOUNTS = """
CREATE TABLE payment (id INTEGER PRIMARY KEY, status TEXT, amount REAL);
INSERT INTO payment VALUES (1, 'inserted', 12.5), (2, 'consumed', NULL);
"""


async def test_the_command_that_it_proposes_imports_it(
    database: Database, import_: Import, verify: Import, tmp_path: Path
) -> None:
    path = str(script(tmp_path / "old file", AMOUNTS))
    failed(await verify(path), "needs more options to be compared: --column payment=amount")
    result = await import_(path)
    failed(result, "needs more options")
    assert await stored(database) == []
    [line] = [line for line in result.output.splitlines() if "payments import --from" in line]
    assert "--column payment=amount" in line
    ok(await invoke_on(database, *shlex.split(line)[1:]), "2 payments imported")
    assert [row[3] for row in await stored(database)] == ["12.50", None]
    columns = ("--column", "payment=amount")
    result = await verify(path, *columns)
    ok(result, "sum 12.50 12.50", "No difference in id and status and payment; the source has no")
    changed = AMOUNTS.replace("12.5", "13.5")
    path = str(script(tmp_path / "changed", changed))
    failed(await verify(path, *columns), "id 1: its payment is 13.50, and 12.50 here")


async def test_values_are_not_left_behind_unsaid(
    database: Database, import_: Import, tmp_path: Path
) -> None:
    table = "CREATE TABLE payment (id INTEGER PRIMARY KEY, status TEXT, cash REAL)"
    path = str(script(tmp_path / "old", table, "INSERT INTO payment VALUES (1, 'inserted', 12.5)"))
    failed(await import_(path), "--column payment=CHOOSE", "Replace CHOOSE, and this imports it:")
    failed(await import_(path, "--ignore", "cash"), "--without-payment")
    assert await stored(database) == []
    ok(await import_(path, "--ignore", "cash", "--without-payment"), "1 payments imported")


async def test_a_generated_column_arrives(
    database: Database, import_: Import, verify: Import, tmp_path: Path
) -> None:
    amount = "payment REAL GENERATED ALWAYS AS (json_extract(data, '$.amount'))"
    table = f"CREATE TABLE payment (id INTEGER PRIMARY KEY, status TEXT, data JSON, {amount})"
    insert = """INSERT INTO payment (status, data) VALUES ('inserted', '{"amount": 12.5}')"""
    path = str(script(tmp_path / "old", table, insert))
    ok(await import_(path), "1 payments imported")
    assert [row[3] for row in await stored(database)] == ["12.50"]
    ok(await verify(path), "sum 12.50 12.50", "No difference.")


async def test_a_view_is_read_like_its_table(
    database: Database, import_: Import, verify: Import, tmp_path: Path
) -> None:
    ok(await import_(OLD))
    before = await everything(database)
    path = tmp_path / "old"
    script(path, "CREATE VIEW seen AS SELECT * FROM payments")
    view = (str(path), "--table", "seen")
    ok(await import_(*view, "--take-back", "5"), "3 rows read", "Nothing to do.")
    ok(await verify(*view), "payments 3 3", "No difference.")
    script(path, "DELETE FROM payments")
    for options in ([], ["--take-back", "5"], ["--dry-run"]):
        failed(await import_(*view, *options), "has no payments", "--allow-empty")
    failed(await verify(*view), "has no payments")
    assert await everything(database) == before
    ok(await import_(*view, "--take-back", "5", "--allow-empty"), "3 gone")


async def test_a_copy_that_may_be_old_is_told(
    import_: Import, verify: Import, tmp_path: Path
) -> None:
    path = sqlite_file(tmp_path / "old", OLD)
    with closing(sqlite3.connect(path)) as old:
        old.execute("PRAGMA journal_mode = wal")
    for result in (await import_(str(path)), await verify(str(path))):
        ok(result)
        assert "Warning: " in result.error
        assert (
            "If this is a bare copy of a file in use, its newest payments are missing"
            in result.error
        )


async def test_only_one_page_is_not_imported(database: Database, import_: Import) -> None:
    with http_server(
        {
            "/list": page(1, "/list?page=2&token=hunter2"),
            "/list?page=2&token=hunter2": page(3, "/rest"),
            "/rest": page(5),
        }
    ) as (url, _):
        failed(await import_(url, "--without-payment"), "one page of several", "--follow-pages")
        assert await stored(database) == []
        ok(await import_(url, "--without-payment", "--follow-pages"), "6 payments imported")
    assert [row[0] for row in await stored(database)] == [1, 2, 3, 4, 5, 6]


async def test_a_token_in_the_address_is_never_printed(import_: Import, verify: Import) -> None:
    body = b'[{"id": 1, "status": "inserted"}, {"id": 2, "status": "done"}]'
    for answer in (whole(body), whole(b"[]"), whole(body[:20]), b"HTTP/1.0 404 None\r\n\r\n"):
        with http_server(answer) as (url, _):
            secret = f"{url}?token=hunter2"
            for result in (
                await import_(secret),
                await import_(secret, "--without-payment"),
                await import_(secret, "--without-payment", "--status", "done=consumed"),
                await verify(secret),
                await verify(secret, "--without-payment"),
            ):
                assert "hunter2" not in result.output + result.error


async def test_a_file_whose_name_is_not_utf_8(database: Database, tmp_path: Path) -> None:
    path = sqlite_file(tmp_path / "old", [(1, "done", None, 1)])
    name = str(path.rename(tmp_path / os.fsdecode(b"old-\xff\x1b")))
    report = ("--report", str(tmp_path / os.fsdecode(b"report-\xff")))
    result = await run_on(database, "import", "--from", name, *report)
    failed(result, "--status done=consumed", r"old-\xdcff\x1b")
    status = ("--status", "done=consumed")
    ok(await run_on(database, "import", "--from", name, *report, *status), "1 payments imported")
    ok(await run_on(database, "verify", "--from", name, *status), "No difference.")
    failed(await run_on(database, "verify", "--from", f"{name}-"), "does not exist")


# The report


@pytest.mark.parametrize("directory", ["none", "list.json"])
async def test_a_report_in_a_directory_that_is_none(
    database: Database, import_: Import, tmp_path: Path, directory: str
) -> None:
    (tmp_path / "list.json").write_text("[]")
    result = await import_(OLD, "--report", str(tmp_path / directory / "report.csv"))
    failed(result, f"{directory}/report.csv cannot be written: No", "nothing was imported")
    assert await stored(database) == []


@pytest.mark.parametrize("ending", ["", "-wal"])
@pytest.mark.parametrize("how", ["path", "symlink", "hardlink", "both"])
@pytest.mark.parametrize("option", ["--dry-run", "--take-the-rest"])
async def test_a_report_that_is_the_source(  # noqa: PLR0917
    database: Database, import_: Import, tmp_path: Path, ending: str, how: str, option: str
) -> None:
    source = write_ahead(tmp_path / "old", OLD)
    report = Path(f"{source}{ending}")
    before = {path: path.read_bytes() for path in (source, Path(f"{source}-wal"))}
    if how == "hardlink":
        report = tmp_path / "link"
        report.hardlink_to(f"{source}{ending}")
    if how in {"symlink", "both"}:
        report = tmp_path / "link"
        report.symlink_to(f"{source}{ending}")
    if how == "both":
        source = tmp_path / "directory" / "old"
        source.parent.mkdir()
        source.symlink_to(tmp_path / "old")
    result = await import_(str(source), option, "--report", str(report))
    failed(result, f"the report {report} is the source itself", "--report")
    assert {path: path.read_bytes() for path in before} == before
    assert await stored(database) == []


@pytest.mark.parametrize("rows", [0, 1000])
async def test_a_report_on_a_full_disk(database: Database, import_: Import, rows: int) -> None:
    bad = [(n, "no", None, None) for n in range(10, rows + 10)]
    result = await import_([*OLD, *bad], "--take-the-rest", "--report", "/dev/full")
    failed(result, "/dev/full cannot be written: No space left on device; nothing was imported")
    assert await stored(database) == []


async def test_a_failed_run_keeps_the_earlier_report(
    database: Database, import_: Import, tmp_path: Path
) -> None:
    ok(await import_(BAD, "--take-the-rest"))
    report = tmp_path / "report.csv"
    before = report.read_bytes()
    cut_off = json_file(tmp_path / "list", "[{}")
    sources: list[Rows | str] = [[], str(tmp_path / "none"), str(cut_off)]
    for wrong in sources:
        failed(await import_(wrong))
        assert report.read_bytes() == before
    # A file may grow to 512 bytes or 1 KiB, as the shell counts: the same as a disk that is full.
    path = sqlite_file(tmp_path / "old", [(n, "no", None, None) for n in range(1, 500)])
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'ulimit -f 1; exec "$@"', "sh", sys.executable, "-m", "payments", "import"),
        *("--from", str(path), "--report", str(report)),
        env=os.environ | {"PAYMENTS_DATABASE_URL": database.url("payments_migrator")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()
    assert b"report.csv cannot be written: File too large; nothing was imported" in error
    assert process.returncode == 1
    assert report.read_bytes() == before
    assert {found.name for found in tmp_path.iterdir()} == {"list", "old", "report.csv"}  # noqa: ASYNC240


async def test_a_report_behind_a_link(import_: Import, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "report.csv").symlink_to(tmp_path / "reports" / "last.csv")
    for _ in range(2):
        failed(await import_(BAD))
        assert (tmp_path / "report.csv").is_symlink()
        assert len(report_of(tmp_path)) == 4


async def test_the_report_on_standard_output(database: Database, tmp_path: Path) -> None:
    path = sqlite_file(tmp_path / "old", BAD)
    result = await run_on(database, "import", "--from", str(path), "--report", "-")
    failed(result, "row,id,reason", "2,2,status must be", "nothing was imported")


# What changes between two runs


async def test_a_payment_consumed_in_the_old_system_since(
    api: Api, database: Database, import_: Import, verify: Import
) -> None:
    ok(await import_(OLD))
    tag = (await api.send("GET", "/v1/payments/1")).headers["ETag"]
    since = [(1, "consumed", *OLD[0][2:]), *OLD[1:], (6, "inserted", None, 1)]
    failed(await verify(since), "row 1, id 1: it is consumed, and inserted here", "it is not here")
    ok(await import_(since), "1 consumed", "1 new", "2 payments imported or changed.")
    answer = await api.send("GET", "/v1/payments/1")
    assert answer.json()["status"] == "consumed"
    assert answer.headers["ETag"] != tag
    assert (await stored(database))[0][5] == importer.IMPORTER
    ok(await verify(since))
    ok(await import_(since), "Nothing to do.")


TAKEN_BACK: list[tuple[Rows, str, str]] = [
    (OLD[1:], "gone", "is gone from the old system since"),
    ([(1, "inserted", '{"a": 1.50}', 13.1), *OLD[1:]], "replaced", "another payment or other data"),
    ([(1, "inserted", '{"b": 0}', 12.1), *OLD[1:]], "replaced", "another payment or other data"),
    ([OLD[0], (2, "inserted", "null", None), OLD[2]], "reopened", "is inserted again"),
]


@pytest.mark.parametrize(("since", "verdict", "says"), TAKEN_BACK)
async def test_what_the_old_system_took_back(  # noqa: PLR0917
    database: Database,
    import_: Import,
    verify: Import,
    tmp_path: Path,
    since: Rows,
    verdict: str,
    says: str,
) -> None:
    ok(await import_(OLD))
    before = await everything(database)
    since = [*since, (7, "inserted", None, 7)]
    failed(await import_(since), says, "nothing was imported")
    assert len(report_of(tmp_path)) == 1
    failed(await import_(since, "--take-back", "0"), "took back 1 payments, more than")
    assert await everything(database) == before
    ok(await import_(since, "--dry-run", "--take-back", "1"), f"1 {verdict}", "2 payments would be")
    assert await everything(database) == before
    ok(await import_(since, "--take-back", "1"), f"1 {verdict}", "1 new", "2 payments imported")
    ok(await verify(since))
    ok(await import_(since), "Nothing to do.")


async def test_the_rest_without_what_was_taken_back(
    database: Database, import_: Import, verify: Import
) -> None:
    ok(await import_(OLD))
    since = [*OLD[1:], (7, "inserted", None, 7)]
    ok(await import_(since, "--take-the-rest"), "1 gone", "1 payments imported")
    assert [row[0] for row in await stored(database)] == [1, 2, 5, 7]
    failed(await verify(since), "row -, id 1: it is here alone; it was made by payments import")


async def test_an_id_that_the_old_system_gave_again(
    api: Api, database: Database, import_: Import, verify: Import
) -> None:
    ok(await import_(OLD))
    ok(await import_(OLD[:2], "--take-back", "1"))
    assert (await api.send("GET", "/v1/payments/5")).status_code == 404
    assert (await stored(database))[2][6] == importer.IMPORTER
    again = [*OLD[:2], (5, "consumed", '"new"', 5)]
    failed(await import_(again), "an import deleted it, and is there again")
    ok(await import_(again, "--take-back", "1"), "1 returned")
    assert (await api.send("GET", "/v1/payments/5")).json()["data"] == "new"
    ok(await verify(again))


async def test_the_wrong_source_takes_nothing_back(database: Database, import_: Import) -> None:
    ok(await import_(OLD))
    before = await everything(database)
    wrong: Rows = [(7, "inserted", None, 1)]
    failed(await import_(wrong), "3 rows cannot be imported")
    failed(await import_(wrong, "--take-back", "2"), "took back 3 payments", "the right source?")
    failed(await import_([], "--take-back", "5"), "has no payments", "--allow-empty")
    assert await everything(database) == before


async def test_a_refused_row_is_not_gone(database: Database, import_: Import) -> None:
    ok(await import_(OLD))
    since = [(1, "?", None, None), *OLD[1:]]
    ok(
        await import_(since, "--take-back", "9", "--take-the-rest"),
        "1 refused",
        "Nothing to do; 1 rows are left out.",
    )
    assert len(await stored(database)) == 3


# What is the new system's


async def test_what_was_made_or_changed_here_stays(
    api: Api, database: Database, import_: Import, tmp_path: Path
) -> None:
    await database.fetch("SELECT setval('payments_id_seq', 2)")
    made = (await api.payment(3))["id"]
    assert made == 3
    old = [(n, "inserted", None, n) for n in (1, 2, 4, 5, 6)]
    ok(await import_(old))
    for id in (1, 2):
        await api.send("PUT", f"/update/{id}", '{"status": "consumed"}')
    await api.send("DELETE", "/delete/4")
    await api.send("DELETE", "/delete/5")
    before = await everything(database)
    # 1 goes on as it was, 2 is gone, 3 is made there too, 4 is consumed there, 5 is gone there too.
    since = [(n, "inserted", None, n) for n in (1, 3, 6)] + [(4, "consumed", None, 4)]
    for options in ([], ["--take-back", "9"]):
        result = await import_(since, *options)
        failed(result, "nothing was imported")
        assert sorted(report_of(tmp_path), key=lambda row: row[1]) == [
            ["1", "1", f"{CLIENT} consumed it here"],
            ["", "2", f"{CLIENT} consumed it here"],
            ["3", "3", f"{CLIENT} made a payment with this id here"],
            ["4", "4", f"{CLIENT} deleted it here"],
        ]
    ok(
        await import_(since, "--take-the-rest", "--take-back", "9"),
        "Nothing to do; 4 rows are left out.",
    )
    assert await everything(database) == before


async def test_consumed_on_both_sides_is_no_difference(
    api: Api, import_: Import, verify: Import
) -> None:
    ok(await import_(OLD))
    await api.send("PUT", "/update/1", '{"status": "consumed"}')
    since = [(1, "consumed", *OLD[0][2:]), *OLD[1:]]
    ok(await import_(since), "Nothing to do.")
    ok(await verify(since))


# While others work


async def connected(database: Database) -> asyncpg.Connection:
    """Opens a connection as the command does."""
    connection = await asyncpg.connect(database.url("payments_migrator"))
    await connection.execute("SET ROLE payments_owner")
    return connection


async def test_what_is_changed_between_the_look_and_the_change(
    api: Api, database: Database, tmp_path: Path, import_: Import
) -> None:
    ok(await import_(OLD))
    path = sqlite_file(tmp_path / "old", [(1, "consumed", *OLD[0][2:]), *OLD[1:]])
    connection = await connected(database)
    try:
        plan = await importer.plan(connection, source(path))
        await api.send("DELETE", "/delete/1")
        with pytest.raises(importer.ImportFailed, match="run it again"):
            await importer.carry_out(connection, plan, take_back=False)
    finally:
        await connection.close()
    assert (await stored(database))[0][1] == "inserted"


async def test_an_id_that_is_taken_meanwhile(database: Database, tmp_path: Path) -> None:
    path = sqlite_file(tmp_path / "old", OLD)
    connection = await connected(database)
    try:
        plan = await importer.plan(connection, source(path))
        await database.fetch("INSERT INTO payments (id, created_by) VALUES (5, 'shop')")
        with pytest.raises(importer.ImportFailed, match="run it again"):
            await importer.carry_out(connection, plan, take_back=False)
    finally:
        await connection.close()
    assert [row[4] for row in await stored(database)] == ["shop"]


async def test_two_at_once(database: Database, tmp_path: Path, import_: Import) -> None:
    connection = await connected(database)
    try:
        first = source(sqlite_file(tmp_path / "first", OLD))
        await importer.plan(connection, first)
        failed(await import_(OLD), "another import runs")
    finally:
        await connection.close()
    ok(await import_(OLD))


async def test_a_lock_that_is_held_too_long(database: Database, import_: Import) -> None:
    async with database.connect() as holder, holder.transaction():
        await holder.execute("SELECT nextval('payments_id_seq')")
        failed(await import_(OLD), "held a lock for too long; run it again")
    ok(await import_(OLD), "3 payments imported")


async def test_cut_off_in_the_middle_it_goes_on(
    database: Database, tmp_path: Path, import_: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "BATCH_ROWS", 2)
    rows: Rows = [(n, "inserted", None, n) for n in range(1, 8)]
    path = sqlite_file(tmp_path / "old", rows)
    connection = await connected(database)
    plan = await importer.plan(connection, source(path))
    # The third batch fails as at the end of the connection.
    await database.fetch("ALTER TABLE payments ADD CHECK (id <> 5)")
    with pytest.raises(asyncpg.CheckViolationError):
        await importer.carry_out(connection, plan, take_back=False)
    await connection.close()
    assert [row[0] for row in await stored(database)] == [1, 2, 3, 4]
    await database.fetch("ALTER TABLE payments DROP CONSTRAINT payments_id_check")
    ok(await import_(rows), "3 new", "3 payments imported")
    assert [row[0] for row in await stored(database)] == list(range(1, 8))


@pytest.mark.slow
async def test_the_service_serves_during_an_import(
    api: Api, database: Database, tmp_path: Path
) -> None:
    await database.fetch("SELECT setval('payments_id_seq', 70000)")
    rows: Rows = [(n, "inserted", None, n % 1000) for n in range(1, 60_001)]
    file = sqlite_file(tmp_path / "old", [*rows, (80_000, "inserted", None, None)])
    # A process of its own, beside the service.
    options = ("--from", str(file), "--report", str(tmp_path / "report.csv"))
    task = asyncio.create_task(run_on(database, "import", *options))
    made = between = 0
    while not task.done():
        begun = await database.fetch("SELECT FROM payments WHERE id = 1")
        answer = await api.create({"payment": 1})
        assert answer.status_code == 201, answer.text
        made += 1
        between += bool(begun) and not task.done()
        await asyncio.sleep(0.02)
    ok(await task, "60,001 payments imported")
    kept = await database.fetch("SELECT FROM payments WHERE created_by = $1", CLIENT)
    assert len(kept) == made
    assert between > 0


# Memory


@pytest.mark.slow
async def test_memory_is_constant(database: Database) -> None:
    class Many:
        def __init__(self, count: int) -> None:
            self.count = count
            self.survey = Survey(Options())

        def total(self) -> int:
            return self.count

        def rows(self) -> Any:
            for n in range(1, self.count + 1):
                data = f'{{"customer": "customer {n}"}}'
                yield OldPayment(n, n, "inserted", True, n % 9_000_000, data, None)

    peaks = []
    for count in (20_000, 300_000):
        connection = await connected(database)
        tracemalloc.start()
        try:
            await importer.plan(connection, Many(count))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
            await connection.close()
    assert peaks[1] < peaks[0] * 1.5


# What an operator sees


async def test_who_may_import(import_: Import, database: Database) -> None:
    failed(await import_(OLD, user="payments_app"), "payments_migrator")
    assert await stored(database) == []


@pytest.mark.parametrize("command", ["import", "verify"])
async def test_a_source_that_is_none(database: Database, tmp_path: Path, command: str) -> None:
    report = ("--report", str(tmp_path / "report.csv")) if command == "import" else ()
    result = await invoke_on(database, command, "--from", str(tmp_path / "none"), *report)
    failed(result, "does not exist")
    result = await invoke(command, "--from", "x", *report)
    failed(result, "PAYMENTS_DATABASE_URL is not set")
    assert (await invoke_on(database, command)).status == 2


async def test_plain_lines_where_there_is_no_terminal(import_: Import) -> None:
    result = await import_(OLD)
    reading, writing = result.error.splitlines()
    assert reading.startswith("Reading: 3 rows, ")
    assert writing.startswith("Writing: 3 rows, ")
    assert "\r" not in result.error


async def test_a_bar_on_a_terminal(database: Database, tmp_path: Path) -> None:
    path = sqlite_file(tmp_path / "old", [(n, "inserted", None, None) for n in range(1, 30_001)])
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "payments", "import", "--from", str(path)),
            *("--report", str(tmp_path / "report.csv")),
            env=os.environ | {"PAYMENTS_DATABASE_URL": database.url("payments_migrator")},
            stdout=asyncio.subprocess.PIPE,
            stderr=terminal,
        )
        output, _ = await process.communicate()
        shown = os.read(controller, 65536).decode()
    finally:
        os.close(controller)
        os.close(terminal)
    assert process.returncode == 0, shown
    assert b"30,000 payments imported" in output
    assert "Reading: 100%" in shown
    assert "Writing: 100%" in shown
    assert " rows/s]" in shown
    assert "a second" not in shown
