"""`/list` of the old system, asked over HTTP: one answer, or all pages of one."""

import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from payments.legacy.json_list import Page
from payments.legacy.survey import SourceError

# Longer than Heroku's router, which gives up after 30 s, lets a client wait for a byte.
HTTP_TIMEOUT_SECONDS = 60.0

# How many there are in all, and what tells of a next page besides `Link`.
_TOTALS = (
    *("X-Total-Count", "X-Total", "Total-Count", "Total", "X-WP-Total"),
    "X-Pagination-Total-Count",
)
_NEXT_PAGES = ("X-Next-Page", "Next-Page", "X-Has-More", "X-Has-Next")
_PAGES = ("X-Total-Pages", "Total-Pages", "X-WP-TotalPages", "X-Pagination-Page-Count")
_NONE = {"", "0", "1", "false", "null", "none"}
_RANGE_TOTAL = re.compile(r"(?:\S+\s+)?[0-9]+-[0-9]+/([0-9]{1,18})")

# RFC 8288, section 3: a target in angle brackets, then parameters, some of them without a value.
_LINK = re.compile(r'<([^>]*)>((?:[^",]|"(?:[^"\\]|\\.)*")*)')
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^";\s]*)))?')


_ADVICE = {
    401: ": put the value of its Authorization header into IMPORT_AUTHORIZATION",
    403: ": put the value of its Authorization header into IMPORT_AUTHORIZATION",
    404: ": give the whole address, such as https://old.example.com/list",
}


def _reason(error: BaseException | str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS; is it http://?"
    return (isinstance(error, OSError) and error.strerror) or str(error)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: what opens the old system must not be sent to another one."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


class UrlInput:
    """The address of a list."""

    def __init__(self, url: str, *, follow_pages: bool) -> None:
        try:
            parts = urlsplit(url)
        except ValueError:
            raise SourceError("the address is none: check its host") from None
        if parts.password is not None or parts.username is not None:
            raise SourceError(
                "the address must not hold a password, which others on this machine could read:"
                " put the header's value into IMPORT_AUTHORIZATION"
            )
        self.name = public(url)
        self._url = url
        self._follow_pages = follow_pages
        self._total: int | None = None

    def pages(self) -> Iterator[Page]:
        """Asks for it and, if that is allowed, for what its `Link` calls the next one."""
        seen: set[str] = set()
        url: str | None = self._url
        while url:
            if url in seen:
                raise SourceError(f"{self.name}: its pages lead back to {public(url)}")
            seen.add(url)
            answer = self._ask(url)
            try:
                url = self._next(url, answer.headers)
                self._total = _total(answer.headers)
            except BaseException:
                answer.close()
                raise
            yield Page(answer, answer.length)

    def check(self, rows: int) -> None:
        """Refuses fewer rows, or more, than the last answer says there are."""
        if self._total is not None and rows != self._total:
            raise SourceError(
                f"{self.name} says that it has {self._total:,} payments and gave {rows:,}: if it"
                " has pages, give the address of one with all of them, or say --follow-pages"
            )

    def _ask(self, url: str) -> http.client.HTTPResponse:
        try:
            request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - the scheme was looked at
            if authorization := os.environ.get("IMPORT_AUTHORIZATION"):
                request.add_header("Authorization", authorization)
            opener = urllib.request.build_opener(_NoRedirect)
            answer: http.client.HTTPResponse = opener.open(request, timeout=HTTP_TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            to = error.headers.get("Location")
            advice = (
                f" ({public(urljoin(url, to))}): give that address"
                if to
                else _ADVICE.get(error.code, "")
            )
            raise SourceError(f"{self.name} answers {error.code} {error.reason}{advice}") from None
        except urllib.error.URLError as error:
            raise SourceError(f"{self.name}: {_reason(error.reason)}") from None
        except (ValueError, http.client.InvalidURL):  # the message would repeat the header, or all
            raise SourceError(
                f"{self.name} is no address, or IMPORT_AUTHORIZATION no header"
            ) from None
        if "Sunset" in answer.headers:
            answer.close()
            raise SourceError(
                f"{self.name} is the new system's own /list: give the address of the old one"
            )
        if answer.status != 200:
            answer.close()
            raise SourceError(f"{self.name} answers {answer.status} {answer.reason}")
        return answer

    def _next(self, url: str, headers: Message) -> str | None:
        following = _link_to_next(headers)
        if following is None:
            for name in (*_NEXT_PAGES, *_PAGES):
                none = _NONE if name in _PAGES else _NONE - {"1"}
                if headers.get(name, "").strip().lower() not in none:
                    raise SourceError(
                        f"{self.name} is one page of several: it says {name}: {headers[name]}."
                        " Give the address of a list of all"
                    )
            return None
        if not self._follow_pages:
            raise SourceError(
                f'{self.name} is one page of several: it says Link: rel="next". To import all of'
                " them, say --follow-pages"
            )
        try:
            following = urljoin(url, following)
            same_server = urlsplit(following)[:2] == urlsplit(url)[:2]
        except ValueError:
            raise SourceError(f"{self.name}: the address of its next page is none") from None
        if not same_server:
            raise SourceError(
                f"{self.name}: its next page is at {public(following)}, another server, to which"
                " nothing is sent"
            )
        return following


def _link_to_next(headers: Message) -> str | None:
    for value in headers.get_all("Link", []):
        for target, parameters in _LINK.findall(value):
            for name, quoted, plain in _PARAMETER.findall(parameters):
                if name.lower() == "rel" and "next" in (quoted or plain).lower().split():
                    return str(target)
    return None


def _total(headers: Message) -> int | None:
    for name in _TOTALS:
        if (value := headers.get(name, "").strip()).isdecimal() and len(value) <= 18:
            return int(value)
    whole = _RANGE_TOTAL.fullmatch(headers.get("Content-Range", "").strip())
    return int(whole[1]) if whole else None


def public(url: str) -> str:
    """Returns the address without its query and password: either can hold a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the address"
    host = parts.netloc.rpartition("@")[2]
    query = "…" if parts.query else ""
    return urlunsplit((parts.scheme, host, parts.path, query, ""))
