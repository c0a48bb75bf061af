"""What the tests on a cluster share: a namespace of their own, a database outside, and the chart.

Settings are environment variables:
    KUBECONFIG        the cluster; its user must be its administrator
    IMAGE             the service's image, as the nodes know it
    MONITORING_IMAGE  the Prometheus Operator's and Prometheus', of the Dockerfile beside this file
    HOST_ADDRESS      this machine's address as pods see it, where PostgreSQL then listens
"""

import asyncio
import json
import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
import pytest
import yaml
from laptop.postgres import Cluster as PostgreSQL

from payments import auth, migrate
from tests.conftest import (
    CHARTS,
    CLIENTS,
    PROMETHEUS_OPERATOR,
    ROOT,
    Manifest,
    go_module,
    merge,
    outputs,
)
from tests.conftest import cluster as rendered

IMAGE = os.environ.get("IMAGE", "payments:test")
MONITORING_IMAGE = os.environ.get("MONITORING_IMAGE", "payments-monitoring:test")
HOST_ADDRESS = os.environ.get("HOST_ADDRESS", "172.18.0.1")  # the bridge of kind's network

NAMESPACE = "payments-dev"
SIBLING = "payments-staging"  # the other environment of the cluster
MONITORING = "monitoring"  # the namespace whose pods may scrape
NODE_NAMESPACE = "payments-test-node"  # for the one pod that may do anything to its node
OURS = "payments-test"  # the label of what these tests made

# Millicores: two cores have room for the release, the load, and the pods that come and go.
CPU_REQUEST = 150

DOCUMENT = ROOT / "docs" / "kubernetes.md"

# How long anything may take that is no part of a measurement.
PATIENCE_SECONDS = 120

# How long the kubelet may take to bring Prometheus what the operator wrote for it.
RELOAD_SECONDS = 180


class CommandFailed(Exception):
    """A program ended with an error; the message is what it said."""


