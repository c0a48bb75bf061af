"""A plugin of pytest: a run that leaves anything behind fails.

Each process that runs tests (with pytest-xdist, each worker) looks for what it left: processes, the
ports that it or they listen on, and files in the directory for temporary ones.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

# In the environment of whatever a test starts, so that an orphan is found too.
VARIABLE = "TEST_SESSION"

# Python's own, which ends with the process that it serves.
RESOURCE_TRACKER = "multiprocessing.resource_tracker"

# For what was told to end, and does.
END_SECONDS = 60


@pytest.fixture(scope="session", autouse=True)
def session_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory for temporary files of this session, empty at its end.

    Its name begins the name of what is made elsewhere for speed: in /dev/shm, say.
    """
    kept = tmp_path_factory.getbasetemp()  # pytest's own, made before the other is the default
    directory = Path(tempfile.mkdtemp(prefix="tests-"))
    directory.chmod(0o711)  # PostgreSQL, which is not root, passes through it to its socket
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(directory))
        patch.setenv(VARIABLE, directory.name)
        patch.setattr(tempfile, "tempdir", str(directory))
        yield directory
        left = [*_processes(directory, kept), *_ports(psutil.Process()), *_files(directory)]
    assert not left, "\n".join(["the tests left behind:", *left])
    directory.rmdir()


def _processes(directory: Path, kept: Path) -> list[str]:
    started = [one for one in psutil.process_iter() if _is_ours(one, directory, kept)]
    _, left = psutil.wait_procs(started, END_SECONDS)
    return [line for process in left for line in _describe(process)]


def _describe(process: psutil.Process) -> list[str]:
    try:
        words = " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return []  # it has just ended
    return [f"process {process.pid}: {words}", *_ports(process)]


def _is_ours(process: psutil.Process, directory: Path, kept: Path) -> bool:
    """Whether the tests started a process that still runs, directly or through others."""
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        if any(RESOURCE_TRACKER in word for word in process.cmdline()):
            return False
        if any(parent.pid == os.getpid() for parent in process.parents()):
            return True
        # PostgreSQL has an environment of its own, and works in its data directory.
        folder = process.cwd()
        if directory.name in folder or Path(folder).is_relative_to(kept):
            return True
        return process.environ().get(VARIABLE) == directory.name
    except psutil.Error:
        return False  # it ended meanwhile, or is somebody else's


def _ports(process: psutil.Process) -> list[str]:
    try:
        connections = process.net_connections("inet")
    except psutil.Error:
        return []
    return [
        f"port {connection.laddr.port}, on which process {process.pid} listens"
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    ]


def _files(directory: Path) -> list[str]:
    elsewhere = [Path("/dev/shm"), Path("/var/tmp")]  # noqa: S108 - looks only
    places = [(directory, "*"), *((place, f"{directory.name}*") for place in elsewhere)]
    return [f"file {left}" for place, pattern in places for left in sorted(place.glob(pattern))]
