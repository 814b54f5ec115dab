"""One rollout of 3 prompts x 4 samples on 2 processes, so that a group straddles them; started by torchrun.

Each process writes its scores and its advantages to <folder>/rank<n>.pt.
"""

import os
import sys
from pathlib import Path

import torch
from grpo_cases import Scorer, made_inputs, settings

from distill.grpo.on_trl import run as grpo_trl
from distill.grpo.run import Run


def main(model: Path, folder: Path) -> None:
    config = settings(
        model, folder / "run", rollout_batch_size=3, micro_rollout_batch_size=3, train_batch_size=12,
        micro_train_batch_size=3, init_kl_coef=0.1, guards=[],
    )  # fmt: skip
    inputs = made_inputs(config, model, 6)
    run = Run(config)
    run.open(os.environ["RANK"] == "0")
    scorer = Scorer(inputs.tokenizer, lambda question, step, number: 0.9 if len(step) % 2 else 0.2)
    trainer = grpo_trl.build(config, inputs, run, scorer, world=2)
    trainer.model.train()
    kls = []
    kl = trainer._kl
    trainer._kl = lambda out: kls.append(torch.rand(out["completion_mask"].shape) * out["completion_mask"]) or kls[0]
    assert kl is not None
    out = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    found = {
        "advantages": out["advantages"],
        "mask": out["completion_mask"],
        "kl": kls[0],
        "rows": trainer._rows,
        "scored": [(one.steps.ends, one.steps.scores, one.length, one.solved, one.truncated, one.hits)
                   for one in trainer._everyone],
    }  # fmt: skip
    torch.save(found, folder / f"rank{os.environ['RANK']}.pt")
    assert grpo_trl.fit(config, inputs, run, trainer) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