def run(program: str, *arguments: str, given: str = "") -> str:
    """Runs kubectl or helm and returns its output.

    Raises:
        CommandFailed: it fails.
    """
    result = subprocess.run(
        [CLIENTS / program, *arguments], input=given, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise CommandFailed(f"{program} {' '.join(arguments)}\n{result.stderr}{result.stdout}")
    return result.stdout


def kubectl(*arguments: str, given: str = "", namespace: str = NAMESPACE) -> str:
    """Runs kubectl in the tests' namespace."""
    return run("kubectl", f"--namespace={namespace}", *arguments, given=given)


def get(*arguments: str) -> Any:
    """Returns what `kubectl get` finds."""
    return json.loads(kubectl("get", "--output=json", *arguments))


def apply(*manifests: Manifest, namespace: str = NAMESPACE) -> None:
    """Applies manifests."""
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    kubectl("apply", "--filename=-", given=given, namespace=namespace)


def wait_until(condition: Any, seconds: float = PATIENCE_SECONDS) -> float:
    """Waits until a condition is true; returns after how many seconds it was.

    Raises:
        TimeoutError: it never is.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not in {seconds:.0f} s: {condition.__name__}")
        time.sleep(0.2)
    return time.monotonic() - began


class Database:
    """A PostgreSQL on this machine, as RDS is: outside the cluster, behind a name."""

    def __init__(self, server: PostgreSQL, port: int) -> None:
        self.port = port
        self._server = server
        self._passwords = {
            role: secrets.token_hex(16) for role in ("payments_app", "payments_migrator")
        }

    async def prepare(self) -> None:
        """Makes an empty database with the roles, as an administrator does once."""
        server = await asyncpg.connect(self._server.url())
        await server.execute("CREATE DATABASE payments")
        await server.close()
        await migrate.apply_roles(self._server.url("payments"))
        for role, password in self._passwords.items():
            await self.run(f"ALTER ROLE {role} PASSWORD '{password}'")

    def url(self, role: str) -> str:
        """Returns the URL that pods use."""
        return f"postgresql://{role}:{self._passwords[role]}@database:{self.port}/payments"

    async def run(self, sql: str, *arguments: Any) -> Any:
        """Runs a statement as the administrator; returns its first value."""
        connection = await asyncpg.connect(self._server.url("payments"))
        try:
            return await connection.fetchval(sql, *arguments)
        finally:
            await connection.close()

    async def key(self) -> str:
        """Makes a key."""
        connection = await asyncpg.connect(self._server.url("payments"))
        try:
            return await auth.create_key(connection, "load", auth.SCOPES)
        finally:
            await connection.close()

    async def missing(self, created: list[int]) -> int:
        """Returns how many acknowledged payments are not there, or were acknowledged twice."""
        found = "SELECT count(*) FROM payments WHERE id = ANY($1::bigint[])"
        return len(created) - int(await self.run(found, created))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The database that the cluster's pods use; empty but for its roles."""
    try:
        with socket.create_server((HOST_ADDRESS, 0)) as free:
            port = free.getsockname()[1]
    except OSError as error:
        raise pytest.UsageError(
            f"HOST_ADDRESS {HOST_ADDRESS} is not this machine's address as pods see it: {error}"
        ) from None
    data = tmp_path_factory.mktemp("postgresql") / "data"
    with PostgreSQL(data, {"listen_addresses": HOST_ADDRESS, "port": str(port)}) as server:
        with (data / "pg_hba.conf").open("a") as access:
            access.write("host payments payments_app,payments_migrator all scram-sha-256\n")
        found = Database(server, port)
        asyncio.run(found.prepare())
        asyncio.run(found.run("SELECT pg_reload_conf()"))
        yield found


def pod(name: str, *command: str, **spec: Any) -> Manifest:
    """Returns a pod of the service's image that runs Python, restricted in full."""
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["python3", *command],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        **spec.pop("container", {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {OURS: spec.pop("role", name)}},
        "spec": {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            **spec,
        },
    }


IDLE = ("-c", "import time; time.sleep(86400)")


def start(manifest: Manifest, namespace: str = NAMESPACE) -> None:
    """Makes a pod and waits until it runs."""
    apply(manifest, namespace=namespace)
    name = manifest["metadata"]["name"]
    kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s", namespace=namespace)


def python(pod_: str, code: str, *arguments: str, namespace: str = NAMESPACE) -> str:
    """Runs Python in a pod and returns its output."""
    return kubectl(
        "exec", pod_, "--", "python3", "-c", code, *arguments, namespace=namespace
    ).strip()


def pytest_configure() -> None:
    """Says what is missing before anything else does.

    Raises:
        pytest.UsageError: KUBECONFIG does not lead to a cluster.
    """
    if "KUBECONFIG" not in os.environ:
        raise pytest.UsageError("KUBECONFIG is not set: it names the cluster to test on")
    try:
        run("kubectl", "version", "--request-timeout=10s")
    except CommandFailed as error:
        raise pytest.UsageError(f"KUBECONFIG leads to no cluster: {error}") from None


@pytest.fixture(scope="session", autouse=True)
def namespace(database: Database) -> Iterator[None]:
    """The namespaces as charts/cluster makes them, with the database's name and its passwords."""
    _remove()
    cluster = {
        "environments": ["dev", "staging"],
        "eks": {"enabled": False},
        "loadBalancer": {"hosts": outputs("platform-nonprod")["loadBalancer"]["hosts"]},
    }
    run(
        "helm",
        "install",
        "payments-test",
        str(CHARTS / "cluster"),
        "--namespace=kube-system",
        "--values=-",
        given=json.dumps(cluster),
    )
    # What it makes for the monitoring is for clusters on EKS, but nothing that others do not take.
    monitoring = [m for m in rendered("nonprod") if MONITORING in m["metadata"].values()]
    assert [m["kind"] for m in monitoring] == ["Namespace", "NetworkPolicy"]
    for manifest in monitoring:
        apply(manifest, namespace=MONITORING)
    kubectl("label", "namespace", NAMESPACE, SIBLING, MONITORING, f"{OURS}=true")
    apply(
        *(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name},
                "stringData": {"url": url},
            }
            for name, url in (
                ("api", database.url("payments_app")),
                ("migrator", database.url("payments_migrator")),
                ("wrong", database.url("payments_app").replace("@", "wrong@", 1)),
            )
        ),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "database"},
            "spec": {"clusterIP": "None", "ports": [{"port": database.port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "database",
                "labels": {"kubernetes.io/service-name": "database"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [HOST_ADDRESS]}],
            "ports": [{"port": database.port}],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "load"},
            "data": {"load.py": Path(__file__).with_name("load.py").read_text()},
        },
        # The way of the clients, which stand for the load balancer, to the API; the API's own
        # policy has the other half of it.
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "clients"},
            "spec": {
                "podSelector": {"matchLabels": {OURS: "client"}},
                "egress": [{"to": [{"podSelector": {}}]}],
            },
        },
    )
    yield
    _remove("--wait=false")


