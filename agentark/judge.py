"""Which solutions are right: rules where an answer can be checked, a judge model for what rules reject or cannot read.

Rules are nearly never wrong when they say "right" but miss answers in an unusual form, so only that verdict of theirs
is final. The judge sees document, question and reference first and the candidate last: all candidates of a question
share the prefix, which the engine computes once. It gives one token, `true` or `false`, and its probability is kept.

A verdict is None where nobody can decide: there is no reply, the question does not fit the judge's context, the judge
answers something else, or it finds both words so unlikely that it would rather say something else.
"""

import math
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from agentark import answers
from agentark.config import ROOT, Config, load
from agentark.episode import Episode, gather
from agentark.labels import RULE, Answered, Candidate, JudgedProbe, LabelledSolution, LabelRow, by_round
from agentark.steps import split_steps
from agentark.types import (
    Chat,
    EngineFault,
    Guarantee,
    Message,
    MethodInfo,
    Outcome,
    Part,
    Sample,
    SampleError,
    digest,
    message,
)

FOLDER = ROOT / "configs" / "judge"
CHOICES = ("true", "false")
NO_MISTAKE = "none"
STEP_TOKENS = 8
"""Room for the number of a step; guided choice ends earlier."""
MASS_FLOOR = 0.001
"""P(true) + P(false) below this gives no verdict: the judge would have said something else. Low, because a small model
that would begin with a capital letter leaves a hundredth for small ones; rows hold the mass for stricter readers.
"""
CHECKABLE = ("number", "math", "choice")
"""Answer types on which the rules can also say "wrong"."""


class JudgePrompts(Config):
    """Templates of the judge's prompt; see configs/judge/default.yaml."""

    intro: str
    """Explains the task; the same for every question."""
    document: str
    """Heading of the document, where there is one."""
    question: str
    """{text}: the question."""
    reference: str
    """{text}: the gold answer."""
    another_reference: str
    """{text}: a further acceptable answer."""
    candidate: str
    """{text}: the reply to be judged."""
    step: str
    """{number}, {text}: a step of the reply, where steps are asked about."""
    verdict: str
    """Asks for true or false."""
    steps: str
    """Asks for the number of the first wrong step."""


def load_prompts(path: Path = FOLDER / "default.yaml") -> JudgePrompts:
    return load(JudgePrompts, path, [], str(path))


class LabelConfig(Config):
    """Settings that decide a label."""

    judge: str | None
    """Name of the judge; None: rules alone."""
    rules: bool = True
    """Whether "right" by the rules is final."""
    steps: bool = False
    """Whether the judge names the first wrong step of every solution."""
    all_rounds: bool = False
    """Whether every agent's answer of every round gets a verdict."""
    drop_unverified: bool = False
    """Whether solutions without a verdict are left out."""
    calibrate: bool = False
    """Whether the judge also sees what rules have decided, and the probes."""


class Opinion(Struct, frozen=True):
    """The judge's opinion of one reply."""

    verdict: bool | None = None
    p_correct: float | None = None
    mass: float | None = None
    note: str | None = None


class Ruling(Opinion, frozen=True, kw_only=True):
    """The verdict on one reply and where it comes from; see LabelledSolution."""

    by: str | None = None
    rule: bool | None = None
    judge: bool | None = None


def probability(logprobs: dict[str, float] | None) -> tuple[float | None, float | None]:
    """(P(true) against P(false), their mass); P is None where the mass is below the floor, both without logprobs."""
    if logprobs is None:
        return None, None
    true, false = (math.exp(logprobs[choice]) for choice in CHOICES)
    mass = true + false
    return (true / mass if mass >= MASS_FLOOR else None), mass


async def by_rule(sample: Sample, text: str) -> bool | None:
    """The rules' verdict on a reply: right, wrong, or None (no answer in it, or none that rules can refuse)."""
    if sample.answer_type == "code":
        return None
    answer = answers.extract(text, sample.answer_type, sample.choices)
    if answer is None:
        return None
    same = [await answers.equivalent(gold, answer.value, sample.answer_type) for gold in sample.golds]
    return any(same) or (False if sample.answer_type in CHECKABLE else None)


class Judge:
    """A judge of the replies to one question."""

    def __init__(self, prompts: JudgePrompts, sample: Sample, chat: Chat) -> None:
        self.prompts = prompts
        self.chat = chat
        self._context = self._parts(sample)

    def _parts(self, sample: Sample) -> list[str | Part]:
        """The part of the prompt that all candidates share."""
        parts: list[str | Part] = [self.prompts.intro]
        if sample.document is not None:
            parts += [self.prompts.document, Part(sample.document, "middle", "document")]
        parts.append(self.prompts.question.format(text=sample.query))
        first, *others = sample.golds
        parts.append(self.prompts.reference.format(text=_spelled(first, sample)))
        parts += [self.prompts.another_reference.format(text=_spelled(one, sample)) for one in others]
        return parts

    def asking(self, candidate: str, request: str) -> list[Message]:
        return [message("user", *self._context, self.prompts.candidate.format(text=candidate), request)]

    async def opinion(self, text: str, agent: str, round: int, role: str = "judge") -> Opinion:
        """Whether a reply is right."""
        prompt = self.asking(text, self.prompts.verdict)
        try:
            turn = await self.chat(
                prompt, agent=agent, round=round, role=role, max_tokens=1, choices=CHOICES, choice_logprobs=True
            )
        except EngineFault:
            raise
        except SampleError as error:
            return Opinion(note=str(error))
        p_correct, mass = probability(turn.completion.choice_logprobs)
        if mass is not None and p_correct is None:
            return Opinion(None, None, mass, "the judge wants to say neither true nor false")
        return Opinion(turn.text == CHOICES[0], p_correct, mass)

    async def step_labels(self, text: str, agent: str) -> list[int] | None:
        """Per step 1 before the first wrong one, 0 from it on; None where the judge cannot say."""
        steps = split_steps(answers.visible(text) or "")
        if not steps:
            return None
        listing = "".join(self.prompts.step.format(number=k, text=step) for k, step in enumerate(steps, 1))
        numbers = tuple(str(number) for number in range(1, len(steps) + 1))
        try:
            turn = await self.chat(
                self.asking(listing.rstrip("\n"), self.prompts.steps),
                agent=agent,
                round=1,
                role="steps",
                max_tokens=STEP_TOKENS,
                choices=(*numbers, NO_MISTAKE),
            )
        except EngineFault:
            raise
        except SampleError:
            return None
        right = len(steps) if turn.text == NO_MISTAKE else int(turn.text) - 1
        return [1] * right + [0] * (len(steps) - right)


