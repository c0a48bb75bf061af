"""Who reaches what: each role of the roots, and each role that it can make or take over.

A thing belongs to the stack that made it, or to the account. A cell of the table is an identity, an
action and a thing; it is allowed if IAM allows it with any parameters that the caller may choose.
"""

import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from testkit.provider import ACCOUNT, RESOURCES, arn
from testkit.simulation import ANYTHING, Call, Context, Document, Identity, Simulator, Write
from testkit.tests.conftest import Life

TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())

# What AWS asks beside the caller's policies: the policy of a key, and whom a role trusts. Both may
# leave it to the account's policies.
ASKED = {"kms", "sts"}
DELEGATES = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
                "Action": ["kms:*", "sts:AssumeRole"],
                "Resource": "*",
            }
        ],
    }
)

STEPS = 3  # of a chain: roles made or taken over, one by the other
ADMIN: Context = {"iam:PolicyARN": "arn:aws:iam::aws:policy/AdministratorAccess"}
NO_ROLE = f"arn:aws:iam::{ACCOUNT}:role/another"

Words = dict[str, str]


@dataclass(frozen=True)
class Thing:
    """Something that a call can be about."""

    owner: str  # the place of its stack, or "account"
    kind: str  # its address in Terraform, or the kind of reach.toml
    arn: str
    tags: tuple[tuple[str, str], ...] = ()
    create: frozenset[str] = frozenset()
    change: frozenset[str] = frozenset()
    reads: tuple[str, ...] = ()
    boundary: str = ""  # a role's
    policy: str = ""  # a key's, or whom a role trusts, in JSON

    named: bool = True  # by whoever makes it; otherwise by AWS

    def __str__(self) -> str:
        return f"{self.owner} {self.kind} ({self.arn})"

    def only_creates(self, action: str) -> bool:
        """Tells whether the thing is not there yet when it is called."""
        return action in self.create - self.change


@dataclass(frozen=True)
class Actor:
    """A role, and the stack that it is free to change."""

    name: str
    kind: str  # "plan", "apply-environment", "environment app", "made-environment"
    words: tuple[tuple[str, str], ...]  # for the placeholders of reach.toml
    arn: str
    policies: tuple[str, ...]  # JSON
    boundary: str  # ARN; empty without one
    home: str = ""  # the place whose things it may change; empty where it may change none

    @property
    def placeholders(self) -> Words:
        """What `{place}` and its like stand for."""
        return dict(self.words)


@dataclass(frozen=True)
class Cell:
    """A call that was tried."""

    actor: Actor
    action: str
    thing: Thing
    allowed: bool

    def __str__(self) -> str:
        return f"{self.actor.name}: {self.action} on {self.thing}"


