"""Every command of the documents: its form, what it calls, and, where it can run, that it works."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, Fence, page

# Programs that need what is not here. Their options are the business of the tests that are named.
ELSEWHERE = {
    "aws": "an account; terraform/testkit/tests/test_procedures.py holds each to the AWS CLI",
    "docker": "Docker; `make compose-test` runs what is said of compose.yaml",
    "gh": "GitHub",
    "helm": "a cluster; what it would install is rendered below",
    "kind": "Docker",
    "kubectl": "a cluster",
    "terraform": "an account; terraform/testkit has whole lives of every place",
    "terraform/drain": "an account; test_run.py has what it refuses",
    "terraform/run": "an account; test_run.py has what it refuses",
    "openssl": "a password that the next command gives to AWS",
    "less": "a person who reads",
    "psql": "a database of one's own",
    "stress-ng": "half an hour, in which the machine is good for nothing else",
}
# What stands around them.
SHELL = {"cat", "cd", "cut", "export", "for", "grep", "head", "jq", "printf", "rm", "sort", "tail"}
HERE = {"curl", "make", "payments"}

BLOCKS = [
    pytest.param(block, id=f"{document}:{number}")
    for document in PAGES
    for number, block in enumerate(document.fences("sh"))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_bash_understands(block: Fence) -> None:
    found = subprocess.run(
        ["bash", "-n"], input=block.text, capture_output=True, text=True, check=False
    )
    assert found.stderr == ""


def commands(script: str) -> Iterator[list[str]]:
    """Gives the simple commands of a script, each in its words, without what surrounds them."""
    # What is given to a program's input is no command, and neither are the branches of `case`.
    script = re.sub(
        r"<<-?\s*'?(\w+)'?(.*?)\n.*?^\s*\1$", r"\2", script, flags=re.DOTALL | re.MULTILINE
    )
    script = re.sub(r"\bcase .*? esac", "", script, flags=re.DOTALL)
    script = script.replace("\\\n", " ")
    script = re.sub(r"'[^']*'", "STRING", script)
    strings = r'"(?:[^"\\]|\\.)*"'
    for string in re.findall(strings, script):
        for inner in re.findall(r"\$\(([^)]*)\)", string):
            yield from commands(inner)
    script = re.sub(r"[<>]+ *[\w./]+", "", re.sub(strings, "STRING", script))
    for line in script.splitlines():
        words = shlex.shlex(line, posix=False, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if re.fullmatch(r"[();<>|&]+", word):
                if command:
                    yield command
                command = []
            elif command or not re.match(r"[A-Za-z_]+=|(do|done)$", word):
                command.append(word)


def test_commands_are_found() -> None:
    text = """A=1 make image \\
      X='two words'   # a comment
    cat <<EOF
    not one
    EOF
    for e in a; do gh "$e" "$(aws sts)" | tee out; done
    """
    assert list(commands(text)) == [
        ["aws", "sts"],
        ["make", "image", "X=STRING"],
        ["cat"],
        ["for", "e", "in", "a"],
        ["gh", "STRING", "STRING"],
        ["tee", "out"],
    ]


SCRIPTS = [block.values[0].text for block in BLOCKS]  # type: ignore[union-attr]
CALLED = [command for script in SCRIPTS for command in commands(script)]


def test_every_program_is_known() -> None:
    programs = {command[0] for command in CALLED}
    assert programs <= ELSEWHERE.keys() | SHELL | HERE
    for program in programs:
        assert "/" not in program or os.access(ROOT / program, os.X_OK), program


def test_places_of_terraform_exist() -> None:
    places = {file.stem for file in (ROOT / "terraform" / "settings").glob("*.tfvars")}
    named = {command[1] for command in CALLED if command[0] == "terraform/run"}
    assert len(named) > 3
    assert named <= places


def test_make_understands_every_verb_with_what_it_is_given() -> None:
    lines = {" ".join(command[1:]) for command in CALLED if command[0] == "make"}
    assert len(lines) > 15
    for line in sorted(lines):
        found = subprocess.run(
            ["make", "--dry-run", *line.split()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, f"make {line}: {found.stderr}"


HELM = ROOT / ".cache" / "clients" / "helm"

# What only a release or AWS knows, as the charts' own tests have it.
KNOWN_THEN = {
    "image.repository=…": "image.repository=registry/payments",
    "image.tag=…": "image.tag=0.1.0",
    "sha256:…": f"sha256:{'0' * 64}",
    "cluster.yaml": "charts/tests/outputs/platform-production.yaml",
    "service.yaml": "charts/tests/outputs/environment-production.yaml",
    "rds.pem": "/dev/stdin",
}
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

# About the release's way, not about what is in it.
WAIT = r" (--install|--wait|--timeout \S+|--rollback-on-failure)(?= |$)"

INSTALLATIONS = {
    line.removeprefix("helm ")
    for script in SCRIPTS
    for line in script.replace("\\\n", " ").splitlines()
    if re.match("helm (install|upgrade) ", line)
}


def test_helm_renders_what_is_to_be_installed() -> None:
    own = [line for line in INSTALLATIONS if "oci://" not in line]  # others' are not here
    assert len(own) >= 4
    for line in own:
        words = re.sub(WAIT, "", line).partition(" ")[2]
        for text, then in KNOWN_THEN.items():
            words = re.sub(rf"(?<![\w/]){re.escape(text)}", then, words)
        found = subprocess.run(
            [HELM, "template", "--kube-version", "1.36.0", *shlex.split(words)],
            cwd=ROOT,
            input=CERTIFICATE,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, f"helm {line}: {found.stderr}"


# What these pages say of a running service is done on one, from a folder that holds what a checkout
# would.

# curl fails as a person would see it; make is the checkout's.
SETUP = f"""
set -euo pipefail
curl() {{ command curl --no-progress-meter --fail-with-body "$@"; }}
make() {{ command make --directory '{ROOT}' "$@"; }}
"""


def runs_on_a_laptop(line: str) -> bool:
    """Whether a line of a script needs nothing but a running service."""
    return all(
        command[0] in ("curl", "payments", "cat") or command[:2] == ["make", "smoke"]
        for command in commands(line)
    )


@pytest.mark.parametrize("name", ["README.md", "docs/service.md", "docs/integrating.md"])
def test_what_is_said_of_a_running_service_works(
    name: str, laptop: dict[str, str], tmp_path: Path
) -> None:
    lines = [line for fence in page(name).fences("sh") for line in fence.text.splitlines()]
    script = "\n".join(line for line in lines if runs_on_a_laptop(line))
    assert script.count("curl -H") >= 3
    for text, here in laptop.items():
        script = script.replace(text, here)
    # The line that a person pastes.
    [database] = re.findall("export PAYMENTS_DATABASE_URL=.*", (tmp_path / "log").read_text())
    found = subprocess.run(
        ["bash", "-x", "-c", f"{SETUP}\n{database}\n{script}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr}"
