"""Every command of the documents: its form, what it calls, and, where it can run, that it works."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from tests.pages import PAGES, ROOT, Fence

# Programs that need what is not here. Their options are the business of the tests that are named.
ELSEWHERE = {
    "aws": "an account; terraform/testkit/tests/test_procedures.py holds each to the AWS CLI",
    "docker": "Docker; api/tests/test_compose.py reads compose.yaml",
    "gh": "GitHub",
    "helm": "a cluster; charts/tests renders with the same values, charts/tests/cluster installs",
    "kind": "Docker",
    "kubectl": "a cluster",
    "terraform": "an account; terraform/testkit has whole lives of every place",
    "terraform/drain": "an account; test_run.py has what it refuses",
    "terraform/run": "an account; test_run.py has what it refuses",
    "openssl": "a password that the next command gives to AWS",
    "less": "a person who reads",
}
# What stands around them.
SHELL = {"cat", "cd", "export", "for", "jq", "printf", "rm"}
HERE = {"curl", "make", "payments"}

BLOCKS = [
    pytest.param(block, id=f"{page}:{number}")
    for page in PAGES
    for number, block in enumerate(page.fences("sh"))
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
    assert programs >= ELSEWHERE.keys()
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
