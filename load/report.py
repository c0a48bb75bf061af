"""Writes what was measured into docs/performance.md, between its marks, and its pictures."""

import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from laptop import files
from payments.config import Settings

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULTS = Path(__file__).parent / "results"

# What the model of docs/scaling.md assumes.
BUSY = 0.6  # so that one of two zones can be lost, or a minute be busier than its hour
DATABASE_CORES = (2, 4, 8, 16, 32, 64)
POOL_SIZE = Settings(database_url="").pool_size

NAMES = {
    "service": "**this service**",
    "one_a_commit": "this service, one row a statement (`PAYMENTS_BATCH_SIZE=1`)",
    "fastapi_async": "(c) FastAPI, SQLAlchemy asyncio, PostgreSQL",
    "gunicorn_postgres": "(b) Flask, SQLAlchemy, gunicorn, PostgreSQL",
    "mvp": "(a) the MVP: Flask's own server, SQLAlchemy, SQLite",
}
LABELS = {"service": "this service", "fastapi_async": "(c) FastAPI"}
COLORS = {"service": "tab:blue", "fastapi_async": "tab:orange"}
TITLES_OF_SIZES = {
    "create": "Create",
    "read": "Read by id",
    "list": "List, 100 from the middle",
    "consume": "Consume",
}
TITLES = {"create": "Create", "read": "Read by id", "list": "List, 100 a page"}


def rate(results: dict[str, Any], server: str, kind: str) -> float:
    """Returns the server's requests a second."""
    (row,) = [r for r in results["rows"] if r["server"] == server and r["kind"] == kind]
    return float(row["rate"])


def ratio(results: dict[str, Any], kind: str) -> float:
    """Returns how many times peer (c)'s rate the service's is."""
    return rate(results, "service", kind) / rate(results, "fastapi_async", kind)


def write() -> None:
    """Replaces the figures of the pages, and the pictures, with what was last measured."""
    bench = _read("bench")
    _write("performance", "figures", _figures(bench))
    _write("performance", "curves", _curves(bench))
    _write("bottlenecks", "statements", _statements(bench))
    _write("scaling", "pods", _pods(bench))
    _write("scaling", "model", _model(bench))
    _draw("latency", _latency(bench))
    _draw("throughput", _throughput(bench))
    _draw("table-size", _sizes(bench))


def write_soak() -> None:
    """The same for the soak."""
    soak = _read("soak")
    _write("performance", "soak", _soak(soak))
    _draw("soak", _memory(soak))


def write_consumptions() -> None:
    """The same for the consumptions."""
    _write("performance", "consumptions", _consumptions(_read("consumptions")))


def _read(name: str) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return results


def _write(page: str, name: str, text: str) -> None:
    path = DOCS / f"{page}.md"
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = path.read_text().split(begin)
    files.replace(path, before + begin + text + end + rest.split(end)[1])


def _draw(name: str, figure: Figure) -> None:
    with rc_context({"svg.hashsalt": "performance"}):
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    files.replace(DOCS / f"performance-{name}.svg", text.getvalue())