def _spelled(gold: str, sample: Sample) -> str:
    """A gold answer as the judge reads it: an option with its text."""
    place = ord(gold) - ord("A") if len(gold) == 1 else -1
    return f"{gold}. {sample.choices[place]}" if sample.choices and 0 <= place < len(sample.choices) else gold


class Labeller:
    """A method whose episode is the labelling of one question; see `agentark.types.Method`."""

    def __init__(self, config: LabelConfig, prompts: JudgePrompts) -> None:
        self.config = config
        self.prompts = prompts

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        """The outcome's `info` holds the fields of a LabelRow."""
        assert isinstance(sample, Answered)
        judge = Judge(self.prompts, sample, chat)
        places: dict[str, tuple[str, int]] = {}  # each text is judged once
        for one in sample.solutions:
            places.setdefault(one.text, (f"solution_{one.id}", 1))
        for one in sample.answers:
            places.setdefault(one.text, (one.agent, one.round))
        asked = [self._ruling(sample, judge, text, *place) for text, place in places.items()]
        found = await gather(*asked) if self.config.judge is not None else [await one for one in asked]
        rulings = dict(zip(places, found, strict=True))
        labelled = [_labelled(one, rulings[one.text]) for one in sample.solutions]
        if self.config.steps:
            steps = await gather(*(judge.step_labels(one.text, f"solution_{one.id}") for one in sample.solutions))
            labelled = [structs.replace(one, step_labels=of) for one, of in zip(labelled, steps, strict=True)]
        info: dict[str, Any] = {}
        if self.config.drop_unverified:
            info["dropped"] = [one.rule for one in labelled if one.verdict is None]
            labelled = [one for one in labelled if one.verdict is not None]
        info |= {"solutions": labelled, "labels": [one.verdict for one in labelled]}
        if self.config.all_rounds:
            info["round_labels"] = by_round(sample.answers, [rulings[one.text].verdict for one in sample.answers])
        if self.config.calibrate:
            info["probes"] = await self._probes(sample, judge)
        return Outcome(solutions=[], info=info)

    async def _ruling(self, sample: Sample, judge: Judge, text: str, agent: str, round: int) -> Ruling:
        shown = (answers.visible(text) or "").strip()
        if not shown:
            return Ruling(note="there is no reply to judge")
        config = self.config
        rule = await by_rule(sample, text) if config.rules or config.calibrate else None
        final = rule is True and config.rules
        opinion = Opinion()
        if config.judge is not None and (not final or config.calibrate):
            opinion = await judge.opinion(shown, agent, round)
        verdict, by = (opinion.verdict, config.judge) if config.judge is not None else (rule, RULE)
        if final:
            verdict, by = True, RULE
        note = opinion.note or ("rules cannot tell" if verdict is None else None)
        return Ruling(
            verdict,
            opinion.p_correct,
            opinion.mass,
            note,
            by=None if verdict is None else by,
            rule=rule,
            judge=opinion.verdict,
        )

    async def _probes(self, sample: Answered, judge: Judge) -> list[JudgedProbe]:
        probes = sample.probes
        calls = (judge.opinion(probe.text, f"probe_{k}", 1, "calibrate") for k, probe in enumerate(probes, 1))
        return [
            JudgedProbe(kind=probe.kind, text=probe.text, judge=opinion.verdict, p_correct=opinion.p_correct)
            for probe, opinion in zip(probes, await gather(*calls), strict=True)
        ]


def _labelled(candidate: Candidate, ruling: Ruling) -> LabelledSolution:
    fields = {name: getattr(candidate, name) for name in ("id", "text", "agent", "round", "answer")}
    return LabelledSolution(is_correct=ruling.verdict, **structs.asdict(ruling), **fields)


def label_row(
    episode: Episode,
    info: MethodInfo,
    model: str,
    guarantee: Guarantee,
    outcome: Outcome | None,
    error: str | None,
) -> LabelRow:
    """The row of an episode; see `agentark.runner.Row`."""
    labels = outcome.info if outcome is not None else {"solutions": [], "labels": []}
    return LabelRow(
        **episode.sample.fields(),
        judge=model,
        input=digest(episode.sample),
        token_stats=episode.token_stats(),
        error=error,
        **labels,
    )
