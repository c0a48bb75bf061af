"""docs/integrating.md: its tables say what the code says, and its worker loses nothing."""

import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from payments import errors, lists, models
from payments.config import Settings

from tests.pages import ROOT, page

PAGE = page("docs/integrating.md")
CONTRACT = yaml.safe_load((ROOT / "api" / "openapi.yaml").read_text())

PATIENCE_SECONDS = 60


def test_money_is_read_as_the_contract_says() -> None:
    """test_openapi.py compares the contract with programs that run."""
    rows = PAGE.table("<!-- money -->\n")
    assert len(rows) > 3
    for language, how in rows:
        assert f"| {language} | {how} |" in CONTRACT["info"]["description"]


def test_problems() -> None:
    wanted: dict[int, list[str]] = {}
    for problem in _problems(errors.Problem):
        wanted.setdefault(problem.status, []).append(problem.type.removeprefix("/problems/"))
    found = {
        int(status): types.strip("`").split("`, `")
        for status, types, _ in PAGE.table("<!-- problems -->\n")
        if status != "no response"
    }
    assert found == {status: sorted(types) for status, types in wanted.items()}
    assert [*found] == sorted(found)


def _problems(parent: type[errors.Problem]) -> Iterator[type[errors.Problem]]:
    for child in parent.__subclasses__():
        if "type" in vars(child):
            yield child
        yield from _problems(child)


def test_limits() -> None:
    settings = Settings(database_url="")
    kib = 1024
    few = f"Fewer when their data passes {settings.page_limit_bytes // kib**2} MiB"
    wanted = [
        ["`payment`", f"0.00 to {models.MOST}"],
        [
            "levels of `data`; characters of a number in it",
            f"{models.DATA_DEPTH}; {models.NUMBER_CHARACTERS}",
        ],
        ["body", f"{settings.body_limit_bytes // kib} KiB"],
        [
            "request line and headers",
            f"{settings.header_limit_bytes // kib} KiB, {settings.header_limit_fields} fields",
        ],
        ["`Idempotency-Key`", f"1 to {models.IDEMPOTENCY_KEY_LENGTH} printable ASCII characters"],
        [
            "payments of a page; of a consumption",
            f"{lists.LIMIT}; {models.CONSUMPTION_LIMIT}. {few}",
        ],
        [
            "time to send the headers; the body",
            f"{settings.header_timeout_seconds:g} s; {settings.body_timeout_seconds:g} s",
        ],
        [
            "time until the response",
            f"{settings.request_timeout_seconds:g} s. Wait longer than this",
        ],
        ["idle connection", f"{settings.keep_alive_seconds:g} s"],
        [
            "requests of all clients at a time, for each process",
            f"{settings.active_requests_limit}",
        ],
    ]
    assert PAGE.table("<!-- limits -->\n") == wanted


class Client:
    """Sends requests to the service that `make run` runs."""

    def __init__(self, port: str, directory: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.key = (directory / ".data" / "api-key").read_text().strip()

    def send(self, path: str, body: str | None = None) -> tuple[str, dict[str, str]]:
        """Returns the body and the headers of an answer, whose names are in small letters."""
        request = urllib.request.Request(  # noqa: S310
            f"{self.url}{path}",
            None if body is None else body.encode(),
            {
                "Authorization": f"Bearer {self.key}",
                "Content-Type": "application/json",
                "Origin": "https://shop.example",
            },
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return answer.read().decode(), headers

    def create(self, data: str) -> str:
        """Creates a payment; returns the answer."""
        body, headers = self.send("/v1/payments", f'{{"payment": "1.10", "data": {data}}}')
        # No CORS on purpose.
        assert not [name for name in headers if name.startswith("access-control-")]
        return body


def test_data_comes_back_as_the_page_says(laptop: dict[str, str], tmp_path: Path) -> None:
    client = Client(laptop["8000"], tmp_path)
    rows = PAGE.table("<!-- data -->\n")
    assert len(rows) > 1
    for sent, received in rows:
        assert f'"data":{received.strip("`")},' in client.create(sent.strip("`"))


@contextmanager
def losing_every_second_answer(port: str) -> Iterator[tuple[str, list[bytes]]]:
    """Stands before a service; gives its own address, and the answers that it lost."""
    lost: list[bytes] = []
    calls: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", int(port))) as service:
                pump = threading.Thread(target=self._send_to, args=[service])
                pump.start()
                answer = b""
                while piece := service.recv(65536):
                    answer += piece
            calls.append(answer)
            if len(calls) % 2:
                lost.append(answer)
            else:
                self.request.sendall(answer)
            self.request.shutdown(socket.SHUT_RDWR)
            pump.join()

        def _send_to(self, service: socket.socket) -> None:
            while piece := self.request.recv(65536):
                service.sendall(piece)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", lost
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def worker(script: Path, variables: dict[str, str]) -> Iterator[Callable[[], str]]:
    """Runs the page's worker until it is killed; gives what has it process a payment."""
    command = [sys.executable, str(script)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=variables, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def work() -> str:
            stdin.write("\n")
            stdin.flush()
            return stdout.readline().strip()

        patience = threading.Timer(PATIENCE_SECONDS, process.kill)
        patience.start()
        try:
            yield work
        finally:
            patience.cancel()
            process.kill()


def test_the_worker_loses_nothing(laptop: dict[str, str], tmp_path: Path) -> None:
    client = Client(laptop["8000"], tmp_path)
    made = [json.loads(client.create("{}"))["id"] for _ in range(12)]
    lines = [f"{id} 1.10" for id in made]
    [code] = [fence.text for fence in PAGE.fences("python")]
    work = "    print(payment"
    assert work in code
    script = tmp_path / "worker.py"
    script.write_text(code.replace(work, f"    input()\n{work}"))  # one payment at a time
    with losing_every_second_answer(laptop["8000"]) as (address, lost):
        variables = {"API": address, "KEY": client.key, "KEY_FILE": str(tmp_path / "key")}
        with worker(script, variables) as process:
            assert [process() for _ in range(3)] == lines[:3]
        # It was killed at work, and begins with the same payments.
        with worker(script, variables) as process:
            assert [process() for _ in lines] == lines
            # It is done with the last one when it asks for more.
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not lost[-1].endswith(b'{"items":[]}'):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    # Of both of its calls that returned payments the first answer was lost.
    taken = [json.loads(answer.partition(b"\r\n\r\n")[2])["items"] for answer in lost]
    assert [len(items) for items in taken[:3]] == [10, 10, 2]
    consumed = json.loads(client.send("/v1/payments?status=consumed")[0])["items"]
    assert [payment["id"] for payment in consumed] == made
