"""What a debate did: who was right in which round, how far they agreed, and what voting alone would have reached.

Verdicts are the labels' where there are labels of all rounds, else the rules' where rules can tell
(distill/select/trajectories.py); nobody's opinion is made up, so every count has its own n.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from agentark import answers
from agentark.evaluation import Graded
from agentark.judge import CHECKABLE, by_rule
from agentark.labels import Candidate, LabelRow, answered
from agentark.records import natural
from agentark.types import Record
from distill.select.trajectories import AGGREGATE, CLASSES, classify, round_verdicts

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
    """Of the method's own answer."""
    rounds: list[int]
    agreed: dict[int, tuple[bool, float]]
    """Round -> (all gave one answer, share of the agents behind the most frequent one)."""
    votes: dict[int, bool | None]
    """Round -> verdict of the majority answer."""


def look(record: Record, row: LabelRow | None, grade: Graded | None) -> Sampled:
    """The verdicts of one good record.

    Args:
        row: its labels, if there are any.
        grade: of its final answer; it goes before the labels.
    """
    given = answered(record, all_rounds=True).answers
    verdicts = dict(round_verdicts(record, row or _bare(record)))
    if not verdicts and row is None and record.answer_type in CHECKABLE:  # one round only
        verdicts = asyncio.run(_ruled(record, given))
    roles = {turn.id: (turn.agent, turn.round) for turn in record.trajectory}
    if row is not None:  # the last round's verdicts are always there, whatever the task
        by_id = {one.id: one.verdict for one in row.solutions}
        verdicts |= {
            roles[one.turn]: by_id[one.id]
            for one in record.solutions
            if by_id.get(one.id) is not None and roles[one.turn][0] == one.agent
        }
    found = {(one.agent, one.round): _extracted(record, one) for one in given}
    rounds = sorted({one.round for one in given})
    agreed, votes = asyncio.run(_votes(record, found, rounds, verdicts))
    agents = sorted({one.agent for one in given}, key=natural)
    steps = {agent: [verdicts.get((agent, place)) for place in rounds if (agent, place) in found] for agent in agents}
    return Sampled(
        verdicts=verdicts,
        answers=found,
        paths={agent: classify(steps[agent]) for agent in agents} if len(rounds) > 1 else {},
        final=_final(record, row, grade),
        rounds=rounds,
        agreed=agreed,
        votes=votes,
    )


def _bare(record: Record) -> LabelRow:
    """Labels that say nothing: rules decide where they can."""
    return LabelRow(**record.fields(), solutions=[], labels=[], judge="rules", input="", token_stats={})


async def _ruled(record: Record, given: Sequence[Candidate]) -> dict[tuple[str, int], bool | None]:
    sample = record.sample()
    found = await asyncio.gather(*(by_rule(sample, one.text) for one in given))
    return {(one.agent, one.round): verdict for one, verdict in zip(given, found, strict=True)}


def _extracted(record: Record, one: Candidate) -> str | None:
    found = answers.extract(one.text, record.answer_type, record.choices)
    return found.value if found else None


def _final(record: Record, row: LabelRow | None, grade: Graded | None) -> bool | None:
    if grade is not None:
        return {"correct": True, "wrong": False}.get(grade.verdict)
    if row is not None and row.labels:
        return row.labels[-1]
    sample = record.sample()
    return asyncio.run(by_rule(sample, record.text_of(record.solutions[-1]))) if sample.gt else None


