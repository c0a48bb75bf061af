"""cost_difference.py COMMIT: what a change costs a month, from docs/cost.md of both.

A test holds docs/cost.md to the plans (`make cost`), so that a pull request brings its new one.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = "docs/cost.md"

_ROW = re.compile(r"^\| `?(.+?)`? \|.*\| (-?[\d.]+) \| -?[\d.]+ \|$")


def lines(page: str) -> dict[str, float]:
    """Returns dollars a month in the first region, by `place: resource`."""
    place = ""
    found: dict[str, float] = {}
    _, _, listed = page.partition("## What each place costs")
    for line in listed.splitlines():
        if line.startswith("#"):
            place = line.strip("# ")
        elif (row := _ROW.match(line)) and "**" not in line:
            # A resource has a line for each thing that is paid for.
            name = f"{place}: {row[1]}"
            found[name] = round(found.get(name, 0) + float(row[2]), 2)
    return found


def difference(before: str, after: str) -> Iterator[str]:
    """Gives the table of what changed, with its sum."""
    old, new = lines(before), lines(after)
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    for name in changed:
        was, will = old.get(name, 0), new.get(name, 0)
        yield f"{was:>10.2f} → {will:>8.2f}  {will - was:>+9.2f}  {name}"
    was, will = sum(old.values()), sum(new.values())
    yield f"{was:>10.2f} → {will:>8.2f}  {will - was:>+9.2f}  all, $ a month"


def main(commit: str) -> None:
    """Prints the difference between a commit and this tree."""
    command = ["git", "show", f"{commit}:{PAGE}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{commit} has no {PAGE}: {result.stderr.strip()}")
    after = (ROOT / PAGE).read_text()
    if not lines(after):
        sys.exit(f"{PAGE} has no lines of cost: its form has changed")
    print("\n".join(difference(result.stdout, after)))


if __name__ == "__main__":
    main(sys.argv[1])
