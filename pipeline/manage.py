"""manage.py ENVIRONMENT COMMAND...: runs `payments COMMAND` there as the schema's owner.

In a pod like that of the migration Job, with its identity and its way to the database, which no
other machine has. What the command prints goes through `kubectl exec` to this terminal alone, and
not into the pod's log: it can be a key. FILE names a file that the command finds under /tmp.
"""

import json
import os
import secrets
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.deploy import HELM, RELEASE, namespace
from pipeline.promotion import ENVIRONMENTS

KUBECTL = os.environ.get("KUBECTL", "kubectl")

# A pod that was left behind, by a computer that was closed, ends by itself.
LIFETIME_SECONDS = 6 * 3600
FILES_LIMIT = "8Gi"

KEEP = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, open(sys.argv[1], 'xb'))"


def migration(environment: str) -> dict[str, Any]:
    """Returns the Job that migrated the release which runs there."""
    command = [HELM, "get", "hooks", RELEASE, *namespace(environment)]
    hooks = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    # kubectl reads YAML; it says each object after the other.
    command = [KUBECTL, "create", "--dry-run=client", "--output=json", "--filename=-"]
    command += ["--selector=app.kubernetes.io/component=migration", *namespace(environment)]
    text = subprocess.run(command, check=True, input=hooks, stdout=subprocess.PIPE).stdout.decode()
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        found, place = decoder.raw_decode(text, place)
        for one in found.get("items", [found]):
            if one["kind"] == "Job":
                job: dict[str, Any] = one
                return job
        place += len(text[place:]) - len(text[place:].lstrip())
    sys.exit(f"the release in {environment} has no migration Job")


def pod(job: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns a pod like the Job's that waits for what it is to run."""
    template = job["spec"]["template"]
    spec = template["spec"]
    container = spec["containers"][0]
    container.pop("args")
    container["command"] = ["python3", "-c", f"import time; time.sleep({LIFETIME_SECONDS})"]
    container.setdefault("volumeMounts", []).append({"name": "files", "mountPath": "/tmp"})  # noqa: S108
    files = {"name": "files", "emptyDir": {"sizeLimit": FILES_LIMIT}}
    spec.setdefault("volumes", []).append(files)
    spec |= {"activeDeadlineSeconds": LIFETIME_SECONDS, "terminationGracePeriodSeconds": 1}
    metadata = {"name": name, "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def manage(environment: str, command: list[str], file: Path | None) -> int:
    """Runs the command; returns its exit code."""
    name = f"{RELEASE}-manage-{secrets.token_hex(4)}"
    kubectl = [KUBECTL, *namespace(environment)]
    manifest = json.dumps(pod(migration(environment), name)).encode()
    try:
        _run([*kubectl, "create", "--filename=-"], input=manifest)
        _run([*kubectl, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=5m"])
        if file is not None:
            kept = f"/tmp/{file.name}"  # noqa: S108
            with file.open("rb") as content:
                _run(
                    [*kubectl, "exec", "-i", name, "--", "python3", "-c", KEEP, kept], stdin=content
                )
        terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
        line = [*kubectl, "exec", "--stdin", *terminal, name, "--", "python3", "-m", "payments"]
        return subprocess.run([*line, *command], check=False).returncode
    finally:
        _run([*kubectl, "delete", "pod", name, "--ignore-not-found", "--wait=false"])


def _run(command: list[str], **given: Any) -> None:
    """Runs kubectl; what it says goes to where it does not mix with the command's own output."""
    subprocess.run(command, check=True, stdout=sys.stderr, **given)


def main(arguments: list[str]) -> int:
    """Runs what the command line says.

    Raises:
        SystemExit: the command line is wrong, or the cluster refuses.
    """
    file = Path(os.environ["FILE"]) if os.environ.get("FILE") else None
    command = [word for argument in arguments[1:] for word in shlex.split(argument)]
    if not command or arguments[0] not in ENVIRONMENTS:
        sys.exit(str(__doc__))
    if file is not None and not file.is_file():
        sys.exit(f"FILE: {file} is no file")
    try:
        return manage(arguments[0], command, file)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd[:3])} ... failed with {error.returncode}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
