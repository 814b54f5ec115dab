"""Measure how fast the report's samples page opens and searches, in a real Chromium and from disk.

    python bench/report_bench.py

Records of a debate of 3 agents over 2 rounds with made-up words (few frequent, many rare, as in natural text).
First view: from navigation until the list is on the screen, in a fresh browser context. Search: from the key stroke's
event to the filtered list; pieces of the index are loaded from disk when first needed. Prints milliseconds with their
spread and the cost of many samples over few; writes the ratios to results/bench/report.json.
"""

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec

from agentark import cli
from agentark.types import SCHEMA, Completion, MethodInfo, Record, Solution, Turn, message
from bench.parts import report
from eval.report import build

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
"""None: Playwright's own."""
SHOWN = {"first view": "first_view_ms", "open a sample": "open_sample_ms"}
VOCABULARY = 30_000
SYLLABLES = [first + last for first in "bcdfghklmnprstvw" for last in ("a", "e", "i", "o", "u", "an", "er", "is")]


def vocabulary() -> list[str]:
    """Words of 2 to 4 syllables, the most frequent first."""
    draw = random.Random(1)
    return list({"".join(draw.choices(SYLLABLES, k=draw.choice((2, 2, 3, 4)))): None for _ in range(VOCABULARY)})


def queries() -> list[str]:
    """The most frequent word, a medium one, a rare one, two words, a prefix, an id, and a missing word."""
    words = vocabulary()
    two = f"{words[250]} {words[31]}"
    return [words[0], words[300], words[20_000], two, "ka", "question 17", "GSM8K/test/77", "xylophone"]


def records(count: int, words: int, seed: int = 0) -> Iterator[Record]:
    """Debates with replies of `words` words."""
    draw = random.Random(seed)
    names = vocabulary()
    weights = list(accumulate(1 / (rank + 3) for rank in range(len(names))))
    for index in range(count):
        turns = []
        for round in (1, 2):
            for agent in (1, 2, 3):
                text = " ".join(draw.choices(names, cum_weights=weights, k=words))
                done = Completion(f"{text}\n\nIt is \\boxed{{{draw.randrange(4)}}}.", "stop", 200, words, "m", 1.0)
                turns.append(
                    Turn(
                        id=f"agent_{agent}/{round}/debater", agent=f"agent_{agent}", round=round, role="debater",
                        messages=(message("user", "?"),), completion=done,
                    )
                )  # fmt: skip
        solutions = [
            Solution(id=number, agent=turn.agent, round=2, turn=turn.id, answer=turn.text[-3])
            for number, turn in enumerate(turns[3:], 1)
        ]
        yield Record(
            schema=SCHEMA, id=f"GSM8K/test/{index}", source="GSM8K",
            query=f"Question {index} about {names[index % 997]}?",
            gt=str(index % 4), method=MethodInfo("llm_debate", "config_main", {}), model="org/model", guarantee="exact",
            answer_type="number", solutions=solutions, trajectory=turns, final_answer=solutions[-1].answer,
        )  # fmt: skip


def launch(driver: Any) -> Any:
    """A headless Chromium of a Playwright driver."""
    return driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])


def measure(page_file: Path, repeats: int) -> dict[str, Any]:
    """Milliseconds of first views and searches."""
    from playwright.sync_api import sync_playwright

    views: list[float] = []
    searches: dict[str, list[float]] = {query: [] for query in queries()}
    opened: list[float] = []
    with sync_playwright() as driver:
        browser = launch(driver)
        warm = browser.new_page()
        warm.goto(page_file.as_uri())  # do not count the browser's own start
        warm.wait_for_selector("#rows li")
        warm.close()
        for _ in range(repeats):
            page = browser.new_context().new_page()
            start = time.perf_counter()
            page.goto(page_file.as_uri())
            page.wait_for_selector("#rows li")
            views.append(1000 * (time.perf_counter() - start))
            for query in searches:
                searches[query].append(page.evaluate(SEARCH, query))
            page.evaluate("location.hash = ''")
            page.wait_for_selector("#rows li")
            start = time.perf_counter()
            page.locator("#rows a").nth(7).click()
            page.wait_for_selector(".turn")
            opened.append(1000 * (time.perf_counter() - start))
            page.context.close()
        browser.close()
    return {"first_view_ms": views, "open_sample_ms": opened, "search_ms": searches}


SEARCH = """async (query) => {
  const status = document.getElementById("status");
  const changed = new Promise((resolve) => {
    const watcher = new MutationObserver(() => { watcher.disconnect(); requestAnimationFrame(() => resolve()); });
    watcher.observe(status, { childList: true });
  });
  const field = document.getElementById("text");
  const start = performance.now();
  field.value = query;
  field.dispatchEvent(new InputEvent("input", { bubbles: true }));
  await changed;
  return performance.now() - start;
}"""


def built(count: int, words: int, folder: Path) -> tuple[Path, float]:
    """(samples page of a report on `count` records, seconds it took)."""
    results = folder / "results"
    results.mkdir(parents=True)
    with (results / "llm_debate_infer.jsonl").open("wb") as stream:
        for record in records(count, words):
            stream.write(msgspec.json.encode(record) + b"\n")
    done = build.build([results], folder / "report", "bench", None)
    return folder / "report" / "samples.html", done.seconds


def main(argv: list[str] | None = None) -> int:
    parser = report.parser(__doc__, "report")
    parser.add_argument("--samples", type=cli.integer(1), default=10_000)
    parser.add_argument("--baseline", type=cli.integer(1), default=100, help="samples of the small report")
    parser.add_argument("--words", type=cli.integer(1), default=150, help="words per reply; a sample has 6 replies")
    parser.add_argument("--repeats", type=cli.integer(1), default=5)
    args = parser.parse_args(argv)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (args.baseline, args.samples):
            page, seconds = built(count, args.words, Path(folder) / str(count))
            size = sum(path.stat().st_size for path in page.parent.rglob("*") if path.is_file())
            print(f"{count} samples: built in {seconds:.1f} s, {size / 1e6:.0f} MB")
            figures.append(measure(page, args.repeats))
    few, many = figures
    lines = {name: many[key] for name, key in SHOWN.items()}
    lines |= {f"search {query!r}": values for query, values in many["search_ms"].items()}
    for name, values in lines.items():
        print(f"{name:24} {median(values):7.0f} ms  ({min(values):.0f} to {max(values):.0f}, n = {len(values)})")
    runs = {name: list(zip(many[key], few[key], strict=True)) for name, key in SHOWN.items()}
    runs["slowest search"] = [tuple(max(map(median, times["search_ms"].values())) for times in (many, few))]
    what = f"{args.samples} samples over {args.baseline}"
    rows = [report.measured(f"report, {name}: {what}", pairs, "ms") for name, pairs in runs.items()]
    print(report.table(rows))
    report.save(rows, args.json)
    return 0


if __name__ == "__main__":
    cli.entry(main)
