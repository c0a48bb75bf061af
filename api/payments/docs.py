"""The contract as JSON, and the interactive page that shows it, without the internet."""

import asyncio
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec
from falcon.asgi import Request, Response

from payments.errors import NotFound

OPENAPI = Path(__file__).parent.parent / "openapi.yaml"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Payments API</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  validatorUrl: null,
});
"""

# Swagger UI sets style attributes; nothing on the page comes from, or goes to, another place.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)

ASSETS = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}


@cache
def openapi() -> bytes:
    """Returns `openapi.yaml` as JSON."""
    return msgspec.json.encode(msgspec.yaml.decode(OPENAPI.read_bytes()))


@cache
def _asset(name: str) -> bytes:
    # Found, not imported: the package is wanted for its files alone.
    spec = find_spec("swagger_ui")
    assert spec is not None and spec.submodule_search_locations
    return (Path(spec.submodule_search_locations[0]) / "static" / name).read_bytes()


async def answer_openapi(request: Request, response: Response, client: str) -> None:
    """Answers with the contract."""
    response.content_type = "application/json"
    response.data = await asyncio.to_thread(openapi)


async def answer_page(request: Request, response: Response, client: str) -> None:
    """Answers with the page."""
    response.content_type = "text/html; charset=utf-8"
    response.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    response.text = PAGE


async def answer_asset(request: Request, response: Response, client: str, asset: str) -> None:
    """Answers with one of the page's files."""
    if asset == "start.js":
        response.content_type = "text/javascript; charset=utf-8"
        response.text = START
        return
    if asset not in ASSETS:
        raise NotFound("The docs page has no such file.")
    response.content_type = ASSETS[asset]
    response.set_header("Cache-Control", "public, max-age=3600")
    response.data = await asyncio.to_thread(_asset, asset)
