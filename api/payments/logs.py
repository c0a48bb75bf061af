"""The log: JSON, a record or an answered request a line, on standard output."""

import asyncio
import contextvars
import logging
import random
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from payments import tracing
from payments.config import Settings

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")

_access = logging.getLogger("payments.access")


class JsonFormatter(logging.Formatter):
    """A log record as a line of JSON: time, level, logger, message, ids, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        if (trace_id := tracing.trace_id(tracing.current())) is not None:
            line["trace_id"] = trace_id
        line.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _traceback(record.exc_info[1])
        return msgspec.json.encode(line, enc_hook=str).decode()


def _traceback(error: BaseException) -> str:
    """Returns where an exception and its causes come from, and what they are, not what they say.

    PostgreSQL quotes whole rows, and others the value that they failed at: somebody's payment.
    """
    parts = []
    following: BaseException | None = error
    while following is not None:
        frames = "".join(traceback.format_tb(following.__traceback__))
        name = type(following).__name__
        if isinstance(following, asyncpg.PostgresError):
            name += f" (SQLSTATE {following.sqlstate}, constraint {following.constraint_name})"
        parts.append(f"Traceback (most recent call last):\n{frames}{name}")
        hidden = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or hidden
    return "\n\n".join(reversed(parts))


def configure(settings: Settings) -> None:
    """Sends every logger's records to standard output as JSON."""
    Sampling.slow_seconds = settings.log_slow_seconds
    Sampling.ratio = settings.log_sample_ratio
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    logging.captureWarnings(True)


def take_request_id(sent: bytes | None) -> str:
    """Returns the caller's request id if it is short and printable, and a new one otherwise."""
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        current = sent.decode()
    else:
        current = f"{random.getrandbits(128):032x}"
    request_id.set(current)
    return current


class AccessLine(msgspec.Struct):
    """The log line of one answered request.

    Written without `logging`, whose record costs more than all else that a request does here
    (docs/bottlenecks.md); it looks the same, and its logger's level holds for it too.
    """

    time: datetime
    level: str
    request_id: str | None
    method: str
    route: str
    status: int
    duration_ms: float
    client: str | None
    trace_id: str | msgspec.UnsetType
    logger: str = _access.name
    message: str = "request"


class Sampling:
    """Which requests have a line; those that fail always have one."""

    slow_seconds = 0.25
    ratio = 1.0  # of those that are not slow either


def request(
    method: str,
    route: str,
    status: int,
    seconds: float,
    *,
    client: str | None,
    trace_id: str | None,
) -> None:
    """Writes the line of one answered request, if it is to have one."""
    level = _level(status, seconds)
    if level is None or not _access.isEnabledFor(level):
        return
    now, word, milliseconds = datetime.now(UTC), logging.getLevelName(level), seconds * 1000
    line = AccessLine(
        now,
        word,
        request_id.get(),
        method,
        route,
        status,
        round(milliseconds, 3),
        client,
        trace_id or msgspec.UNSET,
    )
    if not _lines:
        # A batch answers many requests in one turn of the event loop: one write for all.
        asyncio.get_running_loop().call_soon(_write_lines)
    _lines.append(msgspec.json.encode(line))


def _level(status: int, seconds: float) -> int | None:
    """Returns how severe it is that a request was answered so, or None: chance left it out."""
    if status >= 500:
        return logging.ERROR
    if seconds >= Sampling.slow_seconds:
        return logging.WARNING
    if Sampling.ratio < 1 and random.random() >= Sampling.ratio:  # noqa: S311 - chance, no secret
        return None
    return logging.INFO


_lines: list[bytes] = []


def _write_lines() -> None:
    text = b"\n".join([*_lines, b""]).decode()
    _lines.clear()
    sys.stdout.write(text)
    sys.stdout.flush()