class World:
    """Everything that the lives made, as IAM sees it."""

    def __init__(self, lives: dict[str, Life], simulator: Simulator) -> None:
        self._lives = lives
        self._simulator = simulator
        self.words = {place: _words(life) for place, life in lives.items()}
        self.policies: dict[str, str] = {
            values["arn"]: values["policy"]
            for values in lives["bootstrap"].resources("aws_iam_policy").values()
        }
        found = simulator.writes([thing.arn for thing in self.things])
        self._writes = dict(zip(self.things, found, strict=True))

    @cached_property
    def things(self) -> list[Thing]:
        """Everything once; of what has an ARN made up by AWS, one of those with the same tags."""
        things: dict[tuple[Any, ...], Thing] = {}
        for place, life in self._lives.items():
            for address, values in life.resources().items():
                type_ = address.split(".")[0]
                if type_ in RESOURCES:
                    thing = _made(place, address, values)
                    named = "" if "token" in RESOURCES[type_]["arn"] else thing.arn
                    tags = [tag for tag in thing.tags if tag[0] not in {"Name", "tier"}]
                    things.setdefault((place, type_, named, *tags), thing)
        return [*things.values(), *self._listed()]

    def _listed(self) -> Iterator[Thing]:
        for row in TABLE["thing"]:
            places = [p for p in self.words if self.words[p]["root"] in row.get("of", [])]
            for place in places or ["account"]:
                words = self.words.get(place, {"account": ACCOUNT})
                yield Thing(
                    place,
                    row["kind"],
                    row["arn"].format_map(words),
                    tuple((k, v.format_map(words)) for k, v in row.get("tags", {}).items()),
                    create=frozenset(row.get("create", "").split()),
                    change=frozenset(row.get("change", "").split()),
                    named="create" not in row,
                    reads=tuple(row.get("reads", "").split()),
                    policy=DELEGATES if row.get("delegates") else "",
                )

    @cached_property
    def actors(self) -> list[Actor]:
        """Every role of the roots."""
        return [actor for place in self._lives for actor in self._roles(place)]

    def _roles(self, place: str) -> Iterator[Actor]:
        life = self._lives[place]
        inline = life.resources("aws_iam_role_policy").values()
        managed = life.resources("aws_iam_role_policy_attachment").values()
        for address, role in life.resources("aws_iam_role").items():
            index = re.search(r'\["(.+)"\]', address)
            kind = index[1] if index else address.split(".")[1].split("[")[0]
            applied = kind.removeprefix("apply-")
            policies = [p["policy"] for p in inline if p["role"] == role["name"]]
            # AWS's own policies are not at hand: such a role is the most that its boundary allows.
            if any(p["role"] == role["name"] for p in managed):
                policies = [json.dumps(ANYTHING)]
            if place != "bootstrap":
                home, kind = place, f"{life.root} {kind}"
            else:
                home = applied if applied in self._lives else ""
                kind = f"apply-{self.words[home]['root']}" if home else kind
            if policies == [json.dumps(ANYTHING)]:
                kind = f"made-{life.root}"
            free = kind.startswith(("apply-", "made-"))
            yield Actor(
                role["name"],
                kind,
                tuple(self.words[home or place].items()),
                role["arn"],
                tuple(policies),
                role["permissions_boundary"] or "",
                home if free else "",
            )

    def reachable(self, actor: Actor) -> list[Actor]:
        """Returns the role, and what becomes of it in a few steps: one of each set of powers."""
        found = {(actor.policies, actor.boundary): actor}
        layer = [actor]
        for _ in range(STEPS):
            layer = [
                following
                for one in layer
                for following in self._next(one)
                if found.setdefault((following.policies, following.boundary), following)
                is following
            ]
        return [*found.values()]

    def _next(self, actor: Actor) -> Iterator[Actor]:
        """Gives what becomes of an actor by one role made, taken over or freed of its boundary."""
        policies = [t for t in self.things if t.kind.startswith("aws_iam_policy.")]
        roles = [t for t in self.things if t.kind.startswith("aws_iam_role.")]
        can = {(c.thing, c.action) for c in self.cells(actor, [*roles, *policies]) if c.allowed}
        for boundary in self._boundaries_of_new_roles(actor, roles):
            yield _becomes(actor, "makes a role", boundary)
        for role in roles:
            if (role, "iam:UpdateAssumeRolePolicy") in can:
                if can & {(role, "iam:PutRolePolicy"), (role, "iam:AttachRolePolicy")}:
                    yield _becomes(actor, f"takes over {role.arn}", role.boundary)
                if can & {(role, f"iam:{do}RolePermissionsBoundary") for do in ("Put", "Delete")}:
                    yield _becomes(actor, f"unbinds {role.arn}", "")
        for policy in policies:
            rewritten = can & {
                (policy, f"iam:{do}") for do in ("CreatePolicyVersion", "DeletePolicy")
            }
            if policy.arn == actor.boundary and rewritten:
                yield _becomes(actor, f"rewrites {policy.arn}", "")

    def _boundaries_of_new_roles(self, actor: Actor, roles: list[Thing]) -> Iterator[str]:
        """Gives the boundaries with which a role of some name can be made and given every right."""
        one_a_stack = {role.owner: role.arn for role in roles}
        names = [f"{arn}-made" for arn in [NO_ROLE, *one_a_stack.values()]]
        ways = list(itertools.product(["", *self.policies], names))
        steps = ("iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy")
        calls = [
            Call(step, name, _known(actor) | ({"iam:PermissionsBoundary": b} if b else {}) | ADMIN)
            for b, name in ways
            for step in steps
        ]
        answers = iter(self._simulator.allowed(self._identity(actor), calls))
        made = {
            b
            for b, _ in ways
            for can in [[next(answers) for _ in steps]]
            if can[0] and any(can[1:])
        }
        yield from (boundary for boundary in ["", *self.policies] if boundary in made)

    def cells(self, actor: Actor, things: Sequence[Thing]) -> list[Cell]:
        """Tries every call that writes to the things."""
        tried = [
            (thing, write, context)
            for thing in things
            for write in [*self._writes[thing], *(Write(r, True, False) for r in thing.reads)]
            # What makes a thing whose name AWS chooses makes no other stack's.
            if thing.owner == actor.home or thing.named or not thing.only_creates(write.action)
            for context in self._contexts(actor, thing, write)
        ]
        calls = [_call(write.action, thing, context) for thing, write, context in tried]
        decisions = self._simulator.allowed(self._identity(actor), calls)
        allowed: dict[tuple[Thing, str], bool] = {}
        for (thing, write, _), decision in zip(tried, decisions, strict=True):
            key = (thing, write.action)
            allowed[key] = allowed.get(key, False) or decision
        return [Cell(actor, action, thing, yes) for (thing, action), yes in allowed.items()]

    def allows(self, actor: Actor, action: str, thing: Thing, more: Context) -> bool:
        """Tells whether the actor may make one call with these parameters."""
        write = Write(action, compares_tags=True, takes_tags=False)
        (context, *_) = self._contexts(actor, thing, write)
        call = _call(action, thing, context | more)
        return self._simulator.allowed(self._identity(actor), [call])[0]

    def _identity(self, actor: Actor) -> Identity:
        boundary: Document | None = None
        if actor.boundary:
            boundary = json.loads(self.policies[actor.boundary])
        return Identity(actor.arn, tuple(json.loads(p) for p in actor.policies), boundary)

    def _contexts(self, actor: Actor, thing: Thing, write: Write) -> Iterator[Context]:
        """What IAM is told of a call: what is so, and each of what the caller may choose."""
        known = _known(actor)
        tags: Context = {f"aws:ResourceTag/{key}": value for key, value in thing.tags}
        if thing.boundary:
            known["iam:PermissionsBoundary"] = thing.boundary
        states: list[Context] = [known]
        if write.compares_tags and not thing.only_creates(write.action):
            states = [known | tags]
            if write.action in thing.create and thing.owner == actor.home:
                states.append(known)
        own = actor.placeholders
        labels: list[Context] = [{}]
        if write.takes_tags:
            mine = {"project": "payments", "root": own["root"], "platform": own["platform"]}
            if own["root"] == "environment":
                mine["environment"] = own["name"]
            label: Context = {f"aws:RequestTag/{key}": value for key, value in mine.items()}
            labels.append(label | {"aws:TagKeys": [*mine]})
        for parts in itertools.product(states, labels, [*self._parameters(write.action)]):
            yield {key: value for part in parts for key, value in part.items() if value}

    def _parameters(self, action: str) -> Iterator[Context]:
        table: dict[str, list[str]] = TABLE["request"].get(action, {})
        hosts = [words["host"] for words in self.words.values() if "host" in words]
        spelled = {"{hosts}": hosts, "{boundaries}": [*self.policies]}
        choices = [
            [
                value.replace(found[0], more) if found else value.format(account=ACCOUNT)
                for value in values
                for found in [re.search(r"\{(hosts|boundaries)\}", value)]
                for more in (spelled[found[0]] if found else [""])
            ]
            for values in table.values()
        ]
        for chosen in itertools.product(*choices):
            yield dict(zip(table, chosen, strict=True))


