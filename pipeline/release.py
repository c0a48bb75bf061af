"""release.py outputs|notes|publish: what of this commit is a release.

The version stands in api/payments/__init__.py; a test holds the chart and CHANGELOG.md to it. A
commit is a release when CHANGELOG.md gives its version a date and no tag v<version> exists: the
release is made by merging the change that says so, and by nothing else.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

_VERSION = re.compile(r'^__version__ = "(\d+\.\d+\.\d+)"$', re.MULTILINE)
_HEADING = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)


def version(root: Path = ROOT) -> str:
    """Returns the version of this tree."""
    found = _VERSION.search((root / "api" / "payments" / "__init__.py").read_text())
    if found is None:
        raise ValueError("api/payments/__init__.py has no __version__ of three numbers")
    return found[1]


def sections(changelog: str) -> dict[str, tuple[str, str]]:
    """Returns each version's date, empty if it has none, and its text."""
    parts = _HEADING.split(changelog)[1:]
    return {
        name: (date or "", text.strip())
        for name, date, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def is_release(version: str, changelog: str, tags: list[str]) -> bool:
    """Whether the version is to be released."""
    date, _ = sections(changelog).get(version, ("", ""))
    return bool(date) and f"v{version}" not in tags


def check_tag(own: str) -> None:
    """Checks that the tag of this version, where there is one, was made by its release.

    Raises:
        ValueError: it names something else, and the version could never be released.
    """
    tag = f"v{own}"
    named = _git("for-each-ref", "--format=%(objectname)", f"refs/tags/{tag}").strip()
    if named and not _released_at(tag, own):
        raise ValueError(
            f"The tag {tag} names {named}, which is no commit before this one that releases {own}:"
            f" if a later commit of main released it, this run is too old to be repeated; else see"
            f" who made it, delete it (an administrator suspends the ruleset `releases`,"
            f" git push --delete origin {tag}), and run this again"
        )


def _released_at(tag: str, own: str) -> bool:
    """Whether a tag names an ancestor of this commit that releases the version."""
    try:
        _git("merge-base", "--is-ancestor", tag, "HEAD")
        return is_release(own, _git("show", f"{tag}:CHANGELOG.md"), [])
    except subprocess.CalledProcessError:
        return False


def notes(version: str, changelog: str) -> str:
    """Returns what CHANGELOG.md says of a version.

    Raises:
        ValueError: it says nothing.
    """
    _, text = sections(changelog).get(version, ("", ""))
    if not text:
        raise ValueError(f"CHANGELOG.md says nothing of {version}")
    return text


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def publish(own: str, changelog: str) -> None:
    """Tags the commit that production runs now, and publishes its notes."""
    command = ["gh", "release", "create", f"v{own}", f"--target={os.environ['COMMIT']}"]
    command += [f"--title={own}", "--notes-file=-"]
    print("+", " ".join(command), flush=True)
    if not os.environ.get("DRY_RUN"):
        subprocess.run(command, input=notes(own, changelog), text=True, check=True)


def main(arguments: list[str]) -> None:
    """Runs a verb.

    Raises:
        SystemExit: there is no such verb, or the changelog is not as it should be.
    """
    own, changelog = version(), (ROOT / "CHANGELOG.md").read_text()
    try:
        match arguments:
            case ["outputs"]:
                if is_release(own, changelog, []):
                    check_tag(own)
                release = is_release(own, changelog, _git("tag", "--list", "v*").split())
                lines = f"version={own}\nrelease={str(release).lower()}\n"
                print(lines, end="")
                if path := os.environ.get("GITHUB_OUTPUT"):
                    with Path(path).open("a") as file:
                        file.write(lines)
            case ["notes"]:
                print(notes(own, changelog))
            case ["publish"]:
                check_tag(own)
                publish(own, changelog)
            case _:
                sys.exit(str(__doc__))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
