"""EvoMAC: a coding team that is edited until its program passes its tests (Hu et al. 2024, arXiv 2410.16946).

An organiser splits the requirement into subtasks with an order among them, and one coder per subtask works along that
graph. A testing team, organised in the same way, writes tests from the requirement alone. The tests run in the sandbox
(the environment); a gradient agent reads what failed and criticises the team's work, an updating agent edits subtasks
and order after it (textual backpropagation), and the edited team works again on its last program. It ends when all
tests pass or after `iteration` updates.

Differs from the published code: tests run in the sandbox only; subtasks without an order among them are coded at once
and joined by one more call when more than one ends the graph; replies that cannot be read are counted. Without a
sandbox there is nothing to learn from: the coding team works once, no test is written, and `info` says so.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct, to_builtins
from pydantic import Field

from agentark.config import Config, Count
from agentark.episode import gather
from agentark.team import Agents
from agentark.types import SANDBOX, Chat, Outcome, Part, Sample, Turn, message
from methods.common import Asked, Configured, ask, ask_program, run_tests, solution
from methods.evomac import prompts
from methods.evomac.team import (
    Subtask,
    Team,
    parse_assertions,
    parse_team,
    parse_tests,
    team_schema,
    team_text,
    tests_schema,
)
from methods.executed import failures_of
from methods.flow import flow


class EvoMACConfig(Config):
    iteration: Count = Field(5, ge=0)
    """I, updates of the coding team, at most (published README: 5)."""
    language: Literal["Python"] = "Python"
    """Language of the program; the sandbox runs no other."""
    max_coders: Count = Field(5, ge=1)
    """Subtasks of the coding team, at most."""
    max_testers: Count = Field(3, ge=1)
    """Testing tasks, at most."""
    guided: bool = True
    """Decode both teams under their schema where the engine can; false: free text."""


class Forward(Struct, frozen=True):
    """The result of a pass of the coding team."""

    coded: list[Turn]
    turn: Turn
    """The turn that gave the whole program."""
    program: str | None
    failures: int


class EvoMAC(Configured[EvoMACConfig]):
    """calls: 2 + testers + coders (+ 1 to join), and per update 2 + coders (+ 1 to join); without a sandbox 1 + coders.

    critical path: 1 + depth of the coders' graph, and per update 2 + its depth; +1 wherever programs are joined.

    A reply that cannot be read costs one repair call. If that fails too: for a team, one member gets the whole
    requirement; an edited team stays as it was; a missing program passes no test; without assertions there is no test.
    """

    Config = EvoMACConfig
    TASKS = frozenset({"code", "software"})

    def without_sandbox(self, kinds: frozenset[str]) -> str | None:
        return "evomac writes and runs no tests; its coding team works once and is not updated"

    def agents(self) -> Agents:
        coders = [f"coder_{number}" for number in range(1, self.config.max_coders + 1)]
        testers = [f"tester_{number}" for number in range(1, self.config.max_testers + 1)]
        return {
            "coding_organiser": ("organise", "update"),
            **dict.fromkeys(coders, ("code",)),
            "integrator": ("integrate",),
            "test_organiser": ("organise",),
            **dict.fromkeys(testers, ("test",)),
            "gradient": ("gradient",),
        }

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        async with asyncio.TaskGroup() as group:  # the teams don't see each other's work
            coding = group.create_task(self._start(sample, chat))
            testing = group.create_task(self._tests(sample, chat)) if SANDBOX in chat.models else None
        team, forward, failures = coding.result()
        tests, missed = testing.result() if testing else ([], 0)
        failures += missed
        final, passed = forward, []
        for round in range(1, self.config.iteration + 2) if tests else ():
            report: list[str | Part | Turn] = [prompts.NO_PROGRAM]
            count = 0
            if forward.program is not None:
                ran, verdicts = await run_tests(
                    chat, sample, forward.program, agent="environment", round=round, tests=tests
                )
                report = [prompts.PROGRAM, forward.turn, prompts.FAILED, failures_of(tests, ran)]
                count, final = sum(verdicts), forward
            passed.append(count)
            if count == len(tests) or round > self.config.iteration:
                break
            team, missed = await self._update(sample, chat, team, report, round)
            forward = await self._forward(sample, chat, team, round + 1, final.turn if final.program else None)
            failures += missed + forward.failures
        solutions = [solution(sample, turn, at) for at, turn in enumerate([*forward.coded, final.turn], 1)]
        info: dict[str, Any] = {"team": to_builtins(team), "tests": len(tests), "passed": passed}
        if testing is None:
            info["off"] = "testing and updates of the team: code runs only with --allow_code_execution"
        elif not tests:
            info["off"] = "updates of the team: no tester wrote an assertion"
        return Outcome(solutions=solutions, parse_failures=failures, info=info)

    async def _start(self, sample: Sample, chat: Chat) -> tuple[Team, Forward, int]:
        """The first team and its program."""
        organised = await self._ask_team(sample, chat, [prompts.ORGANISE.format(language=self.config.language)], 0)
        team = organised.value or Team([Subtask(prompts.WHOLE)])
        forward = await self._forward(sample, chat, team, 1, None)
        return team, forward, organised.failures + forward.failures

    async def _ask_team(
        self, sample: Sample, chat: Chat, opening: Sequence[str | Part | Turn], round: int
    ) -> Asked[Team]:
        most = self.config.max_coders
        form = prompts.TEAM_FORM.replace("{most}", str(most))
        return await ask(
            chat,
            [message("user", opening[0], prompts.REQUIREMENT, *sample.parts(), *opening[1:], form)],
            lambda text: parse_team(text, most),
            form=prompts.TEAM_WANTED.format(most=most),
            guided=self.config.guided,
            schema=team_schema(most),
            agent="coding_organiser",
            round=round,
            role="organise" if round == 0 else "update",
        )

    async def _forward(self, sample: Sample, chat: Chat, team: Team, round: int, last: Turn | None) -> Forward:
        """One pass of the coding team along its graph."""
        language = self.config.language
        coder = prompts.CODER.format(language=language)
        opening: list[str | Part | Turn] = [coder, prompts.REQUIREMENT, *sample.parts()]
        opening += [prompts.LAST, last] if last else []

        async def code(node: int, ready: list[asyncio.Task[Asked[str]]]) -> Asked[str]:
            before = [(number, (await task).turn) for number, task in zip(inputs[node], ready, strict=True)]
            shown = [part for at, turn in before for part in (prompts.BEFORE.format(number=at + 1), turn)]
            subtask = prompts.SUBTASK.format(task=team.subtasks[node].task)
            asked = message("user", *opening, *shown, subtask, prompts.CODE_NOW)
            where: dict[str, Any] = {"agent": f"coder_{node + 1}", "round": round, "role": "code"}
            return await ask_program(chat, sample, asked, prompts.CODE_WANTED, **where)

        inputs = [sorted({number - 1 for number in subtask.after}) for subtask in team.subtasks]
        coded = await flow(inputs, code)
        ends = [node for node in range(len(coded)) if not any(node in before for before in inputs)]
        whole = coded[ends[0]]
        failures = sum(written.failures for written in coded)
        if len(ends) > 1:
            parts = [part for at in ends for part in (prompts.PART.format(number=at + 1), coded[at].turn)]
            joining = prompts.INTEGRATE.format(language=language)
            asked = message("user", joining, prompts.REQUIREMENT, *sample.parts(), *parts, prompts.INTEGRATE_NOW)
            where: dict[str, Any] = {"agent": "integrator", "round": round, "role": "integrate"}
            whole = await ask_program(chat, sample, asked, prompts.CODE_WANTED, **where)
            failures += whole.failures
        return Forward([written.turn for written in coded], whole.turn, whole.value, failures)

    async def _tests(self, sample: Sample, chat: Chat) -> tuple[list[str], int]:
        """The testers' assertions, one text each, and the number of replies that could not be read."""
        most, language = self.config.max_testers, self.config.language
        opening = prompts.ORGANISE_TESTS.format(language=language)
        form = prompts.TESTS_FORM.replace("{most}", str(most))
        organised = await ask(
            chat,
            [message("user", opening, prompts.REQUIREMENT, *sample.parts(), form)],
            lambda text: parse_tests(text, most),
            form=prompts.TESTS_WANTED.format(most=most),
            guided=self.config.guided,
            schema=tests_schema(most),
            agent="test_organiser",
            round=0,
            role="organise",
        )
        tester = prompts.TESTER.format(language=language)

        async def write(number: int, task: str) -> Asked[str]:
            testing = prompts.TESTING.format(task=task)
            asked = message("user", tester, prompts.REQUIREMENT, *sample.parts(), testing, prompts.TEST_NOW)
            return await ask(
                chat,
                [asked],
                parse_assertions,
                form=prompts.TEST_WANTED,
                guided=False,
                agent=f"tester_{number}",
                round=1,
                role="test",
            )

        tasks = organised.value.tasks if organised.value else [prompts.WHOLE]
        written = await gather(*(write(number, task) for number, task in enumerate(tasks, 1)))
        tests = [reply.value for reply in written if reply.value is not None]
        return tests, organised.failures + sum(reply.failures for reply in written)

    async def _update(
        self, sample: Sample, chat: Chat, team: Team, report: Sequence[str | Part | Turn], round: int
    ) -> tuple[Team, int]:
        """Textual backpropagation: criticise the team's work, and edit the team after it."""
        shown = prompts.TEAM.format(team=team_text(team))
        opening = prompts.GRADIENT.format(language=self.config.language)
        blaming = message("user", opening, prompts.REQUIREMENT, *sample.parts(), shown, *report, prompts.GRADIENT_NOW)
        critique = await chat([blaming], agent="gradient", round=round, role="gradient")
        updating = prompts.UPDATE.format(language=self.config.language)
        edited = await self._ask_team(
            sample, chat, [updating, shown, prompts.CRITIQUE, critique, prompts.UPDATE_NOW], round
        )
        return edited.value or team, edited.failures
