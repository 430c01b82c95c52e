"""The page as a file, in a browser: nothing asked of a network, no error, all of it on a small screen, light and dark."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.domain.cost import costs
from tasks.domain.insight import insight
from tasks.domain.trend import TrendPoint, TrendScore
from tasks.pictures.page import draw, html_page
from tests.pictures.test_pictures import AT, case

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE_MS = 60_000
SHOTS = os.environ.get("SCREENSHOTS", "")
"""A folder: for looking at the page. Nothing is asserted about pictures."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright import sync_api  # with the other tools of `make test`: without them this is an error, not a skip

    if not Path(CHROMIUM).exists():
        lack = f"{CHROMIUM} does not exist: `make test` installs it where it may"
        if os.environ.get("CI"):
            pytest.fail(lack)  # CI must see the page
        pytest.skip(lack)
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an undecided candidate in two languages, the third release of its target."""
    decision, evidence = case(0.749, languages=2, live=0.7)
    points = [
        TrendPoint(
            release=f"instruct-v{k}",
            candidate="c" * 64,
            outcome=outcome,
            at=AT,
            scores=(TrendScore(benchmark="eu_mc", metric="acc", value=0.5 + k / 10, stderr=0.02),),
        )
        for k, outcome in ((1, "passed"), (2, "rejected"), (3, "undecided"))
    ]
    more = insight(
        decision.verdict, evidence, costs=costs(decision.verdict, evidence, None, {"fetch": 3.0}), trend=points
    )
    whole = decision._replace(more=more)
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(html_page(whole, draw(whole, evidence)), encoding="utf-8")
    return path


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_page_stands_by_itself_on_any_screen(browser: Any, page: Path, scheme: str, width: int) -> None:
    seen = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    errors: list[str] = []
    seen.on("request", lambda request: asked.append(request.url))
    seen.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    seen.goto(page.as_uri())
    if SHOTS:
        seen.screenshot(path=Path(SHOTS) / f"verdict-{scheme}.png", full_page=True)
    assert asked == [page.as_uri()]
    assert errors == []
    assert seen.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    heads = seen.get_by_role("heading", level=2).all_inner_texts()
    wanted = ["What it would take to decide", "Languages by slices", "Against each reference", "Kept from the parents"]
    wanted += ["Trend over releases", "Worst lost items", "What it cost", "Releases so far"]
    assert [one for one in wanted if one not in heads] == []
    rows = seen.locator("table.matrix tbody tr")
    assert rows.count() == 2
    assert rows.first.locator("th").inner_text() == "eu"
    assert seen.locator("svg.interval").count() == 6 * 3  # each check against instruct, tuned and live
    paper = seen.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}[scheme]
    seen.close()
