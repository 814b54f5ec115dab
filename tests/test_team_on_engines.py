"""A team of two models and two adapters on the real engines."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from lora_cases import adapted
from vllm_server import vllm_server

from agentark import embedded
from agentark.records import read_records

ROOT = Path(__file__).parents[1]


@pytest.fixture
def command(tmp_path: Path, small_model: Path) -> Callable[..., list[str]]:
    """inference.py with a team of two small models, two adapters on the first."""
    second = embedded.small_random_model(tmp_path / "second")
    for name in ("x", "y"):
        adapted(small_model, tmp_path / name)
    team = [
        *(f"agent_1=@{tmp_path / 'x'}", f"agent_2=@{tmp_path / 'y'}", f"agent_3={second}"),
        "aggregator=" + str(small_model),
    ]

    def made(*more: str) -> list[str]:
        flags = ["--method_name", "llm_debate", "--test_dataset_name", "GSMSymbolic", "--model_name", str(small_model)]
        sizes = ["--max_samples", "4", "--model_max_tokens", "64", "--output_path", str(tmp_path / "out.jsonl")]
        return [sys.executable, "inference.py", *flags, *sizes, "--team", *team, *more]

    return made


def check(output: Path) -> None:
    records = list(read_records(output))
    assert len(records) == 4
    for record in records:
        assert record.error is None
        who = {turn.agent: turn.completion.model for turn in record.trajectory}
        expected = {"agent_1": "small-llama@x", "agent_2": "small-llama@y", "agent_3": "second"}
        assert who == {**expected, "aggregator": "small-llama"}
        assert {model: stats.num_llm_calls for model, stats in record.token_stats.items()} == {
            "small-llama@x": 2, "small-llama@y": 2, "second": 2, "small-llama": 1,
        }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_continued_on_vllm(command: Callable[..., list[str]], tmp_path: Path) -> None:
    """The lock file names both engines, and the next start ends both."""
    journal = tmp_path / "out.jsonl.journal.jsonl"
    process = subprocess.Popen(command("--use_vllm"), cwd=ROOT)
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 4):
        time.sleep(0.02)
    named = {entry["pid"] for entry in json.loads((tmp_path / "out.jsonl.lock").read_bytes())["engine"]}
    children = psutil.Process(process.pid).children(recursive=True)
    engines = [child for child in children if "EngineCore" in " ".join(child.cmdline())]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(engines) == 2
    assert {engine.pid for engine in engines} <= named
    done = subprocess.run(command("--use_vllm"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [engine for engine in engines if engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE]
    check(tmp_path / "out.jsonl")
    assert "small-llama@x: 8 calls" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_transformers(command: Callable[..., list[str]], tmp_path: Path) -> None:
    done = subprocess.run(command(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "out.jsonl")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_and_continued_on_two_servers(tmp_path: Path, small_model: Path) -> None:
    output, endpoints = tmp_path / "results" / "out_infer.jsonl", tmp_path / "endpoints.yaml"
    journal = output.with_name(f"{output.name}.journal.jsonl")
    second = embedded.small_random_model(tmp_path / "second")
    with vllm_server(small_model, tmp_path / "1.log") as one, vllm_server(second, tmp_path / "2.log") as two:
        endpoints.write_text("".join(
            f"{name}: {{model_name: small, model_url: '{server.url}', max_workers: 2}}\n"
            for name, server in (("one", one), ("two", two))
        ))  # fmt: skip
        command = [
            *(sys.executable, "inference.py", "--method_name", "llm_debate", "--test_dataset_name", "GSMSymbolic"),
            *("--model_name", "one", "--team", "agent_2=two", "--model_api_config", str(endpoints)),
            *("--max_samples", "8", "--model_max_tokens", "64", "--output_path", str(output)),
        ]
        process = subprocess.Popen(command, cwd=ROOT)
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 8):
            time.sleep(0.02)
        process.kill()
        assert process.wait() != 0
        subprocess.run(command, cwd=ROOT, check=True)
    records = list(read_records(output))
    assert [record.error for record in records] == [None] * 8
    who = {(turn.agent, turn.completion.model) for record in records for turn in record.trajectory}
    assert who == {("agent_1", "one"), ("agent_2", "two"), ("agent_3", "one"), ("aggregator", "one")}
    made = ["eval.report", "--results", str(output.parent), "--output", str(tmp_path / "report")]
    subprocess.run([sys.executable, "-m", *made], cwd=ROOT, check=True)
    assert '"model":"two"' in (tmp_path / "report" / "samples" / "chunk-0.js").read_text("utf-8")
