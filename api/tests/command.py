"""The command `payments` as a process: out of this checkout or, with `--image`, out of an image."""

import asyncio
import itertools
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from typing import IO

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
        self.sockets = ""  # the directory of PostgreSQL's socket, once it runs
        self.uses = 0

    def run(self, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """Returns the command line that runs a container with these arguments."""
        self.uses += 1
        return [
            *(DOCKER, "run", "--rm", f"--name=payments-test-{os.getpid()}-{next(_numbers)}"),
            *("--network=host", f"--volume={self.sockets}:{self.sockets}"),
            *CONTAINER,
            *options,
            self.name,
            *arguments,
        ]


image: Image | None = None


async def launch(
    *arguments: str,
    variables: Mapping[str, str],
    stdout: int | IO[bytes] = PIPE,
    stderr: int | IO[bytes] = PIPE,
) -> Process:
    """Starts the command with these `PAYMENTS_*` variables and no others.

    A signal to the process reaches the command, and its status is the command's, either way.
    """
    if image is None:
        command = [sys.executable, "-m", "payments", *arguments]
    else:
        command = image.run(*arguments, options=tuple(f"--env={name}" for name in variables))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PAYMENTS_")}
    return await asyncio.create_subprocess_exec(
        *command, env=clean | dict(variables), stdout=stdout, stderr=stderr
    )
