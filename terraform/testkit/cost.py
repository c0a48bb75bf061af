"""What AWS will ask for: `make cost` turns the plans of all places into docs/cost.md and a picture.

A resource's price is a row of prices/aws.json times a quantity, from the plan where it says one and
from prices/usage.json where it depends on use. A type that is neither priced nor known to be free is
an error, so that nothing new goes unpriced. Fails above a budget of settings/bootstrap.tfvars, and
when the Kubernetes version comes near extended support, whose hour costs six times as much.
"""

import datetime
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
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
    "aws_db_parameter_group",
    "aws_db_subnet_group",
    "aws_default_security_group",
    "aws_ecr_lifecycle_policy",
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


class CostError(Exception):
    """The cost cannot be accepted, or not be told; the message says why."""


@dataclass(frozen=True)
class Line:
    """So much of something a month, of one resource."""

    resource: str
    quantity: float
    price: str  # a row of prices/aws.json

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
        Line(resource["address"], *item)
        for resource in resources
        if resource["mode"] == "managed"
        for item in _items(resource["type"], resource["values"], use, variables)
    ]
    bought = _bought_by_the_cluster(level, variables) if "cluster" in variables else []
    return [*planned, *bought]


def _items(
    type_: str, values: dict[str, Any], use: dict[str, float], variables: dict[str, Any]
) -> Iterator[tuple[float, str]]:
    match type_:
        case "aws_eks_cluster":
            yield HOURS, "eks.cluster"
        case "aws_nat_gateway":
            yield HOURS, "vpc.nat_gateway"
            yield use["nat_gb"] / variables["network"]["nat"]["zones"], "vpc.nat_gateway_data"
        case "aws_eip":
            yield HOURS, "vpc.public_ipv4"
        case "aws_instance":
            yield HOURS, f"ec2.{values['instance_type']}"
            yield HOURS, "vpc.public_ipv4"
            yield values["root_block_device"][0]["volume_size"], "ebs.gp3"
        case "aws_db_instance":
            copies = 2 if values["multi_az"] else 1
            yield copies * HOURS, f"rds.{values['instance_class']}"
            yield copies * values["allocated_storage"], "rds.gp3"
            yield USAGE["backup_beyond_free_gb"][variables["name"]], "rds.backup"
            yield 1, "secretsmanager.secret"
        case "aws_kms_key":
            yield 1, "kms.key"
        case "aws_route53_zone":
            yield 1, "route53.zone"
        case "aws_route53_health_check":
            yield 1, "route53.health_check"
        case "aws_wafv2_web_acl":
            yield 1, "waf.acl"
            yield len(values["rule"]), "waf.rule"
            yield use["requests_millions"], "waf.million_requests"
        case "aws_cloudwatch_metric_alarm":
            yield 1, "cloudwatch.alarm"
        case "aws_cloudwatch_log_group":
            yield use["log_gb"] / 4, "cloudwatch.logs"
        case "aws_backup_plan":
            yield USAGE["backup_copies_gb"], "rds.backup"
            yield USAGE["backup_copies_gb"] / 3, "data.other_region"  # kept for three months
        case "aws_ecr_repository":
            yield USAGE["images_gb"] / 2, "ecr.storage"
        case "aws_s3_bucket":
            yield 0.1, "s3.storage"
        case _ if type_ in FREE or type_.startswith(FREE_PREFIXES):
            return
        case _:
            raise CostError(f"{type_} has no price: add it to testkit/cost.py, or to what is free")


def _bought_by_the_cluster(level: str, variables: dict[str, Any]) -> Iterator[Line]:
    """What is in no plan, because controllers in the cluster make it: charts/cluster asks for it."""
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


def platform_of(place: str, plans: Plans) -> str:
    """Returns the platform that a place's cost is counted to."""
    variables = plans[place]["variables"]
    match places()[place]:
        case "bootstrap":
            return "account"
        case "platform":
            return str(variables["name"]["value"])
    return str(variables["platform"]["value"])


def totals(plans: Plans, region: str, level: str) -> dict[str, float]:
    """Returns US dollars a month by platform."""
    sums: dict[str, float] = defaultdict(float)
    for place, plan in plans.items():
        sums[platform_of(place, plans)] += sum(line.usd(region) for line in lines(plan, level))
    return dict(sums)


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


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(header)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _money(usd: float) -> str:
    return f"{usd:.2f}"


