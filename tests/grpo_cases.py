"""What the GRPO tests share: a tiny set of questions, settings that fit it, reward models that need no training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agentark.types import Sample
from distill.grpo.config import GRPOConfig
from distill.grpo.questions import render
from distill.grpo.reward import StepScores, distinct
from distill.grpo.run import Inputs
from prm.steps import load_tokenizer, response_steps


def sums(count: int) -> list[Sample]:
    """One-digit sums."""
    return [
        Sample(id=f"sum/{n}", source="sums", query=f"{n % 7 + 1}+{n % 5 + 2}=", gt=str(n % 7 + 1 + n % 5 + 2),
               answer_type="number")
        for n in range(count)
    ]  # fmt: skip


def sums_file(path: Path, count: int) -> Path:
    """The same, as a file that --prompt_data reads."""
    rows = [{"id": s.id, "query": s.query, "gt": s.gt, "answer_type": "number"} for s in sums(count)]
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


def settings(model: Path, folder: Path, **changes: Any) -> GRPOConfig:
    """Two rollouts of 4 prompts x 4 samples, small enough for seconds."""
    values: dict[str, Any] = {
        "pretrain": str(model), "save_path": str(folder), "reward_pretrain": "unused", "n_samples_per_prompt": 4,
        "rollout_batch_size": 4, "micro_rollout_batch_size": 2, "train_batch_size": 8, "micro_train_batch_size": 4,
        "generate_max_len": 8, "prompt_max_len": 64, "actor_learning_rate": 1e-3, "lr_scheduler": "constant",
        "generation": "hf", "zero_stage": 0, "stops": {"kl": None, "length_drop": None},
    }  # fmt: skip
    return GRPOConfig(**values | changes)


def made_inputs(config: GRPOConfig, model: Path, count: int = 8) -> Inputs:
    """Inputs as `prepare` makes them, without a reward model's folder."""
    tokenizer = load_tokenizer(str(model), "--pretrain")
    prompts = render(sums(count), tokenizer, None, config.prompt_max_len)
    return Inputs(str(model), "small", tokenizer, None, prompts, [], config.prompt_max_len, frozenset({2}))


class Scorer:
    """A reward model as a function of the step's text and place.

    Args:
        score: (question, step, number of the step) -> p(right).
    """

    def __init__(self, tokenizer: Any, score: Callable[[str, str, int], float]) -> None:
        self.tokenizer = tokenizer
        self.score = score
        self.calls = 0
        self.sizes: list[int] = []

    def __call__(self, questions: Sequence[str], responses: Sequence[Sequence[int]]) -> list[StepScores]:
        self.calls += 1
        self.sizes.append(len(responses))
        found = []
        for question, ids in zip(questions, responses, strict=True):
            one = response_steps(self.tokenizer, ids)
            scores = [self.score(question, step, number) for number, step in enumerate(one.steps)]
            found.append(distinct(StepScores(one.steps, one.ends, scores)))
        return found
