"""The page in a real browser, against a real gateway; the instances behind it stand for vLLM's."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.endpoints.routes import InstanceRoute
from tasks.endpoints.status_file import (
    ChannelLine,
    Counts,
    InstanceLine,
    ScoreLine,
    ServingStatus,
    StepLine,
    SwitchLine,
    write_status,
)

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE_MS = 60_000
BLUE, GREEN = "b" * 64, "a" * 64
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
TEAM, OWN = "0123456789abcdef", "fedcba9876543210"
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


class Seen:
    """A page, all that it asked for, and every error that its console showed."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page.set_default_timeout(PATIENCE_MS)
        self.url, self.asked, self.errors = url, [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{url}/")

    def shot(self, name: str) -> None:
        if SHOTS:
            self.page.screenshot(path=Path(SHOTS) / f"seen-{name}.png", full_page=True)

    def outside(self) -> list[str]:
        return [one for one in self.asked if not one.startswith((f"{self.url}/", "data:"))]


@pytest.fixture
def look(browser: Any) -> Iterator[Any]:
    opened: list[Seen] = []

    def _look(gateway: Any, **options: Any) -> Seen:
        opened.append(Seen(browser, gateway.url, **options))
        return opened[-1]

    yield _look
    for seen in opened:
        seen.page.close()


@pytest.fixture(scope="module")
def blue(upstream: Any) -> InstanceRoute:
    return upstream("b")[0]


@pytest.fixture(scope="module")
def green(upstream: Any) -> InstanceRoute:
    return upstream("a")[0]


@pytest.fixture(scope="module")
def gateway(start_gateway: Any) -> Any:
    return start_gateway()


def scored(value: float) -> tuple[ScoreLine, ...]:
    rows = [("eu_mc", "acc", value, 0.0191, 600, True), ("eu_bpb", "bits_per_byte", 1.9 - value, 0.011, 480, False)]
    rows += [("eu_chat", "strict", value + 0.1, 0.0204, 400, True), ("en_mc", "acc", value - 0.03, 0.0187, 600, True)]
    names = ("benchmark", "metric", "value", "stderr", "n", "higher_is_better")
    return tuple(ScoreLine.model_validate(dict(zip(names, row, strict=True))) for row in rows)


def say(
    gateway: Any, *, live: str, previous: str | None, release: str = "empelt-demo/llama-tiny-instruct-v2@7c1e90ab12cd"
) -> None:
    """What the agent would write."""
    now = datetime.now(UTC)

    def switch(generation: int, digest: str, named: str, minutes: int) -> SwitchLine:
        at = now - timedelta(minutes=minutes)
        told = {"at": at, "visible_at": at + timedelta(seconds=1.4), "reason": "better on eu_mc, not worse elsewhere"}
        return SwitchLine(generation=generation, digest=digest, release=named, **told)

    older = "empelt-demo/llama-tiny-instruct-v1@19be33f0aa27"
    channel = ChannelLine(
        channel="eu",
        family="llama-tiny",
        target="eu",
        generation=2,
        visible_generation=2,
        digest=live,
        release=release,
        since=now - timedelta(minutes=5),
        previous=previous,
        steps=tuple(
            StepLine(digest="d" * 64, step=step, ended=ended, seconds=12.3, said=said, at=now)
            for step, ended, said in (
                ("canary 5", "refused", "12 of 100 answers were empty, beyond the live version's 0"),
                ("warm", "done", "8 answers"),
            )
        ),
        switches=(switch(2, live, release, 5), switch(1, previous or GREEN, older, 600)),
    )
    lines = [
        InstanceLine(
            name=f"eu-{digest[:12]}",
            channel="eu",
            digest=digest,
            release="",
            state=state,
            reason=reason,
            since=now,
            keep=keep,
        )
        for digest, state, reason, keep in [
            (BLUE, "ready", "", "live"),
            (GREEN, "ready", "", "previous"),
            ("d" * 64, "failed", "it ended with code 1. Its log ends:\nRuntimeError: no such file", "staged"),
        ]
    ]
    status = ServingStatus(
        agent="local",
        at=now,
        channels=(channel,),
        scores={BLUE: scored(0.61), GREEN: scored(0.57)},
        instances=tuple(lines),
        counts=Counts(restarts={"eu": 1}),
    )
    write_status(gateway.routes.with_name("status.json"), status)


def test_the_page_shows_what_is_served_and_asks_nobody_else(gateway, blue, green, look):
    gateway.route(blue, green, generation=2)
    say(gateway, live=BLUE, previous=GREEN)
    seen = look(gateway)
    card = seen.page.get_by_role("article", name="Channel eu")
    card.wait_for()
    assert seen.page.url == f"{gateway.url}/empelt/"
    text = card.inner_text()
    for said in ("answers", "generation 2", "llama-tiny-instruct-v2@7c1e90ab12cd", "eu@aaaaaaaaaaaa", "0.610", "n 600"):
        assert said in text
    scores = card.get_by_role("table", name="Scores, with standard errors")
    assert scores.get_by_role("columnheader").all_inner_texts() == [
        "Benchmark",
        "Live bbbbbbbbbbbb",
        "Previous aaaaaaaaaaaa",
    ]
    card.get_by_text("Last promotions").click()
    assert "1.4 s" in card.inner_text()
    card.get_by_text("Last steps of promotions").click()
    assert "12 of 100 answers were empty" in card.inner_text()
    assert "RuntimeError: no such file" in seen.page.locator("#instances").inner_text()
    seen.shot("desktop")
    assert seen.outside() == []
    assert seen.errors == []


def test_two_versions_are_asked_side_by_side_and_both_stream(gateway, blue, green, look, behave):
    gateway.route(blue, green, generation=2)
    say(gateway, live=BLUE, previous=GREEN)
    behave(blue, words="Kaixo! ")
    behave(green, words="Hola! ")
    seen = look(gateway)
    page = seen.page
    page.get_by_label("Question").fill("Zein da Eslovakiako hiriburua?")
    page.get_by_label("Most tokens").fill("4")
    page.get_by_role("button", name="Ask both").click()
    left, right = (page.get_by_role("group", name=name, exact=True) for name in ("eu", "eu@aaaaaaaaaaaa"))
    for side, words, digest in ((left, "Kaixo! " * 4, BLUE), (right, "Hola! " * 4, GREEN)):
        side.get_by_text("cut at the most tokens").wait_for()
        assert side.locator(".answer").text_content() == words
        assert side.get_by_title(digest).inner_text() == digest[:12]
        assert "Whole answer" in side.inner_text()
    assert "live" in left.locator(".facts").inner_text()
    assert "pinned" in right.locator(".facts").inner_text()
    assert "2" in left.locator(".facts dd").nth(3).inner_text()
    seen.shot("asked")
    behave(blue)
    behave(green)
    assert seen.outside() == []
    assert seen.errors == []


def test_words_are_shown_as_they_come_and_can_be_stopped(gateway, blue, green, look, behave):
    """The stand-ins say a word and then wait: the page has it before the answer ends."""
    gateway.route(blue, green, generation=2)
    say(gateway, live=BLUE, previous=GREEN)
    behave(blue, words="Bat ", pause=600.0)
    behave(green, words="Un ", pause=600.0)
    seen = look(gateway)
    page = seen.page
    page.get_by_label("Question").fill("Kontatu.")
    page.get_by_role("button", name="Ask both").click()
    left, right = (page.get_by_role("group", name=name, exact=True) for name in ("eu", "eu@aaaaaaaaaaaa"))
    left.locator(".answer", has_text="Bat").wait_for()
    right.locator(".answer", has_text="Un").wait_for()
    assert left.get_attribute("aria-busy") == right.get_attribute("aria-busy") == "true"
    assert gateway.state()["in_flight"] == {blue.name: 1, green.name: 1}
    page.get_by_role("button", name="Stop").click()
    left.get_by_text("stopped").wait_for()
    right.get_by_text("stopped").wait_for()
    behave(blue)
    behave(green)
    assert page.get_by_role("button", name="Ask both").is_enabled()
    assert seen.errors == []


def test_an_answer_that_breaks_off_is_not_shown_as_done(gateway, blue, green, look, behave):
    gateway.route(blue, green, generation=2)
    say(gateway, live=BLUE, previous=GREEN)
    behave(blue, words="Kaixo! ", ends_early=2)
    seen = look(gateway)
    seen.page.get_by_label("Question").fill("Kaixo")
    seen.page.get_by_role("button", name="Ask both").click()
    left = seen.page.get_by_role("group", name="eu", exact=True)
    left.get_by_text("broke off").wait_for()
    assert "without its end mark" in left.inner_text()
    behave(blue)
    assert seen.errors == []


def test_a_canary_is_shown_with_its_weight_and_can_be_asked(gateway, blue, green, look):
    gateway.route(blue, green, generation=2, canary=(green, 50))
    say(gateway, live=BLUE, previous=None)
    seen = look(gateway)
    card = seen.page.get_by_role("article", name="Channel eu")
    card.get_by_text("A canary is being tried").wait_for()
    assert "50 % of the requests go to aaaaaaaaaaaa" in card.inner_text()
    assert seen.page.get_by_label("Beside it").locator("option").first.inner_text() == "Canary eu@aaaaaaaaaaaa"
    seen.shot("canary")
    gateway.route(blue, green, generation=2)
    card.get_by_text("A canary is being tried").wait_for(state="detached")  # by itself
    assert seen.errors == []


def test_a_previous_version_without_an_instance_is_said_to_be_out_of_reach(gateway, blue, look):
    gateway.route(blue, generation=2)
    say(gateway, live=BLUE, previous=GREEN)
    seen = look(gateway)
    seen.page.get_by_text("The previous version aaaaaaaaaaaa has no instance up, so it cannot be asked.").wait_for()
    assert "no instance is up: it cannot be asked" in seen.page.get_by_role("article").inner_text()
    assert "Previous" not in seen.page.get_by_label("Beside it").inner_text()


def test_what_models_and_releases_say_is_text(gateway, blue, green, look, behave):
    hostile = blue.model_copy(update={"release": HOSTILE})
    gateway.route(hostile, green, generation=2)
    say(gateway, live=BLUE, previous=GREEN, release=HOSTILE)
    behave(green, words=HOSTILE)
    seen = look(gateway)
    page = seen.page
    page.get_by_role("article").wait_for()
    assert HOSTILE in page.get_by_role("article").text_content()
    page.get_by_label("Question").fill("Kaixo")
    page.get_by_role("button", name="Ask both").click()
    right = page.get_by_role("group", name="eu@aaaaaaaaaaaa", exact=True)
    right.get_by_text("Whole answer").wait_for()
    assert HOSTILE in right.locator(".answer").text_content()
    assert page.title() == "Empelt: what is served"
    assert page.locator("main img").count() == 0
    behave(green)
    assert seen.errors == []


def test_with_keys_the_page_asks_for_one_and_keeps_it_nowhere(start_gateway, blue, green, look):
    gateway = start_gateway(keys=f"team:{TEAM}", own_key=OWN)
    gateway.headers = {"authorization": f"Bearer {OWN}"}
    gateway.route(blue, green, generation=2)
    say(gateway, live=BLUE, previous=GREEN)
    seen = look(gateway)
    page = seen.page
    field = page.get_by_label("API key of this gateway")
    field.wait_for()
    assert "eu" not in page.locator("main").inner_text().split()
    assert [one for one in seen.asked if "status.json" in one] == []
    seen.shot("key")
    field.fill(TEAM)
    field.press("Enter")
    page.get_by_role("article", name="Channel eu").wait_for()
    assert "RuntimeError" not in page.locator("#instances").inner_text()  # a person's key: no reasons
    page.get_by_label("Question").fill("Kaixo")
    page.get_by_role("button", name="Ask both").click()
    page.get_by_role("group", name="eu", exact=True).get_by_text("Whole answer").wait_for()
    kept = page.evaluate(
        "JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage), document.cookie])"
    )
    assert kept == '[[],[],""]'
    assert TEAM not in page.content()
    assert TEAM not in page.url
    assert seen.errors == []
    page.get_by_role("button", name="Forget it").click()
    assert page.get_by_role("article").count() == 0
    assert "Kaixo" not in page.locator(".answer").first.inner_text()
    field.fill("0" * 16)
    field.press("Enter")
    page.get_by_text("This gateway does not know that key.").wait_for()
    page.reload()
    field.wait_for()
    assert page.get_by_role("article").count() == 0


@pytest.mark.parametrize("dark", [False, True])
def test_a_small_screen_shows_all_of_it_without_scrolling_sideways(gateway, blue, green, look, dark):
    gateway.route(blue, green, generation=2, canary=(green, 5))
    say(gateway, live=BLUE, previous=GREEN)
    scheme = "dark" if dark else "light"
    seen = look(gateway, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = seen.page
    page.get_by_role("article").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.get_by_label("Question").fill("Zein da Eslovakiako hiriburua?")
    page.get_by_label("Most tokens").fill("2")
    page.get_by_role("button", name="Ask both").click()
    page.get_by_role("group", name="eu", exact=True).get_by_text("Whole answer").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    seen.shot(f"mobile-{scheme}")
    if dark:
        page.set_viewport_size({"width": 1280, "height": 900})
        seen.shot("dark")
    assert seen.errors == []


def test_the_keyboard_alone_reaches_and_uses_the_box(gateway, blue, green, look):
    gateway.route(blue, green, generation=2)
    say(gateway, live=BLUE, previous=GREEN)
    seen = look(gateway)
    page = seen.page
    page.get_by_role("article").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the question box"
    page.keyboard.press("Enter")
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("Kaixo")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("group", name="eu", exact=True).get_by_text("Whole answer").wait_for()
    unnamed = (
        "[...document.querySelectorAll('input,select,textarea')].filter(one => !one.labels.length).map(one => one.id)"
    )
    assert page.evaluate(unnamed) == []
    assert seen.errors == []
