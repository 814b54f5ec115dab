"""The text a student learns to write: a trajectory turned into one text, by fixed rules and without a model.

`single`: the agent's final solution. `dialogue`: the agent's own replies over the rounds as one monologue, the
corrected answer last. A peer's text is never part of a target.
"""

from typing import Literal

from pydantic import Field

from agentark import answers
from agentark.config import Config
from agentark.thinking import without_marks
from agentark.trajectories import Reply, Trajectory
from agentark.types import Sample, digest

Trace = Literal["single", "dialogue"]
Thinking = Literal["strip", "keep"]


class Joiners(Config):
    """Phrases between two replies of an agent in a monologue; each gap gets a phrase drawn from the fitting list."""

    correcting: list[str] = Field(min_length=1)
    """Phrases after a reply that is known to be wrong."""
    confirming: list[str] = Field(min_length=1)
    """Phrases after any other reply."""


class AnswerForms(Config):
    """The form of the answer appended to a target that does not end in the task's form; {answer} is the gold answer."""

    boxed: str
    """Numbers and mathematics."""
    line: str
    """For choices, and for short texts that the task wants on a separate line."""


def compose(
    sample: Sample, trajectory: Trajectory, trace: Trace, thinking: Thinking, joiners: Joiners, forms: AnswerForms
) -> str | None:
    """The target's text; None if the solution has no reply (its thinking never ends).

    Earlier replies of a monologue lose their box, so that only the last answer is boxed, and a reply that repeats the
    reply before it is left out.
    """
    *before, last = trajectory.replies
    end = _shown(last, thinking)
    if end is None:
        return None
    parts: list[tuple[str, bool | None, int]] = []
    for reply in before if trace == "dialogue" else ():
        text = _shown(reply, "strip")
        if text and text not in (end, parts[-1][0] if parts else None):
            parts.append((text, reply.verdict, reply.round))
    said = ""
    for text, verdict, round in parts:
        listed = joiners.correcting if verdict is False else joiners.confirming
        joiner = listed[int(digest((sample.id, trajectory.agent, round)), 16) % len(listed)]
        said += f"{unboxed(text)}\n\n{joiner}\n\n"
    return with_answer(sample, said + end, forms)


def _shown(reply: Reply, thinking: Thinking) -> str | None:
    """A reply with or without its thinking; None if it is only thinking."""
    visible = (answers.visible(reply.text) or "").strip()
    if not visible:
        return None
    if thinking == "strip":
        return visible
    return f"<think>\n{reply.reasoning.strip()}\n</think>\n\n{visible}" if reply.reasoning else reply.text.strip()


def unboxed(text: str) -> str:
    r"""The text with every `\boxed{...}` replaced by its content."""
    for content in answers.boxes(text):
        for command in (r"\boxed{", r"\fbox{"):
            text = text.replace(f"{command}{content}}}", content)
    return text


def with_answer(sample: Sample, text: str, forms: AnswerForms) -> str:
    """The text, with the gold answer appended in the task's form unless it already ends in that form."""
    if sample.answer_form is None or _in_form(sample, text):
        return text
    form = forms.boxed if sample.answer_form == "boxed" else forms.line
    return f"{text}\n\n{form.replace('{answer}', sample.gt)}"


def answer_only(sample: Sample) -> str:
    """Only the gold answer, in the task's form."""
    return {"boxed": f"\\boxed{{{sample.gt}}}", "line": f"Answer: {sample.gt}", None: sample.gt}[sample.answer_form]


def _in_form(sample: Sample, text: str) -> bool:
    if sample.answer_form == "boxed":
        answer = answers.extract(text, sample.answer_type, sample.choices)
        return answer is not None and answer.how == "boxed"
    return text.rpartition("\n")[2].startswith("Answer:")


def reasoning_words(sample: Sample, text: str) -> int:
    """Number of words before the answer, without boxes and thinking tags.

    Reasons given after the answer do not count: a student that learns to answer first has to guess.
    """
    visible = without_marks(text)
    if sample.answer_form is not None:
        visible = visible[: _answer_at(sample, visible)]
        for content in answers.boxes(visible):
            visible = visible.replace(f"\\boxed{{{content}}}", " ")
    return len(visible.split())


def _answer_at(sample: Sample, text: str) -> int:
    """Where a reply first gives the answer that it ends with."""
    kind = sample.answer_type
    given = answers.given_answers(text, kind, sample.choices)
    finals = {value for _, value in given[-1:]}
    if found := answers.extract(text, kind, sample.choices):
        finals.add(found.value)
    same = (at for at, value in given if any(value == end or answers.quick_same(value, end, kind) for end in finals))
    return next(same, len(text))
