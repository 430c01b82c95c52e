"""Takes the README's screenshots from a demo that is up.

.venv/bin/python tests/system/take_screenshots.py [--home .empelt/demo] [--to infra/images/screenshots]
"""

import argparse
import json
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]


def open_page(browser: Browser, url: str, height: int) -> Page:
    page = browser.new_page(viewport={"width": 1440, "height": height})
    page.route(lambda asked: "127.0.0.1" not in asked, lambda route: route.abort())  # the UI's tracking service
    page.set_default_timeout(90_000)
    page.goto(url)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".empelt/demo"))
    parser.add_argument("--to", type=Path, default=Path("infra/images/screenshots"))
    asked = parser.parse_args()
    report = json.loads((asked.home / "report.json").read_text(encoding="utf-8"))
    asked.to.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = open_page(browser, f"{report['ui']}/v2/runs/flow-run/{report['flow_run']}", 900)
        page.get_by_role("tab", name="Artifacts").click()
        decision = page.get_by_role("link", name="decision-").get_attribute("href")
        page.wait_for_timeout(6000)  # the graph draws itself, and says nowhere that it has
        page.screenshot(path=asked.to / "prefect-run.png")
        page.close()
        page = open_page(browser, f"{report['ui']}{decision}", 1500)
        page.get_by_role("heading", name="Against each reference").wait_for()
        # Below the command that takes it back, which names a folder of this machine.
        page.get_by_role("heading", name="Languages by slices").evaluate("heading => heading.scrollIntoView()")
        page.wait_for_timeout(2000)
        page.screenshot(path=asked.to / "decision.png")
        browser.close()


if __name__ == "__main__":
    main()