def _summary(plans: Plans) -> str:
    platforms = plans["bootstrap"]["variables"]["platforms"]["value"]
    rows = []
    for platform in (*platforms, "account"):
        budget = platforms.get(platform, {}).get("monthly_budget_usd", "")
        sums = [totals(plans, region, level)[platform] for region in REGIONS for level in LEVELS]
        environments = ", ".join(
            sorted(platforms.get(platform, {}).get("environments", ["bootstrap"]))
        )
        rows.append([f"{platform} ({environments})", *map(_money, sums), str(budget)])
    header = [f"{region}, {name}" for region in REGIONS for name in LEVELS.values()]
    return _table(["$ a month", *header, "budget"], rows)


def _details(plan: dict[str, Any]) -> str:
    grouped: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines(plan, "expected"):
        if line.usd(REGIONS[0]) or line.usd(REGIONS[1]):
            grouped[line.resource, line.price].append(line)
    rows = [
        [
            f"`{resource}`" if resource.startswith("aws_") else resource,
            f"{sum(line.quantity for line in group):g} × {PRICES['prices'][price]['unit']}, `{price}`",
            *(_money(sum(line.usd(region) for line in group)) for region in REGIONS),
        ]
        for (resource, price), group in grouped.items()
    ]
    sums = [_money(sum(li.usd(region) for li in lines(plan, "expected"))) for region in REGIONS]
    return _table(["resource", "a month", *REGIONS], [*rows, ["**total**", "", *sums]])


def _after_destroy() -> str:
    kept = [
        ("the key and the bucket of the state, images", [(1, "kms.key"), (0.1, "s3.storage"), (USAGE["images_gb"], "ecr.storage")]),
        ("production's last snapshot", [(20, "rds.backup")]),
        ("production's copies in the second region, until their 90 days are over, and their key", [(USAGE["backup_copies_gb"], "rds.backup"), (1, "kms.key")]),
    ]  # fmt: skip
    return _table(
        ["what is left", *REGIONS],
        [
            [what, *(_money(sum(Line("", q, p).usd(r) for q, p in items)) for r in REGIONS)]
            for what, items in kept
        ],
    )


def _considered(plans: Plans) -> str:
    def usd(*items: tuple[float, str]) -> str:
        return f"${sum(Line('', q, p).usd(REGIONS[0]) for q, p in items):.0f}"

    cluster = usd((HOURS, "eks.cluster"))
    production = totals(plans, REGIONS[0], "expected")["production"]
    rows = [
        ["ECS on Fargate, 2 tasks of 0.5 vCPU and 1 GB", usd((HOURS, "fargate.vcpu"), (2 * HOURS, "fargate.gb")), f"against {cluster} for the control plane and nodes beside it: cheaper by some $95. The brief asks for Kubernetes and Helm, and Prometheus would need a home of its own"],
        ["App Runner, 2 instances of 1 vCPU and 2 GB", usd((2 * HOURS, "apprunner.vcpu"), (4 * HOURS, "apprunner.gb")), "no private metrics port, no migration step, not in sa-east-1"],
        ["Lambda, 2.6 million requests of 50 ms and 512 MB", usd((2.6e6 * 0.05 * 0.5, "lambda.gb_second"), (2.6, "lambda.million_requests")), "the cheapest by far at this load; group commit and the connection pool live in a process that stays, so it would need an RDS Proxy and another design"],
        ["RDS Proxy for 2 vCPU", usd((2 * HOURS, "rds.proxy_vcpu")), "pools in the pods are enough below max_connections"],
        ["one cluster for all environments", f"−{cluster}", "dev's mistakes and Spot reclaims would be production's; an upgrade of Kubernetes could not be tried before"],
        ["a third cluster, for staging alone", f"+{cluster}", "namespaces, identities and network policies part dev from staging well enough"],
        ["nodes without Auto Mode", f"−{usd((2 * HOURS, 'eks.auto.t4g.medium'))}", "the fee for two nodes buys patched nodes, Karpenter, the load balancer and EBS controllers"],
        ["NAT gateway in one zone of production", f"−{usd((HOURS, 'vpc.nat_gateway'), (HOURS, 'vpc.public_ipv4'))}", "when that zone goes, no node in the others can pull an image, just when new ones are needed"],
        ["NAT gateways in all three zones", f"+{usd((HOURS, 'vpc.nat_gateway'), (HOURS, 'vpc.public_ipv4'))}", "the third zone uses another's; with one of two left, egress lives"],
        ["NAT instances in production, too", f"−{usd((2 * HOURS, 'vpc.nat_gateway'))[1:]} +{usd((2 * HOURS, 'ec2.t4g.nano'))[1:]}", "two machines to patch in the payment path's account; nonprod has one, to learn from"],
        ["no NAT: endpoints for ECR, EKS Auth, STS and logs in two zones", usd((10 * HOURS, "vpc.interface_endpoint")), "as much as NAT gateways, and images from elsewhere would need a mirror"],
        ["Aurora Serverless v2, 0.5 ACU in two zones", usd((HOURS, "rds.aurora_acu")), f"against {usd((2 * HOURS, 'rds.db.t4g.small'))} for RDS with a standby; dearer at rest, and its commits wait for a network"],
        ["db.t4g.medium in production", f"+{usd((2 * HOURS, 'rds.db.t4g.medium'))} −{usd((2 * HOURS, 'rds.db.t4g.small'))}", "the first thing to buy when the alarms on memory or credits speak"],
        ["Managed Prometheus (20,000 series each 30 s) and Grafana, 3 editors", usd((20000 * 2 * 60 * HOURS / 1e7, "amp.ten_million_samples"), (3, "amg.editor")), "in the cluster it costs a volume of $2 and room on nodes that are there"],
        ["the load balancer with a third zone", f"+{usd((HOURS, 'vpc.public_ipv4'))}", "two zones outlive one"],
        ["EKS in extended support", f"+{usd((HOURS, 'eks.cluster_extended'))} −{cluster}", "a gate fails the build 60 days before, and `support_type = \"STANDARD\"` has AWS upgrade rather than bill"],
        ["sa-east-1 instead of us-east-1, production", f"${totals(plans, REGIONS[1], 'expected')['production']:.0f} instead of ${production:.0f}", "120 ms nearer to clients in Brazil; a setting, see the decision on the region"],
    ]  # fmt: skip
    return "\n".join(
        "| " + " | ".join(row) + " |"
        for row in (["considered", "$ a month", "why not"], ["---", "---:", "---"], *rows)
    )


