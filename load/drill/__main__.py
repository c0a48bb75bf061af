"""Breaks the service in front of a real Prometheus and Alertmanager, with the chart's rules.

    python -m drill [--minutes 20]     from 20 minutes on it writes docs/observability.md

First nothing is broken, and no alert may fire. Then one thing after the other is: the alerts that
name it must reach Alertmanager's webhook, and resolve once it is mended. At the end every query of
every dashboard is asked, must have data, and is drawn. All times of rules and queries are divided
by 60.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from drill import kubernetes, panels
from drill.auditor import auditing
from drill.faults import BEYOND, FAULTS, Fault, Scene
from drill.monitoring import (
    CHECKOUT,
    DASHBOARDS,
    Job,
    Prometheus,
    Receiver,
    alert_names,
    watching,
)
from drill.traffic import Traffic, asking
from laptop import files
from tests.conftest import fast_directory
from tests.faults.system import system

PAGE = CHECKOUT / "docs" / "observability.md"
RECORDED_MINUTES = 20  # shorter runs are for trying

FIRE_SECONDS = 90.0  # an hour and a half of the rules'
RESOLVE_SECONDS = 180.0
# Until the first scrape nothing is known of anything, and alerts of absence are right.
SETTLE_SECONDS = 15.0
# The slowest burn looks back six hours, and is told of what goes on.
LAST_RESOLVE_SECONDS = 8 * 60.0
SHOWN_SECONDS = 60.0  # of the time without a fault, in the pictures
LOOK_SECONDS = 0.1
TELL_SECONDS = 60.0


class Row(NamedTuple):
    """An alert of a fault: seconds until it fired, and from the mending until it resolved."""

    fault: str
    alert: str
    fired: float | None
    resolved: float | None


class Drill:
    """What happens, in order, and what came of it."""

    def __init__(self, receiver: Receiver, scene: Scene, traffic: Traffic) -> None:
        self.rows: list[Row] = []
        self.wrong: list[str] = []
        self._receiver = receiver
        self._scene = scene
        self._traffic = traffic
        self._began = time.monotonic()

    def tell(self, line: str) -> None:
        """Tells what goes on."""
        print(f"{time.monotonic() - self._began:7.1f} s  {line}", flush=True)

    async def be_well(self, seconds: float) -> None:
        """Breaks nothing for so long; what fires is wrong."""
        await asyncio.sleep(SETTLE_SECONDS)
        first = len(self._receiver.told)
        before = self._receiver.firing
        self.tell(f"nothing is broken for {seconds:.0f} s: nothing may fire")
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(TELL_SECONDS, left))
            self.tell(f"answers by status: {dict(sorted(self._traffic.answers.items()))}")
        told = self._receiver.told[first:]
        fired = sorted(before | {one.alert for one in told if one.firing})
        self.wrong += [f"{alert} fired, and nothing was broken" for alert in fired]
        self.tell(f"fired: {', '.join(fired) or 'nothing'}")

    async def suffer(self, fault: Fault) -> None:
        """Breaks something until its alerts fire, mends it, and waits until they have resolved."""
        self.tell(fault.what)
        before = await self._times(fault.alerts, firing=False, within=RESOLVE_SECONDS)
        async with fault.begins(self._scene):
            fired = await self._times(fault.alerts, firing=True, within=FIRE_SECONDS)
            self.tell(f"fired: {_said(fired)}")
        resolved = await self._times(fault.alerts, firing=False, within=RESOLVE_SECONDS)
        self.tell(f"mended; resolved: {_said(resolved)}")
        for alert in fault.alerts:
            for times, wrong in (
                (before, "fires still, before"),
                (fired, "does not fire:"),
                (resolved, "does not resolve after"),
            ):
                if times[alert] is None:
                    self.wrong.append(f"{alert} {wrong} {fault.what}")
            self.rows.append(Row(fault.what, alert, fired[alert], resolved[alert]))

    async def recover(self) -> None:
        """Waits until nothing fires."""
        self.tell(f"all is mended; firing: {', '.join(sorted(self._receiver.firing))}")
        deadline = time.monotonic() + LAST_RESOLVE_SECONDS
        while self._receiver.firing and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        self.tell(f"firing: {', '.join(sorted(self._receiver.firing)) or 'nothing'}")
        self.wrong += [f"{alert} does not end" for alert in sorted(self._receiver.firing)]

    async def _times(
        self, alerts: Sequence[str], *, firing: bool, within: float
    ) -> dict[str, float | None]:
        """Waits until all are as they should; returns after how many seconds each was."""
        began = time.monotonic()
        times: dict[str, float | None] = dict.fromkeys(alerts)
        while None in times.values() and time.monotonic() < began + within:
            for alert in alerts:
                if times[alert] is None and (alert in self._receiver.firing) == firing:
                    times[alert] = time.monotonic() - began
            await asyncio.sleep(LOOK_SECONDS)
        return times


def _said(times: dict[str, float | None]) -> str:
    return ", ".join(
        f"{a} {'never' if s is None else f'after {s:.1f} s'}" for a, s in times.items()
    )


def main() -> int:
    """Drills; returns 1 if an alert fired that should not have, or did not that should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=RECORDED_MINUTES, help="without a fault")
    minutes = parser.parse_args().minutes
    named = {alert for fault in FAULTS for alert in fault.alerts}
    if odd := alert_names() ^ (named | {*BEYOND}):
        print(
            f"drill/faults.py and the rules do not know the same alerts: {', '.join(sorted(odd))}"
        )
        return 1
    recorded = minutes >= RECORDED_MINUTES
    pictures = PAGE.parent if recorded else CHECKOUT / ".cache" / "drill"
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=fast_directory(), ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # PostgreSQL's user enters it
        drill = asyncio.run(_drill(Path(name), minutes, pictures))
    table = _table(drill.rows)
    print(f"\n{table}")
    for line in drill.wrong:
        print(f"WRONG: {line}")
    if recorded and not drill.wrong:
        _record(minutes, table)
    return 1 if drill.wrong else 0


