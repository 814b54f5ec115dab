"""The three teams of docs/bring_your_own_team.md: through the gateway on vLLM, and on to one step of training."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gateway_cases import free_port

from agentark.records import expand, read_records

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "bring_your_own_team.md").read_text("utf-8")
TEAMS = dict(re.findall(r"<!-- team: (\w+) -->\n```python\n(.*?)```", PAGE, re.S))
NEEDS = {"openai": "openai", "langgraph": "langchain_openai", "smolagents": "smolagents"}
ROUNDS = {
    "openai": {"solver_1": 1, "solver_2": 1, "judge": 2},
    "langgraph": {"solver": 1, "critic": 2, "editor": 3},
    "smolagents": {"solver": 1, "checker": 2},
}
MODEL = "smollm2-135m-instruct"


def test_each_team_is_short() -> None:
    assert TEAMS.keys() == ROUNDS.keys()
    for name, code in TEAMS.items():
        assert len(code.strip().splitlines()) <= 40, name


def command(*words: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    (folder / "log").open("a").write(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}\n")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUNDS)
def test_a_team_becomes_a_student(name: str, tmp_path: Path, embedded_model: Path) -> None:
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}")
    assert embedded_model
    results = tmp_path / "results" / "ChainSum" / MODEL / "my_team_infer.jsonl"
    port, key = free_port(), "of-the-test"
    environment = {**os.environ, "AGENTARK_GATEWAY_KEY": key, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    flags = ["--output", str(results), "--dataset_name", "ChainSum", "--split", "train", "--model_name", MODEL]
    log = (tmp_path / "gateway").open("w")
    gateway = subprocess.Popen(
        [sys.executable, "-m", "agentark.gateway", *flags, "--use_vllm", "--replay", "--port", str(port)],
        cwd=ROOT, env=environment, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        while "recording" not in (tmp_path / "gateway").read_text():
            assert gateway.poll() is None, (tmp_path / "gateway").read_text()
            time.sleep(0.2)
        script = tmp_path / "team.py"  # a file: smolagents reads the source of a tool
        script.write_text(TEAMS[name].replace("127.0.0.1:8100", f"127.0.0.1:{port}"))
        team = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, cwd=ROOT)
        assert team.returncode == 0, team.stderr[-3000:]
    finally:
        gateway.terminate()
        assert gateway.wait(60) == 0, (tmp_path / "gateway").read_text()
    records = list(read_records(results))
    assert len(records) == (8 if name == "smolagents" else 16)
    for record in records:
        assert record.error is None
        said = [turn for turn in record.trajectory if turn.agent != "team"]
        assert {turn.agent: turn.round for turn in said} == ROUNDS[name]
        assert all(expand(record, turn) for turn in said)
        assert record.solutions[-1].agent == "team"
    labels, chosen = tmp_path / "labels.jsonl", tmp_path / "rsft.jsonl"
    command("label.py", "--input", str(results), "--dataset_name", "ChainSum", "--rules_only", "--rounds", "all",
            "--output", str(labels), folder=tmp_path)  # fmt: skip
    command("-m", "distill.select", "--strategy", "rsft", "--min_correct", "1", "--input", str(labels),
            "--trajectories", str(results), "--output", str(chosen), folder=tmp_path)  # fmt: skip
    assert {json.loads(line)["method"] for line in chosen.read_text().splitlines()} == {"gateway"}
    command("-m", "distill.sft", "--model_name_or_path", MODEL, "--train_data_path", str(chosen), "--max_steps", "1",
            "--output_dir", str(tmp_path / "student"), folder=tmp_path)  # fmt: skip
    assert list((tmp_path / "student").glob("*.safetensors"))
    command("-m", "eval.report", "--results", str(tmp_path / "results"), "--output", str(tmp_path / "report"),
            folder=tmp_path)  # fmt: skip
