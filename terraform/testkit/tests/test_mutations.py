"""The promises bite: each fault of faults.toml breaks the `terraform test` run that is about it."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from testkit.workspace import TerraformError, Workspace, places


@dataclass(frozen=True)
class Fault:
    """A row of faults.toml."""

    place: str
    file: str
    right: str
    wrong: str
    promise: str


_FILE = Path(__file__).with_name("faults.toml")
FAULTS = [Fault(**row) for row in tomllib.loads(_FILE.read_text())["fault"]]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.file}: {f.wrong.strip()[:40]}")
def test_a_planted_fault_is_caught(workspace: Workspace, fault: Fault) -> None:
    root = places()[fault.place]
    file, promise = fault.promise.split(".")
    path = workspace.directory / root / fault.file
    text = path.read_text()
    # `terraform fmt` aligns equal signs, so that one space stands for many.
    right = re.sub(r"(?:\\ )+", " +", re.escape(fault.right))
    assert re.search(right, text)
    path.write_text(re.sub(right, lambda _: fault.wrong, text))
    _keep_only(promise, workspace.directory / root / "tests" / f"{file}.tftest.hcl")
    workspace.init(root)
    with pytest.raises(TerraformError) as failure:
        workspace.test(fault.place, "-no-color", f"-filter=tests/{file}.tftest.hcl")
    assert re.search(rf'run "{promise}"\.\.\. fail', str(failure.value)), failure.value


def _keep_only(promise: str, path: Path) -> None:
    """The other runs of the file take time, and say nothing of this fault."""
    head, *runs = re.split(r'(?m)^(?=run ")', path.read_text())
    path.write_text(head + "".join(run for run in runs if run.startswith(f'run "{promise}"')))
