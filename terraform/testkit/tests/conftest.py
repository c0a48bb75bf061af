"""One mirror a session; one simulated life a place: plan, apply, plan again, destroy."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testkit.workspace import StandIn, TerraformError, Workspace, places, stand_in


@dataclass
class Life:
    """What became of a place, from its plan to its end."""

    place: str
    plan: dict[str, Any]
    state: dict[str, Any]
    second_plan: dict[str, Any]
    refusal: str  # what Terraform said to its destruction; empty where it was destroyed
    left: dict[str, Any]

    @property
    def root(self) -> str:
        """The root that was applied here."""
        return places()[self.place]

    def resources(self, type_: str = "") -> dict[str, dict[str, Any]]:
        """Returns the values of the managed resources, by address."""
        return self._instances("managed", type_)

    def data(self, address: str) -> dict[str, Any]:
        """Returns the values of a data source."""
        resources = self.state["values"]["root_module"]["resources"]
        values: dict[str, Any] = next(r["values"] for r in resources if r["address"] == address)
        return values

    def read(self, type_: str) -> dict[str, dict[str, Any]]:
        """Returns the values of the data sources of a type, by address."""
        return self._instances("data", type_)

    def documents(self) -> dict[str, dict[str, Any]]:
        """Returns the values of the policy documents, by address."""
        return self.read("aws_iam_policy_document")

    def _instances(self, mode: str, type_: str) -> dict[str, dict[str, Any]]:
        return {
            r["address"]: r["values"]
            for r in self.state["values"]["root_module"]["resources"]
            if r["mode"] == mode and type_ in {"", r["type"]}
        }


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """The stand-in for hashicorp/aws."""
    with stand_in(tmp_path_factory.mktemp("mirror")) as running:
        yield running


@pytest.fixture
def workspace(tmp_path: Path, provider: StandIn) -> Workspace:
    """A copy of terraform/, nothing installed yet."""
    return Workspace(tmp_path / "terraform", provider)


def _live(place: str, directory: Path, provider: StandIn) -> Life:
    workspace = Workspace(directory, provider)
    root = places()[place]
    workspace.init(root, local_state=True)
    plan = workspace.plan(place)
    state = workspace.apply(place)
    second_plan = workspace.plan(place)
    refusal = ""
    try:
        workspace.destroy(place)
    except TerraformError as error:
        refusal = str(error)
    return Life(place, plan, state, second_plan, refusal, workspace.state(place))


def at(*roots: str) -> pytest.MarkDecorator:
    """Runs a test at every place of these roots; one worker has all tests of a place."""
    chosen = [place for place, root in places().items() if root in roots]
    marked = [pytest.param(place, marks=pytest.mark.xdist_group(place)) for place in chosen]
    return pytest.mark.parametrize("life", marked, indirect=True)


@pytest.fixture(scope="session")
def lives() -> dict[str, Life]:
    """What was lived already."""
    return {}


@pytest.fixture
def life(
    request: pytest.FixtureRequest,
    lives: dict[str, Life],
    provider: StandIn,
    tmp_path_factory: pytest.TempPathFactory,
) -> Life:
    """The life of the place that `at` names."""
    place: str = request.param
    if place not in lives:
        lives[place] = _live(place, tmp_path_factory.mktemp(place) / "terraform", provider)
    return lives[place]
