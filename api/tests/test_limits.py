"""Limits that the database, the OpenAPI document and the code all need are the same everywhere."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from payments import lists, models
from tests.conftest import API_DIRECTORY, Database

SPEC = yaml.safe_load((API_DIRECTORY / "openapi.yaml").read_text())

# By the column that a constraint is about.
COLUMNS = {
    "payment": str(models.MOST),
    "idempotency_key": str(models.IDEMPOTENCY_KEY_LENGTH),
    "consumption_key": str(models.IDEMPOTENCY_KEY_LENGTH),
    "requested": str(models.CONSUMPTION_LIMIT),
}


async def test_the_constraints_of_the_database(database: Database) -> None:
    rows = await database.fetch(
        "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint"
        " WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
    )
    text = " ".join(row["text"] for row in rows)
    limits = set(re.findall(r"\b(\w+)\)? <= \(*([0-9.]+)", text))
    assert limits == set(COLUMNS.items())
    assert f"[a-z0-9._-]{{0,{models.CLIENT_NAME_LENGTH - 1}}}$" in text


async def test_the_columns_of_the_database(database: Database) -> None:
    [row] = await database.fetch(
        "SELECT format_type(atttypid, atttypmod) AS type FROM pg_attribute"
        " WHERE attrelid = 'payments'::regclass AND attname = 'payment'"
    )
    digits = models.MOST.as_tuple().digits
    assert row["type"] == f"numeric({len(digits)},2)"


def _schemas(node: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each schema with the name of the parameter, header or property that it is of."""
    if isinstance(node, list):
        for item in node:
            yield from _schemas(item, name)
    elif isinstance(node, dict):
        yield name, node
        for key, value in node.items():
            inner = node["name"] if key == "schema" and "name" in node else key
            transparent = key in ("oneOf", "anyOf", "allOf", "schema") and inner == key
            yield from _schemas(value, name if transparent else inner)


def _told(keyword: str, *names: str) -> set[Any]:
    return {
        schema[keyword]
        for name, schema in _schemas(SPEC)
        if name in names and isinstance(schema.get(keyword), int | float)
    }


def test_the_document() -> None:
    assert _told("maximum", "limit") == {lists.LIMIT} == {models.CONSUMPTION_LIMIT}
    assert _told("maxItems", "items") == {lists.LIMIT}
    keys = _told("maxLength", "Idempotency-Key", "idempotency_key")
    assert keys == {models.IDEMPOTENCY_KEY_LENGTH}
    assert _told("maxLength", "created_by", "consumed_by") == {models.CLIENT_NAME_LENGTH}


def test_the_highest_payment_in_the_document() -> None:
    text = (API_DIRECTORY / "openapi.yaml").read_text()
    told = re.findall(r"\bmaximum: ([0-9]+\.[0-9]+)|\b0\.00 (?:to|and) ([0-9]+\.[0-9]+)", text)
    assert {maximum or sentence for maximum, sentence in told} == {str(models.MOST)}
