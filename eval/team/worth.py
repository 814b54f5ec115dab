"""What a team is worth: beside its best member, beside a vote at equal tokens, and what selection would take from it.

The best member is chosen on one half of the questions and measured on the other, each half in turn, so that luck in the
choice does not count as skill. Differences are paired; their intervals are Agresti and Min's, their p values exact or
from sign flips, adjusted for all p values of the table.
"""

import shlex
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from pydantic import Field

from agentark import config, stats
from agentark.config import ROOT, Config
from agentark.types import UserError, digest
from agentark.verdicts import Verdict
from distill.select.choose import K_MAX, Yielded
from eval.team import running
from eval.team.course import VOTING, Asked, Course, Tokens, mean_tokens, prefixes

THRESHOLDS = ROOT / "configs" / "eval" / "team.yaml"
BEST, VOTE, TEAM = "best member", "vote", "team"
DECIDED = ("__method_name", "__method_config", "__method_config_name", "__output_path")
"""Flags of a team's run that a vote sets itself."""
GATEWAYS = (
    *("__output", "__variant", "__host", "__port", "__replay", "__idle_timeout"),
    *("__max_body", "__max_open_samples", "__max_calls", "__dataset_name"),
)
"""Flags of agentark.gateway that inference.py has not."""
Key = TypeVar("Key", bound=Hashable)


class Thresholds(Config):
    """See configs/eval/team.yaml."""

    min_gain: float = Field(ge=0, le=1)
    """A smaller gain in accuracy is none."""
    alpha: float = Field(gt=0, lt=1)
    """Of the adjusted p values."""
    equal_tokens: float = Field(gt=0, le=1)
    """A vote that has no more replies counts as one at equal tokens from this share of the team's tokens on."""
    min_yield: float = Field(ge=0, le=1)
    """Share of the questions that must leave a solution to learn from."""
    min_correct: int = Field(ge=1)
    """Right agents that selection wants of a question."""
    k: int = Field(ge=1, le=K_MAX)
    """Most solutions of a question in DA."""

    def yielded(self) -> Yielded:
        """The counts of a selection, before the first question."""
        return Yielded(min_correct=self.min_correct, k=self.k)


def load_thresholds(path: Path = THRESHOLDS, overrides: Sequence[str] = ()) -> Thresholds:
    return config.load(Thresholds, path, overrides, "--set")


class Row(Struct, frozen=True, kw_only=True):
    """A line of the table."""

    name: str
    who: str
    """Models, and how often they were asked."""
    accuracy: float
    se: float | None
    tokens: Tokens | None = None
    """Mean of a question; None: no system of its own."""


class Gap(Struct, frozen=True, kw_only=True):
    """The difference of two lines on the same questions."""

    of: str
    over: str
    difference: float
    low: float
    high: float
    """95% interval."""
    p: float
    p_holm: float = 1.0
    """Adjusted for all p values of the table."""


class Round(Struct, frozen=True, kw_only=True):
    """A round of a team's debate; all counts are of answers by agents, whose verdict may be unknown."""

    round: int
    right: int
    known: int
    gained: int | None = None
    """Wrong in the round before, right now; None: in the first round."""
    lost: int | None = None
    agree: float | None = None
    """Share of the questions on which all agents agree; None: a single agent."""


class Worth(Struct, kw_only=True):
    """A team beside its members and a vote."""

    dataset: str
    team: str
    """Its method."""
    file: str
    """Its results."""
    members: list[str]
    n: int
    """Questions that all compared files answered without an error; rows and gaps are over these."""
    rows: list[Row]
    gaps: list[Gap]
    curve: list[Row]
    """The vote with 1, 2, ... replies."""
    rounds: list[Round]
    paths: dict[str, int]
    """Class -> paths of agents."""
    yielded: Yielded
    equal: bool
    """Whether the vote is one at equal tokens; else it costs less."""
    notes: list[str]
    missing: list[str]
    """Commands that would make what is missing."""
    verdict: Verdict = "cannot_tell"
    words: str = ""

    def gap(self, of: str, over: str) -> Gap | None:
        return next((gap for gap in self.gaps if (gap.of, gap.over) == (of, over)), None)


class Candidate(Struct, frozen=True, kw_only=True):
    """A system that answers alone."""

    name: str
    greedy: bool
    right: Mapping[str, float]
    """Question -> 1 for a right answer, 0 for another; between them for several answers."""
    spent: Mapping[str, Tokens]


class Vote(Struct, frozen=True, kw_only=True):
    """The majority of as many replies as a team's tokens buy."""

    right: Sequence[float]
    curve: Sequence[tuple[Sequence[float], Tokens]]
    """(who is right, mean cost) with 1, 2, ... replies."""
    place: int
    """In the curve."""

    @property
    def cost(self) -> Tokens:
        return self.curve[self.place][1]

    def who(self, used: Tokens, equal: bool) -> str:
        replies = f"{self.place + 1} {'reply' if self.place == 0 else 'replies'} of {len(self.curve)}"
        return replies if equal else f"{replies}, {self.cost.total / used.total:.0%} of the team's tokens"


# ---------------------------------------------------------------- measuring


