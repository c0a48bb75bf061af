"""A list at an address: whole, or an error that says what is missing."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from payments.legacy import http_list
from payments.legacy.survey import SourceError
from tests.test_sources import read


@contextmanager
def http_server(answer: bytes | Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Answers every request with these bytes, or those of its path; gives address and headers."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(str(self.headers))
            self.wfile.write(answer if isinstance(answer, bytes) else answer[self.path])

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/list", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def whole(body: bytes, length: int | None = None, *headers: str) -> bytes:
    """An answer, with a Content-Length that may be wrong."""
    head = ["HTTP/1.0 200 OK", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*head, *headers, "", ""]).encode() + body


LIST = b'[{"id": 1, "status": "inserted"}, {"id": 2, "status": "consumed"}]'


def test_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_AUTHORIZATION", "Basic c2VjcmV0")
    with http_server(whole(LIST)) as (url, seen):
        assert [old.id for old in read(url)] == [1, 2]
    assert "Authorization: Basic c2VjcmV0" in seen[0]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.0 500 Broken\r\n\r\n[]", "answers 500 Broken"),
        (b"HTTP/1.0 401 No\r\n\r\n[]", "answers 401 No: put .* into IMPORT_AUTHORIZATION"),
        (b"HTTP/1.0 404 No\r\n\r\n", "answers 404 No: give the whole address"),
        (b"HTTP/1.0 200 OK\r\nSunset: x\r\n\r\n[]", "is the new system's own /list"),
        (b"HTTP/1.0 204 Nothing\r\n\r\n", "answers 204"),
        (b"HTTP/1.0 302 There\r\nLocation: http://127.0.0.1:9/x\r\n\r\n", r"answers 302 .*9/x\)"),
        (whole(b"<html>"), "is no JSON array"),
        (whole(b""), "is empty: it has 0 bytes"),
        (whole(LIST[:-1], len(LIST)), "cut off|IncompleteRead"),
        (whole(LIST[:20], len(LIST)), "cut off|IncompleteRead"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + LIST[:-1], "is cut off after 2 whole rows"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n" + LIST[:32] + b"\r\n",
            "IncompleteRead|cut off",
        ),
        (b"nonsense\r\n\r\n", "nonsense"),
        (b"", "Remote end closed|127.0.0.1"),
    ],
)
def test_an_answer_that_is_not_whole(answer: bytes, says: str) -> None:
    with http_server(answer) as (url, _), pytest.raises(SourceError, match=says):
        read(url)


def test_an_address_where_nobody_is() -> None:
    with pytest.raises(SourceError, match="refused"):
        read("http://127.0.0.1:1/list")


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_list, "HTTP_TIMEOUT_SECONDS", 0.1)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(SourceError, match="timed out"):
            read(f"http://127.0.0.1:{port}/list")


def test_no_secret_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="IMPORT_AUTHORIZATION") as refused:
        read("https://user:hunter2@old.example.com/list")
    assert "hunter2" not in str(refused.value)
    monkeypatch.setenv("IMPORT_AUTHORIZATION", "Bearer hunter2\r\nX: y")
    with pytest.raises(SourceError, match="no header") as refused:
        read("http://127.0.0.1:1/list")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("length", ["66, 66", "many", "-1", ""])
def test_a_length_that_is_no_number(length: str) -> None:
    head = f"HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()
    with http_server(head + LIST) as (url, _):
        assert len(read(url)) == 2
    with http_server(head + LIST[:-1]) as (url, _), pytest.raises(SourceError, match="cut off"):
        read(url)


# Lists of several pages


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ('Link: </list?page=2>; rel="next"', 'Link: rel="next".*--follow-pages'),
        ("Link: <?page=2>; rel=next", "--follow-pages"),
        ('Link: </1>; rel="first", </2>; rel="last next"', "--follow-pages"),
        ('Link: </1>; rel="first"\r\nLink: </2>; REL = "Next"', "--follow-pages"),
        ('Link: </2>; crossorigin; title="a, b; rel=prev"; rel="next"', "--follow-pages"),
        ("X-Next-Page: 2", "X-Next-Page: 2"),
        ("X-Has-More: true", "X-Has-More: true"),
        ("X-Total-Pages: 2", "X-Total-Pages: 2"),
        ("X-WP-TotalPages: 7", "X-WP-TotalPages: 7"),
        ("X-WP-Total: 3", "has 3 payments and gave 2"),
        ("X-Total-Count: 300", "has 300 payments and gave 2"),
        ("x-total: 3", "has 3 payments and gave 2"),
        ("Total: 300", "has 300 payments and gave 2"),
        ("Content-Range: payments 0-1/300", "has 300 payments and gave 2"),
        ("Content-Range: 0-1/300", "has 300 payments and gave 2"),
    ],
)
def test_one_page_of_several_is_refused(header: str, says: str) -> None:
    with (
        http_server(whole(LIST, None, header)) as (url, _),
        pytest.raises(SourceError, match=says),
    ):
        read(url)


@pytest.mark.parametrize(
    "header",
    [
        'Link: </list?page=1>; rel="prev", </help>; rel=help; title="; rel=next"',
        "X-Next-Page: ",
        "X-Has-More: false",
        "X-Total-Pages: 1",
        f"X-Total-Count: {'9' * 5000}",
        "X-Total-Count: 2",
        "X-Total-Count: unknown",
        "Content-Range: payments 0-1/2",
        "Content-Range: 0-1/*",
    ],
)
@pytest.mark.parametrize("follow_pages", [False, True])
def test_the_only_page_is_read(header: str, follow_pages: bool) -> None:
    with http_server(whole(LIST, None, header)) as (url, seen):
        assert len(read(url, follow_pages=follow_pages)) == 2
    assert len(seen) == 1


def page(first: int, link: str = "") -> bytes:
    """A page of two payments of six."""
    body = ",".join(f'{{"id": {id}, "status": "inserted"}}' for id in (first, first + 1))
    headers = ["X-Total-Count: 6", f'Link: <{link}>; rel="next"'] if link else []
    return whole(f"[{body}]".encode(), None, *headers)


def test_pages_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_AUTHORIZATION", "Bearer one")
    answers = {"/list": page(1, "?after=2"), "/list?after=2": page(3, "/rest"), "/rest": page(5)}
    with http_server(answers) as (url, seen):
        rows = read(url, follow_pages=True)
        answers["/rest"] = whole(b"[]", None, "X-Total-Count: 6")
        with pytest.raises(SourceError, match="has 6 payments and gave 4"):
            read(url, follow_pages=True)
        answers["/rest"] = b"HTTP/1.0 500 Broken\r\n\r\n"
        with pytest.raises(SourceError, match="answers 500 Broken"):
            read(url, follow_pages=True)
    assert [(old.number, old.id) for old in rows] == [(n, n) for n in range(1, 7)]
    assert all("Bearer one" in headers for headers in seen)


def test_pages_without_an_end() -> None:
    answers = {"/list": page(1, "/list?page=2"), "/list?page=2": page(3, "/list")}
    with http_server(answers) as (url, _):
        with pytest.raises(SourceError, match="lead back to"):
            read(url, follow_pages=True)
        answers["/list?page=2"] = page(1, "/list?page=3")
        with pytest.raises(SourceError, match="two pages begin with the same row"):
            read(url, follow_pages=True)
        empty = [whole(b"[]", None, f"Link: <?page={n}>; rel=next") for n in (2, 3)]
        answers |= {"/list": empty[0], "/list?page=2": empty[1]}
        with pytest.raises(SourceError, match="or have none"):
            read(url, follow_pages=True)


def test_the_next_page_on_another_server_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_AUTHORIZATION", "Bearer one")
    with http_server(page(5)) as (other, seen):
        for scheme in ("http:", ""):
            link = scheme + other.removeprefix("http:")
            with (
                http_server(page(1, link)) as (url, _),
                pytest.raises(SourceError, match="another server"),
            ):
                read(url, follow_pages=True)
    assert seen == []


def test_the_next_page_at_an_address_that_is_none() -> None:
    with (
        http_server(page(1, "http://[bad/")) as (url, _),
        pytest.raises(SourceError, match="the address of its next page is none"),
    ):
        read(url, follow_pages=True)


def test_a_token_in_the_address_is_not_said() -> None:
    secret = "hunter2"
    location = f"Location: /login?token={secret}\r\n"
    link = f'Link: <http://127.0.0.2/list?token={secret}>; rel="next"'
    loop = f'Link: <?token={secret}>; rel="next"'
    answers = [
        f"HTTP/1.0 302 There\r\n{location}\r\n".encode(),
        b"HTTP/1.0 500 Broken\r\n\r\n",
        b"HTTP/1.0 204 Nothing\r\n\r\n",
        b"nonsense\r\n\r\n",
        whole(b"<html>"),
        whole(b""),
        whole(LIST[:9], len(LIST)),
        whole(LIST, None, link),
        whole(LIST, None, loop),
        whole(LIST, None, "X-Total-Count: 3"),
    ]
    for answer in answers:
        with http_server(answer) as (url, _), pytest.raises(SourceError) as refused:
            read(f"{url}?token={secret}", follow_pages=True)
        assert url in str(refused.value)
        assert secret not in str(refused.value)
    for url in (
        "http://[::1/list",
        "http://old:x/list",
        "http://127.0.0.1:1/list",
        "http:// /",
        "ftp://old",
    ):
        with pytest.raises(SourceError) as refused:
            read(f"{url}?token={secret}")
        assert secret not in str(refused.value)


def test_pages_are_of_an_address_only() -> None:
    with pytest.raises(SourceError, match="a file has no pages"):
        read("-", follow_pages=True)
