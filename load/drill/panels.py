"""Every query of every panel, asked as Grafana asks it, and the pictures that it would draw."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter

from drill.monitoring import DASHBOARDS, SCALE, Prometheus, scaled
from laptop import files

POINTS = 100  # a line
COLUMNS = 24  # of Grafana's grid
INCHES_A_ROW = 0.26
LEGEND_LINES = 6
# Four scrapes, as Grafana has it; three times as many, so that lines are not all noise.
RATE_INTERVAL = "6m"

_DIGITS = re.compile(r"(\d\.\d)\d+")

# How Grafana writes a value, by its unit; what has none here is written as a number.
UNITS: Mapping[str, Callable[[float], str]] = {
    "percentunit": lambda value: f"{value * 100:.4g}%",
    "s": EngFormatter("s", sep=""),
    "bytes": EngFormatter("B", sep=""),
    "Bps": EngFormatter("B/s", sep=""),
}


class Line(NamedTuple):
    """One series: its name in the legend, and its values at even steps; NaN where it has none."""

    legend: str
    values: list[float]


class Drawn(NamedTuple):
    """A panel of Grafana's, what its queries gave, and for how many minutes."""

    panel: dict[str, Any]
    lines: list[Line]
    minutes: float


async def ask(
    prometheus: Prometheus, name: str, since: float, until: float
) -> tuple[str, list[Drawn]]:
    """Asks all queries of a dashboard for a span of time, in seconds since the epoch.

    Returns the dashboard's title as well.

    Raises:
        LookupError: one has no data; the message names it.
        RuntimeError: Prometheus does not understand one.
    """
    dashboard = json.loads(DASHBOARDS[name].read_text())
    variables = {"__rate_interval": RATE_INTERVAL}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            variables[variable["name"]] = await _values(prometheus, variable["query"])
    drawn = []
    for panel in dashboard["panels"]:
        lines = []
        for target in panel["targets"]:
            expression = _substituted(target["expr"], variables)
            found = await _lines(prometheus, expression, target["legendFormat"], since, until)
            if not found:
                raise LookupError(f"{name}, {panel['title']}: no data for {expression}")
            lines += found
        drawn.append(Drawn(panel, lines, (until - since) / 60))
    return dashboard["title"], drawn


async def _values(prometheus: Prometheus, query: str) -> str:
    """Returns the values of a variable, as the pattern that Grafana puts in its place."""
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    if asked is None:
        raise LookupError(f"{query} is no query for a label's values")
    values = await prometheus.get(f"/label/{asked[2]}/values", **{"match[]": asked[1]})
    if not values:
        raise LookupError(f"{query} finds nothing")
    return "|".join(values)


def _substituted(expression: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        expression = expression.replace(f"${name}", value)
    return scaled(expression)


async def _lines(
    prometheus: Prometheus, expression: str, legend: str, since: float, until: float
) -> list[Line]:
    step = (until - since) / POINTS
    found = await prometheus.get(
        "/query_range", query=expression, start=since, end=until, step=step
    )
    lines = []
    for series in found["result"]:
        # Where there is no value, the line has a gap.
        values = {round((float(at) - since) / step): float(value) for at, value in series["values"]}
        points = [values.get(number, math.nan) for number in range(POINTS + 1)]
        if any(map(math.isfinite, points)):
            lines.append(Line(_legend(legend, series["metric"]), points))
    return lines


def _legend(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), template)


def draw(path: Path, title: str, drawn: Sequence[Drawn]) -> None:
    """Draws a dashboard, each panel where Grafana has it, into an SVG file."""
    # Text as text, in one font: a picture is a fraction of the size.
    with rc_context(
        {
            "svg.hashsalt": "observability",
            "svg.fonttype": "none",
            "font.sans-serif": ["DejaVu Sans"],
        }
    ):
        figure = _figure(title, drawn)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    # No more digits than a screen has dots, but in what is to be read.
    short = re.sub(r'"[^"]*"', lambda found: _DIGITS.sub(r"\1", found[0]), text.getvalue())
    files.replace(path, short)


def _figure(title: str, drawn: Sequence[Drawn]) -> Figure:
    rows = max(d.panel["gridPos"]["y"] + d.panel["gridPos"]["h"] for d in drawn)
    figure = Figure(figsize=(11, rows * INCHES_A_ROW + 0.4), layout="constrained")
    figure.suptitle(f"{title} (a minute here is {SCALE} of the rules')", fontsize=9)
    grid = figure.add_gridspec(rows, COLUMNS)
    for panel, lines, minutes in drawn:
        place = panel["gridPos"]
        x, y, width, height = (place[side] for side in "xywh")
        axes = figure.add_subplot(grid[y : y + height, x : x + width])
        axes.set_title(panel["title"], fontsize=8, loc="left")
        if panel["type"] == "stat":
            finite = [value for value in lines[0].values if math.isfinite(value)]
            _write_number(axes, panel, finite[-1])
        else:
            _draw_lines(axes, panel, lines, minutes)
    return figure


def _draw_lines(axes: Axes, panel: dict[str, Any], lines: Sequence[Line], minutes: float) -> None:
    times = [number * minutes / POINTS for number in range(POINTS + 1)]
    for line in lines:
        axes.plot(times, line.values, linewidth=0.9, label=line.legend)
    most = max(value for line in lines for value in line.values if math.isfinite(value))
    axes.set_ylim(0, most * 1.35 or 1)  # with room for the legend
    axes.margins(x=0)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=6)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _written(value, unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} min"))
    columns = math.ceil(len(lines) / LEGEND_LINES)
    axes.legend(fontsize=5, loc="upper left", ncols=columns, framealpha=0.6, labelspacing=0.2)


def _write_number(axes: Axes, panel: dict[str, Any], value: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    steps = defaults.get("thresholds", {"steps": [{"color": "black", "value": None}]})["steps"]
    color = next(
        step["color"] for step in reversed(steps) if step["value"] is None or value >= step["value"]
    )
    text = _written(value, defaults["unit"])
    axes.set_axis_off()
    axes.text(0.5, 0.4, text, fontsize=16, color=color, ha="center", va="center")


def _written(value: float, unit: str) -> str:
    plain = EngFormatter(sep="") if abs(value) >= 1000 else "{:.4g}".format
    return UNITS.get(unit, plain)(value)
