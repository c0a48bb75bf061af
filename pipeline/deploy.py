"""deploy.py kubeconfig|deploy|test|rollback|history ENVIRONMENT: what runs there, through Helm.

Settings are environment variables. deploy: IMAGE and CHART, both by digest, and COMMIT, from which
they were built. rollback: DIGEST of an image that ran there before; empty is the last one before.
DRY_RUN=1 only prints the commands that change something.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from pipeline import promotion
from pipeline.promotion import Refused

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "terraform" / "settings"
HELM = os.environ.get("HELM", "helm")

RELEASE = "payments"
# The migration may wait ten minutes for another run of itself, and the pods come after it.
TIMEOUT = "20m"
HISTORY = 50  # revisions that can be gone back to

CERTIFICATES = "https://truststore.pki.rds.amazonaws.com/{region}/{region}-bundle.pem"


def setting(file: str, name: str) -> str:
    """Returns a text of terraform/settings."""
    found = re.search(rf'^{name}\s*= "([^"]+)"', (SETTINGS / file).read_text(), re.MULTILINE)
    if found is None:
        raise Refused(f"{file} has no {name}")
    return found[1]


def output(*command: str) -> str:
    """Runs a command that changes nothing; returns what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def change(*command: str) -> None:
    """Runs a command that changes something, or only shows it."""
    print("+", " ".join(command), flush=True)
    if not os.environ.get("DRY_RUN"):
        subprocess.run(command, check=True)


