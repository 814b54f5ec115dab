"""The report in a real Chromium, opened from disk, with the network blocked.

Skipped where Playwright or a Chromium is missing: `apt-get install chromium`, or CHROMIUM names one.
"""

import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import report_cases

from bench.report_bench import CHROMIUM, launch
from eval.report import __main__ as entry
from eval.report import pages, samples

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (set CHROMIUM, or install one)")
WAIT = 60_000
"""Milliseconds; machines are busy."""


def until(page: Any, expression: str, arg: Any = None) -> None:
    """Wait until something is true. Playwright's own wait_for_function needs an eval, which the policy forbids."""
    deadline = time.monotonic() + WAIT / 1000
    while not page.evaluate(expression, arg):
        assert time.monotonic() < deadline, f"never true: {expression} {arg or ''}"
        page.wait_for_timeout(20)


class Watched:
    """A page that notes everything that must not happen."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.outside: list[str] = []
        page.set_default_timeout(WAIT)
        page.on("console", lambda one: self.errors.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda one: self.errors.append(str(one)))
        page.on("dialog", lambda one: self.errors.append(f"dialog {one.message}"))
        page.on("request", self._look)

    def _look(self, request: Any) -> None:
        if not request.url.startswith(("file://", "data:", "blob:")):
            self.outside.append(request.url)

    def open(self, path: Path, fragment: str = "") -> Any:
        self.page.goto(path.as_uri() + fragment)
        if path.name == "samples.html":
            until(self.page, "document.body.dataset.ready === 'yes'")
        return self.page

    def check(self) -> None:
        assert self.errors == []
        assert self.outside == []
        assert self.page.evaluate("window.hacked") is None


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Opens a watched page; whatever its test does, the page must have stayed clean."""
    opened = []

    def make(**options: Any) -> Watched:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 1000}, **options})
        context.route(lambda url: not url.startswith(("file://", "data:", "blob:")), lambda route: route.abort())
        opened.append((context, Watched(context.new_page())))
        return opened[-1][1]

    yield make
    for context, watched in opened:
        watched.check()
        context.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small study."""
    folder = tmp_path_factory.mktemp("site")
    results = report_cases.make(folder, 60)
    assert entry.main(["--results", str(results), "--output", str(folder / "report")]) == 0
    return folder / "report"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    results = report_cases.hostile(folder)
    assert entry.main(["--results", str(results), "--output", str(folder / "report")]) == 0
    return folder / "report"


@pytest.fixture(scope="module")
def browser(site: Path, hostile: Path) -> Iterator[Any]:
    """Started last: while Playwright runs, its event loop is in the way of ours."""
    with playwright.sync_playwright() as driver:
        found = launch(driver)
        yield found
        found.close()


def debated(site: Path) -> dict[str, int]:
    """The line of voting.csv on the first round of the debate."""
    rows = csv.DictReader((site / "voting.csv").open(encoding="utf-8"))
    (row,) = [row for row in rows if "llm_debate" in row["file"] and row["round"] == "first"]
    return {name: int(value) for name, value in row.items() if value.isdigit()}


def settle(page: Any, text: str) -> None:
    """Wait until the status line says this."""
    until(page, "text => document.getElementById('status').textContent.startsWith(text)", text)


@pytest.mark.parametrize("name", pages.PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_load_clean_in_light_and_dark(site: Path, look: Callable[..., Watched], name: str, scheme: str) -> None:
    watched = look(color_scheme=scheme)
    page = watched.open(site / name)
    charts = page.locator(".chart")
    for place in range(charts.count()):
        charts.nth(place).scroll_into_view_if_needed()
    until(
        page,
        "[...document.querySelectorAll('.chart')].every(one => one.dataset.drawn && one.querySelector('.main-svg'))",
    )
    assert charts.count() == {"index.html": 2, "debate.html": 2, "prm.html": 6, "rl.html": 9}.get(name, 0)
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    assert page.locator("nav a[aria-current]").inner_text() == pages.PAGES[name]


def test_charts_follow_a_change_of_the_colour_scheme(site: Path, look: Callable[..., Watched]) -> None:
    watched = look(color_scheme="light")
    page = watched.open(site / "index.html")
    page.wait_for_selector(".chart[data-drawn]")
    colour = "document.querySelector('.chart .xtitle').style.fill"
    before = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    until(page, f"before => {colour} !== before", before)


def test_search_and_filters_count(site: Path, look: Callable[..., Watched]) -> None:
    page = look().open(site / "samples.html")
    assert page.locator("#status").inner_text() == "240 of 240 samples"
    assert page.locator("#rows li").count() == 50
    index = report_cases.piece(site / "samples/index.js")
    columns, runs = index["columns"], index["runs"]
    page.select_option("#verdict", "right")
    right = columns["verdict"].count(0)
    settle(page, f"{right} of 240")
    assert 0 < right < 240
    page.select_option("#method", "llm_debate")
    number = next(place for place, run in enumerate(runs) if run["method"] == "llm_debate")
    both = sum(run == number and one == 0 for run, one in zip(columns["run"], columns["verdict"], strict=True))
    settle(page, f"{both} of 240")
    page.select_option("#path", "1")
    corrective = sum(
        run == number and one == 0 and flag & 1
        for run, one, flag in zip(columns["run"], columns["verdict"], columns["flags"], strict=True)
    )
    settle(page, f"{corrective} of 240")
    assert corrective > 0
    page.select_option("#path", "8")
    enough = sum(
        run == number and one == 0 and flag & 8 != 0
        for run, one, flag in zip(columns["run"], columns["verdict"], columns["flags"], strict=True)
    )
    settle(page, f"{enough} of 240")
    assert enough == debated(site)["both_right"]
    page.click("button[type=reset]")
    settle(page, "240 of 240")
    found = [samples.words(report_cases.texts(one)) for one in report_cases.full_samples(site).values()]
    whole = sum({"bag", "holds", "18", "apples"} <= words for words in found)
    page.fill("#text", "bag holds 18 apples")
    settle(page, f"{whole} of 240")
    assert 4 <= whole < 240
    open_ended = sum("apples" in words and any(word.startswith("an") for word in words) for words in found)
    page.fill("#text", "Apples an")  # the last word may be a beginning
    settle(page, f"{open_ended} of 240")
    page.fill("#text", "apples an ")  # now it is a word
    settle(page, f"{sum({'apples', 'an'} <= words for words in found)} of 240")
    page.fill("#text", "zebra")
    settle(page, "0 of 240")
    page.fill("#text", "GSM8K/test/17")
    until(page, "document.querySelectorAll('#rows li').length === 4")
    page.reload()
    until(page, "document.querySelectorAll('#rows li').length === 4")  # the address says what is shown


def test_pages_of_the_list(site: Path, look: Callable[..., Watched]) -> None:
    page = look().open(site / "samples.html")
    page.click("#after")
    until(page, "document.getElementById('where').textContent === 'page 2 of 5'")
    page.go_back()
    until(page, "document.getElementById('where').textContent === 'page 1 of 5'")


def test_one_sample_shows_turns_side_by_side_with_verdicts_scores_and_maths(
    site: Path, look: Callable[..., Watched]
) -> None:
    page = look().open(site / "samples.html", "#method=llm_debate&path=1")
    page.locator("#rows a").first.click()
    page.wait_for_selector(".turn")
    assert page.locator(".rounds > .head").count() == 4  # three agents and the aggregator
    assert page.locator(".rounds h3").all_inner_texts() == ["Round 1", "Round 2", "Round 3", "Round 4"]
    assert page.locator(".turn").count() == 10
    tops = [box["y"] for place in range(3) if (box := page.locator(".turn").nth(place).bounding_box())]
    assert len(set(tops)) == 1
    assert page.locator(".turn.wrong").count() > 0
    assert page.locator(".turn.right").count() > 0
    changed = page.locator(".changed").all_inner_texts()
    assert any("wrong → right" in one for one in changed)
    assert page.locator(".turn math").count() > 10
    assert page.locator(".badmath").count() == 0
    assert "at $3 each and $4 for two" in page.locator(".turn .text").first.inner_text()  # money is no formula
    assert page.locator(".step .score").count() >= 9
    assert page.locator(".turn .line", has_text="tokens").count() == 10
    page.get_by_role("button", name="Changes between rounds").click()
    page.wait_for_selector("ins")
    assert page.locator("del").count() > 0
    turn = page.locator(".turn").nth(3)
    turn.locator("summary", has_text="what it was shown").click()
    asked = turn.locator("details[open] .text")
    asked.first.wait_for()
    shown = " ".join(asked.all_inner_texts())
    assert "apples" in shown
    peer = page.locator(".turn").nth(1).locator(".text").first.inner_text()
    assert peer[:30] in shown  # by reference


def test_keyboard_alone_reaches_everything(site: Path, look: Callable[..., Watched]) -> None:
    page = look().open(site / "samples.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("zebra")
    settle(page, "0 of 240")
    page.keyboard.press("Control+A")
    page.keyboard.type("apples")
    settle(page, "240 of 240")  # differs from before, so the list is the new one
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("k")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn")
    assert "sample=1" in page.url
    page.keyboard.press("ArrowRight")
    until(page, "location.hash.includes('sample=2')")
    page.keyboard.press("ArrowLeft")
    until(page, "location.hash.includes('sample=1')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#rows a:visible")


def test_narrow_screen_has_no_sideways_scrolling(site: Path, look: Callable[..., Watched]) -> None:
    watched = look(viewport={"width": 375, "height": 700})
    for name in pages.PAGES:
        page = watched.open(site / name)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 375, f"{name}: {wide}"
    page.goto((site / "samples.html").as_uri() + "#method=llm_debate&sample=100")
    page.wait_for_selector(".turn")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize("name", [*report_cases.HOSTILE, "megabyte"])
def test_hostile_text_is_shown_and_does_nothing(hostile: Path, look: Callable[..., Watched], name: str) -> None:
    watched = look()
    ids = report_cases.piece(hostile / "samples/index.js")["columns"]["id"]
    page = watched.open(hostile / "samples.html", f"#sample={ids.index(f'GSM8K/test/{name}')}")
    page.wait_for_selector(".turn")
    for summary in page.locator("summary:visible").all():
        summary.click()
    page.get_by_role("button", name="Changes between rounds").click()
    page.wait_for_selector("button[aria-pressed=true]")
    page.get_by_role("button", name="Changes between rounds").click()
    page.wait_for_selector("button[aria-pressed=false]")
    text = page.locator("#sample").inner_text()
    if name == "script":
        assert "<script>window.hacked=1</script>" in text
        assert page.locator("#sample img, #sample script, #sample a").count() == 0
    if name == "breaker":
        assert "');window.hacked=1;//" in text
    if name == "nul":
        assert page.locator(".control").first.inner_text() == "␀"
    if name == "right_to_left":
        assert page.locator(".control", has_text="U+202E").count() > 0
        assert page.locator(".turn .text").first.evaluate("one => getComputedStyle(one).direction") == "rtl"
    if name == "latex":
        assert page.locator(".badmath").count() > 0
        assert page.locator("#sample [href]").count() == 0
    if name == "megabyte":
        page.get_by_role("button", name="Show all 1,310,720 characters").first.click()
        until(page, "document.querySelector('.turn .text').textContent.length === 1310720")
    assert page.evaluate("({}).polluted") is None


def test_first_view_and_search_are_quick_enough(site: Path, look: Callable[..., Watched]) -> None:
    """A rough bound at small size; bench/report_bench.py measures 10,000 samples."""
    page = look().open(site / "samples.html")
    page.fill("#text", "zebra")
    settle(page, "0 of 240")
    assert float(page.evaluate("document.body.dataset.searchMs")) < 2000


def still(look: Callable[..., Watched], path: Path, height: int = 300) -> Any:
    """A page whose charts below the fold wait, as idle time never comes."""
    watched = look(viewport={"width": 1400, "height": height})
    watched.page.add_init_script("window.requestIdleCallback = () => 0")
    page = watched.open(path)
    page.wait_for_selector("h1")
    return page


WAITING = "document.querySelectorAll('.chart:not([data-drawn])').length"


@pytest.mark.parametrize("how", ["the event", "the medium", "a PDF"])
def test_a_printed_page_has_all_its_charts(site: Path, look: Callable[..., Watched], how: str) -> None:
    page = still(look, site / "rl.html")
    assert page.evaluate(WAITING) > 0
    if how == "the event":
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(WAITING) == 0
    elif how == "the medium":
        page.emulate_media(media="print")
        until(page, f"{WAITING} === 0")
    else:
        page.pdf()
        assert page.evaluate(WAITING) == 0
    assert page.evaluate("[...document.querySelectorAll('.chart')].every(one => one.querySelector('.main-svg'))")


def test_charts_fit_on_the_paper_and_grow_again(site: Path, look: Callable[..., Watched]) -> None:
    page = still(look, site / "index.html", 1000)
    until(page, f"{WAITING} === 0")
    widest = "Math.max(...[...document.querySelectorAll('.chart .main-svg')].map(one => one.clientWidth))"
    assert page.evaluate(widest) > 1000
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(widest) <= 700
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(widest) > 1000


def test_a_page_that_nobody_scrolls_has_all_its_charts_after_a_while(site: Path, look: Callable[..., Watched]) -> None:
    page = look(viewport={"width": 1400, "height": 300}).open(site / "rl.html")
    until(page, f"{WAITING} === 0")


def test_a_saved_page_draws_its_charts_once(site: Path, look: Callable[..., Watched]) -> None:
    watched = look()
    page = watched.open(site / "index.html")
    until(page, f"{WAITING} === 0")
    drawn = "document.querySelectorAll('.chart .main-svg').length"
    before = page.evaluate(drawn)
    saved = site / "saved.html"
    saved.write_text(page.content(), encoding="utf-8")
    page = watched.open(saved)
    until(page, "document.querySelector('.chart')?.on !== undefined")  # plotly has taken it over
    assert page.evaluate(drawn) == before
