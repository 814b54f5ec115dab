"""The pictures in this folder: the report of a small scripted study, as Chromium shows it.

python docs/screenshots.py
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DEBATES = "#method=llm_debate&path=1"


def open_first(page: Any) -> None:
    page.locator("#rows a").first.click()
    page.wait_for_selector(".turn")


def with_changes(page: Any) -> None:
    open_first(page)
    page.keyboard.press("c")
    page.wait_for_selector("ins")


SHOTS: tuple[tuple[str, str, dict[str, Any], Any], ...] = (
    ("overview", "index.html", {}, None),
    ("overview-dark", "index.html", {"color_scheme": "dark"}, None),
    ("debate", "debate.html", {}, None),
    ("prm", "prm.html", {}, None),
    ("rl", "rl.html", {}, None),
    ("samples", "samples.html", {}, None),
    ("sample", f"samples.html{DEBATES}", {}, open_first),
    ("changes-dark", f"samples.html{DEBATES}", {"color_scheme": "dark"}, with_changes),
    ("narrow", f"samples.html{DEBATES}", {"viewport": {"width": 375, "height": 800}}, open_first),
)


def main() -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import report_cases
    from playwright.sync_api import sync_playwright

    from bench.report_bench import launch
    from eval.report import build

    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "report"
        results = report_cases.make(Path(folder), 60)
        sys.argv = ["eval/report/__main__.py", "--results", "results", "--output", "report"]
        build.build([results], site, "Scripted example", None)
        with sync_playwright() as driver:
            browser = launch(driver)
            for name, address, options, act in SHOTS:
                page = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options}).new_page()
                file, _, fragment = address.partition("#")
                page.goto((site / file).as_uri() + f"#{fragment}")
                page.wait_for_load_state("load")
                if file == "samples.html":
                    page.wait_for_selector("#rows li")
                for chart in page.locator(".chart").all():
                    chart.scroll_into_view_if_needed()
                    chart.locator(".main-svg").first.wait_for()
                if act is not None:
                    act(page)
                page.evaluate("scrollTo(0, 0)")
                page.wait_for_timeout(500)  # charts fade in
                page.screenshot(path=DOCS / f"report-{name}.png", full_page=name not in ("samples", "narrow"))
                page.context.close()
            browser.close()


if __name__ == "__main__":
    main()
