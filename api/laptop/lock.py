"""One program at a time: a file lock that the kernel drops when its holder dies."""

import fcntl
import os
import time
from pathlib import Path
from typing import TextIO

PAUSE_SECONDS = 0.05


class AlreadyRunning(Exception):
    """Another process holds the lock; the message has its pid."""


def acquire(path: Path, patience_seconds: float = 0.0) -> TextIO:
    """Takes the lock and writes the pid of this process into it; closing the file releases it.

    Raises:
        AlreadyRunning: the lock is held by another process for longer than the patience.
    """
    file = path.open("a+")
    deadline = time.monotonic() + patience_seconds
    while not _try(file):
        if time.monotonic() >= deadline:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise AlreadyRunning(f"already running (pid {holder}): {path} is locked")
        time.sleep(PAUSE_SECONDS)
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _try(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
