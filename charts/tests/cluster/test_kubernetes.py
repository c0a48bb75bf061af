"""What the chart promises, on a cluster, in this order: each test leaves its release to the next.

Durations and latencies are recorded and never asserted: they say how fast the machine was. What is
asserted holds on any machine: no request fails, each is answered within the client's own deadline
(load.py), and no acknowledged payment is lost.
"""

import asyncio
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from payments import migrate
from tests.cluster.conftest import (
    CPU_REQUEST,
    HOST_ADDRESS,
    IDLE,
    MONITORING,
    NAMESPACE,
    NODE_NAMESPACE,
    OURS,
    PATIENCE_SECONDS,
    RELOAD_SECONDS,
    SIBLING,
    CommandFailed,
    Database,
    Figures,
    Load,
    Prometheus,
    Release,
    api_pods,
    apply,
    get,
    is_ready,
    kubectl,
    pod,
    pods_of,
    python,
    run,
    start,
    wait_until,
)
from tests.conftest import CHARTS, CLIENTS, ROOT

RATE = 200  # requests a second
UPDATES = 6  # each replaces both pods
REQUESTS = 15_000  # at the least, during the updates

# The label of the API's pods, of every release.
API = "app.kubernetes.io/component=api"

BROKEN = "0000000000000000000000000000000000000000000000000000000000000000"


def served(load: Load) -> str:
    """Returns a run's figures in words."""
    found = load.result
    return (
        f"{len(found['failures'])} of {found['requests']:,} requests failed; p99"
        f" {found['latency']['p99']} ms, longest {found['latency']['max']} ms"
    )


def assert_nothing_failed(load: Load, database: Database) -> None:
    """Checks that every request was answered as it should, and is in the database."""
    assert load.result["failures"] == []
    assert asyncio.run(database.missing(load.result["created"])) == 0


def test_the_first_install_on_an_empty_database(
    release: Release, database: Database, figures: Figures
) -> None:
    assert asyncio.run(database.run("SELECT to_regclass('payments')")) is None
    seconds = release.upgrade()
    applied = asyncio.run(database.run("SELECT max(version) FROM schema_migrations"))
    assert applied == migrate.newest_version()
    assert [is_ready(p) for p in api_pods()] == [True, True]
    figures.add("First install on an empty database, migration included", f"{seconds:.0f} s")


def test_helm_test_passes(figures: Figures) -> None:
    began = time.monotonic()
    output = run("helm", "test", "payments", f"--namespace={NAMESPACE}", "--timeout=90s")
    assert "Phase:          Succeeded" in output
    assert get("networkpolicies", f"--selector={OURS}")["items"] == []
    names = {p["metadata"]["name"] for p in get("networkpolicies")["items"]}
    assert names == {"default-deny", "clients", "payments", "payments-audit", "payments-migration"}
    figures.add("`helm test`", f"passes in {time.monotonic() - began:.0f} s")


