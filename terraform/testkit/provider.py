"""A stand-in for hashicorp/aws: its true schema, and resources that exist only in state.

It never talks to AWS. What AWS would decide is unknown in a plan, as with the real provider, and
made up by apply. What the real provider knows without AWS, it knows too: policy documents, default
tags, the records that validate a certificate. It refuses what the schema refuses; it cannot know
which values AWS takes. It serves one Terraform at a time: the last configuration counts.
"""

import hashlib
import json
import secrets
import tomllib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import msgpack

from testkit import policy
from testkit.plugin import pb

ACCOUNT = "123456789012"
UNKNOWN = msgpack.ExtType(0, b"\0")  # "known after apply", as Terraform writes it
ZONES = "abcdef"

RESOURCES: dict[str, dict[str, str]] = tomllib.loads(
    Path(__file__).with_name("resources.toml").read_text()
)

_NESTINGS = {"single": 1, "list": 2, "set": 3}  # of the protocol

Attribute = dict[str, Any]
Change = Callable[[str, Attribute, Any], Any]


def arn(type_: str, values: Attribute) -> str:
    """Returns the ARN of a resource of a type that resources.toml has."""
    token = hashlib.sha256(f"{type_} {values['id']}".encode()).hexdigest()[:17]
    known = {"account": ACCOUNT, "token": token}
    if "principal_arn" in values:
        known["principal"] = values["principal_arn"].rsplit("/")[-1]
    return RESOURCES[type_]["arn"].format_map(values | known)


