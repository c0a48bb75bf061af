"""Each generator makes a client of the served contract: it compiles, and works with the service.

Only `make generated-clients` runs it. The programs beside this file each use one client, and print
what they get. Those of openapi-generator show how to read money in each language.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from payments import docs
from tests.conftest import API_DIRECTORY, CLIENT, Database, Serve

ROOT = API_DIRECTORY.parent
INSTALLED = ROOT / ".venv-generators"
PATH = (
    ROOT / ".venv-clients/bin",
    INSTALLED / "node_modules/.bin",
    os.environ["PATH"],
    "/usr/local/go/bin",  # where Go's own installer puts it
)

# The first run on a machine compiles two generators and their libraries.
pytestmark = pytest.mark.timeout(1200)

OPENAPI_GENERATOR = "java -jar jars/openapi-generator-cli-*.jar generate -i openapi.json"
TSC = "tsc --strict --target es2022 --module nodenext --types node --outDir built"


class Generator(NamedTuple):
    """What an integrator types, in a folder with `openapi.json`."""

    generate: str
    check: str
    use: str | None = None


GENERATORS = {
    "openapi-generator python": Generator(
        f"{OPENAPI_GENERATOR} -g python -o .",
        "mypy openapi_client python_openapi_generator.py",
        "python python_openapi_generator.py",
    ),
    # What it generates has a variable of two types: mypy checks the program that uses it.
    "openapi-python-client": Generator(
        "openapi-python-client generate --path openapi.json --meta none"
        " --output-path payments_client",
        "mypy --strict --follow-imports silent python_openapi_python_client.py",
        "python python_openapi_python_client.py",
    ),
    "openapi-generator typescript-fetch": Generator(
        f"{OPENAPI_GENERATOR} -g typescript-fetch -o typescript-fetch"
        " --additional-properties importFileExtension=.js",
        f"{TSC} typescript-fetch.ts",
        "node built/typescript-fetch.js",
    ),
    "@hey-api/openapi-ts": Generator(
        "openapi-ts",
        f"{TSC} hey-api.ts",
        "node built/hey-api.js",
    ),
    # It generates types, and no client.
    "openapi-typescript": Generator(
        "openapi-typescript openapi.json --output openapi-typescript/index.ts",
        f"{TSC} openapi-typescript.ts",
    ),
    "openapi-generator java": Generator(
        f"{OPENAPI_GENERATOR} -g java --library native -o java",
        "javac -nowarn -d built -cp 'jars/*' Program.java $(find java/src/main -name '*.java')",
        "java -cp 'built:jars/*' Program",
    ),
    # By itself its client for Go rejects a response with a new field.
    "openapi-generator go": Generator(
        f"{OPENAPI_GENERATOR} -g go -o go-openapi-generator --additional-properties"
        " disallowAdditionalPropertiesIfNotPresent=false,withGoMod=false"
        " --global-property apiTests=false,modelTests=false",
        "go vet ./go-openapi-generator && go vet go_openapi_generator.go",
        "go run go_openapi_generator.go",
    ),
    "oapi-codegen": Generator(
        "mkdir go-oapi-codegen && go tool oapi-codegen -generate types,client -package payments"
        " -o go-oapi-codegen/client.go openapi.json",
        "go vet ./go-oapi-codegen && go vet go_oapi_codegen.go",
        "go run go_oapi_codegen.go",
    ),
    "ogen": Generator(
        "go tool ogen --target go-ogen --package payments openapi.json",
        "go vet ./go-ogen",
    ),
}

TRANSCRIPT = f"""\
create 1 0.10 inserted
create 2 12345.67 inserted
create 3 99999.99 inserted
replay 1
page 0.10 12345.67
page 99999.99
consume consumed {CLIENT}
conflict 409 /problems/already-consumed {CLIENT}
consumption 12345.67 99999.99
deleted 404 /problems/payment-not-found
reused 422 /problems/idempotency-key-reused 1
old 0.10 inserted
"""


def workspace(folder: Path, contract: dict[str, Any]) -> Path:
    """Fills a folder with the contract, the programs and what they need."""
    unwanted = shutil.ignore_patterns("*test*", "__*__*")
    shutil.copytree(Path(__file__).parent, folder, ignore=unwanted, dirs_exist_ok=True)
    for name in ("node_modules", "jars"):
        (folder / name).symlink_to(INSTALLED / name)
    (folder / "openapi.json").write_text(json.dumps(contract))
    return folder


def earlier(contract: dict[str, Any]) -> dict[str, Any]:
    """Returns the contract as if two fields of responses were added since.

    Clients that exist must go on working when that happens.
    """
    schemas = contract["components"]["schemas"]
    for schema, field in (("Payment", "updated_at"), ("Problem", "title")):
        del schemas[schema]["properties"][field]
        schemas[schema]["required"].remove(field)
    return contract


async def run(command: str, folder: Path, **variables: str) -> tuple[int, str, str]:
    """Runs a line of the shell in a folder; returns its status, its output and its errors."""
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=folder,
        env={**os.environ, "PATH": ":".join(map(str, PATH)), **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


@pytest.mark.parametrize("name", GENERATORS)
async def test_a_generated_client_compiles_and_works(
    name: str, start: Serve, database: Database, tmp_path: Path
) -> None:
    url, generator = await start(), GENERATORS[name]
    async with httpx.AsyncClient() as http:
        contract = (await http.get(f"{url}/openapi.json")).json()
    folder = workspace(tmp_path, earlier(contract))
    for command in (generator.generate, generator.check):
        status, output, errors = await run(command, folder)
        assert status == 0, f"{command}\n{output}{errors}"
    if generator.use:
        key = await database.key()
        status, output, errors = await run(generator.use, folder, URL=url, KEY=key)
        assert (output, status) == (TRANSCRIPT, 0), errors


async def test_a_contract_that_a_generator_rejects_is_found(tmp_path: Path) -> None:
    contract = json.loads(docs.openapi())
    contract["components"]["links"]["consumePayment"]["requestBody"] = {"status": "consumed"}
    generator = GENERATORS["openapi-generator python"]
    status, _, errors = await run(generator.generate, workspace(tmp_path, contract))
    assert status != 0
    assert "consumePayment" in errors
