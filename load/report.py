"""Writes what was measured into docs/performance.md, between its two marks."""

from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->"

NAMES = {
    "service": "**this service**",
    "one_a_commit": "this service, one row a statement (`PAYMENTS_BATCH_SIZE=1`)",
    "fastapi_async": "(c) FastAPI, SQLAlchemy asyncio, PostgreSQL",
    "gunicorn_postgres": "(b) Flask, SQLAlchemy, gunicorn, PostgreSQL",
    "mvp": "(a) the MVP: Flask's own server, SQLAlchemy, SQLite",
}
TITLES = {"create": "Create", "read": "Read by id", "list": "List, 100 a page"}


def ratio(results: dict[str, Any], kind: str) -> float:
    """Returns how many times peer (c)'s rate the service's is."""
    rates = {row["server"]: row["rate"] for row in results["rows"] if row["kind"] == kind}
    return float(rates["service"] / rates["fastapi_async"])


def write(results: dict[str, Any]) -> None:
    """Replaces the figures of the page."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + _figures(results) + END + after)


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
