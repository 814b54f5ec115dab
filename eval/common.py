"""Shared by the evaluation scripts: their flags, the run that makes answers, and the report.

    python -m eval.<name> --dataset_name D --input_file results/.../<method>_infer.jsonl
    python -m eval.<name> --dataset_name D --model_name_or_path M --use_vllm

The first form grades a results file and writes beside it; the second asks the model every question once (or
`--num_samples` times) with method vanilla, through the same runner as inference.py, so it resumes, journals and seeds
in the same way, and then grades the answers.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import structs

from agentark import answers, cli, contamination, evaluation, job
from agentark.config import build
from agentark.engines.choose import Choice, add_engine_flags, choose_engine
from agentark.episode import gather
from agentark.evaluation import INDEPENDENT, METRICS_SCHEMA, Attempt, Graded
from agentark.figures import Tally
from agentark.records import now
from agentark.rows import Source, read_source
from agentark.sampling import add_sampling_flags, saying
from agentark.tasks import Task, get_task
from agentark.types import Chat, Method, Outcome, Sample, UserError
from methods import load_method

Grade = Callable[[Namespace, Task, Iterable[Attempt]], tuple[Iterable[Graded], dict[str, Any]]]
"""(flags, task, attempts) -> the grades, and further keys of metrics.json, complete once all grades are made."""

MODEL_FLAG = "--model_name_or_path"
RESULTS = "vanilla_infer.jsonl"


class Repeated:
    """`num_samples` independent answers of a method to each question, all of them graded."""

    def __init__(self, method: Method, num_samples: int) -> None:
        self.method = method
        self.num_samples = num_samples

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        outcomes = await gather(*(self.method.run(sample, chat) for _ in range(self.num_samples)))
        last = [outcome.solutions[-1] for outcome in outcomes]
        return Outcome(
            solutions=[structs.replace(one, id=number) for number, one in enumerate(last, 1)],
            parse_failures=sum(outcome.parse_failures for outcome in outcomes),
            info={INDEPENDENT: self.num_samples},
        )


def new_parser(name: str, description: str | None) -> cli.Parser:
    """The flags of every evaluation script that grades answers."""
    parser = cli.Parser(prog=f"python -m eval.{name}", description=(description or "").split("\n")[0])
    parser.add_argument("--dataset_name", required=True, help="dataset, e.g. GSM8K")
    parser.add_argument("--input_file", type=Path, help="results file to grade; figures are written beside it")
    parser.add_argument(MODEL_FLAG, help="ask this model instead: hub id, local folder, or smollm2-135m-instruct")
    parser.add_argument("--allow_contamination", action="store_true", help="score a model on its training questions")
    run = parser.add_argument_group(f"answers of a model (with {MODEL_FLAG})")
    run.add_argument("--output_dir", type=cli.output_folder, default=Path("outputs"), help="folder of all evaluations")
    add_sampling_flags(run, "--temperature")
    run.add_argument("--max_tokens", type=cli.integer(1), default=4096, help="new tokens per answer, at most")
    run.add_argument("--num_samples", type=cli.integer(1, 1024), default=1, help="independent answers to each question")
    run.add_argument("--apply_chat_template", action="store_true", dest="chat_template", help="the default")
    run.add_argument("--no_apply_chat_template", action="store_false", dest="chat_template", help="for base models")
    job.add_sample_flags(run)
    run.add_argument("--seed", type=cli.integer(0), default=0, help="seed of the run and of the intervals")
    run.add_argument("--overwrite", action="store_true", help="replace existing answers")
    run.add_argument("--debug", action="store_true", help="verbose engine log")
    add_engine_flags(parser)
    return parser


def run(
    name: str,
    parser: cli.Parser,
    argv: list[str] | None,
    grade: Grade,
    choose_engine: Callable[..., Choice] = choose_engine,
    check: Callable[[Namespace], None] = lambda args: None,
) -> int:
    """Get the answers, grade them, write and print the report. Returns the exit code.

    Args:
        check: raises UserError for flags that this evaluation refuses.
    """
    args: Namespace = parser.parse_args(argv)
    check(args)
    if (args.input_file is None) == (args.model_name_or_path is None):
        raise UserError(f"give either --input_file or {MODEL_FLAG}")
    task = get_task(args.dataset_name)
    if task.grader is None:
        raise UserError(f"{task.name} has no gold answers to evaluate against")
    if name != f"{task.grader}_eval":
        raise UserError(f"eval.{name} does not evaluate {task.name}; use python -m eval.{task.grader}_eval")
    failed = 0
    if args.input_file is not None:
        source = read_source(args.input_file, task)
        folder, prefix = args.input_file.parent, f"{args.input_file.stem}.{name}."
        evaluation.written_files(folder, prefix)
        trained = contamination.seen_by_run(source.manifest_path)
        seen = contamination.check(source.ids, trained, source.records[0].model, args.allow_contamination)
    else:
        source, seen, failed = generate(name, args, task, choose_engine)
        folder, prefix = source.path.parent, ""
    with evaluation.written(folder, prefix) as files:
        tally = Tally()
        try:
            graded, about = grade(args, task, evaluation.Attempts(source.records))
            for one in graded:
                tally.add(one)
                files.add(one)
        finally:
            answers.close_pool()
        summary = tally.summary(args.seed)
        summary["figures"] |= about.pop("figures", {})
        report = _report(name, args, task, source, {**summary, **about}, seen)
        paths = files.finish(report)
    print(evaluation.table(report))
    print("\n".join(f"written to {path}" for path in paths))
    if failed:
        print(f"{failed} samples carry an error and are not graded; retry them with: {cli.command_line()}")
    return 1 if failed else 0


def _report(
    name: str, args: Namespace, task: Task, source: Source, figures: dict[str, Any], seen: int
) -> dict[str, Any]:
    """The content of metrics.json."""
    return {
        "schema": METRICS_SCHEMA,
        "eval": f"eval.{name}",
        "dataset": task.name,
        "metric": task.metric,
        **figures,
        **evaluation.about_run(source),
        "contaminated": seen,
        "grader": evaluation.grader(),
        "seed": args.seed,
        "written": now(),
        "command": cli.command_line(),
    }


def generate(name: str, args: Namespace, task: Task, choose_engine: Callable[..., Choice]) -> tuple[Source, int, int]:
    """Ask the model. Returns its answers, how many of the questions it was trained on, and how many calls failed."""
    loaded, samples = job.select(args, task)
    trained = contamination.of_model(args.model_name_or_path, args.lora_path)
    seen = contamination.check(
        [sample.id for sample in samples], trained, args.model_name_or_path, args.allow_contamination
    )
    method, info = load_method("vanilla")
    choice = choose_engine(args, args.model_name_or_path, MODEL_FLAG)
    label = choice.label
    path = args.output_dir / task.name / label / name / RESULTS
    defaults = job.defaults_of(args, args.max_tokens, label, choice.model)
    runs = {"temperature": defaults.temperature, **defaults.controls}
    identity = job.identity(args, task, loaded, label, defaults)
    failed = job.run_job(
        job.Job(
            path=path,
            identity={
                "method": info.name,
                **identity,
                "num_samples": args.num_samples,
                "chat_template": args.chat_template,
            },
            samples=samples,
            order=[sample.id for sample in loaded.samples],
            method=Repeated(method, args.num_samples),
            info=info,
            model=label,
            make_engine=saying(choice.make, label, choice.model, runs),
            defaults=defaults,
            about=job.origin(loaded, trained),
            overwrite=args.overwrite,
            today=lambda stored: resolved(stored, task),
        )
    )
    source = read_source(path, task)
    asked = {sample.id for sample in samples}
    ids = [id for id in source.ids if id in asked]
    chosen = source.records.take(source.ids[id] for id in ids)
    return structs.replace(source, records=chosen, ids={id: place for place, id in enumerate(ids)}), seen, failed


def resolved(stored: dict[str, Any], task: Task) -> dict[str, Any]:
    """An identity with all options of the dataset; older answers name only those that were given."""
    with suppress(UserError, KeyError):
        return {**stored, "task_options": build(task.options, stored["task_options"], "").model_dump()}
    return stored


def warn(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"warning: {text}\n")
