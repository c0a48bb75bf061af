"""The service with a fault planted in it, to see that the harness finds it.

Run as `python -m tests.faults.doubles FAULT`, in the place of `payments serve`.
"""

import asyncio
import os
import random
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from payments import cli, db, queries, queue
from payments.queries import Created, Creation, Dequeue, Dequeued, Position

if TYPE_CHECKING:
    from payments.queries import Connection

_create, _dequeue = queries.create, queries.dequeue

COMMIT_SECONDS = 0.1  # how much later than the answer the commit comes
SLOW_DEQUEUE_SECONDS = 0.5  # longer than callers wait before they repeat
SLOW_CREATION_SECONDS = (0.0, 0.0, 0.0, 1.0)  # one of these: the others overtake it

# What the double below stores keys in: committed apart from the payments that they made.
KEYS_TABLE = """
CREATE TABLE keys (client text, key text, id bigint, PRIMARY KEY (client, key));
GRANT SELECT, INSERT ON keys TO payments_app
"""

_ALREADY = "SELECT id FROM keys WHERE client = $1 AND key = $2"
_KEEP = "INSERT INTO keys VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_commits: set[asyncio.Task[None]] = set()


async def answer_before_commit(
    connection: "Connection", creations: Sequence[Creation]
) -> list[Created | Exception]:
    """Answers out of a transaction that it commits a moment later."""
    own = await asyncpg.connect(os.environ["PAYMENTS_DATABASE_URL"])
    transaction = own.transaction()
    await transaction.start()
    try:
        answers = await _create(own, creations)
    except BaseException:
        own.terminate()
        raise

    async def commit() -> None:
        await asyncio.sleep(COMMIT_SECONDS)
        await transaction.commit()
        await own.close()

    _commits.add(task := asyncio.create_task(commit()))
    task.add_done_callback(_commits.discard)
    return answers


async def ignore_keys(
    connection: "Connection", creations: Sequence[Creation]
) -> list[Created | Exception]:
    """Stores the key and does not look whether it is there; its database has no unique index."""
    queries.CREATE = queries.CREATE.replace(
        "ON CONFLICT (created_by, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING", ""
    )
    return await _create(connection, creations)


async def keep_keys_apart(
    connection: "Connection", creations: Sequence[Creation]
) -> list[Created | Exception]:
    """Looks a key up, makes the payment in one transaction, and keeps the key in the next."""
    answers: list[Created | Exception] = []
    for creation in creations:
        client, key = creation.client, creation.idempotency_key
        first = await connection.fetchval(_ALREADY, client, key)
        if first is not None:
            (payment,) = await queries.read(connection, [first])
            assert payment is not None
            answers.append(Created(payment.payment, True, True))
            continue
        (made,) = await _create(connection, [creation._replace(idempotency_key=None)])
        assert isinstance(made, Created)
        if key is not None:
            await connection.execute(_KEEP, client, key, made.payment.id)
        answers.append(made)
    return answers


# For the double that has no guard: the trigger is a guard, too, and refuses such a statement.
NO_EVIDENCE_TRIGGER = "DROP TRIGGER payments_evidence ON payments"

_REMEMBER = """
INSERT INTO consumptions (client, idempotency_key, requested, payment_ids) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING
"""


async def keep_consumption_keys_apart(
    connection: "Connection", call: Dequeue, after: Position
) -> Dequeued:
    """Looks a key up, consumes in one transaction, and keeps the key in the next, much later."""
    client, key = call.client, call.idempotency_key
    if key is None or await connection.fetch(queries.DEQUEUED, client, key):
        return await _dequeue(connection, call, after)
    answer = await _dequeue(connection, call._replace(idempotency_key=None), after)
    if answer.payments:
        await asyncio.sleep(SLOW_DEQUEUE_SECONDS)
        ids = [payment.id for payment in answer.payments]
        await connection.execute(_REMEMBER, client, key, call.limit, ids)
    return answer


async def create_slowly(
    connection: "Connection", creations: Sequence[Creation]
) -> list[Created | Exception]:
    """Lets payments appear in another order than that of their creation; no fault by itself."""
    async with connection.transaction():
        answers = await _create(connection, creations)
        await asyncio.sleep(random.choice(SLOW_CREATION_SECONDS))
    return answers


async def dequeue_slowly(connection: "Connection", call: Dequeue, after: Position) -> Dequeued:
    """Leaves time for a repeat before the commit."""
    async with connection.transaction():
        answer = await _dequeue(connection, call, after)
        await asyncio.sleep(SLOW_DEQUEUE_SECONDS if answer.payments else 0)
    return answer


def _without(statement: str, *parts: str) -> str:
    for part in parts:
        assert statement.count(part) == 1, f"the statement has no single {part!r}"
        statement = statement.replace(part, "")
    return statement


def say_that_all_is_well() -> None:
    """Commits without waiting for the disk, and is ready on connections that lose payments."""
    queries.READINESS = queries.READINESS.replace("setting = 'off'", "setting = 'nothing'")
    session = db.session
    db.session = lambda settings: session(settings) | {"synchronous_commit": "off"}


# To leave out SKIP LOCKED alone only makes callers wait: PostgreSQL checks a row again once it has
# its lock. To leave out the guard alone changes nothing: behind the lock, no payment is consumed.
_LOCK = "  FOR UPDATE SKIP LOCKED\n"
_GUARD = "\n  AND status = 'inserted'"


def lock_nothing() -> None:
    """Remembers payments for a key that another call consumes meanwhile."""
    queries.DEQUEUE = _without(queries.DEQUEUE, _LOCK)


def lock_and_guard_nothing() -> None:
    """Consumes again what another call consumed meanwhile."""
    queries.DEQUEUE = _without(queries.DEQUEUE, _LOCK, _GUARD)


def take_no_turns() -> None:
    """Lets two calls with one key run at one time; commits are slow, so that they meet."""
    queries.DEQUEUE = _without(queries.DEQUEUE, "    (SELECT count(*) FROM turn) < 2\n    AND ")
    queries.dequeue = dequeue_slowly


def walk_once() -> None:
    """Looks for payments before its position once; commits are slow, so that there are some."""
    queue.WALK_RATIO = 1e-9
    queries.create = create_slowly


def _creates(create: Callable[..., Any]) -> Callable[[], None]:
    return lambda: setattr(queries, "create", create)


PLANTED: dict[str, Callable[[], None]] = {
    "answer_before_commit": _creates(answer_before_commit),
    "ignore_keys": _creates(ignore_keys),
    "keep_keys_apart": _creates(keep_keys_apart),
    "keep_consumption_keys_apart": lambda: setattr(queries, "dequeue", keep_consumption_keys_apart),
    "say_that_all_is_well": say_that_all_is_well,
    "lock_nothing": lock_nothing,
    "lock_and_guard_nothing": lock_and_guard_nothing,
    "take_no_turns": take_no_turns,
    "walk_once": walk_once,
}


def main(fault: str) -> None:
    """Serves with this fault."""
    PLANTED[fault]()
    sys.argv[1:] = ["serve"]
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1])
