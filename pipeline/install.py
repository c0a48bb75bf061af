"""install.py FOLDER LOCK... [PROJECT]: makes a virtual environment, every file's hash checked.

Called by make in the root of the checkout. It runs on the system's Python, 3.9 or newer, before
anything is installed. PYTHON names the interpreter of the environment; else it is the newest on
the PATH. uv installs in seconds what takes pip a minute; pip installs uv, by hash, from its
entry in a lock. The file `installed` is written last, so that make repeats an installation that was
interrupted.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OLDEST = "3.11"
NAMES = ("python3.14", "python3.13", "python3.12", "python3.11", "python3")
UV_LOCK = Path("api/requirements-dev.lock")

IS_NEW_ENOUGH = f"import sys; sys.exit(sys.version_info[:2] < ({OLDEST.replace('.', ', ')}))"


def main(folder: Path, *sources: Path) -> None:
    """Makes the environment unless another process has just done so.

    Raises:
        SystemExit: it cannot be made; the message says what to do.
    """
    wanted = [str(Path.cwd()), *os.environ.get("PYTHON", "").split()]
    stamp = folder / "installed"
    with Path(".install.lock").open("w") as file:
        if not lock(file.fileno(), fcntl.LOCK_NB):
            print("Waiting for another installation", flush=True)
            lock(file.fileno())
            if is_made(stamp, wanted, sources):
                return
        check_unused(folder)
        install(folder, interpreter(), sources)
        stamp.write_text(f"{' '.join(wanted)}\n")


def is_made(stamp: Path, wanted: list[str], sources: tuple[Path, ...]) -> bool:
    """Whether the environment is whole, with this interpreter, and newer than its locks."""
    if not stamp.exists() or not set(wanted) <= set(stamp.read_text().split()):
        return False
    made = stamp.stat().st_mtime_ns
    return all(made >= source.stat().st_mtime_ns for source in sources if source.is_file())


def lock(descriptor: int, flags: int = 0) -> bool:
    """Takes an exclusive lock; tells whether it has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
    except BlockingIOError:
        return False
    return True


def check_unused(folder: Path) -> None:
    """Refuses to replace the environment that `make run` runs from.

    Raises:
        SystemExit: it runs.
    """
    running = Path(".data/postgres.lock")
    if folder.name == ".venv" and running.exists():
        with running.open() as file:
            if not lock(file.fileno(), fcntl.LOCK_NB):
                pid = file.read().strip()
                sys.exit(f"make run (pid {pid}) uses {folder}, which is out of date: stop it first")


def interpreter() -> str:
    """Returns the path of the interpreter.

    Raises:
        SystemExit: there is none that is new enough.
    """
    named = os.environ.get("PYTHON")
    for name in [named] if named else NAMES:
        path = shutil.which(name)
        if path and succeeds(path, "-c", IS_NEW_ENOUGH):
            return path
    if named:
        sys.exit(f"PYTHON={named} is not a Python {OLDEST} or newer")
    sys.exit(f"Python {OLDEST} or newer is missing: install python3, or name one with PYTHON=")


def succeeds(*command: str) -> bool:
    """Whether a command ends with 0."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def install(folder: Path, python: str, sources: tuple[Path, ...]) -> None:
    """Makes the environment anew.

    Raises:
        SystemExit: a command failed; it has printed why.
    """
    # Where root is the caller, PostgreSQL runs as another user, who must be able to read it.
    os.umask(0o022)
    uv = str(uv_program())
    version = subprocess.check_output([python, "--version"], text=True).strip()
    print(f"Installing into {folder} with {version}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    run(uv, "venv", "--quiet", "--python", python, str(folder))
    # Locks are whole: nothing is resolved here.
    pip = (uv, "pip", "install", "--quiet", "--system-certs", "--no-deps", "--python", str(folder))
    locks = [f"--requirements={source}" for source in sources if source.is_file()]
    run(*pip, "--require-hashes", *locks)
    for project in filter(Path.is_dir, sources):
        run(*pip, "--no-build-isolation", "--editable", str(project))


def uv_program() -> Path:
    """Returns uv, in the version that the lock names; installs it the first time.

    Raises:
        SystemExit: the system's Python cannot install it.
    """
    entry = re.search(r"^uv==([\w.]+)(?:.*\\\n)+.*", UV_LOCK.read_text(), re.MULTILINE)
    if entry is None:
        sys.exit(f"{UV_LOCK} does not name uv")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or ".cache").absolute()
    os.environ["UV_CACHE_DIR"] = str(cache / "uv")
    program = cache / "programs" / f"uv-{entry[1]}"
    if not program.exists():
        print(f"Installing uv {entry[1]}", flush=True)
        # Debian has what `venv` needs in a package of its own.
        if not succeeds(sys.executable, "-c", "import ensurepip, venv"):
            sys.exit(f"{sys.executable} cannot make a virtual environment: install python3-venv")
        program.parent.mkdir(parents=True, exist_ok=True)
        # Moved when it is whole: another checkout may share the cache.
        with tempfile.TemporaryDirectory(dir=program.parent) as folder:
            run(sys.executable, "-m", "venv", folder)
            requirements = Path(folder, "uv.lock")
            requirements.write_text(entry[0])
            pip = (f"{folder}/bin/python", "-m", "pip", "install", "--quiet")
            run(*pip, "--require-hashes", f"--requirement={requirements}")
            Path(folder, "bin", "uv").replace(program)
    return program


def run(*command: str) -> None:
    """Runs a command.

    Raises:
        SystemExit: it failed.
    """
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(f"{' '.join(command[:3])} failed with status {status}: see the message above")


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except OSError as error:
        sys.exit(
            f"{error.filename or sys.argv[1]} cannot be used ({error.strerror}): make installs into"
            f" {Path.cwd()}, which must be on a disk with room, and this user's to write"
        )
