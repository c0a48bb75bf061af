"""What IAM decides of a call, simulated: one Node process has the decisions and AWS's reference."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

SCRIPT = Path(__file__).parent / "iam" / "simulate.mjs"
PACKAGES = Path(__file__).parents[2] / ".venv-iam"

Document = dict[str, Any]
Context = dict[str, str | list[str]]

ANYTHING: Document = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}


@dataclass(frozen=True)
class Identity:
    """A role as IAM sees it; no boundary bounds nothing."""

    arn: str
    policies: tuple[Document, ...]
    boundary: Document | None


@dataclass(frozen=True)
class Write:
    """An action that is more than reading."""

    action: str
    compares_tags: bool  # of the resource: AWS has aws:ResourceTag for it
    takes_tags: bool  # in the request: AWS has aws:RequestTag for it


@dataclass(frozen=True)
class Call:
    """What is asked of AWS: an action, the ARN of one resource or `*`, and condition keys."""

    action: str
    resource: str
    context: Context
    policy: Document | None = None  # of the resource


class Simulator:
    """Questions to the process of `simulating`."""

    def __init__(self, questions: IO[str], answers: IO[str]) -> None:
        self._questions = questions
        self._answers = answers

    def writes(self, resources: Sequence[str]) -> list[list[Write]]:
        """Returns the actions that write to each ARN; of `*` those that no ARN narrows."""
        answers = self._ask({"resources": resources})
        return [[Write(*found) for found in answer] for answer in answers]

    def allowed(self, identity: Identity, calls: Sequence[Call]) -> list[bool]:
        """Tells of each call whether the identity may make it."""
        identity_json = {
            "arn": identity.arn,
            "policies": identity.policies,
            "boundary": identity.boundary,
        }
        calls_json = [(call.action, call.resource, call.context, call.policy) for call in calls]
        return self._ask({"identity": identity_json, "calls": calls_json})

    def _ask(self, question: dict[str, Any]) -> list[Any]:
        self._questions.write(json.dumps(question) + "\n")
        self._questions.flush()
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"{SCRIPT.name} ended; its reason is on stderr")
        answer: list[Any] = json.loads(line)
        return answer


@contextmanager
def simulating() -> Iterator[Simulator]:
    """Starts the process, and ends it.

    Raises:
        FileNotFoundError: its packages, or Node itself, are not installed.
    """
    node = shutil.which("node")
    if node is None or not PACKAGES.exists():
        raise FileNotFoundError("the simulation of IAM is not installed: run `make infra-slow`")
    with (
        subprocess.Popen(
            [node, str(SCRIPT), str(PACKAGES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
        cast("IO[str]", process.stdin) as questions,
    ):
        yield Simulator(questions, cast("IO[str]", process.stdout))
