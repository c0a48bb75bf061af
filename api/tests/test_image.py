"""The image itself: what it holds, who it runs as, how it ends. Only with `--image`."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import PATIENCE_SECONDS, command
from tests.command import DOCKER, Image, launch
from tests.conftest import API_DIRECTORY, Database, Serve, client, serve, settings_for
from tests.test_sources import sqlite_file

pytestmark = pytest.mark.usefixtures("command")

# Modules of the service for which Python would have to compile something at the start.
UNCOMPILED = """
import pathlib, sys
import payments.app, payments.cli, payments.server
import opentelemetry.exporter.otlp.json.http.trace_exporter
specs = [module.__spec__ for module in sys.modules.values() if module.__spec__]
print([s.name for s in specs if s.cached and not pathlib.Path(s.cached).exists()])
"""


@pytest.fixture
def image() -> Image:
    """The image under test."""
    assert command.image is not None
    return command.image


def docker(*arguments: str) -> str:
    """Runs the Docker client; returns what it says."""
    result = subprocess.run([DOCKER, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def python(image: Image, code: str) -> str:
    """Runs code in a container; returns what it prints."""
    return docker(*image.run("-c", code, options=("--entrypoint=python3",))[1:])


@pytest.fixture
def about(image: Image) -> dict[str, Any]:
    """What the image says about itself."""
    image.uses += 1
    [about] = json.loads(docker("image", "inspect", image.name))
    return dict(about)


def test_the_size(image: Image) -> None:
    """What is ours is small; how large the base is, its architecture decides."""
    image.uses += 1
    history = docker("history", "--human=false", "--format={{.Size}} {{.CreatedBy}}", image.name)
    [size] = re.findall(r"^(\d+) COPY /image / ", history, re.MULTILINE)
    assert int(size) < 30_000_000


def test_it_starts_without_a_shell_and_without_a_name_for_its_user(about: dict[str, Any]) -> None:
    assert about["Config"]["User"] == "10001:10001"
    assert about["Config"]["Entrypoint"] == ["python3", "-m", "payments"]
    assert about["Config"]["Cmd"] == ["serve"]
    assert set(about["Config"]["ExposedPorts"]) == {"8000/tcp", "9464/tcp"}


def test_labels(about: dict[str, Any]) -> None:
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in about["Config"]["Labels"].items()
    }
    assert set(labels) >= {"base.name", "created", "description", "licenses", "title"}
    assert {labels["title"], labels["licenses"]} == {"payments", "MIT"}
    assert len(labels["revision"]) == 40
    assert labels["version"] != "unknown"
    # Never `official`, which is a name in the Dockerfile alone.
    assert ":" in labels["base.name"]
    assert f"PAYMENTS_REVISION={labels['revision']}" in about["Config"]["Env"]


def test_everything_that_is_loaded_was_compiled(image: Image) -> None:
    assert python(image, UNCOMPILED).strip() == "[]"


def test_nothing_to_install_with(image: Image) -> None:
    found = "import importlib.util as u; print([n for n in ('pip', 'uv', 'hatchling', 'pytest')"
    assert python(image, f"{found} if u.find_spec(n)])").strip() == "[]"


def test_nothing_can_be_written(image: Image) -> None:
    tried = """
import pathlib
for directory in ("/", "/app", "/tmp", "/var/tmp", "/run", "/etc"):
    try:
        (pathlib.Path(directory) / "file").touch()
        print(directory)
    except OSError:
        pass
"""
    assert python(image, tried) == ""


async def test_it_is_process_1_alone_and_powerless(start: Serve, database: Database) -> None:
    async with client(await start(), await database.key()) as api:
        await api.payment()
        process = _process(api.url)
        status = _status(process)
        assert process.cmdline() == ["python3", "-m", "payments", "serve"]
        assert process.children() == []
        assert status["NSpid"].split()[-1] == "1"
        assert set(status["Uid"].split()) == {"10001"}
        assert {status[f"Cap{kind}"] for kind in ("Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        assert process.memory_info().rss < 80_000_000


async def test_it_drains_and_ends_with_0(start: Serve) -> None:
    url = await start(shutdown_delay_seconds=1)
    process = _process(url)
    began = time.monotonic()
    process.terminate()
    await asyncio.to_thread(process.wait, PATIENCE_SECONDS)
    assert time.monotonic() - began >= 1


async def ran(*arguments: str, **variables: str) -> str:
    """Runs the command with these `PAYMENTS_*` variables to its good end; returns its output."""
    process = await launch(
        *arguments,
        variables={f"PAYMENTS_{name}": value for name, value in variables.items()},
    )
    output, error = await process.communicate()
    assert process.returncode == 0, (output + error).decode()
    return output.decode()


@pytest.mark.timeout(1200)  # under emulation everything takes twenty times as long
async def test_life(empty: Database) -> None:
    await ran("migrate", DATABASE_URL=empty.url("payments_migrator"))
    # The service is ended with SIGTERM, and must exit with 0.
    async with serve(settings_for(empty)) as url:
        output = await ran("smoke", url, "--wait-seconds=60", SMOKE_KEY=await empty.key())
    assert "life of a payment" in output
    assert "FAILED" not in output


async def test_payments_of_the_old_system(database: Database, tmp_path: Path) -> None:
    rows = [(1, "inserted", '{"a": 1.50}', 12.1), (2, "consumed", "null", None)]
    owner = database.url("payments_migrator")
    source = f"--from={sqlite_file(tmp_path / 'old', rows)}"
    with command.visible(tmp_path):
        await ran("import", source, "--report=-", DATABASE_URL=owner)
        assert "No difference." in await ran("verify", source, DATABASE_URL=owner)
    await ran("audit", DATABASE_URL=owner)
    await ran("purge", DATABASE_URL=owner)


def test_a_missing_wheel_fails_the_build(about: dict[str, Any], tmp_path: Path) -> None:
    for name in ("migrations", "payments"):
        shutil.copytree(API_DIRECTORY / name, tmp_path / name)
    for name in ("Dockerfile", "openapi.yaml"):
        shutil.copy(API_DIRECTORY / name, tmp_path)
    # Of this version there are sources, and wheels for Python up to 3.12.
    lock = f"asyncpg==0.29.0 --hash=sha256:{'0' * 64}\n"
    (tmp_path / "requirements.lock").write_text(lock)
    base = about["Config"]["Labels"]["org.opencontainers.image.base.name"]
    result = subprocess.run(
        [
            *(DOCKER, "build", "--target=build", "--network=host", f"--build-arg=BASE={base}"),
            *(f"--platform=linux/{about['Architecture']}", tmp_path),
        ],
        env=os.environ | {"DOCKER_BUILDKIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "No matching distribution found for asyncpg==0.29.0" in result.stderr


def _status(process: psutil.Process) -> dict[str, str]:
    """Returns what the kernel says about a process."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def _process(url: str) -> psutil.Process:
    """Returns the process that listens on the URL's port."""
    port = int(url.rpartition(":")[2])
    [pid] = {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
    }
    return psutil.Process(pid)
