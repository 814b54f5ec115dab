"""Grade free text by its overlap with the references (QMSum, HotpotQA, QASPER, NarrativeQA, TruthfulQA).

    python -m eval.short_answer_eval --input_file results/QMSum/Qwen/Qwen3-8B/llm_debate_infer.jsonl \
        --dataset_name QMSum
"""

from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

from agentark import cli
from agentark.engines.choose import Choice, choose_engine
from agentark.evaluation import Attempt, Graded, TextScores, grade_text
from agentark.tasks import Task
from eval import common


def grade(args: Namespace, task: Task, given: Iterable[Attempt]) -> tuple[Iterable[Graded], dict[str, Any]]:
    model = None if args.bertscore_model == "none" else args.bertscore_model
    scores = TextScores(model, args.bertscore_layers, args.bertscore_device)
    graded, about = grade_text(task, given, scores)
    if model is not None and about["bertscore"]["reason"]:
        common.warn(f"no BERTScore: {about['bertscore']['reason']}")
    return graded, {"correct_means": "an exact match after SQuAD normalisation", **about}


def main(argv: list[str] | None = None, choose_engine: Callable[..., Choice] = choose_engine) -> int:
    parser = common.new_parser("short_answer_eval", __doc__)
    parser.add_argument("--bertscore_model", default="roberta-large", help="encoder: hub id or folder; none: no score")
    parser.add_argument("--bertscore_layers", type=cli.integer(1), help="layer (default: bert_score's for that model)")
    parser.add_argument("--bertscore_device", help="e.g. cpu (default: CUDA if there is one)")
    return common.run("short_answer_eval", parser, argv, grade, choose_engine)


if __name__ == "__main__":
    cli.entry(main)
