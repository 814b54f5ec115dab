"""The course of a debate: who was right in which round, how far agents agreed, and how voting alone would have done.

Verdicts come from the labels where these cover all rounds, else from rules where these can decide
(agentark/trajectories.py). No verdict is made up, so every count has its own n.
"""

import asyncio
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec import Struct, field

from agentark import answers
from agentark.evaluation import Graded
from agentark.judge import CHECKABLE, by_rule
from agentark.labels import Candidate, LabelRow, answered
from agentark.records import natural
from agentark.trajectories import AGGREGATE, CLASSES, classify, round_verdicts
from agentark.types import Record

State = str
STATES: tuple[State, ...] = ("right", "wrong", "null")


def state(verdict: bool | None) -> State:
    return "null" if verdict is None else "right" if verdict else "wrong"


class Sampled(Struct, kw_only=True):
    """One question of a run, seen through its verdicts."""

    verdicts: dict[tuple[str, int], bool | None]
    """(agent, round) -> verdict."""
    answers: dict[tuple[str, int], str | None]
    """(agent, round) -> extracted answer."""
    paths: dict[str, str]
    """Agent -> class of its path."""
    final: bool | None
    """Verdict on the method's own answer."""
    rounds: list[int]
    agreed: dict[int, tuple[bool, float]]
    """Round -> (all gave one answer, share of the agents behind the most frequent one)."""
    votes: dict[int, bool | None]
    """Round -> verdict of the majority answer."""
    polls: list[bool]
    """Whether the majority of the first k answers of the first round is right, for k = 1, 2, ..."""


def look(record: Record, row: LabelRow | None, grade: Graded | None) -> Sampled:
    """The verdicts of one good record.

    Args:
        row: its labels, if there are any.
        grade: of its final answer; it overrides the labels.
    """
    given = answered(record, all_rounds=True).answers
    verdicts = dict(round_verdicts(record, row or _bare(record)))
    if not verdicts and row is None and record.answer_type in CHECKABLE:  # one round only
        verdicts = asyncio.run(_ruled(record, given))
    roles = {turn.id: (turn.agent, turn.round) for turn in record.trajectory}
    if row is not None:  # the last round's verdicts are always there, whatever the task
        by_id = {solution.id: solution.verdict for solution in row.solutions}
        verdicts |= {
            roles[solution.turn]: by_id[solution.id]
            for solution in record.solutions
            if by_id.get(solution.id) is not None and roles[solution.turn][0] == solution.agent
        }
    extracted = {(reply.agent, reply.round): _extracted(record, reply) for reply in given}
    verdicts = {key: verdict for key, verdict in verdicts.items() if verdict is not None or key in extracted}
    rounds = sorted({reply.round for reply in given})
    agreed, votes, polls = asyncio.run(_votes(record, extracted, rounds, verdicts))
    agents = sorted({reply.agent for reply in given}, key=natural) if len(rounds) > 1 else []
    spoken = {agent: [(agent, round) for round in rounds if (agent, round) in extracted] for agent in agents}
    return Sampled(
        verdicts=verdicts,
        answers=extracted,
        paths={agent: classify([verdicts.get(key) for key in keys]) for agent, keys in spoken.items()},
        final=_final(record, row, grade),
        rounds=rounds,
        agreed=agreed,
        votes=votes,
        polls=polls,
    )


def _bare(record: Record) -> LabelRow:
    """Labels without a verdict: rules decide where they can."""
    return LabelRow(**record.fields(), solutions=[], labels=[], judge="rules", input="", token_stats={})


async def _ruled(record: Record, given: Sequence[Candidate]) -> dict[tuple[str, int], bool | None]:
    sample = record.sample()
    verdicts = await asyncio.gather(*(by_rule(sample, reply.text) for reply in given))
    return {(reply.agent, reply.round): verdict for reply, verdict in zip(given, verdicts, strict=True)}


def _extracted(record: Record, reply: Candidate) -> str | None:
    answer = answers.extract(reply.text, record.answer_type, record.choices)
    return answer.value if answer else None


def _final(record: Record, row: LabelRow | None, grade: Graded | None) -> bool | None:
    if grade is not None:
        return {"correct": True, "wrong": False}.get(grade.verdict)
    if row is not None and row.labels:
        return row.labels[-1]
    sample = record.sample()
    if not sample.gt or not record.solutions:
        return None
    return asyncio.run(by_rule(sample, record.text_of(record.solutions[-1])))


