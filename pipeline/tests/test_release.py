"""The version stands in one place, and CHANGELOG.md says what is a release."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import release
from pipeline.release import ROOT

CHANGELOG = """\
# Changelog

## [Unreleased]

### Added
- Something.

## [0.2.0] - 2026-12-01

### Fixed

- A thing.

## [0.1.0]

- Not dated.
"""


def test_the_chart_has_the_services_version() -> None:
    chart = (ROOT / "charts" / "payments" / "Chart.yaml").read_text()
    assert (
        re.findall(r"^(?:version|appVersion): (.+)$", chart, re.MULTILINE)
        == [release.version()] * 2
    )


def test_the_changelog_has_the_version_and_what_comes() -> None:
    sections = release.sections((ROOT / "CHANGELOG.md").read_text())
    assert [*sections][:2] == ["Unreleased", release.version()]
    assert release.notes(release.version(), (ROOT / "CHANGELOG.md").read_text())


def test_sections() -> None:
    found = release.sections(CHANGELOG)
    assert found == {
        "Unreleased": ("", "### Added\n- Something."),
        "0.2.0": ("2026-12-01", "### Fixed\n\n- A thing."),
        "0.1.0": ("", "- Not dated."),
    }


@pytest.mark.parametrize(
    ("version", "tags", "expected"),
    [
        ("0.2.0", [], True),
        ("0.2.0", ["v0.1.0"], True),
        ("0.2.0", ["v0.2.0"], False),
        ("0.1.0", [], False),
        ("0.3.0", [], False),
    ],
    ids=["the first", "the next", "released already", "without a date", "not in the changelog"],
)
def test_what_is_a_release(version: str, tags: list[str], expected: bool) -> None:
    assert release.is_release(version, CHANGELOG, tags) is expected


def test_a_version_without_notes() -> None:
    with pytest.raises(ValueError, match=r"says nothing of 0\.3\.0"):
        release.notes("0.3.0", CHANGELOG)


def test_the_outputs_of_this_commit(tmp_path: Path) -> None:
    output = tmp_path / "output"
    subprocess.run(
        [sys.executable, "-m", "pipeline.release", "outputs"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "GITHUB_OUTPUT": str(output)},
        check=True,
    )
    assert re.fullmatch(r"version=\d+\.\d+\.\d+\nrelease=(true|false)\n", output.read_text())
