"""DyLAN for programs (Liu et al. 2023, arXiv 2310.02170, code generation): layers of writers and of judges in turn.

Writers write; judges (tester, reflector, debugger, quality manager) read all programs, review and rate them; the two
best writers read the reviews and the outcome of the tester's assertions, rate the reviews and write again. Of the last
layer's programs the one that passes most tests is the result: the assertions of the testers and the question's own.

Differs from the published code: the tester's assertions really run, in the sandbox (without --allow_code_execution
none run, and the most frequent program is the result); the ranked writers go on; there is an Agent Importance Score.
No team optimisation: the paper's code experiments fix the team.
"""

import ast
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from agentark.code_grading import PYTHON, code_of, fenced
from agentark.config import Config, Count
from agentark.episode import gather
from agentark.team import Agents
from agentark.types import SANDBOX, Chat, Message, Outcome, Part, Sample, Turn, message
from methods.common import numbered, repair, run_tests, solution
from methods.dylan import network, prompts
from methods.dylan.activation import KEPT, Activation, survivors
from methods.dylan.dylan import roles_of
from methods.dylan.network import Node, draw, importance, shuffled, weigh

TESTER = "Tester"


class DyLANCodeConfig(Config):
    RENAMED: ClassVar = {"agents_num": "num_agents", "agents": "num_agents", "rounds_num": "num_rounds"}

    random_seed: int = Field(0, ge=0)
    """Seed of the orders in which agents act and replies are shown."""
    num_agents: Count = Field(4, ge=1)
    """N, writers (published code: 4)."""
    num_rounds: Count = Field(3, ge=1)
    """R, layers at most: writers, judges, writers, ...; a last layer of judges is left out."""
    activation: Activation = "listwise"
    """How the two writers of the later layers are chosen: listwise | trueskill | window | none."""
    roles: list[str] = Field(list(prompts.CODERS))
    """One role per writer, of methods/dylan/prompts.py."""
    judges: list[str] = Field(list(prompts.JUDGES))
    """The judges, of methods/dylan/prompts.py (published code: these four)."""
    num_tests: Count = Field(6, ge=1)
    """Assertions that the tester is asked for, at most."""
    guided: bool = True
    """Guided decoding of ranks and of repaired ratings, where the engine has it; false: the paper's free text."""

    @field_validator("roles")
    @classmethod
    def _coders(cls, roles: list[str], info: ValidationInfo) -> list[str]:
        return roles_of(roles, prompts.CODERS, info)

    @field_validator("judges")
    @classmethod
    def _judges(cls, roles: list[str]) -> list[str]:
        return roles_of(roles, prompts.JUDGES, None)


