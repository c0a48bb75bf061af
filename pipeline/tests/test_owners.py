"""What runs beside credentials belongs to the on-call team, and installs no package of others.

Both are found by following the workflows: from a job that has credentials to the make targets and
scripts that its steps run, to what make runs for these, to the files and modules that they name.
"""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from pipeline.release import ROOT
from pipeline.tests.test_scripts import files
from pipeline.tests.test_workflows import ACTIONS, GITHUB, VERBS, Job, jobs

ON_CALL = "@xpto/oncall"
TRACKED = frozenset(files())
MAKEFILE = (ROOT / "Makefile").read_text()

# Values for what a recipe needs; which one they are does not matter.
VARIABLES = ("PLACE=environment-dev", "ENVIRONMENT=dev", "REGISTRY=registry.example", "IMAGE=a@b")


# CODEOWNERS


def owner(file: str, codeowners: str) -> str:
    """Returns who owns a file: the last pattern that matches decides."""
    found = ""
    for line in codeowners.splitlines():
        pattern, _, owners = line.partition(" ")
        if not pattern or pattern == "#":
            continue
        # Other forms are not read here, so that none may be used: everything, names with an
        # ending, and a path, which ends in `/` for a folder or in `*` for files that begin so.
        assert re.fullmatch(r"\*(\.\w+)?|(/[\w.-]+)+[/*]?", pattern), pattern
        if pattern.startswith("*"):
            matches = file.endswith(pattern[1:])
        elif pattern.endswith("*"):
            begin = pattern[1:-1]
            matches = file.startswith(begin) and "/" not in file.removeprefix(begin)
        else:
            path = pattern[1:]
            matches = file == path or (path.endswith("/") and file.startswith(path))
        if matches:
            found = owners
    return found


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("a", "@all"),
        ("b/a", "@b"),
        ("a/b/c", "@all"),
        ("b/c", "@c"),
        ("b/c.py", "@b"),
        ("bc", "@all"),
        ("b/d/e", ""),
        ("b/fg.py", "@f"),
        ("b/f/__init__.py", "@b"),
        ("c/f.py", "@all"),
        ("b/d/x.so", "@so"),
    ],
)
def test_the_last_pattern_that_matches_decides(file: str, expected: str) -> None:
    text = "# A comment\n\n* @all\n/b/ @b\n/b/c @c\n/b/d/\n/b/f* @f\n*.so @so"
    assert owner(file, text) == expected


# From a job to the files


def has_credentials(job: Job) -> bool:
    """Whether a job can get a token for AWS or sign, or is given a secret."""
    return "id-token" in job["permissions"] or "secrets." in str(job)


def commands(job: Job) -> Iterator[str]:
    """Gives what the steps of a job run, those of composite actions too."""
    for step in job.get("steps", ()):
        if step.get("uses", "").startswith("./"):
            action = step["uses"].removeprefix("./.github/")
            yield from (
                s["run"] for s in ACTIONS[f"{action}/action.yaml"]["runs"]["steps"] if "run" in s
            )
        if "run" in step:
            yield step["run"]


