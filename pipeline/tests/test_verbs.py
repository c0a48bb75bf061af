"""The verbs that need AWS or GitHub, in their dry form, and what they refuse."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import deploy
from pipeline.promotion import ENVIRONMENTS
from pipeline.release import ROOT, version
from pipeline.tests.test_workflows import VERBS, commands

REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
IMAGE = f"{REGISTRY}/payments@sha256:{'a' * 64}"
CHART = f"{REGISTRY}/charts/payments@sha256:{'b' * 64}"
COMMIT = subprocess.run(
    ["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
).stdout.strip()

VALUES = "ingress:\n  host: payments.xpto.example\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def make(
    *arguments: str, path: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs make with these variables and no others, dry."""
    search = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env={"PATH": search, "DRY_RUN": "1", "HOME": "/nonexistent", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def shown(folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a verb that prints its environment, from a Makefile around that of the repository."""
    return subprocess.run(
        ["make", "-f", "-", "shown"],
        input=f"include {ROOT}/Makefile\nshown:\n\t@env",
        cwd=folder,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "name",
    [
        *("PGHOST", "PGPASSFILE", "PGSSLMODE", "PGTARGETSESSIONATTRS", "PGSERVICE"),
        *("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_NO_BINARY", "PIP_REQUIRE_VIRTUALENV"),
        *("UV_CONSTRAINT", "UV_PYTHON", "UV_REQUIRE_HASHES", "UV_WORKING_DIR"),
        *("PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUTF8"),
        "CDPATH",
    ],
)
def test_what_the_caller_set_for_other_programs_reaches_no_recipe(name: str) -> None:
    found = shown(ROOT, **{name: "1"})
    assert found.returncode == 0, found.stderr
    assert f"\n{name}=" not in f"\n{found.stdout}"


@pytest.mark.parametrize(
    "name", ["PAYMENTS_LOG_LEVEL", "PIP_INDEX_URL", "PYTHON", "UV_INDEX_XPTO_PASSWORD", "LC_ALL"]
)
def test_what_the_caller_says_to_a_recipe_reaches_it(name: str) -> None:
    assert f"\n{name}=said\n" in f"\n{shown(ROOT, **{name: 'said'}).stdout}"


@pytest.mark.parametrize("name", ["C", "POSIX"])
def test_no_recipe_takes_paths_for_ascii(name: str) -> None:
    assert "LC_ALL=" not in shown(LC_ALL=name).stdout


@pytest.mark.parametrize("name", ["two words", "it's", "a$b", "a:b", "a;b", "a&b", "a(b", "a#b"])
def test_a_path_that_a_shell_takes_apart_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    found = shown(folder=folder)
    assert found.returncode != 0
    assert f"The path {folder}, or XDG_CACHE_HOME, has a space or another sign" in found.stderr
    assert found.stderr == shown(folder=folder, LC_ALL="C").stderr
    assert "XDG_CACHE_HOME, has a space" in shown(XDG_CACHE_HOME=str(folder)).stderr


def test_a_path_with_accents_is_none_of_those(tmp_path: Path) -> None:
    folder = tmp_path / "ação,%+@=~-_.1"
    folder.mkdir()
    for locale in ("C", "C.UTF-8"):
        assert shown(folder=folder, LC_ALL=locale).returncode == 0


def test_verify_asks_for_the_whole_provenance_of_both() -> None:
    found = make(
        "verify", IMAGE=IMAGE, CHART=CHART, COMMIT=COMMIT, GITHUB_REPOSITORY="xpto/payments"
    )
    assert found.returncode == 0, found.stderr
    image, chart = (line for line in found.stderr.splitlines() if line.startswith("+ gh"))
    assert f"oci://{IMAGE} " in image
    assert f"oci://{CHART} " in chart
    for line in (image, chart):
        assert "--repo xpto/payments" in line
        assert "--signer-workflow xpto/payments/.github/workflows/build.yaml" in line
        assert f"--source-ref refs/heads/main --source-digest {COMMIT}" in line
        assert "--deny-self-hosted-runners" in line


def test_a_release_is_tagged_where_production_runs_it() -> None:
    found = make("release", IMAGE=IMAGE, CHART=CHART, COMMIT=COMMIT)
    assert found.returncode == 0, found.stderr
    assert f"+ tag {IMAGE} v{version()}" in found.stderr
    assert f"+ tag {CHART} v{version()}" in found.stderr
    assert f"+ gh release create v{version()} --target={COMMIT}" in found.stdout


@pytest.mark.parametrize(
    ("there", "status", "message"),
    [("None", 0, ""), ("sha256:" + "c" * 64, 1, "names sha256:ccc")],
    ids=["free", "of another image"],
)
def test_a_tag_in_the_registry_is_never_moved(
    programs: Path, there: str, status: int, message: str
) -> None:
    manifest = json.dumps(["application/vnd.oci.image.index.v1+json", "{}"])
    write(
        programs / "aws",
        f"""case "$*" in
          *imageTag=*) echo '{there}' ;;
          *imageDigest=*) echo '{manifest}' ;;
          *put-image*) echo "$*" ;;
        esac""",
    )
    found = subprocess.run(
        [ROOT / "pipeline" / "tag"],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "IMAGE": IMAGE, "CHART": CHART},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == status
    assert message in found.stderr
    assert found.stdout.count(f"--image-tag v{version()} ") == (0 if status else 2)


def test_an_sbom_without_a_package_does_not_replace_an_earlier_one(programs: Path) -> None:
    sbom, new = (ROOT / ".cache" / f"sbom.spdx.json{suffix}" for suffix in ("", ".new"))
    earlier = sbom.read_bytes() if sbom.exists() else None
    write(programs / "docker", "echo amd64")
    empty = json.dumps({"packages": [], "files": []})
    write(programs / "syft", f"for last; do :; done; echo '{empty}' >\"${{last#spdx-json=}}\"")
    found = subprocess.run(
        [ROOT / "pipeline" / "sbom", "payments:local"],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "SYFT": "syft"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert "0 packages" in found.stdout
    assert (sbom.read_bytes() if sbom.exists() else None) == earlier
    assert not new.exists()


def test_kubeconfig_leads_to_the_platform_of_the_environment() -> None:
    for environment, platform in zip(
        ENVIRONMENTS, ("nonprod", "nonprod", "production"), strict=True
    ):
        found = make("kubeconfig", ENVIRONMENT=environment)
        assert f"--name payments-{platform} --region us-east-1" in found.stdout


@pytest.mark.parametrize("verb", ["comment", "issue"])
def test_what_is_said(verb: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("said")
    found = make(verb, "TITLE=A title", f"TEXT={text}", PULL_REQUEST="7")
    assert found.returncode == 0, found.stderr
    assert "+ gh api --method POST repos/{owner}/{repo}/issues" in found.stdout


def test_smoke_and_load_and_cost() -> None:
    bare = f"{sys.executable} -S"  # without installed packages
    for verb in ("smoke", "load"):
        found = make(verb, URL="nowhere", PYTHON=bare)
        assert "is not the address of a service" in found.stderr
    assert "all, $ a month" in make("cost-difference", FROM="HEAD").stdout
    kept = (ROOT / ".cache" / "cost.txt").read_text()
    assert "has no docs/cost.md" in make("cost-difference", FROM="nowhere").stderr
    assert (ROOT / ".cache" / "cost.txt").read_text() == kept


@pytest.mark.parametrize(
    ("verb", "variables", "message"),
    [
        ("deploy", {}, "ENVIRONMENT is ''"),
        ("deploy", {"ENVIRONMENT": "prod"}, "one of dev, staging, production"),
        ("rollback", {"ENVIRONMENT": "; rm -rf /"}, "one of dev, staging, production"),
        ("burn-rate", {"ENVIRONMENT": "$(id)"}, "burn_rate.py ENVIRONMENT"),
        ("verify", {"IMAGE": IMAGE}, "CHART: is not set"),
        ("publish", {}, "REGISTRY: is not set"),
        ("plan", {"PLACE": "nowhere"}, "Places: "),
        ("apply", {"PLACE": "environment-dev"}, "No plan to apply"),
        ("comment", {"TEXT": "README.md"}, "PULL_REQUEST is not set"),
    ],
)
def test_what_is_refused(verb: str, variables: dict[str, str], message: str) -> None:
    found = make(verb, path=None, **variables)
    assert found.returncode != 0
    assert message in found.stderr + found.stdout


# With stand-ins for the programs of others, that say what they were called with.


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with an `aws` and a `helm`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    state = {"outputs": {"helm_values": {"value": VALUES}}}
    write(folder / "aws", f"printf %s '{json.dumps(state)}'")
    return folder


def write(file: Path, text: str) -> None:
    """Writes a program."""
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def helm(folder: Path, *history: tuple[str, str]) -> None:
    """Makes a `helm` that remembers these revisions."""
    entries = [
        {"revision": n, "status": status, "updated": "2026-11-24T10:00:00Z", "description": text}
        for n, (status, text) in enumerate(history, 1)
    ]
    if entries:
        write(folder / "helm", f"printf %s '{json.dumps(entries)}'")
    else:
        write(folder / "helm", "echo 'Error: release: not found' >&2; exit 1")


def run_deploy(folder: Path, verb: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs deploy.py without a way to the certificates' server."""
    code = (
        "import sys; from pipeline import deploy;"
        f" deploy.certificates = lambda environment: {CERTIFICATE!r};"
        f" deploy.main([{verb!r}, 'production'])"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={
            "PATH": f"{folder}:{os.environ['PATH']}",
            "HELM": str(folder / "helm"),
            "DRY_RUN": "1",
            "IMAGE": IMAGE,
            "CHART": CHART,
            "COMMIT": COMMIT,
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_first_deployment(programs: Path, tmp_path: Path) -> None:
    helm(programs)
    output = tmp_path / "output"
    found = run_deploy(programs, "deploy", GITHUB_OUTPUT=str(output))
    assert found.returncode == 0, found.stderr
    [command] = [line for line in found.stdout.splitlines() if line.startswith("+")]
    assert f"upgrade --install payments oci://{CHART} --namespace=payments-production" in command
    assert "environments/production.yaml" in command
    assert f"image.repository={REGISTRY}/payments,image.digest=sha256:{'a' * 64}" in command
    assert "--set-file=database.certificateAuthority=" in command
    assert "--wait --timeout=20m --rollback-on-failure" in command
    assert command.endswith(f"--description=sha256:{'a' * 64} {COMMIT}")
    assert output.read_text() == "url=https://payments.xpto.example\n"


def test_a_deployment_that_would_go_back_in_time(programs: Path) -> None:
    helm(programs, ("deployed", f"sha256:{'c' * 64} {COMMIT}"))
    first = subprocess.run(
        ["git", "rev-parse", "HEAD^"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    found = run_deploy(programs, "deploy", COMMIT=first)
    assert found.returncode == 1
    assert "Refused: commit" in found.stderr
    assert "+" not in found.stdout


def test_a_commit_that_git_does_not_know(programs: Path) -> None:
    helm(programs, ("deployed", f"sha256:{'c' * 64} {'1' * 40}"))
    found = run_deploy(programs, "deploy")
    assert "Refused: git cannot compare" in found.stderr


def test_a_deployment_after_one_that_was_stopped(programs: Path) -> None:
    helm(
        programs,
        ("deployed", f"sha256:{'c' * 64} {COMMIT}"),
        ("pending-upgrade", "Preparing upgrade"),
    )
    found = run_deploy(programs, "deploy")
    assert found.returncode == 0, found.stderr
    back, upgrade = (line for line in found.stdout.splitlines() if line.startswith("+"))
    assert "rollback payments 1" in back
    assert "upgrade --install" in upgrade


def test_one_click_back(programs: Path) -> None:
    helm(
        programs,
        ("superseded", f"sha256:{'c' * 64} {COMMIT}"),
        ("deployed", f"sha256:{'d' * 64} {COMMIT}"),
    )
    found = run_deploy(programs, "rollback", DIGEST="")
    assert found.returncode == 0, found.stderr
    assert f"Back to revision 1, sha256:{'c' * 64}" in found.stdout
    assert "rollback payments 1 --namespace=payments-production --wait" in found.stdout
    assert "Refused" in run_deploy(programs, "rollback", DIGEST="sha256:nonsense").stderr


def test_a_helm_that_does_not_answer(programs: Path) -> None:
    write(programs / "helm", "echo 'Error: Unauthorized' >&2; exit 1")
    found = run_deploy(programs, "deploy")
    assert "Refused: helm history failed: Error: Unauthorized" in found.stderr


def test_the_real_helm_knows_every_option() -> None:
    program = ROOT / ".cache" / "clients" / "helm"
    commands = {
        "upgrade": deploy.upgrade("dev", IMAGE, CHART, COMMIT, Path("/tmp")),  # noqa: S108 - a name
        "rollback": deploy._rollback("dev", 1),
    }
    for verb, command in commands.items():
        known = subprocess.run(
            [program, verb, "--help"], check=True, capture_output=True, text=True
        ).stdout
        for option in (re.match(r"--[a-z-]+", word) for word in command):
            assert option is None or f"{option[0]} " in known or f"{option[0]}" in known.split(), (
                option
            )
    history = subprocess.run(
        [program, "history", "--help"], check=True, capture_output=True, text=True
    ).stdout
    assert "--max" in history
    assert "--output" in history


def test_every_verb_of_the_workflows_has_a_recipe_that_make_understands() -> None:
    named = {word for _, command in commands() for word in shlex.split(command)[1:]}
    verbs = sorted(named & VERBS)
    assert len(verbs) > 25
    for verb in verbs:
        found = make("--dry-run", verb, f"IMAGE={IMAGE}", ENVIRONMENT="dev", REGISTRY=REGISTRY)
        assert found.returncode == 0, found.stderr


def test_a_build_that_is_published(programs: Path) -> None:
    found = make("publish", path=programs, REGISTRY=REGISTRY)
    assert found.returncode == 0, found.stderr
    name = f"{REGISTRY}/payments:{COMMIT}"
    for architecture in ("amd64", "arm64"):
        archive = f".cache/images/image-{architecture}/image.tar"
        assert f"+ docker load --quiet --input {archive}" in found.stderr
        assert f"+ docker push --quiet {name}-{architecture}\n" in found.stderr
    assert f"imagetools create --tag {name} {name}-amd64 {name}-arm64\n" in found.stderr
    assert f"package charts/payments --version {version()}+{COMMIT}" in found.stderr
