"""What a change costs, from two pages of docs/cost.md."""

import re

from pipeline.cost_difference import difference, lines
from pipeline.release import ROOT

PAGE = (ROOT / "docs" / "cost.md").read_text()


def test_the_lines_are_all_that_the_page_sums_up() -> None:
    _, _, listed = PAGE.partition("## What each place costs")
    totals = re.findall(r"\| \*\*total\*\* \|  \| \*\*([\d.]+)\*\*", listed)
    assert len(totals) == 6
    # The page rounds each line.
    assert abs(sum(lines(PAGE).values()) - sum(float(total) for total in totals)) < 0.5


def test_nothing_changed() -> None:
    *changed, total = difference(PAGE, PAGE)
    assert changed == []
    assert "+0.00  all, $ a month" in total


def test_what_became_dearer_and_what_is_new_and_gone() -> None:
    head = "## What each place costs\n### environment-dev\n| resource | a month | us | sa |\n"
    before = f"{head}| `a` | 1 of `x` | 10.00 | 11.00 |\n| `b` | 1 of `x` | 2.00 | 2.00 |\n"
    after = f"{head}| `a` | 2 of `x` | 20.00 | 22.00 |\n| `c` | 1 of `x` | 1.50 | 2.00 |\n"
    found = [" ".join(line.split()) for line in difference(before, after)]
    assert found == [
        "10.00 → 20.00 +10.00 environment-dev: a",
        "2.00 → 0.00 -2.00 environment-dev: b",
        "0.00 → 1.50 +1.50 environment-dev: c",
        "12.00 → 21.50 +9.50 all, $ a month",
    ]
