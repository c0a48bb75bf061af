"""Makes the dashboards: `python dashboards.py` writes payments/monitoring/dashboards/*.json.

A panel is a title, a unit, a sentence and its queries by legend; what Grafana wants besides is said
once, at the end. The files are what the chart installs; a test holds them to this one.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

DIRECTORY = Path(__file__).parent / "payments" / "monitoring" / "dashboards"

API = 'job="payments", namespace=~"$namespace"'
AUDIT = 'job="payments-audit", namespace=~"$namespace"'
# The service's objects as the kubelet and kube-state-metrics name them.
DEPLOYMENT = 'namespace=~"$namespace", deployment="payments"'
SCALER = 'namespace=~"$namespace", horizontalpodautoscaler="payments"'
PODS = 'namespace=~"$namespace", pod=~"payments-.+"'
CONTAINERS = f'{PODS}, container="api"'

DURATION = "http_server_request_duration_seconds"
# What clients ask for; the probes of the cluster are no traffic.
CALLS = f'{API}, http_route!~"/livez|/readyz"'
FAILED = f'{CALLS}, http_response_status_code=~"5.."'
SLOS: dict[str, Any] = tomllib.loads((DIRECTORY.parent / "slos.toml").read_text())
FIRING = 'alertstate="firing", alertname=~"Payments.+", namespace=~"$namespace"'
SEVERITIES = ("page", "ticket")


class Panel(NamedTuple):
    """A picture: what it shows, in a unit of Grafana's, and its queries by legend."""

    title: str
    unit: str
    description: str
    queries: Mapping[str, str]
    type: str = "timeseries"
    # A single number is green from here on, or up to here, and otherwise red.
    at_least: float | None = None
    at_most: float | None = None


def rate(metric: str, selector: str, by: str = "") -> str:
    """Returns the increase of a counter a second, of all pods together."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{selector}}}[$__rate_interval]))"


def quantile(part: float, metric: str, selector: str, by: str = "") -> str:
    """Returns what this part of a histogram's observations is below."""
    buckets = rate(f"{metric}_bucket", selector, f"le, {by}" if by else "le")
    return f"histogram_quantile({part}, {buckets})"


def mean(metric: str, selector: str, by: str) -> str:
    """Returns the mean of a histogram's observations."""
    return f"{rate(f'{metric}_sum', selector, by)} / {rate(f'{metric}_count', selector, by)}"


def objective(slo: str, name: str, window: str = "30d") -> str:
    """Returns what rules/slos.yaml records of an objective."""
    return f'payments:slo_{name}:rate{window}{{namespace=~"$namespace", slo="{slo}"}}'


def kept(slo: str) -> dict[str, str]:
    """Returns the part of 30 days' requests that an objective is kept for."""
    return {"{{namespace}}": f"1 - {objective(slo, 'failures')} / {objective(slo, 'requests')}"}


def budget(slo: str) -> dict[str, str]:
    """Returns the part of what may fail in 30 days that has not."""
    return {"{{namespace}}": f"1 - {objective(slo, 'burn')}"}


def burns(slo: str) -> dict[str, str]:
    """Returns how fast the budget is used up, in the two windows that page first."""
    return {window: objective(slo, "burn", window) for window in ("1h", "6h")}


FAILED_NOW = (
    f"({rate(f'{DURATION}_count', FAILED, 'http_route')}"
    f" or 0 * {rate(f'{DURATION}_count', CALLS, 'http_route')})"
    f" / {rate(f'{DURATION}_count', CALLS, 'http_route')}"
)

