"""Every `aws` command of the procedures is one that the AWS CLI takes, with its options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from awscli.clidriver import CLIDriver, create_clidriver

from testkit.workspace import TERRAFORM

PAGES = (TERRAFORM.parent / "docs" / "infrastructure.md", TERRAFORM / "drain")

# What a variable of the shell stands for: long enough to be an ARN.
SOME_VALUE = "arn:aws:service:us-east-1:123456789012:value"
NOWHERE = "http://127.0.0.1:9"  # the discard port, on which nobody listens


def _commands() -> list[str]:
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in text.splitlines():
            # Alone, in a table, or in a substitution; up to its end, a pipe or a redirection.
            found += re.findall(r"(?:^\s*|\$\(|`)(aws [a-z].*?)(?=\)$|`|$| \||> )", line)
    return sorted({re.sub(r"\s+", " ", command) for command in found})


COMMANDS = _commands()


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 30
    assert not [command for command in COMMANDS if "…" in command]


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CLIDriver]:
    """The AWS CLI, of an account that does not exist; making it takes longer than a command."""
    home = str(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("HOME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, home)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield create_clidriver()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_cli_takes_it(
    command: str,
    cli: CLIDriver,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """It is taken once nothing but the network is missing."""
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"file://(\S+)", command):
        Path(name).write_text("{}")
    words = [re.sub(r"\$\w+", SOME_VALUE, word) for word in shlex.split(command)]
    code = cli.main([*words[1:], "--endpoint-url", NOWHERE])
    assert "Could not connect to the endpoint URL" in capsys.readouterr().err
    assert code != 0
