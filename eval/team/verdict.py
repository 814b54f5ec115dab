"""Is a team worth distilling? The verdict on its table, by the thresholds of configs/eval/team.yaml."""

from collections.abc import Sequence

from msgspec import structs

from agentark import stats
from agentark.verdicts import Verdict
from eval.team.course import Course
from eval.team.worth import BEST, TEAM, VOTE, Gap, Thresholds, Worth, measure


def judged(worths: Sequence[Worth], thresholds: Thresholds) -> list[Worth]:
    """The teams of a table with adjusted p values and their verdicts."""
    adjusted = iter(stats.holm([gap.p for worth in worths for gap in worth.gaps]))
    judgements = []
    for worth in worths:
        gaps = [structs.replace(gap, p_holm=next(adjusted)) for gap in worth.gaps]
        adjusted_worth = structs.replace(worth, gaps=gaps)
        verdict, words = judge(adjusted_worth, thresholds)
        judgements.append(structs.replace(adjusted_worth, verdict=verdict, words=words))
    return judgements


def judge(worth: Worth, thresholds: Thresholds) -> tuple[Verdict, str]:
    """The verdict on one team, and the words for it."""
    member, poll, instead = worth.gap(TEAM, BEST), worth.gap(TEAM, VOTE), worth.gap(VOTE, BEST)
    assert member is not None

    def gains(gap: Gap) -> bool:
        return gap.difference >= thresholds.min_gain and gap.low > 0 and gap.p_holm < thresholds.alpha

    def gains_nothing(gap: Gap) -> bool:
        return gap.high < thresholds.min_gain

    few = f"cannot tell: n = {worth.n} is too few"
    left = worth.yielded
    if poll is not None and instead is not None and gains_nothing(poll):
        if gains(instead):
            said = f"{_points(instead, 'the best member')}, the team {_points(poll, 'the vote')}"
            return "distil_the_vote", f"distil the vote instead: {said}"
        if not gains_nothing(member):
            return (
                "cannot_tell",
                f"{few}: {_points(instead, 'the best member')} of a vote that the team does not exceed",
            )
    if gains_nothing(member):
        below = "is below its best member" if member.high < 0 else "gains nothing over its best member"
        open_vote = (
            f"; n = {worth.n} is too few to judge the vote: {_points(instead, 'the best member')}"
            if instead is not None and not gains_nothing(instead)
            else ""
        )
        return "nothing_to_distil", f"nothing to distil: the team {below}: {_points(member)}{open_vote}"
    scarce = f"{left.rsft} of {left.questions} questions leave a solution to learn from"
    if stats.wilson_interval(left.rsft, left.questions)[1] < thresholds.min_yield:
        return "nothing_to_distil", f"nothing to distil: {scarce} (at least {left.min_correct} right agents)"
    if not gains(member):
        return "cannot_tell", f"{few}: {_points(member, 'its best member')}"
    if poll is None or (not worth.equal and gains(poll)):
        return "cannot_tell", (
            f"cannot tell: {_points(member, 'its best member')}, but no vote at equal tokens to compare with"
        )
    if not gains(poll):
        return "cannot_tell", f"{few}: {_points(member, 'its best member')}, but {_points(poll, 'the vote')}"
    if left.rsft < thresholds.min_yield * left.questions:
        return "cannot_tell", f"{few}: {_points(member, 'its best member')}, but {scarce}"
    return "worth_distilling", (
        f"worth distilling: {_points(member, 'its best member')}, {_points(poll, 'the vote at equal tokens')}, "
        f"{left.corrective} questions with corrective paths"
    )


def _points(gap: Gap, over: str | None = None) -> str:
    """`+14.2 points over its best member (95% 8.0 to 20.1)`."""
    named = "" if over is None else f" over {over}"
    return f"{100 * gap.difference:+.1f} points{named} (95% {100 * gap.low:.1f} to {100 * gap.high:.1f})"


def worth_of(courses: Sequence[Course], thresholds: Thresholds) -> list[Worth]:
    """Every team among some files, with its verdict. The others serve as members and votes."""
    others = [course for course in courses if course.kind != "team"]
    teams = [course for course in courses if course.kind == "team"]
    return judged([measure(team, others, thresholds) for team in teams], thresholds)
