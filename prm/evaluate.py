"""Evaluate a reward model: benchmarks of step errors, best of n on labelled solutions, and probes.

    python -m prm.evaluate --prm outputs/prm_gsm8k --benchmark processbench prmbench --data_dir data
    python -m prm.evaluate --prm outputs/prm_gsm8k --input results/GSM8K/.../labeled.jsonl

Benchmarks come from files of --data_dir (`processbench*.json*`, `prmbench*.json*`) or from the hub.

    ProcessBench   {"id", "problem", "steps": [...], "label": index of the first wrong step or -1}
    PRMBench       {"question", "modified_process": [...], "error_steps": [numbers from 1], "classification"}
"""

import asyncio
import random
import re
import sys
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from agentark import answers, cli, hub, jsonl
from agentark.files import check_file, json_in, write_atomically
from agentark.rows import Question, questions
from agentark.stats import mean_and_se
from agentark.steps import one_step
from agentark.tasks import data_folder
from agentark.types import UserError
from prm.figures import THRESHOLD, f1
from prm.score import AGGREGATES, Scorer, best, fitting_steps

HUB = {
    "processbench": ("Qwen/ProcessBench", ("gsm8k", "math", "olympiadbench", "omnimath")),
    "prmbench": ("hitsmr/PRMBench_Preview", ("train",)),
}
SURE = 1.96
"""A gap must exceed this many standard errors."""
Row = dict[str, Any]


def benchmark_rows(name: str, data_dir: Path | None) -> dict[str, list[Row]]:
    """Split -> rows, from files whose names begin with the benchmark's name, else from the hub."""
    if data_dir is None:
        source, splits = HUB[name]
        return {split: list(hub.rows(source, f"--benchmark {name}", split)) for split in splits}
    files = sorted(data_dir.glob(f"{name}*.json*"))
    if not files:
        raise UserError(f"--data_dir {data_dir}: no file {name}*.jsonl or {name}*.json in it")
    return {file.stem.removeprefix(name).strip("_-") or name: _rows(file) for file in files}


def _rows(path: Path) -> list[Row]:
    rows: list[Row]
    if path.read_bytes().lstrip(BOM_UTF8 + b" \t\r\n").startswith(b"["):
        rows = json_in(path)
        if not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: expected a list of objects")
    else:
        rows = [row for _, row in jsonl.objects(path, str(path))]
    if not rows:
        raise UserError(f"{path}: holds no problems")
    return rows


def _field(row: Row, key: str, kind: type, where: str) -> Any:
    if not isinstance(row.get(key), kind):
        raise UserError(f"{where}: {key!r} must be a {kind.__name__}, found {row.get(key)!r:.80}")
    return row[key]


def _listed(row: Row, key: str, kind: type, where: str) -> list[Any]:
    values: list[Any] = _field(row, key, list, where)
    if not all(isinstance(value, kind) for value in values):
        raise UserError(f"{where}: {key!r} must be a list of {kind.__name__}, found {values!r:.80}")
    return values


def _steps(row: Row, key: str, where: str) -> list[str]:
    if not (steps := _listed(row, key, str, where)):
        raise UserError(f"{where}: {key!r} must have at least one step")
    return steps


def score_steps(scorer: Scorer, problems: Sequence[tuple[str, Sequence[str]]]) -> list[list[float] | None]:
    """p(right) of the given steps, which are not split again."""
    return scorer.score_encoded(
        [fitting_steps(scorer.codec, prompt, [one_step(step) for step in steps]) for prompt, steps in problems]
    )


def processbench(scorer: Scorer, rows: Sequence[Row], where: str) -> dict[str, Any]:
    """Accuracy on solutions with an error (its step named), on right solutions (no step named), and the harmonic mean.

    Without solutions of a kind its accuracy and the mean are null.

    Source: Zheng et al. 2024, arXiv 2412.06559, section 2.
    """
    problems = [(_field(row, "problem", str, where), _steps(row, "steps", where)) for row in rows]
    labels = [_field(row, "label", int, where) for row in rows]
    scores = score_steps(scorer, problems)
    hits: dict[bool, list[float]] = {True: [], False: []}
    for label, steps in zip(labels, scores, strict=True):
        first_wrong = next((index for index, score in enumerate(steps or []) if score < THRESHOLD), -1)
        hits[label >= 0].append(float(steps is not None and first_wrong == label))
    wrong, right = (sum(graded) / len(graded) if graded else None for graded in (hits[True], hits[False]))
    mean = None
    if wrong is not None and right is not None:
        mean = 2 * wrong * right / (wrong + right) if wrong + right else 0.0
    return {
        "n": len(rows),
        "too_long": scores.count(None),
        "accuracy_wrong": wrong,
        "accuracy_right": right,
        "f1": mean,
    }


