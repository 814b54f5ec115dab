"""Input and output of labelling: answered questions, and rows of a labelled file.

A row holds the question, every solution with its verdict, and `labels`, the verdicts alone. A verdict is true, false
or null; null means that nobody could decide, never that the solution is wrong.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agentark.jsonl import Line, Stored, latest
from agentark.records import check_schema, natural
from agentark.types import Record, Sample, Solution, TokenStats, Turn

LABELS_SCHEMA = 1
"""Version of the rows (they carry no `schema`, which is what marks a trajectory record)."""

RULE = "rule"
"""Names the rules where they decided without a judge."""


class Candidate(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A full answer to the question, to be judged."""

    text: str
    agent: str
    round: int
    id: int = 0
    """Id of the solution; 0 for the answers of earlier rounds."""
    answer: str | None = None
    """The answer extracted from it."""


class Probe(Struct, frozen=True):
    """A reply that is wrong by construction."""

    kind: str
    text: str


class Answered(Sample, frozen=True, omit_defaults=True, kw_only=True):
    """A question with the solutions to be labelled."""

    solutions: tuple[Candidate, ...]
    answers: tuple[Candidate, ...] = ()
    """Every agent's answer of every round, with `--rounds all`."""
    probes: tuple[Probe, ...] = ()


class LabelledSolution(Struct, frozen=True, kw_only=True):
    """A solution and its verdict."""

    id: int
    text: str
    is_correct: bool | None
    """The verdict, under the name that the published readers know."""
    verdict: bool | None
    by: str | None
    """`rule`, the judge's name, or null where neither could decide."""
    p_correct: float | None
    """The judge's P(true) against P(false); null where it was not asked or its engine cannot tell."""
    mass: float | None
    """P(true) + P(false) before they were made to sum to one."""
    rule: bool | None
    """Verdict of the rules: right, wrong, or null (no answer found, or none that rules can check)."""
    judge: bool | None
    """Verdict of the judge; null where it was not asked or gave none."""
    agent: str
    round: int
    answer: str | None
    note: str | None
    """Why there is no verdict."""
    step_labels: list[int] | UnsetType | None = UNSET
    """Per step 1 before the first wrong one, 0 from it on; null where the judge named none of the steps."""


class JudgedProbe(Struct, frozen=True, kw_only=True):
    """A probe and what the judge said."""

    kind: str
    text: str
    judge: bool | None
    p_correct: float | None


class LabelRow(Sample, frozen=True, kw_only=True, omit_defaults=False):
    """One line of a labelled file."""

    labels_schema: int = LABELS_SCHEMA
    solutions: list[LabelledSolution]
    labels: list[bool | None]
    """The verdicts of `solutions`, in their order."""
    dropped: list[bool | None] | UnsetType = UNSET
    """Verdict of the rules on each solution that `--drop_unverified` has left out."""
    round_labels: dict[str, list[bool | None]] | UnsetType = UNSET
    """Agent -> verdict per round; null also where the agent gave no answer in that round."""
    probes: list[JudgedProbe] | UnsetType = UNSET
    judge: str
    input: str
    """Digest of question and solutions: a row is made again when they change."""
    token_stats: dict[str, TokenStats]
    error: str | None = None


def answered(record: Record, all_rounds: bool) -> Answered:
    """The question and solutions of a record.

    Args:
        all_rounds: also the answers of earlier rounds; see `answering`.
    """
    turns = {turn.id: turn for turn in record.trajectory}
    solutions = tuple(_candidate(turns[one.turn], one) for one in record.solutions)
    before = tuple(map(_candidate, answering(record))) if all_rounds else ()
    return Answered(**record.fields(), solutions=solutions, answers=before)


def answering(record: Record) -> list[Turn]:
    """The agents' answers in all rounds: turns in the role of a solution's turn.

    The aggregate (the last solution) does not count when its role is one that no other solution has.
    """
    turns = {turn.id: turn for turn in record.trajectory}
    roles = {turns[one.turn].role for one in record.solutions[:-1] or record.solutions}
    return [turn for turn in record.trajectory if turn.role in roles]


def _candidate(turn: Turn, solution: Solution | None = None) -> Candidate:
    if solution is None:
        return Candidate(text=turn.text, agent=turn.agent, round=turn.round)
    return Candidate(text=turn.text, agent=solution.agent, round=solution.round, id=solution.id, answer=solution.answer)


def by_round(answers: Sequence[Candidate], verdicts: Sequence[bool | None]) -> dict[str, list[bool | None]]:
    """Agent -> its verdict in every round there was, None where it gave no answer. The last of a round counts."""
    rounds = sorted({one.round for one in answers})
    found = {(one.agent, one.round): verdict for one, verdict in zip(answers, verdicts, strict=True)}
    agents = sorted({one.agent for one in answers}, key=natural)
    return {agent: [found.get((agent, round)) for round in rounds] for agent in agents}


class _Key(Struct):
    id: str
    labels_schema: int


_key_decoder = msgspec.json.Decoder(_Key)
_decoder = msgspec.json.Decoder(LabelRow)


def stored_labels(path: Path) -> tuple[Stored[LabelRow], dict[str, int]]:
    """(the rows of a labelled file, one per id (its last row), in the order of the file; id -> position there).

    Raises:
        UserError: no such file, or a row without an id or of an unknown schema. Reading a row raises it for another
            kind of row.
    """
    return latest(path, str(path), _id_of, _row_in)


def _id_of(line: Line) -> str:
    key = line.decode(_key_decoder, "a labelled row")
    check_schema(line.where, "labels_schema", key.labels_schema, LABELS_SCHEMA)
    return key.id


def _row_in(line: Line) -> LabelRow:
    return line.decode(_decoder, "a labelled row")


def read_labels(path: Path) -> Iterator[LabelRow]:
    """The rows of a labelled file, one per id (its last row).

    Raises:
        UserError: no such file, or a row of another kind.
    """
    return iter(stored_labels(path)[0])


def summary(rows: Iterable[LabelRow]) -> str:
    """The result, in a few lines."""
    good = both = apart = mixed = dropped = 0
    verdicts, deciders, reasons = Counter[bool | None](), Counter[str](), Counter[str]()
    for row in rows:
        if row.error is not None:
            continue
        good += 1
        mixed += {True, False} <= set(row.labels)
        dropped += len(row.dropped or [])
        for one in row.solutions:
            verdicts[one.verdict] += 1
            if one.by is not None:
                deciders[one.by] += 1
            if one.rule is not None and one.judge is not None:
                both += 1
                apart += one.rule != one.judge
            if one.verdict is None and one.note:
                reasons[one.note] += 1
    total = max(1, verdicts.total())
    lines = [
        f"{verdicts.total()} solutions of {good} questions: "
        + ", ".join(f"{verdicts[one]} {name} ({verdicts[one] / total:.0%})" for one, name in _NAMES),
        "decided by " + (", ".join(f"{name}: {count} ({count / total:.0%})" for name, count in sorted(deciders.items()))
                         or "nobody"),
        f"rule and judge disagree on {apart} of the {both} both looked at",
        f"{mixed} questions have both right and wrong solutions",
    ]  # fmt: skip
    lines += [f"{dropped} solutions without a verdict were left out"] * bool(dropped)
    lines += [f"no verdict on {count}: {reason:.200}" for reason, count in reasons.most_common(3)]
    return "\n".join(lines)


_NAMES: tuple[tuple[bool | None, str], ...] = ((True, "true"), (False, "false"), (None, "null"))
