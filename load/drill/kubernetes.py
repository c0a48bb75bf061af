"""What the kubelet and kube-state-metrics would say, if the drill's processes were pods.

CPU, memory, waiting for a core and restarts are the processes' own; what only a cluster has (the
replicas asked for, requests, limits) is set. Names and labels are those of cAdvisor
(Kubernetes 1.36) and kube-state-metrics (2.17).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

NAMESPACE = "payments"  # as in the rules
CPU_REQUEST = 0.25  # cores; as in the chart's values
MEMORY_LIMIT = 256 * 1024**2
MOST = 8  # pods


def pod(number: int) -> str:
    """Returns a name as a Deployment gives it."""
    return f"payments-5d9c7b6f4-{'abcde'[number] * 5}"


class Cluster(Collector):
    """The metrics of the pods."""

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        self._pids = pids
        self._seen: dict[int, set[int]] = {}  # the pids that a pod has had

    def collect(self) -> Iterator[Metric]:
        """Gives what there is to scrape."""
        labels = ["namespace", "pod", "container"]
        cpu = CounterMetricFamily("container_cpu_usage_seconds", "Of all cores.", labels=labels)
        pressure = CounterMetricFamily(
            "container_pressure_cpu_waiting_seconds", "Ready, and not running.", labels=labels
        )
        memory = GaugeMetricFamily("container_memory_working_set_bytes", "In use.", labels=labels)
        restarts = CounterMetricFamily(
            "kube_pod_container_status_restarts", "Starts but the first.", labels=labels
        )
        requests = GaugeMetricFamily(
            "kube_pod_container_resource_requests", "Asked for.", labels=[*labels, "resource"]
        )
        limits = GaugeMetricFamily(
            "kube_pod_container_resource_limits", "Allowed.", labels=[*labels, "resource"]
        )
        pids = self._pids()
        ready = 0
        for number, pid in enumerate(pids):
            container = [NAMESPACE, pod(number), "api"]
            requests.add_metric([*container, "cpu"], CPU_REQUEST)
            limits.add_metric([*container, "memory"], MEMORY_LIMIT)
            seen = self._seen.setdefault(number, set())
            seen.add(pid)
            restarts.add_metric(container, len(seen) - 1)
            try:
                process = psutil.Process(pid)
                times, rss = process.cpu_times(), process.memory_info().rss
                waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
            except (psutil.NoSuchProcess, FileNotFoundError):
                continue
            ready += 1
            cpu.add_metric(container, times.user + times.system)
            pressure.add_metric(container, waited)
            memory.add_metric(container, rss)
        yield from (cpu, pressure, memory, restarts, requests, limits)
        for name, labelled, value in (
            ("kube_deployment_spec_replicas", "deployment", len(pids)),
            ("kube_deployment_status_replicas_ready", "deployment", ready),
            ("kube_deployment_status_replicas_available", "deployment", ready),
            ("kube_deployment_status_replicas_unavailable", "deployment", len(pids) - ready),
            ("kube_horizontalpodautoscaler_spec_max_replicas", "horizontalpodautoscaler", MOST),
            (
                "kube_horizontalpodautoscaler_status_current_replicas",
                "horizontalpodautoscaler",
                len(pids),
            ),
        ):
            family = GaugeMetricFamily(name, "Of the service.", labels=["namespace", labelled])
            family.add_metric([NAMESPACE, "payments"], value)
            yield family


@contextmanager
def exported(pids: Callable[[], Sequence[int]]) -> Iterator[int]:
    """Serves them in a thread until the end of the block; gives the port."""
    registry = CollectorRegistry()
    registry.register(Cluster(pids))
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
