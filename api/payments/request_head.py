"""The rules of RFC 9110 and RFC 9112 for a request's head that httptools does not check."""

import re
from functools import lru_cache
from urllib.parse import unquote

from payments.errors import (
    HttpVersionNotSupported,
    MalformedRequest,
    Problem,
    TransferCodingNotImplemented,
)
from payments.messages import Headers

# The fields that the service reads and that are no lists. Sent twice, each part of a system could
# follow another one of the two.
_ONCE = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"host",
        b"idempotency-key",
        b"traceparent",
        b"x-request-id",
    }
)

# RFC 3986, section 3.2: a name, an IPv4 address or an IP literal, and a port.
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f.]*(?::[0-9A-Fa-f.]*){2,}\]|\[v[0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+\]"
    rb"|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)

# httptools accepts RTSP as if it were HTTP and does not tell them apart. A JSON string has no line
# break, so that a body does not look like this request line. Possessive, and at the beginning of a
# line or behind a body: otherwise a long word would be read again from each of its letters.
_RTSP = re.compile(rb"(?:^|(?<=[]}]))[A-Z]++ ++[^ \r\n]++ ++RTSP/[0-9]\.[0-9]\r?\n", re.MULTILINE)

# The second is the beginning of HTTP/2 without an upgrade.
_VERSION_REASONS = {"Invalid HTTP version", "Pause on PRI/Upgrade"}


def check(version: str, fields: Headers) -> dict[bytes, bytes]:
    """Returns the header fields by their names, of repeated ones the last.

    Raises:
        Problem: the HTTP version, or one of the fields that frame a message or say whom it is for.
    """
    if version not in ("1.1", "1.0"):
        raise HttpVersionNotSupported("Send the request in HTTP/1.1.")
    values = dict(fields)
    if len(values) < len(fields):
        _check_repeated(fields)
    host = values.get(b"host")
    if host is None:
        if version == "1.1":
            raise MalformedRequest("The header Host is missing.")
    elif not _is_host(host):
        raise MalformedRequest("The header Host must be a host name or address, and maybe a port.")
    coding = values.get(b"transfer-encoding")
    if coding is not None:
        if version == "1.0":
            raise MalformedRequest("HTTP/1.0 has no Transfer-Encoding: send a Content-Length.")
        if coding.lower() != b"chunked":
            raise _coding()
    return values


def _check_repeated(fields: Headers) -> None:
    seen: set[bytes] = set()
    for name, _ in fields:
        if name in seen and name == b"transfer-encoding":
            raise _coding()
        if name in seen and name in _ONCE:
            raise MalformedRequest(f"The header {name.decode().title()} is sent twice.")
        seen.add(name)


@lru_cache
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def _coding() -> Problem:
    return TransferCodingNotImplemented("The only Transfer-Encoding that is decoded is chunked.")


def is_rtsp(data: bytes) -> bool:
    """Returns whether a request line of RTSP stands in the data."""
    return b"RTSP/" in data and _RTSP.search(data) is not None


def refusal(reason: str, version: str) -> Problem:
    """Returns what is wrong with a request that httptools rejects with this reason."""
    length, coding = ("Content-Length" in reason), ("Transfer-Encoding" in reason)
    if length and coding:
        return MalformedRequest("Send either Transfer-Encoding or Content-Length, not both.")
    if coding:
        return _coding()
    if length:
        return MalformedRequest("The header Content-Length must be one whole number of bytes.")
    if reason in _VERSION_REASONS and not version.startswith("1."):
        return HttpVersionNotSupported("Send the request in HTTP/1.1.")
    return MalformedRequest("This is not a request in HTTP/1.1.")


def path(raw: bytes) -> str:
    """Returns a path decoded, but for `%2F`, which is no separator of segments (RFC 3986, 2.2)."""
    text = raw.decode("ascii")
    if "%" not in text:
        return text
    return unquote(re.sub("%2f", "%252F", text, flags=re.IGNORECASE))
