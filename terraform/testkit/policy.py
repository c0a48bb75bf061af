"""IAM policy documents, as the provider's data source aws_iam_policy_document writes them."""

import json
from typing import Any

_FIELDS = {
    "sid": "Sid",
    "actions": "Action",
    "not_actions": "NotAction",
    "resources": "Resource",
    "not_resources": "NotResource",
}
_PRINCIPALS = {"principals": "Principal", "not_principals": "NotPrincipal"}


def render(config: dict[str, Any]) -> str:
    """Returns the JSON of a document whose values are all known."""
    statements = [
        statement
        for source in config["source_policy_documents"] or []
        for statement in json.loads(source)["Statement"]
    ]
    statements += [_statement(block) for block in config["statement"]]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _statement(block: dict[str, Any]) -> dict[str, Any]:
    statement: dict[str, Any] = {"Effect": block["effect"] or "Allow"}
    for name, field in _FIELDS.items():
        if block[name]:
            statement[field] = _one_or_many(block[name])
    for name, field in _PRINCIPALS.items():
        if block[name]:
            statement[field] = {p["type"]: _one_or_many(p["identifiers"]) for p in block[name]}
    for condition in block["condition"]:
        values = _one_or_many(condition["values"])
        tests = statement.setdefault("Condition", {})
        tests.setdefault(condition["test"], {})[condition["variable"]] = values
    return statement


def _one_or_many(value: str | list[str]) -> str | list[str]:
    if isinstance(value, str):
        return value
    return value[0] if len(value) == 1 else sorted(value)
