"""The objectives: which rates of failing tell whom, and how soon."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

import slos
from tests.monitoring import promtool

TABLE = slos.TABLE
DURATION = slos.DURATION
RULES = slos.rules(TABLE)["groups"]

# Probes, another program, another environment.
OTHERS = [
    *(("payments", "payments", route) for route in TABLE["not_counted"]),
    ("payments", "other", "/v1/payments"),
    ("other", "payments", "/v1/payments"),
]


class Flow(NamedTuple):
    """Requests between two samples, and those of them that fail, in promtool's notation."""

    good: str
    bad: str


def series(slo: str, flow: Flow, length: int, *, noise: bool = False) -> list[dict[str, str]]:
    """Returns the service's metrics of requests, of which some fail to meet an objective.

    With `noise` there are the metrics of others besides, which all fail and must not count.
    """

    def line(series: str, labels: str, values: str) -> dict[str, str]:
        return {"series": f"{DURATION}_{series}{{{labels}}}", "values": values}

    def of(namespace: str, job: str, route: str, status: int) -> str:
        return (
            f'namespace="{namespace}", job="{job}", http_route="{route}",'
            f' http_response_status_code="{status}"'
        )

    ours = of("payments", "payments", "/v1/payments", 200)
    # In time and not are two routes here, so that their sum need not be worked out.
    late = of("payments", "payments", "/v1/payments/{id}", 200)
    failed = of("payments", "payments", "/v1/payments", 503)
    lines = [line("count", ours, flow.good), line("bucket", f'{ours}, le="0.25"', flow.good)]
    if slo == "availability":
        lines.append(line("count", failed, flow.bad))
        # Fast failures are no good latency.
        lines.append(line("bucket", f'{failed}, le="0.25"', flow.bad))
    else:
        lines.append(line("count", late, flow.bad))
        lines.append(line("bucket", f'{late}, le="0.25"', f"0x{length}"))
        lines.append(line("bucket", f'{late}, le="0.5"', flow.bad))
    if noise:
        others = [of(*other, status) for other in OTHERS for status in (200, 503)]
        own = TABLE[slo].get("not_counted", ())
        for other in (*others, *(of("payments", "payments", route, 200) for route in own)):
            lines.append(line("count", other, f"0+9000x{length}"))
            lines.append(line("bucket", f'{other}, le="0.25"', f"0x{length}"))
    return lines


def firing(slo: str, *windows: str) -> list[dict[str, Any]]:
    """Returns what promtool expects where these of an objective's alerts fire."""
    severities = {row["long"]: row["severity"] for row in TABLE["burn"]}
    return [
        {
            "labels": (
                f'ALERTS{{alertname="{TABLE[slo]["alert"]}", alertstate="firing",'
                f' namespace="payments", severity="{severities[window]}", slo="{slo}",'
                f' window="{window}"}}'
            ),
            "value": 1,
        }
        for window in windows
    ]


def steady(slo: str, requests: float, burn: float, *, noise: bool = False) -> dict[str, Any]:
    """Returns a test at a constant rate of burning, with so many requests a minute."""
    budget = 1 - TABLE[slo]["objective"]
    bad = min(requests, requests * burn * budget)
    fires = tuple(
        row["long"]
        for row in TABLE["burn"]
        if burn > row["rate"]
        and bad / 60 * slos.seconds(row["short"]) >= TABLE["failures_at_least"]
    )
    # With fewer than one failure a minute the counters grow by fractions.
    flow = Flow(f"0+{requests - bad:.8f}x40", f"0+{bad:.8f}x40")
    # What is left of the budget is no alert's, but a picture's.
    month = {"labels": f'{{namespace="payments", slo="{slo}"}}', "value": round(burn, 3)}
    return {
        "interval": "1m",
        "input_series": series(slo, flow, 40, noise=noise),
        "promql_expr_test": [
            {"expr": "ALERTS", "eval_time": "35m", "exp_samples": firing(slo, *fires)},
            {
                "expr": f'payments:slo_burn:rate30d{{slo="{slo}"}} + 0',
                "eval_time": "35m",
                "exp_samples": [month],
            },
        ],
    }


def incident(slo: str) -> dict[str, Any]:
    """Returns a test in which everything fails from minute 60 to minute 70."""
    flow = Flow("0+600x60 36000x9 36000+600x400", "0x60 600+600x9 6000x400")
    all_ = tuple(row["long"] for row in TABLE["burn"])
    fires = {
        "60m": (),
        "70m": all_,
        # The short window no longer has it.
        "80m": all_[1:],
        "95m": all_[1:],
        "105m": all_[2:],
        "180m": all_[2:],
        "205m": all_[3:],
        "420m": all_[3:],
        "445m": (),
    }
    return {
        "interval": "1m",
        "input_series": series(slo, flow, 470),
        "promql_expr_test": [
            {"expr": "ALERTS", "eval_time": time, "exp_samples": firing(slo, *windows)}
            for time, windows in fires.items()
        ],
    }


