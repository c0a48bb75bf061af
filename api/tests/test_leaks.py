"""A run of tests that leaves anything behind fails, and says what it is."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import API_DIRECTORY

pytestmark = [pytest.mark.in_process, pytest.mark.slow]

PROCESS = """
import subprocess, sys

def test_it():
    waits = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(waits, start_new_session=True)
    child.returncode = 0  # Python is not to tell of it itself
"""

ORPHAN = """
import subprocess, sys

def test_it():
    waits = [sys.executable, "-c", "import time; time.sleep(600)"]
    code = f"import subprocess; subprocess.Popen({waits}, start_new_session=True)"
    subprocess.run([sys.executable, "-c", code], check=True)
"""

ORPHAN_IN_MEMORY = """
import os, subprocess, sys, tempfile

def test_it(session_directory):
    waits = [sys.executable, "-c", "import time; time.sleep(600)"]
    with tempfile.TemporaryDirectory(prefix=f"{session_directory.name}-", dir="/dev/shm") as folder:
        child = subprocess.Popen(waits, start_new_session=True, cwd=folder, env={})
        child.returncode = 0
"""

PORT = """
import socket

kept = []

def test_it():
    kept.append(socket.create_server(("127.0.0.1", 0)))
"""

FILE = """
import tempfile

def test_it():
    tempfile.mkdtemp(prefix="forgotten-")
"""

IN_MEMORY = """
import tempfile
import pytest

def test_it(session_directory):
    tempfile.mkdtemp(prefix=f"{session_directory.name}-forgotten-", dir="/dev/shm")
"""

DATABASE = """
import asyncio
import asyncpg

async def test_it(cluster):
    connection = await asyncpg.connect(cluster.url())
    await connection.execute("CREATE DATABASE test_forgotten")
    await connection.close()
"""


@pytest.mark.parametrize(
    ("planted", "workers", "says"),
    [
        pytest.param(PROCESS, 0, r"process \d+: .*sleep\(600\)", id="process"),
        pytest.param(ORPHAN, 2, r"process \d+: .*sleep\(600\)", id="orphan"),
        pytest.param(ORPHAN_IN_MEMORY, 2, r"process \d+: .*sleep\(600\)", id="orphan in memory"),
        pytest.param(PORT, 0, r"port \d+, on which process \d+ listens", id="port"),
        pytest.param(FILE, 2, "file .*/forgotten-", id="file"),
        pytest.param(IN_MEMORY, 0, "file /dev/shm/.*-forgotten-", id="file in memory"),
        pytest.param(DATABASE, 2, "databases: .*'test_forgotten'", id="database"),
        pytest.param("def test_it(): pass", 2, "1 passed", id="nothing"),
    ],
)
def test_what_is_left_behind_fails_the_run(
    tmp_path: Path, planted: str, workers: int, says: str
) -> None:
    file = tmp_path / "test_planted.py"
    file.write_text(planted)
    options = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-n", str(workers), str(file)],
        cwd=API_DIRECTORY,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    output = run.stdout + run.stderr
    for pid in re.findall(r"process (\d+): ", output):
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    for left in re.findall(r"file (/\S+-forgotten-\w+|/\S+/forgotten-\w+)", output):
        with suppress(FileNotFoundError):
            Path(left).rmdir()
    assert re.search(says, output), output
    assert run.returncode == ("left behind" in output), output
    assert ("left behind" in output) is (says != "1 passed")
