"""MapCoder (Islam et al. 2024, arXiv 2405.11403): recall, plan, code, debug.

A retrieval agent recalls k similar problems. For each of them a planning agent writes a plan for the problem and says
how sure it is of it. The surest plan is tried first: a coding agent implements the plan, the sample tests run in
the sandbox, and a debugging agent repairs the program up to t times. The first program that passes ends it; else the
program that passed most tests is returned, the earliest of equals.

Differs from the published code: the last repair is tested too, and the best program is returned instead of the last;
exemplars are JSON instead of XML; tests run in the sandbox only. Without a sandbox, or where the question shows no
test, nothing tells a right program from a wrong one: the program of the surest plan is returned, and `info` says why.
"""

from typing import Any

from msgspec import Struct
from pydantic import Field

from agentark.config import Config, Count
from agentark.episode import gather
from agentark.team import Agents
from agentark.types import SANDBOX, Chat, Outcome, Part, Sample, Turn, message
from methods.common import Asked, Configured, ask, ask_program, object_schema, read_json, run_tests, solution
from methods.executed import failures_of
from methods.mapcoder import prompts

TEXT: dict[str, Any] = {"type": "string"}
EXEMPLARS = {"type": "array", "items": object_schema(problem=TEXT, code=TEXT, plan=TEXT)}
RECALLED = object_schema(exemplars=EXEMPLARS, algorithm=TEXT)
RATED = object_schema(explanation=TEXT, confidence={"type": "integer", "minimum": 0, "maximum": 100})


class MapCoderConfig(Config):
    k: Count = Field(3, ge=1)
    """Recalled exemplars, each leading to one plan (published README: 3)."""
    t: Count = Field(5, ge=0)
    """Repairs of one plan's program, at most (published README: 5)."""
    guided: bool = True
    """Decode exemplars and confidence under their schema where the engine can; false: free text."""


class Exemplar(Struct, frozen=True):
    """A similar problem the model recalled, with the plan of its solution."""

    problem: str
    plan: str
    code: str = ""


class Recalled(Struct, frozen=True):
    """The exemplars that the retrieval agent recalled."""

    exemplars: list[Exemplar]
    algorithm: str = ""


class Rating(Struct, frozen=True):
    """How sure the planning agent is of a plan."""

    confidence: float