async def _votes(
    record: Record,
    extracted: Mapping[tuple[str, int], str | None],
    rounds: Sequence[int],
    verdicts: Mapping[tuple[str, int], bool | None],
) -> tuple[dict[int, tuple[bool, float]], dict[int, bool | None], list[bool]]:
    """Agreement and majority of every round (a round with a single agent has neither), and the polls of the first."""
    agreed: dict[int, tuple[bool, float]] = {}
    votes: dict[int, bool | None] = {}
    polls: list[bool] = []
    if record.answer_type in ("code", "text"):
        return agreed, votes, polls  # whole replies are not answers that could be equal
    for round in rounds:
        agents = [agent for agent, own in extracted if own == round]
        groups = await answers.group([extracted[agent, round] for agent in agents], record.answer_type)
        if round == rounds[0]:
            polls = polled(groups, [verdicts.get((agent, round)) is True for agent in agents])
        if len(agents) < 2:
            continue
        sizes = Counter(leader for leader in groups if leader is not None)
        if not sizes:
            agreed[round], votes[round] = (False, 0.0), None
            continue
        leader, size = sizes.most_common(1)[0]
        agreed[round] = (size == len(agents), size / len(agents))
        votes[round] = verdicts.get((agents[leader], round))
    return agreed, votes, polls


Right = TypeVar("Right", bool, float)


def polled(groups: Sequence[int | None], right: Sequence[Right]) -> list[Right]:
    """For k = 1, 2, ...: `right` of the majority answer among the first k, ties to the first seen.

    Args:
        groups: for each answer the first one that it equals, None where there is no answer (`answers.group`).
        right: of each answer; of the first where nobody has answered.
    """
    counts: Counter[int] = Counter()
    found = []
    for leader in groups:
        if leader is not None:
            counts[leader] += 1
        found.append(right[counts.most_common(1)[0][0] if counts else 0])
    return found


class Debate(Struct, kw_only=True):
    """The sums over a run."""

    questions: int = 0
    final: Counter[State] = field(default_factory=Counter)
    rounds: dict[int, Counter[State]] = field(default_factory=lambda: defaultdict(Counter))
    """Round -> state -> answers of agents."""
    flows: dict[tuple[int, int], Counter[tuple[State, State]]] = field(default_factory=lambda: defaultdict(Counter))
    """(round, next round) -> (state before, state after) -> agents."""
    paths: Counter[str] = field(default_factory=Counter)
    agreement: dict[int, tuple["array[int]", "array[float]"]] = field(
        default_factory=lambda: defaultdict(lambda: (array("B"), array("d")))
    )
    """Round -> per question, whether all agreed, and the share of the largest group."""
    votes: dict[str, Counter[tuple[State, State]]] = field(default_factory=lambda: defaultdict(Counter))
    """`first` and `last` round, or the `only` one -> (verdicts of the vote and of the method's answer) -> questions."""
    importance: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """DyLAN: agent -> its score, summed over questions."""
    scored: int = 0
    """Questions with importance scores."""

    def add(self, record: Record, seen: Sampled) -> None:
        self.questions += 1
        self.final[state(seen.final)] += 1
        for (_, round), verdict in seen.verdicts.items():
            if round in seen.rounds:
                self.rounds[round][state(verdict)] += 1
        agents = {agent for agent, _ in seen.answers}
        for before, after in zip(seen.rounds, seen.rounds[1:], strict=False):
            for agent in agents:
                if (agent, before) in seen.answers and (agent, after) in seen.answers:
                    change = (state(seen.verdicts.get((agent, before))), state(seen.verdicts.get((agent, after))))
                    self.flows[before, after][change] += 1
        self.paths.update(seen.paths.values())
        for round, agreed in seen.agreed.items():
            full, largest = self.agreement[round]
            full.append(agreed[0])
            largest.append(agreed[1])
        if seen.votes:
            ends = {"first": min(seen.votes), "last": max(seen.votes)}
            for name, round in ends.items() if len(seen.rounds) > 1 else (("only", seen.rounds[0]),):
                self.votes[name][state(seen.votes[round]), state(seen.final)] += 1
        given = record.info.get("importance")
        if isinstance(given, dict):
            self.scored += 1
            for agent, score in given.items():
                self.importance[str(agent)] += float(score)

    @property
    def is_debate(self) -> bool:
        """Whether several agents answered, at once or in turns, or one in several rounds."""
        return bool(self.flows or self.agreement or self.importance or len(self.rounds) > 1)

    def agreed(self) -> dict[int, tuple[float, float, int]]:
        """Round -> (share of questions on which all agree, mean share of the largest group, questions)."""
        return {
            round: (sum(full) / len(full), sum(largest) / len(largest), len(full))
            for round, (full, largest) in sorted(self.agreement.items())
        }

    def path_counts(self) -> dict[str, int]:
        """Class -> agents' paths, every class named."""
        return {name: self.paths[name] for name in CLASSES if name != AGGREGATE}

    def voting(self) -> dict[str, dict[str, int]]:
        """Round (`first` and `last`, or `only`) -> how often its vote was right, and how often the method's answer."""
        table = {}
        for name, counts in self.votes.items():
            both, only_vote = counts["right", "right"], counts["right", "wrong"]
            only_answer, neither = counts["wrong", "right"], counts["wrong", "wrong"]
            table[name] = {
                "questions": counts.total(),
                "known": both + only_vote + only_answer + neither,
                "vote_right": both + only_vote,
                "answer_right": both + only_answer,
                "both_right": both,
                "only_vote": only_vote,
                "only_answer": only_answer,
                "neither": neither,
            }
        return table
