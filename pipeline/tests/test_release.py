"""The version stands in one place, and CHANGELOG.md says what is a release."""

import re
import shutil
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


# A repository whose version 0.2.0 is dated in its second commit


class Checkout:
    """A git repository with a version, a changelog and pipeline/release.py."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pipeline").mkdir(parents=True)
        (root / "api" / "payments").mkdir(parents=True)
        shutil.copy(ROOT / "pipeline" / "release.py", root / "pipeline")
        (root / "api" / "payments" / "__init__.py").write_text('__version__ = "0.2.0"\n')
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit(CHANGELOG.replace(" - 2026-12-01", ""))
        self.commit(CHANGELOG)

    def git(self, *arguments: str) -> str:
        """Runs git as some writer; returns what it prints."""
        writer = ("-c", "user.name=writer", "-c", "user.email=writer@xpto.example")
        return subprocess.run(
            ["git", *writer, *arguments],
            cwd=self.root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def commit(self, changelog: str) -> None:
        """Commits everything with this changelog."""
        (self.root / "CHANGELOG.md").write_text(changelog)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=A change")

    def release(self, verb: str) -> subprocess.CompletedProcess[str]:
        """Runs release.py here, dry."""
        return subprocess.run(
            [sys.executable, "-m", "pipeline.release", verb],
            cwd=self.root,
            env={"PATH": "/usr/bin:/bin", "DRY_RUN": "1", "COMMIT": self.git("rev-parse", "HEAD")},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A commit that releases 0.2.0."""
    return Checkout(tmp_path / "checkout")


def test_a_version_without_a_tag_is_released(checkout: Checkout) -> None:
    assert checkout.release("outputs").stdout == "version=0.2.0\nrelease=true\n"
    assert "+ gh release create v0.2.0" in checkout.release("publish").stdout


def test_a_version_that_an_earlier_commit_released_is_none(checkout: Checkout) -> None:
    checkout.git("tag", "v0.2.0")
    checkout.commit(CHANGELOG)
    assert checkout.release("outputs").stdout == "version=0.2.0\nrelease=false\n"


TAGS = {
    "of a commit before the release": ("tag", "v0.2.0", "HEAD^"),
    "of a commit with notes": ("tag", "--annotate", "--message=x", "v0.2.0", "HEAD^"),
    "of another branch": ("tag", "v0.2.0", "other"),
    "of a file": ("tag", "v0.2.0", "HEAD:CHANGELOG.md"),
}


@pytest.mark.parametrize("verb", ["outputs", "publish"])
@pytest.mark.parametrize("tag", TAGS.values(), ids=TAGS)
def test_a_tag_of_something_else_is_refused_by_its_name(
    checkout: Checkout, tag: tuple[str, ...], verb: str
) -> None:
    checkout.git("switch", "--quiet", "--create", "other")
    checkout.commit(CHANGELOG)
    checkout.git("switch", "--quiet", "main")
    checkout.git(*tag)
    found = checkout.release(verb)
    assert found.returncode == 1
    assert found.stdout == ""
    named = checkout.git("rev-parse", "v0.2.0")
    assert f"The tag v0.2.0 names {named}, " in found.stderr
    assert "git push --delete origin v0.2.0" in found.stderr


def test_a_tag_of_a_version_without_a_date_stops_nothing_yet(checkout: Checkout) -> None:
    checkout.git("tag", "v0.2.0", "HEAD^")
    checkout.commit(CHANGELOG.replace(" - 2026-12-01", ""))
    assert checkout.release("outputs").stdout == "version=0.2.0\nrelease=false\n"
