"""The rules as the chart installs them, and what the person called finds: words and runbooks."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import yaml

import slos
from payments import app
from tests.conftest import CHARTS, ENVIRONMENTS, ROOT, Manifest, payments, values_of
from tests.test_terraform import TERRAFORM, setting

FILES = sorted((slos.MONITORING / "rules").glob("*.yaml"))
TEXT = "".join(file.read_text() for file in FILES)
RULES: list[dict[str, Any]] = [
    rule
    for file in FILES
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
NAMES = {rule["alert"] for rule in ALERTS}
METRICS: dict[str, list[str]] = yaml.safe_load((CHARTS / "tests" / "metrics.yaml").read_text())

RUNBOOKS = ROOT / "docs" / "runbooks"
HEADINGS = [
    "What it means",
    "How to see it",
    "What to do first",
    "How to know it is over",
    "Who decides",
]
# What is no alert's.
PROCEDURES = {"cutover"}


def installed(manifests: list[Manifest]) -> list[Manifest]:
    """Returns the rules that a chart gives the operator."""
    return [m["spec"] for m in manifests if m["kind"] == "PrometheusRule"]


def files(**replaced: str) -> list[Manifest]:
    """Returns the files' content with texts in the place of others."""
    found = []
    for file in FILES:
        text = file.read_text()
        for old, new in replaced.items():
            text = text.replace(PLACES[old], new)
        found.append(yaml.safe_load(text))
    return found


PLACES = {
    "namespace": slos.NAMESPACE,
    "storage": "100 * 2^30",
    "repository": slos.REPOSITORY,
    "grafana": slos.GRAFANA,
}


def test_the_file_of_the_objectives_is_made_from_their_table() -> None:
    assert slos.FILE.read_text() == slos.text(slos.TABLE), "run `make slos`"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_rules_are_the_files_in_the_environments_namespace(environment: str) -> None:
    expected = files(namespace=f'namespace="payments-{environment}"')
    assert installed(payments(environment=environment)) == expected


def test_what_differs_between_places_is_a_value() -> None:
    found = payments(
        {
            "database": {"storageGiB": 777},
            "monitoring": {
                "repository": "https://git.example/shop/pay",
                "grafana": "https://grafana.example",
            },
        }
    )
    expected = files(
        namespace='namespace="payments-production"',
        storage="777 * 2^30",
        repository="https://git.example/shop/pay",
        grafana="https://grafana.example",
    )
    assert installed(found) == expected
    for place in PLACES.values():
        assert place in TEXT


def test_every_metric_is_asked_of_the_namespace() -> None:
    """Else an alert of one environment would speak of all that share a cluster."""
    for rule in RULES:
        selectors = re.findall(r"\{[^}]*\}", rule["expr"])
        assert selectors
        assert all(slos.NAMESPACE in selector for selector in selectors), rule
        # Nor is there a metric without a selector.
        bare = re.sub(r"\{[^}]*\}|\[\w+\]|\b(by|on) \([^)]*\)|offset \w+", "", rule["expr"])
        words = re.findall(r"(?<![\w.])[a-z_:][\w:]*(?! *\()\b", bare)
        assert len([w for w in words if w not in {"and", "or", "unless"}]) == len(selectors), rule


def test_the_rules_ask_only_for_metrics_that_somebody_says_and_for_each_of_them() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    asked = {m for r in RULES for m in re.findall(r"([a-z_:][\w:]*)\{", r["expr"])}
    listed = [metric for metrics in METRICS.values() for metric in metrics]
    assert asked - recorded == {*listed}
    assert len(listed) == len({*listed})


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_is_wrong_how_much_and_where_to_look(rule: dict[str, Any]) -> None:
    name, said = rule["alert"], rule["annotations"]
    assert re.fullmatch(r"Payments([A-Z][a-z]+)+", name)
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert said.keys() == {"summary", "description", "runbook_url", "dashboard"}
    assert "{{ $labels.namespace }}" in said["summary"]
    assert not said["summary"].endswith(".")
    assert said["description"].endswith(".")
    assert "{{ $" in said["description"]
    assert said["runbook_url"] == f"{slos.REPOSITORY}/blob/main/docs/runbooks/{name}.md"
    assert re.fullmatch(
        rf"{slos.GRAFANA}/d/payments-(overview|database|kubernetes|business)", said["dashboard"]
    )


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {file.stem for file in RUNBOOKS.glob("*.md")} == NAMES | PROCEDURES


