"""Every alert fires when it should, and else is silent: promtool's tests, in alerts/."""

from pathlib import Path

import pytest
import yaml

from slos import FILE
from tests.monitoring import promtool
from tests.monitoring.promtool import ALERTS, TESTS


def test_prometheus_takes_the_rules_and_has_nothing_to_say() -> None:
    assert not promtool.check(ALERTS, FILE)


@pytest.mark.parametrize("alert", sorted(TESTS))
def test_alert(alert: str, tmp_path: Path) -> None:
    failed = promtool.failures(
        ALERTS.read_text(), yaml.safe_load(TESTS[alert].read_text()), tmp_path
    )
    assert not failed


def test_every_alert_has_a_test_that_it_fires_and_one_that_it_stays_silent() -> None:
    alerts = {r["alert"] for g in promtool.groups(ALERTS) for r in g["rules"] if "alert" in r}
    assert alerts == TESTS.keys()
    for alert, file in TESTS.items():
        fires = set()
        for test in yaml.safe_load(file.read_text())["tests"]:
            assert {check["alertname"] for check in test["alert_rule_test"]} == {alert}
            fires.add(any(check.get("exp_alerts") for check in test["alert_rule_test"]))
        assert fires == {True, False}, alert
