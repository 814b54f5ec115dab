"""Grade multiple-choice answers (MMLU, MedMCQA, MedQA, GPQA, ...).

python -m eval.choice_eval --input_file results/MMLU/Qwen/Qwen3-8B/llm_debate_infer.jsonl --dataset_name MMLU
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
    return grade_accuracy(task, given), {"correct_means": "the reply names the gold option, by letter or full text"}


def main(argv: list[str] | None = None, choose_engine: Callable[..., Choice] = choose_engine) -> int:
    return common.run("choice_eval", common.new_parser("choice_eval", __doc__), argv, grade, choose_engine)


if __name__ == "__main__":
    cli.entry(main)
