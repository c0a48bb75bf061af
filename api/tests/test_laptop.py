"""`make run`, and the PostgreSQL under it: what is killed, and when, must not matter."""

import asyncio
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from laptop import children, lock
from laptop.__main__ import SERVER
from laptop.postgres import Cluster, ClusterError
from tests import PATIENCE_SECONDS
from tests.command import free_port
from tests.test_sources import sqlite_file

pytestmark = pytest.mark.slow

API_DIRECTORY = Path(__file__).parent.parent
LAUNCHER = [sys.executable, "-m", "laptop"]

ORPHAN = """
import sys, time
from pathlib import Path
from laptop import children, postgres
from laptop.postgres import Cluster
death_signal = sys.argv[2]
postgres.prefix = lambda _, *rest: children.prefix(death_signal, *rest)
cluster = Cluster(Path(sys.argv[1]))
cluster.start()
print(cluster.pid, flush=True)
time.sleep(600)
"""


def query(cluster: Cluster, sql: str) -> Any:
    """Runs a statement as the administrator and returns the first value."""

    async def run() -> Any:
        connection = await asyncpg.connect(cluster.url())
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(run())


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for something that happens elsewhere."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process lives; where nobody reaps orphans, a zombie stays but is dead."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children_of(pid: int) -> list[int]:
    """Returns the pids of a process's children."""
    return [child.pid for child in psutil.Process(pid).children()]


def put_a_row(cluster: Cluster) -> None:
    query(cluster, "CREATE TABLE kept AS SELECT 42 AS value")


def assert_row_is_there(cluster: Cluster) -> None:
    assert query(cluster, "SELECT value FROM kept") == 42


# The cluster


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a row in it, made once."""
    cluster = Cluster(tmp_path_factory.mktemp("initialised") / "data")
    with cluster:
        put_a_row(cluster)
    return cluster.data


@pytest.fixture
def own(initialised: Path, tmp_path: Path) -> Iterator[Cluster]:
    """A copy of it, not started."""
    subprocess.run(["cp", "-a", initialised, tmp_path / "data"], check=True)
    cluster = Cluster(tmp_path / "data")
    yield cluster
    cluster.stop()


def test_a_restart_keeps_the_data_and_the_url(own: Cluster) -> None:
    own.start()
    url = own.url()
    own.stop()
    assert not own.running
    own.start()
    assert own.url() == url
    assert_row_is_there(own)


def test_another_process_finds_the_data_under_the_same_url(own: Cluster) -> None:
    own.start()
    url = own.url()
    own.stop()
    with Cluster(own.data) as second:
        assert second.url() == url
        assert_row_is_there(second)


def test_commits_are_as_durable_as_in_production(own: Cluster) -> None:
    own.start()
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        assert query(own, f"SHOW {name}") == "on"
    assert query(own, "SHOW data_checksums") == "on"
    assert query(own, "SHOW server_version_num").startswith("18")


def test_no_network_is_listened_on(own: Cluster) -> None:
    own.start()
    assert query(own, "SHOW listen_addresses") == ""
    assert psutil.Process(own.pid).net_connections("inet") == []


def test_a_setting_of_the_caller_counts(own: Cluster) -> None:
    with Cluster(own.data, {"max_connections": "17"}) as cluster:
        assert query(cluster, "SHOW max_connections") == "17"


def test_the_sockets_are_private(own: Cluster) -> None:
    own.start()
    directory = Path(query(own, "SHOW unix_socket_directories"))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    own.stop()
    assert not directory.exists()


def test_a_wrong_name_of_the_sockets_directory_costs_nothing(own: Cluster, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("five years of work")
    (tmp_path / "data.sockets").write_text(f"{tmp_path}\n")
    own.start()
    assert_row_is_there(own)
    own.stop()
    assert (tmp_path / "thesis.txt").read_text() == "five years of work"


def test_a_path_longer_than_a_socket_may_be_works(initialised: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 60) / ("b" * 60) / "data"
    deep.parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", initialised, deep], check=True)
    with Cluster(deep) as cluster:
        assert_row_is_there(cluster)


def test_a_start_beside_a_running_one_is_refused_and_harmless(own: Cluster) -> None:
    own.start()
    with pytest.raises(lock.AlreadyRunning, match=rf"already running \(pid {os.getpid()}\)"):
        Cluster(own.data).start()
    with pytest.raises(ClusterError, match=rf"already running \(pid {own.pid}\)"):
        own.start()
    assert_row_is_there(own)


def test_what_is_committed_survives_kill_9_of_the_postmaster(own: Cluster) -> None:
    own.start()
    query(own, "CREATE TABLE killed AS SELECT 7 AS value")
    os.kill(own.pid, signal.SIGKILL)
    wait_until(lambda: not own.running)
    own.start()
    assert query(own, "SELECT value FROM killed") == 7


def test_children_that_outlive_their_postmaster_are_ended(own: Cluster) -> None:
    own.start()
    left = children_of(own.pid)
    # A stopped child cannot notice that its postmaster is gone, as one in a long computation.
    for pid in left:
        os.kill(pid, signal.SIGSTOP)
    os.kill(own.pid, signal.SIGKILL)
    wait_until(lambda: not own.running)
    assert any(is_alive(pid) for pid in left)
    own.start()
    assert not any(is_alive(pid) for pid in left)
    assert_row_is_there(own)


def test_a_pid_file_that_names_a_living_stranger_is_no_obstacle(own: Cluster) -> None:
    own.start()
    os.kill(own.pid, signal.SIGKILL)
    wait_until(lambda: not own.running)
    file = own.data / "postmaster.pid"
    with subprocess.Popen(["sleep", "600"]) as stranger:
        lines = file.read_text().splitlines()
        file.write_text("\n".join([str(stranger.pid), *lines[1:]]))
        own.start()
        assert stranger.poll() is None
        stranger.kill()
    assert_row_is_there(own)


@pytest.mark.skipif(sys.platform != "linux", reason="setpriv(1) belongs to Linux")
def test_postgresql_ends_when_its_parent_is_killed(own: Cluster) -> None:
    parent, pid = start_elsewhere(own.data, "INT")
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_alive(pid))
    own.start()
    assert_row_is_there(own)


def test_an_orphan_is_ended_before_the_next_start(own: Cluster) -> None:
    # As where the kernel sends no death signal: on macOS.
    parent, pid = start_elsewhere(own.data, "clear")
    parent.kill()
    parent.wait()
    assert is_alive(pid)
    own.start()
    assert not is_alive(pid)
    assert_row_is_there(own)


def start_elsewhere(data: Path, death_signal: str) -> tuple[subprocess.Popen[str], int]:
    """Starts a cluster in another process; returns that process and the postmaster's pid."""
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(data), death_signal],
        cwd=API_DIRECTORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        return parent, int(parent.stdout.readline())


