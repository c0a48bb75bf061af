"""The price: every resource has one, docs/cost.md is up to date, and the gates close."""

import copy
import datetime
import itertools
import json
from typing import Any

import pytest

from testkit import cost
from testkit.workspace import TERRAFORM

TODAY = datetime.datetime.now(datetime.UTC).date()

pytestmark = pytest.mark.xdist_group("cost")  # all from the same plans


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> cost.Plans:
    return cost.simulated_plans(tmp_path_factory.mktemp("cost"))


def test_the_page_is_what_the_plans_cost(plans: cost.Plans) -> None:
    assert (cost.DOCS / "cost.md").read_text() == cost.page(plans), "run `make cost`"


def test_every_platform_is_within_its_budget(plans: cost.Plans) -> None:
    cost.check(plans, TODAY)


def test_a_platform_above_its_budget_stops_the_build(plans: cost.Plans) -> None:
    spoiled = copy.deepcopy(plans)
    settings = spoiled["bootstrap"]["variables"]["platforms"]["value"]
    settings["production"]["monthly_budget_usd"] = 200
    with pytest.raises(
        cost.CostError, match=r"production costs \$\d+\.\d\d a month; its budget is \$200"
    ):
        cost.check(spoiled, TODAY)


@pytest.mark.parametrize(("days_before", "stops"), [(61, False), (60, True)])
def test_a_cluster_near_extended_support_stops_the_build(
    plans: cost.Plans, days_before: int, stops: bool
) -> None:
    clusters = (
        p["variables"]["cluster"]["value"] for p in plans.values() if "cluster" in p["variables"]
    )
    ends = (cost.CALENDAR["end_of_standard_support"][cluster["version"]] for cluster in clusters)
    end = datetime.date.fromisoformat(min(ends))
    day = end - datetime.timedelta(days=days_before)
    if not stops:
        cost.check(plans, day)
        return
    with pytest.raises(cost.CostError, match=f"standard support of EKS .* ends on {end}"):
        cost.check(plans, day)


def test_a_resource_without_a_price_stops_the_build(plans: cost.Plans) -> None:
    spoiled: dict[str, Any] = copy.deepcopy(plans["environment-dev"])
    spoiled["planned_values"]["root_module"]["resources"].append(
        {
            "address": "aws_redshift_cluster.this",
            "mode": "managed",
            "type": "aws_redshift_cluster",
            "values": {},
        }
    )
    with pytest.raises(cost.CostError, match="aws_redshift_cluster has no price"):
        cost.lines(spoiled, "expected")


def test_more_load_costs_more(plans: cost.Plans) -> None:
    sums = [cost.totals(plans, "us-east-1", level)["production"] for level in cost.LEVELS]
    assert sums == sorted(sums)
    assert sums[0] < sums[2]


def test_what_is_free_comes_off_once_and_never_below_nothing(plans: cost.Plans) -> None:
    counted: dict[str, int] = {}
    for place, level in itertools.product(plans, cost.LEVELS):
        lines = cost.lines(plans[place], level)
        for free in (line for line in lines if line.resource == "free in every account"):
            used = [line.quantity for line in lines if line.price == free.price]
            most = cost.USAGE["free"][place][free.price]
            assert sum(used) == pytest.approx(max(0, sum(used) - free.quantity - most))
            counted[free.price] = counted.get(free.price, 0) + 1
    once = [price for free in cost.USAGE["free"].values() for price in free]
    assert counted == dict.fromkeys(once, len(cost.LEVELS))


def test_a_key_costs_more_once_it_has_rotated(plans: cost.Plans) -> None:
    later = cost.totals(plans, "us-east-1", "expected")
    for platform, keys in {"nonprod": 1, "production": 2}.items():
        first = cost.first_year(plans, "us-east-1", platform)
        assert later[platform] - first == pytest.approx(2 * keys)


def test_a_standby_doubles_the_database(plans: cost.Plans) -> None:
    def database(place: str) -> float:
        return sum(
            line.usd("us-east-1")
            for line in cost.lines(plans[place], "expected")
            if line.resource == "aws_db_instance.this" and line.price.startswith("rds.db")
        )

    # db.t4g.small is twice db.t4g.micro, and there are two of it; AWS rounds each price by itself.
    fourfold = pytest.approx(4 * database("environment-staging"), rel=0.02)
    assert database("environment-production") == fourfold


def test_prices_are_dated_and_say_where_they_are_from() -> None:
    prices = json.loads((TERRAFORM / "prices" / "aws.json").read_text())
    assert datetime.date.fromisoformat(prices["as_of"]) <= TODAY
    for name, row in prices["prices"].items():
        assert row["source"].startswith("https://aws.amazon.com/"), name
        assert row["us-east-1"] > 0, name


def test_the_picture_is_drawn_from_the_same_plans(plans: cost.Plans) -> None:
    figure = cost.picture(plans)
    texts = {text.get_text() for text in figure.axes[0].texts}
    expected = cost.totals(plans, "us-east-1", "expected")
    assert {f"${expected['production']:.0f}", f"${expected['nonprod']:.0f}"} <= texts