def revisions(environment: str) -> list[promotion.Revision]:
    """Returns the history of what runs in the environment; empty before the first release."""
    result = subprocess.run(
        [HELM, "history", RELEASE, *namespace(environment), "--output=json", f"--max={HISTORY}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode and "not found" in result.stderr:
        return []
    if result.returncode:
        raise Refused(f"helm history failed: {result.stderr.strip()}")
    return promotion.history(result.stdout)


def namespace(environment: str) -> list[str]:
    """Returns Helm's option."""
    return [f"--namespace=payments-{environment}"]


def is_ancestor(older: str, newer: str) -> bool:
    """Whether a commit contains another.

    Raises:
        Refused: git does not know them.
    """
    command = ["git", "merge-base", "--is-ancestor", older, newer]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode > 1:
        raise Refused(f"git cannot compare {older} and {newer}: {result.stderr.strip()}")
    return result.returncode == 0


def tell(environment: str) -> None:
    """Tells the workflow's next step where the service answers."""
    url = f"https://{setting(f'environment-{environment}.tfvars', 'host')}"
    print(url)
    if path := os.environ.get("GITHUB_OUTPUT"):
        with Path(path).open("a") as file:
            file.write(f"url={url}\n")


def recover(environment: str, found: list[promotion.Revision]) -> None:
    """Takes back what a run that was stopped has left half done."""
    if promotion.abandoned(found, datetime.now(UTC)):
        last = promotion.running(found)
        if last is None:
            raise Refused(
                f"the first release was abandoned: look at it, then"
                f" helm uninstall {RELEASE} {' '.join(namespace(environment))}"
            )
        print(f"Revision {found[-1].number} was abandoned: back to {last.number} first")
        change(*_rollback(environment, last.number))


def _rollback(environment: str, number: int) -> list[str]:
    where = namespace(environment)
    return [HELM, "rollback", RELEASE, str(number), *where, "--wait", f"--timeout={TIMEOUT}",
            f"--history-max={HISTORY}"]  # fmt: skip


def deploy(environment: str) -> None:
    """Brings an image to the environment; Helm goes back by itself when it does not get ready."""
    image, chart, commit = (os.environ[name] for name in ("IMAGE", "CHART", "COMMIT"))
    digest = promotion.digest_of(image)
    promotion.digest_of(chart)
    found = revisions(environment)
    promotion.check_deploy(found, digest, commit, is_ancestor)
    recover(environment, found)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "aws.yaml").write_text(helm_values(environment))
        (folder / "rds.pem").write_text(certificates(environment))
        change(*upgrade(environment, image, chart, commit, folder))
    tell(environment)


def upgrade(environment: str, image: str, chart: str, commit: str, folder: Path) -> list[str]:
    """Returns Helm's command."""
    repository, digest = image.split("@")
    return [
        *(HELM, "upgrade", "--install", RELEASE, f"oci://{chart}", *namespace(environment)),
        f"--values={ROOT}/charts/payments/environments/{environment}.yaml",
        f"--values={folder}/aws.yaml",
        f"--set-file=database.certificateAuthority={folder}/rds.pem",
        f"--set=image.repository={repository},image.digest={digest}",
        *("--wait", f"--timeout={TIMEOUT}", "--rollback-on-failure", f"--history-max={HISTORY}"),
        f"--description={digest} {commit}",
    ]


def helm_values(environment: str) -> str:
    """Returns what Terraform tells the chart: an output, read out of the state.

    Not by Terraform, which would fetch its provider first: one registry less that must answer.
    """
    bucket = setting("state.tfbackend", "bucket")
    state = output("aws", "s3", "cp", f"s3://{bucket}/environment-{environment}.tfstate", "-")
    return str(json.loads(state)["outputs"]["helm_values"]["value"])


def certificates(environment: str) -> str:
    """Returns the certificates of RDS in the environment's region."""
    url = CERTIFICATES.format(region=setting(f"environment-{environment}.tfvars", "region"))
    for attempt in range(1, 4):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - a constant
                text: str = answer.read().decode("ascii")
            break
        except OSError as error:
            print(f"{url}: {error}, attempt {attempt} of 3", flush=True)
            time.sleep(5 * attempt)
    else:
        raise Refused(f"{url} does not answer")
    if not text.startswith("-----BEGIN CERTIFICATE-----"):
        raise Refused(f"{url} holds no certificates")
    return text


def rollback(environment: str) -> None:
    """Goes back to an image that served here before, with its chart and its values."""
    found = revisions(environment)
    target = promotion.rollback_target(found, os.environ.get("DIGEST", ""))
    if found[-1].pending:
        # What hangs is what one goes back from; Helm takes it so.
        print(f"Revision {found[-1].number} is {found[-1].status}")
    print(f"Back to revision {target.number}, {target.digest} of commit {target.commit}")
    change(*_rollback(environment, target.number))
    tell(environment)


def show(environment: str) -> None:
    """Prints what ran here, newest first."""
    for r in reversed(revisions(environment)):
        print(f"{r.number:>4}  {r.updated:%Y-%m-%d %H:%M}  {r.status:<16}  {r.digest}  {r.commit}")


def kubeconfig(environment: str) -> None:
    """Lets kubectl and helm reach the environment's cluster."""
    file = f"environment-{environment}.tfvars"
    cluster = f"payments-{setting(file, 'platform')}"
    change(
        "aws", "eks", "update-kubeconfig", "--name", cluster, "--region", setting(file, "region")
    )


def test(environment: str) -> None:
    """Runs the chart's own test."""
    change(HELM, "test", RELEASE, *namespace(environment), "--logs", "--timeout=3m")


VERBS = {
    "kubeconfig": kubeconfig,
    "deploy": deploy,
    "test": test,
    "rollback": rollback,
    "history": show,
}


def main(arguments: list[str]) -> None:
    """Runs a verb.

    Raises:
        SystemExit: it is refused, or a command failed.
    """
    if len(arguments) != 2 or arguments[0] not in VERBS:
        sys.exit(str(__doc__))
    verb, environment = arguments
    if environment not in promotion.ENVIRONMENTS:
        sys.exit(f"ENVIRONMENT is {environment!r}: one of {', '.join(promotion.ENVIRONMENTS)}")
    try:
        VERBS[verb](environment)
    except Refused as error:
        sys.exit(f"Refused: {error}")
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed: {error.stderr or ''}")


if __name__ == "__main__":
    main(sys.argv[1:])
