"""How pods reach the database: as whom, without a secret, over how many connections."""

import re
from typing import Any

import pytest

from payments import config
from tests.conftest import (
    RELEASE,
    ROOT,
    Manifest,
    environment_of,
    helm,
    one,
    outputs,
    told,
    values_of,
)
from tests.conftest import payments as render

SECRETS = {
    "database": {
        "authentication": "secret",
        "host": "",
        "secrets": {"api": "payments-api", "migrator": "payments-migrator"},
    }
}


# The pods that connect to the database, by the Deployment or the Job that makes them.
PODS = ("payments", "payments-audit", "payments-migration")
on_the_database = pytest.mark.parametrize("name", PODS)


def pod_of(manifests: list[Manifest], name: str) -> Any:
    """Returns the pod of the Deployment or the Job of this name."""
    (found,) = [
        m["spec"]["template"]["spec"]
        for m in manifests
        if m["kind"] in ("Deployment", "Job") and m["metadata"]["name"] == name
    ]
    return found


def container(manifests: list[Manifest], name: str) -> Any:
    """Returns its container."""
    (found,) = pod_of(manifests, name)["containers"]
    return found


@pytest.mark.parametrize(
    ("name", "role", "account"),
    [
        ("payments", "payments_app", "payments"),
        ("payments-audit", "payments_app", "payments"),
        ("payments-migration", "payments_migrator", "payments-migrator"),
    ],
)
def test_each_pod_signs_for_its_own_role_with_its_own_identity(
    manifests: list[Manifest], environment: str, name: str, role: str, account: str
) -> None:
    variables = environment_of(container(manifests, name))
    host = outputs(f"environment-{environment}")["database"]["host"]
    assert variables["PAYMENTS_DATABASE_URL"] == (
        f"postgresql://{role}_{environment}@{host}:5432/payments"
        "?sslmode=verify-full&sslrootcert=/etc/database/ca.pem"
    )
    assert variables["PAYMENTS_DATABASE_IAM_REGION"] == "us-east-1"
    assert pod_of(manifests, name)["serviceAccountName"] == account
    assert one(manifests, "ServiceAccount", account)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("payments", "payments_app"),
        ("payments-audit", "payments_app"),
        ("payments-migration", "payments_migrator"),
    ],
)
def test_where_no_login_is_named_after_an_environment_the_roles_log_in(
    name: str, role: str
) -> None:
    values = told("production")
    del values["database"]["users"]
    manifests = helm("payments", values, "environments/production.yaml", "payments-production")
    url = environment_of(container(manifests, name))["PAYMENTS_DATABASE_URL"]
    assert url.startswith(f"postgresql://{role}@")


@on_the_database
def test_a_token_is_sent_only_to_whom_rds_has_certified(
    manifests: list[Manifest], name: str
) -> None:
    assert pod_of(manifests, name)["volumes"] == [
        {"name": "database-ca", "configMap": {"name": "payments-database-ca"}}
    ]
    assert container(manifests, name)["volumeMounts"] == [
        {"name": "database-ca", "mountPath": "/etc/database", "readOnly": True}
    ]
    authority = one(manifests, "ConfigMap", "payments-database-ca")["data"]
    assert authority == {"ca.pem": RELEASE["database"]["certificateAuthority"]}


@on_the_database
def test_a_lost_answer_of_the_dns_costs_less_than_a_connection_may(
    manifests: list[Manifest], environment: str, name: str
) -> None:
    dns = pod_of(manifests, name)["dnsConfig"]
    options = {o["name"]: o.get("value") for o in dns["options"]}
    patience = config.Settings(database_url="postgresql://").connect_timeout_seconds
    assert int(options["timeout"]) < patience
    host = outputs(f"environment-{environment}")["database"]["host"]
    assert int(options["ndots"]) <= host.count(".")


def test_with_iam_nothing_refers_to_a_secret(manifests: list[Manifest]) -> None:
    assert "secretKeyRef" not in str(manifests)
    assert not [m for m in manifests if m["kind"] == "Secret"]


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("payments", "payments-api"),
        ("payments-audit", "payments-api"),
        ("payments-migration", "payments-migrator"),
    ],
)
def test_a_url_with_a_password_comes_from_a_secret_that_the_chart_does_not_make(
    name: str, secret: str
) -> None:
    manifests = render(SECRETS)
    (reference,) = [i for i in container(manifests, name)["env"] if "valueFrom" in i]
    assert reference == {
        "name": "PAYMENTS_DATABASE_URL",
        "valueFrom": {"secretKeyRef": {"name": secret, "key": "url"}},
    }
    assert not [m for m in manifests if m["kind"] == "Secret"]


def test_the_database_has_a_connection_for_every_pod_that_there_can_be(environment: str) -> None:
    """In a rolling update all old pods can still drain while all new ones serve."""
    manifests = render(environment=environment)
    most = one(manifests, "HorizontalPodAutoscaler")["spec"]["maxReplicas"]
    surge = one(manifests, "Deployment", "payments")["spec"]["strategy"]["rollingUpdate"][
        "maxSurge"
    ]
    pool = int(environment_of(container(manifests, "payments"))["PAYMENTS_POOL_SIZE"])
    probe = 1
    auditor = one(manifests, "Deployment", "payments-audit")["spec"]
    assert auditor["strategy"] == {"type": "Recreate"}  # never two
    database = values_of(environment)["database"]
    pods = most + most + surge
    needed = pods * (pool + probe) + auditor["replicas"] + database["reservedConnections"]
    assert needed <= database["maxConnections"]


def test_the_database_that_is_assumed_is_no_larger_than_the_class_allows(environment: str) -> None:
    """RDS gives LEAST(DBInstanceClassMemory / 9531392, 5000).

    That memory is the class's, less what RDS and the system take. How much is not published, so
    that 15% are left to them.
    """
    settings = (ROOT / "terraform" / "settings" / f"environment-{environment}.tfvars").read_text()
    (name,) = re.findall(r'instance_class\s+= "(.+)"', settings)
    formula = {"db.t4g.micro": 1, "db.t4g.small": 2}[name] * 1024**3 / 9531392
    assert values_of(environment)["database"]["maxConnections"] <= 0.85 * formula
