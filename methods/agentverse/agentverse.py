"""AgentVerse (Chen et al. 2023, arXiv 2308.10848): recruit, discuss, act, evaluate, and again with the advice.

Each turn a recruiter names experts; the first solves, all others criticise it at once, and it revises until a round
brings no objection. An evaluator accepts the solution or sends its advice to the next turn.

Differs from the published code: only objections of the current round decide whether the solver revises (there, old
ones count again); the evaluator's advice reaches recruiter and solver of the next turn; programs are run on the tests
that the question shows (the paper's action stage), and one that fails them is not accepted; a recruiter that cannot be
read leaves experts without description, an evaluator that cannot be read neither accepts nor advises
(`info["errors"]` says so), instead of invented roles and verdicts.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from agentark.code_grading import code_of
from agentark.config import Config, Count
from agentark.episode import gather
from agentark.team import Agents
from agentark.types import SANDBOX, Chat, Outcome, Part, Sample, Turn, message
from methods.agentverse import prompts
from methods.agentverse.forms import Verdict, experts_of, verdict_of
from methods.common import ALL_TASKS, Asked, Configured, ask, object_schema, run_tests, solution, unparsed
from methods.executed import failures_of

SOLVER_READS, CRITIC_READS = 5, 3
"""Items of the history that each agent sees (published code)."""


class AgentVerseConfig(Config):
    RENAMED: ClassVar = {
        "agents": "cnt_agents",
        "agents_num": "cnt_agents",
        "num_agents": "cnt_agents",
        "max_inner_turns": "max_criticizing_rounds",
    }

    cnt_agents: Count = Field(2, ge=1)
    """Experts per turn: one solver, the others critics (published README: 2)."""
    max_turn: Count = Field(3, ge=1)
    """Turns of recruiting, discussing and evaluating (published README: 3)."""
    max_criticizing_rounds: Count = Field(3, ge=0)
    """Rounds of criticism per turn (published README: 3)."""
    domain: Literal["general", "math", "code"] = "general"
    """Wording of the solver's and the critics' task."""
    guided: bool = True
    """Guided decoding of roles and verdicts, where the engine has it; false: the paper's free text."""