class DyLANCode:
    """calls: floor(2N/3) + 1 (consensus at once) to N + J + 1 + 2 with N writers, J judges and R = 3; each further pair
    of layers J + 2. Rankers other than listwise as in `dylan`; one more call for each reply that cannot be read.
    critical path: at most W(N) + 1 + 1 + 1 with W(N) = N - floor(2N/3); executions come on top.
    """

    Config = DyLANCodeConfig
    TASKS = frozenset({"code"})

    def __init__(self, config: DyLANCodeConfig) -> None:
        self.config = config
        self._writers = {f"writer_{number}": prompts.CODERS[role] for number, role in enumerate(config.roles, 1)}
        tests = str(config.num_tests)
        self._judges = {f"judge_{k}": (role, prompts.JUDGES[role].replace("{count}", tests))
                        for k, role in enumerate(config.judges, 1)}  # fmt: skip

    def without_sandbox(self, kinds: frozenset[str]) -> str | None:
        return "dylan runs no tests; of the last programs the most frequent one is the result"

    def totals(self, infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"importance": network.total_importance(infos)}

    def agents(self) -> Agents:
        return {
            **dict.fromkeys(self._writers, ("writer", "writer_rating")),
            **dict.fromkeys(self._judges, ("judge", "judge_rating", "judge_tests")),
            "ranker": ("ranker", "comparison"),
        }

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        question = message("user", *sample.parts())
        dialogues = {name: [message("system", role), question] for name, role in self._writers.items()}
        kind, seed = self.config.activation, self.config.random_seed
        layers: list[list[Node]] = []
        tests: list[str] = list(sample.visible_tests or ())
        writers, failures, ranked = list(self._writers), 0, None
        while True:
            round = len(layers) + 1
            nodes, reached = await self._write(sample, chat, writers, dialogues, layers)
            layers.append(nodes)
            if reached or round + 2 > self.config.num_rounds:
                break
            reviews, written, unread = await self._review(sample, chat, nodes, round + 1)
            layers.append(reviews)
            failures += unread
            tests += [test for test in written if test not in tests]
            if ranked is None and len(writers) > KEPT and kind != "none":
                writers, unread = await survivors(kind, sample, chat, nodes, reviews, seed, self.config.guided)
                failures, ranked = failures + unread, writers
            going_on = [node for node in nodes if node.agent in writers]
            outcomes = await gather(*(self._tested(sample, chat, node, written, round + 1) for node in going_on))
            for node, outcome in zip(going_on, outcomes, strict=True):
                own = draw(seed, node.agent, sample.id, round)
                request = self._request(shuffled(reviews, own), outcome)
                dialogues[node.agent] = [*dialogues[node.agent], message("assistant", node.turn), request]
        last = layers[-1]
        grouped = await network.groups([node.answer for node in last], "code")
        best, passed = await self._result(sample, chat, last, grouped, tests, len(layers))
        right = [
            node.agent for node, own in zip(last, grouped, strict=True) if own is not None and own == grouped[best]
        ]
        candidates = [solution(sample, node.turn, number) for number, node in enumerate(last, 1)]
        result = solution(sample, last[best].turn, len(last) + 1, agent="aggregator")
        failures += sum(node.failures + (node.answer is None) for layer in layers[::2] for node in layer)
        failures += sum(node.failures for layer in layers[1::2] for node in layer)
        info = {"rounds": len(layers), "consensus": reached, "ranked": ranked, "importance": importance(layers, right)}
        return Outcome(
            solutions=[*candidates, result],
            parse_failures=failures,
            info={**info, "tests": tests, "passed": passed},
        )

    async def _write(
        self,
        sample: Sample,
        chat: Chat,
        writers: Sequence[str],
        dialogues: Mapping[str, Sequence[Message]],
        layers: Sequence[Sequence[Node]],
    ) -> tuple[list[Node], bool]:
        """A layer of writers, and whether they agree."""
        round = len(layers) + 1

        async def write(agent: str) -> Node:
            turn = await chat(dialogues[agent], agent=agent, round=round, role="writer")
            shown: list[str] = []
            if layers:
                own = draw(self.config.random_seed, agent, sample.id, round - 2)
                shown = [node.agent for node in shuffled(layers[-1], own)]
            weights, failures = await weigh(chat, dialogues[agent], turn, shown, self.config.guided)
            return Node(agent, turn, code_of(sample, turn.text), weights, failures)

        order = shuffled(writers, draw(self.config.random_seed, "order", sample.id, round))
        return await network.grow([partial(write, agent) for agent in order], "code")

    async def _review(
        self, sample: Sample, chat: Chat, programs: Sequence[Node], round: int
    ) -> tuple[list[Node], list[str], int]:
        """A layer of judges, the assertions its testers wrote, and the number that could not be read."""

        async def judge(name: str) -> tuple[Node, list[str], int]:
            role, text = self._judges[name]
            shown = shuffled(programs, draw(self.config.random_seed, name, sample.id, round))
            listing = numbered(prompts.PROGRAM, [node.turn for node in shown])
            request = network.filled(prompts.JUDGE, len(shown))
            messages = [message("system", text), message("user", *sample.parts(), prompts.WRITTEN, *listing, request)]
            turn = await chat(messages, agent=name, round=round, role="judge")
            weights, unrated = await weigh(chat, messages, turn, [node.agent for node in shown], self.config.guided)
            node = Node(name, turn, None, weights, unrated)
            written = assertions(turn.text) if role == TESTER else []
            if written is not None:
                return node, written, 0
            form = prompts.TESTS_FORM
            asked = await repair(chat, messages, turn, assertions, "judge_tests", guided=False, form=form)
            return node, asked.value or [], asked.failures

        judged = await gather(*(judge(name) for name in self._judges))
        written = list(dict.fromkeys(test for _, tests, _ in judged for test in tests))[: self.config.num_tests]
        return [node for node, _, _ in judged], written, sum(unread for _, _, unread in judged)

    async def _tested(self, sample: Sample, chat: Chat, node: Node, tests: Sequence[str], round: int) -> str:
        """The report to a writer on the testers' assertions; empty where none ran."""
        if SANDBOX not in chat.models or node.answer is None or not tests:
            return ""
        _, passed = await run_tests(chat, sample, node.answer, agent=node.agent, round=round, tests=tests)
        failed = [test for test, held in zip(tests, passed, strict=True) if not held]
        outcome = prompts.FAILED.replace("{failed}", "\n".join(failed)) if failed else prompts.PASSED
        return prompts.TESTED.replace("{outcome}", outcome)

    def _request(self, reviews: Sequence[Node], outcome: str) -> Message:
        """The reviews as a writer reads them."""
        parts: list[str | Part | Turn] = [prompts.REVIEWS]
        for number, node in enumerate(reviews, 1):
            parts += [prompts.REVIEW.format(number=number), node.turn]
            parts += [outcome] if self._judges[node.agent][0] == TESTER else []
        return message("user", *parts, network.filled(prompts.RATE_AND_REWRITE, len(reviews)))

    async def _result(
        self,
        sample: Sample,
        chat: Chat,
        last: Sequence[Node],
        grouped: Sequence[int | None],
        tests: Sequence[str],
        round: int,
    ) -> tuple[int, list[int] | None]:
        """(position of the result, tests each program passed); ties and missing tests: the most frequent, the first."""
        leader, _ = network.most_frequent(grouped)
        if SANDBOX not in chat.models or not tests:
            return leader or 0, None

        async def passed(node: Node) -> int:
            if node.answer is None:
                return 0
            _, verdicts = await run_tests(
                chat, sample, node.answer, agent=node.agent, round=round, role="final_tests", tests=tests
            )
            return sum(verdicts)

        counts = await gather(*(passed(node) for node in last))
        best = max(range(len(last)), key=lambda index: (counts[index], grouped[index] == leader, -index))
        return best, counts


def assertions(text: str) -> list[str] | None:
    """The `assert` statements of a reply's Python blocks, each as a test of its own; None when there are none."""
    tests: list[str] = []
    for language, code in fenced(text):
        try:
            body = ast.parse(code).body if language in PYTHON else []
        except (SyntaxError, ValueError):
            continue
        tests += [ast.unparse(statement) for statement in body if isinstance(statement, ast.Assert)]
    return tests or None
