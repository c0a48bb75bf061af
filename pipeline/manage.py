"""manage.py ENVIRONMENT COMMAND...: runs `payments COMMAND` there as the schema's owner.

In a pod like that of the migration Job, with its identity and its way to the database, which no
other machine has. What the command prints goes through `kubectl exec` to this terminal alone, and
not into the pod's log: it can be a key. FILE names a file that the command finds under /tmp.
"""

import contextlib
import json
import os
import secrets
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.deploy import HELM, RELEASE, namespace
from pipeline.promotion import ENVIRONMENTS

KUBECTL = os.environ.get("KUBECTL", "kubectl")

# A pod that was left behind, by a computer that was closed, ends by itself.
LIFETIME_SECONDS = 6 * 3600
FILES_LIMIT_GIB = 8

# What runs in the pod to keep the file that comes in: PATH, SIZE.
KEEP = """
import shutil, sys
with open(sys.argv[1], "xb") as file:
    shutil.copyfileobj(sys.stdin.buffer, file)
    if file.tell() != int(sys.argv[2]):
        sys.exit(f"{file.tell()} of {sys.argv[2]} bytes came: run the command again")
"""


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
    files = {"name": "files", "emptyDir": {"sizeLimit": f"{FILES_LIMIT_GIB}Gi"}}
    spec.setdefault("volumes", []).append(files)
    spec |= {"activeDeadlineSeconds": LIFETIME_SECONDS, "terminationGracePeriodSeconds": 1}
    metadata = {"name": name, "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def opened(file: Path) -> BinaryIO:
    """Opens a file that is all there is of it.

    Raises:
        SystemExit: it cannot be read or sent, or is a database that goes on in another file.
    """
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            sys.exit(f"FILE: {file} is no regular file: give the path of one")
        content = file.open("rb")
    except OSError as error:
        sys.exit(f"FILE: {file} cannot be read: {error.strerror}")
    if found.st_size > FILES_LIMIT_GIB * 1024**3:
        sys.exit(
            f"FILE: {file} has {found.st_size / 1024**3:.1f} GiB, and a pod takes"
            f" {FILES_LIMIT_GIB}: run the command where the database can be reached instead"
        )
    check_whole(file)
    return content


def check_whole(file: Path) -> None:
    """Refuses a SQLite database whose newest transactions are in a file beside it.

    Raises:
        SystemExit: there is such a file.
    """
    for suffix in ("-wal", "-journal"):
        beside = Path(f"{file.resolve()}{suffix}")
        if beside.exists() and beside.stat().st_size:
            source = shlex.quote(str(file.absolute()))
            sys.exit(
                f"FILE: {file} is not the whole database, {beside} belongs to it. Make a copy of"
                f" both and send that:\n\n  sqlite3 {source} \"VACUUM INTO 'whole.sqlite3'\"\n"
            )


def send(kubectl: list[str], pod_name: str, file: BinaryIO) -> None:
    """Brings a file to the pod.

    Raises:
        SystemExit: it changed meanwhile.
    """
    path, before = Path(file.name), os.fstat(file.fileno())
    keep = ["python3", "-c", KEEP, f"/tmp/{path.name}", str(before.st_size)]  # noqa: S108
    _run([*kubectl, "exec", "-i", pod_name, "--", *keep], stdin=file)
    check_whole(path)
    if os.fstat(file.fileno()).st_mtime_ns != before.st_mtime_ns:
        sys.exit(f"FILE: {path} changed while it was sent: send a copy that nothing writes to")


def manage(environment: str, command: list[str], file: BinaryIO | None) -> int:
    """Runs the command; returns its exit code."""
    name = f"{RELEASE}-manage-{secrets.token_hex(4)}"
    kubectl = [KUBECTL, *namespace(environment)]
    manifest = json.dumps(pod(migration(environment), name)).encode()
    try:
        _run([*kubectl, "create", "--filename=-"], input=manifest)
        _run([*kubectl, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=5m"])
        if file is not None:
            send(kubectl, name, file)
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
    try:
        command = [word for argument in arguments[1:] for word in shlex.split(argument)]
    except ValueError:
        sys.exit(f"COMMAND: a quote is not closed in: {' '.join(arguments[1:])}")
    if not command or arguments[0] not in ENVIRONMENTS:
        sys.exit(str(__doc__))
    try:
        with opened(file) if file is not None else contextlib.nullcontext() as content:
            return manage(arguments[0], command, content)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd[:3])} ... failed with {error.returncode}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
