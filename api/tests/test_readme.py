"""README.md says what is true: its settings are the code's, and its commands work as they stand."""

import asyncio
import re
from pathlib import Path

import msgspec
import pytest

from payments import config
from tests.conftest import API_DIRECTORY, Api, Database, Serve

README = API_DIRECTORY.parent / "README.md"


def _between(start: str, end: str) -> str:
    return README.read_text().split(start)[1].split(end)[0]


def settings_table() -> str:
    """Returns the README's table of settings as the code has them."""
    lines = ["| variable | default | |", "|---|---|---|"]
    for field in msgspec.structs.fields(config.Settings):
        default = (
            "required" if field.required else f"`{_text(field.default)}`".replace("``", "none")
        )
        (description,) = [
            note.description
            for note in field.type.__metadata__
            if isinstance(note, msgspec.Meta) and note.description
        ]
        lines.append(f"| `{config.variable(field.name)}` | {default} | {description} |")
    return "\n".join(lines) + "\n"


def _text(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_the_table_of_settings_is_the_codes() -> None:
    assert _between("<!-- settings -->\n", "<!-- /settings -->") == settings_table()


def test_the_tree_names_every_module_and_nothing_else() -> None:
    tree = _between("## The tree", "## The brief")
    named = set(re.findall(r"^    (\w+\.py)", tree, re.MULTILINE))
    there = {path.name for path in (API_DIRECTORY / "payments").glob("*.py")}
    assert named == there - {"__init__.py", "__main__.py"}


def _commands() -> list[str]:
    rows = _between("## Use it", "A payment:").splitlines()
    return [row.split("`")[1] for row in rows if "curl" in row]


async def test_every_curl_line_works(start: Serve, database: Database, tmp_path: Path) -> None:
    url = await start()
    key = await database.key()
    commands = [line for line in _commands() if "$METRICS" not in line]
    assert len(commands) == 12
    for command in commands:
        script = (
            f"AUTH='Authorization: Bearer {key}'; JSON='Content-Type: application/json';"
            f" API={url}; ID=1; {command} --no-progress-meter"
        )
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            f"{script} --fail-with-body",
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, f"{command}: {output.decode()}"


@pytest.mark.parametrize("path", ["/metrics", "/v1/metrics"])
async def test_metrics_are_not_on_the_apis_port(api: Api, path: str) -> None:
    assert (await api.http.get(path)).status_code == 404
