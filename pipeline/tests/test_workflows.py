"""The workflows: they call what exists, say what they need, and trust what they should."""

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pipeline.promotion import ENVIRONMENTS

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
SETTINGS = ROOT / "terraform" / "settings"
DOCUMENT = ROOT / "docs" / "pipeline.md"

FILES = [*sorted((GITHUB / "workflows").glob("*")), *sorted((GITHUB / "actions").rglob("action.*"))]
TEXTS = {str(file.relative_to(GITHUB)): file.read_text() for file in FILES}

Job = dict[str, Any]


def load(name: str) -> dict[str, Any]:
    """Reads a file; `on` is no boolean here."""
    found: dict[str, Any] = yaml.load(TEXTS[name], Loader=yaml.BaseLoader)  # noqa: S506 - strings only
    return found


WORKFLOWS = {name: load(name) for name in TEXTS if name.startswith("workflows/")}
ACTIONS = {name: load(name) for name in TEXTS if name.startswith("actions/")}


def jobs() -> Iterator[tuple[str, Job]]:
    """Gives every job with its name."""
    for name, workflow in WORKFLOWS.items():
        for job, content in workflow["jobs"].items():
            yield f"{Path(name).stem}/{job}", content


def steps(name: str) -> list[dict[str, Any]]:
    """Returns a file's steps."""
    if name in ACTIONS:
        return list(ACTIONS[name]["runs"]["steps"])
    return [step for job in WORKFLOWS[name]["jobs"].values() for step in job.get("steps", ())]


def verbs(text: str) -> set[str]:
    """Returns what a Makefile offers."""
    return set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))


VERBS = verbs((ROOT / "Makefile").read_text())


def commands() -> Iterator[tuple[str, str]]:
    """Gives each command that a step runs, with the values that its job's matrix gives it."""
    for name in TEXTS:
        if name in ACTIONS:
            yield from ((name, step["run"]) for step in steps(name) if "run" in step)
            continue
        for job in WORKFLOWS[name]["jobs"].values():
            rows = job.get("strategy", {}).get("matrix", {}).get("verbs", [""])
            for step in job.get("steps", ()):
                if "run" in step:
                    for row in rows:
                        yield name, step["run"].replace("$VERBS", row)


@pytest.mark.parametrize(("name", "command"), sorted(set(commands())))
def test_a_step_runs_one_verb_or_script_that_exists(name: str, command: str) -> None:
    if command == "exit 1":
        return
    as_root = r'^sudo (env "PATH=\$PATH" )?'
    program, *arguments = shlex.split(re.sub(as_root, "", command))
    assert "\n" not in command
    assert "${{" not in command
    if program != "make":
        script = ROOT / program
        assert script.is_file()
        assert script.is_relative_to(ROOT / "pipeline")
        return
    named = [a for a in arguments if "=" not in a]
    named += [v for a in arguments if a.startswith("VERBS=") for v in a[6:].split()]
    assert named
    assert set(named) <= VERBS


def test_a_pull_request_passes_what_make_test_runs() -> None:
    [line] = re.findall(r"^test: (.+?) ##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    run = {
        word
        for name, command in commands()
        if name == "workflows/ci.yaml"
        for word in command.split()
    }
    assert {*line.split()} <= run


