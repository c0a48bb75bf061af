"""How children are started and waited for.

They die with their parent, and as root they can be somebody else.
"""

import os
import pwd
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 0.01

# Bits of /proc/self/status, from capabilities(7); the first that root has is taken.
_CAPABILITIES = {"dac_read_search": 2, "dac_override": 1}


class Account(NamedTuple):
    """A user and its group, by number."""

    uid: int
    gid: int


class Unreachable(Exception):
    """A directory on the way is closed to the account; the message names it."""


def prefix(
    death_signal: str, account: Account | None = None, paths: Iterable[Path] = ()
) -> list[str]:
    """Returns what stands before a command, so that the command runs as a child should.

    The kernel sends it `death_signal` when the thread that started it dies, kill -9 included (on
    Linux; elsewhere the next start finds the orphan). With an account it runs as that user, and
    can reach the paths even where they lie in a directory of root alone, as a checkout in /root
    does: it then keeps one capability, to pass through directories.

    Raises:
        Unreachable: root in this container has no such capability to give.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if account is None:
            return []
        raise Unreachable("setpriv (package util-linux) is missing; run as another user than root")
    command = [setpriv, "--pdeathsig", death_signal]
    if account is None:
        return command
    command += ["--reuid", str(account.uid), "--regid", str(account.gid), "--clear-groups"]
    blocked = _blocked(account, paths)
    if blocked is None:
        return command
    capability = _capability()
    if capability is None:
        raise Unreachable(
            f"the user {_name(account)} cannot enter {blocked}: run `chmod o+x {blocked}`"
        )
    # Without no_setuid_fixup, access(2), which initdb asks, would ignore the capability.
    return [
        *command,
        f"--inh-caps=-all,+{capability}",
        f"--ambient-caps=+{capability}",
        "--securebits=+no_setuid_fixup",
    ]


def environment(database: str) -> dict[str, str]:
    """Returns the environment of `payments`: the caller's, but for what is said of a database."""
    caller = os.environ.items()
    return {name: value for name, value in caller if not name.startswith("PAYMENTS_DATABASE_")} | {
        "PAYMENTS_DATABASE_URL": database
    }


def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Waits for a condition; returns whether it came true in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _blocked(account: Account, paths: Iterable[Path]) -> Path | None:
    """Returns the first directory above the paths that the account cannot pass through."""
    for path in paths:
        for directory in reversed(path.resolve().parents):
            if not _passable(account, directory.stat()):
                return directory
    return None


def _passable(account: Account, status: os.stat_result) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _capability() -> str | None:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    bits = int(effective.split()[1], 16)
    return next((name for name, bit in _CAPABILITIES.items() if bits >> bit & 1), None)


def _name(account: Account) -> str:
    try:
        return pwd.getpwuid(account.uid).pw_name
    except KeyError:
        return str(account.uid)
