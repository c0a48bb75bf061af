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
    attempts: int = 0
    in_doubt: bool = False  # one attempt at least may or may not have had its effect
    acknowledged: float | None = None


@dataclass
class Creation(Operation):
    """A payment to be made."""

    value: str = ""
    key: str | None = None
    id: int | None = None
    answer: bytes = b""  # the first one


@dataclass
class Change(Operation):
    """A payment to be consumed or deleted."""

    kind: Literal["consume", "delete"] = "consume"
    id: int = 0
    updated_at: datetime | None = None  # as the answer says
    gone: bool = False  # somebody has deleted it: whether it was consumed before is not told


@dataclass
class History:
    """Every operation, as it was asked for and as it ended; written to a file as it happens."""

    file: Path
    creations: dict[int, Creation] = field(default_factory=dict)
    changes: dict[int, list[Change]] = field(default_factory=lambda: defaultdict(list))
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
        return self.counts["create acknowledged"] + self.counts["consume acknowledged"]

    def create(self, client: str, value: str, key: str | None) -> Creation:
        """Begins a creation."""
        creation = Creation(self._next(), client, time.time(), value=value, key=key)
        self.creations[creation.number] = creation
        return creation

    def change(self, client: str, kind: Literal["consume", "delete"], id: int) -> Change:
        """Begins a consumption or a deletion."""
        change = Change(self._next(), client, time.time(), kind=kind, id=id)
        self.changes[id].append(change)
        return change

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
_AUTHOR = {"consume": "consumed_by", "delete": "deleted_by"}


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
    for id, changes in history.changes.items():
        for kind in ("consume", "delete"):
            wanted = [change for change in changes if change.kind == kind]
            _compare_changes(history, kind, wanted, by_id.get(id))
    for row in rows:
        kinds = {change.kind for change in history.changes.get(row["id"], ())}
        if row["status"] == "consumed" and "consume" not in kinds:
            history.violate("phantom", f"nobody consumed payment {row['id']}")
        if row["deleted_at"] is not None and "delete" not in kinds:
            history.violate("phantom", f"nobody deleted payment {row['id']}")


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


def _compare_changes(
    history: History,
    kind: Literal["consume", "delete"],
    changes: Sequence[Change],
    row: Row | None,
) -> None:
    if not changes or row is None:
        return  # that the row is lost is known already
    name = f"{kind} of payment {row['id']}"
    for change in changes:
        if change.in_doubt and not change.gone and change.acknowledged is None:
            history.violate("unsettled", f"{name} (operation {change.number})")
    acknowledged = [change for change in changes if change.acknowledged is not None]
    at, by = _TIME[kind], _AUTHOR[kind]
    if row[at] is not None:
        if not any(change.in_doubt or change.acknowledged for change in changes):
            history.violate("phantom", f"{name}: all were told that nothing was changed")
        _check_evidence(history, name, changes, row[by], row[at])
    elif acknowledged:
        history.violate("lost", name)
    times = {change.updated_at for change in acknowledged if change.updated_at is not None}
    if kind == "consume" and row["deleted_at"] is None:
        times.add(row["updated_at"])
    if acknowledged and len(times) > 1:
        history.violate("doubled", f"{name} at {sorted(map(str, times))}")


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
    for id, changes in history.changes.items():
        row = by_id.get(id)
        lost += [
            f"{change.kind} of payment {id}"
            for change in changes
            if _is_before(change, moment) and (row is None or row[_TIME[change.kind]] is None)
        ]
    return lost


def _is_before(operation: Operation, moment: float) -> bool:
    return operation.acknowledged is not None and operation.acknowledged < moment
