"""A cell of the ark card: a team, its best member and the students taught by it, on the same questions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from agentark import stats
from agentark.config import nearest
from agentark.systems import Measured, measured
from agentark.types import UserError
from agentark.verdicts import Judged, Verdict, promising, read_verdicts, verdict_on

ALPHA = 0.05
"""Of the adjusted p values."""


class Roles(Struct, frozen=True, kw_only=True):
    """Names of systems; all others are students."""

    best: str
    """The best member: what the students were before training."""
    team: str
    vote: str | None = None
    """The team itself, if what is distilled is the vote."""
    members: Sequence[str] = ()
    """The other members."""

    @property
    def named(self) -> list[tuple[str, str]]:
        """(flag, system)."""
        named = [("--best", self.best), ("--team", self.team), *(("--members", member) for member in self.members)]
        return named if self.vote is None else [*named, ("--vote", self.vote)]


class Share(Struct, frozen=True, kw_only=True):
    """A mean over questions: the share of right answers, or whatever figure the dataset is reported on."""

    accuracy: float
    n: int
    """Questions with a figure."""
    se: float | None
    """None for a single question."""


class Figure(Share, frozen=True, kw_only=True):
    """A system."""

    tokens: float
    """Completion tokens of an answer, all agents together."""


class Trained(Figure, frozen=True, kw_only=True):
    """A student beside the best member, on the questions that both answered without an error."""

    difference: float
    low: float
    high: float
    """95% interval."""
    p: float
    """Two-sided, paired."""
    p_adjusted: float
    """For all students on these questions (Holm)."""

    @property
    def gained(self) -> bool:
        return self.difference > 0 and self.p_adjusted < ALPHA


class Part(Struct, kw_only=True):
    """All systems on one set of questions."""

    dataset: str
    metric: str
    best_member: Figure
    vote: Figure | None
    team: Figure
    members: dict[str, Figure]
    """The other members."""
    students: dict[str, Trained]
    headroom: tuple[float, float, float]
    """The team's gain over the best member, with its 95% interval."""
    retained: dict[str, tuple[float, float, float] | None]
    """Student -> the share of that gain which it keeps, with its 95% interval; None where there is no gain."""
    not_retained: str | None
    """Why no share is given."""
    by_tag: dict[str, dict[str, Share]]
    """System -> tag of the questions (chain length, subject) -> figure; empty where questions have no tags."""
    files: dict[str, str]
    """System -> its graded file."""


class Cell(Part, kw_only=True):
    """A team with all its sets of questions; what stands in the cell itself is of the first."""

    name: str
    set: str
    """Name of the first set."""
    systems: dict[str, str]
    """best_member, vote, team -> name of the system."""
    verdict: Verdict | None
    """What eval.team said of the team; None: it was not asked."""
    verdict_words: str | None
    verdict_right: bool | None
    """Whether students gained where the verdict said so, and did not where it did not; None: it could not tell."""
    sets: dict[str, Part]
    """The further sets."""


def make(
    name: str, sets: Mapping[str, Mapping[str, Path]], roles: Roles, worth: Path | None = None, seed: int = 0
) -> Cell:
    """A cell.

    Args:
        sets: set -> system -> its per_sample.jsonl. The first set has all systems.
        worth: team.json of eval.team.

    Raises:
        UserError: a system is missing or unknown, files are of other questions, or the verdict is on another team.
    """
    first, *more = sets
    check(sets, roles)
    judged = None if worth is None else read_verdicts(worth)
    systems = {system: measured(path) for system, path in sets[first].items()}
    part = _part(first, systems, roles, seed)
    said = None if worth is None or judged is None else _said(worth, judged, systems[roles.team], roles)
    right = None
    if said is not None and said.verdict != "cannot_tell" and part.students:
        expected = promising(said.verdict, roles.team == roles.vote)
        right = expected == any(student.gained for student in part.students.values())
    parts = {other: {system: measured(path) for system, path in sets[other].items()} for other in more}
    return Cell(
        **{field: getattr(part, field) for field in Part.__struct_fields__},
        name=name,
        set=first,
        systems={"best_member": roles.best, "team": roles.team} | ({"vote": roles.vote} if roles.vote else {}),
        verdict=said.verdict if said else None,
        verdict_words=said.words if said else None,
        verdict_right=right,
        sets={other: _part(other, of, roles, seed) for other, of in parts.items()},
    )


def check(sets: Mapping[str, Mapping[str, Path]], roles: Roles) -> None:
    """Raises UserError for a role without its system, a system in two roles, or one that the first set lacks."""
    first, *more = sets
    for flag, system in roles.named:
        if system not in sets[first]:
            raise UserError(f"{flag} {system!r}: no such system in {first} of --rows ({nearest(system, sets[first])})")
    taken = [roles.best, roles.team, *roles.members]
    taken += [roles.vote] if roles.vote not in (None, roles.team) else []
    for system in taken:
        if taken.count(system) > 1:
            flags = " and ".join(dict.fromkeys(flag for flag, named in roles.named if named == system))
            raise UserError(f"{flags} {system!r}: a system has one role (the team alone may also be the vote)")
    for other in more:
        for flag, system in roles.named[:2]:
            if system not in sets[other]:
                raise UserError(f"--rows: {other} has no {system!r}, which {flag} names")
        for system in sets[other]:
            if system not in sets[first]:
                raise UserError(f"--rows {other}/{system}: unknown in {first} ({nearest(system, sets[first])})")


