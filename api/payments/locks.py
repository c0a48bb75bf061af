"""Locks of the commands that must not run twice at once, held until their connection is closed."""

import asyncpg

# Every role may take an advisory lock, whatever its number. So a lock counts only where its holder
# could be one of our commands: a role that can become the owner. The service's role cannot.
IS_A_COMMANDS = """
SELECT EXISTS (
  SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
  WHERE
    locktype = 'advisory' AND objsubid = 1 AND granted
    AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (classid::bigint << 32) | objid::bigint = $1
    AND pid <> pg_backend_pid()
    AND pg_has_role(usesysid, 'payments_owner', 'SET')
)
"""


async def take(connection: asyncpg.Connection, number: int) -> bool:
    """Takes a lock, or returns False if another command holds it.

    True is also returned where a role that runs no command holds it. Two commands at once are then
    not kept apart: what they write must not rely on this lock alone.
    """
    for _ in range(2):  # who held it may have ended between the two questions
        if await connection.fetchval("SELECT pg_try_advisory_lock($1::bigint)", number):
            return True
        if await connection.fetchval(IS_A_COMMANDS, number):
            return False
    return True
