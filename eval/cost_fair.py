"""Methods at equal cost: each one's accuracy beside its tokens, and beside plain voting with as many tokens.

    python -m eval.cost_fair --dataset_name GSMSymbolic ChainSum --model_name smollm2-135m-instruct --use_vllm

Every method answers the same questions through inference.py (all its flags work here too, and a study that was
stopped goes on with the same command). Self-consistency is sampled once with `--parallel_num` replies; its first k
replies are a run of self-consistency with k, so the cost of every other method has its own k: the most replies that
cost no more. Difference and p are paired, question by question.
"""

import asyncio
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from agentark import answers, cli, evaluation, stats, summary
from agentark.files import replacing, write_atomically
from agentark.records import now, read_records
from agentark.tasks import Task, get_task
from agentark.types import Record, Solution, UserError
from eval.team import running
from eval.team.course import VOTING, mean_tokens, spent
from eval.team.debate import polled
from eval.team.running import Run, child

COMPARED = ("vanilla", "cot", "llm_debate", "dylan", "mav")


class Point(Struct, frozen=True, kw_only=True):
    """A method on a dataset; counts are means per question."""

    dataset: str
    method: str
    n: int
    """Questions that every method answered without an error."""
    accuracy: float
    se: float | None
    calls: float
    prompt_tokens: float
    completion_tokens: float
    seconds: float | None = None
    """Wall time of the run; unknown for a part of the voting run."""
    parse_failures: int = 0
    votes: int | None = None
    """Replies of self-consistency at the same cost; None for self-consistency itself."""
    voting: float | None = None
    """The accuracy of self-consistency with that number of replies."""
    difference: float | None = None
    """The method's accuracy minus that of self-consistency."""
    low: float | None = None
    high: float | None = None
    """95% bootstrap interval of the difference."""
    p: float | None = None
    p_holm: float | None = None
    """`p` adjusted for all p values of the table."""
    beyond: bool = False
    """The method costs more than all replies of the voting run."""


class Scored(Struct, frozen=True):
    """A results file: what each question cost and whether it was answered right."""

    records: dict[str, Record]
    correct: dict[str, float]
    seconds: float


