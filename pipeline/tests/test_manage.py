"""`make manage FILE=`: only a whole file goes into the pod, as it is, or there is no pod."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.manage import FILES_LIMIT_GIB
from pipeline.release import ROOT

JOB = {
    "kind": "Job",
    "spec": {
        "template": {
            "metadata": {"labels": {}},
            "spec": {"containers": [{"name": "migrate", "args": ["migrate"]}]},
        }
    },
}

# Stands in for kubectl: it keeps what it is called with, and does on this machine, in a folder of
# its own for /tmp, what it is told to do in the pod.
KUBECTL = f"""
import json, os, subprocess, sys
from pathlib import Path
arguments = sys.argv[1:]
folder = Path(__file__).parent
with (folder / "calls").open("a") as calls:
    print(json.dumps(arguments), file=calls)
if "--dry-run=client" in arguments:
    print({json.dumps(JOB)!r})
elif "-c" in arguments:
    _, _, code, path, size = arguments[arguments.index("--") + 1 :]
    if os.environ.get("CUT"):
        sys.stdin.buffer.read(1)
    where = path.replace("/tmp", str(folder / "pod"))
    if writes := os.environ.get("MEANWHILE"):
        with open(writes, "ab") as file:
            file.write(b"x")
    sys.exit(subprocess.run([sys.executable, "-c", code, where, size]).returncode)
elif "payments" in arguments:
    print("ran", *arguments[arguments.index("payments") + 1 :])
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with stand-ins of helm and kubectl, and what came to the pod."""
    folder = tmp_path / "cluster"
    (folder / "pod").mkdir(parents=True)
    for name, text in (("helm", ""), ("kubectl", KUBECTL)):
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)
    return folder


def manage(
    cluster: Path, file: Path | str, command: str = "keys list", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs manage.py in the folder of the file."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.manage", "dev", command],
        cwd=cluster.parent,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HELM": str(cluster / "helm"),
            "KUBECTL": str(cluster / "kubectl"),
            "FILE": str(file),
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(cluster: Path, file: Path | str) -> str:
    """Returns why a file is refused, before a cluster is asked for anything."""
    found = manage(cluster, file)
    assert found.returncode == 1
    assert not (cluster / "calls").exists()
    assert "Traceback" not in found.stderr
    return found.stderr


def is_deleted(cluster: Path) -> bool:
    """Whether the last call deleted the pod."""
    last = json.loads((cluster / "calls").read_text().splitlines()[-1])
    return "delete" in last


@pytest.fixture(params=["wal", "delete"])
def in_use(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A SQLite file that another program has in use, with a transaction beside it."""
    file = tmp_path / "old.sqlite3"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {request.param}")
        connection.execute("CREATE TABLE payments (id INTEGER PRIMARY KEY)")
        if request.param == "delete":
            connection.execute("PRAGMA cache_size = 1")
            connection.execute("BEGIN")
            connection.execute(
                "WITH RECURSIVE n (id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM n LIMIT 9999)"
                " INSERT INTO payments SELECT id FROM n"
            )
        yield file


def test_a_database_that_goes_on_in_another_file_is_refused(cluster: Path, in_use: Path) -> None:
    link = cluster.parent / "link"
    link.symlink_to(in_use)
    for file in (in_use, link):
        message = refusal(cluster, file)
        assert f"FILE: {file} is not the whole database, {in_use}-" in message
        assert f"sqlite3 {file} \"VACUUM INTO 'whole.sqlite3'\"" in message


def test_a_copy_made_as_the_message_says_is_sent(cluster: Path, tmp_path: Path) -> None:
    old, whole = tmp_path / "old.sqlite3", tmp_path / "whole.sqlite3"
    with closing(sqlite3.connect(old)) as source, closing(sqlite3.connect(whole)) as copy:
        source.execute("PRAGMA journal_mode = wal")
        source.execute("CREATE TABLE payments (id INTEGER PRIMARY KEY)")
        source.commit()
        assert "whole database" in refusal(cluster, old)
        source.backup(copy)
    found = manage(cluster, whole)
    assert found.returncode == 0, found.stderr
    assert (cluster / "pod" / "whole.sqlite3").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing", "cannot be read: No such file or directory"),
        ("cluster", "is no regular file: give the path of one"),
        ("/dev/null", "is no regular file: give the path of one"),
        ("n" * 300, "cannot be read: File name too long"),
    ],
    ids=["missing", "directory", "device", "long"],
)
def test_what_is_no_file_is_refused(cluster: Path, name: str, why: str) -> None:
    assert refusal(cluster, name) == f"FILE: {name} {why}\n"


def test_a_file_that_no_pod_takes_is_refused(cluster: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(FILES_LIMIT_GIB * 1024**3 + 1)  # of no blocks
    assert "8.0 GiB, and a pod takes 8" in refusal(cluster, large)


@pytest.mark.parametrize("name", ["two words.sqlite3", "-old.sqlite3", "it's $(id).json", "ação"])
def test_a_file_comes_under_its_own_name(cluster: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"payments")
    found = manage(cluster, name, f'import --from "/tmp/{name}"')
    assert found.returncode == 0, found.stderr
    assert (cluster / "pod" / name).read_bytes() == b"payments"
    assert found.stdout == f"ran import --from /tmp/{name}\n"
    assert is_deleted(cluster)


@pytest.mark.parametrize("beside", ["", "-wal"], ids=["itself", "its log"])
def test_a_file_that_changes_meanwhile_is_not_used(
    cluster: Path, tmp_path: Path, beside: str
) -> None:
    file = tmp_path / "old"
    file.write_bytes(b"payments")
    os.utime(file, (0, 0))
    found = manage(cluster, file, MEANWHILE=f"{file}{beside}")
    assert found.returncode == 1
    assert "ran" not in found.stdout
    assert is_deleted(cluster)


def test_a_file_that_comes_in_part_is_not_used(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"payments" * 100_000)
    found = manage(cluster, "old", CUT="1")
    assert found.returncode == 1
    assert "of 800000 bytes came: run the command again" in found.stderr
    assert "ran" not in found.stdout
    assert is_deleted(cluster)


def test_an_open_quote_in_the_command_is_named(cluster: Path) -> None:
    found = manage(cluster, "", "keys create 'shop")
    assert found.returncode == 1
    assert found.stderr == "COMMAND: a quote is not closed in: keys create 'shop\n"
