"""Find out which solutions of a results file are right.

    python label.py --input results/QMSum/Qwen/Qwen3-32B/llm_debate_infer.jsonl --dataset_name QMSum \
        --model Qwen/Qwen2.5-72B-Instruct --tensor_parallel_size 4

Writes `<input>_labeled_by_<judge>.jsonl` beside the input (agentark/labels.py has the rows) and its .manifest.json. A
run that was stopped in any way goes on with the same command.
"""

import os
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from agentark import answers, calibration, cli
from agentark.engines.choose import Choice, add_engine_flags, choose_engine
from agentark.engines.endpoints import endpoints_of
from agentark.episode import Defaults
from agentark.job import Job, adapter, run_job
from agentark.jsonl import Stored
from agentark.judge import LabelConfig, Labeller, label_row, load_prompts
from agentark.labels import Answered, answered, read_labels, summary
from agentark.rows import Source, read_source
from agentark.runner import NoEngine
from agentark.tasks import Task, get_task
from agentark.types import MethodInfo, UserError, digest

RULES = "rules"
"""Stands for the judge's name where there is none."""


def parse(argv: list[str] | None = None) -> Namespace:
    parser = cli.Parser(prog="label.py", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--input", type=Path, required=True, help="results file of inference.py or the published code")
    parser.add_argument("--dataset_name", required=True, help="dataset of that file, e.g. QMSum")
    parser.add_argument("--model", help="the judge, in vLLM unless it is served; not needed with --rules_only")
    parser.add_argument("--output", type=cli.output_file, help="labelled file (default: beside the input)")
    parser.add_argument("--start", type=cli.integer(0), default=0, help="first row of the input")
    parser.add_argument("--end", type=cli.integer(1), help="one past the last row")
    parser.add_argument("--workers", type=cli.integer(1), help="processes of --rules_only (default: one per core)")
    parser.add_argument("--judge_only", action="store_true", help="let only the judge decide")
    parser.add_argument("--rules_only", action="store_true", help="let only the rules decide")
    parser.add_argument(
        "--granularity", choices=["solution", "step"], default="solution", help="step: name the first wrong step too"
    )
    parser.add_argument("--rounds", choices=["last", "all"], default="last", help="all: all agents in all rounds")
    parser.add_argument("--drop_unverified", action="store_true", help="leave out solutions without a verdict")
    parser.add_argument("--calibrate", action="store_true", help="measure the judge, and write a label card")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing labelled file")
    add_engine_flags(parser)
    parser.add_argument("--no_use_vllm", action="store_false", dest="use_vllm", help="run the judge in transformers")
    parser.set_defaults(debug=False, use_vllm=None)
    args: Namespace = parser.parse_args(argv)
    judging = [flag for flag in ("judge_only", "calibrate") if getattr(args, flag)]
    judging += ["granularity step"] * (args.granularity == "step")
    if args.rules_only and judging:
        raise UserError(f"--rules_only: does not go together with --{judging[0]}, which needs a judge")
    if not args.rules_only and args.model is None:
        raise UserError("--model: the judge is missing (or use --rules_only)")
    return args


def choose_judge(args: Namespace) -> Choice:
    """Launched servers when asked for; a served model when the endpoint file names it, else vLLM where installed."""
    if not args.use_modal_batch and args.launch is None:
        served = endpoints_of(args.model, args.model_api_config) is not None
        if args.use_vllm is None:
            args.use_vllm = not served and find_spec("vllm") is not None
    return choose_engine(args, args.model, "--model")


def check(args: Namespace, task: Task) -> None:
    """Raises UserError when the flags ask for something that this dataset cannot give."""
    if task.metric == "none":
        raise UserError(f"--dataset_name {task.name}: has no gold answers to label against")
    if args.rules_only and task.metric not in ("accuracy", "f1"):
        raise UserError(f"--rules_only: rules cannot check the answers of {task.name}; give a judge with --model")
    if args.calibrate and task.metric != "accuracy":
        raise UserError(f"--calibrate: needs a dataset whose answers rules can check, which {task.name} is not")


def select(args: Namespace, source: Source) -> tuple[Stored[Answered], int]:
    """(questions to label, number of rows skipped because they carry an error)."""
    if source.unsolved is not None:
        raise UserError(f"--input {args.input}: the row of {source.unsolved} has no solutions")
    good = [place for id, place in source.ids.items() if id not in source.failed]
    wanted = range(*slice(args.start, args.end).indices(len(source.records)))
    chosen = [place for place in good if place in wanted]
    if not chosen:
        raise UserError(f"--input {args.input}: no row to label from --start {args.start} to --end {args.end}")
    as_asked = partial(answered, all_rounds=args.rounds == "all")
    questions = source.records.take(chosen).map(as_asked)
    if args.calibrate:
        every = source.records.take(good).map(as_asked)
        probed = {one.id: one for one in calibration.with_probes(every, calibration.load_adversarial())}
        questions = questions.map(lambda question: probed.get(question.id, question))
    return questions, len(wanted) - len(chosen)


def main(argv: list[str] | None = None, choose_engine: Callable[[Namespace], Choice] = choose_judge) -> int:
    args = parse(argv)
    task = get_task(args.dataset_name)
    check(args, task)
    source = read_source(args.input, task, "--input")
    questions, skipped = select(args, source)
    rules = Choice(RULES, lambda lock: NoEngine("a run without a judge has called one"))
    judge, make_engine, *_ = rules if args.rules_only else choose_engine(args)
    path = args.output or args.input.with_name(f"{args.input.stem}_labeled_by_{judge.replace('/', '_')}.jsonl")
    if path.resolve() == args.input.resolve():
        raise UserError(f"--output {path}: is the input")
    config = LabelConfig(
        judge=None if args.rules_only else judge,
        rules=not args.judge_only,
        steps=args.granularity == "step",
        all_rounds=args.rounds == "all",
        drop_unverified=args.drop_unverified,
        calibrate=args.calibrate,
    )
    prompts = load_prompts()
    identity = {
        "dataset": task.name,
        "input": source.manifest.get("config_hash") or source.sha256,
        "prompts": digest(prompts.model_dump()),
        "adapter": None if args.rules_only else adapter(args),  # None: as before it was named
    }
    failed = run_job(
        Job(
            path=path,
            identity={**config.model_dump(), **identity},
            samples=questions,
            order=source.ids,
            method=Labeller(config, prompts),
            info=MethodInfo("label", args.granularity, config.model_dump()),
            model=judge,
            make_engine=make_engine,
            defaults=Defaults(temperature=0.0, max_tokens=1, seed=0),
            about={"input": {"path": str(args.input), "sha256": source.sha256}},
            row=label_row,
            workers=args.workers or len(os.sched_getaffinity(0)) if args.rules_only else 1,
            overwrite=args.overwrite,
        )
    )
    if args.calibrate:
        print(calibration.write_card(path, {"judge": judge, "dataset": task.name, "labels": path.name}))
    print(summary(read_labels(path)))
    print(f"written to {path}" + (f"; {skipped} rows of the input carry an error and were skipped" if skipped else ""))
    answers.close_pool()
    if failed:
        print(f"{failed} of {len(questions)} questions carry an error; retry them with: {cli.command_line()}")
    return 1 if failed else 0


if __name__ == "__main__":
    cli.entry(main)