def _said(worth: Path, judged: Sequence[Judged], team: Measured, roles: Roles) -> Judged:
    """The verdict on the team."""
    here = [one for one in judged if one.dataset == team.dataset]
    said = verdict_on(here, team.source, roles.team == roles.vote)
    if said is None:
        of = ", ".join(f"{one.file} ({one.dataset})" for one in judged)
        raise UserError(f"--worth {worth}: is of {of}, not of {team.source or team.path} ({team.dataset})")
    return said


def _part(name: str, systems: Mapping[str, Measured], roles: Roles, seed: int) -> Part:
    best, team = systems[roles.best], systems[roles.team]
    for system, of in systems.items():
        if of.asked != best.asked or of.metric != best.metric:
            raise UserError(
                f"--rows {name}/{system}: {of.path} and {best.path} ({roles.best}) were not asked the same questions"
            )
    others = {roles.best, roles.team, roles.vote, *roles.members}
    students = {system: of for system, of in systems.items() if system not in others}
    headroom, reason = _headroom(best, team)
    retained = {system: None if reason else _retained(best, team, of, seed) for system, of in students.items()}
    if unclear := [system for system, share in retained.items() if share is None and not reason]:
        reason = f"the team's gain may be zero on the questions that {', '.join(unclear)} answered"
    return Part(
        dataset=best.dataset,
        metric=best.metric,
        best_member=_figure(best),
        vote=_figure(systems[roles.vote]) if roles.vote is not None and roles.vote in systems else None,
        team=_figure(team),
        members={member: _figure(systems[member]) for member in roles.members if member in systems},
        students=_students(best, students, seed),
        headroom=headroom,
        retained=retained,
        not_retained=reason,
        by_tag={system: tags for system, of in systems.items() if (tags := _by_tag(of))},
        files={system: str(of.path) for system, of in systems.items()},
    )


def _share(values: Sequence[float]) -> Share:
    accuracy, se = stats.mean_and_se(values)
    return Share(accuracy=accuracy, n=len(values), se=se)


def _figure(of: Measured) -> Figure:
    share = _share([*of.values.values()])
    return Figure(accuracy=share.accuracy, n=share.n, se=share.se, tokens=of.tokens)


def shared(*systems: Measured) -> list[list[float]]:
    """Each system's figures on the questions that all have figures for.

    Raises:
        UserError: there is none.
    """
    keys = sorted(set.intersection(*(set(of.values) for of in systems)))
    if not keys:
        raise UserError(f"{', '.join(str(of.path) for of in systems)}: no question has a figure in all of them")
    return [[of.values[key] for key in keys] for of in systems]


def _students(best: Measured, students: Mapping[str, Measured], seed: int) -> dict[str, Trained]:
    paired = {name: stats.paired(*shared(best, of), seed=seed) for name, of in students.items()}
    adjusted = stats.holm([one.p for one in paired.values()])
    made = {}
    for (name, one), p in zip(paired.items(), adjusted, strict=True):
        figure = _figure(students[name])
        made[name] = Trained(
            accuracy=figure.accuracy, n=figure.n, se=figure.se, tokens=figure.tokens,
            difference=one.difference, low=one.low, high=one.high, p=one.p, p_adjusted=p,
        )  # fmt: skip
    return made


def _headroom(best: Measured, team: Measured) -> tuple[tuple[float, float, float], str | None]:
    """The team's gain with its interval; and why no share of it can be given, if none can."""
    before, after = shared(best, team)
    gains = [b - a for a, b in zip(before, after, strict=True)]
    value, (low, high) = math.fsum(gains) / len(gains), stats.paired_interval(gains)
    reason = f"the team's gain is not clearly above zero: {points(value, low, high)} points"
    return (value, low, high), None if low > 0 else reason


def _retained(best: Measured, team: Measured, student: Measured, seed: int) -> tuple[float, float, float] | None:
    """The share of the team's gain that a student keeps; None: the gain may be 0 on the questions it answered."""
    before, possible, after = shared(best, team, student)
    tops = [c - a for a, c in zip(before, after, strict=True)]
    bottoms = [b - a for a, b in zip(before, possible, strict=True)]
    low, high = stats.ratio_interval(tops, bottoms, seed=seed)
    if math.fsum(bottoms) <= 0 or math.inf in (abs(low), abs(high)):
        return None
    return math.fsum(tops) / math.fsum(bottoms), low, high


def _by_tag(of: Measured) -> dict[str, Share]:
    """The figures by tag; numbers in their order."""
    grouped: dict[str, list[float]] = {}
    for question, value in of.values.items():
        if question in of.tags:
            grouped.setdefault(of.tags[question], []).append(value)
    return {tag: _share(grouped[tag]) for tag in sorted(grouped, key=lambda tag: (len(tag), tag))}


def points(value: float, low: float, high: float) -> str:
    """`+12.5 [8.1, 17.0]`, of shares."""
    return f"{100 * value:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"