@pytest.mark.parametrize("alert", sorted(NAMES))
def test_a_runbook_answers_every_question_and_leads_to_no_missing_page(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text()
    title, *parts = re.split(r"^##? (.+)\n", text, flags=re.MULTILINE)[1:]
    assert title == alert
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert [*sections] == HEADINGS
    assert all(section.strip() for section in sections.values())
    severities = {r["labels"]["severity"] for r in ALERTS if r["alert"] == alert}
    assert all(severity in sections["What it means"] for severity in severities)
    assert "```sh\n" in sections["How to see it"]


@pytest.mark.parametrize("alert", sorted(NAMES))
def test_a_runbook_speaks_of_metrics_that_there_are(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text()
    prefixes = "payments_|db_client_|http_server_|kube_|container_"
    asked = set(re.findall(rf"(?<![\w/])(?:{prefixes})\w+|payments:[\w:]+", text))
    known = {m for metrics in METRICS.values() for m in metrics}
    known |= {rule["record"] for rule in RULES if "record" in rule}
    assert asked <= known | BESIDE, asked - known


# Said by the service and the auditor as well, and in no rule; and names that are no metrics.
BESIDE = {
    "db_client_operation_duration_seconds_bucket",
    "payments_app",
    "payments_consumed_at",
    "payments_database_dead_rows",
}


def test_the_documentation_lists_the_alerts() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\(runbooks/(\w+)\.md\) \| ([a-z, ]+) \|", page, re.MULTILINE)
    assert all(alert == target for alert, target, _ in rows)
    severities = {
        alert: ", ".join(
            dict.fromkeys(r["labels"]["severity"] for r in ALERTS if r["alert"] == alert)
        )
        for alert in NAMES
    }
    assert {alert: severity for alert, _, severity in rows} == severities
    assert len(rows) == len(NAMES)


def test_the_documentation_has_the_table_of_the_objectives() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    for slo in slos.SLOS:
        of = slos.TABLE[slo]
        assert f"| {slo} | {100 * of['objective']:g} % {of['meaning']} |" in page
    for row in slos.TABLE["burn"]:
        line = f"| {row['rate']:g} | {row['long']} | {row['short']} | {row['severity']} |"
        assert line in page


def test_the_old_routes_end_when_their_header_says() -> None:
    (end,) = re.findall(r"vector\(time\(\)\) > (\d+)", TEXT)
    sunset = parsedate_to_datetime(app.SUNSET)
    assert datetime.fromtimestamp(int(end), UTC) == sunset
    assert f"{sunset:%-d %B %Y}" in TEXT


def test_the_disk_is_as_large_as_terraform_lets_it_grow(environment: str) -> None:
    assert (
        "max_allocated_storage = 5 * var.database.storage_gb"
        in (TERRAFORM / "environment" / "database.tf").read_text()
    )
    storage = setting(f"settings/environment-{environment}.tfvars", "storage_gb")
    assert values_of(environment)["database"]["storageGiB"] == 5 * int(storage)


def test_prometheus_keeps_the_days_of_the_objectives() -> None:
    stack = yaml.safe_load(
        (CHARTS / "cluster" / "monitoring" / "kube-prometheus-stack.yaml").read_text()
    )
    kept = stack["prometheus"]["prometheusSpec"]["retention"]
    assert slos.seconds(kept) > slos.TABLE["days"] * 86400
