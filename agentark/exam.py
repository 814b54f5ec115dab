"""The score of a model in training, measured like any other: the task's prompt, greedy replies, agentark.evaluation."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from agentark import answers, chat_template, config, evaluation
from agentark.evaluation import Attempt, TextScores
from agentark.figures import summarise
from agentark.students import StudentFlags
from agentark.tasks import Task, get_task
from agentark.types import Sample, UserError


class Exam(Struct, frozen=True):
    """Questions that a model is asked at regular steps of its training."""

    task: Task
    samples: list[Sample]
    max_new_tokens: int
    batch_size: int

    @classmethod
    def of(cls, ours: StudentFlags, name: str, batch_size: int) -> "Exam":
        """The evaluation that the flags ask for, on the dataset of this name.

        Raises:
            UserError: the dataset is unknown or has no data, or its replies cannot be graded here.
        """
        task = get_task(name)
        if not task.graded:
            raise UserError(f"--eval_task {name}: its replies cannot be graded during training ({task.metric})")
        options = config.build(task.options, config.parse_overrides(ours.eval_config, "--eval_config"), "--eval_config")
        folder = Path(ours.eval_data_dir) if ours.eval_data_dir else None
        loaded = task.load(ours.eval_split, folder, options, limit=ours.eval_samples)
        return cls(task, list(loaded.samples), ours.eval_max_tokens, batch_size)

    def __call__(self, trainer: Any) -> dict[str, float]:
        """Ask the trainer's model; every process answers its share. Blocks.

        Returns:
            eval_score (the task's metric), its standard error, and shares of unanswered and truncated replies.
        """
        from accelerate.utils import gather_object
        from trl.models.utils import unwrap_model_for_generation

        started = time.perf_counter()
        state = trainer.accelerator
        mine = range(state.process_index, len(self.samples), state.num_processes)
        with unwrap_model_for_generation(trainer.model_wrapped, state) as model:
            model.eval()
            replies = greedy(
                model,
                trainer.processing_class,
                [[{"role": "user", "content": self.samples[index].prompt}] for index in mine],
                self.max_new_tokens,
                self.batch_size,
            )
        pairs = sorted(gather_object(list(zip(mine, replies, strict=True))))
        attempts = [Attempt(self.samples[index], 0, text, cut) for index, (text, cut) in pairs]
        task = self.task
        try:
            if task.metric == "accuracy":
                graded = list(evaluation.grade_accuracy(task, attempts))
            else:
                graded = list(evaluation.grade_text(task, attempts, TextScores())[0])
        finally:
            answers.close_pool()
        summary = summarise(graded)
        figure, n = summary["figures"][task.metric], len(attempts)
        return {
            "eval_score": figure["value"],
            "eval_score_se": figure["se"] or 0.0,
            "eval_unanswered": summary["counts"]["unanswered"] / n,
            "eval_truncated": summary["truncated"] / n,
            "eval_n": n,
            "eval_seconds": round(time.perf_counter() - started, 1),
        }


def greedy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    max_new_tokens: int,
    batch_size: int,
    begun: Sequence[str] | None = None,
) -> list[tuple[str, bool]]:
    """(reply, whether it was cut at its token limit) for each chat prompt; prompts of similar length share a batch.

    Args:
        begun: how each reply begins; what is returned comes after it.
    """
    import torch

    encoded = [chat_template.ids(tokenizer, prompt) for prompt in prompts]
    if begun is not None:
        starts = [tokenizer.encode(text, add_special_tokens=False) for text in begun]
        encoded = [[*ids, *start] for ids, start in zip(encoded, starts, strict=True)]
    ends = model.generation_config.eos_token_id
    stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    replies: list[tuple[str, bool]] = [("", True)] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(encoded[index]) for index in batch)
        rows = [[pad] * (width - len(encoded[index])) + encoded[index] for index in batch]  # (B, T), padded left
        mask = [[0] * (width - len(encoded[index])) + [1] * len(encoded[index]) for index in batch]
        with torch.no_grad():
            out = model.generate(
                input_ids=torch.tensor(rows, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                do_sample=False,
                temperature=None,
                top_p=None,
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                use_cache=True,
            )
        for index, row in zip(batch, out[:, width:].tolist(), strict=True):
            length = next((at for at, token in enumerate(row) if token in stops), len(row))
            replies[index] = tokenizer.decode(row[:length], skip_special_tokens=True), length == len(row)
    return replies
