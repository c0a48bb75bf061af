"""The reckoning itself: each kind of difference between history and rows is seen for what it is."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults.history import Change, Creation, Dequeue, History, Kind, compare, lost_before

THEN = datetime(2026, 11, 26, tzinfo=UTC)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path / "history.jsonl")
    yield history
    history.close()


def _made(history: History) -> tuple[Creation, Change, Change, dict[str, Any]]:
    """A payment that was made, consumed and deleted as it should be, and its row."""
    creation = history.create("shop", "1.00", "key")
    creation.began, creation.acknowledged, creation.id = 10, 12, 1
    consumption = history.change("till", "consume", 1)
    consumption.began, consumption.acknowledged, consumption.updated_at = 20, 22, THEN
    deletion = history.change("shop", "delete", 1)
    deletion.began, deletion.acknowledged = 30, 32
    row = {
        "id": 1,
        "operation": creation.number,
        "status": "consumed",
        "payment": "1.00",
        "idempotency_key": "key",
        "updated_at": THEN + timedelta(seconds=10),
        "created_at": 11,
        "created_by": "shop",
        "consumed_at": 21,
        "consumed_by": "till",
        "deleted_at": 31,
        "deleted_by": "shop",
    }
    return creation, consumption, deletion, row


def test_what_agrees(history: History) -> None:
    *_, row = _made(history)
    compare(history, [row])
    assert history.violations == []
    assert lost_before(history, [row], 100) == []


ROW: dict[str, tuple[dict[str, Any], Kind]] = {
    "not consumed": ({"status": "inserted", "consumed_at": None, "consumed_by": None}, "lost"),
    "not deleted": ({"deleted_at": None, "deleted_by": None}, "lost"),
    "of nobody": ({"operation": 77}, "phantom"),
    "another value": ({"payment": "2.00"}, "wrong evidence"),
    "another key": ({"idempotency_key": "other"}, "wrong evidence"),
    "another id": ({"id": 2}, "lost"),
    "made by somebody else": ({"created_by": "till"}, "wrong evidence"),
    "made before it was asked for": ({"created_at": 9}, "wrong evidence"),
    "made after it was acknowledged": ({"created_at": 13}, "wrong evidence"),
    "consumed by somebody else": ({"consumed_by": "shop"}, "wrong evidence"),
    "consumed too early": ({"consumed_at": 19}, "wrong evidence"),
    "consumed too late": ({"consumed_at": 23}, "wrong evidence"),
    "deleted by somebody else": ({"deleted_by": "till"}, "wrong evidence"),
    "deleted too late": ({"deleted_at": 33}, "wrong evidence"),
}


@pytest.mark.parametrize("name", ROW)
def test_a_row_that_is_wrong(history: History, name: str) -> None:
    *_, row = _made(history)
    change, kind = ROW[name]
    compare(history, [row | change])
    assert kind in {violation.kind for violation in history.violations}


def test_a_row_that_is_missing(history: History) -> None:
    _made(history)
    compare(history, [])
    assert {violation.kind for violation in history.violations} == {"lost"}
    assert len(lost_before(history, [], 100)) == 3
    assert len(lost_before(history, [], 25)) == 2
    assert lost_before(history, [], 5) == []


def test_two_rows_of_one_creation(history: History) -> None:
    *_, row = _made(history)
    compare(history, [row, row | {"id": 2, "idempotency_key": None}])
    assert "doubled" in {violation.kind for violation in history.violations}


def _dequeued(history: History) -> tuple[Dequeue, dict[str, Any]]:
    """A payment that was consumed as the oldest one, and its row."""
    *_, row = _made(history)
    history.changes.clear()
    dequeue = history.dequeue("till", 5, "key")
    dequeue.began, dequeue.acknowledged = 20, 22
    dequeue.ids, dequeue.updated_at = (1,), {1: THEN}
    return dequeue, row | {"deleted_at": None, "deleted_by": None, "updated_at": THEN}


def test_a_dequeue_that_agrees(history: History) -> None:
    _, row = _dequeued(history)
    compare(history, [row])
    assert history.violations == []
    assert lost_before(history, [row], 100) == []


DEQUEUED: dict[str, tuple[dict[str, Any], Kind]] = {
    "not consumed": ({"consumed_at": None, "consumed_by": None}, "lost"),
    "another id": ({"id": 2}, "lost"),
    "consumed by another client": ({"consumed_by": "shop"}, "wrong evidence"),
    "consumed too late": ({"consumed_at": 23}, "wrong evidence"),
    "changed since": ({"updated_at": THEN + timedelta(seconds=1)}, "doubled"),
}


@pytest.mark.parametrize("name", DEQUEUED)
def test_a_dequeued_row_that_is_wrong(history: History, name: str) -> None:
    _, row = _dequeued(history)
    change, kind = DEQUEUED[name]
    compare(history, [row | change])
    assert kind in {violation.kind for violation in history.violations}


def test_a_dequeue_that_was_lost(history: History) -> None:
    _, row = _dequeued(history)
    inserted = row | {"consumed_at": None, "consumed_by": None}
    assert lost_before(history, [inserted], 25) == ["consume of payment 1"]
    assert lost_before(history, [inserted], 21) == []


def test_handed_out_twice(history: History) -> None:
    dequeue, row = _dequeued(history)
    other = history.dequeue("till", 1, "other key")
    other.began, other.acknowledged = dequeue.began, 23
    other.ids, other.updated_at = (1,), {1: THEN}
    compare(history, [row])
    assert [violation.kind for violation in history.violations] == ["handed out twice"]


def test_handed_out_and_consumed_by_its_id(history: History) -> None:
    dequeue, row = _dequeued(history)
    change = history.change("till", "consume", 1)
    change.began, change.acknowledged, change.updated_at = dequeue.began, 23, THEN
    compare(history, [row])
    assert [violation.kind for violation in history.violations] == ["handed out twice"]


@pytest.mark.parametrize(
    ("key", "in_doubt", "limit", "kinds"),
    [
        ("key", False, 5, ["handed to no caller"]),  # it was told that there was nothing
        ("key", True, 5, ["handed to no caller", "unsettled"]),
        (None, False, 5, ["handed to no caller"]),
        (None, True, 5, []),  # a lost answer without a key
        (None, True, 0, ["handed to no caller"]),  # it held fewer payments than these
    ],
)
def test_a_dequeue_without_its_payments(
    history: History, key: str | None, in_doubt: bool, limit: int, kinds: list[Kind]
) -> None:
    dequeue, row = _dequeued(history)
    dequeue.key, dequeue.in_doubt, dequeue.limit = key, in_doubt, limit
    dequeue.ids, dequeue.acknowledged = (), None
    compare(history, [row])
    assert [violation.kind for violation in history.violations] == kinds


@pytest.mark.parametrize(
    ("key", "in_doubt", "kinds"),
    [
        (None, True, []),  # it may have been this call
        (None, False, ["handed to no caller"]),
        ("key", True, ["handed to no caller"]),  # with its key it would have been told
    ],
)
def test_a_consumption_that_was_refused(
    history: History, key: str | None, in_doubt: bool, kinds: list[Kind]
) -> None:
    _, consumption, _, row = _made(history)
    consumption.key, consumption.in_doubt, consumption.acknowledged = key, in_doubt, None
    consumption.consumed_by, consumption.consumed_at = "till", 21
    compare(history, [row])
    assert [violation.kind for violation in history.violations] == kinds


@pytest.mark.parametrize(("by", "at"), [("shop", 21), ("till", 22)])
def test_a_refusal_that_names_another_consumption(history: History, by: str, at: float) -> None:
    *_, row = _made(history)
    refused = history.change("desk", "consume", 1)
    refused.consumed_by, refused.consumed_at = by, at
    compare(history, [row])
    assert [violation.kind for violation in history.violations] == ["wrong answer"]


def test_a_payment_that_is_left(history: History) -> None:
    dequeue, row = _dequeued(history)
    dequeue.ids = ()
    row |= {"consumed_at": None, "consumed_by": None}
    compare(history, [row])
    assert [violation.kind for violation in history.violations] == ["never handed out"]


@pytest.mark.parametrize(("in_doubt", "kinds"), [(False, ["phantom"]), (True, ["unsettled"])])
def test_a_creation_without_an_answer(history: History, in_doubt: bool, kinds: list[Kind]) -> None:
    creation, *_, row = _made(history)
    creation.acknowledged, creation.in_doubt = None, in_doubt
    compare(history, [row])
    assert [violation.kind for violation in history.violations] == kinds


def test_a_creation_without_a_key_may_stay_in_doubt(history: History) -> None:
    creation, *_, row = _made(history)
    creation.acknowledged, creation.in_doubt, creation.key = None, True, None
    compare(history, [row | {"idempotency_key": None}])
    assert history.violations == []


def test_changes_that_nobody_asked_for(history: History) -> None:
    *_, row = _made(history)
    history.changes.clear()
    compare(history, [row])
    kinds = [violation.kind for violation in history.violations]
    assert kinds == ["handed to no caller", "phantom"]


def test_a_change_that_was_refused_for_certain(history: History) -> None:
    _, consumption, deletion, row = _made(history)
    consumption.acknowledged = deletion.acknowledged = None
    compare(history, [row])
    kinds = [violation.kind for violation in history.violations]
    assert kinds == ["handed to no caller", "phantom"]