def cases(slo: str) -> dict[str, Any]:
    """Returns the tests that hold every number of the table.

    Each rate of burning is passed and not reached by less than half, and so is the number of
    failures in each short window, with everything failing.
    """
    burns = (15, 13, 7, 5, 2, 1.4)
    few = [
        failures / slos.seconds(row["short"]) * 60 for row in TABLE["burn"] for failures in (7, 4)
    ]
    return {
        "evaluation_interval": "5m",
        "tests": [
            *(steady(slo, 20000, burn) for burn in burns),
            steady(slo, 20000, 0.8, noise=True),
            *(steady(slo, requests, 1 / (1 - TABLE[slo]["objective"])) for requests in few),
            incident(slo),
        ],
    }


def test_the_table_is_what_was_promised() -> None:
    assert TABLE["days"] == 30
    assert TABLE["availability"]["objective"] == 0.9995
    assert (TABLE["latency"]["objective"], TABLE["latency"]["seconds"]) == (0.99, 0.25)
    assert [(r["rate"], r["long"], r["short"], r["severity"]) for r in TABLE["burn"]] == [
        (14.4, "1h", "5m", "page"),
        (6, "6h", "30m", "page"),
        (3, "1d", "2h", "ticket"),
        (1, "3d", "6h", "ticket"),
    ]


@pytest.mark.parametrize("slo", slos.SLOS)
def test_objective(slo: str, tmp_path: Path) -> None:
    assert not promtool.failures(RULES, cases(slo), tmp_path)


@pytest.mark.parametrize("a_second", [100, 10, 0.2])
def test_a_full_outage_pages_within_two_minutes(a_second: float, tmp_path: Path) -> None:
    step = 15 * a_second
    flow = Flow(f"0+{step}x240 {240 * step}x20", f"_x240 {step}+{step}x20")
    pages = 'count by (namespace) (ALERTS{severity="page", alertstate="firing"} == 1) > bool 0'
    outage = {
        "interval": "15s",
        "input_series": series("availability", flow, 260, noise=True),
        "promql_expr_test": [
            {"expr": pages, "eval_time": "60m", "exp_samples": []},
            {
                "expr": pages,
                "eval_time": "62m",
                "exp_samples": [{"labels": '{namespace="payments"}', "value": 1}],
            },
        ],
    }
    assert not promtool.failures(RULES, {"evaluation_interval": "30s", "tests": [outage]}, tmp_path)


@pytest.mark.parametrize(("slo", "bad"), [("availability", 1), ("latency", 20)])
@pytest.mark.parametrize("times", [1, 7])
def test_what_is_promised_may_fail_and_nobody_hears(
    slo: str, bad: int, times: int, tmp_path: Path
) -> None:
    """Four days at just the rate that uses up the budget."""
    flow = Flow(f"0+{times * (2000 - bad)}x5760", f"0+{times * bad}x5760")
    days = {
        "interval": "1m",
        "input_series": series(slo, flow, 5760, noise=True),
        "promql_expr_test": [
            {"expr": "count_over_time(ALERTS[4d])", "eval_time": "4d", "exp_samples": []}
        ],
    }
    assert not promtool.failures(RULES, {"evaluation_interval": "1h", "tests": [days]}, tmp_path)


def test_the_alerts_say_what_they_saw(tmp_path: Path) -> None:
    rules = slos.alerts(TABLE, "availability")
    expected = [
        {
            "exp_labels": {"namespace": "payments", "slo": "availability", **rule["labels"]},
            "exp_annotations": {
                "summary": "The availability of payments burns its budget",
                "description": (
                    f"In the last {row['long']} the budget of 30 days burned 15 times as fast as it"
                    f" may, and still does in the last {row['short']}. Promised: 99.95 % of the"
                    " requests of clients are answered without a 5xx."
                ),
                "runbook_url": f"{slos.REPOSITORY}/blob/main/docs/runbooks/PaymentsRequestsFail.md",
                "dashboard": f"{slos.GRAFANA}/d/payments-overview",
            },
        }
        for rule, row in zip(rules, TABLE["burn"], strict=True)
    ]
    said = {
        **steady("availability", 20000, 15),
        "promql_expr_test": [],
        "alert_rule_test": [
            {"alertname": "PaymentsRequestsFail", "eval_time": "35m", "exp_alerts": expected}
        ],
    }
    assert not promtool.failures(RULES, {"evaluation_interval": "5m", "tests": [said]}, tmp_path)