def measure(team: Course, others: Sequence[Course], thresholds: Thresholds) -> Worth:
    """A team beside the files of its members alone and of votes; the verdict is for eval/team/verdict.py.

    Args:
        others: of the same questions; those of other models or datasets are left out.

    Raises:
        UserError: the files have no question in common.
    """
    fitting = [one for one in others if one.dataset == team.dataset and set(one.members) <= set(team.members)]
    singles = alone(team, [one for one in fitting if one.kind == "single"])
    polls = largest([one for one in fitting if one.kind == "vote"]) or [team]
    ids = [id for id in team.asked if all(id in one.asked for one in polls) and all(id in one.right for one in singles)]
    if not ids:
        named = ", ".join(str(one.path) for one in (team, *fitting))
        raise UserError(f"{team.path}: no question was answered without an error in all of {named}")
    asked = [team.asked[id] for id in ids]
    own = [float(one.right) for one in asked]
    used = mean_tokens([one.spent for one in asked])
    best, _ = crossfit(ids, {one.name: one.right for one in singles})
    vote = _vote(polls, ids, used)
    equal = vote.place + 1 < len(vote.curve) or vote.cost.total >= thresholds.equal_tokens * used.total
    voting = len(vote.curve) > 1 or equal
    rows = [row for greedy in (True, False) for row in _members([one for one in singles if one.greedy is greedy], ids)]
    rows += (
        [_row(f"{VOTE} at {'equal' if equal else 'fewer'} tokens", vote.who(used, equal), vote.right, vote.cost)]
        if voting
        else []
    )
    rows += [
        _row(TEAM, ", ".join(team.members), own, used),
        _row("any answer of round 1 right", "oracle", [float(one.right_first) for one in asked]),
        _row("any answer of the team right", "oracle", [float(one.right_ever) for one in asked]),
    ]
    gaps = [_gap(TEAM, BEST, own, best)]
    gaps += [_gap(TEAM, VOTE, own, vote.right), _gap(VOTE, BEST, vote.right, best)] if voting else []
    return Worth(
        dataset=team.dataset,
        team=team.method,
        file=str(team.path),
        members=team.members,
        n=len(ids),
        rows=rows,
        gaps=gaps,
        curve=[_row(f"vote of {k}", "", right, tokens) for k, (right, tokens) in enumerate(vote.curve, 1)],
        rounds=_rounds(team),
        paths=team.debate.path_counts(),
        yielded=team.yielded,
        equal=equal,
        notes=_notes(team, others, fitting, len(ids)),
        missing=[] if equal else _voting_commands(team, used, vote),
    )


def largest(polls: Sequence[Course]) -> list[Course]:
    """Of each member's votes the file with the most replies; of equally large ones the first."""
    most: dict[tuple[str, ...], Course] = {}
    for one in polls:
        key = tuple(one.members)
        if key not in most or one.replies > most[key].replies:
            most[key] = one
    return [*most.values()]


def alone(team: Course, singles: Sequence[Course]) -> list[Candidate]:
    """The team's members on their own: from files of single answers, else from the team's first round."""
    found: list[Candidate] = []
    for one in singles:
        kind = "" if one.method == "vanilla" else f", {one.method}"
        right = {id: float(asked.right) for id, asked in one.asked.items()}
        costs = {id: asked.spent for id, asked in one.asked.items()}
        greedy = one.members[0] in one.greedy
        name = f"{one.members[0]}{kind}, {'greedy' if greedy else 'sampled'}"
        name += f" ({one.path})" * any(other.name == name for other in found)
        found.append(Candidate(name=name, greedy=greedy, right=right, spent=costs))
    used = {id: _answer(asked) for id, asked in team.asked.items()}
    first = {member: _shares(team, member) for member in team.members}
    whole = {member: shares for member, shares in first.items() if len(shares) == len(used)}
    if not whole:  # no member answers every question
        whole = {
            " or ".join(first): {id: sum(one.members.values()) / len(one.members) for id, one in team.asked.items()}
        }
    for member, shares in whole.items():
        greedy = member in team.greedy
        name = f"{member}, {'greedy' if greedy else 'sampled'}"
        if not any(one.name == name for one in found):
            found.append(Candidate(name=f"{name}, in round 1", greedy=greedy, right=shares, spent=used))
    return found


def _shares(team: Course, member: str) -> dict[str, float]:
    return {id: asked.members[member] for id, asked in team.asked.items() if member in asked.members}


def _answer(asked: Asked) -> Tokens:
    """Mean cost of an answer in the first round."""
    every = prefixes(asked)[-1]
    return Tokens(1, every.prompt / every.calls, every.completion / every.calls)


def crossfit(ids: Sequence[str], scores: Mapping[Key, Mapping[str, float]]) -> tuple[list[float], list[Key]]:
    """(per question the score of the best on the other half of the questions, the names of the best).

    Args:
        scores: name -> question -> score; of equally good ones the first counts.
    """
    halves = [[id for id in ids if int(digest(("half", id)), 16) % 2 == half] for half in (0, 1)]
    best = [max(scores, key=lambda name: sum(scores[name][id] for id in half)) for half in halves]
    chosen = {id: best[1 - side] for side, half in enumerate(halves) for id in half}
    return [scores[chosen[id]][id] for id in ids], list(dict.fromkeys(best))


