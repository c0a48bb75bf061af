"""The contract as JSON, and the interactive page that shows it, without the internet."""

import asyncio
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import msgspec

from payments import encoding
from payments.errors import NotFound
from payments.messages import JSON, NO_STORE, Request, Response

OPENAPI = Path(__file__).parent.parent / "openapi.yaml"

PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Payments API</title>
<link rel="icon" href="/docs/favicon.svg">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="stylesheet" href="/docs/page.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

START = b"""SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  validatorUrl: null,
});
"""

STYLE = b""":root { color-scheme: light; }
body { margin: 0; background: #fff; }
.swagger-ui .wrapper { max-width: 1100px; }
.swagger-ui .info { margin: 40px 0 24px; }
.swagger-ui .info .title small.version-stamp { display: none; }
.swagger-ui .info .renderedMarkdown { max-width: 760px; }
.swagger-ui .info .renderedMarkdown p, .swagger-ui .info li { line-height: 1.5; }
.swagger-ui .info .renderedMarkdown td { padding: 4px 24px 4px 0; }
.swagger-ui .renderedMarkdown table { width: auto; }
.swagger-ui .json-schema-2020-12-keyword--description :is(th, td):nth-child(n):nth-child(n) {
  padding: 4px 16px 4px 0; /* named twice to weigh more than Swagger UI's own rule */
}
.swagger-ui .json-schema-2020-12-keyword--description td:first-child { white-space: nowrap; }
.swagger-ui .renderedMarkdown code, .swagger-ui .info code {
  color: #1f2937; background: #f1f3f5; padding: 1px 4px; font-size: 0.92em; font-weight: 500;
}
.swagger-ui .scheme-container {
  box-shadow: none; border-bottom: 1px solid #e4e7eb; padding: 12px 0;
}
.swagger-ui .auth-btn-wrapper { gap: 8px; }
.swagger-ui .auth-container input[type=text] { width: 100%; max-width: 30em; }
.swagger-ui .opblock.opblock-deprecated { opacity: 0.8; }
.swagger-ui .opblock.opblock-deprecated .opblock-summary-method { background: #6b7280; }
.swagger-ui .opblock-body .body-param__text { min-height: 150px; }
/* There is one server, this one; the licence is no reader's question; links are for programs. */
.swagger-ui .scheme-container .servers-title, .swagger-ui .scheme-container .servers,
.swagger-ui .info__license, .swagger-ui .response-col_links { display: none; }
/* All failures have one media type and the same headers, which the text above tells. */
.swagger-ui .response:not([data-code^="2"]) .response-control-media-type,
.swagger-ui .response:not([data-code^="2"]) .headers-wrapper { display: none; }
.swagger-ui .response:not([data-code^="2"]) .response-controls { padding-top: 0; }
"""

ICON = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">
<rect width="32" height="32" rx="7" fill="#14532d"/>
<path d="M7 12h18M7 17h18v5H7z" fill="none" stroke="#fff" stroke-width="3"/>
</svg>
"""

# Nothing on the page comes from, or goes to, another place.
CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    b" connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

JAVASCRIPT = b"text/javascript; charset=utf-8"
CSS = b"text/css; charset=utf-8"

OWN_ASSETS = {
    "favicon.svg": (b"image/svg+xml", ICON),
    "page.css": (CSS, STYLE),
    "start.js": (JAVASCRIPT, START),
}

PACKAGE_ASSETS = {"swagger-ui.css": CSS, "swagger-ui-bundle.js": JAVASCRIPT}


@cache
def openapi() -> bytes:
    """Returns `openapi.yaml` as JSON."""
    return msgspec.json.encode(msgspec.yaml.decode(OPENAPI.read_bytes()))


@cache
def _asset(name: str) -> bytes:
    # Located, not imported: the package is wanted for its files alone.
    path = distribution("swagger-ui-py").locate_file(f"swagger_ui/static/{name}")
    return Path(str(path)).read_bytes()


@cache
def _gzip(text: bytes) -> bytes:
    return encoding.gzip(text, level=9)  # once for all requests


async def _document(
    text: bytes, *headers: tuple[bytes, bytes], cache: bytes = NO_STORE
) -> Response:
    compressed = await asyncio.to_thread(_gzip, text)
    return Response(200, [*headers], text, cache, compress=True, compressed=compressed)


async def answer_openapi(request: Request, client: str) -> Response:
    """Answers with the contract."""
    return await _document(await asyncio.to_thread(openapi), JSON)


async def answer_root(request: Request, client: str) -> Response:
    """Sends a person who opens the host to the page."""
    # Not 308, which browsers keep for good: the root may be given another meaning.
    return Response(302, [(b"location", b"/docs")], b"")


async def answer_page(request: Request, client: str) -> Response:
    """Answers with the page."""
    policy = (b"content-security-policy", CONTENT_SECURITY_POLICY)
    return Response(200, [(b"content-type", b"text/html; charset=utf-8"), policy], PAGE)


async def answer_asset(request: Request, client: str, asset: str) -> Response:
    """Answers with one of the page's files; the one without a name is the page."""
    if asset == "":
        return await answer_page(request, client)
    if asset in OWN_ASSETS:
        media_type, text = OWN_ASSETS[asset]
        return await _document(text, (b"content-type", media_type))
    if asset in PACKAGE_ASSETS:
        text = await asyncio.to_thread(_asset, asset)
        media_type = PACKAGE_ASSETS[asset]
        return await _document(text, (b"content-type", media_type), cache=b"public, max-age=3600")
    raise NotFound("The docs page has no such file.")
