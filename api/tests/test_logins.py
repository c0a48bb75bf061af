"""Logins that are named after the environment, made by an administrator that is no superuser."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from laptop.postgres import Cluster
from tests.conftest import Database, client, fast_directory, serve, settings_for
from tests.test_cli import invoke_on
from tests.test_migrate import FILES

pytestmark = pytest.mark.direct  # the pooler is before another server

# As on RDS: the administrator makes roles and databases, and may grant rds_iam.
ADMINISTRATOR = """
CREATE ROLE rds_iam;
CREATE ROLE payments_admin LOGIN CREATEROLE CREATEDB;
GRANT rds_iam TO payments_admin WITH ADMIN TRUE, INHERIT FALSE, SET FALSE
"""

SIGN_IN_WITH_IAM = """
SELECT member::regrole::text FROM pg_auth_members
WHERE roleid = 'rds_iam'::regrole AND NOT admin_option
"""

SCOPES = ("--scope", "payments:read", "--scope", "payments:write", "--scope", "payments:delete")


@pytest.fixture
def rds() -> Iterator[Database]:
    """An empty database on a server of its own, where the roles are nobody else's."""
    with (
        tempfile.TemporaryDirectory(dir=fast_directory()) as directory,
        Cluster(Path(directory) / "data") as cluster,
    ):
        asyncio.run(_prepare(cluster))
        yield Database(cluster, "payments")


async def _prepare(cluster: Cluster) -> None:
    superuser = await asyncpg.connect(cluster.url())
    await superuser.execute(ADMINISTRATOR)
    await superuser.execute("CREATE DATABASE payments OWNER payments_admin")
    await superuser.close()


async def succeed(database: Database, *arguments: str, user: str) -> str:
    """Runs a command, and returns its output."""
    result = await invoke_on(database, *arguments, user=user)
    assert (result.status, result.error) == (0, "")
    return result.output


async def test_all_works_under_the_logins(rds: Database) -> None:
    app, migrator = "payments_app_dev", "payments_migrator_dev"
    for _ in range(2):
        await succeed(rds, "roles", "--environment", "dev", user="payments_admin")
    applied = await succeed(rds, "migrate", user=migrator)
    assert applied.splitlines() == [f"{name} applied" for name in FILES]
    key = (await succeed(rds, "keys", "create", "shop", *SCOPES, user=migrator)).strip()
    async with (
        serve(settings_for(rds, database_url=rds.url(app))) as url,
        client(url, key) as api,
    ):
        assert (await api.send("GET", "/readyz")).status_code == 200
        path = f"/v1/payments/{(await api.payment())['id']}"
        assert (await api.send("PATCH", path, '{"status": "consumed"}')).status_code == 200
        assert (await api.send("DELETE", path)).status_code == 204
    for user in (app, migrator):
        assert "1 payments audited." in await succeed(rds, "audit", user=user)
    await rds.fetch("ALTER TABLE payments DISABLE TRIGGER USER")
    await rds.fetch("UPDATE payments SET created_at = '2000-01-01', deleted_at = '2000-01-02'")
    assert await succeed(rds, "purge", user=migrator) == "1 payments removed.\n"


async def test_those_who_log_in_sign_in_with_iam_and_no_other(rds: Database) -> None:
    for options, logins in (
        ([], {"payments_app", "payments_migrator"}),
        (["--environment", "dev"], {"payments_app_dev", "payments_migrator_dev"}),
        (["--environment", "dev"], {"payments_app_dev", "payments_migrator_dev"}),
    ):
        await succeed(rds, "roles", *options, user="payments_admin")
        assert {row["member"] for row in await rds.fetch(SIGN_IN_WITH_IAM)} == logins
