"""Manifests and other small files that are empty, cut short or of wrong types: one line, or a problem in the report."""

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import report_cases

from agentark import answers, summary
from agentark.types import UserError
from distill.select import __main__ as select
from eval import compare, math_eval
from eval.report import __main__ as report

CONTENTS = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b'"text"',
    b"7",
    b'{"a"',
    b"\xff\xfe",
    b"[" * 200_000,
    b'{"a": 1' + b"0" * 9999 + b"}",
]
WRONG: list[Any] = [None, [], {}, "text", -1, True, [None], {"a": None}, [[]], 1.5]


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield report_cases.make(tmp_path_factory.mktemp("broken"), 4)
    answers.close_pool()


def mutations(value: Any) -> Iterator[Any]:
    """The object with one value, at any depth, of another type or missing."""

    def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if path:
            yield path
        inside = (
            value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
        )
        for key, inner in inside:
            yield from paths(inner, (*path, key))

    for path in paths(value):
        for wrong in (*WRONG, ...):
            changed = copy.deepcopy(value)
            at = changed
            for key in path[:-1]:
                at = at[key]
            if wrong is ...:
                del at[path[-1]]
            else:
                at[path[-1]] = wrong
            yield changed


def small_files(study: Path) -> list[Path]:
    """All manifests, evaluations and cards of the study."""
    found = [path for path in study.rglob("*.json") if path.name != "config.json"]
    assert len(found) >= 10
    return sorted(found)


def readers(study: Path, out: Path) -> list[Callable[[], int]]:
    debates = next(study.rglob("llm_debate_infer.jsonl"))
    labels = debates.with_name("llm_debate_infer_labeled_by_rules.jsonl")
    grades = sorted(debates.parent.glob("*.metrics.json"))
    return [
        lambda: report.main(["--results", str(study), "--output", str(out / "report")]),
        lambda: print(summary.table([debates])) or 0,
        lambda: math_eval.main(["--input_file", str(debates), "--dataset_name", "GSM8K"]),
        lambda: select.main(
            ["--input", str(labels), "--output", str(out / "a.jsonl"), "--strategy", "rsft", "--overwrite"]
        ),
        lambda: compare.main(["--a", str(grades[0]), "--b", str(grades[1])]),
    ]


@contextmanager
def written(path: Path, content: bytes) -> Iterator[None]:
    """The file has another content for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def attempt(run: Callable[[], int]) -> None:
    """Run a reader: it succeeds, or refuses in one line."""
    try:
        assert run() in (0, 1)
    except UserError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
    assert len(said) < 2000


@pytest.mark.parametrize("content", CONTENTS, ids=[repr(content[:12]) for content in CONTENTS])
def test_whole_files(study: Path, tmp_path: Path, content: bytes) -> None:
    for path in small_files(study):
        with written(path, content):
            for run in readers(study, tmp_path):
                attempt(run)


@pytest.mark.parametrize("offset", [0, 1])
def test_values_of_other_types(study: Path, tmp_path: Path, offset: int) -> None:
    """A sample of all mutations; each takes a run of every reader."""
    for path in small_files(study):
        mutated = list(mutations(json.loads(path.read_bytes())))
        for value in mutated[offset :: max(1, len(mutated) // 3)]:
            with written(path, json.dumps(value).encode()):
                for run in readers(study, tmp_path):
                    attempt(run)


@pytest.mark.parametrize(
    ("key", "wrong", "said"),
    [
        (("figures", "accuracy", "value"), "high", "Expected `float | null`, got `str`"),
        (("figures", "accuracy", "ci95"), [0.5], "Expected `array` of length 2"),
        (("counts", "n"), None, "Expected `int`"),
        (("tokens",), {"org/base": {}}, "missing required field `num_llm_calls`"),
        (("input", "file"), "../a.jsonl", "matching regex"),
    ],
)
def test_an_evaluation_of_other_types_is_a_problem_of_the_report(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: tuple[str, ...], wrong: Any, said: str
) -> None:
    path = next(study.rglob("llm_debate_infer.math_eval.metrics.json"))
    value = json.loads(path.read_bytes())
    at = value
    for name in key[:-1]:
        at = at[name]
    at[key[-1]] = wrong
    with written(path, json.dumps(value).encode()):
        assert report.main(["--results", str(study), "--output", str(tmp_path / "site")]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1
    assert "is not an evaluation" in lines[0]
    assert said in lines[0]


def test_links_in_a_circle_are_walked_once(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    shutil.copytree(study, results)
    (results / "GSM8K" / "up").symlink_to(results)
    (results / "self").symlink_to("self")
    (results / "self.manifest.json").symlink_to("self.manifest.json")
    (results / "gone.jsonl").symlink_to("nowhere")
    (results / "one").symlink_to("two")
    (results / "two").symlink_to("one")
    (results / "other").symlink_to(results / "outputs")
    os.mkfifo(results / "pipe.jsonl")
    assert report.main(["--results", str(results), "--output", str(tmp_path / "site")]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("4 results, 2 debates"), "nothing counts twice"
    problems = [line.partition("results/")[2] for line in said.err.splitlines() if line.startswith("warning: ")]
    assert [line.partition(" ")[0] for line in problems] == ["gone.jsonl:", "self.manifest.json:"]
