"""The documents of this repository, read as GitHub reads them."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]

_MARKDOWN = MarkdownIt("commonmark").enable("table")


@cache
def files() -> frozenset[str]:
    """Returns the paths of everything that git keeps or would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return frozenset(name for name in listed.splitlines() if (ROOT / name).is_file())


@cache
def folders() -> frozenset[str]:
    """Returns the paths of the folders that these are in."""
    return frozenset(str(folder) for name in files() for folder in Path(name).parents)


@cache
def sources() -> str:
    """Returns the text of all that is neither document nor test, where what is named is to be."""
    texts = (
        (ROOT / name).read_text(errors="ignore")
        for name in files()
        if not name.endswith((".md", ".lock", ".svg")) and "tests/" not in name
    )
    return "\n".join(texts)


class Heading(NamedTuple):
    """A heading: its depth, its text, and the anchor that GitHub gives it."""

    level: int
    text: str
    anchor: str


class Fence(NamedTuple):
    """A fenced block: what it is called and what is in it."""

    language: str
    text: str


class Page:
    """A document and what is in it."""

    def __init__(self, name: str) -> None:
        """Reads the document with this path in the repository."""
        self.name = name
        self.path = ROOT / name
        self.text = self.path.read_text()
        self._tokens = _MARKDOWN.parse(self.text)

    def __repr__(self) -> str:
        """Names the document in the name of a test."""
        return self.name

    def headings(self) -> list[Heading]:
        """Returns the headings, from the first to the last."""
        found: list[Heading] = []
        for token, inline in zip(self._tokens, self._tokens[1:], strict=False):
            if token.type == "heading_open":
                text = "".join(part.content for part in inline.children or ())
                anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
                earlier = sum(re.sub(r"-\d+$", "", h.anchor) == anchor for h in found)
                found.append(
                    Heading(int(token.tag[1]), text, f"{anchor}-{earlier}" if earlier else anchor)
                )
        return found

    def links(self) -> list[str]:
        """Returns where links and pictures lead."""
        return [
            str(token.attrs["href" if token.type == "link_open" else "src"])
            for token in self._inline()
            if token.type in ("link_open", "image")
        ]

    def code(self) -> list[str]:
        """Returns what stands in backticks."""
        return [token.content for token in self._inline() if token.type == "code_inline"]

    def prose(self) -> str:
        """Returns the text without its code."""
        return "\n".join(token.content for token in self._inline() if token.type == "text")

    def fences(self, language: str = "") -> list[Fence]:
        """Returns the fenced blocks, of one language or of all."""
        found = [Fence(t.info, t.content) for t in self._tokens if t.type == "fence"]
        return [fence for fence in found if language in ("", fence.language)]

    def table(self, after: str) -> list[list[str]]:
        """Returns the cells of the table that follows a text, without its header, as written."""
        rows = self.text.split(after, 1)[1].lstrip("\n").split("\n\n")[0].splitlines()
        return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]

    def sections(self) -> list["Section"]:
        """Returns the document in parts, each from one heading to the next."""
        parts = [Section()]
        for token in self._tokens:
            if token.type == "heading_open":
                parts.append(Section())
            parts[-1].add(token)
        return parts

    def _inline(self) -> Iterator[Token]:
        for token in self._tokens:
            yield from token.children or ()


class Section:
    """What stands between two headings: what a translation must keep."""

    def __init__(self) -> None:
        """Begins empty."""
        self.level = 0
        self.links: list[str] = []
        self.code: list[str] = []
        self.fences: list[Fence] = []
        self.prose = ""

    def add(self, token: Token) -> None:
        """Takes in one more part of the document."""
        if token.type == "heading_open":
            self.level = int(token.tag[1])
        if token.type == "fence":
            self.fences.append(Fence(token.info, token.content))
        for part in token.children or ():
            if part.type in ("link_open", "image"):
                self.links.append(str(part.attrs.get("href", part.attrs.get("src"))))
            elif part.type == "code_inline":
                self.code.append(part.content)
            elif part.type == "text":
                self.prose += part.content + "\n"


# Parts of pages, which `make cost` and `make faults-long` put into docs/.
PARTS = {"terraform/testkit/cost.md", "api/tests/faults/reliability.md"}

PAGES = [Page(name) for name in sorted(files() - PARTS) if name.endswith(".md")]


def page(name: str) -> Page:
    """Returns one document."""
    return next(page for page in PAGES if page.name == name)
