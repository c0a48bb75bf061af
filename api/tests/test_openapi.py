"""`openapi.yaml` is what the code serves, and what generators of clients accept."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx
import msgspec
import pytest
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import validate

from payments import auth, config, docs, errors, lists, models
from payments.app import Application, Route, payment_id
from payments.deadline import Deadline
from payments.messages import Request
from tests.conftest import (
    Api,
    Database,
    Serve,
    send_raw,
    serve,
    settings_for,
    waits_for_a_lock,
)

Json = dict[str, Any]

SPEC: Json = msgspec.json.decode(docs.openapi())
SETTINGS = config.Settings(database_url="postgresql://nobody@/nowhere?host=/nowhere")
SUCCESSES = {"200", "201", "204"}
PROBLEMS = "#/components/schemas/Problem"

# A request that does not arrive takes long; test_server.py waits for it. No way is known to make
# the service fail by itself.
NOT_PROVOKED = {"408", "500"}


def follow(node: Json) -> Json:
    """Returns what a `$ref` names, with what stands beside it."""
    if "$ref" not in node:
        return node
    target: Json = SPEC
    for name in node["$ref"].removeprefix("#/").split("/"):
        target = target[name]
    return follow(target) | {name: value for name, value in node.items() if name != "$ref"}


class Operation(NamedTuple):
    """A route and what the document says of it."""

    route: Route
    path: str
    document: Json
    parameters: list[Json]

    @property
    def responses(self) -> dict[str, Json]:
        """All answers, by status."""
        return {status: follow(answer) for status, answer in self.document["responses"].items()}

    @property
    def success(self) -> str:
        """The status of a request that is right."""
        [status] = SUCCESSES & self.responses.keys()
        return status

    @property
    def request_examples(self) -> list[Any]:
        """The bodies that are shown; None where there is none."""
        body = follow(self.document.get("requestBody", {}))
        return [example for media in body.get("content", {}).values() for example in shown(media)]

    def names(self, place: str) -> set[str]:
        """The names of the parameters in `path`, `query` or `header`."""
        return {parameter["name"] for parameter in self.parameters if parameter["in"] == place}


def shown(holder: Json) -> list[Any]:
    """Returns the examples of a body, a parameter or a header."""
    several = [follow(example)["value"] for example in holder.get("examples", {}).values()]
    return several + ([holder["example"]] if "example" in holder else [])


def plain(route: Route) -> str:
    """Returns a route's address without converters, as the document has it."""
    return re.sub(r":\w+", "", route.path)


def operations() -> Iterator[Operation]:
    """Joins the routes and the document."""
    for route in Application(SETTINGS).routes:
        item = SPEC["paths"][plain(route)]
        document = item[route.method.lower()]
        parameters = [*item.get("parameters", []), *document.get("parameters", [])]
        yield Operation(route, plain(route), document, [follow(one) for one in parameters])


OPERATIONS = {operation.document["operationId"]: operation for operation in operations()}

each_operation = pytest.mark.parametrize("name", OPERATIONS)