OVERVIEW = (
    Panel(
        "Availability, 30 days",
        "percentunit",
        "Part of the requests that were not answered with a 5xx. The objective is 99.95%.",
        kept("availability"),
        "stat",
        at_least=SLOS["availability"]["objective"],
    ),
    Panel(
        "Error budget left",
        "percentunit",
        "Of the 0.05% of requests in 30 days that may fail, the part that is not used up.",
        budget("availability"),
        "stat",
        at_least=0,
    ),
    Panel(
        "Answered in 250 ms, 30 days",
        "percentunit",
        "Part of the requests that took no longer. The objective is 99%.",
        kept("latency"),
        "stat",
        at_least=SLOS["latency"]["objective"],
    ),
    Panel(
        "Latency budget left",
        "percentunit",
        "Of the 1% of requests in 30 days that may take longer, the part that is not used up.",
        budget("latency"),
        "stat",
        at_least=0,
    ),
    Panel(
        "Burn rate: availability",
        "short",
        "At 1 the budget lasts 30 days; above 14.4 for an hour, or 6 for six, somebody is paged.",
        burns("availability"),
    ),
    Panel(
        "Burn rate: latency",
        "short",
        "The same for requests that take longer than 250 ms.",
        burns("latency"),
    ),
    Panel(
        "Requests by route",
        "reqps",
        "Answers a second; probes are left out.",
        {"{{http_route}}": rate(f"{DURATION}_count", CALLS, "http_route")},
    ),
    Panel(
        "Failures by route",
        "percentunit",
        "Part of the requests that were answered with a 5xx.",
        {"{{http_route}}": FAILED_NOW},
    ),
    Panel(
        "Latency by route, p99",
        "s",
        "99% of requests take no longer than this.",
        {"{{http_route}}": quantile(0.99, DURATION, CALLS, "http_route")},
    ),
    Panel(
        "Latency",
        "s",
        "Half, 95% and 99% of requests take no longer than this; dots are traces of single ones.",
        {
            "p50": quantile(0.5, DURATION, CALLS),
            "p95": quantile(0.95, DURATION, CALLS),
            "p99": quantile(0.99, DURATION, CALLS),
        },
    ),
    Panel(
        "Requests by status",
        "reqps",
        "Answers a second.",
        {
            "{{http_response_status_code}}": rate(
                f"{DURATION}_count", CALLS, "http_response_status_code"
            )
        },
    ),
    Panel(
        "Refusals by reason",
        "reqps",
        "Requests a second that were refused, by the type of the problem that the answer names.",
        {"{{reason}}": rate("payments_refusals_total", API, "reason")},
    ),
    Panel(
        "Requests being answered",
        "short",
        "At this moment, by pod; a pod refuses what is above its limit.",
        {"{{instance}}": f"http_server_active_requests{{{API}}}"},
    ),
    Panel(
        "Alerts",
        "short",
        "How many alerts fire, by severity.",
        {
            severity: f'count(ALERTS{{{FIRING}, severity="{severity}"}}) or vector(0)'
            for severity in SEVERITIES
        },
    ),
)

DATABASE = (
    Panel(
        "Statements by name",
        "ops",
        "Statements a second; one statement carries a whole batch.",
        {
            "{{db_operation_name}}": rate(
                "db_client_operation_duration_seconds_count", API, "db_operation_name"
            )
        },
    ),
    Panel(
        "Statements by name, p99",
        "s",
        "99% of statements take no longer than this, as the service sees it.",
        {
            "{{db_operation_name}}": quantile(
                0.99, "db_client_operation_duration_seconds", API, "db_operation_name"
            )
        },
    ),
    Panel(
        "Connections of the pool",
        "short",
        "Of all pods: in use, idle, and the most that the pools may open.",
        {
            "{{db_client_connection_state}}": (
                f"sum by (db_client_connection_state) (db_client_connection_count{{{API}}})"
            ),
            "most": f"sum(db_client_connection_max{{{API}}})",
        },
    ),
    Panel(
        "Waiting for a connection",
        "short",
        "Calls that wait for the pool at this moment, by pod.",
        {"{{instance}}": f"db_client_connection_pending_requests{{{API}}}"},
    ),
    Panel(
        "Wait for a connection",
        "s",
        "Half and 99% of calls get a connection in this time.",
        {
            "p50": quantile(0.5, "db_client_connection_wait_time_seconds", API),
            "p99": quantile(0.99, "db_client_connection_wait_time_seconds", API),
        },
    ),
    Panel(
        "Connections not got in time",
        "ops",
        "Calls a second that gave up waiting, by pod.",
        {"{{instance}}": rate("db_client_connection_timeouts_total", API, "instance")},
    ),
    Panel(
        "Batch size",
        "short",
        "Calls that share a statement, on average; more under load, 128 at the most.",
        {"{{operation}}": mean("payments_batch_size", API, "operation")},
    ),
    Panel(
        "Wait for a batch, p99",
        "s",
        "99% of calls wait no longer than this for the statement before theirs to end.",
        {"{{operation}}": quantile(0.99, "payments_batch_queue_wait_seconds", API, "operation")},
    ),
    Panel(
        "Connections of the database",
        "short",
        "Of all pods, commands and people together, and the most that PostgreSQL takes.",
        {
            "{{namespace}} used": f"payments_database_connections{{{AUDIT}}}",
            "{{namespace}} most": f"payments_database_connections_max{{{AUDIT}}}",
        },
    ),
    Panel(
        "Oldest transaction",
        "s",
        "While one is open, VACUUM can remove no row that died since it began.",
        {"{{namespace}}": f"payments_database_oldest_transaction_seconds{{{AUDIT}}}"},
    ),
    Panel(
        "Size of the database",
        "bytes",
        "On disk, with indexes and dead rows.",
        {"{{namespace}}": f"payments_database_size_bytes{{{AUDIT}}}"},
    ),
    Panel(
        "Dead rows",
        "short",
        "Rows of the payments table that VACUUM has not removed yet.",
        {"{{namespace}}": f"payments_database_dead_rows{{{AUDIT}}}"},
    ),
    Panel(
        "Write-ahead log",
        "Bps",
        "Bytes a second; every write of the database passes through it.",
        {"": rate("payments_database_wal_bytes_total", AUDIT)},
    ),
)