def page(plans: Plans) -> str:
    """Returns docs/cost.md."""
    levels = _table(
        ["average use a month", *LEVELS.values()],
        [
            [name.replace("_", " "), *(f"{USAGE['levels'][level][name]:g}" for level in LEVELS)]
            for name in USAGE["levels"]["idle"]
        ],
    )
    clusters = "\n".join(
        f"- {name}: {c['why']} ({c['nodes']['expected']} × {c['node']}{' on Spot' if c['spot'] else ''},"
        f" {c['node_disk_gb']} GB of disk each)."
        for name, c in USAGE["clusters"].items()
    )
    sources = "\n".join(
        f"- `{name}`: {row['us-east-1']:g} / {'not there' if row['sa-east-1'] is None else format(row['sa-east-1'], 'g')}"
        f" a {row['unit']}. {row['source']}"
        for name, row in PRICES["prices"].items()
    )
    details = "\n\n".join(f"### {place}\n\n{_details(plan)}" for place, plan in plans.items())
    return f"""# Cost

Written by `make cost` from the plans of all places and [`terraform/prices/`](../terraform/prices/). The build fails when a platform passes its budget (`monthly_budget_usd` in [`bootstrap.tfvars`](../terraform/settings/bootstrap.tfvars)) or when its Kubernetes version is within {CALENDAR["warn_days"]} days of extended support.

{PRICES["note"]}

{_summary(plans)}

![Cost by platform and kind](cost.svg)

Not in it: tax, AWS support, the domain's registration, GitHub's minutes.

## Assumptions

{USAGE["note"]} Nonprod has a tenth of the traffic. Backups: {USAGE["backup_why"]}.

{levels}

{clusters}

## What each place costs

At expected use; lines of $0 are left out. What is not written `like_this` is in no plan: controllers in the cluster buy it.

{details}

## After `destroy`

{_after_destroy()}

## What was considered

In us-east-1, at expected use.

{_considered(plans)}

## Prices

US dollars in us-east-1 / sa-east-1, as of {PRICES["as_of"]}.

{sources}
"""


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
            sum(
                line.usd(REGIONS[0])
                for place, plan in plans.items()
                if platform_of(place, plans) == platform
                for line in lines(plan, level)
                if kind == next(k for k, p in KINDS.items() if line.price.startswith(p))
            )
            for platform, level in bars
        ]
        axes.barh(range(len(bars)), sizes, left=left, label=kind)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    for row, (platform, _) in enumerate(bars):
        budget = budgets[platform]["monthly_budget_usd"]
        axes.plot([budget, budget], [row - 0.45, row + 0.45], color="black", linewidth=2)
        axes.text(left[row] + 4, row, f"${left[row]:.0f}", va="center")
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
