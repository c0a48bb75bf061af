"""Every link leads to a file that is kept, and every anchor to a heading of it."""

from urllib.parse import unquote, urlsplit

import pytest

from tests.pages import PAGES, ROOT, Page, files, folders


@pytest.mark.parametrize("page", PAGES, ids=repr)
def test_links_lead_somewhere(page: Page) -> None:
    for link in page.links():
        target = urlsplit(link)
        if target.scheme:
            # What others keep cannot be asked for here; it is asked for over TLS.
            assert target.scheme == "https", link
            continue
        path = page.path if not target.path else (page.path.parent / target.path).resolve()
        name = str(path.relative_to(ROOT))
        assert name in files() | folders(), f"{link} is not there"
        if anchor := unquote(target.fragment):
            anchors = {heading.anchor for heading in Page(name).headings()}
            assert anchor in anchors, f"{link}: no such heading among {sorted(anchors)}"


def test_every_document_is_linked_from_another() -> None:
    linked = {
        str((page.path.parent / urlsplit(link).path).resolve().relative_to(ROOT))
        for page in PAGES
        for link in page.links()
        if urlsplit(link).path and not urlsplit(link).scheme
    }
    # GitHub shows these by itself.
    by_github = {page.name for page in PAGES if page.name.startswith(".github/")}
    alone = {page.name for page in PAGES} - linked - by_github
    # A link to a folder shows its README.
    alone -= {f"{folder}/README.md" for folder in linked}
    assert alone <= {"README.md"}
