"""Read the questions for reinforcement learning, render them for the policy, and fit them into its context.

A question is a Sample: one from a labelled file, a run or a task is asked in the same words as there.
agentark/rows.py reads files and hub sets of every kind. The gold answer stays in the row and never enters a prompt.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from agentark import contamination
from agentark.engines.prompt import Prompter
from agentark.files import json_of
from agentark.rows import samples
from agentark.tasks import TASKS, Task, get_task
from agentark.types import AnswerType, Sample, UserError, message

GRADED_LIKE: Mapping[AnswerType, str] = {"number": "GSM8K", "math": "MATH", "choice": "MMLU", "text": "HotpotQA"}
"""The task whose grader checks answers to questions that belong to no task."""


class Prompt(Struct, frozen=True):
    """A question, ready to be asked."""

    sample: Sample
    question: str
    """The user's message, as the reward model sees it."""
    text: str
    """The prompt rendered for the policy; tokenised as it is, without adding special tokens."""
    tokens: int


def grader_of(sample: Sample) -> Task | None:
    """The task whose metric checks a reply to this sample; None if no task can check it."""
    name = sample.source if sample.source in TASKS else GRADED_LIKE.get(sample.answer_type)
    task = get_task(name) if name else None
    return task if task is not None and task.graded else None


def has_gold(sample: Sample) -> bool:
    """Whether a reply can be verified."""
    return bool(sample.gt.strip() or sample.references) and grader_of(sample) is not None


def questions(
    names: Sequence[str], split: str | None, data_dir: str | None, flag: str, held_out: bool = False
) -> list[Sample]:
    """The questions of files, tasks and hub sets; each id appears once.

    Args:
        split: of tasks and hub sets; None: train (held out: the task's evaluation split).
        flag: the flag that names them.

    Raises:
        UserError: the name is no file, task or hub set, the split does not exist, or a row is not a question.
    """
    asked: dict[str, Sample] = {}
    for name in names:
        for sample in _of(name, split, data_dir, flag, held_out):
            asked.setdefault(sample.id, sample)
    return list(asked.values())


def _of(name: str, split: str | None, data_dir: str | None, flag: str, held_out: bool) -> Iterable[Sample]:
    if name in TASKS:
        task = get_task(name)
        wanted = split or (task.eval_split if held_out or "train" not in task.splits else "train")
        return task.load(wanted, Path(data_dir) if data_dir else None).samples
    if not Path(name).is_file() and "/" not in name:
        raise UserError(f"{flag} {name}: neither a file nor a task ({', '.join(TASKS)}) nor a hub set")
    return samples(name, flag, split or "train")


def questions_of_prm(folder: Path) -> list[Sample]:
    """The questions a reward model was trained on, from the file that its manifest names.

    Raises:
        UserError: the manifest is missing or names no training file, or that file is gone or lacks these questions.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(
            f"--reward_pretrain {folder}: has no manifest.json that names its questions; give --prompt_data"
        )
    manifest = json_of(path)
    data = manifest.get("train_data", manifest.get("data"))
    source = data.get("path") if isinstance(data, dict) else data
    if not isinstance(source, str):
        raise UserError(f"{path}: names no training file; give --prompt_data")
    if not Path(source).is_file() and source.count("/") != 1:
        raise UserError(f"{path}: its training file {source} is gone; give --prompt_data")
    ids = set(contamination.trained_on(folder))
    asked = questions([source], None, None, "--reward_pretrain")
    kept = [sample for sample in asked if not ids or sample.id in ids]
    if not kept:
        raise UserError(f"{path}: none of the {len(asked)} questions in {source} is one of its train_ids")
    return kept


def render(samples: Sequence[Sample], tokenizer: Any, enable_thinking: bool | None, limit: int) -> list[Prompt]:
    """The questions as the policy will see them; longer ones than `limit` tokens are dropped."""
    prompter = Prompter(tokenizer, 1 << 30, enable_thinking)
    try:
        kept = []
        for sample in samples:
            asked = message("user", *sample.parts())
            text = prompter._render([asked], enable_thinking)
            tokens = len(tokenizer.encode(text, add_special_tokens=False))
            if tokens <= limit:
                kept.append(Prompt(sample, asked.text, text, tokens))
        return kept
    finally:
        prompter.close()


def local_context(model: str) -> int | None:
    """Context length of a model that lies in a folder, from its config.json alone; None: unknown.

    Raises:
        UserError: it is no number of tokens.
    """
    path = Path(os.path.expanduser(model)) / "config.json"
    if not path.is_file():
        return None
    about = json_of(path)
    text = about.get("text_config")
    length = {**(text if isinstance(text, dict) else {}), **about}.get("max_position_embeddings")
    if length is not None and not isinstance(length, int):
        raise UserError(f"{path}: max_position_embeddings = {length!r:.60}: must be a number of tokens")
    return length


def fit(prompt_max_len: int, generate_max_len: int, context: int | None) -> tuple[int, str | None]:
    """(most tokens of a prompt, a line that says why this is less than the flag asked for).

    Args:
        context: of the policy, in tokens; None: unknown.

    Raises:
        UserError: the responses alone fill the context.
    """
    if context is None or prompt_max_len + generate_max_len <= context:
        return prompt_max_len, None
    left = context - generate_max_len
    if left < 1:
        raise UserError(
            f"--generate_max_len {generate_max_len}: leaves no room for a prompt in the context of {context}"
        )
    return left, (
        f"--prompt_max_len {prompt_max_len} + --generate_max_len {generate_max_len} is above the model's context of "
        f"{context} tokens: prompts may have {left}"
    )
