"""What AWS will ask for: `make cost` turns the plans of all places into docs/cost.md and a picture.

A resource's price is a row of prices/aws.json times a quantity, from the plan where it says one
and from prices/usage.json where it depends on use. A type that is neither priced nor known to be
free is an error, so that nothing new goes unpriced. Fails above a budget of
settings/bootstrap.tfvars, and when the Kubernetes version comes near extended support, whose hour
costs six times as much.
"""

import datetime
import json
import math
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from testkit.workspace import TERRAFORM, Workspace, places, stand_in

DOCS = TERRAFORM.parent / "docs"
REGIONS = ("us-east-1", "sa-east-1")
LEVELS = {"idle": "idle", "expected": "expected", "ten_times": "ten times the load"}

Plans = dict[str, dict[str, Any]]

# Types that AWS gives away, or charges within the line of another.
FREE_PREFIXES = (
    "aws_iam_",
    "aws_s3_bucket_",
    "aws_vpc_security_group_",
    "aws_route_table",
    "aws_sns_",
)
FREE = {
    "aws_acm_certificate",
    "aws_acm_certificate_validation",
    "aws_backup_selection",
    "aws_backup_vault",
    "aws_backup_vault_lock_configuration",
    "aws_budgets_budget",
    "aws_cloudtrail",  # the first record of who changed what
    "aws_cloudwatch_event_rule",
    "aws_cloudwatch_event_target",
    "aws_db_parameter_group",
    "aws_db_subnet_group",
    "aws_default_security_group",
    "aws_db_event_subscription",
    "aws_ecr_lifecycle_policy",
    "aws_ecr_repository_creation_template",
    "aws_eks_access_entry",
    "aws_eks_access_policy_association",
    "aws_eks_addon",
    "aws_eks_pod_identity_association",
    "aws_flow_log",
    "aws_internet_gateway",
    "aws_kms_alias",
    "aws_route",
    "aws_route53_record",
    "aws_security_group",
    "aws_subnet",
    "aws_vpc",
    "aws_vpc_endpoint",
    "aws_wafv2_web_acl_logging_configuration",
}


def _load(name: str) -> Any:
    return json.loads((TERRAFORM / "prices" / name).read_text())


PRICES = _load("aws.json")
USAGE = _load("usage.json")
CALENDAR = _load("eks-calendar.json")
HOURS = PRICES["hours_a_month"]


# What every resource of a type costs, whatever its settings.
FLAT: dict[str, list[tuple[float, str]]] = {
    "aws_backup_plan": [
        (USAGE["backup_here_gb"] + USAGE["backup_copies_gb"], "rds.backup"),
        (USAGE["backup_copies_gb"] / 3, "data.other_region"),  # copies are kept for three months
    ],
    "aws_cloudwatch_metric_alarm": [(1, "cloudwatch.alarm")],
    "aws_ecr_replication_configuration": [
        (USAGE["images_gb"], "ecr.storage"),
        (USAGE["images_gb"], "data.other_region"),
    ],
    "aws_ecr_repository": [(USAGE["images_gb"] / 2, "ecr.storage")],
    "aws_eip": [(HOURS, "vpc.public_ipv4")],
    "aws_eks_cluster": [(HOURS, "eks.cluster")],
    "aws_kms_key": [(1, "kms.key"), (2, "kms.rotation")],  # once it has rotated twice
    "aws_route53_health_check": [(1, "route53.health_check")],
    "aws_route53_zone": [(1, "route53.zone")],
    "aws_s3_bucket": [(0.1, "s3.storage")],
}


class CostError(Exception):
    """The cost cannot be accepted, or not be told; the message says why."""


@dataclass(frozen=True)
class Line:
    """So much of something a month, of one resource."""

    resource: str
    quantity: float
    price: str  # a row of prices/aws.json
    platform: str = ""  # what its tag says

    def usd(self, region: str) -> float:
        """Returns US dollars a month."""
        price: float = PRICES["prices"][self.price][region]
        return self.quantity * price


def lines(plan: dict[str, Any], level: str) -> list[Line]:
    """Returns what a plan costs at a level of use.

    Raises:
        CostError: a resource has no price.
    """
    variables = {name: v["value"] for name, v in plan["variables"].items()}
    resources = plan["planned_values"]["root_module"]["resources"]
    use = USAGE["levels"][level]
    planned = [
        Line(
            resource["address"],
            *item,
            _platform(resource["values"]),
        )
        for resource in resources
        if resource["mode"] == "managed"
        for item in FLAT.get(resource["type"])
        or _items(resource["type"], resource["values"], use, variables)
    ]
    bought = _bought_by_the_cluster(level, variables) if "cluster" in variables else []
    used = [*planned, *bought]
    return [*used, *_free(used, variables)]


