"""The tables of docs/service.md say what the code says."""

from collections.abc import Iterator
from typing import Any

import click
import msgspec
import yaml
from payments import cli, config

from tests.pages import ROOT, page

SERVICE = page("docs/service.md")


def test_settings() -> None:
    wanted = []
    for field in msgspec.structs.fields(config.Settings):
        default = "required" if field.required else f"`{_text(field.default)}`"
        (description,) = [
            note.description
            for note in field.type.__metadata__
            if isinstance(note, msgspec.Meta) and note.description
        ]
        wanted.append(
            [f"`{config.variable(field.name)}`", default.replace("``", "none"), description]
        )
    rows = "\n".join(f"| {' | '.join(row)} |" for row in wanted)
    assert SERVICE.table("<!-- settings -->") == wanted, f"docs/service.md must have\n{rows}"


def _text(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_endpoints() -> None:
    contract: dict[str, Any] = yaml.safe_load((ROOT / "api" / "openapi.yaml").read_text())
    wanted = []
    for path, methods in contract["paths"].items():
        for method in ("get", "post", "put", "patch", "delete"):
            if operation := methods.get(method):
                scopes = [scope for key in operation["security"] for scope in key["key"]]
                old = " (old)" if operation.get("deprecated") else ""
                wanted.append(
                    [
                        f"`{method.upper()} {path}`",
                        f"`{scopes[0]}`" if scopes else "none",
                        f"{operation['summary']}{old}",
                    ]
                )
    assert sorted(SERVICE.table("<!-- endpoints -->")) == sorted(wanted)


def test_modules() -> None:
    named = [row[0].split("`")[1] for row in SERVICE.table("<!-- modules -->")]
    package = ROOT / "api" / "payments"
    there = {str(path.relative_to(package)) for path in package.rglob("[!_]*.py")}
    assert sorted(named) == sorted(there)


def test_commands() -> None:
    named = "\n".join(row[0] for row in SERVICE.table("explains itself with `--help`.\n"))
    for name in _names(cli.main, "payments"):
        assert f"`{name}" in named, name


def _names(command: click.Command, name: str) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield name
        return
    for word, below in command.commands.items():
        yield from _names(below, f"{name} {word}")
