"""Score the reasoning of solutions: likelihood under a model, and a judge's marks on a rubric.

    python -m eval.reasoning_eval --input_file results/GSM8K/org/model/llm_debate_infer.jsonl --dataset_name GSM8K \
        --model_name_or_path Qwen/Qwen3-0.6B --judge_model internlm/internlm2_5-20b-chat --use_vllm --max_samples 100

Either of the two can be asked for alone. The engine flags are the judge's; the likelihood comes from transformers in
this process.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentark import cli, contamination, evaluation, reasoning
from agentark.engines.choose import Choice, add_engine_flags, choose_engine
from agentark.episode import Defaults
from agentark.evaluation import METRICS_SCHEMA
from agentark.job import Job, adapter, run_job
from agentark.progress import Progress
from agentark.reasoning import Items, Likelihood, Rubric, RubricJudge
from agentark.records import now, read_records
from agentark.rows import Source, read_source
from agentark.tasks import get_task
from agentark.types import MethodInfo, Record, UserError

NAME = "reasoning_eval"


def parse(argv: list[str] | None) -> Namespace:
    parser = cli.Parser(prog=f"python -m eval.{NAME}", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dataset_name", required=True, help="dataset of the file")
    parser.add_argument("--input_file", type=Path, required=True, help="results file with the solutions")
    parser.add_argument("--model_name_or_path", help="score the likelihood under this model")
    parser.add_argument("--judge_model", help="score the rubric with this model")
    parser.add_argument("--rubric", type=Path, default=reasoning.RUBRIC, help="file with the judge's questions")
    parser.add_argument("--solutions", choices=["final", "all"], default="final", help="which of each row")
    parser.add_argument("--max_samples", type=cli.integer(1), help="rows scored, from the first on")
    parser.add_argument("--device", help="for the likelihood, e.g. cpu (default: CUDA if there is one)")
    parser.add_argument("--no_apply_chat_template", action="store_false", dest="chat_template", help="for base models")
    parser.add_argument(
        "--output_dir", type=cli.output_folder, help="write under <output_dir>/<dataset>/<model>/reasoning_eval"
    )
    parser.add_argument("--allow_contamination", action="store_true", help="score a model on its training questions")
    parser.add_argument("--seed", type=cli.integer(0), default=0, help="seed of the judge's run and the intervals")
    parser.add_argument("--overwrite", action="store_true", help="forget earlier marks of the judge")
    parser.add_argument("--debug", action="store_true", help="verbose engine log")
    add_engine_flags(parser)
    args: Namespace = parser.parse_args(argv)
    if args.model_name_or_path is None and args.judge_model is None:
        raise UserError("give --model_name_or_path (likelihood), --judge_model (rubric), or both")
    if args.lora_path is not None and args.judge_model is None:
        raise UserError(
            f"--lora_path {args.lora_path}: is the judge's, and there is no --judge_model; merge an adapter to score it"
        )
    return args


def likelihoods(args: Namespace, items: Items) -> list[Likelihood]:
    trained = contamination.of_model(args.model_name_or_path, None)
    ids = [sample.id for sample, _, _ in items]
    contamination.check(ids, trained, args.model_name_or_path, args.allow_contamination)
    model, _ = cli.resolve_model(args.model_name_or_path, "--model_name_or_path")
    scorer = reasoning.Scorer(model, args.device, args.chat_template)
    asked = [sample.prompt for sample, _, _ in items]
    texts = [text for _, _, text in items]
    found = []
    with Progress(len(items), unit="solutions") as progress:
        for question, text in zip(asked, texts, strict=True):
            found.append(scorer.score(question, text))
            progress.sample(ok=True)
    return found


def judged(
    args: Namespace, rubric: Rubric, items: Items, path: Path, source: Source, judge: Choice
) -> tuple[dict[str, Record], int]:
    """The judge's records by id, and how many calls failed."""
    label, make_engine, *_ = judge
    samples = list(reasoning.to_judge(items))
    failed = run_job(
        Job(
            path=path,
            identity={
                "judge": label,
                "adapter": adapter(args),  # None: as before it was named
                "rubric": rubric.model_dump(),
                "input": source.sha256,
                "seed": args.seed,
            },
            samples=samples,
            order=[sample.id for sample in samples],
            method=RubricJudge(rubric),
            info=MethodInfo("rubric_judge", args.rubric.stem, rubric.model_dump()),
            model=label,
            make_engine=make_engine,
            defaults=Defaults(0.0, 8, args.seed),
            overwrite=args.overwrite,
        )
    )
    return {record.id: record for record in read_records(path)}, failed


def main(argv: list[str] | None = None, choose_engine: Callable[..., Choice] = choose_engine) -> int:
    args = parse(argv)
    task = get_task(args.dataset_name)
    rubric = reasoning.load_rubric(args.rubric)
    judge = choose_engine(args, args.judge_model, "--judge_model") if args.judge_model is not None else None
    source = read_source(args.input_file, task)
    records = source.records[: args.max_samples]
    items = reasoning.items_of(records, args.solutions)
    folder, prefix = args.input_file.parent, f"{args.input_file.stem}.{NAME}."
    if args.output_dir is not None:
        name = (
            cli.resolve_model(args.model_name_or_path, "--model_name_or_path")[1]
            if args.model_name_or_path
            else "judge"
        )
        folder, prefix = args.output_dir / task.name / name / NAME, ""
    evaluation.written_files(folder, prefix)
    figures: dict[str, Any] = {}
    report: dict[str, Any] = {"rows": len(records), "errors": sum(record.error is not None for record in records)}
    rows: list[dict[str, Any]] = [
        {"id": sample.id, "solution": number, "tag": sample.tag} for sample, number, _ in items
    ]
    failed = 0
    if args.model_name_or_path is not None:
        found = likelihoods(args, items)
        figures |= reasoning.likelihood_figures(found, [sample.id for sample, _, _ in items])
        report |= {
            "scored_model": cli.resolve_model(args.model_name_or_path)[1],
            "likelihood": dict(Counter(one.state for one in found)),
        }
        for row, one in zip(rows, found, strict=True):
            row |= {"state": one.state, "nll": one.nll, "tokens": one.tokens}
    if judge is not None:
        judge_path = folder / f"{prefix}judge.jsonl"
        verdicts, failed = judged(args, rubric, items, judge_path, source, judge)
        scores, counts = reasoning.marks(verdicts, rubric, items, args.seed)
        figures |= scores
        report |= {"judge": args.judge_model, "rubric": args.rubric.name, "marks": counts}
        for row in rows:
            verdict = verdicts.get(f"{row['id']}#{row['solution']}")
            row["scores"] = None if verdict is None or verdict.error else verdict.info["scores"]
    report = {
        "schema": METRICS_SCHEMA, "eval": f"eval.{NAME}", "dataset": task.name, "metric": next(iter(figures)),
        "figures": figures, "counts": {"n": len(items)}, "truncated": None, **report,
        **evaluation.about_run(source), "grader": evaluation.grader(), "seed": args.seed, "written": now(),
    }  # fmt: skip
    with evaluation.written(folder, prefix) as files:
        for row in rows:
            files.add(row)
        paths = files.finish(report)
    print(evaluation.table(report))
    print("\n".join(f"written to {path}" for path in paths))
    return 1 if failed else 0


if __name__ == "__main__":
    cli.entry(main)