def _platform(values: dict[str, Any]) -> str:
    return str((values.get("tags_all") or {}).get("platform", ""))


def _items(
    type_: str, values: dict[str, Any], use: dict[str, float], variables: dict[str, Any]
) -> Iterable[tuple[float, str]]:
    match type_:
        case "aws_nat_gateway":
            data = use["nat_gb"] / variables["network"]["nat"]["zones"]
            return [(HOURS, "vpc.nat_gateway"), (data, "vpc.nat_gateway_data")]
        case "aws_instance":
            disk = values["root_block_device"][0]["volume_size"]
            machine = (HOURS, f"ec2.{values['instance_type']}")
            return [machine, (HOURS, "vpc.public_ipv4"), (disk, "ebs.gp3")]
        case "aws_db_instance":
            copies, standby = (2, ".multi_az") if values["multi_az"] else (1, "")
            return [
                (HOURS, f"rds.{values['instance_class']}{standby}"),
                (copies * values["allocated_storage"], "rds.gp3"),
                (1, "secretsmanager.secret"),
            ]
        case "aws_wafv2_web_acl":
            requests = (use["requests_millions"], "waf.million_requests")
            return [(1, "waf.acl"), (len(values["rule"]), "waf.rule"), requests]
        case "aws_cloudwatch_log_group":
            control_plane = values["name"].startswith("/aws/eks/")  # it writes without any traffic
            gigabytes = USAGE["control_plane_log_gb"] if control_plane else use["log_gb"] / 4
            return [(gigabytes, "cloudwatch.logs")]
    if type_ not in FREE and not type_.startswith(FREE_PREFIXES):
        raise CostError(f"{type_} has no price: add it to testkit/cost.py, or to what is free")
    return []


def _bought_by_the_cluster(level: str, variables: dict[str, Any]) -> Iterator[Line]:
    """What is in no plan: charts/cluster asks for it, and controllers in the cluster make it."""
    cluster = USAGE["clusters"][variables["name"]]
    use = USAGE["levels"][level]
    nodes, node = cluster["nodes"][level], cluster["node"]
    spot = ".spot" if cluster["spot"] else ""
    zones = variables["network"].get("public_zones", 2)
    yield Line("nodes (Karpenter)", nodes * HOURS, f"ec2.{node}{spot}")
    yield Line("nodes (Karpenter)", nodes * HOURS, f"eks.auto.{node}")
    yield Line("nodes (Karpenter)", nodes * cluster["node_disk_gb"], "ebs.gp3")
    yield Line("volume of Prometheus", cluster["volume_gb"], "ebs.gp3")
    yield Line("load balancer (Ingress)", HOURS, "alb")
    lcu = use["load_balancer_lcu"] * cluster["traffic_share"]
    yield Line("load balancer (Ingress)", lcu * HOURS, "alb.lcu")
    yield Line("load balancer (Ingress)", zones * HOURS, "vpc.public_ipv4")
    yield Line("answers to clients", use["out_gb"] * cluster["traffic_share"], "data.out")
    between = 2 * use["zone_gb"] * cluster["traffic_share"]  # paid for on both sides
    yield Line("traffic between zones", between, "data.zone")


def _free(used: list[Line], variables: dict[str, Any]) -> Iterator[Line]:
    """What AWS takes off the bill of every account; USAGE says which place it is counted to."""
    place = f"{'platform' if 'cluster' in variables else 'environment'}-{variables.get('name')}"
    for price, most in USAGE["free"].get(place, {}).items():
        quantity = sum(line.quantity for line in used if line.price == price)
        yield Line("free in every account", -min(most, quantity), price)


def lines_of(plans: Plans, level: str) -> dict[str, list[Line]]:
    """Returns what all places cost at a level of use, by platform; `account` is what both share.

    What has a tag is counted as AWS's budgets do. The rest, AWS cannot tag or no plan makes; it is
    its place's.
    """
    costs: dict[str, list[Line]] = defaultdict(list)
    for place, plan in plans.items():
        variables = plan["variables"]
        named = {"bootstrap": "", "platform": "name", "environment": "platform"}[places()[place]]
        own = str(variables[named]["value"]) if named else "account"
        for line in lines(plan, level):
            tagged = line.platform if line.platform != "shared" else "account"
            costs[tagged or own].append(line)
    return costs


