"""Accuracy on held-out questions during training: greedy replies, graded like the rollouts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import GenerationConfig, TrainerCallback
from trl.models import unwrap_model_for_generation

from agentark.files import append
from agentark.stats import mean_and_se
from distill.grpo.questions import Prompt
from distill.grpo.reward import grade
from distill.grpo.run import say


class HeldOut(TrainerCallback):  # type: ignore[misc]
    """Evaluates before training, every `eval_steps` steps, and after training; writes a line of dev.jsonl each time.

    Args:
        trainer: a StepGRPOTrainer.
        dev: path of dev.jsonl.
    """

    def __init__(self, trainer: Any, prompts: Sequence[Prompt], dev: Path) -> None:
        self.trainer = trainer
        self.prompts = prompts
        self.dev = dev
        self.every = trainer.config.eval_steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self.ask(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.every and state.global_step % self.every == 0:
            self.ask(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.every or state.global_step % self.every:
            self.ask(state)

    def ask(self, state: Any) -> None:
        texts = greedy(self.trainer, self.prompts)
        if not state.is_world_process_zero:
            return
        grades = grade([prompt.sample for prompt in self.prompts], texts)
        mean, error = mean_and_se([value or 0.0 for value in grades])
        n, unanswered = len(grades), grades.count(None)
        row = {"step": state.global_step, "accuracy": mean, "se": error, "n": n, "unanswered": unanswered}
        append(self.dev, json.dumps(row).encode() + b"\n")
        say(f"step {state.global_step}: held-out accuracy {mean:.3f} ± {error or 0:.3f} (n {n})")


def greedy(trainer: Any, prompts: Sequence[Prompt]) -> list[str]:
    """Greedy replies, in order; every process answers its share."""
    accelerator, tokenizer, config = trainer.accelerator, trainer.processing_class, trainer.config
    share = range(accelerator.process_index, len(prompts), accelerator.num_processes)
    order = sorted(share, key=lambda index: prompts[index].tokens)
    settings = GenerationConfig(
        max_new_tokens=config.generate_max_len, do_sample=False, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=trainer.eos_token_ids,
    )  # fmt: skip
    replies: list[tuple[int, str]] = []
    training = trainer.model.training
    with unwrap_model_for_generation(trainer.model_wrapped, accelerator) as model, torch.no_grad():
        model.eval()
        for start in range(0, len(order), config.samples_per_forward):
            chunk = order[start : start + config.samples_per_forward]
            batch = tokenizer(
                [prompts[index].text for index in chunk], add_special_tokens=False, return_tensors="pt",
                padding=True, padding_side="left",
            ).to(accelerator.device)  # fmt: skip
            made = model.generate(**batch, generation_config=settings)[:, batch["input_ids"].shape[1] :]
            replies += zip(chunk, tokenizer.batch_decode(made, skip_special_tokens=True), strict=True)
        model.train(training)
    return [text for _, text in sorted(gather_object(replies))]
