"""A rule with any number, metric or label of it changed fails a test of its alert."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import slos
from tests.monitoring import promtool
from tests.monitoring.promtool import ALERTS, TESTS, Group
from tests.monitoring.test_objectives import TABLE, cases

NUMBER = re.compile(r"(?<![\w.:\"])\d+(\.\d+)?(?![\w.])")
METRIC = re.compile(r"[a-z_:][\w:]*(?=\{)")
LABEL = re.compile(r"\w+(?==~|!~|!=|=\")")
LABELS = re.compile(r"\b(?:by|on) \(([\w, ]+)\)")
SELECTOR = re.compile(r"\{[^}]*\}")


class Mutant(NamedTuple):
    """A group with a change in it, the tests that must see it, and which of them by name."""

    group: Group
    tests: tuple[str, ...]
    only: str = ""


def changes(expr: str) -> Iterator[tuple[str, str]]:
    """Gives each change of an expression, and what the expression is then."""

    def put(start: int, end: int, new: str) -> tuple[str, str]:
        change = f"{expr[start:end]} at {start} is {new}"
        return change, expr[:start] + new + expr[end:]

    # What is in quotes and in brackets is no number of the rule's.
    bare = re.sub(r'"[^"]*"|\[\w+\]', lambda m: '"' + "_" * (len(m[0]) - 2) + '"', expr)
    for found in NUMBER.finditer(bare):
        value = float(found[0])
        for new in (2 * value, value / 2) if value else (1,):
            yield put(*found.span(), f"{new:.15g}")
    for found in METRIC.finditer(bare):
        yield put(*found.span(), f"{found[0]}_renamed")
    for selector in SELECTOR.finditer(bare):
        for found in LABEL.finditer(bare, *selector.span()):
            yield put(*found.span(), f"{found[0]}_renamed")
    for list_ in LABELS.finditer(bare):
        for found in re.compile(r"\w+").finditer(bare, *list_.span(1)):
            yield put(*found.span(), f"{found[0]}_renamed")


def durations(for_: str) -> Iterator[str]:
    """Gives twice and half the time that an alert waits."""
    whole = slos.seconds(for_)
    yield from (f"{2 * whole}s", f"{whole // 2}s")


def trimmed(group: Group, rule: dict[str, Any]) -> Mutant:
    """Returns as much of a group as shows a change in one of its rules: the rest costs time."""
    event = rule.get("labels", {}).get("event")
    if "alert" in rule and "payments:" not in rule["expr"]:
        return Mutant({**group, "rules": [rule]}, (rule["alert"],))
    alerts = [r for r in group["rules"] if "alert" in r and "payments:" in r["expr"]]
    others = [r for r in group["rules"] if "record" in r]
    if event is None:
        return Mutant({**group, "rules": [*others, *alerts]}, tuple(r["alert"] for r in alerts))
    (alert,) = [r for r in alerts if re.search(rf'event=~?"[^"]*{event}', r["expr"])]
    others = [r for r in others if r.get("labels", {}).get("event", event) == event]
    only = event if event in ("created", "deleted") else ""
    return Mutant({**group, "rules": [*others, alert]}, (alert["alert"],), only)


def of_alerts() -> Iterator[tuple[str, Mutant]]:
    """Gives every mutant of the alerts, and each rule as it is."""
    for group in promtool.groups(ALERTS):
        for rule in group["rules"]:
            name = rule.get("alert") or f"{rule['record']} {rule.get('labels', {})}"
            shown = trimmed(group, rule)
            yield f"{name}: unchanged", shown

            def mutant(member: str, new: str, rule: Any = rule, shown: Mutant = shown) -> Mutant:
                rules = [{**r, member: new} if r is rule else r for r in shown.group["rules"]]
                return shown._replace(group={**shown.group, "rules": rules})

            for change, expr in changes(rule["expr"]):
                yield f"{name}: {change}", mutant("expr", expr)
            for for_ in durations(rule["for"]) if "for" in rule else ():
                yield f"{name}: for {for_}", mutant("for", for_)


ALL = dict(of_alerts())


@pytest.mark.parametrize("name", ALL)
def test_change_of_an_alert(name: str, tmp_path: Path) -> None:
    mutant = ALL[name]
    rules = yaml.safe_dump({"groups": [mutant.group]})
    failed = [
        promtool.failures(rules, yaml.safe_load(TESTS[alert].read_text()), tmp_path, mutant.only)
        for alert in mutant.tests
    ]
    assert any(failed) is not name.endswith(": unchanged")


def of_the_table() -> Iterator[tuple[str, str]]:
    """Gives what is made of the table with each of its numbers twice and half of what it is."""

    def made(change: str, *path: Any, new: Any) -> tuple[str, str]:
        table = copy.deepcopy(TABLE)
        *parents, last = path
        at: Any = table
        for step in parents:
            at = at[step]
        at[last] = new
        return change, slos.text(table)

    for factor in (2, 0.5):
        yield made(
            f"failures x {factor}", "failures_at_least", new=TABLE["failures_at_least"] * factor
        )
        seconds = TABLE["latency"]["seconds"] * factor
        yield made(f"seconds x {factor}", "latency", "seconds", new=seconds)
        for slo in slos.SLOS:
            objective = 1 - factor * (1 - TABLE[slo]["objective"])
            yield made(f"budget of {slo} x {factor}", slo, "objective", new=objective)
        for number, row in enumerate(TABLE["burn"]):
            rate = row["rate"] * factor
            yield made(f"rate {row['rate']} x {factor}", "burn", number, "rate", new=rate)
    for number, row in enumerate(TABLE["burn"]):
        severity = {"page": "ticket", "ticket": "page"}[row["severity"]]
        yield made(f"severity of {row['rate']}", "burn", number, "severity", new=severity)
        short = f"{2 * slos.seconds(row['short']) // 60}m"
        yield made(f"window {row['short']} x 2", "burn", number, "short", new=short)
    for number, route in enumerate(TABLE["not_counted"]):
        yield made(f"{route} counts", "not_counted", number, new="/other")
    yield made("/list counts", "latency", "not_counted", new=[])


def of_their_rules() -> Iterator[tuple[str, str]]:
    """Gives the rules with each metric and each label renamed, wherever it stands."""
    rules = slos.text(TABLE)
    names = {*METRIC.findall(rules)}
    names |= {label for selector in SELECTOR.findall(rules) for label in LABEL.findall(selector)}
    for name in sorted(names):
        yield (
            f"{name} renamed",
            re.sub(rf"(?<![\w:]){name}(?=\{{|=~|!~|!=|=\")", f"{name}_renamed", rules),
        )
    yield "by () renamed", rules.replace("by (namespace)", "by (namespace_renamed)")


OF_OBJECTIVES = {**dict(of_the_table()), **dict(of_their_rules())}


@pytest.mark.parametrize("name", OF_OBJECTIVES)
def test_change_of_an_objective(name: str, tmp_path: Path) -> None:
    rules = OF_OBJECTIVES[name]
    assert rules != slos.text(TABLE)
    assert any(promtool.failures(rules, cases(slo), tmp_path) for slo in slos.SLOS)
