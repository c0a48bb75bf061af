"""The migration: before everything else, on its own, and harmless when it fails."""

from payments import migrate
from tests.conftest import Manifest, one

HOOK = "helm.sh/hook"
WEIGHT = "helm.sh/hook-weight"


def hooks(manifests: list[Manifest], event: str) -> list[Manifest]:
    """Returns the hooks of an event."""
    return [
        manifest
        for manifest in manifests
        if event in manifest["metadata"].get("annotations", {}).get(HOOK, "").split(",")
    ]


def test_it_runs_before_an_install_and_before_an_upgrade(manifests: list[Manifest]) -> None:
    annotations = one(manifests, "Job")["metadata"]["annotations"]
    assert annotations[HOOK] == "pre-install,pre-upgrade"


def test_on_the_first_install_all_that_it_needs_is_there_before_it(
    manifests: list[Manifest],
) -> None:
    before = hooks(manifests, "pre-install")
    weights = {m["kind"]: int(m["metadata"]["annotations"][WEIGHT]) for m in before}
    assert set(weights) == {"ServiceAccount", "NetworkPolicy", "ConfigMap", "Job"}
    assert weights.pop("Job") > max(weights.values())
    job = one(manifests, "Job")["spec"]["template"]
    (account,) = [m for m in before if m["kind"] == "ServiceAccount"]
    assert job["spec"]["serviceAccountName"] == account["metadata"]["name"]
    (policy,) = [m for m in before if m["kind"] == "NetworkPolicy"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= job["metadata"]["labels"].items()
    (volume,) = job["spec"]["volumes"]
    (authority,) = [m for m in before if m["kind"] == "ConfigMap"]
    assert volume["configMap"]["name"] == authority["metadata"]["name"]


def test_it_migrates_with_the_image_of_the_release(manifests: list[Manifest]) -> None:
    (job,) = one(manifests, "Job")["spec"]["template"]["spec"]["containers"]
    (api,) = one(manifests, "Deployment", "payments")["spec"]["template"]["spec"]["containers"]
    assert job["args"] == ["migrate"]
    assert api["args"] == ["serve"]
    assert job["image"] == api["image"]


def test_it_ends_after_it_could_have_waited_for_another_run(manifests: list[Manifest]) -> None:
    spec = one(manifests, "Job")["spec"]
    patience = migrate.ATTEMPTS * (migrate.LOCK_TIMEOUT_SECONDS + migrate.PAUSE_SECONDS)
    assert spec["activeDeadlineSeconds"] > migrate.OTHERS_SECONDS + patience


def test_what_a_failed_one_said_is_kept_until_the_next(manifests: list[Manifest]) -> None:
    annotations = one(manifests, "Job")["metadata"]["annotations"]
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    assert one(manifests, "Job")["spec"]["template"]["spec"]["restartPolicy"] == "Never"