def _members(of: Sequence[Candidate], ids: Sequence[str]) -> list[Row]:
    """The best of them and their mean."""
    if not of:
        return []
    how = "greedy" if of[0].greedy else "sampled"
    best, names = crossfit(ids, {one.name: one.right for one in of})
    mean = [sum(one.right[id] for one in of) / len(of) for id in ids]
    used = {one.name: mean_tokens([one.spent[id] for id in ids]) for one in of}
    return [
        _row(f"{BEST}, {how}", " or ".join(names), best, mean_tokens([used[name] for name in names])),
        _row(f"mean member, {how}", f"of {len(of)}", mean, mean_tokens([*used.values()])),
    ]


def _curve(course: Course, ids: Sequence[str]) -> list[tuple[list[float], Tokens]]:
    """(who is right, mean cost) of the vote with 1, 2, ... replies."""
    asked = [course.asked[id] for id in ids]
    most = max(len(one.votes) for one in asked)

    def cut(k: int, one: Asked) -> int:
        return min(k, len(one.votes)) - 1

    spent = [prefixes(one) for one in asked]
    return [
        (
            [float(one.votes[cut(k, one)]) for one in asked],
            mean_tokens([costs[cut(k, one)] for one, costs in zip(asked, spent, strict=True)]),
        )
        for k in range(1, most + 1)
    ]


def _vote(polls: Sequence[Course], ids: Sequence[str], used: Tokens) -> Vote:
    """Of several files the better vote, measured like the best member; its cost is that of the first of them."""
    curves = [_curve(one, ids) for one in polls]
    places = [max((k for k, (_, cost) in enumerate(curve) if cost.total <= used.total), default=0) for curve in curves]
    rights = [dict(zip(ids, curve[place][0], strict=True)) for curve, place in zip(curves, places, strict=True)]
    right, chosen = crossfit(ids, dict(enumerate(rights)))
    return Vote(right=right, curve=curves[chosen[0]], place=places[chosen[0]])


def _row(name: str, who: str, right: Sequence[float], tokens: Tokens | None = None) -> Row:
    accuracy, se = stats.mean_and_se(right)
    return Row(name=name, who=who, accuracy=accuracy, se=se, tokens=tokens)


def _gap(of: str, over: str, own: Sequence[float], other: Sequence[float]) -> Gap:
    low, high = stats.paired_interval([a - b for a, b in zip(own, other, strict=True)])
    found = stats.paired(other, own)
    return Gap(of=of, over=over, difference=found.difference, low=low, high=high, p=found.p)


def _rounds(team: Course) -> list[Round]:
    agreed = team.debate.agreed()
    found = []
    for place, counts in sorted(team.debate.rounds.items()):
        moved = next((flow for (_, after), flow in team.debate.flows.items() if after == place), None)
        found.append(
            Round(
                round=place,
                right=counts["right"],
                known=counts["right"] + counts["wrong"],
                gained=None if moved is None else moved["wrong", "right"],
                lost=None if moved is None else moved["right", "wrong"],
                agree=agreed[place][0] if place in agreed else None,
            )
        )
    return found


def _notes(team: Course, others: Sequence[Course], fitting: Sequence[Course], n: int) -> list[str]:
    notes = [f"{one.path} is of other models or questions and was left out" for one in others if one not in fitting]
    if n < len(team.asked):
        notes.append(f"{len(team.asked) - n} of the team's {len(team.asked)} questions are not in all files")
    if team.errors:
        notes.append(f"{team.errors} rows of {team.path} carry an error and were left out")
    return notes


def _voting_commands(team: Course, used: Tokens, vote: Vote) -> list[str]:
    """The commands that make as many votes as the team's tokens buy, one for each member."""
    replies = max(2, round(used.total / max(1.0, vote.curve[0][1].total)))
    made = team.command or f"python inference.py --test_dataset_name {team.dataset} --model_name {team.model}"
    if made.startswith("python -m agentark.gateway "):
        made = made.replace("-m agentark.gateway", f"inference.py --test_dataset_name {team.dataset}", 1)
    kept, members = list[str](), list[str]()
    into = kept
    for word in shlex.split(made):
        if word.startswith("--"):
            name = word.partition("=")[0].replace("-", "_")
            into = members if name == "__team" else [] if name in (*DECIDED, *GATEWAYS) else kept
        into.append(word)
    words = members[1:]
    known = words and ("=" in words[0] or Path(words[0]).is_file())
    commands = []
    for number, member in enumerate(running.members(words if known else [], [team.method], team.dataset), 1):
        name = VOTING + (f"_{number}" if number > 1 else "")
        output = team.path.with_name(f"{name}_infer.jsonl")
        if output.exists():  # with fewer replies
            output = team.path.with_name(f"{name}_of_{replies}_infer.jsonl")
        flags = ("--method_name", VOTING, *member, "--method_config", f"parallel_num={replies}")
        commands.append(shlex.join([*kept, *flags, "--output_path", str(output)]))
    return commands