@cache
def recipe(target: str) -> str:
    """Returns what make runs for a target and what it depends on, as if nothing was made yet."""
    command = ["make", "--dry-run", "--always-make", target, *VARIABLES]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    # What make calls itself for it decides by what it finds: that is in the text of the recipe.
    raw = re.search(rf"^{target}:.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    return f"{done.stdout}\n{raw[1] if raw else ''}"


def targets(text: str) -> set[str]:
    """Returns the make targets that a text calls."""
    called = re.findall(r"(?:\bmake|\$\(MAKE\))((?: +(?:VERBS=)?[\w-]+\b(?!=))+)", text)
    return {word.removeprefix("VERBS=") for words in called for word in words.split()} & VERBS


def paths(text: str, *folders: str) -> set[str]:
    """Returns the files, and those of the folders, that a text names."""
    words = {
        word.removeprefix("./").strip("/")
        for word in re.findall(r"[\w./-]*/[\w./-]*|[\w.-]+\.\w+", text)
    }
    named = {f"{folder}{word}" for word in words if word.strip(".") for folder in ("", *folders)}
    return {
        file
        for file in TRACKED
        if file in named or any(str(p) in named for p in Path(file).parents)
    }


def modules(file: str) -> set[str]:
    """Returns the files of this repository that a Python file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return module_files(names)


def module_files(names: Iterable[str]) -> set[str]:
    """Returns the files of modules, and of the packages that they are in."""
    found = set()
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end])
            found |= {
                f"{root}{path}{end_}" for root in ("", "api/") for end_ in (".py", "/__init__.py")
            }
    return found & TRACKED


@cache
def run_by(text: str) -> frozenset[str]:
    """Returns the files that a command runs or reads."""
    found: set[str] = {"Makefile"} if targets(text) else set()
    seen: set[str] = set()
    texts = [text]
    while texts:
        # Neither a comment nor a message is run.
        text = re.sub(r"(?m)(?:^|\s)(?:#|echo \").*$", "", texts.pop())
        texts += [recipe(target) for target in targets(text) - seen]
        seen |= targets(text)
        new = paths(text, *(f"{name}/" for name in re.findall(r"\bcd ([\w/]+)", text)))
        new |= module_files(re.findall(r"-m ([a-z_.]+)", text))
        if "terraform/run" in new:  # which gets to its roots and settings by variables
            new |= {f for f in TRACKED if re.match(r"terraform/.*\.(tf|tfvars|tfbackend|hcl)$", f)}
        for file in new - found:
            found.add(file)
            if file.endswith(".py"):
                found |= modules(file)
                texts.append((ROOT / file).read_text())
            elif (ROOT / file).read_bytes().startswith(b"#!"):
                texts.append((ROOT / file).read_text())
    return frozenset(found)


def beside_credentials() -> dict[str, set[str]]:
    """Returns the files that run beside credentials, by job."""
    found = {}
    for name, job in jobs():
        if has_credentials(job):
            own = f"{(GITHUB / 'workflows' / Path(name).parent).relative_to(ROOT)}.yaml"
            called = [step["uses"] for step in job.get("steps", ()) if "uses" in step]
            called.append(job.get("uses", ""))
            local = {path.removeprefix("./") for path in called if path.startswith("./")}
            files_ = {own} | {
                f for f in TRACKED if any(f == p or f.startswith(f"{p}/") for p in local)
            }
            found[name] = files_.union(*(run_by(command) for command in commands(job)))
    return found


BESIDE = beside_credentials()


def test_what_runs_beside_credentials_is_found() -> None:
    assert len(BESIDE) > 10
    assert {
        ".github/actions/deploy/action.yaml",
        ".github/workflows/deploy.yaml",
        "Makefile",
        "api/payments/__init__.py",
        "api/payments/smoke.py",
        "charts/payments/environments/production.yaml",
        "charts/payments/monitoring/slos.toml",
        "charts/tests/clients.lock",
        "charts/tests/unpack_clients.py",
        "load/staging.py",
        "pipeline/install-clients",
        "pipeline/promotion.py",
    } <= BESIDE["deploy/staging"]
    assert "charts/payments/Chart.yaml" in BESIDE["build/publish"]
    assert {"terraform/run", "terraform/platform/network.tf"} <= BESIDE["place/apply"]
    assert {"pipeline/go-install", "pipeline/github.py"} <= BESIDE["weekly/released"]


def test_it_belongs_to_the_on_call_team() -> None:
    codeowners = (GITHUB / "CODEOWNERS").read_text()
    reached = set().union(*BESIDE.values())
    assert {file for file in reached if owner(file, codeowners) != ON_CALL} == set()


def test_every_pattern_names_something() -> None:
    for line in (GITHUB / "CODEOWNERS").read_text().splitlines():
        if line.startswith("/"):
            path = line.partition(" ")[0].strip("/*")
            assert any(f == path or f.startswith(path) for f in TRACKED), line
    assert owner("a-new-file", (GITHUB / "CODEOWNERS").read_text()) == ON_CALL


@pytest.mark.parametrize(
    "file",
    [
        "api/payments/smoke/__init__.py",
        "api/payments/smoke.abi3.so",
        "api/payments/__pycache__/smoke.cpython-314.pyc",
        "api/payments/__init__.so",
    ],
)
def test_what_would_run_in_a_modules_place_is_owned_like_it(file: str) -> None:
    assert owner(file, (GITHUB / "CODEOWNERS").read_text()) == ON_CALL


def test_a_file_beside_a_script_takes_no_modules_place(tmp_path: Path) -> None:
    """Of load/, the on-call team owns the script alone."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "load", tmp_path / "load", ignore=shutil.ignore_patterns("results"))
    for name in ("argparse", "json", "secrets"):
        (tmp_path / "load" / f"{name}.py").write_text("print('PLANTED')\n")
    ran = subprocess.run(
        ["make", "load", "URL=nowhere", "KEY=x"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode != 0
    assert "nowhere" in ran.stderr
    assert "PLANTED" not in ran.stdout


# What is installed

# Trivy has to log in to what it scans; it is built of Go modules, by hash.
SCANS = {"weekly/released", "weekly/cluster"}


def test_no_package_is_installed_beside_credentials_but_the_clients() -> None:
    for name, reached in BESIDE.items():
        installers = reached & {"pipeline/install.py", "pipeline/go-install"}
        assert installers == ({"pipeline/go-install"} if name in SCANS else set()), name
