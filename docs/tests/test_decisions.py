"""The decisions: one page each, all of one form, all in the index."""

import pytest

from tests.pages import PAGES, Page, page

DECISIONS = [page for page in PAGES if page.name.startswith("docs/decisions/0")]


@pytest.mark.parametrize("decision", DECISIONS, ids=repr)
def test_a_decision_says_what_lost(decision: Page) -> None:
    title, *parts = decision.headings()
    assert title.text.startswith(f"{decision.path.name[:4]}: ")
    assert [part.text for part in parts] == ["Context", "Decision", "What lost", "Consequences"]
    assert len(decision.text.split()) < 500, "one page"


def test_the_index_has_each_of_them() -> None:
    rows = [
        " | ".join(row).replace("`", "")
        for row in page("docs/decisions/README.md").table("with what lost.\n")
    ]
    assert rows == [
        f"[{decision.path.name[:4]}]({decision.path.name}) | {decision.headings()[0].text[6:]}"
        for decision in DECISIONS
    ]