class Provider:
    """One method a call of the protocol, by its name there."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._region = "us-east-1"
        self._default_tags: dict[str, str] = {}

    def GetProviderSchema(self, _: Any) -> Any:  # noqa: N802
        """Returns all schemas."""
        return self._schemas

    @cached_property
    def _schemas(self) -> Any:
        def section(name: str) -> dict[str, Any]:
            schemas = self._schema[name].items()
            return {type_: pb.Schema(block=_schema_block(s["block"])) for type_, s in schemas}

        return pb.GetProviderSchema.Response(
            provider=pb.Schema(block=_schema_block(self._schema["provider"]["block"])),
            resource_schemas=section("resource_schemas"),
            data_source_schemas=section("data_source_schemas"),
            ephemeral_resource_schemas=section("ephemeral_resource_schemas"),
            server_capabilities=pb.ServerCapabilities(get_provider_schema_optional=True),
        )

    def ConfigureProvider(self, request: Any) -> None:  # noqa: N802
        """Takes region and default tags over."""
        config = _unpack(request.config)
        if isinstance(config["region"], str):
            self._region = config["region"]
        for block in config["default_tags"]:
            self._default_tags = block["tags"] or {}

    def ValidateResourceConfig(self, request: Any) -> Any:  # noqa: N802
        """Refuses a value for what AWS decides; Terraform itself checks the rest."""
        refused = _values_for_computed(self._block("resource_schemas", request), request.config)
        return pb.ValidateResourceConfig.Response(diagnostics=refused)

    def ValidateDataResourceConfig(self, request: Any) -> Any:  # noqa: N802
        """As for resources."""
        refused = _values_for_computed(self._block("data_source_schemas", request), request.config)
        return pb.ValidateDataResourceConfig.Response(diagnostics=refused)

    def UpgradeResourceState(self, request: Any) -> Any:  # noqa: N802
        """Returns the state as it is: there is one version of each schema."""
        state = _pack(json.loads(request.raw_state.json))
        return pb.UpgradeResourceState.Response(upgraded_state=state)

    def ReadResource(self, request: Any) -> Any:  # noqa: N802
        """Returns the state as it is: nothing changes behind Terraform's back."""
        return pb.ReadResource.Response(new_state=request.current_state)

    def PlanResourceChange(self, request: Any) -> Any:  # noqa: N802
        """Returns what is asked for, with unknowns for what AWS decides."""
        planned = _unpack(request.proposed_new_state)
        if planned is not None:  # None is a destruction
            planned = _unset_to_unknown(self._block("resource_schemas", request), planned)
            self._know(request.type_name, planned)
        return pb.PlanResourceChange.Response(planned_state=_pack(planned))

    def ApplyResourceChange(self, request: Any) -> Any:  # noqa: N802
        """Returns the plan with every unknown made up."""
        state = _unpack(request.planned_state)
        if state is not None:
            block = self._block("resource_schemas", request)
            state = self._fill(request.type_name, block, state, secrets.token_hex(6))
        return pb.ApplyResourceChange.Response(new_state=_pack(state))

    def ReadDataSource(self, request: Any) -> Any:  # noqa: N802
        """Returns what the provider itself knows, and makes the rest up."""
        block = self._block("data_source_schemas", request)
        config = _unpack(request.config)
        state = _unset_to_unknown(block, config) | self._know_data(request.type_name, config)
        # The same question has the same answer: a second plan must find nothing changed.
        token = hashlib.sha256(request.config.msgpack).hexdigest()[:12]
        state = self._fill(request.type_name, block, state, token)
        return pb.ReadDataSource.Response(state=_pack(state))

    def _block(self, section: str, request: Any) -> dict[str, Any]:
        block: dict[str, Any] = self._schema[section][request.type_name]["block"]
        return block

    def _know(self, type_: str, planned: dict[str, Any]) -> None:
        if "tags_all" in planned and planned.get("tags") is not UNKNOWN:
            planned["tags_all"] = self._default_tags | (planned["tags"] or {})
        if planned.get("region") is UNKNOWN:
            planned["region"] = self._region
        if type_ == "aws_acm_certificate" and planned["domain_validation_options"] is UNKNOWN:
            more = planned["subject_alternative_names"]
            names = {planned["domain_name"], *([] if more is UNKNOWN else more or [])}
            record = dict.fromkeys(
                ("resource_record_name", "resource_record_type", "resource_record_value"), UNKNOWN
            )
            if UNKNOWN not in names:
                planned["domain_validation_options"] = [
                    {"domain_name": name} | record for name in sorted(names)
                ]

    def _know_data(self, type_: str, config: dict[str, Any]) -> dict[str, Any]:
        match type_:
            case "aws_iam_policy_document":
                return {"json": policy.render(config)}
            case "aws_partition":
                return {"partition": "aws", "dns_suffix": "amazonaws.com"}
            case "aws_caller_identity":
                return {"account_id": ACCOUNT}
            case "aws_availability_zones":
                return {"names": [self._region + letter for letter in ZONES]}
        return {}

    def _fill(
        self, type_: str, block: dict[str, Any], value: dict[str, Any], token: str
    ) -> dict[str, Any]:
        given = (value.get(name) for name in ("name", "bucket", "identifier"))
        kind = type_.removeprefix("aws_").replace("_", "-")
        prefix = value.get("name_prefix")
        made_up = f"{prefix if isinstance(prefix, str) else f'{kind}-'}{token}"
        identifier = next((n for n in given if isinstance(n, str)), made_up)

        def make_up(wanted: Any, type_json: Any, name: str, settable: bool) -> Any:
            match type_json:
                case ["list" | "set", item]:
                    if wanted is UNKNOWN:
                        return [] if settable else [make_up(UNKNOWN, item, name, False)]
                    return wanted and [make_up(v, item, name, False) for v in wanted]
                case ["object", fields]:
                    if wanted is UNKNOWN:
                        wanted = dict.fromkeys(fields, UNKNOWN)
                    return wanted and {
                        k: make_up(wanted[k], t, k, False) for k, t in fields.items()
                    }
            if wanted is not UNKNOWN:
                return wanted
            if type_json == "string":
                return self._text(type_, identifier, name)
            return {"number": 1, "bool": False}.get(str(type_json), {})

        filled: dict[str, Any] = _walk(
            block, value, lambda name, a, v: make_up(v, a["type"], name, a.get("optional", False))
        )
        if value.get("arn") is UNKNOWN and type_ in RESOURCES:
            filled["arn"] = arn(type_, filled)
        return filled

    def _text(self, type_: str, identifier: str, name: str) -> str:
        service, _, kind = type_.removeprefix("aws_").partition("_")
        if name == "arn" or name.endswith("_arn"):
            place = {"s3": ":", "iam": f":{ACCOUNT}"}.get(service, f"{self._region}:{ACCOUNT}")
            path = "" if service == "s3" else kind.replace("_", "-") + "/"
            return f"arn:aws:{service}:{place}:{path}{identifier}"
        known = {
            "id": identifier,
            "name": identifier,
            # A database's is not its name: a policy that takes it for that must not work here.
            "resource_id": f"db-{hashlib.sha256(identifier.encode()).hexdigest()[:26].upper()}",
            "region": self._region,
            "owner_id": ACCOUNT,
            "registry_id": ACCOUNT,
            "endpoint": f"https://{identifier}.{service}.{self._region}.example",
        }
        return known.get(name, f"{identifier}-{name.replace('_', '-')}")