def _remove(*options: str) -> None:
    """Removes what these tests made, now or in a run that was broken off.

    Raises:
        RuntimeError: a namespace is somebody else's.
    """
    for name in (NAMESPACE, SIBLING, MONITORING):
        labels = kubectl(
            "get", "namespace", name, "--ignore-not-found", "--output=jsonpath={.metadata.labels}"
        )
        if labels and OURS not in json.loads(labels):
            raise RuntimeError(
                f"the cluster has a namespace {name} that these tests did not make: they want a"
                " cluster without one, because they break what runs in it"
            )
    run(
        "helm",
        "uninstall",
        "payments-test",
        "--namespace=kube-system",
        "--ignore-not-found",
        "--wait",
    )
    namespaces = (NAMESPACE, SIBLING, MONITORING, NODE_NAMESPACE)
    kubectl("delete", "namespace", *namespaces, "--ignore-not-found", *options)
    # What the operator is, outside its namespace.
    kinds = "customresourcedefinitions,clusterroles,clusterrolebindings"
    kubectl("delete", kinds, f"--selector={OURS}", *options)
    # A drain that was broken off leaves its node closed.
    kubectl("uncordon", f"--selector={OURS}=drained")


FETCH = """
import sys
from urllib.request import urlopen
print(urlopen(sys.argv[1]).read().decode())
"""


class Prometheus:
    """The Prometheus of the cluster, over its HTTP API, from a pod of its namespace."""

    def get(self, path: str, **parameters: str) -> Any:
        """Returns the data of an answer."""
        address = f"http://prometheus-operated:9090/api/v1/{path}?{urlencode(parameters)}"
        return json.loads(python("reader", FETCH, address, namespace=MONITORING))["data"]

    def reload(self) -> None:
        """Makes the kubelet look at what is mounted in Prometheus, else done once a minute.

        It does so when a pod changes.
        """
        changed = f"{OURS}={time.time_ns()}"
        kubectl("annotate", "pod", "--all", changed, "--overwrite", namespace=MONITORING)

    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """Returns the series that a query gives now, each with its labels and its value."""
        result = self.get("query", query=promql)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]


def prometheus_spec() -> Manifest:
    """Returns what kube-prometheus-stack makes of our values for it, the volume left out."""
    file = CHARTS / "cluster" / "monitoring" / "kube-prometheus-stack.yaml"
    spec: Manifest = yaml.safe_load(file.read_text())["prometheus"]["prometheusSpec"]
    del spec["storageSpec"]
    for kind in ("serviceMonitor", "rule"):
        # As that chart has it, unless it is told otherwise: of its own release alone.
        of_its_own = spec.pop(f"{kind}SelectorNilUsesHelmValues", True)
        labels = {"matchLabels": {"release": "kube-prometheus-stack"}}
        spec[f"{kind}Selector"] = labels if of_its_own else {}
        spec[f"{kind}NamespaceSelector"] = {}
    return spec


@pytest.fixture(scope="session")
def monitoring_kinds(namespace: None) -> Path:
    """The kinds of the Prometheus Operator; returns its module."""
    module = go_module(*PROMETHEUS_OPERATOR)
    # By the server: a definition is larger than the annotation that kubectl would keep it in.
    files = f"--filename={module / 'example/prometheus-operator-crd'}"
    kubectl("apply", "--server-side", files)
    kubectl("label", f"{OURS}=true", files)
    kinds = ("customresourcedefinitions", f"--selector={OURS}")
    kubectl("wait", "--for=condition=Established", *kinds, "--timeout=60s")
    return module


@pytest.fixture(scope="session")
def prometheus(monitoring_kinds: Path) -> Prometheus:
    """The Prometheus Operator as its module installs it, and a Prometheus of our values."""
    module = monitoring_kinds
    files = [
        module / "bundle.yaml",
        *(module / "example/rbac/prometheus").glob("prometheus-*.yaml"),
    ]
    manifests = "\n---\n".join(file.read_text() for file in files)
    manifests = manifests.replace("namespace: default", f"namespace: {MONITORING}")
    # Where it writes down the kubelets; here that goes with the namespace.
    manifests = manifests.replace("kube-system/kubelet", f"{MONITORING}/kubelet")
    manifests = re.sub(r"quay\.io/prometheus-operator/\S+", MONITORING_IMAGE, manifests)

    kubectl("apply", "--server-side", "--filename=-", given=manifests, namespace=MONITORING)
    kubectl("label", "--filename=-", f"{OURS}=true", given=manifests, namespace=MONITORING)
    apply(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "Prometheus",
            "metadata": {"name": "prometheus"},
            "spec": {
                **prometheus_spec(),
                "image": MONITORING_IMAGE,
                "containers": [{"name": "prometheus", "command": ["/bin/prometheus"]}],
                "serviceAccountName": "prometheus",
            },
        },
        namespace=MONITORING,
    )
    kubectl(
        "wait",
        "--for=condition=Available",
        "prometheus/prometheus",
        f"--timeout={PATIENCE_SECONDS}s",
        namespace=MONITORING,
    )
    start(pod("reader", *IDLE), namespace=MONITORING)
    return Prometheus()