def test_the_pipelines_watch_reads_every_pod() -> None:
    """It is given the environment dev, whose namespace and release these are."""
    result = subprocess.run(
        [sys.executable, "-m", "pipeline.burn_rate", "dev", "0"],
        cwd=ROOT,
        env={**os.environ, "KUBECTL": str(CLIENTS / "kubectl")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{len(api_pods())} pods, 0 requests, 0 of them failed\n")


def manage(*command: str, file: Path | None = None) -> str:
    """Runs a command of the service in the environment dev; returns what it prints."""
    result = subprocess.run(
        [sys.executable, "-m", "pipeline.manage", "dev", *command],
        cwd=ROOT,
        env={
            **os.environ,
            "KUBECTL": str(CLIENTS / "kubectl"),
            "HELM": str(CLIENTS / "helm"),
            "FILE": str(file or ""),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_schemas_owner_makes_a_key_and_brings_old_payments(
    database: Database, tmp_path: Path
) -> None:
    key = manage("keys create ana --scope payments:read").strip()
    assert len(key) == 43
    assert "ana" in manage("keys list")
    old = tmp_path / "old.sqlite3"
    with closing(sqlite3.connect(old)) as file, file:
        file.execute("CREATE TABLE payment (id INTEGER PRIMARY KEY, status VARCHAR(10))")
        file.execute("INSERT INTO payment VALUES (7, 'inserted')")
    manage("import --from /tmp/old.sqlite3 --without-payment --report -", file=old)
    assert asyncio.run(database.run("SELECT status::text FROM payments WHERE id = 7")) == "inserted"
    left = [p["metadata"] for p in get("pods")["items"] if "manage" in p["metadata"]["name"]]
    assert all("deletionTimestamp" in metadata for metadata in left)


def test_the_namespace_refuses_a_pod_with_more_rights(figures: Figures) -> None:
    privileged = {"securityContext": {"privileged": True}}
    with pytest.raises(CommandFailed, match='violates PodSecurity "restricted:latest"'):
        apply(pod("privileged", *IDLE, container=privileged))
    figures.add("A privileged pod in the namespace", "refused by the API server")


CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
    print("open")
except OSError as error:
    print("closed")
"""

RESOLVE = """
import socket, sys
try:
    socket.getaddrinfo(sys.argv[1], 80)
    print("open")
except OSError:
    print("closed")
"""


ALLOWED = [
    "load balancer → API",
    "Prometheus → metrics",
    "Prometheus → auditor",
    "API → database",
    "API → DNS",
    "auditor → database",
    "auditor → DNS",
    "another environment → DNS",
]


def test_each_flow_that_is_allowed_works_and_no_other(database: Database, figures: Figures) -> None:
    start(pod("balancer", *IDLE, role="client"))
    start(pod("stranger", *IDLE))
    # What another environment's pipeline could do: its own policies are its to change.
    egress = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}
    anywhere = {"kind": "NetworkPolicy", "metadata": {"name": "anywhere"}, "spec": egress}
    apply({"apiVersion": "networking.k8s.io/v1", **anywhere}, namespace=SIBLING)
    start(pod("sibling", *IDLE), namespace=SIBLING)
    start(pod("prometheus", *IDLE), namespace=MONITORING)
    found, auditor = api_pods()[0], pods_of("audit")[0]
    api, address = found["metadata"]["name"], found["status"]["podIP"]
    audit, audit_address = auditor["metadata"]["name"], auditor["status"]["podIP"]
    watcher = get("pod", "prometheus-prometheus-0", f"--namespace={MONITORING}")["status"]["podIP"]
    kubernetes = get("service", "kubernetes", "--namespace=default")["spec"]["clusterIP"]

    def flow(source: str, host: str, port: int, namespace: str = NAMESPACE) -> Future[str]:
        return threads.submit(python, source, CONNECT, host, str(port), namespace=namespace)

    def lookup(source: str) -> Future[str]:
        return threads.submit(python, source, RESOLVE, "database")

    flows: dict[str, str] = {}

    def policies_are_in_force() -> bool:
        # What is refused takes seconds to show it: all at once.
        asked = {
            "load balancer → API": flow("balancer", address, 8000),
            "Prometheus → metrics": flow("prometheus", address, 9464, MONITORING),
            "Prometheus → auditor": flow("prometheus", audit_address, 9464, MONITORING),
            "API → database": flow(api, HOST_ADDRESS, database.port),
            "API → DNS": lookup(api),
            "auditor → database": flow(audit, HOST_ADDRESS, database.port),
            "auditor → DNS": lookup(audit),
            "another environment → DNS": flow("sibling", "kube-dns.kube-system", 53, SIBLING),
            "load balancer → metrics": flow("balancer", address, 9464),
            "load balancer → auditor": flow("balancer", audit_address, 9464),
            "Prometheus → API": flow("prometheus", address, 8000, MONITORING),
            "another pod → API": flow("stranger", address, 8000),
            "another pod → auditor": flow("stranger", audit_address, 9464),
            "another pod → database": flow("stranger", HOST_ADDRESS, database.port),
            "another pod → DNS": lookup("stranger"),
            "API → Kubernetes": flow(api, kubernetes, 443),
            "API → another API pod": flow(api, api_pods()[1]["status"]["podIP"], 8000),
            "auditor → Kubernetes": flow(audit, kubernetes, 443),
            "auditor → API": flow(audit, address, 8000),
            "another environment → API": flow("sibling", address, 8000, SIBLING),
            "another environment → metrics": flow("sibling", address, 9464, SIBLING),
            "another environment → auditor": flow("sibling", audit_address, 9464, SIBLING),
            "another environment → Prometheus": flow("sibling", watcher, 9090, SIBLING),
        }
        flows.update({name: future.result() for name, future in asked.items()})
        return [name for name, state in flows.items() if state == "open"] == ALLOWED

    # A new pod's policies take a while to be in force. The assertion below says what still differs.
    with ThreadPoolExecutor() as threads, suppress(TimeoutError):
        wait_until(policies_are_in_force)
    kubectl("delete", "pod", "prometheus", namespace=MONITORING)
    kubectl("delete", "pod", "balancer", "stranger")
    kubectl("delete", "networkpolicy/anywhere", "pod/sibling", namespace=SIBLING)
    opened = [name for name, state in flows.items() if state == "open"]
    assert opened == ALLOWED
    figures.add("Flows that a NetworkPolicy allows", f"work: {', '.join(opened)}")
    closed = [name for name in flows if name not in opened]
    figures.add("Flows that none allows", f"refused: {', '.join(closed)}")


RULES = CHARTS / "payments" / "monitoring" / "rules"


def test_prometheus_finds_every_pod_and_every_rule(
    prometheus: Prometheus, figures: Figures
) -> None:
    pods = {"payments": api_pods(), "payments-audit": pods_of("audit")}
    expected = sorted(
        (job, NAMESPACE, p["metadata"]["name"], "up") for job, found in pods.items() for p in found
    )
    assert [job for job, *_ in expected] == ["payments", "payments", "payments-audit"]

    def targets_are_up() -> bool:
        targets = prometheus.get("targets", state="active")["activeTargets"]
        labels = ("job", "namespace", "pod")
        return sorted((*(t["labels"][n] for n in labels), t["health"]) for t in targets) == expected

    prometheus.reload()
    wait_until(targets_are_up, RELOAD_SECONDS)

    files = [yaml.safe_load(file.read_text()) for file in RULES.glob("*.yaml")]
    sizes = {group["name"]: len(group["rules"]) for file in files for group in file["groups"]}

    def rules_are_evaluated() -> bool:
        groups = prometheus.get("rules")["groups"]
        evaluated = all(rule["health"] != "unknown" for rule in rules_of(groups))
        return evaluated and {group["name"]: len(group["rules"]) for group in groups} == sizes

    wait_until(rules_are_evaluated, RELOAD_SECONDS)
    rules = rules_of(prometheus.get("rules")["groups"])
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
    figures.add(
        "Prometheus, which the operator runs as our values say",
        f"{len(expected)} targets, all up; {len(rules)} rules in {len(sizes)} groups without an"
        " error; no alert fires",
    )


def rules_of(groups: list[Any]) -> list[Any]:
    """Returns the rules of groups."""
    return [rule for group in groups for rule in group["rules"]]


# Of a series that is counted by client there is none before the first call.
CALL_OLD_ROUTE = """
import sys
from urllib.request import Request, urlopen
headers = {"Authorization": f"Bearer {sys.argv[1]}"}
print(urlopen(Request("http://127.0.0.1:8000/list", headers=headers)).status)
"""

# A selector in a rule, and of its matchers those that say whose series it wants.
SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")
OWNER = re.compile(r'\b(?:job|namespace)="[^"]*"')


def test_rules_find_what_they_ask_of_service_and_auditor(
    prometheus: Prometheus, database: Database, key: str, figures: Figures
) -> None:
    """Which labels a series has is decided by the operator; the rules were written before it."""
    ours = f'namespace="{NAMESPACE}"'
    requests = (
        "http_server_request_duration_seconds_count"
        f'{{job="payments", {ours}, http_route=~"/v1/.*"}}'
    )

    def counted() -> float:
        return sum(value for _, value in prometheus.query(requests))

    def objectives_are_measured() -> bool:
        measured = prometheus.query(f"payments:slo_requests:rate5m{{{ours}}} > 0")
        return sorted(labels["slo"] for labels, _ in measured) == ["availability", "latency"]

    assert python(api_pods()[0]["metadata"]["name"], CALL_OLD_ROUTE, key) == "200"
    before = counted()
    with Load(key, 20) as load:
        wait_until(objectives_are_measured)
    assert_nothing_failed(load, database)

    def all_are_counted() -> bool:
        return bool(counted() - before == load.result["requests"])

    wait_until(all_are_counted)
    asked = {
        f"{name}{{{', '.join(owner)}}}"
        for rule in rules_of(prometheus.get("rules")["groups"])
        for name, matchers in SELECTOR.findall(rule["query"])
        if len(owner := OWNER.findall(matchers)) == 2
    }
    assert len(asked) >= 20
    assert [selector for selector in sorted(asked) if not prometheus.query(selector)] == []
    figures.add(
        "Series that the rules ask of service and auditor",
        f"all {len(asked)} are there; of {load.result['requests']:,} requests Prometheus counted"
        f" {counted() - before:,.0f}",
    )


def test_rolling_updates_under_load_cost_no_client_anything(
    release: Release, database: Database, key: str, figures: Figures
) -> None:
    with Load(key, RATE) as calm:
        time.sleep(15)
    assert_nothing_failed(calm, database)
    figures.add(f"{RATE} requests a second, nothing else going on", served(calm))

    with Load(key, RATE) as load:
        slowest = max(
            release.upgrade({"settings": {"PAYMENTS_KEY_REFRESH_SECONDS": 5 + update / 10}})
            for update in range(UPDATES)
        )
        wait_until_the_replaced_have_ended()
    found = load.result
    missing = asyncio.run(database.missing(found["created"]))
    figures.add(
        f"The same during {UPDATES} rolling updates, each with its migration Job",
        f"{served(load)}; the slowest update took {slowest:.0f} s",
    )
    figures.add(
        "Payments acknowledged meanwhile, and found in the database",
        f"{len(found['created']):,} and {len(found['created']) - missing:,}",
    )
    assert_nothing_failed(load, database)
    assert found["requests"] >= REQUESTS


def wait_until_the_replaced_have_ended() -> None:
    """Waits for the API's pods that were replaced or taken away, as they serve on for a while."""
    pods = get("pods", f"--selector={API}")["items"]
    ending = [p["metadata"]["name"] for p in pods if "deletionTimestamp" in p["metadata"]]
    if ending:
        kubectl("wait", "--for=delete", f"--timeout={PATIENCE_SECONDS}s", "pod", *ending)


def uids() -> list[str]:
    """Returns what tells the API's pods from any others."""
    return sorted(p["metadata"]["uid"] for p in api_pods())


def test_an_upgrade_whose_migration_fails_changes_nothing(
    release: Release, database: Database, key: str, figures: Figures
) -> None:
    before = uids()
    checksum = asyncio.run(database.run("SELECT checksum FROM schema_migrations WHERE version = 1"))
    change = "UPDATE schema_migrations SET checksum = $1 WHERE version = 1"
    asyncio.run(database.run(change, BROKEN))
    with Load(key, RATE) as load:
        began = time.monotonic()
        with pytest.raises(CommandFailed, match="payments-migration"):
            release.upgrade({"settings": {"PAYMENTS_KEY_REFRESH_SECONDS": 7}})
        seconds = time.monotonic() - began
    logs = kubectl("logs", "job/payments-migration")
    asyncio.run(database.run(change, checksum))
    assert "was changed after it was applied" in logs
    assert uids() == before
    assert_nothing_failed(load, database)
    figures.add(
        "An upgrade whose migration fails",
        f"given up after {seconds:.0f} s, the same pods serve on; {served(load)}",
    )


def test_an_upgrade_whose_pods_never_get_ready_is_taken_back(
    release: Release, database: Database, key: str, figures: Figures
) -> None:
    before = uids()
    with Load(key, RATE) as load:
        began = time.monotonic()
        with pytest.raises(CommandFailed):
            release.upgrade({"database": {"secrets": {"api": "wrong"}}}, seconds=30)
        seconds = time.monotonic() - began
    assert uids() == before
    status = json.loads(
        run("helm", "status", "payments", f"--namespace={NAMESPACE}", "--output=json")
    )
    assert status["info"]["status"] == "deployed"
    assert_nothing_failed(load, database)
    figures.add(
        "An upgrade whose pods never get ready (a wrong password), `--timeout 30s`",
        f"rolled back after {seconds:.0f} s, the same pods serve on; {served(load)}",
    )


def test_an_earlier_chart_upgrades_to_this_one_and_back(
    release: Release, database: Database, key: str, figures: Figures, tmp_path: Path
) -> None:
    """There is no earlier release yet: what stands for it is this chart under an earlier number."""
    earlier = tmp_path / "payments"
    shutil.copytree(CHARTS / "payments", earlier)
    chart = yaml.safe_load((earlier / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == "0.1.0"
    chart |= {"version": "0.0.1", "appVersion": "0.0.1"}
    (earlier / "Chart.yaml").write_text(yaml.safe_dump(chart))

    def version() -> Any:
        return get("deployment", "payments")["metadata"]["labels"]["app.kubernetes.io/version"]

    versions = []
    with Load(key, RATE) as load:
        for step in (
            lambda: release.upgrade(chart=earlier),
            release.upgrade,
            release.rollback,
            release.upgrade,
        ):
            step()
            versions.append(version())
    assert versions == ["0.0.1", "0.1.0", "0.0.1", "0.1.0"]
    assert_nothing_failed(load, database)
    figures.add("0.0.1 → this version → rolled back to 0.0.1 → this version", served(load))


def test_a_drain_leaves_one_pod_serving(database: Database, key: str, figures: Figures) -> None:
    """On one node an evicted pod has nowhere to go, so that the budget holds the other."""
    node = api_pods()[0]["spec"]["nodeName"]
    nodes = len(get("nodes")["items"])
    kubectl("label", "node", node, f"{OURS}=drained", "--overwrite")
    with Load(key, RATE) as load:
        try:
            drain = run_drain(node, 15 if nodes == 1 else 120)
            if nodes == 1:
                assert "Cannot evict pod as it would violate the pod's disruption budget" in drain
                assert len([p for p in api_pods() if is_ready(p)]) == 1
        finally:
            kubectl("uncordon", node)
            kubectl("label", "node", node, f"{OURS}-")
        wait_until(both_ready)
    assert_nothing_failed(load, database)
    outcome = "one pod evicted, the budget holds the other" if nodes == 1 else "both pods moved"
    figures.add(f"Drain of a node ({nodes} in the cluster)", f"{outcome}; {served(load)}")


def run_drain(node: str, seconds: int) -> str:
    """Drains a node of the API's pods; returns what kubectl said, whether or not it was done."""
    try:
        return kubectl(
            "drain",
            node,
            f"--pod-selector={API}",
            f"--timeout={seconds}s",
        )
    except CommandFailed as error:
        return str(error)


def both_ready() -> bool:
    """Whether both pods of the API are ready."""
    return [is_ready(p) for p in api_pods()] == [True, True]


def restarts() -> int:
    """Returns how often containers of the API were started again."""
    return sum(c["restartCount"] for p in api_pods() for c in p["status"]["containerStatuses"])


def wait_for_recovery(before: int) -> float:
    """Waits until a container was started again and is ready; returns the seconds."""

    def started_again() -> bool:
        return restarts() > before and both_ready()

    return wait_until(started_again)


KILL = """
import os, signal, sys
uid = sys.argv[1]
for process in filter(str.isdigit, os.listdir("/proc")):
    try:
        cgroups = open(f"/proc/{process}/cgroup").read().replace("_", "-")
        command = open(f"/proc/{process}/cmdline", "rb").read()
    except OSError:
        continue
    if uid in cgroups and b"serve" in command:
        os.kill(int(process), signal.SIGKILL)
        print(process)
"""


def test_kill_9_of_a_process(database: Database, key: str, figures: Figures) -> None:
    kubectl("create", "namespace", NODE_NAMESPACE)
    kubectl(
        "label",
        "namespace",
        NODE_NAMESPACE,
        "pod-security.kubernetes.io/enforce=privileged",
        "--overwrite",
    )
    victim = api_pods()[0]
    root = {"securityContext": {"privileged": True}}
    node = pod(
        "node",
        *IDLE,
        container=root,
        securityContext={"runAsUser": 0},
        hostPID=True,
        nodeName=victim["spec"]["nodeName"],
    )
    start(node, namespace=NODE_NAMESPACE)
    before = restarts()
    with Load(key, RATE) as load:
        time.sleep(5)
        killed = python("node", KILL, victim["metadata"]["uid"], namespace=NODE_NAMESPACE)
        assert killed
        seconds = wait_for_recovery(before)
        time.sleep(5)
    kubectl("delete", "namespace", NODE_NAMESPACE, "--wait=false")
    assert asyncio.run(database.missing(load.result["created"])) == 0
    figures.add(
        "kill -9 of one of two processes", f"ready again after {seconds:.1f} s; {served(load)}"
    )


# The kernel takes the process with the highest score, which is its memory and what it is given on
# top: many small eaters, so that none has more than the service, and all that can be on top for it.
EAT = """
import os, time
open("/proc/1/oom_score_adj", "w").write("1000")
for _ in range(24):
    if os.fork() == 0:
        memory = b"x" * (10 * 1024 * 1024)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""


def test_out_of_memory(database: Database, key: str, figures: Figures) -> None:
    before = restarts()
    name = api_pods()[0]["metadata"]["name"]
    with Load(key, RATE) as load:
        time.sleep(5)
        with pytest.raises(CommandFailed, match="exit code 137"):
            python(name, EAT)
        seconds = wait_for_recovery(before)
        time.sleep(5)
    (container,) = get("pod", name)["status"]["containerStatuses"]
    assert container["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert asyncio.run(database.missing(load.result["created"])) == 0
    figures.add(
        "One of two processes killed for its memory",
        f"ready again after {seconds:.1f} s; {served(load)}",
    )


def test_thirty_seconds_without_dns(database: Database, key: str, figures: Figures) -> None:
    """What has its connections needs no names."""

    def scale(replicas: int) -> None:
        run(
            "kubectl",
            "--namespace=kube-system",
            "scale",
            "deployment",
            "coredns",
            f"--replicas={replicas}",
        )

    replicas = get("deployment", "coredns", "--namespace=kube-system")["spec"]["replicas"]
    name = api_pods()[0]["metadata"]["name"]

    def gone() -> bool:
        return python(name, RESOLVE, "database") == "closed"

    with Load(key, RATE) as load:
        scale(0)
        try:
            wait_until(gone)
            time.sleep(30)
            assert both_ready()
        finally:
            scale(replicas)
        kubectl("rollout", "status", "deployment/coredns", namespace="kube-system")
    assert_nothing_failed(load, database)
    figures.add("30 s without DNS", served(load))


def millicores() -> int:
    """Returns the CPU that the API's pods take together, of the source that the autoscaler has."""
    pods = kubectl("top", "pods", f"--selector={API}", "--no-headers")
    return sum(int(line.split()[1].removesuffix("m")) for line in pods.splitlines())


def measured_since() -> datetime:
    """Returns when the time began of which `millicores` is the mean."""
    path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{NAMESPACE}/pods?labelSelector={quote(API)}"
    measured = json.loads(run("kubectl", "get", "--raw", path))["items"]
    return min(
        datetime.fromisoformat(m["timestamp"])
        - timedelta(seconds=float(m["window"].removesuffix("s")))
        for m in measured
    )


def test_the_autoscaler_goes_out_and_back_in(
    release: Release, database: Database, key: str, figures: Figures
) -> None:
    """With less patience than in production, and a target of what this machine takes for the load.

    What a request costs differs between machines by more than there is room for between two pods
    and four, so that any fixed target is never passed on one machine, or never left on another.
    """
    scaling = {"enabled": True, "minReplicas": 2, "scaleDownStabilizationSeconds": 15}
    release.upgrade({"autoscaling": {**scaling, "maxReplicas": 2}})

    def replicas() -> Any:
        return get("deployment", "payments")["spec"]["replicas"]

    def out() -> bool:
        return replicas() == 4 and len([p for p in api_pods() if is_ready(p)]) == 4

    def back() -> bool:
        return bool(replicas() == 2)

    with Load(key, 300) as high:
        began = datetime.now(UTC)

        def the_load_is_measured() -> bool:
            return measured_since() >= began

        wait_until(the_load_is_measured)
        taken = millicores()
        # Four pods are wanted above three times the target, two are enough below twice. The load is
        # three times what the one needs; the low load was seen to take a third of the other.
        target = taken / 9
        scaling["cpuUtilization"] = round(100 * target / CPU_REQUEST)
        release.upgrade({"autoscaling": {**scaling, "maxReplicas": 4}})
        seconds_out = wait_until(out, 180)
    with Load(key, 10) as low:
        seconds_in = wait_until(back, 240)
        wait_until_the_replaced_have_ended()
    assert_nothing_failed(high, database)
    assert_nothing_failed(low, database)
    figures.add(
        f"Autoscaler at {high.rate} requests a second",
        f"{taken} millicores at a target of {target:.0f} a pod: 2 → 4 pods in {seconds_out:.0f} s;"
        f" {served(high)}",
    )
    figures.add(
        f"Autoscaler at {low.rate} requests a second, 15 s of patience",
        f"4 → 2 pods in {seconds_in:.0f} s; {served(low)}",
    )
