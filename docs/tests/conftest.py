"""What all tests here share: a service to try, and that a run that leaves anything behind fails."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import ROOT

pytest_plugins = ["leaks"]

FREE_PORTS = "from tests.command import free_port; print(free_port(), free_port())"


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What `make run` runs, on data of its own; gives what replaces what in a document."""
    command = [sys.executable, "-c", FREE_PORTS]
    port, metrics_port = subprocess.check_output(command, cwd=ROOT / "api", text=True).split()
    options = (f"--port={port}", f"--metrics-port={metrics_port}", f"--data={tmp_path / '.data'}")
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    # Not a pipe: nobody reads the service's log.
    log = tmp_path / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "laptop", *options], cwd=ROOT / "api", stdout=output
        ) as process,
    ):
        try:
            while "Ctrl-C" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield {"8000": port, "9464": metrics_port}
        finally:
            process.terminate()