def test_an_interrupted_initdb_leaves_nothing_half_made(tmp_path: Path) -> None:
    half = tmp_path / "data.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with Cluster(tmp_path / "data") as cluster:
        assert query(cluster, "SELECT 1") == 1
    assert not half.exists()


def test_a_directory_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("five years of work")
    with pytest.raises(ClusterError, match="is not empty and no data directory"):
        Cluster(tmp_path / "data").start()
    assert (tmp_path / "data" / "thesis.txt").read_text() == "five years of work"


def test_a_start_that_fails_shows_the_log_and_frees_the_lock(own: Cluster) -> None:
    with pytest.raises(ClusterError, match="unrecognized configuration parameter"):
        Cluster(own.data, {"no_such_setting": "1"}).start()
    own.start()
    assert_row_is_there(own)


def test_a_cluster_that_was_not_started_has_no_url_and_no_pid(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "data")
    with pytest.raises(ClusterError, match="was not started"):
        cluster.url()
    with pytest.raises(ClusterError, match="was not started"):
        _ = cluster.pid


def test_a_directory_closed_to_the_account_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    (closed / "data").mkdir(parents=True)
    tmp_path.chmod(0o755)
    closed.chmod(0o700)
    monkeypatch.setattr(children, "_CAPABILITIES", {})
    stranger = children.Account(closed.stat().st_uid + 65_533, closed.stat().st_gid + 65_533)
    with pytest.raises(children.Unreachable, match=r"cannot enter /.*: run `chmod o\+x /"):
        children.prefix("INT", stranger, [closed / "data"])


# `make run`


