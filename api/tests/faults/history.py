"""What callers did and learned, and whether the database agrees with it."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import asyncpg

# All that can be wrong, and what it means.
Kind = Literal[
    "lost",  # acknowledged, and not there
    "doubled",  # done twice, or acknowledged as two different things
    "handed out twice",  # one payment in the answers of two calls that consumed it
    "handed to no caller",  # consumed, and no call has it: it is never processed
    "never handed out",  # inserted still, after the callers consumed until there was nothing left
    "phantom",  # there, and nobody asked for it, or somebody was told that nothing was changed
    "unsettled",  # repeated until the end with its key, and still nothing is known
    "wrong answer",  # one that the contract does not know here
    "wrong evidence",  # who or when, in the row, is not who and when
    "hangs",  # no answer in time
]


Row: TypeAlias = asyncpg.Record | Mapping[str, Any]


class Violation(NamedTuple):
    """A broken promise, and enough to find it in the history's file."""

    kind: Kind
    what: str


@dataclass
class Operation:
    """What a caller wants done once, however often it has to ask; times are seconds since 1970."""

    number: int
    client: str
    began: float
    key: str | None = None
    attempts: int = 0
    in_doubt: bool = False  # one attempt at least may or may not have had its effect
    acknowledged: float | None = None
    answer: bytes = b""  # the first one, which the key must give again


@dataclass
class Creation(Operation):
    """A payment to be made."""

    value: str = ""
    id: int | None = None


@dataclass
class Change(Operation):
    """A payment to be consumed or deleted."""

    kind: Literal["consume", "delete"] = "consume"
    id: int = 0
    updated_at: datetime | None = None  # as the answer says
    gone: bool = False  # it was deleted: whether it was consumed before is not told
    consumed_by: str | None = None  # as the refusal of a second consumption says
    consumed_at: float | None = None

    @property
    def told(self) -> bool:
        """Whether the caller knows what became of it, as far as the service tells."""
        return self.acknowledged is not None or self.gone or self.consumed_by is not None


@dataclass
class Dequeue(Operation):
    """A call for the oldest payments."""

    limit: int = 1
    ids: tuple[int, ...] = ()
    updated_at: dict[int, datetime] = field(default_factory=dict)  # of each, as the answer says
    empty: list[float] = field(default_factory=list)  # when each was sent that was given nothing


