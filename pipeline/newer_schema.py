"""A pytest plugin for `pipeline/compat`: an earlier version's tests, on the schema of a newer one.

NEWER_MIGRATIONS are the newer version's migrations, EARLIER the earlier version's checkout. What
runs is what the service does with its tables. What its tests ask of HTTP, of connections to
PostgreSQL, of logs and traces is answered alike on any schema, and left out.
"""

import os
from pathlib import Path
from typing import Any

import pytest
from payments import migrate

NEWER = Path(os.environ["NEWER_MIGRATIONS"])

ON_THE_SCHEMA = {"database", "api", "start", "shared", "shared_service"}
NOT_ABOUT_IT = {
    "test_cutover",  # test_import has each of its parts
    "test_db",
    "test_docs_page",
    "test_iam",
    "test_laptop",
    "test_load",
    "test_logs",
    "test_metrics",  # what comes of tables is in test_audit
    "test_migrate",
    "test_pooler",
    "test_schemathesis",
    "test_server",
    "test_tls",
    "test_tracing",
}

# With fewer, something selects the wrong ones.
TESTS_AT_LEAST = 700

original = migrate.migrate


async def migrate_further(url: str, *arguments: Any, **options: Any) -> list[str]:
    """Applies the earlier version's migrations, then the newer one's, as a release does."""
    names = await original(url, *arguments, **options)
    if not options.get("dry_run"):
        names += await original(url, directory=NEWER)
    return names


def pytest_configure(config: pytest.Config) -> None:
    """Puts the newer schema under every database of the tests.

    Raises:
        pytest.UsageError: the tests would not run the earlier version's code.
    """
    earlier = Path(os.environ["EARLIER"])
    if not Path(str(migrate.__file__)).is_relative_to(earlier):
        raise pytest.UsageError(f"payments comes from {migrate.__file__}, not from {earlier}")
    migrate.migrate = migrate_further


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps what uses a database."""
    kept = [
        item
        for item in items
        if ON_THE_SCHEMA & {*getattr(item, "fixturenames", ())}
        and item.path.stem not in NOT_ABOUT_IT
    ]
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if whole and len(kept) < TESTS_AT_LEAST:
        raise pytest.UsageError(f"only {len(kept)} tests would use the schema")
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
