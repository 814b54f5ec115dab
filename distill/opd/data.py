"""The questions of a training: read with their labelled trajectories, filtered as in selection, fitted to the model."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from agentark import answers
from agentark.contamination import EvaluationQuestions
from agentark.files import file_sha256
from agentark.labelled import Labelled, Question, merge, read_all
from agentark.types import UserError
from distill.opd.contexts import LEAST, Asked, ask, correct_paths
from distill.opd.flags import OPDFlags

FLAG = "--train_data_path"


class Data(Struct, frozen=True):
    """What a training learns from."""

    sources: list[Labelled]
    questions: list[Question]
    """Those with enough right agents, none of them an evaluation question."""
    counts: dict[str, int]
    """Questions that were left out, by the reason."""

    def identity(self, ours: OPDFlags) -> dict[str, Any]:
        """Digests of everything that was read."""
        return {
            "data_sha256": [[source.labels_sha256, source.trajectories_sha256] for source in self.sources],
            "contamination_sha256": [file_sha256(Path(name)) for name in ours.contamination],
        }


def read(ours: OPDFlags, seed: int) -> Data:
    """The questions that may be trained on.

    Raises:
        UserError: a file that is not labelled, or no question is left.
    """
    results = [Path(name) for name in ours.trajectories]
    sources = read_all([Path(name) for name in ours.train_data_path], results or None, FLAG)
    held_out = EvaluationQuestions([Path(name) for name in ours.contamination], ours.ngram)
    kept, counts = [], Counter[str]()
    for question in merge(sources, FLAG):
        if question.correct < ours.min_correct:
            counts["too few right agents"] += 1
        elif held_out.hit(question.sample.id, question.sample.query) is not None:
            counts["contaminated"] += 1
        elif not correct_paths(question, seed):
            counts["truncated"] += 1
        else:
            kept.append(question)
    if not kept:
        many = f" by {ours.min_correct} agents" if ours.min_correct > 1 else ""
        raise UserError(
            f"{FLAG} {ours.train_data_path[0]}: no question is left to train on that was solved right{many} "
            f"({', '.join(f'{count} {reason}' for reason, count in counts.items())})"
        )
    return Data(sources, kept, dict(counts))


def fit(
    ours: OPDFlags, data: Data, tokenizer: Any, context: int, reply: int, least: int, seed: int
) -> tuple[list[Asked], dict[str, int]]:
    """(the questions as student and teacher read them, how many were left out, by the reason).

    Args:
        context: of the model, in tokens.
        reply: the most tokens of a reply.
        least: questions of one rollout.

    Raises:
        UserError: contexts that the model cannot hold, or fewer questions than a rollout needs.
    """
    room = context - reply
    if room < LEAST:
        raise UserError(
            f"--max_completion_length {reply}: leaves no room for a prompt in the context of {context} tokens"
        )
    if ours.max_context_tokens is not None and ours.max_context_tokens >= room:
        raise UserError(
            f"--max_context_tokens {ours.max_context_tokens}: with --max_completion_length {reply} more than the "
            f"model's context of {context} tokens; at most {room - 1}"
        )
    if ours.shown == "shuffled" and len(data.questions) < 2:
        raise UserError(f"--context shuffled: needs at least 2 questions, {FLAG} has 1")
    try:
        asked, counts = ask(
            data.questions, ours.shown, tokenizer, room=room, most=ours.max_context_tokens, seed=seed,
            thinking=ours.enable_thinking,
        )  # fmt: skip
    finally:
        answers.close_pool()
    if len(asked) < least:
        left_out = _listed({**data.counts, **counts})
        raise UserError(
            f"{FLAG} {ours.train_data_path[0]}: {len(asked)} questions{left_out}, fewer than the {least} of one "
            "rollout; label more, or lower --per_device_train_batch_size or --gradient_accumulation_steps"
        )
    return asked, {**data.counts, **{reason: count for reason, count in counts.items() if count}}


def _listed(counts: dict[str, int]) -> str:
    told = [f"{count} {reason}" for reason, count in counts.items() if count]
    return f" ({', '.join(told)} left out)" if told else ""


def about(asked: Sequence[Asked]) -> dict[str, Any]:
    """The contexts in figures, for the manifest."""
    tokens = [one.context_tokens for one in asked]
    return {
        "tokens": sum(tokens),
        "mean_tokens": round(sum(tokens) / len(tokens), 1),
        "most_tokens": max(tokens),
        "cut": sum(one.cut for one in asked),
    }
