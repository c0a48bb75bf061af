"""terraform/run and terraform/drain refuse what they cannot do, and say what they could."""

import subprocess

import pytest

from testkit.workspace import TERRAFORM, places


def _call(script: str, *arguments: str) -> tuple[int, str]:
    command = [f"terraform/{script}", *arguments]  # as the documents call it
    done = subprocess.run(
        command, cwd=TERRAFORM.parent, capture_output=True, text=True, timeout=60, check=False
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


def test_opentofu_is_taken_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRAFORM", "false")
    assert _call("run", "environment-dev", "output") == (1, "")


def test_drain_asks_for_the_cluster() -> None:
    code, said = _call("drain")
    assert code == 2
    assert "terraform/drain CLUSTER" in said
