"""A results file in numbers: for each question who was right in which round, how the votes went, and what it cost."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from msgspec import UNSET, Struct, field

from agentark import config
from agentark.evaluation import INDEPENDENT
from agentark.files import json_if_there, manifest_of, sessions_of
from agentark.labelled import Question
from agentark.labels import LabelledSolution, LabelRow, answered, answering, by_round
from agentark.records import stored_records
from agentark.tasks import TASKS, get_task
from agentark.team import EVERYBODY, family
from agentark.trajectories import trajectories
from agentark.types import Record, Turn, UserError
from distill.select.choose import CONFIG, SelectConfig, Yielded
from eval.team.debate import Debate, Sampled, look

VOTING = "self_consistency"


class Tokens(Struct, frozen=True):
    """Of a question, or their mean over questions."""

    calls: float
    prompt: float
    completion: float

    @property
    def total(self) -> float:
        return self.prompt + self.completion


def spent(turns: Iterable[Turn]) -> Tokens:
    counts = [_counts(turn) for turn in turns]
    return Tokens(len(counts), sum(prompt for prompt, _ in counts), sum(new for _, new in counts))


def mean_tokens(used: Sequence[Tokens]) -> Tokens:
    """Of several questions, at least one."""
    n = len(used)
    return Tokens(
        sum(one.calls for one in used) / n, sum(one.prompt for one in used) / n, sum(one.completion for one in used) / n
    )


class Asked(Struct, frozen=True):
    """A question that was answered without an error. An answer that nobody can read is not right."""

    right: bool
    """Whether the method's own answer is."""
    spent: Tokens
    members: dict[str, float]
    """Model -> share of its answers in the first round that are right."""
    votes: bytes
    """1 where the majority of the first k answers of the first round is right, else 0, for k = 1, 2, ..."""
    first: "array[float]"
    """Prompt and new tokens of each of these answers, one after the other."""
    right_first: bool
    """Whether any of them is right."""
    right_ever: bool
    """Whether any answer of any round is."""


class Course(Struct, kw_only=True):
    """A results file."""

    path: Path
    dataset: str
    method: str
    model: str
    """As recorded."""
    temperature: float | None
    """Of the run; None: unknown."""
    command: str | None
    """That made it."""
    yielded: Yielded
    asked: dict[str, Asked] = field(default_factory=dict)
    greedy: set[str] = field(default_factory=set)
    """The members that answered at temperature 0."""
    debate: Debate = field(default_factory=Debate)
    errors: int = 0

    @property
    def members(self) -> list[str]:
        """The models that answered in the first round."""
        return list(dict.fromkeys(member for one in self.asked.values() for member in one.members))

    @property
    def replies(self) -> int:
        """The most answers of a question's first round."""
        return max(len(one.votes) for one in self.asked.values())

    @property
    def kind(self) -> str:
        """`vote` (self-consistency), `single` (one call a question), or `team`."""
        if self.method == VOTING:
            return "vote"
        return "single" if all(one.spent.calls == 1 for one in self.asked.values()) else "team"

    def add(self, record: Record, seen: Sampled, row: LabelRow | None, settings: SelectConfig | None) -> None:
        """Add a good record.

        Args:
            row: its labels; None: rules decide.
            settings: of the selection; None: answers to this dataset are not right or wrong, only the debate counts.
        """
        self.debate.add(record, seen)
        if settings is None:
            return
        played, first = record.trajectory, [turn for turn in answering(record) if turn.round == seen.rounds[0]]
        if INDEPENDENT in record.info:  # of answers that are all graded, the last
            played = first = [turn for turn in played if turn.id == record.solutions[-1].turn]
        right = [seen.verdicts.get((turn.agent, turn.round)) is True for turn in first]
        members: dict[str, list[bool]] = {}
        for turn, verdict in zip(first, right, strict=True):
            members.setdefault(turn.completion.model, []).append(verdict)
            if _temperature(record, turn, self.temperature) == 0:
                self.greedy.add(turn.completion.model)
        self.asked[record.id] = Asked(
            right=seen.final is True,
            spent=spent(played),
            members={name: sum(verdicts) / len(verdicts) for name, verdicts in members.items()},
            votes=bytes(seen.polls if len(seen.polls) == len(first) else right),
            first=array("d", chain.from_iterable(_counts(turn) for turn in first)),
            right_first=any(right),
            right_ever=True in seen.verdicts.values() or seen.final is True,
        )
        if self.method != VOTING:
            question = Question(record.sample(), trajectories(record, row or ruled(record, seen)))
            self.yielded.add(question, settings)


