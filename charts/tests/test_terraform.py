"""What the charts repeat of terraform/ is what stands there."""

import ipaddress
import re

from tests.conftest import CLUSTERS, ENVIRONMENTS, ROOT, cluster, outputs, values_of

TERRAFORM = ROOT / "terraform"


def setting(path: str, name: str) -> str:
    """Returns the one value that a Terraform file gives a name."""
    (found,) = re.findall(
        rf'^ *{name} += "?([^"#\n]+)', (TERRAFORM / path).read_text(), re.MULTILINE
    )
    return str(found).strip()


def test_connections_are_as_many_as_the_database_takes(environment: str) -> None:
    of_the_database = setting(f"settings/environment-{environment}.tfvars", "max_connections")
    assert values_of(environment)["database"]["maxConnections"] == int(of_the_database)


def test_the_dns_is_where_eks_puts_it(environment: str) -> None:
    """EKS gives it the tenth address of the services' network."""
    services = ipaddress.ip_network(setting("platform/cluster.tf", "service_ipv4_cidr"))
    assert values_of(environment)["networkPolicy"]["dns"] == [
        {"ipBlock": {"cidr": f"{services[10]}/32"}}
    ]


def test_each_environment_is_in_the_cluster_of_its_platform() -> None:
    platforms = {e: setting(f"settings/environment-{e}.tfvars", "platform") for e in ENVIRONMENTS}
    for name in CLUSTERS:
        namespaces = {m["metadata"]["name"] for m in cluster(name) if m["kind"] == "Namespace"}
        own = {f"payments-{e}" for e, p in platforms.items() if p == name}
        assert namespaces == own | {"monitoring"}


def test_the_examples_of_the_outputs_are_of_the_platforms_network(environment: str) -> None:
    platform = setting(f"settings/environment-{environment}.tfvars", "platform")
    network = ipaddress.ip_network(setting(f"settings/platform-{platform}.tfvars", "cidr"))
    peers = outputs(f"environment-{environment}")["networkPolicy"]
    for peer in peers["clients"] + peers["database"]:
        assert ipaddress.ip_network(peer["ipBlock"]["cidr"]).subnet_of(network)  # type: ignore[arg-type]
