"""Prometheus' own program for rules, and the rules that it is given."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from slos import MONITORING

# `make monitoring` builds it.
PROMTOOL = os.environ.get("PROMTOOL", "promtool")

ALERTS = MONITORING / "rules" / "alerts.yaml"
Rule = dict[str, Any]
Group = dict[str, Any]


def _tests() -> dict[str, dict[str, Any]]:
    files = (Path(__file__).parent / "alerts").glob("*.yaml")
    return {file.stem: yaml.safe_load(file.read_text()) for file in sorted(files)}


# The tests of each alert, as promtool reads them.
TESTS = _tests()


def groups(file: Path) -> list[Group]:
    """Returns the groups of a file of rules."""
    found: list[Group] = yaml.safe_load(file.read_text())["groups"]
    return found


def check(*files: Path) -> str:
    """Has promtool read files of rules; returns what it finds wrong, and else nothing."""
    return _run("check", "rules", "--lint=all", "--lint-fatal", *files)


def failures(rules: list[Group], tests: dict[str, Any], directory: Path, only: str = "") -> str:
    """Runs tests on groups of rules; returns what fails, and else nothing.

    `only` is a regular expression for the names of the tests.

    Raises:
        AssertionError: they cannot be run.
    """
    # JSON is YAML, and ten times as fast to write.
    (directory / "rules.yaml").write_text(json.dumps({"groups": rules}))
    file = directory / "tests.yaml"
    file.write_text(json.dumps({**tests, "rule_files": ["rules.yaml"]}))
    said = _run("test", "rules", *([f"--run={only}"] if only else []), file)
    assert not said or "exp:" in said, said
    return said


def _run(*arguments: str | Path) -> str:
    result = subprocess.run(
        [PROMTOOL, *arguments],
        env={"GOGC": "400", **os.environ},  # a quarter of its time went into collecting garbage
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    said = result.stdout + result.stderr if result.returncode else ""
    print(said)  # in full, where pytest would cut it
    return said