def _temperature(record: Record, turn: Turn, otherwise: float | None) -> Any:
    """Of a turn: as the run's team says of its agent, its role or everybody; otherwise as the run does."""
    team = {} if record.team is UNSET else record.team
    said = (team.get(name, {}).get("temperature") for name in (turn.agent, family(turn.role), EVERYBODY))
    return next((temperature for temperature in said if temperature is not None), otherwise)


def prefixes(asked: Asked) -> list[Tokens]:
    """Cost of the first k answers of the first round, for k = 1, 2, ..."""
    prompts, completions = accumulate(asked.first[::2]), accumulate(asked.first[1::2])
    return [Tokens(k, *counts) for k, counts in enumerate(zip(prompts, completions, strict=True), 1)]


def _counts(turn: Turn) -> tuple[int, int]:
    return turn.completion.prompt_tokens, turn.completion.completion_tokens


def ruled(record: Record, seen: Sampled) -> LabelRow:
    """The labels that rules give a record: the verdicts that were seen."""
    turns = {turn.id: turn for turn in record.trajectory}
    rows = []
    for one in record.solutions:
        turn = turns[one.turn]
        own = (turn.agent, turn.round)
        verdict = seen.verdicts[own] if own in seen.verdicts and turn.agent == one.agent else seen.final
        rows.append(
            LabelledSolution(
                id=one.id, text=turn.text, is_correct=verdict, verdict=verdict, by="rule", p_correct=None, mass=None,
                rule=verdict, judge=None, agent=one.agent, round=one.round, answer=one.answer, note=None,
            )
        )  # fmt: skip
    given = answered(record, all_rounds=True).answers
    rounds = by_round(given, [seen.verdicts.get((reply.agent, reply.round)) for reply in given])
    return LabelRow(
        **record.fields(), solutions=rows, labels=[row.verdict for row in rows], judge="rules", input="",
        token_stats={}, round_labels=rounds,
    )  # fmt: skip


def selection() -> SelectConfig:
    """The settings of the selection that `Course.yielded` counts for."""
    return config.load(SelectConfig, CONFIG, [], "--config")


def opened(path: Path, dataset: str, method: str, model: str, yielded: Yielded) -> Course:
    """A course without questions yet."""
    manifest = json_if_there(manifest_of(path))
    about, sessions = manifest.get("config"), sessions_of(manifest)
    temperature = about.get("temperature") if isinstance(about, Mapping) else None
    return Course(
        path=path,
        dataset=dataset,
        method=method,
        model=model,
        temperature=temperature if isinstance(temperature, int | float) else None,
        command=next((str(one["command"]) for one in reversed(sessions) if "command" in one), None),
        yielded=yielded,
    )


def votable(dataset: str) -> bool:
    """Whether its answers are right or wrong."""
    return dataset in TASKS and get_task(dataset).metric == "accuracy"


def read(path: Path, yielded: Yielded) -> Course:
    """A results file of questions whose answers are right or wrong.

    Args:
        yielded: without counts yet.

    Raises:
        UserError: no such file, no results, or another kind of dataset.
    """
    records, _ = stored_records(path)
    if not records:
        raise UserError(f"{path}: holds no results")
    first = records[0]
    if not votable(first.source):
        metric = get_task(first.source).metric if first.source in TASKS else "nothing that we know"
        raise UserError(f"{path}: {first.source} is reported in {metric}, so there is nothing to vote on")
    course, settings = opened(path, first.source, first.method.shown, first.model, yielded), selection()
    for record in records:
        if record.source != course.dataset:
            raise UserError(f"{path}: holds rows of {course.dataset} and of {record.source}")
        if record.error is None and record.solutions:
            course.add(record, look(record, None, None), None, settings)
        else:
            course.errors += 1
    if not course.asked:
        raise UserError(f"{path}: none of its {len(records)} rows has a solution")
    return course
