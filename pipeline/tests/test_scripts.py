"""Shell scripts and the Makefile: shellcheck finds nothing, and macOS has all that they use.

macOS has bash 3.2, GNU Make 3.81 and BSD tools. None of them is tested here: tables list what they
lack. A line that only Linux runs ends in the comment `# Linux only`.
"""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pipeline.release import ROOT

# The start of a command: of a line, a recipe, a list, a substitution, or after a reserved word.
_START = r"(?:^[\t @+-]*|[;&|({`!]|\b(?:if|then|elif|else|do|while|until|exec)\b)\s*(?:\w+=\S*\s+)*"
_SIMPLE = (
    "basename|cat|chmod|chown|cmp|cp|cut|date|df|dirname|du|env|head|id|install|ln|ls|mkdir|mktemp|mv"
    "|rm|sed|seq|sort|stat|tail|tee|touch|tr|uniq|wc|xargs"
)
_MISSING = (
    "flock|free|getent|ionice|ip|md5sum|nproc|nsenter|numfmt|prlimit|realpath|setpriv|setsid"
    "|sha256sum|shuf|ss|tac|taskset|timeout|unshare"
)


class Lacking(NamedTuple):
    """Something that a tool of macOS does not have."""

    tool: str
    pattern: str
    example: str


SHELL = (
    Lacking(
        "bash 3.2: associative arrays", r"\b(?:declare|local|typeset)\s+-\w*A", "declare -A by"
    ),
    Lacking("bash 3.2: -g, -l, -n, -u", r"\b(?:declare|local)\s+-\w*[glnu]", "local -n result=$1"),
    Lacking("bash 3.2: mapfile", _START + r"(?:mapfile|readarray)\b", "mapfile -t lines <file"),
    Lacking("bash 3.2: coproc", _START + r"coproc\b", "coproc server { cat; }"),
    Lacking("bash 3.2: case changes", r"\$\{\w+(?:\[\w+\])?(?:,|\^)", 'echo "${name,,}"'),
    Lacking("bash 3.2: transformations", r"\$\{\w+(?:\[[\w@*]+\])?@\w\}", 'echo "${name@Q}"'),
    Lacking("bash 3.2: &>>", r"&>>", "make &>>log"),
    Lacking("bash 3.2: |&", r"\|&", "make |& tee log"),
    Lacking("bash 3.2: ;& and ;;&", r";&(?!&)", "a) echo ;;&"),
    Lacking("bash 3.2: wait -n", _START + r"wait\s+-\w*n", "wait -n"),
    Lacking("bash 3.2: printf of times", r"\bprintf\b.*%\([^)]*\)T", "printf '%(%s)T' -1"),
    Lacking("bash 3.2: negative indices", r"\$\{\w+\[-\d", 'echo "${parts[-1]}"'),
    Lacking("bash 3.2: negative lengths", r"\$\{\w+:[^}:]*:\s*-\d", 'echo "${name:0:-1}"'),
    Lacking("bash 3.2: -v", r"\[\[?\s+(?:!\s+)?-[vR]\s", "[[ -v CI ]]"),
    Lacking("bash 3.2: {descriptor}", r"(?<!\$)\{[a-z_]\w*\}[<>]", "exec {lock}>file"),
    Lacking("bash 3.2: variables", r"\$\{?(?:BASHPID|EPOCH|SRANDOM)", "echo $EPOCHSECONDS"),
    Lacking("bash 3.2: case in $( )", r"\$\([^()]*\bcase\s", "x=$(case $1 in a) b ;; esac)"),
    Lacking("bash 3.2: padding", r"\{-?0\d+\.\.", "echo {01..10}"),
    Lacking("bash 3.2: steps", r"\{\w+\.\.\w+\.\.", "echo {1..10..2}"),
    Lacking(
        "bash 3.2: options", r"\bshopt\b.*\b(?:globstar|lastpipe|inherit_err)", "shopt -s globstar"
    ),
    Lacking("bash 3.2: fractions", _START + r"read\b.*-t\s*\d*\.\d", "read -r -t 0.5 line"),
    Lacking(
        "bash 3.2: an empty array under set -u (ask for its length, or give a `+` form)",
        r"(?s)\b(\w+)=\(\)(?!.*\$\{#\1\[@\]\})(?=.*(?<!\+)\"\$\{\1\[@\]\}\")",
        'options=()\nmake "${options[@]}"',
    ),
    Lacking("macOS: the program", _START + rf"(?:{_MISSING})\b(?!=)", "if ! flock 8; then"),
    Lacking("macOS: /proc", r"(?<![\w.])/proc/", "cat /proc/meminfo"),
    Lacking("BSD: long options", _START + rf"(?:{_SIMPLE})\b[^|;&\n]*\s--\w", "cmp --silent a b"),
    Lacking("BSD: readlink -f", r"\breadlink\s+-", 'readlink -f "$0"'),
    Lacking("BSD: date -d", r"\bdate\b[^|;&)\n]*\s-[dI]", "date -d @0 +%F"),
    Lacking("BSD: sed -i without suffix", r"\bsed\b[^|;\n]*\s-\w*i\s", "sed -i s/a/b/ file"),
    Lacking(
        "BSD: sed's \\+, \\? and \\|",
        r"\bsed\b(?![^|;\n]*\s-\w*E)[^;\n]*\\[+?|]",
        r"sed 's/a\+//' b",
    ),
    Lacking("BSD: grep -P", r"\bgrep\s[^|;\n]*(?<=\s)-\w*P", r"grep -oP '\d' file"),
    Lacking("BSD: stat -c", r"\bstat\s+-\w*c", "stat -c %s file"),
    Lacking("BSD: mktemp -p and -t", r"\bmktemp\b[^);\n]*\s-\w*[pt]\b", "mktemp -p /tmp"),
    Lacking("BSD: find without a folder", r"\bfind\s+-", "find -name '*.md'"),
    Lacking(
        "BSD: find's actions", r"\bfind\b.*-(?:printf|regextype|executable)", "find . -printf %p"
    ),
    Lacking("BSD: xargs -d and -r", r"\bxargs\s+-\w*[dr]", "xargs -r rm"),
    Lacking("BSD: head of all but", r"\bhead\s+-[cn]\s*-\d", "head -n -1 file"),
    Lacking("BSD: base64 -w", r"\bbase64\s+-\w*w", "base64 -w 0 file"),
    Lacking("BSD: sort -V", r"\bsort\s+-\w*V", "git tag | sort -V"),
    Lacking("BSD: du -b", r"\bdu\s+-\w*b", "du -sb folder"),
    Lacking("BSD: touch -d", r"\btouch\s+-\w*d", "touch -d yesterday file"),
    Lacking(
        "BSD: tar's options",
        r"\btar\b.*--(?:transform|wildcards|sort|mtime)",
        "tar --sort=name -c .",
    ),
    Lacking(
        "BSD: gawk's functions", r"\b(?:gensub|strftime|systime|asorti?)\(", "awk '{ strftime() }'"
    ),
)