async def _drill(directory: Path, minutes: float, pictures: Path) -> Drill:
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(
            system(directory, variables={"PYTHONPATH": os.environ["PYTHONPATH"]})
        )
        auditor = await stack.enter_async_context(auditing(made, directory / "auditor.log"))
        cluster = stack.enter_context(kubernetes.exported(lambda: made.pids))
        traffic = await stack.enter_async_context(asking(made.ports, made.keys))
        labels = {"namespace": kubernetes.NAMESPACE}
        jobs = [
            *(
                Job("payments", port, {**labels, "pod": kubernetes.pod(number)})
                for number, port in enumerate(made.metrics_ports)
            ),
            Job("payments-audit", auditor.port, labels),
            Job("kubernetes", cluster, {}),
        ]
        receiver = Receiver()
        prometheus = await stack.enter_async_context(watching(directory, jobs, receiver))
        drill = Drill(receiver, Scene(made, auditor), traffic)
        await drill.be_well(minutes * 60)
        since = time.time() - min(SHOWN_SECONDS, minutes * 60)
        for fault in FAULTS:
            await drill.suffer(fault)
        until = time.time()
        await _look_at_panels(drill, prometheus, since, until, pictures)
        await drill.recover()
    return drill


async def _look_at_panels(
    drill: Drill, prometheus: Prometheus, since: float, until: float, pictures: Path
) -> None:
    for name in DASHBOARDS:
        try:
            title, drawn = await panels.ask(prometheus, name, since, until)
        except (LookupError, RuntimeError) as error:
            drill.wrong.append(str(error))
            continue
        path = pictures / f"observability-{name}.svg"
        panels.draw(path, title, drawn)
        drill.tell(f"{len(drawn)} panels have data: {path.relative_to(CHECKOUT)}")


def _table(rows: Sequence[Row]) -> str:
    lines = ["| what is broken | alert | fired after | resolved after |", "|---|---|---|---|"]
    lines += [
        f"| {row.fault} | {row.alert} | {_seconds(row.fired)} | {_seconds(row.resolved)} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _record(minutes: float, table: str) -> None:
    """Puts the table into the page, between its marks."""
    begin, end = "<!-- drill -->\n", "<!-- /drill -->"
    before, rest = PAGE.read_text().split(begin)
    day = datetime.now(UTC).date().isoformat()
    text = f"{day}: in {minutes:g} minutes without a fault no alert fired. Then:\n\n{table}"
    files.replace(PAGE, before + begin + text + end + rest.split(end)[1])


if __name__ == "__main__":
    sys.exit(main())
