"""Whom Alertmanager tells in the cluster, as its own program reads the route."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from slos import MONITORING
from tests.monitoring.promtool import groups

# `make monitoring` builds it.
AMTOOL = os.environ.get("AMTOOL", "amtool")

CHART = MONITORING.parents[1] / "cluster" / "monitoring" / "kube-prometheus-stack.yaml"

STACK: dict[str, Any] = yaml.safe_load(CHART.read_text())["alertmanager"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The configuration as a file of Alertmanager's."""
    file = tmp_path / "alertmanager.yaml"
    file.write_text(yaml.safe_dump(STACK["config"]))
    return file


def _receiver(file: Path, **labels: str) -> str:
    told = [f"{name}={value}" for name, value in labels.items()]
    return _amtool("config", "routes", "test", f"--config.file={file}", *told).strip()


def _amtool(*arguments: str | Path) -> str:
    result = subprocess.run([AMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_alertmanager_takes_it(file: Path) -> None:
    _amtool("check-config", file)


def test_every_alert_reaches_who_its_severity_is_for(file: Path) -> None:
    rules = [
        rule
        for rules in (MONITORING / "rules").glob("*.yaml")
        for group in groups(rules)
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert len({rule["alert"] for rule in rules}) > 20
    severities = {rule["labels"]["severity"] for rule in rules}
    assert severities == {"page", "ticket"}
    for severity in severities:
        assert _receiver(file, alertname="Payments", severity=severity) == severity


@pytest.mark.parametrize(
    ("alert", "severity", "receiver"),
    [
        ("KubePersistentVolumeFillingUp", "critical", "page"),
        ("KubePodCrashLooping", "warning", "ticket"),
        ("Watchdog", "none", "nobody"),
        ("InfoInhibitor", "none", "nobody"),
        ("CPUThrottlingHigh", "info", "nobody"),
    ],
)
def test_alerts_of_the_stack_itself(file: Path, alert: str, severity: str, receiver: str) -> None:
    assert _receiver(file, alertname=alert, severity=severity) == receiver


def test_keys_come_from_a_secret_that_is_mounted() -> None:
    (secret,) = STACK["alertmanagerSpec"]["secrets"]
    files = [
        value
        for receiver in STACK["config"]["receivers"]
        for kind in receiver.values()
        if isinstance(kind, list)
        for settings in kind
        for name, value in settings.items()
        if name.endswith("_file")
    ]
    assert files == [f"/etc/alertmanager/secrets/{secret}/{name}" for name in ("page", "ticket")]
