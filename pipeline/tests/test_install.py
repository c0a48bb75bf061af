"""pipeline/install.py installs what a lock names, on the interpreter that it is given."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.release import ROOT

SCRIPT = ROOT / "pipeline" / "install.py"

# As make calls it: uv is installed once, into the cache of the checkout.
ENVIRONMENT = {"XDG_CACHE_HOME": str(ROOT / ".cache"), **os.environ, "PYTHON": sys.executable}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the locks of a checkout, and one small lock more."""
    (tmp_path / "api").symlink_to(ROOT / "api")
    lines = (ROOT / "api" / "requirements.lock").read_text().partition("\nclick==")[2]
    entry = lines.partition("\n    # via")[0]
    (tmp_path / "small.lock").write_text(f"click=={entry}\n")
    return tmp_path


def install(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Installs into `.venv` of a folder."""
    return subprocess.run(
        ["python3", SCRIPT, ".venv", "small.lock"],
        cwd=checkout,
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def install_after_another(checkout: Path) -> None:
    """Installs while another installation has the lock, which then ends."""
    with (checkout / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            ["python3", SCRIPT, ".venv", "small.lock"],
            cwd=checkout,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        ) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "Waiting for another installation\n"
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.wait() == 0


def stamp(checkout: Path) -> Path:
    """Returns the file that says that an environment is whole."""
    return checkout / ".venv" / "installed"


def test_the_environment_has_the_interpreter_and_what_the_lock_names(checkout: Path) -> None:
    found = install(checkout)
    assert found.returncode == 0, found.stderr
    assert stamp(checkout).read_text().split() == [str(checkout), sys.executable]
    program = "import sys, click; print(*sys.version_info[:2])"
    python = str(checkout / ".venv" / "bin" / "python")
    version = subprocess.check_output([python, "-c", program], text=True).split()
    assert version == [str(number) for number in sys.version_info[:2]]


def test_a_file_with_another_hash_is_refused(checkout: Path) -> None:
    lock = checkout / "small.lock"
    name, _, _ = lock.read_text().partition(" \\\n")
    lock.write_text(f"{name} \\\n    --hash=sha256:{'0' * 64}\n")
    found = install(checkout)
    assert found.returncode != 0
    assert "ash mismatch" in found.stderr
    assert not stamp(checkout).exists()


@pytest.mark.parametrize("named", ["python-of-nobody", "/bin/false"])
def test_an_interpreter_that_is_none_is_refused_by_its_name(checkout: Path, named: str) -> None:
    found = install(checkout, PYTHON=named)
    assert found.returncode != 0
    assert found.stderr == f"PYTHON={named} is not a Python 3.11 or newer\n"


def test_an_environment_that_a_service_runs_from_is_not_replaced(checkout: Path) -> None:
    assert install(checkout).returncode == 0
    (checkout / ".data").mkdir()
    with (checkout / ".data" / "postgres.lock").open("w+") as lock:
        lock.write("1234\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = install(checkout)
    assert found.returncode != 0
    assert found.stderr.startswith("make run (pid 1234) uses .venv")
    assert stamp(checkout).exists()


def test_one_installation_waits_for_another_and_takes_what_it_made(checkout: Path) -> None:
    assert install(checkout).returncode == 0
    made = stamp(checkout).stat().st_mtime_ns
    install_after_another(checkout)
    assert stamp(checkout).stat().st_mtime_ns == made


def test_what_another_installation_left_is_not_taken_for_newer_locks(checkout: Path) -> None:
    assert install(checkout).returncode == 0
    made = stamp(checkout).stat().st_mtime_ns
    (checkout / "small.lock").touch()
    install_after_another(checkout)
    assert stamp(checkout).stat().st_mtime_ns > made


def test_a_folder_that_cannot_be_written_is_named(checkout: Path) -> None:
    (checkout / ".install.lock").mkdir()
    found = install(checkout)
    assert found.returncode == 1
    assert found.stderr.startswith(".install.lock cannot be used (Is a directory): make installs")
    assert found.stderr.count("\n") == 1
