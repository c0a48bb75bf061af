"""The service with a fault planted in it, to see that the harness finds it.

Run as `python -m tests.faults.doubles FAULT`, in the place of `payments serve`.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import asyncpg

from payments import cli, db, queries
from payments.queries import Created, Creation

if TYPE_CHECKING:
    from payments.queries import Connection

_create = queries.create

COMMIT_SECONDS = 0.1  # how much later than the answer the commit comes

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


PLANTED = {
    "answer_before_commit": answer_before_commit,
    "ignore_keys": ignore_keys,
    "keep_keys_apart": keep_keys_apart,
}


def main(fault: str) -> None:
    """Serves with this fault."""
    if fault == "say_that_all_is_well":
        # Of connections that could lose payments, too.
        queries.READINESS = queries.READINESS.replace("setting = 'off'", "setting = 'nothing'")
        session = db.session
        db.session = lambda settings: session(settings) | {"synchronous_commit": "off"}
    else:
        queries.create = PLANTED[fault]
    sys.argv[1:] = ["serve"]
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1])