class Run:
    """A launcher in a process of its own, as `make run` starts it."""

    def __init__(self, data: Path, port: int, metrics_port: int) -> None:
        self.data = data
        self.port = port
        self.output = data.with_name("output.txt")
        arguments = [f"--port={port}", f"--metrics-port={metrics_port}", f"--data={data}"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*LAUNCHER, *arguments],
                cwd=API_DIRECTORY,
                stdout=output,
                stderr=subprocess.STDOUT,
                # As in a terminal, Ctrl-C can be sent to the group.
                start_new_session=True,
            )
        self._wait_until_ready()
        self.server_pid = int((data / "server.pid").read_text())
        self.postmaster_pid = int((data / "postgres/postmaster.pid").read_text().split()[0])

    def _wait_until_ready(self) -> None:
        wait_until(lambda: "Ctrl-C stops it" in self.text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.text()

    def text(self) -> str:
        return self.output.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it with a signal to the launcher; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def is_gone(self) -> bool:
        return not is_alive(self.server_pid) and not is_alive(self.postmaster_pid)

    def list(self) -> Any:
        key = (self.data / "api-key").read_text().strip()
        answer = httpx.get(
            f"http://127.0.0.1:{self.port}/v1/payments", headers={"Authorization": f"Bearer {key}"}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["items"]


Launch = Callable[[], Run]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts launchers, always on the same data and the same ports."""
    port, metrics_port = free_port(), free_port()
    runs: list[Run] = []

    def launch() -> Run:
        runs.append(Run(tmp_path / "data", port, metrics_port))
        return runs[-1]

    yield launch
    for run in runs:
        if run.process.poll() is None:
            run.end()


def create_with_the_printed_line(run: Run) -> None:
    """Pastes the printed curl line into a shell, in another directory."""
    line = next(line.strip() for line in run.text().splitlines() if line.startswith("  curl "))
    answer = subprocess.run(
        ["bash", "-c", line.replace("curl ", "curl --silent --include ", 1)],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.match(r"HTTP/1\.1 201 ", answer), answer
    assert '"payment":12345.67' in answer


def test_the_first_run_prints_what_to_do_and_the_printed_line_works(launch: Launch) -> None:
    run = launch()
    assert stat.S_IMODE((run.data / "api-key").stat().st_mode) == 0o600
    for part in (
        f"http://127.0.0.1:{run.port}/v1/payments",
        f"http://127.0.0.1:{run.port}/docs",
        str(run.data / "api-key"),
        "postgresql://",
    ):
        assert part in run.text()
    create_with_the_printed_line(run)
    assert [payment["payment"] for payment in run.list()] == [12345.67]


def test_a_second_start_has_the_data_and_the_key(launch: Launch) -> None:
    first = launch()
    key = (first.data / "api-key").read_text()
    create_with_the_printed_line(first)
    payments = first.list()
    assert first.end() == 0
    second = launch()
    assert (second.data / "api-key").read_text() == key
    assert second.list() == payments


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_quietly(launch: Launch, number: signal.Signals) -> None:
    run = launch()
    assert run.end(number) == 0
    assert run.is_gone()
    assert not (run.data / "postgres/postmaster.pid").exists()
    assert "Traceback" not in run.text()


def test_ctrl_c_in_a_terminal_ends_everything_quietly(launch: Launch) -> None:
    run = launch()
    os.killpg(run.process.pid, signal.SIGINT)
    os.killpg(run.process.pid, signal.SIGINT)  # an impatient second one
    assert run.process.wait(PATIENCE_SECONDS) == 0
    assert run.is_gone()
    assert "Traceback" not in run.text()


def test_after_kill_9_of_the_server_the_next_run_works(launch: Launch) -> None:
    run = launch()
    create_with_the_printed_line(run)
    os.kill(run.server_pid, signal.SIGKILL)
    assert run.process.wait(PATIENCE_SECONDS) == 1
    assert "the server ended by itself" in run.text()
    assert run.is_gone()
    assert len(launch().list()) == 1


def test_after_kill_9_of_postgresql_the_next_run_works(launch: Launch) -> None:
    run = launch()
    create_with_the_printed_line(run)
    os.kill(run.postmaster_pid, signal.SIGKILL)
    assert run.process.wait(PATIENCE_SECONDS) == 1
    assert "PostgreSQL ended by itself" in run.text()
    assert run.is_gone()
    assert len(launch().list()) == 1


def test_after_kill_9_of_the_launcher_the_next_run_works(launch: Launch) -> None:
    run = launch()
    create_with_the_printed_line(run)
    run.end(signal.SIGKILL)
    assert len(launch().list()) == 1


def test_after_kill_9_of_all_the_next_run_works(launch: Launch) -> None:
    run = launch()
    create_with_the_printed_line(run)
    for pid in (run.process.pid, run.server_pid, run.postmaster_pid):
        os.kill(pid, signal.SIGKILL)
    run.process.wait(PATIENCE_SECONDS)
    assert len(launch().list()) == 1


def test_an_orphaned_server_is_ended_and_a_stranger_with_its_pid_is_not(
    launch: Launch, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    wait = [sys.executable, "-c", "import time; time.sleep(600)"]
    for arguments, ends in (([str(SERVER)], True), ([], False)):
        with subprocess.Popen([*wait, *arguments]) as process:
            (tmp_path / "data/server.pid").write_text(f"{process.pid}\n")
            assert launch().end() == 0
            assert (process.poll() is not None) is ends
            process.kill()


def test_a_lost_key_is_replaced_and_revoked(launch: Launch) -> None:
    run = launch()
    lost = (run.data / "api-key").read_text().strip()
    run.end()
    (run.data / "api-key").unlink()
    run = launch()
    assert run.list() == []
    headers = {"Authorization": f"Bearer {lost}"}
    answer = httpx.get(f"http://127.0.0.1:{run.port}/v1/payments", headers=headers)
    assert answer.status_code == 401


def refused(*arguments: str) -> str:
    """Runs a launcher that must refuse; returns what it says."""
    result = subprocess.run(
        [*LAUNCHER, *arguments], cwd=API_DIRECTORY, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return result.stderr


def test_two_runs_at_once_are_refused(launch: Launch) -> None:
    run = launch()
    message = refused(f"--data={run.data}", f"--port={free_port()}")
    assert f"already running (pid {run.process.pid})" in message
    assert run.list() == []


@pytest.mark.parametrize(
    ("option", "name"), [("--port", "PORT"), ("--metrics-port", "METRICS_PORT")]
)
def test_a_port_in_use_is_named(tmp_path: Path, option: str, name: str) -> None:
    other = "--metrics-port" if option == "--port" else "--port"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(f"--data={tmp_path}", f"{option}={port}", f"{other}={free_port()}")
    assert f"port {port} cannot be used (Address already in use)" in message
    assert f"make run {name}=" in message


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "", "８０"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: str) -> None:
    assert f"PORT={port} is no port" in refused(f"--data={tmp_path}", f"--port={port}")


def test_one_port_for_both_is_refused(tmp_path: Path) -> None:
    message = refused(f"--data={tmp_path}", "--port=8000", "--metrics-port=8000")
    assert "PORT and METRICS_PORT are both 8000" in message


@pytest.mark.parametrize(
    ("name", "blocked"),
    [("data", "data"), ("data/postgres", "data/postgres"), ("data/api-key/x", "data/api-key")],
    ids=["the data", "PostgreSQL's", "the key"],
)
def test_what_is_in_the_way_of_the_data_is_named(tmp_path: Path, name: str, blocked: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    ports = (f"--port={free_port()}", f"--metrics-port={free_port()}")
    message = refused(f"--data={tmp_path / 'data'}", *ports)
    assert message.count("\n") == 1
    assert message.startswith(f"{tmp_path / blocked} cannot be used (")
    assert f"make run keeps its data in {tmp_path / 'data'}, a directory" in message


def test_data_where_nothing_can_be_written_is_refused() -> None:
    # Not even root can.
    message = refused("--data=/proc/payments")
    assert message.startswith("/proc/payments cannot be used (")


# `make import`


def import_into(data: Path, source: Path, report: Path) -> subprocess.CompletedProcess[str]:
    """Runs what `make import` runs."""
    options = ["--from", str(source), "--report", str(report)]
    return subprocess.run(
        [sys.executable, "-m", "laptop.database", f"--data={data}", "import", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=API_DIRECTORY,
    )


def test_import_into_a_running_service(launch: Launch, tmp_path: Path) -> None:
    source = sqlite_file(tmp_path / "old", [(41, "inserted", '{"a": 1}', 12.5)])
    run = launch()
    imported = import_into(run.data, source, tmp_path / "report.csv")
    assert imported.returncode == 0, imported.stderr
    assert "1 payments imported" in imported.stdout
    headers = {"Authorization": f"Bearer {(run.data / 'api-key').read_text().strip()}"}
    read = httpx.get(f"http://127.0.0.1:{run.port}/v1/payments/41", headers=headers)
    assert read.json()["payment"] == 12.5


def test_settings_of_another_database_are_left_out(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMENTS_DATABASE_URL", "postgresql://payments@nowhere/payments")
    monkeypatch.setenv("PAYMENTS_DATABASE_IAM_REGION", "sa-east-1")
    monkeypatch.setenv("PAYMENTS_DATABASE_POOLER", "perhaps")
    source = sqlite_file(tmp_path / "old", [(41, "inserted", '{"a": 1}', 12.5)])
    imported = import_into(launch().data, source, tmp_path / "report.csv")
    assert imported.returncode == 0, imported.stderr


@pytest.mark.parametrize("kind", ["nothing", "directory", "file"])
def test_import_where_nothing_runs(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    if kind == "directory":
        data.mkdir()
    elif kind == "file":
        data.touch()
    refused = import_into(data, tmp_path / "old", tmp_path / "report.csv")
    assert refused.returncode == 1
    assert "start it with `make run`" in refused.stderr
    assert "Traceback" not in refused.stderr
