"""Rows made in worker processes: the same bytes as in one process, and no process that outlives its run."""

import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.context import SpawnProcess
from pathlib import Path

import psutil
import pytest

import label
from agentark import workers
from agentark.config import ROOT
from agentark.records import Store
from agentark.types import RunError, UserError
from bench.parts import debates

COUNT = 45


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("workers") / "llm_debate_infer.jsonl"
    debates.write(path, COUNT)
    return path


@pytest.fixture(autouse=True)
def worth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORTH", 1)


def labelled(results: Path, output: Path, *flags: str) -> bytes:
    command = ["--input", str(results), "--dataset_name", "GSM8K", "--rules_only", "--rounds", "all"]
    assert label.main([*command, "--output", str(output), *flags]) == 0
    return output.read_bytes()


def test_workers_write_what_one_process_writes(results: Path, tmp_path: Path) -> None:
    alone = labelled(results, tmp_path / "alone.jsonl", "--workers", "1")
    assert alone.count(b"\n") == COUNT
    assert labelled(results, tmp_path / "several.jsonl", "--workers", "3") == alone


def test_shards_merge_with_cat(results: Path, tmp_path: Path) -> None:
    ends = [0, 10, 11, COUNT]
    shards = [
        labelled(results, tmp_path / f"{start}.jsonl", "--start", str(start), "--end", str(end), "--workers", "2")
        for start, end in pairwise(ends)
    ]
    assert b"".join(shards) == labelled(results, tmp_path / "whole.jsonl")


def test_a_stopped_run_goes_on_in_workers(results: Path, tmp_path: Path) -> None:
    whole = labelled(results, tmp_path / "whole.jsonl")
    path = tmp_path / "again.jsonl"
    labelled(results, path)
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rows[7:20]) + rows[30][:100])
    assert labelled(results, path, "--workers", "2") == whole


@pytest.mark.parametrize("when", ["starting", "working"])
def test_a_worker_that_is_killed_stops_the_run(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    start, add = SpawnProcess.start, Store.add
    begun: list[SpawnProcess] = []

    def started(process: SpawnProcess) -> None:
        start(process)
        begun.append(process)
        if when == "starting":
            begun[0].kill()

    def added(store: Store, row: bytes) -> None:
        add(store, row)
        if when == "working":
            begun[0].kill()

    monkeypatch.setattr(SpawnProcess, "start", started)
    monkeypatch.setattr(Store, "add", added)
    monkeypatch.setattr(workers, "CHUNK", 1)
    with pytest.raises(RunError, match="a worker process was killed"):
        labelled(results, tmp_path / "a.jsonl", "--workers", "2")
    assert not any(process.is_alive() for process in begun)
    monkeypatch.undo()
    assert labelled(results, tmp_path / "a.jsonl") == labelled(results, tmp_path / "b.jsonl")


def test_what_a_worker_finds_wrong_is_one_line(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is changed between the first look at it and the worker's."""
    start = SpawnProcess.start

    def changed(process: SpawnProcess) -> None:
        results.write_bytes(results.read_bytes().replace(b"{", b"[", 1))
        start(process)

    content = results.read_bytes()
    monkeypatch.setattr(SpawnProcess, "start", changed)
    try:
        with pytest.raises(UserError, match=r"infer\.jsonl, row 1: not "):
            labelled(results, tmp_path / "a.jsonl", "--workers", "2")
    finally:
        results.write_bytes(content)


def test_a_worker_that_cannot_be_started_stops_the_run(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(process: SpawnProcess) -> None:
        raise OSError("no memory")

    monkeypatch.setattr(SpawnProcess, "start", refused)
    with pytest.raises(RunError, match="a worker process was killed or could not be started"):
        labelled(results, tmp_path / "a.jsonl", "--workers", "2")


def test_no_worker_outlives_a_killed_run(tmp_path: Path) -> None:
    results = tmp_path / "infer.jsonl"
    debates.write(results, 3000)
    flags = ["--input", str(results), "--dataset_name", "GSM8K", "--rules_only", "--rounds", "all", "--workers", "2"]
    run = subprocess.Popen([sys.executable, "label.py", *flags], cwd=ROOT, stderr=subprocess.DEVNULL)
    output = tmp_path / "infer_labeled_by_rules.jsonl"
    try:
        wait(lambda: output.exists() and output.stat().st_size > 0)
        children = psutil.Process(run.pid).children(recursive=True)
    finally:
        run.kill()
        run.wait()
    assert len(children) >= 2
    wait(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))


def wait(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)