class AgentVerse(Configured[AgentVerseConfig]):
    """calls: 4 (accepted at once) to T(3 + C*K) for T turns and K rounds of C - 1 critics and a revision, with C =
    cnt_agents (27 as configured); one more for each reply of recruiter or evaluator that cannot be read.
    critical path: 4 to T(3 + 2K); executions come on top.
    """

    Config = AgentVerseConfig
    TASKS = ALL_TASKS

    def without_sandbox(self, kinds: frozenset[str]) -> str | None:
        return "agentverse runs no tests; its evaluator judges programs by reading" if "code" in kinds else None

    def agents(self) -> Agents:
        critics = [f"critic_{k}" for k in range(1, self.config.cnt_agents)]
        others = {"recruiter": ("recruiter",), "solver": ("solver", "revision"), "evaluator": ("evaluator",)}
        return {**others, **dict.fromkeys(critics, ("critic",))}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        history: list[tuple[str, Turn]] = []
        advice, failures, errors, proposals, accepted = "", 0, [], [], False
        for turn in range(1, self.config.max_turn + 1):
            asked = await self._recruit(sample, chat, advice, turn)
            failures += asked.failures
            if asked.value is None:
                errors.append(f"turn {turn}: the recruiter's list could not be read")
            experts = [prompts.EXPERT.replace("{role}", role) for role in asked.value or []]
            experts = experts or [prompts.UNNAMED] * self.config.cnt_agents
            proposal, silent = await self._discuss(sample, chat, experts, advice, history, turn)
            proposals.append(proposal)
            verdict, tests_hold, tested = await self._evaluate(sample, chat, proposal, turn)
            failures += silent + verdict.failures
            if verdict.value is None:
                errors.append(f"turn {turn}: the evaluator's verdict could not be read")
            accepted = verdict.value is not None and verdict.value.correctness == 1 and tests_hold
            advice = (verdict.value.advice if verdict.value else "") + ("" if tests_hold else tested)
            if accepted:
                break
        candidates = [solution(sample, proposed, number) for number, proposed in enumerate(proposals, 1)]
        result = solution(sample, proposals[-1], len(candidates) + 1, agent="aggregator")
        return Outcome(
            solutions=[*candidates, result],
            parse_failures=failures + unparsed(candidates),
            info={"turns": turn, "accepted": accepted, "errors": errors},
        )

    async def _recruit(self, sample: Sample, chat: Chat, advice: str, turn: int) -> Asked[list[str]]:
        """One description per expert."""
        count = self.config.cnt_agents
        form = prompts.RECRUIT_JSON if self.config.guided else prompts.RECRUIT_TEXT
        request = (prompts.RECRUIT + form).replace("{count}", str(count))
        description = {"type": "string", "maxLength": 400}
        array = {"type": "array", "items": description, "minItems": count, "maxItems": count}
        return await ask(
            chat,
            [message("user", *sample.parts(with_document=False), _advice(advice), request)],
            lambda text: experts_of(text, count),
            guided=self.config.guided,
            schema=object_schema(experts=array),
            form=prompts.RECRUIT_FORM.replace("{count}", str(count)),
            agent="recruiter",
            round=turn,
            role="recruiter",
        )

    async def _discuss(
        self,
        sample: Sample,
        chat: Chat,
        experts: Sequence[str],
        advice: str,
        history: list[tuple[str, Turn]],
        turn: int,
    ) -> tuple[Turn, int]:
        """The solution after criticism, and the number of empty criticisms; both add to the history."""

        async def solve(role: str, request: str) -> Turn:
            parts = [*sample.parts(), *_said(history[-SOLVER_READS:]), _advice(advice), request]
            messages = [message("system", experts[0]), message("user", *parts)]
            return await chat(messages, agent="solver", round=turn, role=role)

        latest, silent = await solve("solver", prompts.PROPOSE[self.config.domain]), 0
        for number in range(1, self.config.max_criticizing_rounds + 1):
            history.append(("Solver", latest))
            request = prompts.CRITICISE[self.config.domain] + prompts.VERDICT
            said = _said(history[:-1][-CRITIC_READS:])
            asked = message("user", *sample.parts(), *said, prompts.LATEST, latest, request)
            critiques = await gather(
                *(
                    chat([message("system", role), asked], agent=f"critic_{k}", round=turn, role=f"critic_{number}")
                    for k, role in enumerate(experts[1:], 1)
                )
            )
            spoken = [critique for critique in critiques if critique.text.strip()]
            silent += len(critiques) - len(spoken)
            objections = [critique for critique in spoken if "[agree]" not in critique.text.lower()]
            history += [(f"Critic {critique.agent.removeprefix('critic_')}", critique) for critique in objections]
            if not objections:
                return latest, silent
            latest = await solve(f"revision_{number}", prompts.REVISE)
        history.append(("Solver", latest))
        return latest, silent

    async def _evaluate(
        self, sample: Sample, chat: Chat, proposal: Turn, turn: int
    ) -> tuple[Asked[Verdict], bool, str]:
        """The verdict, whether all visible tests pass, and the report on the tests."""
        holds, tested = True, ""
        if sample.visible_tests and SANDBOX in chat.models:
            code = code_of(sample, proposal.text)
            holds, tested = False, prompts.NO_PROGRAM
            if code is not None:
                ran, passed = await run_tests(chat, sample, code, agent="solver", round=turn)
                holds, tested = all(passed), prompts.TESTS_PASSED.replace("{count}", str(len(passed)))
                if not holds:
                    failures = failures_of(sample.visible_tests, ran)
                    tested = prompts.TESTS_FAILED.replace("{failures}", failures)
        form = prompts.EVALUATE_JSON if self.config.guided else prompts.EVALUATE_TEXT
        advice = {"type": "string", "maxLength": 1500}
        asked = await ask(
            chat,
            [message("user", *sample.parts(), prompts.LATEST, proposal, tested, prompts.EVALUATE, form)],
            verdict_of,
            guided=self.config.guided,
            schema=object_schema(correctness={"type": "integer", "enum": [0, 1]}, advice=advice),
            form=prompts.EVALUATE_FORM,
            agent="evaluator",
            round=turn,
            role="evaluator",
        )
        return asked, holds, tested


def _advice(advice: str) -> str:
    return prompts.ADVICE.replace("{advice}", advice) if advice else ""


def _said(items: Sequence[tuple[str, Turn]]) -> list[str | Part | Turn]:
    parts: list[str | Part | Turn] = [prompts.HISTORY] if items else []
    for name, turn in items:
        parts += [prompts.SAID.replace("{name}", name), turn]
    return parts