def prmbench(scorer: Scorer, rows: Sequence[Row], where: str) -> dict[str, Any]:
    """F1 of right steps, F1 of wrong steps, and their mean (the PRM score), over all and per class.

    Source: Song et al. 2025, arXiv 2501.03124, section 3.
    """
    problems = [(_field(row, "question", str, where), _steps(row, "modified_process", where)) for row in rows]
    errors = [set(_listed(row, "error_steps", int, where)) for row in rows]
    scores = score_steps(scorer, problems)
    said: dict[str, list[bool]] = defaultdict(list)
    true: dict[str, list[bool]] = defaultdict(list)
    for row, wrong, steps in zip(rows, errors, scores, strict=True):
        for name in ("all", str(row.get("classification", "unnamed"))):
            said[name] += [score >= THRESHOLD for score in steps or []]
            true[name] += [number not in wrong for number in range(1, len(steps or []) + 1)]

    def figures(name: str) -> dict[str, float]:
        right = f1(said[name], true[name])
        wrong = f1([not right_step for right_step in said[name]], [not right_step for right_step in true[name]])
        return {"steps": len(said[name]), "f1_right": right, "f1_wrong": wrong, "prm_score": (right + wrong) / 2}

    classes = {name: figures(name) for name in sorted(said) if name != "all"}
    return {"n": len(rows), "too_long": scores.count(None), **figures("all"), "classes": classes}


BENCHMARKS: dict[str, Callable[[Scorer, Sequence[Row], str], dict[str, Any]]] = {
    "processbench": processbench,
    "prmbench": prmbench,
}


# ---------------------------------------------------------------- labelled solutions


def best_of_n(scorer: Scorer, asked: Sequence[Question]) -> dict[str, Any]:
    """Accuracy of the solution that the model picks, against majority vote, a random solution and the best solution.

    Uses questions whose solutions all have a verdict, and only the agents' own solutions, without their aggregate.
    """
    asked = [structs.replace(q, candidates=tuple(c for c in q.candidates if not c.aggregate)) for q in asked]
    known = [
        question
        for question in asked
        if question.candidates and all(c.verdict is not None for c in question.candidates)
    ]
    solutions = [(question.prompt, candidate.text) for question in known for candidate in question.candidates]
    flat = iter(scorer.score(solutions))
    outcomes: dict[str, list[float]] = defaultdict(list)
    for question in known:
        scores = [next(flat) for _ in question.candidates]
        right = [float(candidate.verdict is True) for candidate in question.candidates]
        for name in AGGREGATES:
            choice = best(scores, name)
            outcomes[f"best by {name}"].append(0.0 if choice is None else right[choice])
        given = [candidate.answer or _answer(question, candidate.text) for candidate in question.candidates]
        voted = asyncio.run(answers.majority(given, question.answer_type))
        outcomes["majority vote"].append(0.0 if voted is None else right[voted])
        outcomes["random"].append(sum(right) / len(right))
        outcomes["oracle"].append(max(right))
    figures = {
        name: dict(zip(("accuracy", "se"), mean_and_se(values), strict=True)) for name, values in outcomes.items()
    }
    return {"n": len(known), "without_verdicts": len(asked) - len(known), **figures}


def _answer(question: Question, text: str) -> str | None:
    answer = answers.extract(text, question.answer_type)
    return answer.value if answer else None


