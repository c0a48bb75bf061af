"""How the faults are run: short or long, from a seed, with a table of what was seen at the end."""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from laptop import files
from tests.conftest import fast_directory
from tests.faults.client import HANGS_SECONDS

PAGE = Path(__file__).parents[3] / "docs/reliability.md"
TEMPLATE = Path(__file__).with_name("reliability.md")
SEED = pytest.StashKey[str]()
FIGURES = pytest.StashKey[list[tuple[str, str]]]()

Progress = Callable[[str], None]
Seen = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--long` and `--seed`."""
    parser.addoption("--long", action="store_true", help="more faults; writes docs/reliability.md")
    parser.addoption("--seed", help="repeats the choices of an earlier run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what only a long run has the time for."""
    if config.getoption("long", False):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def _seed(config: pytest.Config) -> str:
    given = config.getoption("seed", None) or str(random.randrange(1_000_000))
    return config.stash.setdefault(SEED, given)


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> str:
    """What all chance of this run comes from."""
    return _seed(request.config)


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for the whole."""
    return bool(request.config.getoption("long", False))


@pytest.fixture
def directory(session_directory: Path) -> Iterator[Path]:
    """A directory on a disk for a database; PostgreSQL's user can enter it."""
    with _directory("/var/tmp", session_directory.name) as directory:  # noqa: S108 - one of its own is made in it
        yield directory


@pytest.fixture
def memory(session_directory: Path) -> Iterator[Path]:
    """The same in memory, where it is fast and nothing is asked of the disk."""
    with _directory(fast_directory(), session_directory.name) as directory:
        yield directory


@contextmanager
def _directory(parent: str | None, session: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        prefix=f"{session}-", dir=parent, ignore_cleanup_errors=True
    ) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def progress() -> Progress:
    """Tells what goes on, where somebody looks (`pytest -s`)."""
    began = time.monotonic()

    def tell(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.1f} s  {line}\n")

    return tell


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Seen:
    """Notes a row of the table: what was done, and what was seen."""
    figures = request.config.stash.setdefault(FIGURES, [])
    return lambda what, figure: figures.append((what, figure))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Prints the table, and writes it into the page after a whole, long run that passed."""
    figures = config.stash.get(FIGURES, [])
    if not figures:
        return
    terminalreporter.section(f"seen, from seed {_seed(config)}")
    width = max(len(what) for what, _ in figures)
    for what, figure in figures:
        terminalreporter.line(f"{what:{width}}  {figure}")
    if config.getoption("long", False) and exitstatus == 0 and not config.option.keyword:
        rows = [f"| {what} | {figure} |" for what, figure in figures]
        text = TEMPLATE.read_text().format(
            seed=_seed(config), rows="\n".join(rows), hangs=HANGS_SECONDS
        )
        files.replace(PAGE, text)
        terminalreporter.line(f"written to {PAGE}")