def _figures(results: dict[str, Any]) -> str:
    lines = [
        (
            f"{results['date']}, {results['cores']} cores, Python {results['python']};"
            f" {results['connections']} connections, the median of {results['rounds']} rounds"
            f" of {results['round_seconds']:g} s.\n"
        )
    ]
    for kind, title in TITLES.items():
        lines += [
            f"### {title}\n",
            (
                "| | requests/s | to (c) | p50 ms | p99 ms | p99.9 ms | CPU µs: server"
                " | CPU µs: PostgreSQL | RSS MB | failed |"
            ),
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        rows = {row["server"]: row for row in results["rows"] if row["kind"] == kind}
        for server, name in NAMES.items():
            row = rows[server]
            lines.append(
                f"| {name} | {row['rate']:,.0f} | {row['rate'] / rows['fastapi_async']['rate']:.1f}"
                f" | {row['p50_ms']:.1f} | {row['p99_ms']:.0f} | {row['p999_ms']:.0f}"
                f" | {row['service_us']:,.0f} | {row['postgresql_us']:,.0f}"
                f" | {row['rss_bytes'] / 1e6:.0f} | {row['failed']} |"
            )
        lines.append("")
    create = next(r for r in results["rows"] if r["server"] == "service" and r["kind"] == "create")
    lines.append(
        f"`pgbench` inserts the same row, one a transaction, prepared, over as many connections,"
        f" {results['pgbench_rate']:,.0f} times a second on the same server: the service makes"
        f" {create['rate'] / results['pgbench_rate']:.1f} times as many payments.\n"
    )
    return "\n".join(lines)


def _consumptions(results: dict[str, Any]) -> str:
    costs = results["postgresql_us"]
    before = {
        "none": "nothing",
        "million": f"{results['consumed']['million']:,} payments",
        "held": f"{results['consumed']['held']:,}, and a transaction is older than all of them",
    }
    lines = [
        (
            f"{results['date']}, {results['cores']} cores, Python {results['python']}. One worker"
            f" consumes {results['limit']} payments a call, each call with a key.\n"
        ),
        "| consumed before | PostgreSQL's CPU µs a payment | to nothing |",
        "|---|---|---|",
        *(
            f"| {text} | {costs[name]:.1f} | {costs[name] / costs['none']:.2f} |"
            for name, text in before.items()
        ),
        (
            f"\nIn the same run a creation cost {results['creation_us']:.1f} µs, where many shared"
            " a statement.\n"
        ),
        (
            f"{results['workers']} workers that take {results['workers_limit']} at a time consume"
            f" {results['rate']:,.0f} payments a second, from one process.\n"
        ),
    ]
    return "\n".join(lines)


def _curves(results: dict[str, Any]) -> str:
    part = 0.5
    (half,) = [p for p in results["latency"] if p["server"] == "service" and p["part"] == part]
    listed, small, large = results["list"], *_ends(results)
    lines = [
        (
            f"At half of the most it can do, {half['asked']:,} creations a second, p50 is"
            f" {half['p50_ms']:.1f} ms, p99 {half['p99_ms']:.1f} ms, p99.9"
            f" {half['p999_ms']:.1f} ms.\n"
        ),
        "![Latency against load](performance-latency.svg)\n",
        "![Throughput against connections](performance-throughput.svg)\n",
        "Median latency of one request at a time, in ms, with so many rows in the table:\n",
        "| | " + " | ".join(f"{rows:,}" for rows in _rows(results)) + " | largest to smallest |",
        "|---|" + "---|" * (len(_rows(results)) + 1),
    ]
    for kind, title in TITLES_OF_SIZES.items():
        cells = [f"{_p50(results, rows, kind):.2f}" for rows in _rows(results)]
        factor = _p50(results, large, kind) / _p50(results, small, kind)
        lines.append(f"| {title} | {' | '.join(cells)} | {factor:.2f} |")
    lines += [
        "\n![Median latency against the size of the table](performance-table-size.svg)\n",
        (
            f"`GET /list` of {listed['rows']:,} payments, {listed['bytes'] / 1e6:.0f} MB: the first"
            f" byte after {listed['first_byte_ms']:.0f} ms, the last after"
            f" {listed['seconds']:.0f} s; the service's memory went from"
            f" {listed['idle_rss_bytes'] / 1e6:.0f} to {listed['most_rss_bytes'] / 1e6:.0f} MB.\n"
        ),
        (
            f"From the start of its process the service is ready in"
            f" {results['ready_seconds']['service']:.2f} s; it then has"
            f" {results['idle_rss_bytes']['service'] / 1e6:.0f} MB of memory"
            f" ((c): {results['idle_rss_bytes']['fastapi_async'] / 1e6:.0f} MB).\n"
        ),
    ]
    return "\n".join(lines)


def _rows(results: dict[str, Any]) -> list[int]:
    return sorted({point["rows"] for point in results["sizes"]})


def _ends(results: dict[str, Any]) -> tuple[int, int]:
    rows = _rows(results)
    return rows[0], rows[-1]


def _p50(results: dict[str, Any], rows: int, kind: str) -> float:
    (point,) = [p for p in results["sizes"] if p["rows"] == rows and p["kind"] == kind]
    return float(point["p50_ms"])


def _soak(results: dict[str, Any]) -> str:
    # The recorded run is older than the note of its Python.
    python = f", Python {results['python']}" if "python" in results else ""
    return (
        f"{results['date']}{python}: {results['minutes']:g} minutes at {results['rate']:,}"
        f" requests a second, {results['requests']:,} in all, {results['failed']} failed;"
        f" p50 {results['p50_ms']:.1f} ms, p99 {results['p99_ms']:.1f} ms. After the first quarter"
        f" memory grew by {results['slope_mb_a_minute']:.2f} MB a minute, descriptors by"
        f" {results['descriptors_grew']}; never more than {results['most_dead']:.1%} of the rows,"
        f" {results['rows']:,} at the end, were dead.\n\n"
        "![Memory over time](performance-soak.svg)\n"
    )


def _statements(results: dict[str, Any]) -> str:
    lines = [
        "| | statement | calls | rows a call | ms | WAL, KB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {NAMES[point['server']]} | `{point['statement']}` | {point['calls']:,.0f}"
        f" | {point['rows_a_call']:.1f} | {point['milliseconds']:,.0f}"
        f" | {point['wal_kilobytes']:,.0f} |"
        for point in results["statements"]
    ]
    return "\n".join([*lines, ""])


def _pods(results: dict[str, Any]) -> str:
    lines = [
        f"{results['scaling'][0]['asked']:,} creations a second in all, asked by an open model:\n",
        (
            "| processes | rows a commit | CPU µs a row: service | CPU µs a row: PostgreSQL"
            " | WAL bytes a row | p99 ms | failed |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {point['pods']} | {point['rows_a_commit']:.1f} | {point['service_us']:.0f}"
        f" | {point['postgresql_us']:.0f} | {point['wal_bytes']:.0f} | {point['p99_ms']:.1f}"
        f" | {point['failed']} |"
        for point in results["scaling"]
    ]
    return "\n".join([*lines, ""])


def _model(results: dict[str, Any]) -> str:
    (busy,) = [r for r in results["rows"] if r["server"] == "service" and r["kind"] == "create"]
    wal = results["scaling"][0]["wal_bytes"]
    lines = [
        (
            f"With {busy['service_us']:.0f} µs of the service and {busy['postgresql_us']:.0f} µs of"
            f" PostgreSQL a creation at full load, {wal:.0f} bytes of WAL, and"
            f" {BUSY:.0%} of a core kept busy:\n"
        ),
        "| cores of the database | creations/s | pods | connections | WAL MB/s |",
        "|---|---|---|---|---|",
    ]
    for cores in DATABASE_CORES:
        rate = cores * BUSY * 1e6 / busy["postgresql_us"]
        pods = math.ceil(rate * busy["service_us"] / 1e6 / BUSY)
        connections = pods * (POOL_SIZE + 1)  # one more for the pod's readiness
        lines.append(f"| {cores} | {rate:,.0f} | {pods} | {connections} | {rate * wal / 1e6:.0f} |")
    return "\n".join([*lines, ""])


def _figure(title: str, x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _latency(results: dict[str, Any]) -> Figure:
    figure, axes = _figure("Creations, open model", "asked a second", "ms")
    for server, color in COLORS.items():
        points = [p for p in results["latency"] if p["server"] == server]
        for field, style in {"p50_ms": "-", "p99_ms": "--", "p999_ms": ":"}.items():
            label = f"{LABELS[server]} {field.removesuffix('_ms').replace('p999', 'p99.9')}"
            axes.plot(
                [p["asked"] for p in points],
                [p[field] for p in points],
                style,
                marker=".",
                color=color,
                label=label,
            )
    axes.set(xscale="log", yscale="log")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _throughput(results: dict[str, Any]) -> Figure:
    figure, axes = _figure("Creations, closed model", "connections", "answered a second")
    for server, color in COLORS.items():
        points = [p for p in results["throughput"] if p["server"] == server]
        axes.plot(
            [p["connections"] for p in points],
            [p["rate"] for p in points],
            marker="o",
            color=color,
            label=LABELS[server],
        )
    axes.set(xscale="log", ylim=(0, None))
    axes.legend()
    return figure


def _sizes(results: dict[str, Any]) -> Figure:
    figure, axes = _figure("One request at a time", "rows in the table", "median, ms")
    rows = _rows(results)
    for kind, title in TITLES_OF_SIZES.items():
        axes.plot(rows, [_p50(results, size, kind) for size in rows], marker="o", label=title)
    axes.set(xscale="log", ylim=(0, None))
    axes.legend()
    return figure


def _memory(results: dict[str, Any]) -> Figure:
    figure, axes = _figure("Memory over time", "minutes", "MB")
    axes.plot(
        [sample["seconds"] / 60 for sample in results["samples"]],
        [sample["rss_bytes"] / 1e6 for sample in results["samples"]],
    )
    axes.set(ylim=(0, None))
    return figure
