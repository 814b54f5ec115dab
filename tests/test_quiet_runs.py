"""Good runs on the small random model: nothing of a library stands between our own lines."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from grpo_cases import sums_file
from prm_cases import chains

ROOT = Path(__file__).parents[1]
OURS = re.compile(
    r"starting (vLLM|transformers): importing \.\.\. loading \.\.\. ready in [\d:]+( s)?"
    r"|\d+/\d+ (samples|solutions)( \||$).*"
    r"| *\d+%\|.*\| \d+/\d+ \[.*\]"  # the bar of a training
    r"|\s*"
)
"""A line of stderr."""
LOUD = re.compile(
    r"[Ww]arning|\b(WARN|INFO|ERROR|DEBUG)\b|[Dd]eprecat|[Ee]xperimental|Loading|Writing model|it/s|examples/s"
)
"""In a line of stdout that is not ours."""


def run(script: str, *flags: object) -> str:
    """Its stdout; both streams hold only lines of ours."""
    words = ["-m", script] if "/" not in script and not script.endswith(".py") else [script]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("VLLM_", "HF_", "TRL_"))}
    done = subprocess.run(
        [sys.executable, *words, *map(str, flags)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in re.split(r"[\r\n]", done.stderr) if not OURS.fullmatch(line)] == []
    assert [line for line in re.split(r"[\r\n]", done.stdout) if LOUD.search(line)] == []
    return done.stdout


def inference(model: Path, output: Path, *flags: object) -> str:
    data = ["--method_name", "llm_debate", "--test_dataset_name", "GSMSymbolic", "--max_samples", 2]
    return run("inference.py", *data, "--model_name", model, "--model_max_tokens", 8, "--output_path", output, *flags)


def test_inference_label_evaluation_and_selection(small_model: Path, tmp_path: Path) -> None:
    results, labels = tmp_path / "debate_infer.jsonl", tmp_path / "labels.jsonl"
    inference(small_model, results)
    judged = ["--input", results, "--dataset_name", "GSMSymbolic", "--output", labels]
    run("label.py", *judged, "--model", small_model, "--no_use_vllm")
    run("eval.math_eval", "--input_file", results, "--dataset_name", "GSMSymbolic")
    run("agentark.summary", results)


@pytest.mark.slow
def test_vllm(small_model: Path, tmp_path: Path) -> None:
    inference(small_model, tmp_path / "debate_infer.jsonl", "--use_vllm")


@pytest.mark.slow
def test_fine_tuning(small_model: Path, tmp_path: Path) -> None:
    rows = [
        {
            "id": f"T/{k}",
            "prompt": [{"role": "user", "content": f"{k} + 1?"}],
            "completion": [{"role": "assistant", "content": str(k + 1)}],
        }
        for k in range(4)
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--model_name_or_path", small_model, "--train_data_path", data, "--output_dir", tmp_path / "student"]
    run("distill.sft", *flags, "--max_steps", 2, "--per_device_train_batch_size", 2)


@pytest.mark.slow
def test_reward_model_and_reinforcement(small_model: Path, tmp_path: Path) -> None:
    labels, prm = chains(tmp_path / "labels.jsonl", 16), tmp_path / "prm"
    train = ["--model_name_or_path", small_model, "--train_data_path", labels, "--output_dir", prm]
    stages = ["--stage", "both", *("--stage_1", "num_train_epochs=1"), *("--stage_2", "num_train_epochs=1")]
    run("prm/finetune2.py", *train, *stages)
    assert (prm / "projector.safetensors").is_file()
    scores = []
    for engine in ("transformers", "vllm"):
        scored = tmp_path / f"{engine}.jsonl"
        run("prm.score", "--prm", prm, "--input", labels, "--output", scored, "--engine", engine)
        scores.append(re.findall(r"\d\.\d+", scored.read_text()))
    ours, theirs = ([float(number) for number in numbers] for numbers in scores)
    assert ours == pytest.approx(theirs, abs=1e-4)
    flags = ["--pretrain", small_model, "--reward_pretrain", prm, "--save_path", tmp_path / "policy"]
    sizes = ["--n_samples_per_prompt", 4, "--rollout_batch_size", 4, "--train_batch_size", 8, "--max_steps", 1]
    few = ["--prompt_data", sums_file(tmp_path / "sums.jsonl", 8), "--generate_max_len", 8, "--prompt_max_len", 64]
    run("openrlhf.cli.train_grpo", *flags, *sizes, *few, "--backend", "trl", "--generation", "hf", "--zero_stage", 0)
