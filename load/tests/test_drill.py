"""What the drill makes of the rules, and of what Alertmanager tells it. The drill is the rest."""

import pytest

from drill.faults import BEYOND, FAULTS
from drill.monitoring import Receiver, alert_names, scaled


@pytest.mark.parametrize(
    ("unscaled", "expected"),
    [
        ("5m", "5000ms"),
        ("1h30m", "90000ms"),
        ("rate(requests[5m] offset 1h)", "rate(requests[5000ms] offset 60000ms)"),
        ("time() - max(last_success) > 300", "time() - max(last_success) > 5"),
        ("max(oldest_transaction_seconds{}) > 600", "max(oldest_transaction_seconds{}) > 10"),
        # Names, texts and plain numbers hold no times.
        ('slo:burn:rate5m{window="5m"} > 14.4', 'slo:burn:rate5m{window="5m"} > 14.4'),
    ],
)
def test_a_minute_of_the_rules_is_a_second(unscaled: str, expected: str) -> None:
    assert scaled(unscaled) == expected


def test_every_alert_has_a_fault_or_is_beyond_them() -> None:
    of_faults = {alert for fault in FAULTS for alert in fault.alerts}
    assert not of_faults & {*BEYOND}
    assert alert_names() == of_faults | {*BEYOND}


def _message(fingerprint: str, status: str, **labels: str) -> dict[str, object]:
    alert = {"fingerprint": fingerprint, "status": status, "labels": labels}
    return {"alerts": [alert]}


def test_an_alert_fires_until_none_of_its_series_does() -> None:
    receiver = Receiver()
    receiver.take(_message("a", "firing", alertname="Slow", window="1h"))
    receiver.take(_message("b", "firing", alertname="Slow", window="1h"))
    assert receiver.firing == {"Slow 1h"}
    receiver.take(_message("a", "resolved", alertname="Slow", window="1h"))
    assert receiver.firing == {"Slow 1h"}
    receiver.take(_message("b", "resolved", alertname="Slow", window="1h"))
    assert receiver.firing == set()
    assert [told.firing for told in receiver.told] == [True, True, False, False]
