"""The soak finds what grows."""

from typing import Any

import pytest

import soak

MINUTES = 15


def samples(**growth: float) -> list[dict[str, float]]:
    """Returns one sample a minute of a service that is well, but for what grows by so much."""
    well = {"rss_bytes": 50e6, "descriptors": 20, "dead_rows": 3_000, "rows": 100_000}
    return [
        {"seconds": minute * 60.0}
        | {name: value + minute * growth.get(name, 0) for name, value in well.items()}
        for minute in range(MINUTES)
    ]


def found(samples: list[dict[str, float]], **changes: int) -> list[str]:
    """Returns what the soak says of them."""
    results: dict[str, Any] = {"failed": 0, "callers_left": 0, **soak.growth(samples), **changes}
    return soak.violations(results)


def test_all_is_well() -> None:
    assert found(samples()) == []


@pytest.mark.parametrize(
    ("grown", "words"),
    [
        (samples(rss_bytes=1.1e6), "memory grew by 1.10 MB a minute"),
        (samples(descriptors=0.25), "descriptors grew by"),
        (samples(dead_rows=600), "of the rows were dead"),
    ],
)
def test_what_grows_is_found(grown: list[dict[str, float]], words: str) -> None:
    (only,) = found(grown)
    assert words in only


def test_a_connection_for_a_moment_is_no_growth() -> None:
    moment = samples()
    moment[-1]["descriptors"] += 1
    assert found(moment) == []


@pytest.mark.parametrize("name", ["failed", "callers_left"])
def test_what_is_left_or_failed_is_found(name: str) -> None:
    assert len(found(samples(), **{name: 1})) == 1