def test_variables_and_secrets_are_documented_and_no_others() -> None:
    used = {
        found for text in TEXTS.values() for found in re.findall(r"(?:vars|secrets)\.\w+", text)
    }
    table = set(re.findall(r"^\| `((?:vars|secrets)\.\w+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    assert used == table


def uses() -> list[tuple[str, str]]:
    """Returns each line that calls something of others."""
    found = [
        (name, line)
        for name, text in TEXTS.items()
        for line in re.findall(r"uses: (.+)", text)
        if not line.startswith("./")
    ]
    assert len(found) > 20
    return found


def test_actions_are_pinned_by_commit_with_their_version() -> None:
    for name, line in uses():
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), f"{name}: {line}"


def test_an_action_has_one_version() -> None:
    lines = {line for _, line in uses()}
    assert len(lines) == len({line.partition("@")[0] for line in lines})


def test_workflows_that_attackers_love_are_not_used() -> None:
    for workflow in WORKFLOWS.values():
        assert not {"pull_request_target", "workflow_run", "issue_comment"} & {*workflow["on"]}


def test_nothing_is_permitted_but_what_a_job_says() -> None:
    assert all(workflow["permissions"] == {} for workflow in WORKFLOWS.values())
    assert all("permissions" in job for _, job in jobs())


def test_every_job_ends() -> None:
    for name, job in jobs():
        assert "uses" in job or int(job["timeout-minutes"]) <= 60, name


def test_no_checkout_leaves_its_token() -> None:
    checkouts = [s for name in TEXTS for s in steps(name) if "checkout@" in s.get("uses", "")]
    assert len(checkouts) > 10
    assert all(step["with"]["persist-credentials"] == "false" for step in checkouts)


def test_what_may_write_to_a_pull_request_runs_nothing_of_it() -> None:
    writers = [job for _, job in jobs() if job["permissions"].get("pull-requests") == "write"]
    assert len(writers) == 2
    for job in writers:
        [checkout] = [s for s in job["steps"] if "checkout@" in s.get("uses", "")]
        assert checkout["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
        assert job["permissions"].get("id-token") is None


def test_no_cache_is_read_where_there_are_credentials() -> None:
    for name, job in jobs():
        cached = any("/cache@" in step.get("uses", "") for step in job.get("steps", ()))
        assert not (cached and "id-token" in job["permissions"]), name


def test_what_builds_and_inspects_an_image_has_no_credentials() -> None:
    for name, job in jobs():
        run = {word for step in job.get("steps", ()) for word in step.get("run", "").split()}
        if run & {"image", "sbom", "reproducible"}:
            assert "id-token" not in job["permissions"], name
    signed = WORKFLOWS["workflows/build.yaml"]["jobs"]
    assert "make image scan sbom" in [step.get("run") for step in signed["image"]["steps"]]
    assert signed["publish"]["needs"] == "image"


def test_a_secret_is_there_only_in_a_job_of_an_environment() -> None:
    for name, job in jobs():
        assert "secrets." not in str(job) or "environment" in job, name
    assert not any("{{ secrets." in TEXTS[name] for name in ACTIONS)


def test_every_place_of_terraform_is_planned_and_applied_and_watched() -> None:
    places = {file.stem for file in SETTINGS.glob("*.tfvars")} - {"bootstrap"}
    for name, job in jobs():
        if "place" in job.get("strategy", {}).get("matrix", {}):
            assert set(job["strategy"]["matrix"]["place"]) == places, name
    calls = [job["with"]["place"] for _, job in jobs() if "place.yaml" in job.get("uses", "")]
    assert sorted(calls) == sorted(places)


def environments() -> Iterator[str]:
    """Gives the GitHub environments that jobs name, by value or by input."""
    for _, job in jobs():
        for name in (job.get("environment", ""), job.get("with", {}).get("environment", "")):
            if name and "${{" not in name:
                yield name


def test_every_environment_is_set_up_for_main_alone() -> None:
    [loop] = re.findall(r"^for e in (.+); do\n  reviewers", DOCUMENT.read_text(), re.MULTILINE)
    assert set(loop.split()) == set(environments())
    assert 'deployment-branch-policies" --field name=main' in DOCUMENT.read_text()


# What GitHub itself enforces


def rulesets() -> dict[str, Any]:
    """Returns the rulesets that the document creates, by name."""
    found = re.findall(
        r"rulesets\" --input - <<'?JSON'?\n(.+?)\nJSON", DOCUMENT.read_text(), re.DOTALL
    )
    return {rules["name"]: rules for rules in (json.loads(t.replace("$APP", "1")) for t in found)}


def test_only_the_release_creates_a_tag_of_a_version() -> None:
    rules = rulesets()["releases"]
    assert rules["conditions"]["ref_name"] == {"include": ["~ALL"], "exclude": []}
    assert {rule["type"] for rule in rules["rules"]} == {"creation", "update", "deletion"}
    [actor] = rules["bypass_actors"]
    assert actor["actor_type"] == "Integration"
    assert {name for name, job in jobs() if "RELEASE_APP_KEY" in str(job)} == {"deploy/release"}
    release = WORKFLOWS["workflows/deploy.yaml"]["jobs"]["release"]
    assert release["environment"] == "publish"
    assert release["steps"][-1]["env"]["GH_TOKEN"] == "${{ steps.app.outputs.token }}"


def test_no_workflow_may_write_to_the_repository() -> None:
    assert not any(job["permissions"].get("contents") == "write" for _, job in jobs())


def test_owners_agree_to_what_main_takes() -> None:
    [pull_request] = [r for r in rulesets()["main"]["rules"] if r["type"] == "pull_request"]
    assert pull_request["parameters"]["require_code_owner_review"] is True
    assert "bypass_actors" not in rulesets()["main"]


# From a commit to production


def test_an_image_goes_through_the_environments_in_order() -> None:
    content = WORKFLOWS["workflows/deploy.yaml"]["jobs"]
    chain = [name for name in content if name in ENVIRONMENTS]
    assert chain == [*ENVIRONMENTS]
    for before, after in itertools.pairwise(chain):
        assert before in content[after]["needs"]
    for name in chain:
        [call] = [s["with"] for s in content[name]["steps"] if "actions/deploy" in s["uses"]]
        assert call["environment"] == content[name]["environment"] == name
        assert call["image"] == "${{ needs.build.outputs.image }}"
        assert call["chart"] == "${{ needs.build.outputs.chart }}"
    assert content["production"]["if"] == "needs.build.outputs.release == 'true'"


def test_a_deployment_that_fails_a_check_is_taken_back_by_the_same_job() -> None:
    runs = [step for step in steps("actions/deploy/action.yaml") if "run" in step]
    names = [step["run"] for step in runs]
    assert names[-1] == "make rollback"
    assert runs[-1]["if"] == "failure() && steps.deploy.outcome == 'success'"
    checks = ["make helm-test", "make smoke", "make load", "make burn-rate"]
    assert names[names.index("make deploy") + 1 : -1] == checks


def test_a_rollback_waits_for_no_deployment() -> None:
    groups = [w.get("concurrency", {}).get("group") for w in WORKFLOWS.values()]
    groups += [job["concurrency"]["group"] for _, job in jobs() if "concurrency" in job]
    assert len([group for group in groups if group]) == len({group for group in groups if group})
    assert "concurrency" not in WORKFLOWS["workflows/deploy.yaml"]["jobs"]["production"]


def test_what_is_verified_is_what_build_yaml_of_main_signed() -> None:
    script = (ROOT / "pipeline" / "verify").read_text()
    assert "/.github/workflows/build.yaml" in script
    signers = [n for n in TEXTS if any("actions/attest@" in s.get("uses", "") for s in steps(n))]
    assert signers == ["workflows/build.yaml"]


# Who a job is to AWS


class Login(NamedTuple):
    """A role that a job takes, and the subject that GitHub signs for it."""

    role: str
    subject: str


def repository() -> str:
    """Returns the repository that Terraform trusts."""
    found = re.search(r'repository\s*= "(.+)"', (SETTINGS / "bootstrap.tfvars").read_text())
    assert found is not None
    return found[1]


def trusted() -> set[Login]:
    """Returns what terraform/bootstrap trusts: the table that its own test holds it to."""
    text = (ROOT / "terraform" / "bootstrap" / "tests" / "ci.tftest.hcl").read_text()
    rows = re.findall(r"^ +([\w-]+) += toset\(\[(.+)\]\)$", text, re.MULTILINE)
    return {
        Login(role, subject)
        for role, list_ in rows
        for subject in re.findall(r'"(repo:[^"]+)"', list_)
    }


def logins(workflow: dict[str, Any], events: set[str], inputs: dict[str, str]) -> Iterator[Login]:
    """Gives each login of a workflow's jobs when it is started by these events."""
    for job in workflow["jobs"].values():
        condition = job.get("if", "")
        started = set(events)
        if "github.event_name == 'pull_request'" in condition:
            started &= {"pull_request"}
        if "github.event_name != 'pull_request'" in condition:
            started -= {"pull_request"}
        if job.get("uses", "").startswith("./"):
            called = WORKFLOWS[job["uses"].removeprefix("./.github/")]
            yield from logins(called, started, job.get("with", {}))
        elif "id-token" in job["permissions"]:
            yield from job_logins(job, started, inputs)


def job_logins(job: Job, events: set[str], inputs: dict[str, str]) -> Iterator[Login]:
    """Gives the logins of one job."""
    environment = fill(job.get("environment", ""), inputs)
    subjects = {
        f"environment:{environment}"
        if environment
        else "pull_request"
        if event == "pull_request"
        else "ref:refs/heads/main"
        for event in events
    }
    for step in job["steps"]:
        role = fill(step.get("with", {}).get("role-to-assume", ""), inputs)
        if step.get("uses", "").startswith("./.github/actions/"):
            action = ACTIONS[f"{step['uses'].removeprefix('./.github/')}/action.yaml"]
            of_action = [
                s.get("with", {}).get("role-to-assume", "") for s in action["runs"]["steps"]
            ]
            role = fill("".join(of_action), step["with"])
        if role:
            name = role.rpartition("/payments-ci-")[2]
            yield from (Login(name, f"repo:{repository()}:{subject}") for subject in subjects)


def fill(text: str, inputs: dict[str, str]) -> str:
    """Puts inputs into a text."""
    return re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda m: inputs.get(m[1], m[0]), text)


def test_each_login_is_one_that_aws_trusts_and_each_that_it_trusts_is_used() -> None:
    found: set[Login] = set()
    for name, workflow in WORKFLOWS.items():
        events = {*workflow["on"]}
        if events == {"workflow_call"}:
            continue
        choices: list[dict[str, str]] = [{}]
        if name == "workflows/rollback.yaml":
            choices = [{"environment": environment} for environment in ENVIRONMENTS]
        for inputs in choices:
            found |= {*logins(workflow, events, inputs)}
    assert found == trusted()
