"""Groups that straddle two processes get the credit they would get in one, and the run saves."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from distill.grpo import credit
from distill.grpo.guards import settings as credit_settings
from distill.grpo.reward import Scored, StepScores, guarded

ROOT = Path(__file__).parents[4]


def test_groups_over_two_processes(small_model: Path, tmp_path: Path) -> None:
    from grpo_cases import settings

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone",
         str(ROOT / "tests" / "grpo_two_processes.py"), str(small_model), str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1))
    assert first["scored"] == second["scored"]
    assert len(first["scored"]) == 12
    assert first["advantages"].size(0) == second["advantages"].size(0) == 6  # 1 1/2 groups of 4 each
    assert len({tuple(first["rows"][start : start + 4]) for start in (0, 4, 8)}) == 3
    assert first["rows"][4] == first["rows"][7]  # the middle group: its rows 4, 5 here, 6, 7 there
    config = settings(small_model, tmp_path, init_kl_coef=0.1)
    scored = [
        Scored(text="", length=length, steps=StepScores([""] * len(ends), ends, scores), solved=solved,
               truncated=truncated, hits=hits)
        for ends, scores, length, solved, truncated, hits in first["scored"]
    ]  # fmt: skip
    width = max(first["kl"].size(1), second["kl"].size(1))
    kl = torch.cat([torch.nn.functional.pad(one["kl"], (0, width - one["kl"].size(1))) for one in (first, second)])
    rollout = credit.pack(
        guarded(scored, 4), [one.steps.ends for one in scored], [one.length for one in scored],
        [one.solved for one in scored], [one.truncated for one in scored], kl,
    )  # fmt: skip
    wanted = credit.assign(rollout, 4, credit_settings(config)).advantages
    for rank, found in enumerate((first, second)):
        mine = wanted[6 * rank : 6 * rank + 6, : found["advantages"].size(1)]
        torch.testing.assert_close(found["advantages"], mine)
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "manifest.json").is_file()
