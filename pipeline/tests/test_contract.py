"""The gate for the contract bites: each change that breaks a client is found, and no other."""

import copy
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.release import ROOT

Json = dict[str, Any]

CONTRACT: Json = yaml.safe_load((ROOT / "api" / "openapi.yaml").read_text())


def schema(contract: Json, name: str) -> Json:
    """Returns one of the contract's schemas."""
    found: Json = contract["components"]["schemas"][name]
    return found


def remove_route(contract: Json) -> None:
    """Takes a route away from who calls it."""
    del contract["paths"]["/v1/payments/{id}"]["delete"]


def demand_field(contract: Json) -> None:
    """Asks for what nobody sends yet."""
    new = schema(contract, "PaymentInput")
    new["properties"]["currency"] = {"type": "string"}
    new["required"] = [*new.get("required", []), "currency"]


def drop_field(contract: Json) -> None:
    """Leaves out of answers what somebody reads."""
    payment = schema(contract, "Payment")
    del payment["properties"]["created_at"]
    payment["required"].remove("created_at")


def demand_parameter(contract: Json) -> None:
    """Asks for a parameter that nobody sends yet."""
    contract["paths"]["/v1/payments"]["get"]["parameters"].append(
        {"name": "tenant", "in": "query", "required": True, "schema": {"type": "string"}}
    )


def drop_success(contract: Json) -> None:
    """Answers with another status than the one that is waited for."""
    responses = contract["paths"]["/v1/payments"]["post"]["responses"]
    responses["202"] = responses.pop("201")


def add_route(contract: Json) -> None:
    """Adds what nobody has to know."""
    paths = contract["paths"]
    paths["/v1/totals"] = {"get": copy.deepcopy(paths["/v1/payments"]["get"])}
    paths["/v1/totals"]["get"]["operationId"] = "readTotals"


def add_optional_parameter(contract: Json) -> None:
    """Takes what nobody has to send."""
    contract["paths"]["/v1/payments"]["get"]["parameters"].append(
        {"name": "color", "in": "query", "schema": {"type": "string"}}
    )


BREAKING = [remove_route, demand_field, drop_field, demand_parameter, drop_success]
HARMLESS = [add_route, add_optional_parameter]


def compare(change: Callable[[Json], None], folder: Path) -> subprocess.CompletedProcess[str]:
    """Compares the contract with a changed one, as pipeline/contract does."""
    changed = copy.deepcopy(CONTRACT)
    change(changed)
    for name, content in (("before", CONTRACT), ("after", changed)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    files = [folder / "before.yaml", folder / "after.yaml"]
    return subprocess.run(
        [os.environ["OASDIFF"], "breaking", *files, "--fail-on", "ERR"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("change", BREAKING, ids=lambda change: change.__name__)
def test_what_breaks_a_client_is_found(change: Callable[[Json], None], tmp_path: Path) -> None:
    found = compare(change, tmp_path)
    assert found.returncode == 1, found.stdout
    assert "error" in found.stdout


@pytest.mark.parametrize("change", HARMLESS, ids=lambda change: change.__name__)
def test_what_breaks_nobody_passes(change: Callable[[Json], None], tmp_path: Path) -> None:
    found = compare(change, tmp_path)
    assert found.returncode == 0, found.stdout


def test_the_verb_compares_with_the_commit_before(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        name = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True)

    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pipeline").mkdir()
    for script in ("contract", "previous"):
        shutil.copy(ROOT / "pipeline" / script, tmp_path / "pipeline")
    (tmp_path / "api").mkdir()
    git("init", "--quiet")
    changed = copy.deepcopy(CONTRACT)
    remove_route(changed)
    for content in (CONTRACT, changed):
        (tmp_path / "api" / "openapi.yaml").write_text(yaml.safe_dump(content))
        git("add", "--all")
        git("commit", "--quiet", "--message=a change")
    found = subprocess.run(
        ["make", f"OASDIFF={os.environ['OASDIFF']}", "contract"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "FROM": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode != 0
    assert "removed" in found.stdout, found.stdout