KUBERNETES = (
    Panel(
        "Pods",
        "short",
        "Asked for, ready, and the most that the autoscaler may ask for.",
        {
            "asked for": f"kube_deployment_spec_replicas{{{DEPLOYMENT}}}",
            "ready": f"kube_deployment_status_replicas_ready{{{DEPLOYMENT}}}",
            "most": f"kube_horizontalpodautoscaler_spec_max_replicas{{{SCALER}}}",
        },
    ),
    Panel(
        "Versions",
        "short",
        "Pods by the version that they run; two of them at one time is a release under way.",
        {"{{version}}": f"count by (version, revision) (payments_build_info{{{API}}})"},
    ),
    Panel(
        "CPU by pod",
        "percentunit",
        "Cores in use, as a part of what the pod asked for; the autoscaler looks at this.",
        {
            "{{pod}}": (
                f"{rate('container_cpu_usage_seconds_total', CONTAINERS, 'pod')} / sum by (pod)"
                f' (kube_pod_container_resource_requests{{{CONTAINERS}, resource="cpu"}})'
            )
        },
    ),
    Panel(
        "Time without a CPU",
        "percentunit",
        "Part of the time in which a thread of the pod could run and found no core free.",
        {"{{pod}}": rate("container_pressure_cpu_waiting_seconds_total", CONTAINERS, "pod")},
    ),
    Panel(
        "Memory by pod",
        "percentunit",
        "Working set, as a part of the limit at which the kernel ends the process.",
        {
            "{{pod}}": (
                f"sum by (pod) (container_memory_working_set_bytes{{{CONTAINERS}}}) / sum by (pod)"
                f' (kube_pod_container_resource_limits{{{CONTAINERS}, resource="memory"}})'
            )
        },
    ),
    Panel(
        "Restarts",
        "short",
        "Containers that were started again within an hour, by pod.",
        {
            "{{pod}}": (
                f"sum by (pod) (increase(kube_pod_container_status_restarts_total{{{PODS}}}[1h]))"
            )
        },
    ),
    Panel(
        "Open files",
        "percentunit",
        "Descriptors, connections among them, as a part of the limit, by pod.",
        {"{{instance}}": f"process_open_fds{{{API}}} / process_max_fds{{{API}}}"},
    ),
    Panel(
        "Scraped",
        "short",
        "Pods whose metrics Prometheus gets, and those that it should.",
        {"up": f"sum(up{{{API}}})", "known": f"count(up{{{API}}})"},
    ),
)

