"""Terraform's own checks at every place: form, validity, promises; and checkov's."""

import os
import subprocess
from pathlib import Path

import pytest

from testkit.workspace import ROOTS, TERRAFORM, Workspace, places

# Each has some twenty promises.
LEAST_PROMISES = {"bootstrap": 12, "platform": 20, "environment": 20}


def test_the_form_is_terraforms(workspace: Workspace) -> None:
    workspace.run(".", "fmt", "-check", "-recursive", "-diff")


@pytest.mark.parametrize("root", ROOTS)
def test_the_root_is_valid(workspace: Workspace, root: str) -> None:
    workspace.init(root)
    workspace.run(root, "validate")


@pytest.mark.parametrize("place", places())
def test_the_promises_are_kept(workspace: Workspace, place: str) -> None:
    workspace.init(places()[place])
    output = workspace.test(place, "-no-color")
    assert output.count("... pass\n") >= LEAST_PROMISES[places()[place]], output


@pytest.mark.slow
@pytest.mark.parametrize("place", places())
def test_checkov_finds_nothing(place: str, tmp_path: Path) -> None:
    command = [str(TERRAFORM.parent / ".venv-checkov" / "bin" / "checkov"), "--quiet", "--compact"]
    command += ["--skip-download", "--framework", "terraform"]
    command += ["--directory", str(TERRAFORM / places()[place])]
    command += ["--var-file", str(TERRAFORM / "settings" / f"{place}.tfvars")]
    environment = os.environ | {"HOME": str(tmp_path), "LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Failed checks: 0" in done.stdout, done.stdout + done.stderr