def _walk(block: dict[str, Any], value: Any, change: Change) -> Any:
    """Returns the value with each attribute, in blocks too, put through `change`."""
    if value is None or value is UNKNOWN:
        return value
    walked = {name: change(name, a, value[name]) for name, a in block["attributes"].items()}
    for name, nested in block["block_types"].items():
        inner, inner_change = value[name], change
        if nested["nesting_mode"] == "set":
            inner_change = _in_set(change)
        if isinstance(inner, list):
            walked[name] = [_walk(nested["block"], item, inner_change) for item in inner]
        else:
            walked[name] = _walk(nested["block"], inner, inner_change)
    return walked


def _in_set(change: Change) -> Change:
    return lambda name, attribute, value: change(name, attribute | {"in_set": True}, value)


def _unset_to_unknown(block: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    def change(_: str, attribute: Attribute, v: Any) -> Any:
        if attribute.get("write_only"):
            return None  # never in a plan
        # An object in a set is found by its values: one that AWS fills in would look like another.
        decided = attribute.get("computed") and not (
            attribute.get("in_set") and attribute.get("optional")
        )
        return UNKNOWN if v is None and decided else v

    unset: dict[str, Any] = _walk(block, value, change)
    return unset


def _values_for_computed(block: dict[str, Any], config: Any) -> list[Any]:
    refused = []

    def change(name: str, attribute: Attribute, v: Any) -> Any:
        if attribute.get("computed") and not attribute.get("optional") and v is not None:
            refused.append(
                pb.Diagnostic(
                    severity=1,
                    summary="Value for unconfigurable attribute",
                    detail=f"Can't configure a value for {name}: AWS decides it.",
                )
            )
        return v

    _walk(block, _unpack(config), change)
    return refused


def _schema_block(block: dict[str, Any]) -> Any:
    return pb.Schema.Block(
        attributes=[
            pb.Schema.Attribute(name=name, **(a | {"type": json.dumps(a["type"]).encode()}))
            for name, a in block["attributes"].items()
        ],
        block_types=[
            pb.Schema.NestedBlock(
                type_name=name,
                nesting=_NESTINGS[nested["nesting_mode"]],
                min_items=nested.get("min_items", 0),
                max_items=nested.get("max_items", 0),
                block=_schema_block(nested["block"]),
            )
            for name, nested in block["block_types"].items()
        ],
    )


def _unpack(value: Any) -> Any:
    return msgpack.unpackb(value.msgpack, ext_hook=lambda _code, _data: UNKNOWN)


def _pack(value: Any) -> Any:
    return pb.DynamicValue(msgpack=msgpack.packb(value))
