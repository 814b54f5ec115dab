"""How the debate changed each agent: its replies over the rounds, their verdicts, and the class of that path.

The paper (arXiv 2602.03955, section on correctness-first selection) prefers corrective trajectories: an agent was
wrong, read its peers, and became right.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from msgspec import UNSET, Struct

from agentark.judge import CHECKABLE, by_rule
from agentark.labels import LabelRow, answered
from agentark.records import natural
from agentark.types import Record, Solution, Turn, UserError, digest

PathClass = Literal["always_right", "corrective", "corrupted", "always_wrong", "unknown"]
CLASSES: tuple[PathClass, ...] = get_args(PathClass)
AGGREGATE = "aggregate"
"""The class given to the method's final answer, which belongs to no single agent."""

Verdicts = Mapping[tuple[str, int], bool | None]
"""(agent, round) -> verdict."""


class Reply(Struct, frozen=True):
    """An agent's answer in a round."""

    text: str
    reasoning: str | None
    """Thinking text that the engine returned separately."""
    round: int
    verdict: bool | None


class Trajectory(Struct, frozen=True, kw_only=True):
    """A solution and the path of its agent to it."""

    method: str
    teacher: str
    solution: int
    agent: str
    kind: str
    """A PathClass, or `aggregate`."""
    replies: tuple[Reply, ...]
    """The agent's own replies, oldest round first; the last is the solution."""
    verdict: bool | None
    truncated: bool
    """Whether the solution ended at its token limit."""

    @property
    def key(self) -> tuple[str, tuple[tuple[int, str], ...], int]:
        """Sort key of a question's trajectories; it does not depend on the file or row they come from."""
        return self.method, natural(self.agent), self.solution


def classify(verdicts: Sequence[bool | None]) -> PathClass:
    """The class of an agent's path, from its verdicts in order of rounds; rounds without a verdict don't count.

    `unknown` if the last answer, which decides, has no verdict. An agent that was ever wrong and ends right is
    corrective; an agent that was ever right and ends wrong is corrupted.
    """
    if not verdicts or verdicts[-1] is None:
        return "unknown"
    if verdicts[-1]:
        return "corrective" if False in verdicts else "always_right"
    return "corrupted" if True in verdicts else "always_wrong"


def trajectories(record: Record, row: LabelRow) -> list[Trajectory]:
    """The labelled solutions of a question with their paths, ordered by solution."""
    turns = {turn.id: turn for turn in record.trajectory}
    solutions = {solution.id: solution for solution in record.solutions}
    rounds = round_verdicts(record, row)
    paths = []
    for labelled in row.solutions:
        solution = solutions[labelled.id]
        last = turns[solution.turn]
        alone = is_aggregate(record, solution)
        own = [last] if alone else _own_turns(record, last)
        verdicts = [rounds.get((turn.agent, turn.round)) for turn in own[:-1]] + [labelled.verdict]
        replies = [
            Reply(turn.text, turn.completion.reasoning, turn.round, verdict)
            for turn, verdict in zip(own, verdicts, strict=True)
        ]
        paths.append(
            Trajectory(
                method=record.method.name,
                teacher=record.model,
                solution=labelled.id,
                agent=labelled.agent,
                kind=AGGREGATE if alone else classify(verdicts),
                replies=tuple(replies),
                verdict=labelled.verdict,
                truncated=last.completion.finish_reason == "length",
            )
        )
    return paths


def preferred(id: str, paths: Iterable[Trajectory], weights: Mapping[str, float], seed: int) -> list[Trajectory]:
    """The correct trajectories of a question, best first: by weight, then in an order drawn from the seed and the id.

    Args:
        weights: of each class; 0, or none: never used.
    """
    usable = [path for path in paths if path.verdict is True and weights.get(path.kind, 0) > 0]
    return sorted(usable, key=lambda path: (-weights[path.kind], digest((seed, id, path.key)), path.key))


def is_aggregate(record: Record, solution: Solution) -> bool:
    """Whether a solution is the method's answer rather than an agent's: it repeats another agent's turn, or it is the
    last of several and has a role that no other solution has."""
    turns = {turn.id: turn for turn in record.trajectory}
    if turns[solution.turn].agent != solution.agent:
        return True
    others = [other for other in record.solutions if other.id != solution.id]
    return (
        bool(others)
        and solution.id == record.solutions[-1].id
        and turns[solution.turn].role not in {turns[other.turn].role for other in others}
    )


def _own_turns(record: Record, last: Turn) -> list[Turn]:
    """The agent's answers up to this solution, oldest first; the last answer of each round."""
    own = {turn.round: turn for turn in record.trajectory if (turn.agent, turn.role) == (last.agent, last.role)}
    own[last.round] = last
    return [own[round] for round in sorted(own) if round <= last.round]


def round_verdicts(record: Record, row: LabelRow) -> Verdicts:
    """Verdicts on the answers of all rounds: from `label.py --rounds all`, else by rules where these can decide.

    Raises:
        UserError: round labels that do not fit the record.
    """
    given = answered(record, all_rounds=True).answers
    rounds = sorted({answer.round for answer in given})
    if row.round_labels is not UNSET:
        if any(len(verdicts) != len(rounds) for verdicts in row.round_labels.values()):
            raise UserError(f"{row.id}: its round labels are not of the {len(rounds)} rounds in the trajectory")
        return {
            (agent, round): verdict
            for agent, verdicts in row.round_labels.items()
            for round, verdict in zip(rounds, verdicts, strict=True)
        }
    if record.answer_type not in CHECKABLE or len(rounds) < 2:
        return {}

    async def check() -> list[bool | None]:
        sample = record.sample()
        return list(await asyncio.gather(*(by_rule(sample, answer.text) for answer in given)))

    verdicts = asyncio.run(check())
    return {(answer.agent, answer.round): verdict for answer, verdict in zip(given, verdicts, strict=True)}
