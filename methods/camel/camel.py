"""CAMEL role playing (Li et al. 2023, arXiv 2303.17760).

A task specifier makes the task concrete. An AI user then instructs an AI assistant, one instruction a message, until it
says the task is done; with a critic, each message of either is chosen among several proposals. A final call draws the
answer from the assistant's solutions.

Differs from the published code: the critic chooses among the proposals of the user as well as of the assistant; the
specifier is told to add no facts, and both roles see the original task beside its restatement; if the critic's number
cannot be read, it counts as a parse failure (the first proposal stands), never a random choice.
"""

import re

from pydantic import Field

from agentark.config import Config, Count
from agentark.episode import gather
from agentark.team import Agents
from agentark.types import Chat, Message, Outcome, Part, Sample, Turn, message
from methods.camel import prompts
from methods.common import ALL_TASKS, Configured, ask, numbered, solution, unparsed


class CAMELConfig(Config):
    chat_turn_limit: Count = Field(3, ge=1)
    """T, pairs of instruction and solution, at most (published README: 3)."""
    assistant_role: str = Field("expert problem solver", min_length=1)
    """Role of the agent who solves."""
    user_role: str = Field("project manager", min_length=1)
    """Role of the agent who instructs."""
    with_critic: bool = False
    """Choose every message among `option_num` proposals (the paper's critic in the loop)."""
    option_num: int = Field(2, ge=2, le=9)
    """k, proposals per message when there is a critic."""
    critic_role: str = Field("critical reviewer", min_length=1)
    """Role of the agent who chooses."""
    criteria: str = Field("it brings the task closest to a correct and complete solution", min_length=1)
    """The critic's measure of a proposal."""
    guided: bool = True
    """The critic's number by guided choice where the engine can; false: free text."""


class CAMEL(Configured[CAMELConfig]):
    """calls: 2 + 2T, and with a critic 2 + 2T(k + 1); critical path: 2 + 2T, and with a critic 2 + 4T.

    A user who says the task is done in message t ends it after t - 1 pairs and that message: 2 + 2(t - 1) + 1, and
    2 + (2t - 1)(k + 1) with a critic (critical path 2 + 2(2t - 1)).
    """

    Config = CAMELConfig
    TASKS = ALL_TASKS

    def agents(self) -> Agents:
        agents = {name: (name,) for name in ("task_specifier", "user", "assistant", "extractor")}
        critic = {"critic": ("critic_of_user", "critic_of_assistant")} if self.config.with_critic else {}
        return {**agents, **critic}

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        names = self.config.model_dump(include={"user_role", "assistant_role", "critic_role", "criteria"})
        asked = message("user", prompts.SPECIFY.format(**names), *sample.parts(with_document=False))
        specified = await chat([asked], agent="task_specifier", round=0, role="task_specifier")
        task: list[str | Part | Turn] = [prompts.TASK, *sample.parts(), prompts.SPECIFIED, specified]
        using = [
            message("system", prompts.USER.format(done=prompts.DONE, **names), *task),
            message("user", prompts.START),
        ]
        assisting = [message("system", prompts.ASSISTANT.format(**names), *task)]
        solved: list[Turn] = []
        failures = 0
        for round in range(1, self.config.chat_turn_limit + 1):
            instruction, missed = await self._next(sample, chat, using, "user", round, solved[-1:])
            failures += missed
            if prompts.DONE in instruction.text:
                break
            assisting = [*assisting, message("user", instruction)]
            answer, missed = await self._next(sample, chat, assisting, "assistant", round, [instruction])
            failures += missed
            solved.append(answer)
            assisting = [*assisting, message("assistant", answer)]
            using = [*using, message("assistant", instruction), message("user", answer)]
        listing = numbered(prompts.SOLUTION, solved)
        request = prompts.EXTRACT if solved else prompts.EXTRACT_NOTHING
        drawing = message("user", *sample.parts(with_document=not solved), *listing, request)
        final = await chat([drawing], agent="extractor", round=round + 1, role="extractor")
        solutions = [solution(sample, turn, number) for number, turn in enumerate([*solved, final], 1)]
        info = {"turns": len(solved), "done": len(solved) < round}
        return Outcome(solutions=solutions, parse_failures=failures + unparsed(solutions[-1:]), info=info)

    async def _next(
        self, sample: Sample, chat: Chat, dialogue: list[Message], agent: str, round: int, said: list[Turn]
    ) -> tuple[Turn, int]:
        """The next message of a role, and the number of the critic's replies that could not be read."""
        count = self.config.option_num if self.config.with_critic else 1
        options = await gather(*(chat(dialogue, agent=agent, round=round, role=agent) for _ in range(count)))
        if count == 1:
            return options[0], 0
        names = self.config.model_dump(include={"user_role", "assistant_role", "critic_role", "criteria"})
        before: list[str | Turn] = [prompts.SAID, *said] if said else []
        request = message(
            "user",
            prompts.CRITIC.format(**names),
            prompts.TASK,
            *sample.parts(with_document=False),
            *before,
            prompts.PROPOSALS.format(role=names[f"{agent}_role"]),
            *numbered(prompts.PROPOSAL, options),
            prompts.CHOOSE,
        )
        chosen = await ask(
            chat,
            [request],
            lambda text: parse_choice(text, count),
            guided=self.config.guided,
            choices=tuple(str(number) for number in range(1, count + 1)),
            agent="critic",
            round=round,
            role=f"critic_of_{agent}",
        )
        return options[(chosen.value or 1) - 1], chosen.failures


def parse_choice(text: str, count: int) -> int | None:
    """The first number of a reply, if it is one of 1 to count."""
    number = re.search(r"\d+", text)
    return int(number[0]) if number and len(number[0]) < 3 and 1 <= int(number[0]) <= count else None
