"""Which image goes where, and what stops it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.promotion import (
    Refused,
    Revision,
    abandoned,
    check_deploy,
    digest_of,
    history,
    rollback_target,
    running,
)

NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
OLD, NEW = "1" * 40, "2" * 40


def entry(number: int, status: str, description: str, minutes: float = 600) -> dict[str, Any]:
    """Returns an entry as `helm history --output json` gives it."""
    return {
        "revision": number,
        "updated": (NOW - timedelta(minutes=minutes)).isoformat(),
        "status": status,
        "chart": "payments-0.1.0",
        "app_version": "0.1.0",
        "description": description,
    }


def read(*entries: dict[str, Any]) -> list[Revision]:
    """Reads entries, in whatever order."""
    return history(json.dumps(entries))


TWO = read(entry(1, "superseded", f"{A} {OLD}"), entry(2, "deployed", f"{B} {NEW}"))


def line(older: str, newer: str) -> bool:
    """A history in which 1 is before 2 is before 3."""
    return older <= newer


def test_a_history_says_what_each_revision_was() -> None:
    assert [(r.number, r.digest, r.commit) for r in TWO] == [(1, A, OLD), (2, B, NEW)]
    assert running(TWO) == TWO[1]


def test_a_revision_that_went_back_is_what_it_went_back_to() -> None:
    found = read(
        entry(1, "superseded", f"{A} {OLD}"),
        entry(2, "superseded", f"{B} {NEW}"),
        entry(3, "superseded", "Rollback to 1"),
        entry(4, "failed", 'Upgrade "payments" failed: timed out'),
        entry(5, "deployed", "Rollback to 3"),
    )
    assert [r.digest for r in found] == [A, B, A, "", A]
    now = running(found)
    assert now is not None
    assert (now.number, now.commit) == (5, OLD)


def test_entries_in_another_order_and_with_other_descriptions() -> None:
    found = read(entry(10, "deployed", f"{B} {NEW}"), entry(9, "superseded", "Install complete"))
    assert [(r.number, r.digest) for r in found] == [(9, ""), (10, B)]


@pytest.mark.parametrize("name", ["", "payments", "r/payments:1", f"r/payments@{A[:-1]}", A,
                                  f"r/payments@{A} --set x=y", f"-r/p@{A}\n"])  # fmt: skip
def test_an_image_is_named_by_its_digest(name: str) -> None:
    with pytest.raises(Refused, match="is not REPOSITORY@sha256"):
        digest_of(name)


def test_the_digest_of_an_image() -> None:
    registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    assert digest_of(f"{registry}/charts/payments@{A}") == A
    assert digest_of(f"localhost:5000/payments@{A}") == A


# Deployments


def test_the_first_and_the_next_and_the_same_again_may_come() -> None:
    check_deploy([], A, OLD, line)
    check_deploy(TWO, C, "3" * 40, line)
    check_deploy(TWO, B, NEW, line)


def test_a_first_one_that_failed_is_no_reason() -> None:
    check_deploy(read(entry(1, "failed", "Release failed")), A, OLD, line)


def test_an_approval_that_comes_late_takes_nothing_back() -> None:
    with pytest.raises(Refused, match=r"does not contain 222222222222, which runs here"):
        check_deploy(TWO, C, OLD, line)


def test_what_was_rolled_back_does_not_come_again_by_running_its_job_again() -> None:
    found = read(
        entry(1, "superseded", f"{A} {OLD}"),
        entry(2, "superseded", f"{B} {NEW}"),
        entry(3, "deployed", "Rollback to 1"),
    )
    with pytest.raises(Refused, match="as revision 2, and was replaced"):
        check_deploy(found, B, NEW, line)
    check_deploy(found, C, "3" * 40, line)


def test_what_somebody_deployed_by_hand_is_replaced_by_any() -> None:
    check_deploy(read(entry(1, "deployed", "Install complete")), A, OLD, line)


# Runs that were stopped


@pytest.mark.parametrize("status", ["pending-install", "pending-upgrade", "pending-rollback"])
def test_two_deployments_at_once_are_refused(status: str) -> None:
    found = [*TWO, *read(entry(3, status, "Preparing upgrade", minutes=5))]
    with pytest.raises(Refused, match=f"revision 3 is {status} since 5 min"):
        abandoned(found, NOW)


def test_one_that_nobody_ends_is_taken_back() -> None:
    assert abandoned([*TWO, *read(entry(3, "pending-upgrade", "Preparing", minutes=46))], NOW)


def test_a_release_at_rest_is_not_abandoned() -> None:
    assert not abandoned([], NOW)
    assert not abandoned(TWO, NOW)


# Rollbacks


def test_back_to_the_one_before() -> None:
    assert rollback_target(TWO, "").number == 1


def test_back_to_the_last_good_one_of_a_digest() -> None:
    found = read(
        entry(1, "superseded", f"{A} {OLD}"),
        entry(2, "superseded", f"{B} {NEW}"),
        entry(3, "superseded", "Rollback to 1"),
        entry(4, "deployed", f"{C} {'3' * 40}"),
    )
    assert rollback_target(found, A).number == 3
    assert rollback_target(found, B).number == 2
    assert rollback_target(found, "").number == 3


def test_the_same_image_again_is_no_way_back() -> None:
    found = read(
        entry(1, "superseded", f"{A} {OLD}"),
        entry(2, "superseded", f"{B} {NEW}"),
        entry(3, "deployed", f"{B} {NEW}"),
    )
    assert rollback_target(found, "").number == 1


def test_a_failed_revision_is_no_way_back() -> None:
    found = [*read(entry(1, "failed", "Upgrade failed")), *TWO[1:]]
    with pytest.raises(Refused, match="an earlier release has not run here; what has: none"):
        rollback_target(found, "")


def test_what_never_ran_here_is_refused_and_what_did_is_named() -> None:
    with pytest.raises(Refused, match=f"has not run here; what has: {A}"):
        rollback_target(TWO, C)
    with pytest.raises(Refused, match="is what runs here"):
        rollback_target(TWO, B)


def test_back_from_a_deployment_that_hangs_is_to_what_served_before_it() -> None:
    found = [*TWO, *read(entry(3, "pending-upgrade", "Preparing upgrade", minutes=1))]
    assert rollback_target(found, "").number == 2
    assert rollback_target(found, B).number == 2
    assert rollback_target(found, A).number == 1