def totals(plans: Plans, region: str, level: str) -> dict[str, float]:
    """Returns US dollars a month by platform."""
    # Each sum of dollars is exact: that of `sum` depends on the version of Python.
    return {
        platform: math.fsum(line.usd(region) for line in used)
        for platform, used in lines_of(plans, level).items()
    }


def first_year(plans: Plans, region: str, platform: str) -> float:
    """Returns US dollars a month while no key has rotated yet."""
    rotated = math.fsum(
        line.usd(region)
        for line in lines_of(plans, "expected")[platform]
        if line.price == "kms.rotation"
    )
    return totals(plans, region, "expected")[platform] - rotated


def check(plans: Plans, today: datetime.date) -> None:
    """Accepts the plans, or not.

    Raises:
        CostError: a platform costs more than its budget, or a cluster is near extended support.
    """
    sums = totals(plans, REGIONS[0], "expected")
    for platform, settings in plans["bootstrap"]["variables"]["platforms"]["value"].items():
        budget = settings["monthly_budget_usd"]
        if sums[platform] > budget:
            raise CostError(
                f"{platform} costs ${sums[platform]:.2f} a month; its budget is ${budget}"
            )
    for place, plan in plans.items():
        if places()[place] != "platform":
            continue
        version = plan["variables"]["cluster"]["value"]["version"]
        end = datetime.date.fromisoformat(CALENDAR["end_of_standard_support"][version])
        if (end - today).days <= CALENDAR["warn_days"]:
            raise CostError(f"{place}: standard support of EKS {version} ends on {end}: upgrade it")


def _usd(items: Iterable[tuple[float, str]], region: str) -> float:
    return math.fsum(Line("", quantity, price).usd(region) for quantity, price in items)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]], *, text_last: bool = False) -> str:
    head = list(header)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    if text_last:
        rule[-1] = "---"
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _summary(plans: Plans) -> str:
    platforms = plans["bootstrap"]["variables"]["platforms"]["value"]
    rows = [
        [
            f"{name} ({', '.join(sorted(platforms[name]['hosts']))})",
            *(f"{totals(plans, r, level)[name]:.2f}" for r in REGIONS for level in LEVELS),
            str(platforms[name]["monthly_budget_usd"]),
        ]
        for name in platforms
    ]
    account = (f"{totals(plans, r, level)['account']:.2f}" for r in REGIONS for level in LEVELS)
    header = [f"{region}, {name}" for region in REGIONS for name in LEVELS.values()]
    return _table(
        ["$ a month", *header, "budget"], [*rows, ["the account (bootstrap)", *account, ""]]
    )


def _levels() -> str:
    rows = [
        [name.replace("_", " "), *(f"{USAGE['levels'][level][name]:g}" for level in LEVELS)]
        for name in USAGE["levels"]["idle"]
    ]
    return _table(["average use", *LEVELS.values()], rows)


def _clusters() -> str:
    return "\n".join(
        f"- {name}: {c['why']}. {c['nodes']['expected']} of {c['node']},"
        f" {'Spot' if c['spot'] else 'on demand'}, {c['node_disk_gb']} GB of disk each."
        for name, c in USAGE["clusters"].items()
    )


def _details(plan: dict[str, Any]) -> str:
    rows = []
    for line in lines(plan, "expected"):
        dollars = [line.usd(region) for region in REGIONS]
        if any(dollars):
            name = f"`{line.resource}`" if line.resource.startswith("aws_") else line.resource
            quantity = f"{line.quantity:g} of `{line.price}`"
            rows.append([name, quantity, *(f"{usd:.2f}" for usd in dollars)])
    sums = [math.fsum(line.usd(region) for line in lines(plan, "expected")) for region in REGIONS]
    rows.append(["**total**", "", *(f"**{usd:.2f}**" for usd in sums)])
    return _table(["resource", "a month", *REGIONS], rows)


def _after_destroy() -> str:
    copies = USAGE["backup_copies_gb"]
    kept = {
        "key and bucket of the state, images": [
            *FLAT["aws_kms_key"],
            *FLAT["aws_s3_bucket"],
            (2 * USAGE["images_gb"], "ecr.storage"),
        ],
        "production's last snapshot": [(20.0, "rds.backup")],
        "production's copies in the second region and their key, for up to 90 days": [
            (copies, "rds.backup"),
            *FLAT["aws_kms_key"],
        ],
    }
    rows = [[what, *(f"{_usd(items, r):.2f}" for r in REGIONS)] for what, items in kept.items()]
    return _table(["what is left", *REGIONS], rows)


