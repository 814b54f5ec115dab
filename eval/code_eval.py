"""Grade programs by running their tests in the sandbox (HumanEval, MBPP).

    python -m eval.code_eval --input_file results/HumanEval/Qwen/Qwen3-8B/vanilla_infer.jsonl \
        --dataset_name HumanEval --allow_code_execution
    python -m eval.code_eval --model_name_or_path Qwen/Qwen3-8B --dataset_name HumanEval --use_vllm \
        --num_samples 20 --k 1 5 10 --allow_code_execution
"""

from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

from agentark import cli
from agentark.code_grading import CodeRun, grade_code, pass_at_k_figures
from agentark.engines.choose import Choice, choose_engine
from agentark.evaluation import Attempt, Graded
from agentark.tasks import Task
from agentark.types import UserError
from eval import common


def check(args: Namespace) -> None:
    if not args.allow_code_execution:
        raise UserError("eval.code_eval runs code that a model wrote (in a sandbox); allow it: --allow_code_execution")


def grade(args: Namespace, task: Task, given: Iterable[Attempt]) -> tuple[Iterable[Graded], dict[str, Any]]:
    graded, isolation = grade_code(task, list(given), CodeRun(args.test_timeout, args.unsafe_no_isolation))
    figures = pass_at_k_figures(graded, sorted({1, *args.k}), args.seed)
    return graded, {"correct_means": "every test passes", "isolation": isolation, "figures": figures}


def main(argv: list[str] | None = None, choose_engine: Callable[..., Choice] = choose_engine) -> int:
    parser = common.new_parser("code_eval", __doc__)
    parser.add_argument("--allow_code_execution", action="store_true", help="run model-written code, in the sandbox")
    parser.add_argument("--unsafe_no_isolation", action="store_true", help="run code even without isolation")
    parser.add_argument("--test_timeout", type=cli.number(0.1), default=10.0, help="seconds for each test")
    parser.add_argument("--k", type=cli.integer(1), nargs="+", default=[1], help="values of k for pass@k")
    return common.run("code_eval", parser, argv, grade, choose_engine, check)


if __name__ == "__main__":
    cli.entry(main)
