"""Every alert fires when it should, and else is silent: promtool's tests, in alerts/."""

from pathlib import Path

import pytest

from slos import FILE
from tests.monitoring import promtool
from tests.monitoring.promtool import ALERTS, TESTS


def test_prometheus_takes_the_rules_and_has_nothing_to_say() -> None:
    assert not promtool.check(ALERTS, FILE)


@pytest.mark.parametrize("alert", TESTS)
def test_alert(alert: str, tmp_path: Path) -> None:
    groups = promtool.groups(ALERTS)
    (own,) = [g for g in groups if alert in {rule.get("alert") for rule in g["rules"]}]
    assert not promtool.failures([own], TESTS[alert], tmp_path)


def test_every_alert_has_a_test_that_it_fires_and_one_that_it_stays_silent() -> None:
    alerts = {r["alert"] for g in promtool.groups(ALERTS) for r in g["rules"] if "alert" in r}
    assert alerts == TESTS.keys()
    for alert, tests in TESTS.items():
        fires = set()
        for test in tests["tests"]:
            assert {check["alertname"] for check in test["alert_rule_test"]} == {alert}
            fires.add(any(check.get("exp_alerts") for check in test["alert_rule_test"]))
        assert fires == {True, False}, alert
