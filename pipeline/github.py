"""github.py comment|issue TITLE FILE: says something on GitHub, once, and corrects it afterwards.

comment: on the pull request PULL_REQUEST, one comment a title. issue: one open issue a title. Both
go through `gh`, with GH_TOKEN and GH_REPO. What is said is the file's text, cut to what GitHub
takes.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

LIMIT = 60_000  # GitHub takes 65,536 characters


def body(title: str, text: str) -> str:
    """Returns the whole text, with the mark by which it is found again."""
    if len(text) > LIMIT:
        text = f"{text[:LIMIT]}\n… the rest is in the run's log\n"
    # A fence longer than any in the text: what a plan prints cannot end it.
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{mark(title)}\n### {title}\n\n{fence}\n{text.rstrip()}\n{fence}\n"


def mark(title: str) -> str:
    """Returns what no reader sees, and this program finds."""
    return f"<!-- pipeline: {title} -->"


def find(title: str, entries: list[Any]) -> int | None:
    """Returns the number of what was said before under this title, by this pipeline alone."""
    for entry in entries:
        ours = entry["user"]["login"] == "github-actions[bot]"
        if ours and (entry["body"] or "").startswith(mark(title)):
            return int(entry.get("number") or entry["id"])
    return None


def _gh(method: str, path: str, fields: dict[str, str] | None = None) -> Any:
    command = ["gh", "api", "--method", method, f"repos/{{owner}}/{{repo}}/{path}"]
    if method == "GET":
        command += ["--paginate", "--slurp"]
    else:
        command += ["--input=-"]
    if os.environ.get("DRY_RUN") and method != "GET":
        print("+", " ".join(command))
        return None
    result = subprocess.run(
        command, input=json.dumps(fields), check=True, capture_output=True, text=True
    )
    return json.loads(result.stdout or "null")


def _all(path: str) -> list[Any]:
    if os.environ.get("DRY_RUN"):
        return []
    return [entry for page in _gh("GET", path) for entry in page]


def comment(title: str, text: str) -> None:
    """Comments on the pull request."""
    number = int(os.environ["PULL_REQUEST"])
    before = find(title, _all(f"issues/{number}/comments"))
    if before is None:
        _gh("POST", f"issues/{number}/comments", {"body": body(title, text)})
    else:
        _gh("PATCH", f"issues/comments/{before}", {"body": body(title, text)})


def issue(title: str, text: str) -> None:
    """Opens an issue, or corrects the one that is open."""
    before = find(title, _all("issues?state=open&per_page=100"))
    if before is None:
        _gh("POST", "issues", {"title": title, "body": body(title, text)})
    else:
        _gh("PATCH", f"issues/{before}", {"body": body(title, text)})


def main(arguments: list[str]) -> None:
    """Says it.

    Raises:
        SystemExit: something is missing, or GitHub refuses.
    """
    verbs = {"comment": comment, "issue": issue}
    if len(arguments) != 3 or arguments[0] not in verbs:
        sys.exit(str(__doc__))
    verb, title, file = arguments
    try:
        verbs[verb](title, Path(file).read_text())
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set")
    except subprocess.CalledProcessError as error:
        sys.exit(f"gh failed: {error.stderr}")


if __name__ == "__main__":
    main(sys.argv[1:])
