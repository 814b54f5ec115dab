"""Multi-agent debate with a moderator, MAD (Liang et al. 2023, arXiv 2305.19118).

Each round the affirmative side argues for its answer, the negative side argues against it, and the moderator says
whether that settles the question (the paper's adaptive break). When no round does, a judge who reads the whole debate
lists the candidate answers and chooses one.

Differs from the published code: replies are parsed as JSON and never evaluated as Python; the judge reads every round
(the published code shows it each side's first argument only); a reply of moderator or judge whose JSON cannot be
read counts as a parse failure and is not an empty answer.
"""

from typing import Any

from msgspec import Struct, structs
from pydantic import Field

from agentark import answers
from agentark.config import Config, Count
from agentark.team import Agents
from agentark.types import Chat, Message, Outcome, Part, Sample, Turn, message
from methods.common import REASONING, Configured, ask, object_schema, read_json, solution
from methods.mad import prompts

SIDES = ("affirmative", "negative")
TEXT = {"type": "string"}
SIDE = {"type": "string", "enum": [*SIDES, ""]}
RULING = object_schema(preference={"type": "boolean"}, side=SIDE, reason=TEXT, debate_answer=TEXT)
DECISION = object_schema(side=SIDE, reason=TEXT, debate_answer=TEXT)


class MADConfig(Config):
    max_round: Count = Field(3, ge=1)
    """R, rounds of affirmative, negative and moderator (published README: 3)."""
    debate_level: int = Field(2, ge=0, le=3)
    """How much the debaters are told to disagree: 0 must agree, 3 must disagree on everything (paper: 2)."""
    guided: bool = True
    """Decode the JSON of moderator and judge under its schema where the engine can; false: free text."""


class Reply(Struct, frozen=True):
    """The used part of a moderator's or judge's JSON."""

    debate_answer: str
    side: str = ""


class Ruling(Struct, frozen=True):
    """The decision of a moderator or judge."""

    answer: str | None
    """None: the debate goes on."""
    side: str


class MAD(Configured[MADConfig]):
    """calls: 3 per round, and 2 of the judge when no round settles it: 3 to 3R + 2; critical path: the same.

    A ruling that cannot be parsed costs one repair call. If that fails too, the moderator's leaves the question open,
    and the judge's stands as written: its answer is read like that of any reply. The solution is the last argument
    of a side that gave the decided answer (of the preferred side where answers are free text), else the ruling itself.
    """

    Config = MADConfig
    TASKS = REASONING

    def agents(self) -> Agents:
        debaters = dict.fromkeys(("affirmative", "negative"), ("debater",))
        return {**debaters, "moderator": ("moderator",), "judge": ("candidates", "decision")}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        rules = prompts.DEBATER.format(level=prompts.LEVELS[self.config.debate_level])
        task = sample.parts(with_document=False)
        affirming = [message("user", rules, *sample.parts(), prompts.AFFIRM)]
        negating: list[Message] = []
        moderating: list[Message] = []
        debate: list[tuple[Turn, Turn]] = []
        failures = 0
        for round in range(1, self.config.max_round + 1):
            if debate:
                affirming = [*affirming, message("assistant", debate[-1][0]), _reply(debate[-1][1])]
            affirmed = await chat(affirming, agent="affirmative", round=round, role="debater")
            if debate:
                negating = [*negating, message("assistant", debate[-1][1]), _reply(affirmed)]
            else:
                negating = [message("user", rules, *sample.parts(), prompts.NEGATE, affirmed, prompts.NEGATE_NOW)]
            negated = await chat(negating, agent="negative", round=round, role="debater")
            debate.append((affirmed, negated))
            opening: list[str | Part] = [] if moderating else [prompts.MODERATOR, *task, "\n\n"]
            moderating = [*moderating, message("user", *opening, *_shown(round, affirmed, negated), prompts.RULE)]
            ruling = await ask(
                chat,
                moderating,
                lambda text: parse_ruling(text, sample),
                form=prompts.RULE_FORM,
                guided=self.config.guided,
                schema=RULING,
                agent="moderator",
                round=round,
                role="moderator",
            )
            failures += ruling.failures
            if ruling.value is not None and ruling.value.answer is not None:
                return await self._outcome(sample, debate, ruling.turn, ruling.value, failures)
            moderating = [*moderating, message("assistant", ruling.turn)]
        history = [part for number, pair in enumerate(debate, 1) for part in _shown(number, *pair, gap="\n\n")]
        judging = [message("user", prompts.JUDGE, *task, *history, prompts.CANDIDATES)]
        candidates = await chat(judging, agent="judge", round=round + 1, role="candidates")
        decision = await ask(
            chat,
            [*judging, message("assistant", candidates), message("user", prompts.DECIDE)],
            lambda text: parse_decision(text, sample),
            form=prompts.DECIDE_FORM,
            guided=self.config.guided,
            schema=DECISION,
            agent="judge",
            round=round + 1,
            role="decision",
        )
        return await self._outcome(sample, debate, decision.turn, decision.value, failures + decision.failures)

    async def _outcome(
        self, sample: Sample, debate: list[tuple[Turn, Turn]], turn: Turn, ruling: Ruling | None, failures: int
    ) -> Outcome:
        """The last arguments of both sides, and the decision in the words of one of them, if it is theirs."""
        last = [solution(sample, argument, number) for number, argument in enumerate(debate[-1], 1)]
        settled = solution(sample, turn, 3)
        if ruling is not None:
            order = [1, 0] if ruling.side == "negative" else [0, 1]
            groups = await answers.group([last[0].answer, last[1].answer, ruling.answer], sample.answer_type)
            taken = [last[i].turn for i in order if groups[i] == groups[2]]
            if sample.answer_type == "text" and ruling.side:
                taken.append(last[order[0]].turn)
            settled = structs.replace(settled, turn=[*taken, turn.id][0], answer=ruling.answer)
        info: dict[str, Any] = {"rounds": len(debate), "decided_by": turn.agent, "side": ruling.side if ruling else ""}
        return Outcome(solutions=[*last, settled], parse_failures=failures, info=info)


def _reply(turn: Turn) -> Message:
    return message("user", prompts.REPLY, turn, prompts.REPLY_NOW)


def _shown(round: int, affirmed: Turn, negated: Turn, gap: str = "") -> list[str | Part | Turn]:
    return [gap + prompts.ROUND.format(round=round), affirmed, prompts.NEGATIVE_SIDE, negated]


def parse_ruling(text: str, sample: Sample) -> Ruling | None:
    """The moderator's JSON; None when it cannot be read, or its debate_answer does not fit the task."""
    reply = read_json(text, Reply)
    if reply is None:
        return None
    given = reply.debate_answer.replace("\b", "\\b").replace("\f", "\\f").strip()  # \boxed, \frac not escaped in JSON
    answer = _read(given, sample) if given else None
    return None if given and answer is None else Ruling(answer, reply.side if reply.side in SIDES else "")


def parse_decision(text: str, sample: Sample) -> Ruling | None:
    """The judge's JSON; it has to name an answer."""
    ruling = parse_ruling(text, sample)
    return None if ruling is None or ruling.answer is None else ruling


def _read(value: str, sample: Sample) -> str | None:
    """A bare answer, read as if it stood in a box. Words don't count as a number (small models copy the form's own)."""
    if sample.answer_type == "number" and not any(map(str.isdigit, value)):
        return None
    for text in (f"\\boxed{{{value}}}", value):
        if answer := answers.extract(text, sample.answer_type, sample.choices):
            return answer.value
    return None