def closed(node: Any) -> Any:
    """Returns a part of the document in which no object has a member that is not documented."""
    if isinstance(node, list):
        return [closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    copy = {name: closed(value) for name, value in node.items()}
    return copy | {"additionalProperties": False} if node.get("type") == "object" else copy


# Responses are open to members of later versions; this version's are all documented.
COMPONENTS = closed(SPEC["components"])


def validator(schema: Json) -> OAS31Validator:
    """Returns what checks values against a schema of the document."""
    # The schema's references start at the root, and so the components are there.
    root = {**schema, "components": COMPONENTS}
    return OAS31Validator(root, format_checker=oas31_format_checker)


def check_value(value: Any, schema: Json) -> None:
    """Checks a value against a schema of the document."""
    validator(schema).validate(value)


def check_answer(operation: Operation, answer: httpx.Response, status: str) -> None:
    """Checks that an answer is what the document says of this status."""
    assert str(answer.status_code) == status, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    documented = operation.responses[status]
    for name, reference in documented.get("headers", {}).items():
        header = follow(reference)
        value = answer.headers.get(name)
        assert value is not None or not header.get("required"), f"no {name}"
        if value is not None:
            number = header["schema"]["type"] == "integer"
            check_value(int(value) if number else value, header["schema"])
    content = documented.get("content")
    if content is None:
        assert answer.content == b""
        return
    media_type = answer.headers["Content-Type"].partition(";")[0]
    schema = content[media_type]["schema"]
    check_value(json.loads(answer.content) if "json" in media_type else answer.text, schema)


# The document by itself


def test_the_document_is_valid_openapi_3_1() -> None:
    assert SPEC["openapi"].startswith("3.1.")
    validate(SPEC)


def test_every_reference_is_used_and_every_component_referred_to() -> None:
    names = {
        f"#/components/{kind}/{name}"
        for kind, components in SPEC["components"].items()
        if kind != "securitySchemes"
        for name in components
    }
    used = set(re.findall(r'"(#/components/[^"]+)"', json.dumps(SPEC)))
    # Responses to requests that are none of the operations.
    assert names - used == {
        f"#/components/responses/{name}"
        for name in ("HttpVersionNotSupported", "MethodNotAllowed", "NotImplemented")
    }
    assert used <= names


@each_operation
def test_an_operation_is_described(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation.document["summary"]
    assert operation.document["description"]
    [tag] = operation.document["tags"]
    assert tag in {known["name"] for known in SPEC["tags"]}
    bodies = [
        media
        for answer in operation.responses.values()
        for media in answer.get("content", {}).values()
    ]
    assert all(shown(media) for media in bodies)
    assert operation.success == "204" or any(
        shown(media) for media in operation.responses[operation.success]["content"].values()
    )
    assert "requestBody" not in operation.document or operation.request_examples


def examples() -> Iterator[tuple[str, Any, Json]]:
    """Finds every example, its place and its schema."""

    def walk(node: Any, place: str) -> Iterator[tuple[str, Any, Json]]:
        if isinstance(node, list):
            node = {str(number): value for number, value in enumerate(node)}
        if isinstance(node, dict):
            if "schema" in node:
                for number, example in enumerate(shown(node)):
                    yield f"{place} {number}", example, node["schema"]
            for name, value in node.items():
                yield from walk(value, f"{place}/{name}")

    yield from walk(SPEC, "")


EXAMPLES = {place: (example, schema) for place, example, schema in examples()}


@pytest.mark.parametrize("place", EXAMPLES)
def test_an_example_fits_its_schema(place: str) -> None:
    example, schema = EXAMPLES[place]
    check_value(example, schema)


# The document and generators of clients; tests/clients runs nine of them


def nodes(node: Any = SPEC, place: str = "") -> Iterator[tuple[str, Json]]:
    """Yields every object of a document with its place."""
    if isinstance(node, list):
        node = {str(number): value for number, value in enumerate(node)}
    elif isinstance(node, dict):
        yield place, node
    if isinstance(node, dict):
        for name, value in node.items():
            if name not in ("example", "examples"):
                yield from nodes(value, f"{place}/{name}")


class Rule(NamedTuple):
    """What no object of the document may be, and whose client is then wrong."""

    breaks: str
    is_broken: Callable[[str, Json], bool]
    fault: tuple[str, Json]  # an object that breaks it, and where


RULES = {
    "no link has a body": Rule(
        "openapi-generator rejects the document",
        lambda place, node: "/links/" in place and "requestBody" in node,
        ("/components/links/consumePayment", {"requestBody": {"status": "consumed"}}),
    ),
    "no schema is named like the constructor of another": Rule(
        "openapi-generator go: NewPayment is a type and a function",
        lambda place, node: (
            place == "/components/schemas" and any(f"New{name}" in node for name in node)
        ),
        ("/components/schemas", {"NewPayment": {}, "Payment": {}}),
    ),
    "no response is named like a schema": Rule(
        "oapi-codegen: one type is declared twice",
        lambda place, node: (
            place == "/components" and bool(node["responses"].keys() & node["schemas"].keys())
        ),
        ("/components", {"responses": {"Payment": {}}, "schemas": {"Payment": {}}}),
    ),
    "null is no branch of anyOf": Rule(
        "openapi-generator java: a class of the type Null, which does not exist",
        lambda place, node: {"type": "null"} in node.get("anyOf", ()),
        ("/components/schemas/Page", {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    ),
    "no type is one of three": Rule(
        "oapi-codegen rejects a type that is more than one and null",
        lambda place, node: isinstance(node.get("type"), list) and len(node["type"]) > 2,
        ("/components/schemas/Value", {"type": ["number", "string", "null"]}),
    ),
    "no member has a default": Rule(
        "openapi-typescript demands the member of a request",
        lambda place, node: "/properties/" in place and "default" in node,
        ("/components/schemas/PaymentInput/properties/data", {"default": {}}),
    ),
    "a type of problem is one of no list": Rule(
        "clients for Java and Python cannot read a problem whose type is new",
        lambda place, node: place.endswith("/Problem/properties/type") and "enum" in node,
        ("/components/schemas/Problem/properties/type", {"enum": ["/problems/not-found"]}),
    ),
    "an object of a response may have more members": Rule(
        "most generators: clients reject a response with a new member",
        lambda place, node: (
            node.get("additionalProperties") is False
            and not place.endswith(("Input", "StatusChange"))
        ),
        ("/components/schemas/Payment", {"additionalProperties": False}),
    ),
    "every number is a double": Rule(
        "oapi-codegen and openapi-generator go: a float32, which loses cents",
        lambda place, node: (
            node.get("type") in ("number", ["number", "null"]) and node.get("format") != "double"
        ),
        ("/components/schemas/Payment/properties/payment", {"type": ["number", "null"]}),
    ),
}


PROGRAMS = {
    "Python": "python_openapi_generator.py",
    "JavaScript": "typescript-fetch.ts",
    "Java": "Program.java",
    "Go": "go_openapi_generator.go",
}


def test_ways_to_read_money_are_those_of_the_programs() -> None:
    rows = re.findall(r"^\| (\w+) \| `(.*?payment.*?)`", SPEC["info"]["description"], re.MULTILINE)
    assert [language for language, _ in rows] == [*PROGRAMS]
    for language, expression in rows:
        program = Path(__file__).parent / "clients" / PROGRAMS[language]
        assert expression in program.read_text()


@pytest.mark.parametrize("name", RULES)
def test_no_generator_is_known_to_fail(name: str) -> None:
    rule = RULES[name]
    broken = [place for place, node in nodes() if rule.is_broken(place, node)]
    assert not broken, rule.breaks
    assert rule.is_broken(*rule.fault)


# The document and the code


def test_every_route_is_documented_and_nothing_else() -> None:
    documented = {
        (method.upper(), path)
        for path, item in SPEC["paths"].items()
        for method in item.keys() - {"parameters"}
    }
    assert documented == {(route.method, plain(route)) for route in Application(SETTINGS).routes}


@each_operation
def test_scopes_are_documented(name: str) -> None:
    scope, document = OPERATIONS[name].route.scope, OPERATIONS[name].document
    if scope is None:
        assert document["security"] == []
        assert "No key is needed." in document["description"]
    else:
        # OpenAPI 3.1 lets a scheme that is not OAuth name the roles that are needed.
        assert document["security"] == [{"key": [scope]}]
        assert document["description"].endswith(f"Scope: `{scope}`.\n")


@each_operation
def test_old_routes_and_only_they_are_deprecated(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation.document.get("deprecated", False) == operation.route.old
    assert (operation.document["tags"] == ["Old routes"]) == operation.route.old
    # That they have the values that are sent is seen below, where the answers are.
    headers = operation.responses[operation.success].get("headers", {})
    names = {"Deprecation", "Sunset"}
    assert {*headers} & names == (names if operation.route.old else set())
    assert all("const" in follow(headers[header])["schema"] for header in names & {*headers})


@each_operation
def test_path_parameters_are_those_of_the_route(name: str) -> None:
    assert OPERATIONS[name].names("path") == set(re.findall(r"{(\w+)}", OPERATIONS[name].path))


def test_ids_are_those_that_the_route_takes() -> None:
    schema = SPEC["components"]["schemas"]["Id"]
    convert = payment_id
    assert convert(str(schema["minimum"])) is not None
    assert convert(str(schema["minimum"] - 1)) is None
    assert convert(str(schema["maximum"])) is not None
    assert convert(str(schema["maximum"] + 1)) is None


def test_the_files_of_the_page_are_those_that_it_has() -> None:
    [asset] = [one for one in OPERATIONS["readDocsAsset"].parameters if one["name"] == "asset"]
    assert set(asset["schema"]["enum"]) == docs.OWN_ASSETS.keys() | docs.PACKAGE_ASSETS.keys()


# Values at the edges of what each parameter of a list may be.
QUERY_VALUES: dict[str, list[object]] = {
    "status": ["inserted", "consumed", "deleted", ""],
    "created_after": ["2026-01-15T09:00:00Z", "2026-01-15T09:00:00", "2026-01-15", ""],
    "created_before": ["2026-01-15T09:00:00Z", "2026-01-15T09:00:00", "2026-01-15", ""],
    "created_by": ["a" * models.CLIENT_NAME_LENGTH, "a" * (models.CLIENT_NAME_LENGTH + 1), "", "ã"],
    "idempotency_key": ["a" * 255, "a" * 256, "", "ã"],
    "order": ["asc", "desc", "ASC", ""],
    "limit": [1, lists.LIMIT, 0, lists.LIMIT + 1],
    "cursor": ["A" * 22, "A" * 21, "A" * 23, "=" * 22],
}


@each_operation
def test_query_parameters_are_those_that_the_list_takes(name: str) -> None:
    documented = OPERATIONS[name].names("query")
    assert documented == (set(lists.KNOWN) if name == "listPayments" else set())


@pytest.mark.parametrize("name", lists.KNOWN)
def test_a_query_parameter_is_accepted_as_documented(name: str) -> None:
    parameters = OPERATIONS["listPayments"].parameters
    [schema] = [one["schema"] for one in parameters if one["name"] == name]
    verdicts = set()
    for value in QUERY_VALUES[name]:
        valid = validator(schema).is_valid(value)
        refused = pytest.raises(errors.InvalidRequest, match=name)
        expected: AbstractContextManager[object] = nullcontext() if valid else refused
        with expected:
            lists.parse(urlencode({name: value}), 1, streamed=False)
        verdicts.add(valid)
    assert verdicts == {True, False}
    default = {"limit": lists.DEFAULT_LIMIT, "order": "asc"}.get(name)
    assert follow(schema).get("default") == default


SHAPES: dict[str, type[msgspec.Struct]] = {
    "PaymentInput": models.NewPayment,
    "OldPaymentInput": models.LegacyNewPayment,
    "StatusChange": models.StatusChange,
    "ConsumptionInput": models.ConsumptionRequest,
    "Payment": models.Payment,
    "OldPayment": models.LegacyPayment,
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_body_has_the_fields_of_its_struct(name: str) -> None:
    schema = SPEC["components"]["schemas"][name]
    fields = {one.name: one for one in msgspec.structs.fields(SHAPES[name])}
    assert [*schema["properties"]] == [*fields]
    assert set(schema.get("required", [])) == {
        name for name, field in fields.items() if field.required
    }
    assert schema.get("additionalProperties", True) == (SHAPES[name] not in REQUESTS)


REQUESTS = [shape for name, shape in SHAPES.items() if name not in ("Payment", "OldPayment")]


@pytest.mark.parametrize("shape", REQUESTS)
def test_a_body_with_another_field_is_refused_as_documented(shape: type[Any]) -> None:
    with pytest.raises(errors.InvalidRequest, match="other"):
        models.decode(b'{"other": 1}', shape)


def test_a_status_is_one_of_the_documented() -> None:
    field = msgspec.json.schema(models.StatusChange)["$defs"]["StatusChange"]["properties"]
    documented = SPEC["components"]["schemas"]["Status"]["enum"]
    assert set(field["status"]["enum"]) == set(documented)


def test_the_limits_that_are_told_are_the_defaults() -> None:
    text = SPEC["info"]["description"]
    limits = SETTINGS
    for row in (
        f"| Body | {limits.body_limit_bytes // 1024} KiB | 413 |",
        f"| {limits.header_limit_bytes // 1024} KiB, {limits.header_limit_fields} fields | 431 |",
        f"| Time to send the headers | {limits.header_timeout_seconds:g} s | 408 |",
        f"| Time to send the body | {limits.body_timeout_seconds:g} s | 408 |",
        f"| Time to respond | {limits.request_timeout_seconds:g} s | 503 |",
    ):
        assert row in text
    data = SPEC["components"]["schemas"]["Data"]["description"]
    data = " ".join(data.split())
    assert f"more than {models.DATA_DEPTH} levels" in data
    assert f"more than {models.NUMBER_CHARACTERS} characters" in data
    assert f"more than {models.DATA_BYTES // 1024} KiB" in data


@each_operation
def test_statuses_are_those_that_a_route_of_this_kind_can_answer(name: str) -> None:
    operation = OPERATIONS[name]
    route = operation.route
    statuses = {operation.success, "400", "408", "413", "431", "500"}
    if route.scope is not None:
        statuses |= {"401", "403", "503"}
    if operation.names("path"):
        statuses |= {"404"}
    if "requestBody" in operation.document:
        statuses |= {"415", "422"}
    if operation.names("query"):
        statuses |= {"422"}
    if name in ("updatePayment", "oldUpdate"):
        statuses |= {"409"}
    if "If-Match" in operation.names("header"):
        statuses |= {"412"}
    if "If-None-Match" in operation.names("header") and route.method == "GET":
        statuses |= {"304"}
    if name == "ready":
        statuses |= {"503"}
    assert set(operation.responses) == statuses


# Problems


def kinds(kind: type[errors.Problem] = errors.Problem) -> Iterator[type[errors.Problem]]:
    """Finds every class of a problem that has a type."""
    for below in kind.__subclasses__():
        if hasattr(below, "type"):
            yield below
        yield from kinds(below)


KINDS = {kind.type: kind for kind in kinds()}


def test_problem_types_are_those_of_the_code() -> None:
    documented = re.findall(
        r"^\| `(.+?)`", SPEC["components"]["schemas"]["Problem"]["description"], re.MULTILINE
    )
    assert sorted(documented) == sorted(KINDS)


@pytest.mark.parametrize("type_", KINDS)
def test_a_problem_type_is_explained_in_the_table(type_: str) -> None:
    kind = KINDS[type_]
    title = (kind.__doc__ or "").removesuffix(".")
    table = SPEC["components"]["schemas"]["Problem"]["description"]
    start = f"| `{type_}` | {kind.status} | {title}"
    [row] = [row for row in table.splitlines() if row.startswith(start)]
    assert all(cell.strip() for cell in row.strip("|").split("|"))


PROBLEM_EXAMPLES = [
    example for example, schema in EXAMPLES.values() if schema.get("$ref") == PROBLEMS
]


def test_every_problem_has_an_example() -> None:
    assert {example["type"] for example in PROBLEM_EXAMPLES} == KINDS.keys()


@each_operation
def test_a_failure_shows_problems_of_its_own_status(name: str) -> None:
    for status, answer in OPERATIONS[name].responses.items():
        if status in SUCCESSES | {"304"}:
            continue
        [(media_type, media)] = answer["content"].items()
        assert media_type == errors.MEDIA_TYPE
        assert {str(example["status"]) for example in shown(media)} == {status}


# The document and what is answered


@dataclass(frozen=True)
class Change:
    """What makes a request another one than the right one."""

    path: str | None = None
    query: str = ""
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


NO_CHANGE = Change()


async def address(api: Api, operation: Operation) -> str:
    """Returns an address that is right, of a payment that is there."""
    path = operation.path.replace("{asset}", "start.js")
    return path.format(id=(await api.payment())["id"]) if "{id}" in path else path


async def ask(api: Api, operation: Operation, change: Change = NO_CHANGE) -> httpx.Response:
    """Sends a request that is right, but for a change."""
    path = change.path or await address(api, operation)
    right = operation.request_examples
    body = json.dumps(right[0]) if right and change.body is None else change.body
    return await api.send(operation.route.method, path + change.query, body, **change.headers)


@each_operation
async def test_the_examples_of_requests_succeed(name: str, shared: Api) -> None:
    operation = OPERATIONS[name]
    for example in operation.request_examples or [None]:
        body = None if example is None else json.dumps(example)
        path = await address(shared, operation)
        answer = await shared.send(operation.route.method, path, body)
        check_answer(operation, answer, operation.success)


async def test_the_header_of_a_repeated_creation_is_documented(shared: Api) -> None:
    operation = OPERATIONS["createPayment"]
    keyed = Change(headers={"Idempotency-Key": "documented"})
    await ask(shared, operation, keyed)
    answer = await ask(shared, operation, keyed)
    assert "Idempotent-Replayed" in answer.headers
    check_answer(operation, answer, "201")


@pytest.mark.in_process  # watches what is read
@each_operation
async def test_headers_that_are_read_are_documented(
    name: str, shared: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = OPERATIONS[name]
    read = set()
    header = Request.header

    def recorded(self: Request, name: bytes) -> str | None:
        read.add(name.decode().title())
        return header(self, name)

    path = await address(shared, operation)
    monkeypatch.setattr(Request, "header", recorded)
    # Conditions that hold, because some are read together.
    await ask(shared, operation, Change(path, headers={"If-Match": "*", "If-None-Match": '"0-0"'}))
    # The key is a security scheme, `Accept` a choice of media types, and the request id is read
    # before the route is known.
    assert read - {"Authorization", "Accept"} == operation.names("header") - {"X-Request-Id"}
    assert ("Authorization" in read) == (operation.route.scope is not None)
    answer = await ask(shared, operation, Change(headers={"X-Request-Id": "documented"}))
    assert (answer.headers["X-Request-Id"] == "documented") == (
        "X-Request-Id" in operation.names("header")
    )


def evaluate(expression: str, answer: httpx.Response) -> Any:
    """Returns what a link's expression finds in an answer."""
    source, _, pointer = expression.partition("#/")
    if source.startswith("$response.header."):
        return answer.headers[source.removeprefix("$response.header.")]
    assert source == "$response.body"
    found = answer.json()
    for name in pointer.split("/"):
        found = found[int(name) if isinstance(found, list) else name]
    return found


@each_operation
async def test_links_lead_to_requests_that_succeed(name: str, shared: Api) -> None:
    operation = OPERATIONS[name]
    for link in map(follow, operation.responses[operation.success].get("links", {}).values()):
        # Two payments, so that there is a second page.
        await shared.payment()
        await shared.payment()
        answer = await ask(shared, operation, Change(query="?limit=1"))
        values = {place: evaluate(text, answer) for place, text in link["parameters"].items()}
        target = OPERATIONS[link["operationId"]]
        change = Change(
            target.path.format(id=values.get("path.id")),
            f"?cursor={values['query.cursor']}" if "query.cursor" in values else "",
            json.dumps(link["requestBody"]) if "requestBody" in link else None,
            {"If-Match": values["header.If-Match"]} if "header.If-Match" in values else {},
        )
        check_answer(target, await ask(shared, target, change), target.success)


CHANGES = {
    "304": Change(headers={"If-None-Match": "*"}),
    "401": Change(headers={"Authorization": "Bearer wrong"}),
    "412": Change(headers={"If-Match": '"0-0"'}),
    "413": Change(body="1" * (SETTINGS.body_limit_bytes + 1)),
    "415": Change(headers={"Content-Type": "text/plain"}),
    "422": Change(query="?limit=0", body='{"payment": -1, "status": 1}'),
    "431": Change(headers={f"Name-{number}": "" for number in range(70)}),
}


async def provoke(
    api: Api, weak_key: str, broken: Api, operation: Operation, status: str
) -> httpx.Response:
    """Gets this status out of the operation."""
    path = await address(api, operation)
    match status:
        case "400":
            return await send_raw(api.url, f"{operation.route.method} {path} HTTP/1.1\r\nno colon")
        case "403":
            return await ask(
                api, operation, Change(headers={"Authorization": f"Bearer {weak_key}"})
            )
        case "404":
            none = operation.path.format(id=2**63 - 1, asset="none")
            return await ask(api, operation, Change(none))
        case "409":
            assert (await ask(api, operation, Change(path))).json()["status"] == "consumed"
            return await ask(api, operation, Change(path, body='{"status": "inserted"}'))
        case "503":
            return await ask(broken, operation, Change(path))
        case _:
            return await ask(api, operation, CHANGES[status])


@each_operation
async def test_every_documented_failure_is_answered_as_documented(
    name: str, api: Api, database: Database, start: Serve
) -> None:
    operation = OPERATIONS[name]
    weak_key = await database.key("weak", scopes=())
    broken = Api(await start(database_url=SETTINGS.database_url), api.key)
    async with broken.http:
        for status in sorted(operation.responses.keys() - NOT_PROVOKED - {operation.success}):
            answer = await provoke(api, weak_key, broken, operation, status)
            check_answer(operation, answer, status)


# What a client called shop sends to get each example of a problem, where the payments of the
# example of a page are stored: method, path, body and headers.
REFUSED: list[tuple[str, str, str | None, dict[str, str]]] = [
    ("POST", "/v1/payments", '{"payment": }', {}),
    ("GET", "/v1/payments", None, {"Authorization": f"Bearer {'x' * auth.KEY_LENGTH}"}),
    ("GET", "/docs/none", None, {}),
    ("GET", "/v1/payments/404", None, {}),
    ("GET", "/v1/payments/abc", None, {}),
    ("DELETE", "/v1/payments", None, {}),
    ("PATCH", "/v1/payments/1", '{"status": "consumed"}', {}),
    ("PATCH", "/v1/payments/1", '{"status": "inserted"}', {}),
    ("GET", "/v1/payments/1", None, {"If-Match": '"0-0"'}),
    ("POST", "/v1/payments", "1" * (SETTINGS.body_limit_bytes + 1), {}),
    ("POST", "/v1/payments", "1", {"Content-Type": "text/plain"}),
    ("POST", "/v1/payments", '{"payment": 100000}', {}),
    ("POST", "/v1/payments", '{"payment": 1}', {"Idempotency-Key": "order-1001"}),
    ("POST", "/v1/consumptions", '{"limit": 1001}', {}),
    ("POST", "/v1/consumptions", '{"limit": 100}', {"Idempotency-Key": "batch-1"}),
    ("GET", "/v1/payments", None, {f"Name-{number}": "" for number in range(70)}),
]
NO_HTTP_OF_OURS = [
    "POST /v1/payments HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip",
    "GET /v1/payments HTTP/2.0\r\nHost: a",
]


async def store_examples(api: Api, database: Database) -> None:
    """Stores the payments of the example of a page, and consumes the second."""
    page = SPEC["paths"]["/v1/payments"]["get"]["responses"]["200"]["content"]["application/json"]
    for item in page["examples"]["first"]["value"]["items"]:
        row = json.dumps(item | {"idempotency_key": f"order-{1000 + item['id']}"})
        await database.fetch(
            "INSERT INTO payments SELECT (jsonb_populate_record(NULL::payments, $1::jsonb)).*", row
        )
    answer = await api.send("POST", "/v1/consumptions", '{"limit": 10}', Idempotency_Key="batch-1")
    assert [item["id"] for item in answer.json()["items"]] == [2]


async def lose_connection(api: Api, database: Database) -> httpx.Response:
    """Returns the response to a request whose connection to the database is cut."""
    async with database.connect() as holder, holder.transaction():
        await holder.execute("LOCK TABLE payments")
        waiting = asyncio.create_task(api.send("GET", "/v1/payments"))
        await waits_for_a_lock(database)
        await database.fetch("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
        return await waiting


async def pass_deadline(request_id: str) -> Json:
    """Returns the problem of a request that takes too long."""
    seconds = 0.01
    with pytest.raises(errors.DeadlineExceeded) as raised, Deadline(seconds):
        await asyncio.Event().wait()
    problem: Json = json.loads(raised.value.body(request_id))
    usual = f"{SETTINGS.request_timeout_seconds:g} s"
    return problem | {"detail": problem["detail"].replace(f"{seconds:g} s", usual)}


async def send_no_body(api: Api, url: str, seconds: float) -> Json:
    """Returns the problem of a body that a service waits for so long, as if it were the default."""
    head = f"POST /v1/payments HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {api.key}"
    problem: Json = (await send_raw(url, f"{head}\r\nContent-Length: 1")).json()
    usual = f"{SETTINGS.body_timeout_seconds:g} s"
    return problem | {"detail": problem["detail"].replace(f"{seconds:g} s", usual)}


async def test_the_examples_of_problems_are_what_the_service_answers(
    api: Api, database: Database, start: Serve
) -> None:
    request_id = SPEC["components"]["headers"]["RequestId"]["example"]
    api.http.headers["X-Request-Id"] = request_id
    await store_examples(api, database)
    answers = [
        await api.send(method, path, body, **headers) for method, path, body, headers in REFUSED
    ]
    reader = {"Authorization": f"Bearer {await database.key('reader', (auth.READ,))}"}
    answers.append(await api.send("POST", "/v1/payments", "{}", **reader))
    answers += [await send_raw(api.url, head) for head in NO_HTTP_OF_OURS]
    answers.append(await lose_connection(api, database))
    # The database refuses rows that the service found good.
    await database.fetch("ALTER TABLE payments ADD CHECK (payment < 0) NOT VALID")
    answers.append(await api.create({"payment": 1}))
    full = await start(active_requests_limit=0)
    answers.append(await api.send("GET", f"{full}/v1/payments"))
    application = Application(settings_for(database))
    application.drain()
    async with serve(settings_for(database), application) as draining:
        answers.append(await api.send("GET", f"{draining}/readyz"))
    problems = [answer.json() for answer in answers]
    problems.append(await pass_deadline(request_id))
    seconds = 0.2
    impatient = await start(body_timeout_seconds=seconds)
    problems.append(await send_no_body(api, impatient, seconds))
    assert [problem for problem in problems if problem not in PROBLEM_EXAMPLES] == []
    assert [example for example in PROBLEM_EXAMPLES if example not in problems] == []


@each_operation
async def test_a_method_that_is_not_documented_is_405_with_those_that_are(
    name: str, shared: Api
) -> None:
    operation = OPERATIONS[name]
    methods = {method.upper() for method in SPEC["paths"][operation.path].keys() - {"parameters"}}
    answer = await shared.send("OPTIONS", await address(shared, operation))
    documented = follow({"$ref": "#/components/responses/MethodNotAllowed"})
    assert answer.status_code == 405
    check_value(answer.json(), documented["content"]["application/problem+json"]["schema"])
    assert {*answer.headers["Allow"].split(", ")} - {"HEAD"} == methods


async def test_the_document_is_served(shared: Api) -> None:
    answer = await shared.send("GET", "/openapi.json")
    assert answer.json() == SPEC