BUSINESS = (
    Panel(
        "Created, 24 hours",
        "short",
        "Payments made.",
        {"": f"sum(increase(payments_created_total{{{API}}}[24h]))"},
        "stat",
    ),
    Panel(
        "Value created, 24 hours",
        "short",
        "Sum of the payments made, in units of the currency.",
        {"": f"sum(increase(payments_created_value_total{{{API}}}[24h]))"},
        "stat",
    ),
    Panel(
        "Rows that are wrong",
        "short",
        "Payments that break an invariant, such as consumed without a client; 0 is right.",
        {"": f"sum(payments_audit_violations{{{AUDIT}}})"},
        "stat",
        at_most=0,
    ),
    Panel(
        "Since the last audit",
        "s",
        "Time since all invariants were last looked at.",
        {"": f"time() - max(payments_audit_last_success_timestamp_seconds{{{AUDIT}}})"},
        "stat",
        at_most=300,
    ),
    Panel(
        "Payments",
        "ops",
        "Payments a second that were created, consumed and deleted.",
        {
            "created": rate("payments_created_total", API),
            "consumed": rate("payments_consumed_total", API),
            "deleted": rate("payments_deleted_total", API),
        },
    ),
    Panel(
        "Oldest payment that waits",
        "s",
        "Age of the oldest payment that is not consumed; it grows while workers do not keep up.",
        {"{{namespace}}": f"payments_oldest_inserted_seconds{{{AUDIT}}}"},
    ),
    Panel(
        "Value said and stored",
        "short",
        "Units of the currency a second that the service says it took in, and that the rows hold.",
        {
            "said": rate("payments_created_value_total", API),
            "stored": rate("payments_audit_value_created_total", AUDIT),
        },
    ),
    Panel(
        "Payments said and stored, created",
        "ops",
        "What the service says it created, and the rows that came: the two lines are one.",
        {
            "said": rate("payments_created_total", API),
            "stored": rate("payments_audit_rows_created_total", AUDIT),
        },
    ),
    Panel(
        "Payments said and stored, consumed",
        "ops",
        "The same for consumed ones: a payment consumed twice would be said twice, stored once.",
        {
            "said": rate("payments_consumed_total", API),
            "stored": rate("payments_audit_rows_consumed_total", AUDIT),
        },
    ),
    Panel(
        "Wrong rows by invariant",
        "short",
        "Payments that break it, at the last audit.",
        {"{{invariant}}": f"payments_audit_violations{{{AUDIT}}}"},
    ),
    Panel(
        "Idempotent replays",
        "ops",
        "Creations and consumptions a second that were repeated with their key, and did nothing.",
        {"": rate("payments_idempotent_replays_total", API)},
    ),
    Panel(
        "Calls of the old routes",
        "reqps",
        "By route and client: who has to change before the routes end.",
        {
            "{{client}} {{http_route}}": rate(
                "payments_old_route_calls_total", API, "client, http_route"
            )
        },
    ),
)

DASHBOARDS: Mapping[str, tuple[str, Sequence[Panel]]] = {
    "overview": ("Payments: overview", OVERVIEW),
    "database": ("Payments: database and pool", DATABASE),
    "kubernetes": ("Payments: Kubernetes", KUBERNETES),
    "business": ("Payments: business", BUSINESS),
}

WIDTH = 24  # of Grafana's grid
SIZES = {"stat": (6, 4), "timeseries": (12, 8)}  # width and height
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
VARIABLES = [
    {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
    {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": SOURCE,
        "query": 'label_values(up{job="payments"}, namespace)',
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",  # also what has no namespace, as on a laptop
        "current": {"text": "All", "value": "$__all"},
    },
]


def dashboard(name: str) -> dict[str, Any]:
    """Returns a dashboard as Grafana reads it."""
    title, panels = DASHBOARDS[name]
    made = []
    x = y = height = 0
    for number, panel in enumerate(panels, 1):
        width, panel_height = SIZES[panel.type]
        if x + width > WIDTH or (x and panel_height != height):
            x, y = 0, y + height
        height = panel_height
        position = {"x": x, "y": y, "w": width, "h": height}
        made.append({"id": number, "gridPos": position, **_panel(panel)})
        x += width
    return {
        "title": title,
        "uid": f"payments-{name}",
        "tags": ["payments"],
        "timezone": "utc",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        # From each to the others, in the same environment and at the same time.
        "links": [
            {"type": "dashboards", "tags": ["payments"], "includeVars": True, "keepTime": True}
        ],
        "templating": {"list": VARIABLES},
        "panels": made,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.type == "timeseries":
        defaults["min"] = 0
    if panel.at_least is not None:
        defaults["thresholds"] = _steps("red", panel.at_least, "green")
    if panel.at_most is not None:
        # Grafana's steps begin at their value; the smallest that is above it ends the green.
        defaults["thresholds"] = _steps("green", panel.at_most + 1e-9, "red")
    return {
        "type": panel.type,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "expr": expression,
                "legendFormat": legend or panel.title,
                "exemplar": DURATION in expression and panel.type == "timeseries",
            }
            for number, (legend, expression) in enumerate(panel.queries.items())
        ],
    }


def _steps(below: str, value: float, above: str) -> dict[str, Any]:
    steps = [{"color": below, "value": None}, {"color": above, "value": value}]
    return {"mode": "absolute", "steps": steps}


def text(name: str) -> str:
    """Returns the file of a dashboard."""
    return json.dumps(dashboard(name), indent=2) + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        (DIRECTORY / f"{name}.json").write_text(text(name))