class MapCoder(Configured[MapCoderConfig]):
    """calls: 1 + 2k + 1 (the surest plan's program passes at once) to 1 + 2k + k(1 + t).
    critical path: 3 + the programs tried.

    Plans and confidences of the k exemplars are independent. A reply that cannot be read costs one repair call. If
    that fails too: without exemplars, one plan is made from the problem alone; a plan without confidence is tried
    after the others; a reply without program is the last choice.
    """

    Config = MapCoderConfig
    TASKS = frozenset({"code"})

    def without_sandbox(self, kinds: frozenset[str]) -> str | None:
        return "mapcoder runs no sample test; it implements the plan it is surest of, once"

    def agents(self) -> Agents:
        numbers = range(1, self.config.k + 1)
        planners = dict.fromkeys((f"planner_{number}" for number in numbers), ("plan", "confidence"))
        coders = dict.fromkeys((f"coder_{number}" for number in numbers), ("code", "debug"))
        return {"retrieval": ("recall",), **planners, **coders}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        off = None
        if SANDBOX not in chat.models:
            off = "debugging: code runs only with --allow_code_execution"
        elif not sample.visible_tests:
            off = "debugging: the question shows no test"
        recalled = await self._recall(sample, chat)
        count = 1 if recalled.value is None else min(self.config.k, len(recalled.value.exemplars))
        plans = await gather(*(self._plan(sample, chat, recalled.value, number) for number in range(count)))
        sure = [-1.0 if rating.value is None else rating.value.confidence for _, rating in plans]
        order = sorted(range(len(plans)), key=lambda number: -sure[number])
        failures = recalled.failures + sum(rating.failures for _, rating in plans)
        tried: list[tuple[int, Turn]] = []
        for number in order if off is None else order[:1]:
            programs, missed = await self._program(sample, chat, plans[number][0], number, repairs=off is None)
            tried += programs
            failures += missed
            if off is not None or tried[-1][0] == len(sample.visible_tests or ()):
                break
        passed = [count for count, _ in tried]
        best = tried[passed.index(max(passed))][1]
        solutions = [solution(sample, turn, at) for at, turn in enumerate([*(turn for _, turn in tried), best], 1)]
        info: dict[str, Any] = {"confidence": [None if confidence < 0 else confidence for confidence in sure]}
        if off:
            info["off"] = off
        else:
            info["passed"] = [None if count < 0 else count for count in passed]
            info["tests"] = len(sample.visible_tests or ())
        return Outcome(solutions=solutions, parse_failures=failures, info=info)

    async def _recall(self, sample: Sample, chat: Chat) -> Asked[Recalled]:
        k = self.config.k
        asked = message("user", prompts.RECALL, *sample.parts(), prompts.RECALL_NOW.format(k=k))
        return await ask(
            chat,
            [asked],
            parse_recalled,
            form=prompts.RECALL_FORM.format(k=k),
            guided=self.config.guided,
            schema=RECALLED,
            agent="retrieval",
            round=0,
            role="recall",
        )

    async def _plan(
        self, sample: Sample, chat: Chat, recalled: Recalled | None, number: int
    ) -> tuple[Turn, Asked[Rating]]:
        """The plan made from exemplar `number`, and the agent's confidence in it."""
        hints: list[str] = []
        if recalled is not None:
            exemplar = recalled.exemplars[number]
            hints = [prompts.EXEMPLAR.format(problem=exemplar.problem, plan=exemplar.plan)]
            hints += [prompts.ALGORITHM.format(algorithm=recalled.algorithm)] if recalled.algorithm else []
        task: list[str | Part] = [prompts.PROBLEM, *sample.parts()]
        asked = message("user", prompts.PLAN, *hints, *task, prompts.PLAN_NOW)
        agent = f"planner_{number + 1}"
        plan = await chat([asked], agent=agent, round=1, role="plan")
        rating = await ask(
            chat,
            [message("user", prompts.RATE, *task, prompts.PLANNED, plan, prompts.RATE_NOW)],
            parse_rating,
            form=prompts.RATE_FORM,
            guided=self.config.guided,
            schema=RATED,
            agent=agent,
            round=1,
            role="confidence",
        )
        return plan, rating

    async def _program(
        self, sample: Sample, chat: Chat, plan: Turn, number: int, repairs: bool
    ) -> tuple[list[tuple[int, Turn]], int]:
        """The programs for one plan, each with the tests it passed (-1: no program), and the parse failures."""
        agent = f"coder_{number + 1}"
        tests = sample.visible_tests or ()
        task: list[str | Part | Turn] = [prompts.PROBLEM, *sample.parts(), prompts.PLANNED, plan]
        asked: list[str | Part | Turn] = [prompts.CODE, *task, prompts.CODE_NOW]
        tried: list[tuple[int, Turn]] = []
        failures = 0
        for round in range(2, 3 + self.config.t):
            role = "debug" if tried else "code"
            request = message("user", *asked)
            written = await ask_program(chat, sample, request, prompts.CODE_FORM, agent=agent, round=round, role=role)
            failures += written.failures
            if not repairs:
                return [(0, written.turn)], failures
            report: list[str | Part | Turn] = [prompts.NO_PROGRAM]
            count = -1
            if written.value is not None:
                turn, verdicts = await run_tests(chat, sample, written.value, agent=agent, round=round)
                report, count = [prompts.FAILED, failures_of(tests, turn)], sum(verdicts)
            tried.append((count, written.turn))
            if count == len(tests):
                break
            asked = [prompts.DEBUG, *task, prompts.PROGRAM, written.turn, *report, prompts.DEBUG_NOW]
        return tried, failures


def parse_recalled(text: str) -> Recalled | None:
    """The exemplars; None when the reply cannot be read or has none."""
    recalled = read_json(text, Recalled)
    return recalled if recalled is not None and recalled.exemplars else None


def parse_rating(text: str) -> Rating | None:
    """A confidence from 0 to 100."""
    rating = read_json(text, Rating)
    return rating if rating is not None and 0 <= rating.confidence <= 100 else None