MAKE = (
    Lacking(
        "GNU Make 3.81: .SHELLFLAGS (give the options in SHELL)",
        r"^\.SHELLFLAGS",
        ".SHELLFLAGS := -ec",
    ),
    Lacking(
        "GNU Make 3.81: .ONESHELL and the like",
        r"^\.(?:ONESHELL|RECIPEPREFIX|EXTRA_PREREQS|WAIT)",
        ".ONESHELL:",
    ),
    Lacking("GNU Make 3.81: !=", r"^\w+\s*!=", "HEAD != git rev-parse HEAD"),
    Lacking("GNU Make 3.81: ::=", r"^\w+\s*:::?=", "HEAD ::= main"),
    Lacking("GNU Make 3.81: grouped targets", r"^[^\t#][^#=\n]*&:", "a b &: c"),
    Lacking("GNU Make 3.81: functions", r"\$\((?:file|guile|intcmp|let)\s", "$(file >list,$^)"),
    Lacking("GNU Make 3.81: define with =", r"^define\s+\w+\s*[:+?]?=", "define TEXT ="),
    Lacking("GNU Make 3.81: undefine, private", r"^(?:undefine\s|.*:\s*private\s)", "undefine CI"),
)

# What both have, or what only looks like the above.
FINE = r"""
for _ in {1..60}; do sleep 0.5; done
make ${options[@]+"${options[@]}"} image --timeout 5m
missing=(); if [ ${#missing[@]} = 0 ]; then exit; fi; apt-get install "${missing[@]}"
docker run --init ip flock timeout # sed -i, flock
limit=$(command -v timeout || true)
sed -i.bak -E 's/a\+b//' file | grep -E 'a|b'
sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
name=${subject%@*} digest=${subject#*@} version=${name##*@} rest="${1:-}" last="${name:0:2}"
work=$(mktemp -d) && cp {"$here","$there"}/api/file "$work" 2>&1 </dev/null
TZ=UTC date -u +%FT%TZ; git log --date=iso; kubectl get --output name | head -n 1
find . -name '*.md' -exec rm -rf {} +; setsid dockerd & # Linux only
"""


def files() -> list[str]:
    """Returns the paths of everything that git keeps or would keep."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def scripts() -> list[str]:
    """Returns the paths of the shell scripts, which their first line tells."""
    return [
        name
        for name in files()
        if re.match(rb"#!.*\b(?:ba|da|k|z)?sh\b", (ROOT / name).read_bytes()[:80])
    ]


def lacking(text: str, table: tuple[Lacking, ...]) -> Iterator[str]:
    """Yields what a text has of the table, with the line's number."""
    lines = [
        "" if line.endswith("# Linux only") else re.sub(r"(?:^|\s)#\s.*", "", line)
        for line in text.splitlines()
    ]
    code = "\n".join(lines)
    for row in table:
        for found in re.finditer(row.pattern, code, re.MULTILINE):
            yield f"line {code.count(chr(10), 0, found.start()) + 1}: {row.tool}"


@pytest.mark.parametrize("row", SHELL, ids=lambda row: row.tool)
def test_each_row_finds_its_example(row: Lacking) -> None:
    assert list(lacking(f"true\n{row.example}\n", (row,))) == [f"line 2: {row.tool}"]
    assert list(lacking(f"# {row.example}".replace("\n", "\n# "), (row,))) == []


@pytest.mark.parametrize("row", MAKE, ids=lambda row: row.tool)
def test_each_row_for_make_finds_its_example(row: Lacking) -> None:
    assert list(lacking(f"all:\n{row.example}\n", (row,))) == [f"line 2: {row.tool}"]


def test_what_both_have_is_accepted() -> None:
    assert [list(lacking(line, SHELL)) for line in FINE.splitlines()] == [
        [] for _ in FINE.splitlines()
    ]


def test_scripts_need_nothing_that_macos_lacks() -> None:
    found = {
        name: list(lacking((ROOT / name).read_text(), SHELL))
        for name in scripts()
        if not name.startswith(".ci/stand-ins/")  # they run in Debian
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_makefile_needs_nothing_that_macos_lacks() -> None:
    assert list(lacking((ROOT / "Makefile").read_text(), SHELL + MAKE)) == []


def test_shellcheck_finds_nothing() -> None:
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    program = shutil.which("shellcheck", path=path)
    assert program is not None, "install shellcheck"
    names = scripts()
    assert ".ci/run" in names
    result = subprocess.run(
        [program, "--norc", *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
