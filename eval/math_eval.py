"""Grade mathematical answers by equivalence (GSM8K, MATH, MATH-500, SVAMP, ...).

python -m eval.math_eval --input_file results/MATH/Qwen/Qwen3-8B/mav_infer.jsonl --dataset_name MATH
"""

from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

from agentark import cli
from agentark.engines.choose import Choice, choose_engine
from agentark.evaluation import Attempt, Graded, grade_accuracy
from agentark.tasks import Task
from eval import common


def grade(args: Namespace, task: Task, given: Iterable[Attempt]) -> tuple[Iterable[Graded], dict[str, Any]]:
    return grade_accuracy(task, given), {"correct_means": "the answer equals the gold answer (agentark/answers.py)"}


def main(argv: list[str] | None = None, choose_engine: Callable[..., Choice] = choose_engine) -> int:
    return common.run("math_eval", common.new_parser("math_eval", __doc__), argv, grade, choose_engine)


if __name__ == "__main__":
    cli.entry(main)
