"""terraform/run and terraform/drain refuse what they cannot do, and say what they could."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from testkit.workspace import PLATFORM, TERRAFORM, StandIn, Workspace, places, terraform


def _call(
    script: str, *arguments: str, checkout: Path = TERRAFORM.parent, **variables: str
) -> tuple[int, str]:
    done = subprocess.run(
        [f"terraform/{script}", *arguments],  # as the documents call it
        cwd=checkout,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", [(), ("environment-dev",), ("environment-elsewhere", "plan")])
def test_without_a_place_and_an_action_it_says_which_there_are(arguments: tuple[str, ...]) -> None:
    code, said = _call("run", *arguments)
    assert code == 2
    assert "terraform/run PLACE plan" in said
    assert all(place in said for place in places())


def test_nothing_is_applied_that_was_not_planned() -> None:
    code, said = _call("run", "environment-dev", "apply")
    assert code == 1
    assert said == "No plan to apply: run terraform/run environment-dev plan, and read it\n"


def test_nothing_is_installed_without_a_lock(workspace: Workspace) -> None:
    checkout = workspace.directory.parent
    code, said = _call("run", "environment-dev", "plan", checkout=checkout)
    assert code == 1
    assert said == (
        "The root environment has no .terraform.lock.hcl:"
        " run make provider-locks, and commit what it writes\n"
    )


def test_opentofu_is_taken_where_it_is_named(workspace: Workspace) -> None:
    (workspace.directory / "environment" / ".terraform.lock.hcl").touch()
    checkout = workspace.directory.parent
    found = _call("run", "environment-dev", "output", checkout=checkout, TERRAFORM="false")
    assert found == (1, "")


# A state that names a provider of an attacker's

STATE = {
    "version": 4,
    "serial": 1,
    "lineage": "00000000-0000-0000-0000-000000000000",
    "outputs": {},
    "resources": [
        {
            "mode": "managed",
            "type": "evil_thing",
            "name": "this",
            "provider": 'provider["registry.terraform.io/evil/evil"]',
            "instances": [{"schema_version": 0, "attributes": {}}],
        }
    ],
}


@pytest.fixture
def evil(workspace: Workspace, provider: StandIn) -> dict[str, str]:
    """A state of environment-dev that names `evil/evil`, which a registry offers.

    Returns the variables with which terraform/run has both, and a local file for the bucket.
    """
    workspace.init("environment", local_state=True)  # writes the lock, of what the files ask for
    (workspace.directory / "environment" / "terraform.tfstate").write_text(json.dumps(STATE))
    folder = workspace.directory.parent
    package = folder / "mirror" / "registry.terraform.io/evil/evil/1.0.0" / PLATFORM
    package.mkdir(parents=True)
    program(package / "terraform-provider-evil_v1.0.0", f"touch {folder}/executed")
    configuration = folder / "terraformrc"
    configuration.write_text(f"""
        provider_installation {{
          filesystem_mirror {{
            path    = "{folder}/mirror"
            include = ["evil/evil"]
          }}
          filesystem_mirror {{
            path    = "{provider.mirror}"
            exclude = ["evil/evil"]
          }}
        }}
        disable_checkpoint = true
    """)
    without_bucket = """for word; do
      shift
      case $word in -backend-config=*) ;; *) set -- "$@" "$word" ;; esac
    done"""
    program(folder / "terraform-local", f'{without_bucket}\nexec {shlex.join(terraform())} "$@"')
    return {
        "TERRAFORM": str(folder / "terraform-local"),
        "TF_CLI_CONFIG_FILE": str(configuration),
        "TF_REATTACH_PROVIDERS": provider.attachment,
        "PYTHONPATH": str(TERRAFORM),
    }


def program(file: Path, text: str) -> None:
    """Writes a program."""
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_a_provider_that_only_the_state_names_is_not_executed(
    workspace: Workspace, evil: dict[str, str]
) -> None:
    checkout = workspace.directory.parent
    code, said = _call("run", "environment-dev", "plan", checkout=checkout, **evil)
    assert code == 1
    assert "Provider dependency changes detected" in said
    assert not (checkout / "executed").exists()


def test_it_is_executed_where_the_lock_may_change(
    workspace: Workspace, evil: dict[str, str]
) -> None:
    """The test above would see it."""
    checkout = workspace.directory.parent
    script = workspace.directory / "run"
    script.write_text(script.read_text().replace(" -lockfile=readonly", ""))
    _call("run", "environment-dev", "plan", checkout=checkout, **evil)
    assert (checkout / "executed").exists()


def test_drain_asks_for_the_cluster() -> None:
    code, said = _call("drain")
    assert code == 2
    assert "terraform/drain CLUSTER" in said
