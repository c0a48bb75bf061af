"""README.pt-BR.md says what README.md says: part by part the same commands, links and figures."""

import re

import pytest

from tests.pages import Fence, Section, page

# The two link to each other; anchors of the page itself are in its own language.
OWN = {"README.md", "README.pt-BR.md"}

PARTS = list(zip(page("README.md").sections(), page("README.pt-BR.md").sections(), strict=False))


def test_headings() -> None:
    english, portuguese = (
        [heading.level for heading in page(name).headings()] for name in sorted(OWN)
    )
    assert portuguese == english


def figures(text: str) -> list[str]:
    """Returns the numbers, whatever parts their thousands and their cents."""
    return sorted(re.sub("[.,]", "", number) for number in re.findall(r"\d[\d.,]*\d|\d", text))


def commands(fence: Fence) -> list[str]:
    """Returns a block's lines without comments, which are translated."""
    return [line.partition(" # ")[0].rstrip() for line in fence.text.splitlines()]


def shape(fence: Fence) -> list[str]:
    """Returns what of a picture or a tree is no word: a picture's arrows, a tree's names."""
    if fence.language == "mermaid":
        return [re.sub(r'"[^"]*"', "", line) for line in fence.text.splitlines()]
    return [line[:21].rstrip() for line in fence.text.splitlines()]


def others(section: Section) -> list[str]:
    """Returns the links that lead out of the page."""
    return sorted(link for link in section.links if link not in OWN and not link.startswith("#"))


@pytest.mark.parametrize(
    ("english", "portuguese"), PARTS, ids=[f"part {number}" for number in range(len(PARTS))]
)
def test_a_part(english: Section, portuguese: Section) -> None:
    assert others(portuguese) == others(english)
    assert sorted(portuguese.code) == sorted(english.code)
    assert figures(portuguese.prose) == figures(english.prose)
    assert [fence.language for fence in portuguese.fences] == [f.language for f in english.fences]
    for one, other in zip(english.fences, portuguese.fences, strict=True):
        form = commands if one.language == "sh" else shape
        assert form(other) == form(one)