class Release:
    """The chart, installed by Helm as a pipeline would."""

    def __init__(self, database: Database) -> None:
        repository, _, tag = IMAGE.rpartition(":")
        self.values: Manifest = {
            "image": {"repository": repository, "tag": tag},
            "autoscaling": {"enabled": False},
            "replicas": 2,
            "resources": {"requests": {"cpu": f"{CPU_REQUEST}m"}},
            "database": {
                "authentication": "secret",
                "secrets": {"api": "api", "migrator": "migrator"},
                "port": database.port,
            },
            "networkPolicy": {
                "clients": [{"podSelector": {"matchLabels": {OURS: "client"}}}],
                "database": [{"ipBlock": {"cidr": f"{HOST_ADDRESS}/32"}}],
            },
            "monitoring": {"enabled": True},
        }

    def upgrade(
        self,
        values: Manifest | None = None,
        seconds: int = 180,
        chart: Path = CHARTS / "payments",
    ) -> float:
        """Installs or upgrades and waits until it is done; returns how many seconds it took.

        Raises:
            CommandFailed: the release failed, and Helm has taken it back.
        """
        began = time.monotonic()
        run(
            "helm",
            "upgrade",
            "--install",
            "payments",
            str(chart),
            f"--namespace={NAMESPACE}",
            "--values=-",
            "--rollback-on-failure",
            "--wait",
            f"--timeout={seconds}s",
            given=json.dumps(merge(self.values, values or {})),
        )
        return time.monotonic() - began

    def rollback(self) -> None:
        """Goes back to the release before, and waits until it serves."""
        run("helm", "rollback", "payments", f"--namespace={NAMESPACE}", "--wait", "--timeout=180s")


@pytest.fixture(scope="session")
def release(database: Database, prometheus: Prometheus) -> Release:
    """The release, in a cluster that has the operator's kinds; the first test installs it."""
    return Release(database)


def pods_of(component: str) -> list[Any]:
    """Returns the pods of a component of the release, without those that end."""
    selector = f"app.kubernetes.io/instance=payments,app.kubernetes.io/component={component}"
    pods: list[Any] = get("pods", f"--selector={selector}")["items"]
    return [p for p in pods if "deletionTimestamp" not in p["metadata"]]


def api_pods() -> list[Any]:
    """Returns the API's pods, without those that end."""
    return pods_of("api")


def is_ready(found: Manifest) -> bool:
    """Whether a pod is."""
    conditions = found["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


class Load:
    """Load on the API from a pod, over the Service's address, as long as the `with` lasts."""

    def __init__(self, key: str, rate: int) -> None:
        self.rate = rate
        self.result: Any = None
        self._key = key
        self._name = f"load-{secrets.token_hex(3)}"

    def __enter__(self) -> "Load":
        service = get("service", "payments")
        variables = {
            "LOAD_HOST": service["spec"]["clusterIP"],
            "LOAD_PORT": "80",
            "LOAD_KEY": self._key,
            "LOAD_RATE": str(self.rate),
        }
        container = {
            "env": [{"name": name, "value": value} for name, value in variables.items()],
            "volumeMounts": [{"name": "load", "mountPath": "/load"}],
            # A load that waits for a core itself would see latencies that are not the service's.
            "resources": {"requests": {"cpu": "400m", "memory": "128Mi"}},
        }
        volumes = [{"name": "load", "configMap": {"name": "load"}}]
        start(pod(self._name, "/load/load.py", role="client", container=container, volumes=volumes))
        return self

    def __exit__(self, *error: object) -> None:
        python(self._name, "import os, signal; os.kill(1, signal.SIGTERM)")
        kubectl(
            "wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{self._name}", "--timeout=60s"
        )
        self.result = json.loads(kubectl("logs", self._name))
        kubectl("delete", "pod", self._name, "--wait=false")


@pytest.fixture(scope="session")
def key(database: Database) -> str:
    """A key for the load."""
    return asyncio.run(database.key())


class Figures:
    """What was measured, in the order of the tests; becomes the table in docs/kubernetes.md."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str]] = []

    def add(self, what: str, figure: str) -> None:
        """Adds a row and shows it."""
        print(f"{what}: {figure}", flush=True)
        self._rows.append((what, figure))

    def table(self) -> str:
        """Returns the rows as Markdown."""
        return "\n".join(["| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in self._rows)])


FIGURES = Figures()


@pytest.fixture(scope="session")
def figures() -> Figures:
    """Takes the figures."""
    return FIGURES


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Shows the figures, and writes them down if all of the tests ran and passed."""
    print(f"\n{FIGURES.table()}")
    if exitstatus == 0 and not session.config.option.keyword:
        before, _, rest = DOCUMENT.read_text().partition("<!-- figures -->\n")
        _, _, after = rest.partition("<!-- /figures -->")
        new = f"<!-- figures -->\n{FIGURES.table()}\n<!-- /figures -->"
        DOCUMENT.write_text(before + new + after)