def _known(actor: Actor) -> Context:
    return {"aws:PrincipalAccount": ACCOUNT, "aws:PrincipalArn": actor.arn}


def _call(action: str, thing: Thing, context: Context) -> Call:
    asked = thing.policy and action.split(":", maxsplit=1)[0] in ASKED
    return Call(action, thing.arn, context, json.loads(thing.policy) if asked else None)


def _words(life: Life) -> Words:
    root = life.root
    given = {name: variable["value"] for name, variable in life.plan["variables"].items()}
    words = {"account": ACCOUNT, "place": life.place, "root": root}
    if root == "bootstrap":
        return words | {"name": root, "platform": "none"}
    words |= {"name": given["name"], "platform": given.get("platform", given["name"])}
    if root == "environment":
        (database,) = life.resources("aws_db_instance").values()
        words |= {"database": database["resource_id"], "host": given["host"]}
    return words


def _made(place: str, address: str, values: dict[str, Any]) -> Thing:
    type_ = address.split(".", maxsplit=1)[0]
    row = RESOURCES[type_]
    return Thing(
        place,
        address,
        arn(type_, values),
        tuple(sorted((values.get("tags_all") or {}).items())),
        frozenset(row.get("create", "").split()),
        frozenset(row.get("change", "").split()),
        boundary=values.get("permissions_boundary") or "",
        named="token" not in row["arn"],
        policy=values["policy"]
        if type_ == "aws_kms_key"
        else values.get("assume_role_policy") or "",
    )


def _becomes(actor: Actor, how: str, boundary: str) -> Actor:
    bound = boundary.rpartition("/")[2] or "no boundary"
    return replace(
        actor,
        name=f"{actor.name} {how} with {bound}",
        kind=f"made-{actor.placeholders['root']}",
        arn=f"{actor.arn}-made",
        policies=(json.dumps(ANYTHING),),
        boundary=boundary,
    )


def is_about(row: dict[str, Any], actor: Actor, thing: Thing) -> bool:
    """Tells whether a row of reach.toml is about an actor and a thing.

    `on` has stacks and addresses, or their beginnings: `bootstrap aws_kms_key` is about each key.
    """
    if actor.kind not in row["who"].split(", "):
        return False
    if row.get("tagged") and dict(thing.tags).get(row["tagged"]) != actor.placeholders["platform"]:
        return False
    label = f"{thing.owner} {thing.kind}"
    wanted = [on.format_map(actor.placeholders) for on in row["on"]]
    return any(label == on or label.startswith((f"{on}[", f"{on}.")) for on in wanted)
