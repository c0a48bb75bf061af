"""Makes the rules of the objectives: `python slos.py` writes payments/monitoring/rules/slos.yaml.

All numbers are in payments/monitoring/slos.toml. A test holds the file to this one.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parent / "payments" / "monitoring"
TABLE: dict[str, Any] = tomllib.loads((MONITORING / "slos.toml").read_text())
FILE = MONITORING / "rules" / "slos.yaml"

HEAD = "# Made from ../slos.toml by `make slos`; what the names mean is in docs/observability.md.\n"
# The chart puts its own namespace, and these two of its values, in their places.
NAMESPACE = 'namespace="payments"'
REPOSITORY = "https://github.com/xpto/payments"
GRAFANA = "http://localhost:3000"

SLOS = ("availability", "latency")
DURATION = "http_server_request_duration_seconds"
SECONDS = {"m": 60, "h": 3600, "d": 86400}

Rule = dict[str, Any]


def seconds(window: str) -> int:
    """Returns how long a window such as `5m` is."""
    return int(window[:-1]) * SECONDS[window[-1]]


def rate(table: dict[str, Any], slo: str, window: str) -> tuple[str, str]:
    """Returns what asks the service's own metrics for an objective's requests and its failures."""
    routes = [*table["not_counted"], *table[slo].get("not_counted", ())]
    pattern = "|".join(re.sub(r"\{\w+\}", ".+", route) for route in routes)
    clients = f'{NAMESPACE}, job="payments", http_route!~"{pattern}"'

    def sum_of(series: str, selector: str) -> str:
        return f"sum by (namespace) (rate({DURATION}_{series}{{{clients}{selector}}}[{window}]))"

    if slo == "availability":
        requests = sum_of("count", "")
        failures = sum_of("count", ', http_response_status_code=~"5.."')
        # Before the first failure there is no series of failures; an average needs its zeros.
        return requests, f"{failures}\n  or 0 * {requests}"
    answered = ', http_response_status_code!~"5.."'
    requests = sum_of("count", answered)
    in_time = sum_of("bucket", f'{answered}, le="{table[slo]["seconds"]}"')
    return requests, f"{requests}\n  - {in_time}"


def recordings(table: dict[str, Any], slo: str) -> list[Rule]:
    """Returns the rules that say how many requests fail, and how fast that burns the budget."""
    budget = f"{1 - table[slo]['objective']:.6g}"

    def record(name: str, expr: str) -> Rule:
        return {"record": f"payments:slo_{name}", "expr": expr, "labels": {"slo": slo}}

    def recorded(name: str) -> str:
        return f'payments:slo_{name}{{{NAMESPACE}, slo="{slo}"}}'

    found = []
    windows = {row[length] for row in table["burn"] for length in ("long", "short")}
    for window in sorted({*windows, f"{table['days']}d"}, key=seconds):
        # Whatever is longer than an hour need not be seen within minutes, and costs little if it is
        # averaged from what was recorded; it also outlives the pods.
        if seconds(window) <= SECONDS["h"]:
            requests, failures = rate(table, slo, window)
        else:
            requests, failures = (
                f"avg_over_time({recorded(f'{name}:rate5m')}[{window}])"
                for name in ("requests", "failures")
            )
        burn = " / ".join(recorded(f"{name}:rate{window}") for name in ("failures", "requests"))
        found += [
            record(f"requests:rate{window}", requests),
            record(f"failures:rate{window}", failures),
            # Rounded, so that just what may fail is 1, whatever the arithmetic makes of it.
            record(f"burn:rate{window}", f"round({burn} / {budget}, 0.001)"),
        ]
    return found


def alerts(table: dict[str, Any], slo: str) -> list[Rule]:
    """Returns an alert for each rate of burning."""
    of, days = table[slo], table["days"]
    selector = f'{NAMESPACE}, slo="{slo}"'
    promise = f"{100 * of['objective']:g} % {of['meaning']}"
    return [
        {
            "alert": of["alert"],
            "expr": (
                f"payments:slo_burn:rate{row['long']}{{{selector}}} > {row['rate']}\n"
                f"and payments:slo_burn:rate{row['short']}{{{selector}}} > {row['rate']}\n"
                f"and payments:slo_failures:rate{row['short']}{{{selector}}}"
                f" * {seconds(row['short'])} >= {table['failures_at_least']}"
            ),
            "labels": {"severity": row["severity"], "window": row["long"]},
            "annotations": {
                "summary": f"The {slo} of {{{{ $labels.namespace }}}} burns its budget",
                "description": (
                    f"In the last {row['long']} the budget of {days} days burned"
                    " {{ $value | humanize }} times as fast as it may, and still does in the last"
                    f" {row['short']}. Promised: {promise}."
                ),
                "runbook_url": f"{REPOSITORY}/blob/main/docs/runbooks/{of['alert']}.md",
                "dashboard": f"{GRAFANA}/d/payments-overview",
            },
        }
        for row in table["burn"]
    ]


def rules(table: dict[str, Any]) -> Rule:
    """Returns the content of the file."""
    groups = [
        {"name": f"payments-{slo}", "rules": [*recordings(table, slo), *alerts(table, slo)]}
        for slo in SLOS
    ]
    return {"groups": groups}


class _Dumper(yaml.SafeDumper):
    """Writes expressions of several lines as such."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def text(table: dict[str, Any]) -> str:
    """Returns the text of the file."""
    return HEAD + yaml.dump(rules(table), Dumper=_Dumper, sort_keys=False, width=1000)


if __name__ == "__main__":
    FILE.write_text(text(TABLE))
