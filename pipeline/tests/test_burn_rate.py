"""When a release is taken back because requests fail."""

import subprocess
import sys

import pytest

from pipeline.burn_rate import Counts, added, burns, counts, restarted
from pipeline.release import ROOT

COUNT = "http_server_request_duration_seconds_count"
METRICS = "\n".join(
    [
        "# TYPE http_server_request_duration_seconds histogram",
        *(
            f'{COUNT}{{http_request_method="{method}",http_route="{route}",'
            f'http_response_status_code="{status}"}} {value}'
            for method, route, status, value in (
                ("POST", "/v1/payments", 201, 90.0),
                ("POST", "/v1/payments", 503, 6.0),
                ("GET", "/v1/payments/{id}", 404, 4.0),
                ("GET", "/readyz", 503, 50.0),
                ("GET", "/livez", 200, 500.0),
            )
        ),
        "other_count 7.0",
    ]
)


def test_requests_of_clients_are_counted_and_probes_are_not() -> None:
    assert counts(METRICS) == Counts(100, 6)
    assert counts("") == Counts(0, 0)


@pytest.mark.parametrize(
    ("all_", "failed", "expected"),
    [(0, 0, False), (10, 4, False), (10, 5, True), (1000, 7, False), (1000, 8, True),
     (100_000, 719, False), (100_000, 721, True)],
)  # fmt: skip
def test_what_burns_the_budget(all_: int, failed: int, expected: bool) -> None:
    assert burns(Counts(all_, failed)) is expected


def test_pods_that_come_go_and_begin_anew() -> None:
    before = {"stays": Counts(100, 1), "goes": Counts(50, 0), "restarts": Counts(80, 8)}
    after = {"stays": Counts(160, 2), "restarts": Counts(5, 1), "comes": Counts(10, 0)}
    assert added(before, after) == Counts(60 + 5 + 10, 1 + 1 + 0)


def test_a_restart_is_a_failure() -> None:
    assert restarted({"a": 0, "b": 2}) == ["b was restarted 2 times"]
    assert restarted({}) == []


def test_it_reads_what_the_service_says() -> None:
    """The names of metrics and labels are those of the service, not of this test."""
    code = (
        "from payments import telemetry as t\n"
        "t.observe('POST', '/v1/payments', 201, 0.1, 'shop')\n"
        "t.observe('POST', '/v1/payments', 503, 0.1, 'shop')\n"
        "t.observe('GET', '/readyz', 200, 0.1, None)\n"
        "from prometheus_client import generate_latest\n"
        "print(generate_latest().decode())\n"
    )
    quiet = "import asyncio\nasync def main():\n" + "".join(
        f"    {line}\n" for line in code.splitlines()
    )
    result = subprocess.run(
        [sys.executable, "-c", f"{quiet}asyncio.run(main())"],
        cwd=ROOT / "api",
        check=True,
        capture_output=True,
        text=True,
    )
    assert counts(result.stdout) == Counts(2, 1)