@dataclass
class History:
    """Every operation, as it was asked for and as it ended; written to a file as it happens."""

    file: Path
    creations: dict[int, Creation] = field(default_factory=dict)
    changes: dict[int, list[Change]] = field(default_factory=lambda: defaultdict(list))
    dequeues: list[Dequeue] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    made: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When each server, by port, made a payment: the answers' time.monotonic()."""

    def __post_init__(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._lines = self.file.open("w")
        self._number = 0

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()

    @property
    def acknowledged(self) -> int:
        """How many creations and consumptions were acknowledged."""
        kinds = ("create", "consume", "dequeue")
        return sum(self.counts[f"{kind} acknowledged"] for kind in kinds)

    def create(self, client: str, value: str, key: str | None) -> Creation:
        """Begins a creation."""
        creation = Creation(self._next(), client, time.time(), key, value=value)
        self.creations[creation.number] = creation
        return creation

    def change(
        self, client: str, kind: Literal["consume", "delete"], id: int, key: str | None = None
    ) -> Change:
        """Begins a consumption or a deletion."""
        change = Change(self._next(), client, time.time(), key, kind=kind, id=id)
        self.changes[id].append(change)
        return change

    def dequeue(self, client: str, limit: int, key: str | None) -> Dequeue:
        """Begins a call for the oldest payments."""
        dequeue = Dequeue(self._next(), client, time.time(), key, limit=limit)
        self.dequeues.append(dequeue)
        return dequeue

    def note(self, event: str, operation: Operation | None = None, **details: Any) -> None:
        """Writes an event down: `invoke`, `ok`, `fail` (no effect), `in doubt`, or a fault."""
        number = None if operation is None else operation.number
        line = {"time": time.time(), "event": event, "operation": number, **details}
        self._lines.write(json.dumps(line) + "\n")

    def violate(self, kind: Kind, what: str) -> None:
        """Notes a broken promise."""
        self.violations.append(Violation(kind, what))
        self.note(kind, what=what)

    def _next(self) -> int:
        self._number += 1
        return self._number


# `data` carries the number of the operation, so that a row tells who asked for it.
ROWS = """
SELECT
  id, status::text, payment::text, idempotency_key,
  (data ->> 'operation')::bigint AS operation,
  updated_at,
  extract(epoch FROM created_at)::float AS created_at, created_by,
  extract(epoch FROM consumed_at)::float AS consumed_at, consumed_by,
  extract(epoch FROM deleted_at)::float AS deleted_at, deleted_by
FROM payments
"""

_TIME = {"consume": "consumed_at", "delete": "deleted_at"}


def compare(history: History, rows: Sequence[Row]) -> None:
    """Notes each row that the history does not explain, and all it knows that no row shows."""
    found: dict[int | None, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["operation"]].append(row)
    for number in found.keys() - history.creations.keys():
        history.violate("phantom", f"nobody asked for the operation {number}")
    for creation in history.creations.values():
        _compare_creation(history, creation, found[creation.number])
    by_id = {row["id"]: row for row in rows}
    consumed = _consumed(history)
    for id in consumed.keys() - by_id.keys():
        history.violate("lost", f"payment {id}, which {_names(consumed[id])} consumed")
    lost_answers = _lost_answers(history)
    for row in rows:
        _compare_consumption(history, row, consumed[row["id"]], lost_answers)
        _compare_refusals(history, row)
        _compare_deletion(history, row)
    for change in (change for changes in history.changes.values() for change in changes):
        if change.in_doubt and not change.told:
            history.violate("unsettled", f"{change.kind} of payment {change.id} ({change.number})")
    for dequeue in history.dequeues:
        if dequeue.key is not None and dequeue.in_doubt and dequeue.acknowledged is None:
            history.violate("unsettled", f"consumption {dequeue.number}")


def _compare_creation(history: History, creation: Creation, rows: list[Row]) -> None:
    name = f"creation {creation.number} (key {creation.key}, answered with id {creation.id})"
    if len(rows) > 1:
        history.violate("doubled", f"{name} made payments {sorted(row['id'] for row in rows)}")
    if creation.acknowledged is None:
        if rows and not creation.in_doubt:
            history.violate("phantom", f"{name} was told that nothing was changed")
        if creation.key is not None and creation.in_doubt:
            history.violate("unsettled", name)
    elif creation.id not in {row["id"] for row in rows}:
        history.violate("lost", name)
    for row in rows:
        if (row["payment"], row["idempotency_key"]) != (creation.value, creation.key):
            history.violate("wrong evidence", f"{name} became {dict(row)}")
        _check_evidence(history, name, [creation], row["created_by"], row["created_at"])


def _consumed(history: History) -> dict[int, list[Change | Dequeue]]:
    """Returns which calls were told that they consumed each payment; repeats are no other calls."""
    consumed: dict[int, list[Change | Dequeue]] = defaultdict(list)
    for id, changes in history.changes.items():
        for change in changes:
            if change.kind == "consume" and change.acknowledged is not None:
                consumed[id].append(change)
    for dequeue in history.dequeues:
        for id in dequeue.ids:
            consumed[id].append(dequeue)
    return consumed


def _lost_answers(history: History) -> Counter[str]:
    """Returns how many payments each client may have consumed without a key and never seen."""
    lost: Counter[str] = Counter()
    for dequeue in history.dequeues:
        if dequeue.key is None and dequeue.in_doubt and dequeue.acknowledged is None:
            lost[dequeue.client] += dequeue.limit
    return lost


def _compare_consumption(
    history: History, row: Row, by: Sequence[Change | Dequeue], lost_answers: Counter[str]
) -> None:
    name = f"consumption of payment {row['id']}"
    if len(by) > 1:
        history.violate("handed out twice", f"{name} by {_names(by)}")
    if row["consumed_at"] is None:
        if by:
            history.violate("lost", f"{name} by {_names(by)}")
        elif row["deleted_at"] is None:
            history.violate("never handed out", f"payment {row['id']}")
        return
    if by:
        _check_evidence(history, name, by, row["consumed_by"], row["consumed_at"])
        if row["deleted_at"] is None and row["updated_at"] != _updated_at(by[0], row["id"]):
            history.violate("doubled", f"{name}: {by[0]} is {dict(row)}")
    elif not _may_have_consumed(history, row):
        lost_answers[row["consumed_by"]] -= 1
        if lost_answers[row["consumed_by"]] < 0:
            history.violate("handed to no caller", f"{name} by {row['consumed_by']}")


def _compare_refusals(history: History, row: Row) -> None:
    for change in history.changes.get(row["id"], ()):
        told = (change.consumed_by, change.consumed_at)
        if told not in [(None, None), (row["consumed_by"], row["consumed_at"])]:
            history.violate("wrong answer", f"{change} of {dict(row)}")


def _may_have_consumed(history: History, row: Row) -> bool:
    """Returns whether a call without a key did: its repeat is not told by which call it was."""
    return any(
        change.kind == "consume"
        and change.key is None
        and change.in_doubt
        and change.client == row["consumed_by"]
        for change in history.changes.get(row["id"], ())
    )


def _updated_at(operation: Change | Dequeue, id: int) -> datetime | None:
    updated_at = operation.updated_at
    return updated_at.get(id) if isinstance(updated_at, dict) else updated_at


def _names(operations: Iterable[Operation]) -> str:
    return ", ".join(f"operation {one.number} of {one.client}" for one in operations)


def _compare_deletion(history: History, row: Row) -> None:
    name = f"deletion of payment {row['id']}"
    changes = [change for change in history.changes.get(row["id"], ()) if change.kind == "delete"]
    acknowledged = any(change.acknowledged is not None for change in changes)
    if row["deleted_at"] is None:
        if acknowledged:
            history.violate("lost", name)
    elif not acknowledged and not any(change.in_doubt for change in changes):
        history.violate("phantom", f"{name}: no caller knows of it")
    else:
        _check_evidence(history, name, changes, row["deleted_by"], row["deleted_at"])


def _check_evidence(
    history: History, name: str, asked: Iterable[Operation], by: str, at: float
) -> None:
    """Checks who and when: one of those who asked, not before it did, nor after an answer."""
    asked = [*asked]
    began = [operation.began for operation in asked if operation.client == by]
    answered = [operation.acknowledged for operation in asked if operation.acknowledged is not None]
    if not began:
        history.violate("wrong evidence", f"{name}: {by} did not ask for it")
    elif not min(began) <= at <= min(answered, default=at):
        history.violate("wrong evidence", f"{name}: at {at}, asked {began}, answered {answered}")


def lost_before(history: History, rows: Sequence[Row], moment: float) -> list[str]:
    """Returns what was acknowledged before a moment, and is not in the rows."""
    by_id = {row["id"]: row for row in rows}
    lost = [
        f"creation {creation.number}"
        for creation in history.creations.values()
        if _is_before(creation, moment) and creation.id not in by_id
    ]
    done = [
        (change, change.kind, id) for id, changes in history.changes.items() for change in changes
    ] + [(dequeue, "consume", id) for dequeue in history.dequeues for id in dequeue.ids]
    lost += [
        f"{kind} of payment {id}"
        for operation, kind, id in done
        if _is_before(operation, moment) and (id not in by_id or by_id[id][_TIME[kind]] is None)
    ]
    return lost


def _is_before(operation: Operation, moment: float) -> bool:
    return operation.acknowledged is not None and operation.acknowledged < moment
