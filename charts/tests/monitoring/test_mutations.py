"""A rule with any number, metric or label of it changed fails a test of its alert."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

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
    """A group with a change in it, the alert whose tests must see it, and which of them."""

    group: Group
    alert: str
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
    if "alert" in rule and "payments:" not in rule["expr"]:
        return Mutant({**group, "rules": [rule]}, rule["alert"])
    # What is compared with rows comes in four kinds of event, with a rule for each.
    event = rule.get("labels", {}).get("event", "consumed")
    if "alert" in rule:
        event = re.findall(r'event=~?"(\w+)', rule["expr"])[0]
    rules = [
        other
        for other in group["rules"]
        if ("record" in other and other.get("labels", {}).get("event", event) == event)
        or ("alert" in other and re.search(rf'event=~?"[^"]*\b{event}\b', other["expr"]))
    ]
    alert = rules[-1]["alert"]
    # The tests of one alert are of two events, and named after them.
    return Mutant({**group, "rules": rules}, alert, event if alert == "PaymentsRowsMissing" else "")


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
    failed = promtool.failures([mutant.group], TESTS[mutant.alert], tmp_path, mutant.only)
    assert bool(failed) is not name.endswith(": unchanged")


def of_the_table() -> Iterator[tuple[str, list[Group]]]:
    """Gives what is made of the table with each of its numbers twice and half of what it is."""

    def made(change: str, *path: Any, new: Any) -> tuple[str, list[Group]]:
        table = copy.deepcopy(TABLE)
        *parents, last = path
        at: Any = table
        for step in parents:
            at = at[step]
        at[last] = new
        return change, slos.rules(table)["groups"]

    for factor in (2, 0.5):
        few = TABLE["failures_at_least"] * factor
        yield made(f"failures x {factor}", "failures_at_least", new=few)
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
    for number, route in enumerate(TABLE["latency"]["not_counted"]):
        yield made(f"{route} counts", "latency", "not_counted", number, new="/other")


def of_their_rules() -> Iterator[tuple[str, list[Group]]]:
    """Gives the rules with each metric and each label renamed wherever it is asked for."""

    def renamed(pattern: str, new: str) -> list[Group]:
        return [
            {**g, "rules": [{**r, "expr": re.sub(pattern, new, r["expr"])} for r in g["rules"]]}
            for g in UNCHANGED
        ]

    exprs = "".join(rule["expr"] for group in UNCHANGED for rule in group["rules"])
    names = {*METRIC.findall(exprs)}
    names |= {label for selector in SELECTOR.findall(exprs) for label in LABEL.findall(selector)}
    for name in sorted(names):
        pattern = rf'(?<![\w:]){name}(?=\{{|=~|!~|!=|=")'
        yield f"{name} renamed", renamed(pattern, f"{name}_renamed")
    yield "by () renamed", renamed(r"by \(namespace\)", "by (namespace_renamed)")


UNCHANGED: list[Group] = slos.rules(TABLE)["groups"]
OF_OBJECTIVES = {**dict(of_the_table()), **dict(of_their_rules())}


@pytest.mark.parametrize("name", OF_OBJECTIVES)
def test_change_of_an_objective(name: str, tmp_path: Path) -> None:
    changed = [
        (slo, group)
        for slo, group, before in zip(slos.SLOS, OF_OBJECTIVES[name], UNCHANGED, strict=True)
        if group != before
    ]
    assert any(
        promtool.failures([group], {**cases(slo), "tests": cases(slo)["tests"][part]}, tmp_path)
        for part in (slice(8), slice(8, None))  # the short ones first: most need no more
        for slo, group in changed
    )
