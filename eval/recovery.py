"""Does a model recover from a wrong first step? It goes on, greedily, from right solutions with a number changed in it.

    python -m eval.recovery --input_file results/GSM8K/M/llm_debate_infer.jsonl --dataset_name GSM8K \
        --model_name_or_path outputs/students/r_sft --output outputs/recovery/r_sft.json

The last number of the first step is changed by one; each solution is also continued from the step as it was, which says
how often the model would have come to the right answer anyway.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agentark import answers, cli, contamination, recovery
from agentark.exam import greedy
from agentark.files import write_atomically
from agentark.hub import model_config
from agentark.reasoning import Scorer
from agentark.records import now
from agentark.recovery import Planted, Reached, Recovery, reached
from agentark.rows import read_source
from agentark.tasks import Task, get_task
from agentark.types import UserError


def parse(argv: list[str] | None) -> Namespace:
    parser = cli.Parser(prog="python -m eval.recovery", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--input_file", type=Path, required=True, help="results file with the solutions")
    parser.add_argument("--dataset_name", required=True, help="dataset of the file")
    parser.add_argument("--model_name_or_path", required=True, help="model that goes on: hub id or local folder")
    parser.add_argument("--output", type=cli.output_file, required=True, help="JSON file to write")
    parser.add_argument("--max_samples", type=cli.integer(1), help="questions, from the first on")
    parser.add_argument("--max_tokens", type=cli.integer(1), default=1024, help="new tokens, at most")
    parser.add_argument("--batch_size", type=cli.integer(1), default=16, help="solutions continued together")
    parser.add_argument("--device", help="e.g. cpu (default: CUDA if there is one)")
    parser.add_argument("--seed", type=cli.integer(0), default=0, help="seed of the wrong numbers")
    parser.add_argument("--allow_contamination", action="store_true", help="test a model on its training questions")
    args: Namespace = parser.parse_args(argv)
    return args


def continued(args: Namespace, scorer: Scorer, begun: Sequence[tuple[Planted, str]]) -> list[str]:
    """The whole replies of the model, beginnings included."""
    prompts = [[{"role": "user", "content": one.sample.prompt}] for one, _ in begun]
    starts = [text for _, text in begun]
    replies = greedy(scorer.model, scorer.tokenizer, prompts, args.max_tokens, args.batch_size, starts)
    return [start + text for start, (text, _) in zip(starts, replies, strict=True)]


def measure(args: Namespace, task: Task) -> tuple[Reached, Reached]:
    """(how often it comes to the right answer from a wrong first step, and from a right one)."""
    source = read_source(args.input_file, task)
    trained = contamination.of_model(args.model_name_or_path, None)
    contamination.check(source.ids, trained, args.model_name_or_path, args.allow_contamination)
    found = recovery.planted(source.records[: args.max_samples], task, args.seed)
    if not found:
        raise UserError(
            f"--input_file {args.input_file}: holds no right solution of several steps with a number in the first"
        )
    model, _ = cli.resolve_model(args.model_name_or_path, "--model_name_or_path")
    model_config(model, "--model_name_or_path")
    scorer = Scorer(model, args.device)
    if getattr(scorer.tokenizer, "chat_template", None) is None:
        raise UserError(f"--model_name_or_path {args.model_name_or_path}: has no chat template")
    replies = continued(args, scorer, [(one, one.wrong) for one in found] + [(one, one.right) for one in found])
    scores = task.score_many(list(zip([one.sample for one in found] * 2, replies, strict=True)))
    return reached(scores[: len(found)]), reached(scores[len(found) :])


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    task = get_task(args.dataset_name)
    if task.metric != "accuracy":
        raise UserError(f"--dataset_name {task.name}: is reported in {task.metric}; its solutions have no numbers")
    try:
        wrong, right = measure(args, task)
    finally:
        answers.close_pool()
    made = Recovery(model=args.model_name_or_path, dataset=task.name, after_wrong=wrong, after_right=right)
    about = {"input": str(args.input_file), "seed": args.seed, "written": now(), "command": cli.command_line()}
    write_atomically(
        args.output, msgspec.json.format(msgspec.json.encode({**msgspec.to_builtins(made), **about})) + b"\n"
    )
    for name, one in (("wrong", wrong), ("right", right)):
        error = "" if one.se is None else f" ± {one.se:.3f}"
        print(f"from a {name} first step: {one.value:.3f}{error} right ({one.low:.3f} to {one.high:.3f}, n {one.n})")
    print(f"written to {args.output}")
    return 0


if __name__ == "__main__":
    cli.entry(main)
