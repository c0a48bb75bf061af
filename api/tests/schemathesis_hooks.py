"""What Schemathesis must know beyond the schemas, to make requests that the service accepts.

Each of these rules is told to callers in words, in openapi.yaml, and no schema can express it.
Requests that are made wrong on purpose stay as they are.
"""

import hashlib
import json
import re
from typing import Any

import schemathesis
from schemathesis import Case, HookContext

ETAG = re.compile(r'"[0-9a-f]+-[0-9a-f]+"')


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Changes a request just before it is sent."""
    # Schemathesis takes X-Request-Id for the id of some resource, fills in the number of one that
    # it has seen, and then cannot send it, because it is no text.
    for name, text in case.headers.items():
        case.headers[name] = str(text)
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if isinstance(case.body, dict) and isinstance(value := case.body.get("payment"), float):
        # A third decimal is refused. `multipleOf: 0.01` would say so, and make many validators
        # refuse right values, because 0.01 is none of binary floating point's numbers.
        case.body = case.body | {"payment": round(value, 2)}
    if "Idempotency-Key" in case.headers:
        # A key belongs to one body.
        body = json.dumps(case.body, sort_keys=True, default=str)
        case.headers["Idempotency-Key"] = hashlib.sha256(
            f"{case.headers['Idempotency-Key']} {body}".encode()
        ).hexdigest()
    if isinstance(case.body, dict) and isinstance(limit := case.body.get("limit"), int | float):
        # JSON Schema takes 2.0 for an integer; the service wants it without a point. A large one
        # would leave no payment for the others.
        case.body = case.body | {"limit": min(int(limit), 2)}
    if "If-Match" in case.headers and not ETAG.fullmatch(case.headers["If-Match"]):
        # Only a link knows an ETag.
        case.headers["If-Match"] = "*"
    if "idempotency_key" in case.query:
        # It names one payment, and no filter goes with it.
        case.query = {"idempotency_key": case.query["idempotency_key"]}
    if isinstance(case.query.get("cursor"), str):
        # A cursor holds a time of creation; one that begins with AA, as all do until 2112.
        case.query["cursor"] = f"AA{case.query['cursor'][2:]}"
