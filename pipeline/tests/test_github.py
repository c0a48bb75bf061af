"""What is said on GitHub: once a title, and as text."""

from pipeline.github import LIMIT, body, find, mark


def entry(login: str, text: str, **numbers: int) -> dict[str, object]:
    """Returns a comment or an issue as GitHub gives it."""
    return {"user": {"login": login}, "body": text, **numbers}


BOT = "github-actions[bot]"


def test_what_was_said_before_is_found_by_its_title() -> None:
    entries = [
        entry(BOT, body("Plan of dev", "x"), id=1),
        entry(BOT, body("Cost", "x"), id=2),
    ]
    assert find("Cost", entries) == 2
    assert find("Plan", entries) is None
    assert find("Cost", []) is None


def test_an_issue_is_named_by_its_number() -> None:
    assert find("Drift", [entry(BOT, body("Drift", "x"), id=99, number=7)]) == 7


def test_nobody_else_is_corrected() -> None:
    assert find("Cost", [entry("somebody", body("Cost", "x"), id=1)]) is None


def test_an_entry_without_a_text() -> None:
    assert find("Cost", [{"user": {"login": BOT}, "body": None, "id": 1}]) is None


def test_the_text_cannot_leave_its_fence() -> None:
    text = "before\n```\n@everyone [link](x)\n````\nafter"
    said = body("Plan", text)
    assert said.startswith(mark("Plan"))
    assert "\n`````\nbefore" in said
    assert said.endswith("after\n`````\n")


def test_a_long_text_is_cut() -> None:
    said = body("Plan", "x" * 100_000)
    assert len(said) < LIMIT + 200
    assert "the rest is in the run's log" in said
