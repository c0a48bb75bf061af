"""README.md keeps its word: each demand has its proof, each figure its source, the tree is so."""

import re
from urllib.parse import urlsplit

from tests.pages import ROOT, files, page

README = page("README.md")
ASKED = ("### The resource\n", "### Basic\n", "### Intermediate\n", "### Advanced\n")


def links(text: str) -> list[str]:
    """Returns where a cell of a table leads, without anchors."""
    return [urlsplit(link).path for link in re.findall(r"\]\(([^)]+)\)", text)]


def test_each_demand_is_linked_to_where_it_is_met_and_to_its_proof() -> None:
    for demand, where, proof in (row for stage in ASKED for row in README.table(stage)):
        assert links(where), demand
        assert any("test" in link for link in links(proof)), demand


def test_each_departure_is_linked_to_its_decision() -> None:
    for suggested, _, why in README.table("### Where this departs from what was suggested\n"):
        assert any(link.startswith("docs/decisions/0") for link in links(why)), suggested


def test_each_figure_is_in_the_page_that_it_names() -> None:
    rows = README.table("<!-- figures -->")
    assert len(rows) > 5
    for what, figure, source in rows:
        [name] = links(source)
        for number in re.findall(r"\d(?:[\d,.]*\d)?", f"{what} {figure}"):
            alone = rf"(?<![\d.,]){re.escape(number)}(?!\d|[.,]\d)"
            assert re.search(alone, page(name).text), f"{number} of {what!r} is not in {name}"


def test_the_tree_is_the_tree() -> None:
    tree = README.text.split("## The tree\n\n```\n")[1].split("```")[0]
    folder = ""
    for line in tree.splitlines():
        name = line.split()[0]
        folder = folder if line.startswith(" ") else name
        path = ROOT / (name if name == folder else folder + name)
        assert path.exists(), line
        # A folder before a colon is in it.
        for inside in re.findall(r"(\w+)/:", line[21:]):
            assert (path / inside).exists(), line
    at_the_top = {re.sub("/.*", "/", name) for name in files()} - {".gitignore"}
    assert {name for name in at_the_top if name not in tree} == set()
