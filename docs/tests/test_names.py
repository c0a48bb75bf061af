"""What a document names exists: verbs, settings, metrics, alerts, commands, files."""

import fnmatch
import re
from pathlib import Path

import click
import msgspec
import pytest
import yaml
from payments import cli, config

from tests.pages import PAGES, ROOT, Page, files, folders, sources

MAKEFILE = (ROOT / "Makefile").read_text()
VERBS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))

pages = pytest.mark.parametrize("page", PAGES, ids=repr)


def code(page: Page) -> list[str]:
    """Returns what stands in backticks, and each line of what stands between fences."""
    blocks = [fence.text for fence in page.fences() if fence.language in ("sh", "")]
    return page.code() + [line for block in blocks for line in block.splitlines()]


@pages
def test_verbs(page: Page) -> None:
    for text in code(page):
        bare = re.sub("'[^']*'", "", text.partition("#")[0])
        for words in re.findall(r"\bmake((?: [^|;&]+)?)", bare):
            for word in words.split():
                if re.fullmatch("[a-z]+(-[a-z]+)*", word):
                    assert word in VERBS, f"make {word}"
                elif found := re.match("([A-Z0-9_]+)=", word):
                    assert re.search(rf"\b{found[1]}\b", MAKEFILE), f"make … {word}"
                else:
                    break


@pages
def test_settings(page: Page) -> None:
    settings = {config.variable(field.name) for field in msgspec.structs.fields(config.Settings)}
    # Those that only a command or a test reads.
    for name in re.findall(r"\bPAYMENTS_[A-Z_]*[A-Z]\b", page.text):
        assert name in settings or f'"{name}"' in sources(), name


@pages
def test_metrics(page: Page) -> None:
    for name in re.findall(r"\b(?:payments|http_server|db_client)_[a-z_]*[a-z]\b", page.text):
        stem = re.sub("_(total|bucket|sum|count)$", "", name)
        assert re.search(rf"\b({name}|{stem})\b", sources()), name


def test_alerts() -> None:
    rules = [
        rule["alert"]
        for file in (ROOT / "charts" / "payments" / "monitoring" / "rules").glob("*.yaml")
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert rules
    named = {
        name
        for page in PAGES
        for text in page.code()
        for name in re.findall(r"\bPayments[A-Z]\w+", text)
    }
    # A runbook is called by its alert, or, in small letters, by what is done.
    runbooks = {file.stem for file in (ROOT / "docs" / "runbooks").glob("[A-Z]*.md")}
    assert named | runbooks - {"README"} <= set(rules)


def subcommand(words: list[str]) -> tuple[click.Command, list[str]]:
    """Returns what `payments WORDS` runs, and the words that follow."""
    command: click.Command = cli.main
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pages
def test_commands_of_the_service(page: Page) -> None:
    for text in code(page):
        for line in re.findall(r"(?:^|[;&(] *|run --rm )payments ([a-z].*)", text):
            words = line.partition("#")[0].split()
            command, rest = subcommand(words)
            assert command is not cli.main, f"payments {line}"
            assert not isinstance(command, click.Group), f"payments {line}"
            options = {name for option in command.params for name in option.opts}
            assert {word for word in rest if word.startswith("--")} <= options, line


# What is named and is no file of this repository.
NOT_OURS = {
    ".data/",
    ".github/scripts",  # what lost
    ".terraform.lock.hcl",  # made by the first `init`
    "actions/attest",
    "charts/tests/outputs/environment-qa.yaml",  # of an environment that a reader makes
    "hashicorp/aws",
    "history.jsonl",
    "metadata.json",
    "settings/environment-qa.tfvars",
    "terraform-aws-modules/eks",
    "terraform-aws-modules/vpc",
}

FILE = re.compile(r"[\w<*.-][\w.<>*-]*(/[\w.<>*-]+)*/?", re.ASCII)
ENDINGS = (
    ".py", ".yaml", ".json", ".jsonl", ".md", ".sql", ".tf", ".hcl", ".tfvars", ".toml", ".lock",
    ".svg", ".lua", ".csv", ".in",
)  # fmt: skip


def file_names(page: Page) -> set[str]:
    """Returns what looks like a path in backticks."""
    return {
        text
        for text in page.code()
        if FILE.fullmatch(text) and ("/" in text or text.endswith(ENDINGS))
    }


def is_there(name: str, page: Page) -> bool:
    """Whether a path of the tree is or ends with this, or is there seen from the page."""
    pattern = re.sub("<[^>]*>", "*", name.rstrip("/"))
    beside = str(Path(page.name).parent / pattern)
    return any(
        fnmatch.fnmatch(path, wanted)
        for path in files() | folders()
        for wanted in (pattern, f"*/{pattern}", beside)
    )


@pages
def test_files(page: Page) -> None:
    for name in file_names(page) - NOT_OURS:
        assert is_there(name, page), name


def test_what_is_not_ours_is_not_there() -> None:
    assert not NOT_OURS & (files() | folders())


# They ask for trust in place of a reason, or promise what nobody holds. "Just when" is exact.
DEAD = re.compile(
    r"\b(simply|just(?! wh| as)|eas(y|ily)|obvious(ly)?|clearly|basically|actually|trivial(ly)?"
    r"|seamless(ly)?|robust|powerful|blazing(ly)?|world-class|cutting-edge|state-of-the-art|enterprise-grade"
    r"|battle-tested|production-ready|leverag(e|es|ing)|utili[sz]e[sd]?|of course|needless to say"
    r"|please note|best practices?|coming soon|(?-i:TODO|FIXME|TBD)"
    r"|simplesmente|facilmente|obviamente|claramente|basicamente|robust[ao]s?|poderos[ao]s?)\b",
    re.IGNORECASE,
)


@pages
def test_no_dead_words(page: Page) -> None:
    assert [found[0] for found in DEAD.finditer(page.prose())] == []
