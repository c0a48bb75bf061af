"""`/docs` in a real browser: it works with no internet, and requests can be sent from it."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Locator, Page, Route, async_playwright, expect

from payments import docs
from tests.conftest import Api, problem

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


@pytest.fixture
async def browser() -> AsyncIterator[BrowserContext]:
    """A browser that nobody has used before."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert program is not None, f"install one of {', '.join(BROWSERS)}"
    # Chromium refuses root with its sandbox; all that it opens here is our own page.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=program, args=options)
        # Wide and high enough for a picture in which everything can be read.
        context = await started.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(20_000)
        yield context
        await started.close()


@contextmanager
def no_complaint(context: BrowserContext, page: Page, url: str) -> Iterator[None]:
    """Checks that the page asks nobody but the server, and that the browser has nothing to say."""
    complaints: list[str] = []
    context.on("request", lambda request: _check_place(request.url, url, complaints))
    context.on("requestfailed", lambda request: complaints.append(f"{request.url} failed"))
    page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
    # What the content security policy forbids is told here too.
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    yield
    assert complaints == []


def _check_place(asked: str, url: str, complaints: list[str]) -> None:
    if not asked.startswith((f"{url}/", "data:")):
        complaints.append(f"{asked} was asked for")


async def _authorise(page: Page, key: str) -> None:
    await page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".modal-ux")
    await dialog.locator("input").fill(key)
    await dialog.get_by_role("button", name="Apply credentials").click()
    await dialog.get_by_role("button", name="Close").last.click()
    await expect(dialog).to_have_count(0)


async def _execute(page: Page, operation: str) -> Locator:
    """Sends the request that an operation shows; returns where the page shows the answer."""
    block = page.locator(f"#{operation}")
    await block.locator(".opblock-summary-control").click()
    await block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody")
    await expect(answer).to_be_visible()
    return answer


@pytest.mark.slow
async def test_a_payment_can_be_made_from_the_page(
    shared: Api, browser: BrowserContext, tmp_path: Path
) -> None:
    async def refuse(route: Route) -> None:
        await (route.continue_() if route.request.url.startswith(shared.url) else route.abort())

    await browser.route("**/*", refuse)
    page = await browser.new_page()
    with no_complaint(browser, page, shared.url):
        answer = await page.goto(f"{shared.url}/docs")
        assert answer is not None
        assert answer.headers["content-security-policy"] == docs.CONTENT_SECURITY_POLICY.decode()
        await expect(page).to_have_title("Payments API")
        await expect(page.get_by_role("heading", name="Safe retries")).to_be_visible()
        # Pictures to be looked at; pytest keeps the directories of the last three runs.
        await page.screenshot(path=tmp_path / "page.png", full_page=True)
        await _authorise(page, shared.key)

        made = await _execute(page, "operations-Payments-createPayment")
        await expect(made.locator("td.response-col_status").first).to_have_text("201")
        await expect(made).to_contain_text('"payment": 12345.67')
        await expect(made).to_contain_text("location: /v1/payments/")
        await page.locator("#operations-Payments-createPayment").screenshot(
            path=tmp_path / "created.png"
        )

        listed = await _execute(page, "operations-Payments-listPayments")
        await expect(listed.locator("td.response-col_status").first).to_have_text("200")
        await expect(listed).to_contain_text('"status": "inserted"')

        old = page.locator("#operations-Old_routes-oldCreate")
        await expect(old.locator(".opblock-summary-path__deprecated")).to_have_count(1)
        await page.get_by_role("button", name="Schemas").click()
        await page.locator("section.models").get_by_text("Problem", exact=True).click()
        await expect(page.get_by_role("cell", name="/problems/overloaded")).to_be_visible()
        await page.locator("section.models").screenshot(path=tmp_path / "schemas.png")


@pytest.mark.slow
async def test_without_a_key_the_page_shows_the_problem(
    shared: Api, browser: BrowserContext
) -> None:
    page = await browser.new_page()
    await page.goto(f"{shared.url}/docs")
    answer = await _execute(page, "operations-Payments-createPayment")
    await expect(answer.locator("td.response-col_status").first).to_contain_text("401")
    await expect(answer).to_contain_text("/problems/unauthenticated")


@pytest.mark.parametrize("asset", sorted(docs.OWN_ASSETS | docs.PACKAGE_ASSETS))
async def test_the_page_has_its_files_from_the_service(shared: Api, asset: str) -> None:
    answer = await shared.send("GET", f"/docs/{asset}")
    assert answer.status_code == 200
    assert len(answer.content) > 100
    kept = asset in docs.PACKAGE_ASSETS
    assert answer.headers["Cache-Control"] == ("public, max-age=3600" if kept else "no-store")
    assert b"http://" not in docs.PAGE
    assert b"https://" not in docs.PAGE


async def test_the_root_leads_to_the_page(shared: Api) -> None:
    answer = await shared.send("GET", "/")
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/docs"
    problem(await shared.send("POST", "/"), 405, "method-not-allowed")


async def test_a_slash_after_the_pages_address_is_no_mistake(shared: Api) -> None:
    answer = await shared.send("GET", "/docs/")
    assert answer.status_code == 200
    assert answer.content == docs.PAGE
    assert "Content-Security-Policy" in answer.headers
