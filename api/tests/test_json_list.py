"""A list as JSON: every element comes out, as it is or with the reason why not."""

import gzip
import json
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.legacy import json_list
from payments.legacy.row import OldPayment
from payments.legacy.survey import SourceError
from tests.test_sources import in_tmp_path, json_file, read, row, source


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
        ('{"id": "01", "status": "inserted"}', None, 'it is "01"'),
        ('{"id": "1.0", "status": "inserted"}', None, 'it is "1.0"'),
        (f'{{"id": "{"9" * 20}", "status": "inserted"}}', None, "it is"),
        ('{"id": true, "status": "inserted"}', None, "it is true"),
        ('{"id": 1.0, "status": "inserted"}', None, "id must be"),
        ('{"id": 1e3, "status": "inserted"}', None, "it is 1000.0"),
        (f'{{"id": {"9" * 5000}, "status": "inserted"}}', None, 'it is "9999'),
        ('{"id": 1, "status": "inserted", "payment": NaN}', 1, "`payment` is not JSON: NaN"),
        (
            '{"id": 1, "status": "inserted", "payment": Infinity}',
            1,
            "`payment` is not JSON: Infinity",
        ),
        ('{"id": 1, "status": "inserted", "payment": [NaN]}', 1, "`payment` is not JSON"),
        (
            '{"id": 1, "status": "inserted", "fee": {"a": NaN}}',
            1,
            "`fee` is not JSON: NaN",
        ),
        ('{"id": 1, "status": "inserted", "fee": "\\ud800"}', 1, "`fee` must not hold half"),
        ('{"id": 1, "status": "inserted", "payment": 0.30000000000000004}', 1, "two decimals"),
        ('{"id": 1, "status": "inserted", "payment": true}', 1, "must be a number"),
        ('{"id": 1, "status": "inserted", "payment": {}}', 1, "must be a number"),
        ('{"id": 1, "status": "inserted", "data": {"a": NaN}}', 1, "`data` is not JSON"),
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


def test_the_name_of_a_field_counts_in_any_case_and_may_be_another(tmp_path: Path) -> None:
    text = '[{"ID": 1, "Status": "done", "amount": 1}, {"ID": 2, "Status": "done", "note": NaN}]'
    path = json_file(tmp_path / "list", text)
    opened = source(path, columns={"payment": "Amount"}, statuses={"done": "consumed"})
    first, second = opened.rows()
    assert first == row(1, status="consumed", cents=100, data=None)
    assert (second.payment_given, second.reason) == (
        False,
        "`note` is not JSON: NaN is no JSON value.",
    )
    assert opened.survey.unknown == ["note"]
    # Not told, it proposes.
    opened = source(path)
    assert next(iter(opened.rows())).cents == 100
    assert opened.survey.layout_options() == ["--column", "payment=amount"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: it has 0 bytes"),
        (gzip.compress(b"[]"), "is compressed with gzip: decompress it with gunzip"),
        (b"\x28\xb5\x2f\xfd\x20\x02\x11\0\0[]", "is compressed with zstd"),
        ("[]".encode("utf-16"), "is encoded in UTF-16: .* iconv --from-code UTF-16 "),
        (b"\xfe\xff" + "[]".encode("utf-16-be"), "iconv --from-code UTF-16 "),
        ("\n[]".encode("utf-16-le"), "iconv --from-code UTF-16LE "),
        (" []".encode("utf-16-be"), "iconv --from-code UTF-16BE "),
        (b'{"payments": [], "count": 9}', r"is an object, .* jq '\.payments' FILE"),
        (
            b'{"count": 9, "next": "/list?page=2", "results": []}',
            "one page of several: it has next",
        ),
        (b'{"next_cursor": 7, "results": []}', "one page of several: it has next_cursor"),
        (b'{"hasMore": true, "data": []}', "one page of several: it has hasMore"),
        (b'{"next": null, "has_more": false, "data": []}', r"jq '\.data'"),
        (b'{"id": 1}', "is an object, not an array: give an array of all payments"),
        (b'{"id": 1}\n{"id": 2}\n', "one object after the other, .* jq --slurp"),
        (b'{"id": 1, "tags": [{}]}\n{"id": 2}', "one object after the other"),
        (b'{"meta": [1], "data": {"columns": [1], "rows": [{}]}}', r"jq '\.data\.rows' FILE"),
        (b"id,status\n1,inserted\n", r"if it is CSV, .* '\.import --csv FILE payments'"),
    ],
)
def test_what_is_no_list_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        read(json_file(tmp_path / "list", content))


def test_a_zip_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "list", "w") as archive:
        archive.writestr("list.json", "[]")
    with pytest.raises(SourceError, match="is a ZIP archive: decompress it with unzip"):
        read(tmp_path / "list")


@pytest.mark.parametrize("encoding", ["UTF-16", "UTF-16LE", "UTF-16BE"])
def test_the_command_that_a_message_gives_for_another_encoding(
    tmp_path: Path, encoding: str
) -> None:
    path = json_file(tmp_path / "list", '[{"id": 1, "status": "inserted"}]'.encode(encoding))
    with pytest.raises(SourceError) as refused:
        read(path)
    [program] = re.findall(r"as (iconv .*) FILE \|", str(refused.value))
    text = subprocess.check_output([*program.split(), path])
    assert read(json_file(tmp_path / "new", text)) == [row(1, payment_given=False, data=None)]


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
