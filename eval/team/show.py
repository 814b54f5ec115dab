"""The worth of teams as Markdown and as a picture."""

from collections.abc import Sequence
from pathlib import Path

from agentark.files import replacing
from eval.team.worth import TEAM, VOTE, Worth

PANEL = (6.5, 4.6)
"""Inches."""


def markdown(worths: Sequence[Worth]) -> str:
    """Every team with its verdict and tables; p values are adjusted for all that stand here."""
    count = sum(len(worth.gaps) for worth in worths)
    return "\n\n".join(_team(worth, count) for worth in worths)


def _team(worth: Worth, count: int) -> str:
    lines = [
        f"## {worth.dataset}: {worth.team} ({worth.file})",
        "",
        f"**{worth.verdict}**: {worth.words}",
        "",
        f"| n = {worth.n} | who | accuracy ± se | calls | prompt tokens | new tokens |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in worth.rows:
        used = row.tokens
        cost = "| | |" if used is None else f"{used.calls:.1f} | {used.prompt:.0f} | {used.completion:.0f} |"
        lines.append(f"| {row.name} | {row.who} | {share(row.accuracy, row.se)} | {cost}")
    lines += ["", f"| difference | points [95%] | p | p (Holm, of {count}) |", "|---|--:|--:|--:|"]
    for gap in worth.gaps:
        points = f"{100 * gap.difference:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
        lines.append(f"| {gap.of} − {gap.over} | {points} | {_p(gap.p)} | {_p(gap.p_holm)} |")
    lines += ["", "| round | right, of answers | wrong → right | right → wrong | all agree |", "|--:|--:|--:|--:|--:|"]
    for place in worth.rounds:
        moved = ["–" if value is None else str(value) for value in (place.gained, place.lost)]
        agree = "–" if place.agree is None else f"{place.agree:.0%}"
        lines.append(f"| {place.round} | {place.right} of {place.known} | {moved[0]} | {moved[1]} | {agree} |")
    lines += ["", left(worth), "", *(f"- {note}" for note in worth.notes)]
    lines += [f"- missing, to be made with: `{command}`" for command in worth.missing]
    return "\n".join(lines).rstrip()


def left(worth: Worth) -> str:
    """What selection would take, in a sentence."""
    made = worth.yielded
    return (
        f"Selection would take, of {made.questions} questions, {made.enough} with at least {made.min_correct} right "
        f"agents: {made.rsft} rows for R-SFT, {made.da} for DA (k = {made.k}); {made.corrective} questions have a "
        "corrective path."
    )


def share(accuracy: float, se: float | None) -> str:
    return f"{accuracy:.3f}" + ("" if se is None else f" ± {se:.3f}")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def plot(worths: Sequence[Worth], path: Path) -> None:
    """Accuracy over tokens of a question, a panel for each team."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    size = (PANEL[0] * len(worths), PANEL[1])
    figure, axes = pyplot.subplots(1, len(worths), figsize=size, squeeze=False, layout="constrained")
    for axis, worth in zip(axes[0], worths, strict=True):
        x = [row.tokens.total for row in worth.curve if row.tokens is not None]
        axis.plot(x, [row.accuracy for row in worth.curve], color="0.6", marker=".", label="vote, 1 reply and more")
        for row in worth.rows:
            if row.tokens is None:
                axis.axhline(
                    row.accuracy, color="0.8", linestyle="--" if "round 1" in row.name else ":", label=row.name
                )
                continue
            mark = "D" if row.name == TEAM else "s" if row.name.startswith(VOTE) else "o"
            axis.errorbar(row.tokens.total, row.accuracy, yerr=row.se, fmt=mark, capsize=3, label=row.name)
        axis.set_xscale("log")
        axis.set_xlabel("tokens per question (prompt and new)")
        axis.set_ylabel("accuracy (± standard error)")
        axis.set_title(f"{worth.dataset}, {worth.team}, n = {worth.n}\n{worth.verdict.replace('_', ' ')}", fontsize=10)
        axis.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=130)
    pyplot.close(figure)
