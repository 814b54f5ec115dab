"""The score of a model in training, measured as ever: the task's prompt, greedy replies, agentark.evaluation."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from agentark import answers, chat_template, config, contamination, evaluation
from agentark.evaluation import Attempt, TextScores
from agentark.tasks import get_task
from agentark.types import Sample, UserError


class Exam(Struct, frozen=True, kw_only=True):
    """Questions that a model is asked every so many steps."""

    task: str
    samples: list[Sample]
    max_new_tokens: int
    batch_size: int

    @classmethod
    def of(
        cls,
        task: str,
        *,
        split: str | None,
        data_dir: Path | None,
        options: Sequence[str],
        count: int,
        max_new_tokens: int,
        batch_size: int,
    ) -> "Exam":
        """The first `count` questions of a split.

        Raises:
            UserError: unknown dataset, no data, or a dataset whose replies cannot be graded here.
        """
        found = get_task(task)
        if not found.graded:
            raise UserError(f"--eval_task {task}: its replies cannot be graded during training ({found.metric})")
        settings = config.build(found.options, config.parse_overrides(options, "--eval_config"), "--eval_config")
        loaded = found.load(split, data_dir, settings, limit=count)
        return cls(
            task=task, samples=list(loaded.samples), max_new_tokens=max_new_tokens, batch_size=batch_size
        )  # fmt: skip

    def check(self, trained: Sequence[str], model: str, allow: bool) -> int:
        """How many of the questions are trained on; refuses any unless allowed."""
        return contamination.check((sample.id for sample in self.samples), trained, model, allow)

    def __call__(self, trainer: Any) -> dict[str, float]:
        """Ask the model of a trainer; every process answers its share. Blocks.

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
                [[{"role": "user", "content": self.samples[place].prompt}] for place in mine],
                self.max_new_tokens,
                self.batch_size,
            )
        pairs = sorted(gather_object(list(zip(mine, replies, strict=True))))
        attempts = [Attempt(self.samples[place], 0, text, cut) for place, (text, cut) in pairs]
        task = get_task(self.task)
        try:
            if task.metric == "accuracy":
                graded = evaluation.grade_accuracy(task, attempts)
            else:
                graded, _ = evaluation.grade_text(task, attempts, TextScores())
        finally:
            answers.close_pool()
        summary = evaluation.summarise(graded)
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
    model: Any, tokenizer: Any, prompts: Sequence[Any], max_new_tokens: int, batch_size: int
) -> list[tuple[str, bool]]:
    """(reply, whether it was cut at its token limit) of each chat prompt; prompts alike in length go together."""
    import torch

    encoded = [chat_template.ids(tokenizer, prompt) for prompt in prompts]
    ends = model.generation_config.eos_token_id
    stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    replies: list[tuple[str, bool]] = [("", True)] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(encoded[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        width = max(len(encoded[place]) for place in places)
        rows = [[pad] * (width - len(encoded[place])) + encoded[place] for place in places]  # (B, T), padded left
        ids = torch.tensor(rows, device=model.device)
        mask = torch.tensor(
            [[0] * (width - len(encoded[p])) + [1] * len(encoded[p]) for p in places], device=ids.device
        )
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                temperature=None,
                top_p=None,
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                use_cache=True,
            )
        for place, row in zip(places, out[:, width:].tolist(), strict=True):
            length = next((at for at, token in enumerate(row) if token in stops), len(row))
            replies[place] = tokenizer.decode(row[:length], skip_special_tokens=True), length == len(row)
    return replies
