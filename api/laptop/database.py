"""`make import`: runs the command `payments` on the database of a running `make run`."""

import argparse
import os
import sys
from pathlib import Path

from laptop.__main__ import CHECKOUT, DATABASE, SERVER
from laptop.children import environment
from laptop.postgres import ClusterError, running_url


def main() -> None:
    """Becomes the command, in the directory that it was called in."""
    parser = argparse.ArgumentParser(prog="python -m laptop.database", description=__doc__)
    parser.add_argument("--data", type=Path, default=CHECKOUT / ".data")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of `payments`")
    values = parser.parse_args()
    try:
        url = running_url(values.data / "postgres", DATABASE, "payments_migrator")
    except ClusterError as error:
        sys.exit(str(error))
    command = [sys.executable, str(SERVER), *values.arguments]
    os.execve(sys.executable, command, environment(url) | {"IMPORT_BY_MAKE": "1"})  # noqa: S606


if __name__ == "__main__":
    main()
