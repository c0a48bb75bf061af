"""burn_rate.py ENVIRONMENT [MINUTES]: watches the pods after a release, and fails when they fail.

Asks the pods themselves, through `kubectl exec`, so that neither Prometheus nor a way to it through
the network policies is needed at the moment at which something may be wrong.
"""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from typing import NamedTuple

from pipeline.promotion import ENVIRONMENTS
from pipeline.release import ROOT

# The objectives, and the rate of failing at which somebody is woken: what the alerts are made of.
TABLE = tomllib.loads((ROOT / "charts/payments/monitoring/slos.toml").read_text())
ALLOWED: float = TABLE["burn"][0]["rate"] * (1 - TABLE["availability"]["objective"])
FAILURES_AT_LEAST: int = TABLE["failures_at_least"]

INTERVAL_SECONDS = 30

SELECTOR = "app.kubernetes.io/instance=payments,app.kubernetes.io/component=api"
READ = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
)

_COUNT = re.compile(r"^http_server_request_duration_seconds_count\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Counts(NamedTuple):
    """Requests of clients that were answered, and those of them with a 5xx."""

    all: float = 0
    failed: float = 0

    def since(self, before: "Counts") -> "Counts":
        """Returns what was added; a process that began anew began at nothing."""
        if self.all < before.all:
            return self
        return Counts(self.all - before.all, self.failed - before.failed)


def counts(metrics: str) -> Counts:
    """Reads a process's metrics."""
    all_ = failed = 0.0
    for labels, value in _COUNT.findall(metrics):
        named = dict(_LABEL.findall(labels))
        if named.get("http_route") not in TABLE["not_counted"]:
            all_ += float(value)
            failed += float(value) * named["http_response_status_code"].startswith("5")
    return Counts(all_, failed)


def added(before: Mapping[str, Counts], after: Mapping[str, Counts]) -> Counts:
    """Returns what all pods together answered between two looks."""
    each = [now.since(before.get(pod, Counts())) for pod, now in after.items()]
    return Counts(sum(c.all for c in each), sum(c.failed for c in each))


def burns(seen: Counts) -> bool:
    """Whether the budget burns so fast that somebody must act."""
    return seen.failed >= FAILURES_AT_LEAST and seen.failed > ALLOWED * seen.all


def restarted(pods: Mapping[str, int]) -> list[str]:
    """Returns the pods whose container was started again."""
    return [f"{name} was restarted {times} times" for name, times in pods.items() if times]


def _kubectl(environment: str, *arguments: str) -> str:
    command = [os.environ.get("KUBECTL", "kubectl"), f"--namespace=payments-{environment}"]
    command += ["--request-timeout=20s", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def pods(environment: str) -> dict[str, int]:
    """Returns the API's running pods, and how often each was restarted."""
    found = json.loads(_kubectl(environment, "get", "pods", f"--selector={SELECTOR}", "-ojson"))
    return {
        pod["metadata"]["name"]: sum(c["restartCount"] for c in pod["status"]["containerStatuses"])
        for pod in found["items"]
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    }


def look(environment: str, names: list[str]) -> dict[str, Counts]:
    """Reads the metrics of pods; one that ends meanwhile is left out."""
    found = {}
    for name in names:
        try:
            found[name] = counts(_kubectl(environment, "exec", name, "--", "python3", "-c", READ))
        except subprocess.CalledProcessError as error:
            print(f"{name} gives no metrics: {error.stderr.strip()}", flush=True)
    return found


def watch(environment: str, minutes: float) -> str | None:
    """Watches; returns what is wrong, as soon as it is, or None."""
    end = time.monotonic() + minutes * 60
    before: dict[str, Counts] | None = None
    total = Counts()
    while True:
        there = pods(environment)
        if wrong := restarted(there):
            return "; ".join(wrong)
        now = look(environment, [*there])
        if not now:
            return "no pod serves"
        # A pod that came later is counted from its start.
        more = added(before, now) if before is not None else Counts()
        before = {**(before or {}), **now}
        total = Counts(total.all + more.all, total.failed + more.failed)
        said = f"{len(now)} pods, {total.all:.0f} requests, {total.failed:.0f} of them failed"
        print(said, flush=True)
        if burns(total):
            return f"{total.failed:.0f} of {total.all:.0f} requests failed since the release"
        if time.monotonic() >= end:
            if not total.all:
                print("No client called: this says nothing about the release")
            return None
        time.sleep(INTERVAL_SECONDS)


def main(arguments: list[str]) -> None:
    """Watches the environment of the command line.

    Raises:
        SystemExit: the release fails, or cannot be looked at.
    """
    if not arguments or arguments[0] not in ENVIRONMENTS:
        sys.exit(str(__doc__))
    try:
        wrong = watch(arguments[0], float(arguments[1]) if len(arguments) > 1 else 10)
    except subprocess.CalledProcessError as error:
        sys.exit(f"kubectl failed: {error.stderr.strip()}")
    if wrong:
        sys.exit(f"FAILED: {wrong}")


if __name__ == "__main__":
    main(sys.argv[1:])
