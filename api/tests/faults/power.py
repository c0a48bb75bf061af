"""A disk that can be copied as it is at an instant, as if the power had been cut then.

An ext4 file system on a loop device, whose file lies on a file system that shares blocks between
copies (XFS with reflink): a copy takes milliseconds, and holds what the kernel has handed to the
device, not what it still has in memory. That is what a missing fsync loses, and no kill -9 can.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("mkfs.xfs", "mkfs.ext4", "mount", "umount")

# What PostgreSQL needs for a run, and what ten copies of it may come to differ in.
DISK_BYTES = 1024**3
STORE_BYTES = 8 * 1024**3  # sparse


def missing() -> str | None:
    """Returns what this machine lacks for such a disk, or None."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"{', '.join(lacking)} (package xfsprogs or e2fsprogs) is not installed"
    if os.geteuid() != 0:
        return "only root can mount a disk"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    return None


class Disk:
    """The disk, mounted at `directory`."""

    def __init__(self, store: Path, directory: Path) -> None:
        self.directory = directory
        self._store = store
        self._file = store / "disk"

    def sync(self) -> None:
        """Has the kernel write all that it holds for this disk."""
        _run("sync", "--file-system", self.directory)

    def copy(self, number: int) -> Path:
        """Copies the disk as it is at this instant; returns the copy's file."""
        file = self._store / f"copy-{number}"
        _run("cp", "--reflink=always", self._file, file)
        return file


@contextmanager
def disk(directory: Path) -> Iterator[Disk]:
    """Makes the disk; the kernel frees the loop devices when it is unmounted."""
    store_file, store = directory / "store", directory / "store.mounted"
    with store_file.open("w") as file:
        file.truncate(STORE_BYTES)
    _run("mkfs.xfs", "-q", "-m", "reflink=1", store_file)
    with mounted(store_file, store):
        with (store / "disk").open("w") as file:
            file.truncate(DISK_BYTES)
        _run("mkfs.ext4", "-q", store / "disk")
        with mounted(store / "disk", directory / "disk") as place:
            yield Disk(store, place)


@contextmanager
def small_disk(directory: Path, bytes: int) -> Iterator[Path]:
    """Makes a disk of that size, all of it for everybody; gives the directory that it is at."""
    with (directory / "small").open("w") as file:
        file.truncate(bytes)
    _run("mkfs.ext4", "-q", "-m", "0", directory / "small")
    with mounted(directory / "small", directory / "small.mounted") as place:
        yield place


@contextmanager
def mounted(file: Path, place: Path) -> Iterator[Path]:
    """Mounts the file system in a file; what its journal holds is applied to it first."""
    place.mkdir()
    _run("mount", "-o", "loop", file, place)
    try:
        yield place
    finally:
        _run("umount", place)
        place.rmdir()


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)
