"""Two processes on the CPU, alone and with ZeRO-2 and ZeRO-3: really on, resumable, with one process's result.

Takes minutes; the first run takes longer, because DeepSpeed builds a small library.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from prm_cases import chains, words
from safetensors.torch import load_file

from agentark import jsonl

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(model: Path, data: Path, folder: Path, processes: int, **flags: Any) -> subprocess.CompletedProcess[str]:
    """The training command under torchrun."""
    given = {
        "model_name_or_path": model, "train_data_path": data, "output_dir": folder, "stage": 2, "step_label": "judge",
        "num_train_epochs": 2, "per_device_train_batch_size": 8 // processes, "learning_rate": 1e-3, "save_steps": 2,
        "logging_steps": 1, "eval_ratio": 0.25, "disable_tqdm": True, **flags,
    }  # fmt: skip
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("ACCELERATE_USE_CPU", None)
    return subprocess.run(
        [sys.executable, *launcher, "prm/finetune2.py", *words(given)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


def losses(folder: Path) -> list[float]:
    rows = (row for _, row in jsonl.objects(folder / "metrics.jsonl", "metrics"))
    return [row["loss"] for row in rows if "loss" in row]


def stage_2(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["metrics"]["stage_2"]
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chains(tmp_path_factory.mktemp("data") / "labeled.jsonl", 32)


@pytest.fixture(scope="module")
def single(small_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training in one process, without DeepSpeed: what two ranks do at once, one batch after the other."""
    folder = tmp_path_factory.mktemp("single") / "prm"
    done = run(small_model, data, folder, 1, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert stage_2(folder)["engine"] == "NO"
    return folder


def same(one: Path, other: Path, most: float) -> None:
    """Both folders hold the same weights, but for so much."""
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(value.dtype == torch.float32 for value in ours.values())
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < most


def test_two_processes(small_model: Path, data: Path, single: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prm"
    done = run(small_model, data, folder, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 processes (MULTI_CPU)" in done.stdout
    assert losses(folder) == pytest.approx(losses(single), rel=1e-4)
    same(folder, single, 1e-3)


@pytest.mark.parametrize("zero", [2, 3])
def test_zero_on_two_processes(small_model: Path, data: Path, single: Path, tmp_path: Path, zero: int) -> None:
    folder = tmp_path / "prm"
    flags = {"deepspeed": ROOT / "configs" / "deepspeed" / f"zero{zero}.json"}
    done = run(small_model, data, folder, 2, **flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 processes (DEEPSPEED)" in done.stdout
    assert done.stdout.count("separator '\\n' is token 198") == 1
    assert stage_2(folder)["engine"] == "DEEPSPEED"
    assert len(list((folder / "checkpoint-2").glob("global_step2/*optim_states.pt"))) == 2
    assert len(losses(folder)) == stage_2(folder)["optimizer_steps"]

    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    last = max(int(one.name.partition("-")[2]) for one in cut.glob("checkpoint-*"))
    shutil.rmtree(cut / f"checkpoint-{last}")
    manifest = json.loads((cut / "manifest.json").read_text())
    (cut / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    resumed = run(small_model, data, cut, 2, **flags)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "resuming from" in resumed.stdout
    assert losses(cut) == pytest.approx(losses(folder), rel=1e-4)

    assert losses(folder) == pytest.approx(losses(single), rel=1e-3)
    same(folder, single, 1e-3)
    same(cut, folder, 1e-4)
