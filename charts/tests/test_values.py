"""What the charts refuse, and the sentence that they refuse it with."""

import json
from typing import Any

import pytest
import yaml

from payments import config
from tests.conftest import (
    CHARTS,
    Manifest,
    Refused,
    helm,
    merge,
    outputs,
    payments,
    told,
)

# Settings that the chart makes from other values, or that its ports and probes rely on; and the
# pooler's: the auditor beside the service goes to PostgreSQL with the same URL.
OF_THE_CHART = {
    "PAYMENTS_DATABASE_URL",
    "PAYMENTS_DATABASE_IAM_REGION",
    "PAYMENTS_DATABASE_POOLER",
    "PAYMENTS_HTTP_HOST",
    "PAYMENTS_HTTP_PORT",
    "PAYMENTS_METRICS_PORT",
    "PAYMENTS_REVISION",
    "PAYMENTS_SHUTDOWN_DELAY_SECONDS",
    "PAYMENTS_SHUTDOWN_TIMEOUT_SECONDS",
}

NOT_POSSIBLE: list[tuple[Manifest, str]] = [
    ({"image": {"tag": "latest"}}, "image.tag is latest, which is another image every day"),
    (
        {"autoscaling": {"minReplicas": 5, "maxReplicas": 3}},
        "autoscaling.minReplicas (5) is more than autoscaling.maxReplicas (3).",
    ),
    (
        {"settings": {"PAYMENTS_POOL_SIZE": 20}},
        "A rolling update at 8 replicas can need 373 connections to the database, which allows 180",
    ),
    ({"database": {"host": ""}}, "database.host is empty"),
    ({"database": {"region": ""}}, "database.region is empty"),
    ({"database": {"certificateAuthority": ""}}, "database.certificateAuthority is empty"),
    ({"database": {"secrets": {"api": "a"}}}, "database.authentication is iam, which knows no"),
    (
        {"database": {"authentication": "secret", "host": ""}},
        "name both database.secrets.api and database.secrets.migrator",
    ),
    (
        {"database": {"authentication": "secret", "secrets": {"api": "a", "migrator": "b"}}},
        "database.host is set, but database.authentication is secret",
    ),
    ({"ingress": {"host": ""}}, "ingress.host is empty"),
    (
        {"ingress": {"enabled": False}, "httpRoute": {"enabled": True}},
        "httpRoute needs httpRoute.hostnames and httpRoute.parentRefs",
    ),
    (
        {"httpRoute": {"enabled": True, "hostnames": ["a"], "parentRefs": [{"name": "b"}]}},
        "the API has one way in",
    ),
    (
        {"settings": {"PAYMENTS_AUTHENTICATION": False}},
        "PAYMENTS_AUTHENTICATION is false and the API is reachable from outside",
    ),
    ({"shutdown": {"delaySeconds": 5}}, "shutdown.delaySeconds (5) is less than the 10 s"),
    ({"networkPolicy": {"database": []}}, "no pod could reach the database"),
    ({"networkPolicy": {"clients": []}}, "the load balancer could not reach the API"),
    (
        {"settings": {"PAYMENTS_OTLP_ENDPOINT": "http://collector:4318"}},
        "no pod could reach the collector of settings.PAYMENTS_OTLP_ENDPOINT",
    ),
]

NOT_A_VALUE: list[tuple[Manifest, str]] = [
    ({"replica": 2}, "additional properties 'replica' not allowed"),
    ({"autoscaling": {"maxReplica": 2}}, "additional properties 'maxReplica' not allowed"),
    ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
    ({"topologySpread": "Never"}, "'ScheduleAnyway', 'DoNotSchedule'"),
    ({"settings": {"PAYMENTS_POOLSIZE": 8}}, "invalid propertyName 'PAYMENTS_POOLSIZE'"),
    ({"settings": {"PAYMENTS_DATABASE_URL": "x"}}, "invalid propertyName 'PAYMENTS_DATABASE_URL'"),
    ({"database": {"authentication": "password"}}, "'iam', 'secret'"),
    ({"database": {"password": "x"}}, "additional properties 'password' not allowed"),
    ({"database": {"users": {"app": "app@elsewhere"}}}, "/database/users/app"),
    ({"autoscaling": {"minReplicas": 0}}, "/autoscaling/minReplicas"),
    ({"ingress": {"wafAclArn": "payments"}}, "/ingress/wafAclArn"),
    ({"networkPolicy": {"clients": [{"cidr": "10.0.0.0/8"}]}}, "additional properties 'cidr'"),
]


@pytest.mark.parametrize(("values", "sentence"), NOT_POSSIBLE)
def test_what_cannot_work_together_is_refused_with_a_sentence(
    values: Manifest, sentence: str
) -> None:
    with pytest.raises(Refused) as refused:
        payments(values)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(("values", "words"), NOT_A_VALUE)
def test_a_typing_mistake_is_refused_by_its_name(values: Manifest, words: str) -> None:
    with pytest.raises(Refused) as refused:
        payments(values)
    assert words in str(refused.value)


@pytest.mark.parametrize("program", ["helm", "helm3"])
def test_every_environment_renders_alike_with_helm_3_and_4(program: str, environment: str) -> None:
    file, namespace = f"environments/{environment}.yaml", f"payments-{environment}"
    rendered = helm("payments", told(environment), file, namespace, program)
    assert rendered == helm("payments", told(environment), file, namespace)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"platform": ""}, "platform is empty"),
        ({"eks": {"nodeRole": ""}}, "eks.nodeRole is empty"),
        ({"eks": {"capacityTypes": ["Spot"]}}, "'spot', 'on-demand'"),
        ({"environments": ["homologacao"]}, "'dev', 'staging', 'production'"),
        ({"loadBalancer": {"certificateArns": ["a"]}}, "/loadBalancer/certificateArns/0"),
    ],
)
def test_the_cluster_refuses_too(values: Manifest, sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        helm("cluster", merge(outputs("platform-production"), values), "clusters/production.yaml")
    assert sentence in str(refused.value)


def test_the_schema_knows_the_settings_of_the_service_and_no_others() -> None:
    schema = json.loads((CHARTS / "payments" / "values.schema.json").read_text())
    known = set(schema["properties"]["settings"]["propertyNames"]["enum"])
    fields = config.Settings.__struct_fields__
    assert known == {config.variable(field) for field in fields} - OF_THE_CHART


def objects(schema: Any, path: str = "") -> list[tuple[str, Any]]:
    """Returns every object of a schema that names its members."""
    found = []
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("type") == "object":
            found.append((path, schema))
        for key, value in schema.items():
            found += objects(value, f"{path}/{key}")
    return found


@pytest.mark.parametrize("chart", ["payments", "cluster"])
def test_no_object_of_the_schemas_lets_a_typing_mistake_pass(chart: str) -> None:
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text())
    assert objects(schema)
    for path, found in objects(schema):
        assert found.get("additionalProperties") is False or "propertyNames" in found, path


def test_an_environment_says_only_what_differs(environment: str) -> None:
    defaults = yaml.safe_load((CHARTS / "payments" / "values.yaml").read_text())
    file = CHARTS / "payments" / "environments" / f"{environment}.yaml"

    def check(below: Any, above: Any, path: str) -> None:
        for key, value in above.items():
            if isinstance(value, dict):
                check(below[key], value, f"{path}.{key}")
            else:
                assert below[key] != value, f"{path}.{key} is what values.yaml says"

    check(defaults, yaml.safe_load(file.read_text()), environment)