def parse(argv: list[str] | None) -> tuple[Namespace, list[str]]:
    """(our flags, those for inference.py)."""
    parser = cli.Parser(prog="python -m eval.cost_fair", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dataset_name", nargs="+", required=True, help="datasets with answers that can be voted on")
    parser.add_argument("--methods", nargs="+", default=COMPARED, help=f"compared with {VOTING}")
    parser.add_argument("--parallel_num", type=cli.integer(1, 1024), default=16, help=f"replies of {VOTING}")
    parser.add_argument("--max_samples", type=cli.integer(1), default=64, help="questions of each dataset")
    parser.add_argument("--cost", choices=("total", "completion"), default="total", help="tokens that count as cost")
    parser.add_argument(
        "--output_dir", type=cli.output_folder, default=Path("outputs/cost_fair"), help="table, plot and results"
    )
    args, rest = parser.parse_some(argv)
    running.check_rest(rest)
    return args, rest


def runs(args: Namespace, rest: Sequence[str], dataset: str) -> dict[str, list[str]]:
    """Method -> the flags of its run. Raises UserError for a method that is unknown or not for this dataset."""
    flags = {}
    for method in dict.fromkeys((VOTING, *args.methods)):
        running.check_method(method, dataset)
        flags[method] = [
            *("--method_name", method, "--test_dataset_name", dataset, "--max_samples", str(args.max_samples)),
            *("--output_path", str(args.output_dir / dataset / f"{method}_infer.jsonl"), *rest),
            *(("--method_config", f"parallel_num={args.parallel_num}") if method == VOTING else ()),
        ]
    return flags


def read(path: Path, task: Task) -> Scored:
    records = list(read_records(path))
    graded = zip(records, summary.scores(records), strict=True)
    right = {record.id: score or 0.0 for record, score in graded if record.error is None}
    spans = summary.Spans()
    for record in records:
        spans.add(record)
    return Scored({record.id: record for record in records}, right, spans.busy_seconds())


def means(records: Sequence[Record], candidates: int | None = None) -> dict[str, float]:
    """Mean costs of a question: of whole episodes, or of its first `candidates` replies."""
    used = []
    for record in records:
        kept = {solution.turn for solution in record.solutions[:candidates]}
        used.append(spent(turn for turn in record.trajectory if candidates is None or turn.id in kept))
    mean = mean_tokens(used)
    return {"calls": mean.calls, "prompt_tokens": mean.prompt, "completion_tokens": mean.completion}


def votes(records: Sequence[Record], task: Task, parallel_num: int) -> list[list[float]]:
    """Row k - 1: 1 where the majority of a question's first k replies is right, else 0. Shape (parallel_num, N)."""

    def candidates(record: Record) -> list[Solution]:
        return record.solutions[:parallel_num]

    graded = evaluation.grade_accuracy(task, evaluation.Attempts(records, candidates))
    right = [[next(graded).figures[task.metric] or 0.0 for _ in candidates(record)] for record in records]
    given = ([solution.answer for solution in candidates(record)] for record in records)

    async def grouped() -> list[list[int | None]]:
        return await asyncio.gather(*map(answers.group, given, (record.answer_type for record in records)))

    return [list(of_k) for of_k in zip(*map(polled, asyncio.run(grouped()), right), strict=True)]


def compare(args: Namespace, dataset: str, methods: Sequence[str]) -> tuple[list[Point], list[Point]]:
    """(the methods, the voting curve for k = 1, 2, ...)."""
    task = get_task(dataset)
    scored = {method: read(args.output_dir / dataset / f"{method}_infer.jsonl", task) for method in methods}
    shared = [key for key in scored[VOTING].correct if all(key in results.correct for results in scored.values())]
    if not shared:
        raise UserError(f"--dataset_name {dataset}: no question was answered by every method without an error")
    voters = [scored[VOTING].records[key] for key in shared]
    voted = votes(voters, task, args.parallel_num)

    def point(method: str, correct: Sequence[float], used: Mapping[str, Any], **more: Any) -> Point:
        accuracy, se = stats.mean_and_se(correct)
        return Point(dataset=dataset, method=method, n=len(shared), accuracy=accuracy, se=se, **used, **more)

    def cost(used: Mapping[str, float]) -> float:
        return used["completion_tokens"] + (used["prompt_tokens"] if args.cost == "total" else 0.0)

    costs = [means(voters, k) for k in range(1, args.parallel_num + 1)]
    curve = [point(VOTING, correct, used) for correct, used in zip(voted, costs, strict=True)]
    points = []
    for method, results in scored.items():
        records, correct = [results.records[key] for key in shared], [results.correct[key] for key in shared]
        used, unread = means(records), sum(record.parse_failures for record in records)
        more: dict[str, Any] = {"seconds": results.seconds, "parse_failures": unread}
        if method != VOTING:
            k = max((k for k, other in enumerate(costs, 1) if cost(other) <= cost(used)), default=1)
            beside = stats.paired(voted[k - 1], correct)
            more |= {"votes": k, "voting": beside.mean_a, "difference": beside.difference, "p": beside.p}
            more |= {"low": beside.low, "high": beside.high, "beyond": cost(used) > cost(costs[-1])}
        points.append(point(method, correct, used, **more))
    return points, curve


def table(points: Sequence[Point]) -> str:
    """Markdown; tokens and calls are means per question."""
    lines = [
        "| dataset | method | n | accuracy ± se | calls | prompt tokens | new tokens | seconds | unparsed "
        f"| voting at that cost | difference [95%] | p | p (Holm, of {sum(one.p is not None for one in points)}) |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in sorted(points, key=lambda one: (one.dataset, one.prompt_tokens + one.completion_tokens)):
        beside = "| | | | |"
        if one.votes is not None:
            assert one.voting is not None
            assert one.difference is not None
            assert one.p is not None
            assert one.p_holm is not None
            more = "all " if one.beyond else ""
            beside = (
                f"| {one.voting:.3f} ({more}{one.votes} {'reply' if one.votes == 1 else 'replies'}) "
                f"| {one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}] "
                + "".join(f"| {'< 0.001' if p < 0.001 else format(p, '.3f')} " for p in (one.p, one.p_holm))
                + "|"
            )
        error = "" if one.se is None else f" ± {one.se:.3f}"
        lines.append(
            f"| {one.dataset} | {one.method} | {one.n} | {one.accuracy:.3f}{error} | {one.calls:.1f} "
            f"| {one.prompt_tokens:.0f} | {one.completion_tokens:.0f} | {one.seconds or 0:.0f} | {one.parse_failures} "
            f"{beside}"
        )
    return "\n".join(lines)


def plot(points: Sequence[Point], curve: Sequence[Point], path: Path, cost: str) -> None:
    """Accuracy against tokens per question, a panel per dataset."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    def tokens_of(point: Point) -> float:
        return point.completion_tokens + (point.prompt_tokens if cost == "total" else 0.0)

    datasets = list(dict.fromkeys(point.dataset for point in points))
    size = (6 * len(datasets), 4.8)
    figure, axes = pyplot.subplots(1, len(datasets), figsize=size, squeeze=False, layout="constrained")
    for axis, dataset in zip(axes[0], datasets, strict=True):
        line = [point for point in curve if point.dataset == dataset]
        x, y = [tokens_of(point) for point in line], [point.accuracy for point in line]
        low = [point.accuracy - (point.se or 0.0) for point in line]
        high = [point.accuracy + (point.se or 0.0) for point in line]
        axis.plot(x, y, color="0.4", marker=".", label=f"{VOTING}, 1 to {len(line)} replies")
        axis.fill_between(x, low, high, color="0.85")
        for point in points:
            if point.dataset == dataset and point.method != VOTING:
                axis.errorbar(tokens_of(point), point.accuracy, yerr=point.se, fmt="o", capsize=3, label=point.method)
        axis.set_xscale("log")
        axis.set_xlabel("tokens per question" + (" (prompt and new)" if cost == "total" else " (new)"))
        axis.set_ylabel("accuracy (± standard error)")
        axis.set_title(f"{dataset}, n = {line[0].n}")
        axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=130)
    pyplot.close(figure)


def main(argv: list[str] | None = None, run: Run = child) -> int:
    args, rest = parse(argv)
    running.check_votable(args.dataset_name)
    plans = {dataset: runs(args, rest, dataset) for dataset in dict.fromkeys(args.dataset_name)}
    if code := running.all_of([plan.values() for plan in plans.values()], run):
        return code
    try:
        compared = [compare(args, dataset, list(plan)) for dataset, plan in plans.items()]
    finally:
        answers.close_pool()
    points = [point for methods, _ in compared for point in methods]
    curve = [point for _, voted in compared for point in voted]
    adjusted = iter(stats.holm([point.p for point in points if point.p is not None]))
    points = [point if point.p is None else structs.replace(point, p_holm=next(adjusted)) for point in points]
    text = table(points)
    report = {"command": cli.command_line(), "written": now(), "cost": args.cost, "methods": points, "voting": curve}
    write_atomically(
        args.output_dir / "cost_fair.json", msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    )
    write_atomically(args.output_dir / "cost_fair.md", text.encode() + b"\n")
    plot(points, curve, args.output_dir / "cost_fair.png", args.cost)
    print(text)
    print(f"written to {args.output_dir}: cost_fair.md, cost_fair.json, cost_fair.png")
    return 0


if __name__ == "__main__":
    cli.entry(main)