def probes(steps: Sequence[str], stranger: str, draw: random.Random) -> dict[str, list[str]]:
    """Spoiled versions of a right solution with at least two steps.

    Args:
        stranger: a step of another question, used if the middle steps have no number to change.
    """
    shuffled = list(steps)
    while shuffled == list(steps) and len(set(steps)) > 1:
        draw.shuffle(shuffled)
    middle = (len(steps) - 1) // 2
    changed = re.sub(r"\d+(?!.*\d)", lambda number: str(int(number[0]) + draw.randint(1, 3)), steps[middle], flags=re.S)
    spoiled = stranger if changed == steps[middle] else changed
    return {
        "empty single step": [""],
        "shuffled steps": shuffled,
        "duplicated steps": [step for step in steps for _ in range(2)],
        "truncated": list(steps[: len(steps) // 2]),
        "wrong middle": [*steps[:middle], spoiled, *steps[middle + 1 :]],
    }


HARMLESS = {"duplicated steps", "truncated"}
"""Probes without a wrong step. They must not score above the solution; the others must score below it."""


def probe(scorer: Scorer, asked: Sequence[Question], most: int, seed: int) -> dict[str, Any]:
    """Score gaps (solution minus probe, by the lowest step) over right solutions, and whether each probe is passed."""
    draw = random.Random(seed)
    right = [
        (question.prompt, steps)
        for question in asked
        for candidate in question.candidates
        if candidate.verdict and len(steps := scorer.codec.steps(candidate.text)) > 1
    ][:most]
    if not right:
        return {"n": 0}
    spoiled = [probes(steps, right[(index + 1) % len(right)][1][0], draw) for index, (_, steps) in enumerate(right)]
    whole = score_steps(scorer, right)
    report: dict[str, Any] = {"n": len(right)}
    for name in spoiled[0]:
        problems = [(prompt, probed[name]) for (prompt, _), probed in zip(right, spoiled, strict=True)]
        scores = score_steps(scorer, problems)
        gaps = [min(a) - min(b) for a, b in zip(whole, scores, strict=True) if a and b]
        mean, se = mean_and_se(gaps)
        margin = SURE * (se or 0.0)
        passed = mean + margin >= 0 if name in HARMLESS else mean - margin > 0
        report[name] = {"gap": mean, "se": se, "passed": passed}
    return report


# ---------------------------------------------------------------- command line


def parse(argv: list[str] | None) -> Any:
    parser = cli.Parser(prog="prm.evaluate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prm", type=Path, required=True, help="folder of a reward model")
    parser.add_argument("--benchmark", nargs="+", choices=list(BENCHMARKS), default=[], help="which benchmarks")
    parser.add_argument("--data_dir", type=data_folder, help="folder with the benchmarks' files, instead of the hub")
    parser.add_argument("--input", type=Path, help="labelled file, for best of n and the probes")
    parser.add_argument("--max_probes", type=cli.integer(1), default=200, help="most solutions to spoil")
    parser.add_argument("--seed", type=cli.integer(0), default=0)
    parser.add_argument("--output", type=cli.output_file, help="default: evaluation.json in the model's folder")
    args = parser.parse_args(argv)
    if not args.benchmark and args.input is None:
        raise UserError("--benchmark or --input: say what to evaluate on")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    output = args.output or args.prm / "evaluation.json"
    check_file(output)
    scorer = Scorer.load(args.prm)
    report: dict[str, Any] = {}
    for name in args.benchmark:
        for split, rows in benchmark_rows(name, args.data_dir).items():
            report[f"{name} {split}"] = BENCHMARKS[name](
                scorer, rows, f"{args.data_dir or HUB[name][0]}: {name} {split}"
            )
    if args.input is not None:
        asked = [question for question in questions(args.input, "--input") if question.error is None]
        report["best of n"] = best_of_n(scorer, asked)
        report["probes"] = probe(scorer, asked, args.max_probes, args.seed)
    write_atomically(output, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    sys.stdout.write("\n".join(lines(report)) + f"\nwritten to {output}\n")
    return 0


def lines(report: dict[str, Any]) -> list[str]:
    text = []
    for name, figures in report.items():
        text.append(f"{name} (n = {figures['n']})")
        for key, value in figures.items():
            if isinstance(value, dict) and key != "classes":
                shown = ", ".join(f"{what} {_shown(figure)}" for what, figure in value.items())
                text.append(f"  {key}: {shown}")
            elif key not in ("n", "classes"):
                text.append(f"  {key}: {_shown(value)}")
    return text


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    cli.entry(main)
