"""What each role can reach, and each role that it can make: the table of reach.toml.

Expected: a stack's role changes all that the stack has, and nothing of another stack, of what is
shared, or of the account. `[[may]]` has the calls beside, each with its reason; `[[never]]` what
even the stack's own role must not do.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pytest

from testkit.simulation import simulating
from testkit.tests.conftest import Life, _live
from testkit.tests.reach import TABLE, Actor, Cell, World, is_about
from testkit.workspace import StandIn, places

# One worker: what is computed once, all of these tests read.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reach")]


@dataclass(frozen=True)
class Table:
    """Every role, what becomes of it, and every call of theirs."""

    world: World
    chains: list[Actor]
    cells: list[Cell]


@pytest.fixture(scope="module")
def table(
    lives: dict[str, Life], provider: StandIn, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Table]:
    for place in places():
        if place not in lives:
            lives[place] = _live(place, tmp_path_factory.mktemp(place) / "terraform", provider)
    with simulating() as simulator:
        world = World(lives, simulator)
        chains = _powers(world)
        yield Table(world, chains, [c for one in chains for c in world.cells(one, world.things)])


def _powers(world: World) -> list[Actor]:
    """Returns one actor of each set of powers and each home."""
    reached = [one for actor in world.actors for one in world.reachable(actor)]
    return [*{(one.policies, one.boundary, one.home): one for one in reversed(reached)}.values()]


def _is_foreign(cell: Cell) -> bool:
    return cell.thing.owner != cell.actor.home


def _excuses(cell: Cell) -> list[dict[str, Any]]:
    return [
        row
        for row in TABLE["may"]
        if any(fnmatchcase(cell.action, may) for may in row["may"].split())
        and is_about(row, cell.actor, cell.thing)
    ]


def _wrong(cells: list[Cell]) -> set[str]:
    return {str(c) for c in cells if c.allowed and _is_foreign(c) and not _excuses(c)}


def test_no_chain_of_roles_leads_out_of_every_boundary(table: Table) -> None:
    assert {one.name for one in table.chains if not one.boundary} == set()


def test_nobody_changes_what_is_not_theirs(table: Table) -> None:
    assert _wrong(table.cells) == set()


def test_a_stack_is_applied_and_destroyed_by_its_own_role(table: Table) -> None:
    missing = {
        str(cell)
        for cell in table.cells
        if cell.actor.kind.startswith("apply-") and not _is_foreign(cell) and not cell.allowed
        if cell.action in cell.thing.create | cell.thing.change
    }
    assert missing == set()


def test_every_exception_is_one(table: Table) -> None:
    used = {
        (row["why"], may)
        for cell in table.cells
        if cell.allowed and _is_foreign(cell)
        for row in _excuses(cell)
        for may in row["may"].split()
        if fnmatchcase(cell.action, may)
    }
    listed = {(row["why"], may) for row in TABLE["may"] for may in row["may"].split()}
    assert listed - used == set()


def _broken(world: World, actors: list[Actor]) -> set[str]:
    """Returns what even a stack's own role may do of what it never may."""
    return {
        f"{actor.name}: {row['never']} on {thing} with {row['with']}"
        for row in TABLE["never"]
        for actor in actors
        for thing in world.things
        if is_about(row, actor, thing) and world.allows(actor, row["never"], thing, row["with"])
    }


def test_not_even_its_own(table: Table) -> None:
    for row in TABLE["never"]:
        about = [(a, t) for a in table.chains for t in table.world.things if is_about(row, a, t)]
        assert about, row
    assert _broken(table.world, table.chains) == set()


# Planted: a denial, or a condition of a statement, that is not there.


def _faults(policy: str) -> Iterator[tuple[str, str]]:
    """Gives what is taken away, and the policy without it."""
    for i, statement in enumerate(json.loads(policy)["Statement"]):
        if statement["Effect"] == "Deny":
            document = json.loads(policy)
            del document["Statement"][i]
            yield statement["Sid"], json.dumps(document)
        for test in statement.get("Condition", {}):
            document = json.loads(policy)
            del document["Statement"][i]["Condition"][test]
            yield f"{statement['Sid']}: {test}", json.dumps(document)


def _is_noticed(table: Table, boundary: str) -> bool:
    world = table.world
    bound = [one for one in table.chains if one.boundary == boundary]
    if _broken(world, bound):
        return True
    allowed = {(c.actor, c.action, c.thing) for c in table.cells if c.allowed}
    for i in range(0, len(world.things), 20):  # most are noticed at once
        for one in bound:
            turned = [
                cell
                for cell in world.cells(one, world.things[i : i + 20])
                if cell.allowed != ((one, cell.action, cell.thing) in allowed)
            ]
            if any(_is_wrong(cell) for cell in turned):
                return True
    known = {(one.policies, one.boundary) for one in table.chains}
    reached = (next_ for one in bound for next_ in world.reachable(one))
    return any((next_.policies, next_.boundary) not in known for next_ in reached)


def _is_wrong(cell: Cell) -> bool:
    """Tells whether the table has another decision."""
    if _is_foreign(cell):
        return cell.allowed != bool(_excuses(cell))
    needed = cell.action in cell.thing.create | cell.thing.change
    return needed and cell.actor.kind.startswith("apply-") and not cell.allowed


# These denials stand behind another: what the boundary or the role's own policy allows is already
# narrower, so that nothing turns without them. One that begins to matter fails here too.
BEHIND: dict[str, set[str]] = {
    "boundary-environment-dev": {
        "CopiesStay",
        "NothingOfAnotherCluster",
        "NothingOfAnotherCluster: StringNotEquals",
        "NothingOfAnotherPlatform",
    },
    "workload-environment-production": {  # a copy of another's has two tags that say so
        "NothingOfAnotherCluster",
        "NothingOfAnotherCluster: StringNotEquals",
        "NothingOfAnotherEnvironment",
        "NothingOfAnotherEnvironment: StringNotEquals",
        "NothingOfAnotherPlatform",
    },
    "boundary-platform-nonprod": {
        "NothingOfAnotherCluster",
        "NothingOfAnotherCluster: StringNotEquals",
        "NothingOfAnotherEnvironment: StringNotEquals",
    },
    "workload-platform-nonprod": {
        "NothingOfAnotherCluster: StringNotEquals",
        "NothingOfAnotherEnvironment: StringNotEquals",
    },
}


@pytest.mark.parametrize("boundary", BEHIND)
def test_what_is_taken_out_of_a_boundary_is_missed(table: Table, boundary: str) -> None:
    world = table.world
    (arn,) = (arn for arn in world.policies if arn.endswith(f"/payments-{boundary}"))
    policy = world.policies[arn]
    unnoticed = set()
    for fault, faulty in _faults(policy):
        world.policies[arn] = faulty
        if not _is_noticed(table, arn):
            unnoticed.add(fault)
    world.policies[arn] = policy
    assert unnoticed == BEHIND[boundary]
