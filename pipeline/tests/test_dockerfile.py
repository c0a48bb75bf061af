"""The base of the image: where Dependabot finds it, and where another takes its place."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OFFICIAL = r"python:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}"


def test_the_base_stands_where_dependabot_raises_it() -> None:
    """Dependabot raises an image's name and digest in a FROM, and nothing in an ARG."""
    text = (ROOT / "api" / "Dockerfile").read_text()
    lines = re.findall(r"^(?:ARG BASE=|FROM ).*", text, re.MULTILINE)
    assert lines[0] == "ARG BASE=official"
    assert re.fullmatch(f"FROM {OFFICIAL} AS official", lines[1])
    assert lines[2:] == ["FROM ${BASE} AS build", "FROM ${BASE}"]


@pytest.mark.parametrize(
    ("base", "named"),
    [("", OFFICIAL), ("mirror.example/python", "mirror.example/python")],
)
def test_the_image_names_its_base(base: str, named: str) -> None:
    command = ["make", "--dry-run", "image", "DOCKER=true", f"BASE={base}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(f"--build-arg BASE_NAME='{named}'", result.stdout)
