"""Says in words which values a type takes, and what a value is that it does not."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

from msgspec import inspect

from payments.errors import quoted


def values(kind: Any) -> str:
    """Returns which values a type takes: `a whole number from 1 to 1000`."""
    info = inspect.type_info(kind)
    if isinstance(info, inspect.Metadata):
        examples = (info.extra_json_schema or {}).get("examples")
        if examples:
            return f"text such as {examples[0]}"
        info = info.type
    match info:
        case inspect.LiteralType():
            # In their order, which `info` does not keep.
            return either(get_args(get_args(kind)[0] if get_origin(kind) is Annotated else kind))
        case inspect.BoolType():
            return "`true` or `false`"
        case inspect.IntType():
            return f"a whole number {_range(info)}"
        case inspect.FloatType():
            return f"a number {_range(info)}"
    raise NotImplementedError(f"there are no words for the values of {kind}")


def either(choices: Sequence[str]) -> str:
    """Returns the choices as one of them is named: `a`, `b` or `c`."""
    *others, last = (f"`{choice}`" for choice in choices)
    return f"{', '.join(others)} or {last}" if others else last


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.gt is not None:
        return f"above {kind.gt}, at most {kind.le}"
    return f"from {kind.ge} on" if kind.le is None else f"from {kind.ge} to {kind.le}"


def shown(text: str) -> str:
    """Returns a JSON value as a message repeats it: shortened and escaped."""
    match text[0]:
        case "[":
            return "an array"
        case "{":
            return "an object"
        case '"':
            return quoted(json.loads(text))
        case _:
            return quoted(text).replace('"', "")
