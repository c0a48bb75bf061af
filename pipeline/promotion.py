"""Which image goes where, and what stops it.

A release in a cluster is described by what Helm remembers of it: each revision's description is
`sha256:<digest> <commit>`, written when it is made (deploy.py). Helm itself describes a revision
that went back as `Rollback to <number>`.
"""

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

ENVIRONMENTS = ("dev", "staging", "production")

# Helm gives up after 20 minutes and goes back; what is pending longer has nobody who ends it.
ABANDONED = timedelta(minutes=45)

_IMAGE = re.compile(r"[a-z0-9.-]+(?::[0-9]+)?(?:/[a-z0-9._-]+)+@(sha256:[0-9a-f]{64})")
_DESCRIPTION = re.compile(r"(sha256:[0-9a-f]{64}) ([0-9a-f]{40})")
_ROLLBACK = re.compile(r"Rollback to (\d+)")


class Refused(Exception):
    """This image does not go there; the message says why, and what to do instead."""


class Revision(NamedTuple):
    """One entry of a release's history; digest and commit are empty where it failed."""

    number: int
    status: str
    updated: datetime
    digest: str
    commit: str

    @property
    def pending(self) -> bool:
        """Whether Helm works on it, or was stopped while it did."""
        return self.status.startswith("pending")


def digest_of(image: str) -> str:
    """Returns the digest of an image's name.

    Raises:
        Refused: it is not REPOSITORY@sha256:…, and could be another image tomorrow.
    """
    found = _IMAGE.fullmatch(image)
    if found is None:
        raise Refused(f"{image!r} is not REPOSITORY@sha256:<64 digits>")
    return found[1]


def history(text: str) -> list[Revision]:
    """Reads `helm history --output json`, oldest first."""
    revisions: dict[int, Revision] = {}
    for entry in sorted(json.loads(text), key=lambda entry: int(entry["revision"])):
        description = entry["description"]
        went_back = _ROLLBACK.fullmatch(description)
        source = revisions.get(int(went_back[1])) if went_back else None
        named = _DESCRIPTION.fullmatch(description)
        digest, commit = (named[1], named[2]) if named else ("", "")
        if source is not None:
            digest, commit = source.digest, source.commit
        revisions[int(entry["revision"])] = Revision(
            int(entry["revision"]),
            entry["status"],
            datetime.fromisoformat(entry["updated"]),
            digest,
            commit,
        )
    return list(revisions.values())


def running(revisions: Sequence[Revision]) -> Revision | None:
    """Returns what serves now."""
    return next((r for r in reversed(revisions) if r.status == "deployed"), None)


def abandoned(revisions: Sequence[Revision], now: datetime) -> bool:
    """Whether an earlier run was stopped in the middle, so that Helm must first go back.

    Raises:
        Refused: somebody else deploys right now.
    """
    if not revisions or not revisions[-1].pending:
        return False
    age = now - revisions[-1].updated
    if age < ABANDONED:
        minutes = int(age.total_seconds() // 60)
        raise Refused(
            f"revision {revisions[-1].number} is {revisions[-1].status} since {minutes} min:"
            f" somebody else deploys. After {ABANDONED.total_seconds() / 60:.0f} min it counts as"
            " abandoned, and is taken back"
        )
    return True


def check_deploy(
    revisions: Sequence[Revision],
    digest: str,
    commit: str,
    is_ancestor: Callable[[str, str], bool],
) -> None:
    """Checks that an image may go where this history is from.

    Raises:
        Refused: it would take the environment back in time, unnoticed: an approval that came late,
            a job that was run again.
    """
    now = running(revisions)
    if now is None or now.digest == digest:
        return
    earlier = [r.number for r in revisions if r.digest == digest]
    if earlier:
        raise Refused(
            f"{digest} was here already, as revision {earlier[-1]}, and was replaced: to go back to"
            " it, run the workflow rollback; to bring its change again, make a new commit"
        )
    if now.commit and not is_ancestor(now.commit, commit):
        raise Refused(
            f"commit {commit[:12]} does not contain {now.commit[:12]}, which runs here: it is"
            " older, or of another branch. Deploy the newest, or run the workflow rollback"
        )


def rollback_target(revisions: Sequence[Revision], digest: str) -> Revision:
    """Returns the revision to go back to: the last good one before, or that of a digest.

    Raises:
        Refused: there is none.
    """
    now = running(revisions)
    if now is not None and revisions[-1].pending and digest in {"", now.digest}:
        return now  # something newer hangs half way: what served before it is the way back
    good = [r for r in revisions if r.status == "superseded" and r.digest]
    other = [r for r in good if now is None or r.digest != now.digest]
    if digest and now is not None and now.digest == digest:
        raise Refused(f"{digest} is what runs here")
    for revision in reversed(other):
        if digest in {"", revision.digest}:
            return revision
    known = ", ".join(dict.fromkeys(r.digest for r in reversed(other))) or "none"
    raise Refused(f"{digest or 'an earlier release'} has not run here; what has: {known}")
