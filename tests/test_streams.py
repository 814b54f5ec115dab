"""The data stages on made-up debates: the bytes they wrote when they held whole files, and memory that does not grow.

The digests were written by commit 9440167, which read every file into lists.
"""

import gc
import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

import label
from agentark import evaluation, summary, workers
from agentark.config import ROOT
from bench.parts import debates
from distill.select import __main__ as select
from eval import math_eval

COUNT = 60
WRITTEN = {
    "labels": "10b67a4644eb4a30",
    "labels of all rounds": "411bfdfc502dcd18",
    "grades": "bfe6587cacce25d4",
    "figures": "3b3ea7f050334700",
    "R-SFT": "ba2e5283f4a8d87d",
    "DA": "149a88860ef11dbf",
    "DA by n-grams": "3129b219c0bedc1a",
    "table": (
        '{"method": "llm_debate", "n": "60", "answered": "59", "errors": "1", "unparsed": "0", "metric": "accuracy", '
        '"score": "0.695 \\u00b1 0.060", "calls": "720", "prompt": "288000", "cached": "?", "completion": "108000", '
        '"seconds": "60.5", "tokens/s": "1785.1"}'
    ),
}
SESSION = ("written", "command", "grader")
"""Keys of metrics.json that say when, how and by which code it was made."""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debates, the second and the fifth twice: their last rows count."""
    folder = tmp_path_factory.mktemp("streams")
    debates.write(folder / "plain.jsonl", COUNT)
    rows = (folder / "plain.jsonl").read_bytes().splitlines(keepends=True)
    failed = json.loads(rows[7]) | {"error": "the prompt does not fit", "solutions": [], "trajectory": []}
    first = [rows[4].replace(b"dollars", b"euros"), rows[1].replace(b"dollars", b"euros"), b"\n"]
    (folder / "infer.jsonl").write_bytes(b"".join([*first, *rows[:7], json.dumps(failed).encode() + b"\n", *rows[8:]]))
    labelled(folder)
    return folder


def labelled(folder: Path, *flags: str, output: str = "labels.jsonl") -> Path:
    command = ["--input", str(folder / "infer.jsonl"), "--dataset_name", "GSM8K", "--rules_only"]
    assert label.main([*command, "--output", str(folder / output), *flags]) == 0
    return folder / output


def graded(folder: Path) -> Path:
    assert math_eval.main(["--input_file", str(folder / "infer.jsonl"), "--dataset_name", "GSM8K"]) == 0
    return folder / "infer.math_eval.per_sample.jsonl"


def chosen(folder: Path, *flags: str, labels: str = "labels.jsonl", output: str = "set.jsonl") -> Path:
    command = ["--input", str(folder / labels), "--output", str(folder / output), "--overwrite", *flags]
    assert select.main(command) == 0
    return folder / output


def figures(folder: Path) -> str:
    graded(folder)
    report = json.loads((folder / "infer.math_eval.metrics.json").read_bytes())
    kept = {key: report[key] for key in report if key not in SESSION}
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]


STAGES: dict[str, Callable[[Path], str]] = {
    "labels": lambda folder: digest(folder / "labels.jsonl"),
    "labels of all rounds": lambda folder: digest(labelled(folder, "--rounds", "all", output="all.jsonl")),
    "grades": lambda folder: digest(graded(folder)),
    "figures": figures,
    "R-SFT": lambda folder: digest(chosen(folder, "--strategy", "rsft", "--trace", "dialogue")),
    "DA": lambda folder: digest(chosen(folder, "--strategy", "da", "--k", "3")),
    "DA by n-grams": lambda folder: digest(chosen(folder, "--strategy", "da", "--diversity", "ngram", "--k", "2")),
    "table": lambda folder: json.dumps(summary.row(folder / "infer.jsonl")),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("chunk", [7, 1024])
def test_the_output_is_what_it_was(folder: Path, stage: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CHUNK", chunk)
    monkeypatch.setattr(summary, "CHUNK", chunk)
    monkeypatch.setattr(workers, "WORTH", 1 if chunk == 7 else 1000)
    assert STAGES[stage](folder) == WRITTEN[stage]


@pytest.mark.parametrize("stage", ["labels of all rounds", "grades", "DA", "table"])
def test_memory_does_not_grow_with_the_file(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CHUNK", 8)
    monkeypatch.setattr(summary, "CHUNK", 8)
    peaks = []
    for count in (30, 30, 150):  # the first for imports and caches
        folder = tmp_path / f"{len(peaks)}"
        debates.write(folder / "infer.jsonl", count)
        labelled(folder)
        gc.collect()
        tracemalloc.start()
        STAGES[stage](folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 120 * 2_000  # a debate has 15,000 bytes, 40,000 in memory


HASHED = """
import sys
from pathlib import Path
from agentark.records import read_records
from eval.report.samples import Writer
writer = Writer(Path(sys.argv[2]))
for record in read_records(Path(sys.argv[1])):
    writer.add(0, record, {}, "right", 0)
writer.finish([])
"""


def test_the_search_is_the_same_in_every_process(tmp_path: Path) -> None:
    debates.write(tmp_path / "infer.jsonl", 5)
    pieces = []
    for seed in ("1", "2"):
        (folder := tmp_path / seed).mkdir()
        command = [sys.executable, "-c", HASHED, str(tmp_path / "infer.jsonl"), str(folder)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
        pieces.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(pieces[0]) > 10
    assert pieces[0] == pieces[1]