def _considered() -> str:
    path = TERRAFORM / "prices" / "considered.toml"
    rows = []
    for item in tomllib.loads(path.read_text())["considered"]:
        if "costs" in item:
            amount = f"{_usd(item['costs'], REGIONS[0]):.2f}"
        else:
            change = _usd(item.get("adds", []), REGIONS[0]) - _usd(
                item.get("saves", []), REGIONS[0]
            )
            amount = f"{change:+.2f}"
        rows.append([item["what"], amount, item["why"]])
    return _table(["considered", "$ a month", "why not"], rows, text_last=True)


def _prices() -> str:
    rows = []
    for name, row in PRICES["prices"].items():
        there = "not there" if row["sa-east-1"] is None else f"{row['sa-east-1']:g}"
        checked = f" Checked: {row['checked']}." if "checked" in row else ""
        rows.append(
            f"- `{name}`: {row['us-east-1']:g} / {there} a {row['unit']}.{checked} {row['source']}"
        )
    return "\n".join(rows)


def page(plans: Plans) -> str:
    """Returns docs/cost.md, from the template beside this file."""
    template = Template(Path(__file__).with_name("cost.md").read_text())
    details = (f"### {place}\n\n{_details(plan)}" for place, plan in plans.items())
    return template.substitute(
        warn_days=CALENDAR["warn_days"],
        prices_note=PRICES["note"],
        usage_note=USAGE["note"],
        free_why=USAGE["free_why"],
        backup_why=USAGE["backup_why"],
        control_plane_log_gb=USAGE["control_plane_log_gb"],
        first_year=f"{first_year(plans, REGIONS[0], 'production'):.2f}",
        summary=_summary(plans),
        levels=_levels(),
        clusters=_clusters(),
        details="\n\n".join(details),
        after_destroy=_after_destroy(),
        considered=_considered(),
        prices=_prices(),
        as_of=PRICES["as_of"],
    )


KINDS = {
    "cluster": ("eks.cluster",),
    "nodes": ("ec2.t4g.medium", "eks.auto", "ebs"),
    "database": ("rds", "secretsmanager"),
    "way out": ("vpc.nat", "ec2.t4g.nano"),
    "load balancer": ("alb", "data.out", "vpc.public"),
    "firewall": ("waf",),
    "the rest": ("",),
}


def picture(plans: Plans) -> Figure:
    """Returns the cost of both platforms, by kind, at each level of use."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    budgets = plans["bootstrap"]["variables"]["platforms"]["value"]
    bars = [(platform, level) for platform in budgets for level in LEVELS]
    left = [0.0] * len(bars)
    for kind in KINDS:
        sizes = [
            math.fsum(
                line.usd(REGIONS[0])
                for line in lines_of(plans, level)[platform]
                if kind == next(k for k, p in KINDS.items() if line.price.startswith(p))
            )
            for platform, level in bars
        ]
        axes.barh(range(len(bars)), sizes, left=left, label=kind)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    for row, (platform, _) in enumerate(bars):
        budget = budgets[platform]["monthly_budget_usd"]
        axes.plot([budget, budget], [row - 0.45, row + 0.45], color="black", linewidth=2)
        axes.text(max(left[row], budget) + 4, row, f"${left[row]:.0f}", va="center")
    axes.set_yticks(range(len(bars)), [f"{p}, {LEVELS[level]}" for p, level in bars])
    axes.invert_yaxis()
    axes.set_xlabel("US dollars a month, us-east-1; the black line is the budget")
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.4, 1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, max(left) * 1.12)
    return figure


def simulated_plans(directory: Path) -> Plans:
    """Returns the plan of every place; nothing is applied."""
    plans = {}
    with stand_in(directory / "mirror") as running:
        for place, root in places().items():
            print(f"Planning {place}", file=sys.stderr)
            workspace = Workspace(directory / place, running)
            workspace.init(root, local_state=True)
            plans[place] = workspace.plan(place)
    return plans


def main() -> None:
    """Writes page and picture, then checks the plans."""
    with tempfile.TemporaryDirectory() as directory:
        plans = simulated_plans(Path(directory))
    (DOCS / "cost.md").write_text(page(plans))
    # The same plans give the same file: no date in it, and no names drawn by chance.
    with rc_context({"svg.hashsalt": "cost"}):
        picture(plans).savefig(DOCS / "cost.svg", metadata={"Date": None})
    for platform, usd in totals(plans, REGIONS[0], "expected").items():
        print(f"{platform}: ${usd:.2f} a month")
    check(plans, datetime.datetime.now(datetime.UTC).date())


if __name__ == "__main__":
    try:
        main()
    except CostError as error:
        sys.exit(f"make cost: {error}")
