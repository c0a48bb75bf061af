"""The dashboards are what dashboards.py says, and each of their panels can be understood.

That each query is answered by a real Prometheus is what `make drill` shows.
"""

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

import dashboards
from tests.conftest import CHARTS

FILES = {path.stem: path for path in dashboards.DIRECTORY.glob("*.json")}

# Of https://grafana.com/docs/grafana/latest/panels-visualizations/configure-standard-options/#unit
UNITS = {"Bps", "bytes", "ops", "percentunit", "reqps", "s", "short"}
OF_GRAFANA = {"datasource", "namespace", "__rate_interval"}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each panel of each file, with the name of its dashboard."""
    for name, path in FILES.items():
        for panel in json.loads(path.read_text())["panels"]:
            yield name, panel


PANELS = [pytest.param(p, id=f"{name}: {p['title']}") for name, p in panels()]


def test_the_files_are_what_dashboards_py_writes() -> None:
    assert {*FILES} == {*dashboards.DASHBOARDS}
    for name, path in FILES.items():
        assert path.read_text() == dashboards.text(name), "run `make dashboards`"


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert re.fullmatch(r"[A-Z0-9].+\.", panel["description"])
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    assert all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("panel", PANELS)
def test_every_query_heeds_the_variables(panel: dict[str, Any]) -> None:
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        used = set(re.findall(r"\$\{?(\w+)", target["expr"]))
        assert used <= OF_GRAFANA
        assert "namespace" in used


def test_alerts_of_every_severity_are_counted() -> None:
    rules = "".join(path.read_text() for path in (dashboards.DIRECTORY.parent / "rules").iterdir())
    assert {*re.findall(r"severity: (\w+)", rules)} == {*dashboards.SEVERITIES}


@pytest.mark.parametrize("name", FILES)
def test_titles_are_unique_and_nothing_lies_on_another(name: str) -> None:
    all_ = [panel for of, panel in panels() if of == name]
    assert len({panel["title"] for panel in all_}) == len(all_)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in all_)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len({*cells}) == len(cells)
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("name", FILES)
def test_every_dashboard_has_an_address_of_its_own_and_leads_to_the_others(name: str) -> None:
    found = json.loads(FILES[name].read_text())
    assert found["uid"] == f"payments-{name}"
    assert found["tags"] == found["links"][0]["tags"] == ["payments"]


@pytest.mark.parametrize("name", FILES)
def test_the_picture_in_the_docs_has_every_panel(name: str) -> None:
    docs = CHARTS.parent / "docs"
    picture = f"observability-{name}.svg"
    assert f"]({picture})" in (docs / "observability.md").read_text()
    drawn = html.unescape((docs / picture).read_text())
    for of, panel in panels():
        assert of != name or f">{panel['title']}<" in drawn, "run `make drill`"


@pytest.mark.parametrize("name", FILES)
def test_the_namespace_can_be_chosen_and_all_of_them_mean_all(name: str) -> None:
    source, namespace = json.loads(FILES[name].read_text())["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    assert re.fullmatch(r'label_values\(up\{job="payments"\}, namespace\)', namespace["query"])
    assert namespace["allValue"] == ".*"
    assert namespace["current"]["value"] == "$__all"