async def _votes(
    record: Record,
    found: Mapping[tuple[str, int], str | None],
    rounds: Sequence[int],
    verdicts: Mapping[tuple[str, int], bool | None],
) -> tuple[dict[int, tuple[bool, float]], dict[int, bool | None]]:
    """Agreement and majority of every round; rounds in which one agent spoke alone have neither."""
    agreed: dict[int, tuple[bool, float]] = {}
    votes: dict[int, bool | None] = {}
    if record.answer_type in ("code", "text"):
        return agreed, votes  # whole replies are no answers that could be equal
    for place in rounds:
        agents = [agent for agent, round in found if round == place]
        if len(agents) < 2:
            continue
        groups = await answers.group([found[agent, place] for agent in agents], record.answer_type)
        sizes = Counter(one for one in groups if one is not None)
        if not sizes:
            agreed[place], votes[place] = (False, 0.0), None
            continue
        leader, size = sizes.most_common(1)[0]
        agreed[place] = (size == len(agents), size / len(agents))
        votes[place] = verdicts.get((agents[leader], place))
    return agreed, votes


class Debate(Struct, kw_only=True):
    """The sums over a run."""

    questions: int = 0
    final: Counter[State] = field(default_factory=Counter)
    rounds: dict[int, Counter[State]] = field(default_factory=lambda: defaultdict(Counter))
    """Round -> state -> answers of agents."""
    flows: dict[tuple[int, int], Counter[tuple[State, State]]] = field(default_factory=lambda: defaultdict(Counter))
    """(round, next round) -> (state before, state after) -> agents."""
    paths: Counter[str] = field(default_factory=Counter)
    agreement: dict[int, list[tuple[bool, float]]] = field(default_factory=lambda: defaultdict(list))
    votes: dict[str, Counter[tuple[State, State]]] = field(default_factory=lambda: defaultdict(Counter))
    """`first` and `last` round, or the `only` one -> (verdicts of the vote and of the method's answer) -> questions."""
    importance: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """DyLAN: agent -> its score, summed over questions."""
    scored: int = 0
    """Questions with importance scores."""

    def add(self, record: Record, seen: Sampled) -> None:
        self.questions += 1
        self.final[state(seen.final)] += 1
        for (_, place), verdict in seen.verdicts.items():
            if place in seen.rounds:
                self.rounds[place][state(verdict)] += 1
        agents = {agent for agent, _ in seen.answers}
        for before, after in zip(seen.rounds, seen.rounds[1:], strict=False):
            for agent in agents:
                if (agent, before) in seen.answers and (agent, after) in seen.answers:
                    change = (state(seen.verdicts.get((agent, before))), state(seen.verdicts.get((agent, after))))
                    self.flows[before, after][change] += 1
        self.paths.update(seen.paths.values())
        for place, one in seen.agreed.items():
            self.agreement[place].append(one)
        if seen.votes:
            ends = {"first": min(seen.votes), "last": max(seen.votes)}
            for name, place in ends.items() if len(seen.rounds) > 1 else (("only", seen.rounds[0]),):
                self.votes[name][state(seen.votes[place]), state(seen.final)] += 1
        given = record.info.get("importance")
        if isinstance(given, dict):
            self.scored += 1
            for agent, score in given.items():
                self.importance[str(agent)] += float(score)

    @property
    def is_debate(self) -> bool:
        """Whether several agents answered, or one in several rounds."""
        return bool(self.flows or self.agreement or self.importance)

    def path_counts(self) -> dict[str, int]:
        """Class -> agents' paths, every class named."""
        return {name: self.paths[name] for name in CLASSES if name != AGGREGATE}

    def voting(self) -> dict[str, dict[str, int]]:
        """Round (`first` and `last`, or `only`) -> how often its vote was right, and how often the method's answer."""
        table = {}
        for name, counts in self.votes.items():
            known = {pair: count for pair, count in counts.items() if "null" not in pair}
            table[name] = {
                "questions": sum(counts.values()),
                "known": sum(known.values()),
                "vote_right": known.get(("right", "right"), 0) + known.get(("right", "wrong"), 0),
                "answer_right": known.get(("right", "right"), 0) + known.get(("wrong", "right"), 0),
                "both_right": known.get(("right", "right"), 0),
                "only_vote": known.get(("right", "wrong"), 0),
                "only_answer": known.get(("wrong", "right"), 0),
                "neither": known.get(("wrong", "wrong"), 0),
            }
        return table
