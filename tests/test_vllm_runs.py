"""inference.py on the real vLLM engine: killed, orphaned, continued."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from agentark.journal import JournalEntry
from agentark.records import expand, read_records

ROOT = Path(__file__).parents[1]


def inference(output: Path, *extra: str) -> list[str]:
    flags = [
        "--method_name",
        "llm_debate",
        "--test_dataset_name",
        "GSMSymbolic",
        "--model_name",
        "smollm2-135m-instruct",
    ]
    sizes = ["--use_vllm", "--max_samples", "6", "--model_max_tokens", "64", "--max_concurrency", "4"]
    return [sys.executable, "inference.py", *flags, *sizes, "--output_path", str(output), *extra]


def journalled(output: Path) -> dict[tuple[str, str], str]:
    path = output.with_name(output.name + ".journal.jsonl")
    entries = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            entry = msgspec.json.decode(line, type=JournalEntry)
        except msgspec.DecodeError:
            continue
        entries[entry.sample, entry.turn] = entry.completion.text
    return entries


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_twice_on_vllm(tmp_path: Path, embedded_model: Path) -> None:
    """kill -9 twice: the orphaned engine is ended by the next start, every finished call is kept as it was."""
    output = tmp_path / "debate.jsonl"
    paid: dict[tuple[str, str], str] = {}
    for finished_calls in (5, 15):
        process = subprocess.Popen(inference(output), cwd=ROOT)
        while process.poll() is None and len(journalled(output)) < finished_calls:
            time.sleep(0.05)
        engines = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        now = journalled(output)
        assert all(now[call] == text for call, text in paid.items()), "a finished call was paid twice"
        assert len(now) > len(paid)
        paid = now
        orphans = [engine for engine in engines if engine.is_running() and "EngineCore" in " ".join(engine.cmdline())]
        assert orphans, "vLLM ends its engine with its parent by itself: the reaper is no longer needed"
    done = subprocess.run(inference(output), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "left behind by the killed run" in done.stderr
    assert not [engine for engine in orphans if engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE]
    records = list(read_records(output))
    assert [record.id for record in records] == [f"GSMSymbolic/test/seed0-{k}" for k in range(6)]
    kept = {(record.id, turn.id): turn.text for record in records for turn in record.trajectory}
    assert len(kept) == 6 * 7
    assert all(kept[call] == text for call, text in paid.items())
    assert all(expand(record, turn) for record in records for turn in record.trajectory)
    assert sorted(os.listdir(tmp_path)) == ["debate.jsonl", "debate.jsonl.manifest.json"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("dataset", "method"),
    [
        ("QMSum", "llm_debate"),
        ("MATH-500", "self_consistency"),
        ("HotpotQA", "cot"),
        ("SVAMP", "vanilla"),
        ("MMLU", "llm_debate"),
    ],
)
def test_real_data_on_vllm(tmp_path: Path, data_dir: Path, embedded_model: Path, dataset: str, method: str) -> None:
    """Documents far longer than the context included."""
    output = tmp_path / "out.jsonl"
    flags = ["--method_name", method, "--test_dataset_name", dataset, "--data_dir", str(data_dir), "--max_samples", "2"]
    sizes = ["--model_max_tokens", "48", "--model_name", "smollm2-135m-instruct", "--use_vllm"]
    done = subprocess.run(
        [sys.executable, "inference.py", *flags, *sizes, "--output_path", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = list(read_records(output))
    assert len(records) == 2
    if dataset == "QMSum":
        assert all(turn.completion.truncation for record in records for turn in record.trajectory if turn.round < 3)
