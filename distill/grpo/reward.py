"""The reward of a response: a score per step, whether it solved its question, and the guards.

prm/steps.py, the splitter used to train the reward model, splits the policy's own token ids into steps; thinking text
belongs to no step (its tokens share the return of the text after them). The verifiable part is the metric of the
question's task, computed by its own grader. Guards name shapes of responses that over-optimised process rewards are
known to produce; such a response gets the worst process score of its group, whatever the reward model says.

Source: process reward and its collapse: PURE, arXiv 2504.15275, sections 3 and 5.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from msgspec import Struct

from agentark import answers
from agentark.types import Sample
from distill.grpo.config import GUARDS, GRPOConfig, Guard
from distill.grpo.questions import grader_of, has_gold
from prm.steps import response_steps

UNANSWERED: frozenset[Guard] = frozenset({"empty", "no_answer", "truncated"})
"""Guards whose hit also counts as unsolved."""


class StepScores(Struct, frozen=True):
    """The steps of a response and their scores from the reward model."""

    steps: list[str]
    """Their texts, (S,)."""
    ends: list[int]
    """Last token of each step in the policy's ids, (S,)."""
    scores: list[float]
    """p(right) of each step, in [0, 1], (S,)."""


def distinct(steps: StepScores) -> StepScores:
    """Merge steps that end in the same token; the merged step gets the lowest of their scores."""
    merged: list[tuple[str, int, float]] = []
    for text, end, score in zip(steps.steps, steps.ends, steps.scores, strict=True):
        if merged and end <= merged[-1][1]:
            before, last, lowest = merged.pop()
            text, end, score = f"{before}\n\n{text}", last, min(lowest, score)
        merged.append((text, end, score))
    return StepScores([part[0] for part in merged], [part[1] for part in merged], [part[2] for part in merged])


class StepScorer(Protocol):
    """Scores the steps of responses; the results are in the order of the arguments."""

    def __call__(self, questions: Sequence[str], responses: Sequence[Sequence[int]]) -> list[StepScores]: ...


class Scored(Struct, frozen=True, kw_only=True):
    """A response with everything that credit assignment needs."""

    text: str
    length: int
    """Number of tokens, including the end-of-sequence token."""
    steps: StepScores
    solved: float | None
    """The task's metric in [0, 1]; None without a gold answer."""
    hits: tuple[Guard, ...] = ()
    truncated: bool = False

    @property
    def rewards(self) -> list[float]:
        """r_k = p(right) - p(wrong), in [-1, 1], (S,)."""
        return [2 * score - 1 for score in self.steps.scores]


class Rewarder:
    """Turns responses into `Scored`, in two parts.

    Args:
        scorer: None if no process reward is used: steps then have the score 0.5, that is r = 0.
        tokenizer: of the policy.
        eos: ids that end a response.
    """

    def __init__(self, config: GRPOConfig, scorer: StepScorer | None, tokenizer: Any, eos: Collection[int]) -> None:
        self.config = config
        self.scorer = scorer
        self.tokenizer = tokenizer
        self.eos = frozenset(eos)

    def steps(self, questions: Sequence[str], responses: Sequence[Sequence[int]]) -> list[StepScores]:
        """The process part.

        Args:
            questions: the user's message of each response.
            responses: token ids, without the prompts.
        """
        if self.scorer is not None:
            return self.scorer(questions, responses)
        splits = [response_steps(self.tokenizer, ids) for ids in responses]
        return [distinct(StepScores(split.steps, split.ends, [0.5] * len(split.steps))) for split in splits]

    def finish(
        self, samples: Sequence[Sample], responses: Sequence[Sequence[int]], steps: Sequence[StepScores]
    ) -> list[Scored]:
        """The verifiable part and the guards. Blocks on the graders' worker processes."""
        texts = [self.tokenizer.decode(list(ids), skip_special_tokens=True) for ids in responses]
        grades = grade(samples, texts)
        return [
            self._scored(sample, text, ids, step_scores, grade)
            for sample, text, ids, step_scores, grade in zip(samples, texts, responses, steps, grades, strict=True)
        ]

    def _scored(self, sample: Sample, text: str, ids: Sequence[int], steps: StepScores, grade: float | None) -> Scored:
        truncated = not ids or ids[-1] not in self.eos
        if self.config.mode.whole_response:
            steps = StepScores(steps.steps, steps.ends[-1:], steps.scores[-1:])
        hits = tuple(guard for guard in GUARDS if guard in self._hits(sample, text, steps, grade, truncated))
        solved = None
        if has_gold(sample):
            solved = 0.0 if grade is None or UNANSWERED & set(hits) else grade
        return Scored(text=text, length=len(ids), steps=steps, solved=solved, hits=hits, truncated=truncated)

    def _hits(self, sample: Sample, text: str, steps: StepScores, grade: float | None, truncated: bool) -> set[Guard]:
        """The enabled guards that this response hits."""
        hits: set[Guard] = set()
        if not (answers.visible(text) or "").strip():
            hits.add("empty")
        if not self.config.mode.whole_response:
            if len(steps.ends) == 1:
                hits.add("one_step")
            sizes = (len(self.tokenizer.encode(step, add_special_tokens=False)) for step in steps.steps)
            if max(sizes) > self.config.max_step_tokens:  # the texts leave thinking out
                hits.add("long_step")
        if grade is None and grader_of(sample) is not None:
            hits.add("no_answer")
        if "unstated" in self.config.guards:
            answer = answers.extract(text, sample.answer_type, sample.choices)
            if answer is not None and answer.how == "last_number":
                hits.add("unstated")
        if truncated:
            hits.add("truncated")
        return hits & set(self.config.guards)


def grade(samples: Sequence[Sample], texts: Sequence[str]) -> list[float | None]:
    """The metric of each reply, by the grader of its task; None without an answer or without a grader."""
    grades: list[float | None] = [None] * len(samples)
    by_task: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        if (task := grader_of(sample)) is not None:
            by_task[task.name].append(index)
    for indices in by_task.values():
        task = grader_of(samples[indices[0]])
        assert task is not None
        replies = [(samples[index], texts[index]) for index in indices]
        for index, score in zip(indices, task.score_many(replies), strict=True):
            grades[index] = score
    return grades


def guarded(scored: Sequence[Scored], group: int) -> list[list[float]]:
    """Step rewards after the guards: every step of a response that hit a guard gets its group's lowest step reward.

    Args:
        scored: whole groups, one after the other; (B,).
        group: their size G.

    Returns:
        Rewards per step, (B, S).
    """
    rewards = [response.rewards for response in scored]
    for start in range(0, len(scored), group):
        worst = min(map(min, rewards[start : start + group]))
        for index in range(start, start + group):
            if scored[index].hits:
                rewards[index] = [worst] * len(rewards[index])
    return rewards


def counts(scored: Sequence[Scored]) -> dict[str, int]:
    """The number of responses that hit each guard."""
    hits = Counter(hit for response in scored for hit in response.hits)
    return {guard: hits[guard] for guard in GUARDS}
