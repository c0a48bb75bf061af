"""The command `payments` as a process: out of this checkout or, with `--image`, out of an image.

With `--pooler`, `payments serve` reaches PostgreSQL through one.
"""

import asyncio
import itertools
import os
import secrets
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from laptop.postgres import Cluster

if TYPE_CHECKING:
    from tests.pooler import Poolers

# What the chart gives a pod, and less: where the shells were there is nothing that can be run.
CONTAINER = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--user=10001",
    "--pids-limit=64",
    "--memory=256m",
    "--volume=/dev/null:/usr/bin/dash:ro",
    "--volume=/dev/null:/usr/bin/bash:ro",
)

DOCKER = os.environ.get("DOCKER", "docker")

_numbers = itertools.count(1)


class Image:
    """An image under test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.directories: list[Path] = []  # what containers see of the machine
        self.uses = 0

    def run(self, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """Returns the command line that runs a container with these arguments."""
        self.uses += 1
        return [
            *(DOCKER, "run", "--rm", f"--name=payments-test-{os.getpid()}-{next(_numbers)}"),
            "--network=host",
            *(f"--volume={directory}:{directory}" for directory in self.directories),
            *(f"--env={name}" for name in os.environ if name.startswith("AWS_")),
            *CONTAINER,
            *options,
            self.name,
            *arguments,
        ]


image: Image | None = None

poolers: "Poolers | None" = None

# By the loop that they were started in: a test's own, or that of a service which all tests share.
launched: dict[asyncio.AbstractEventLoop, list[Process]] = {}


@contextmanager
def visible(directory: Path) -> Iterator[None]:
    """Lets containers, whose user is another one, see a directory; changes nothing without them."""
    if image is None:
        yield
        return
    directory.chmod(0o711)
    image.directories.append(directory)
    try:
        yield
    finally:
        image.directories.remove(directory)


def free_port() -> int:
    """Returns a port that the kernel gives to nobody who connects, not even to itself.

    A caller that tries again and again to reach a dead server's port could otherwise be given that
    very port for its own end, and have itself for a server. Tests that run at one time, all with
    the same seed, draw different ones.
    """
    while True:
        port = secrets.randbelow(12_000) + 20_000
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def is_here(host: str) -> bool:
    """Returns whether this machine has the address: some have no IPv6."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            free.bind((host, 0))
    except OSError:
        return False
    return True


def sockets(cluster: Cluster) -> Path:
    """Returns the directory of PostgreSQL's socket."""
    return Path(parse_qs(urlsplit(cluster.url()).query)["host"][0])


async def launch(
    *arguments: str,
    variables: Mapping[str, str],
    stdout: int | IO[bytes] = PIPE,
    stderr: int | IO[bytes] = PIPE,
) -> Process:
    """Starts the command with these `PAYMENTS_*` variables and no others.

    A signal to the process reaches the command, and its status is the command's, either way.
    """
    if poolers is not None and arguments == ("serve",):
        variables = poolers.environment(variables)
    if image is None:
        command = [sys.executable, "-m", "payments", *arguments]
    else:
        command = image.run(*arguments, options=tuple(f"--env={name}" for name in variables))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PAYMENTS_")}
    process = await asyncio.create_subprocess_exec(
        *command, env=clean | dict(variables), stdout=stdout, stderr=stderr
    )
    launched.setdefault(asyncio.get_running_loop(), []).append(process)
    return process
