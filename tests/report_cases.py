"""A small study in a folder, made by the real scripts with scripted engines: runs, labels, evaluations, training."""

import json
import re
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fakes import ScriptedEngine
from label_cases import debate, write

import inference
import label
from agentark import cli
from agentark.engines.choose import Choice
from agentark.rows import questions
from agentark.types import Message, SamplingParams, digest
from eval import math_eval
from prm.score import scored_row

BASE, STUDENT = "org/base", "student-rsft"
HOSTILE = {
    "script": "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
    "<a href='javascript:window.hacked=1'>x</a>",
    "breaker": "');window.hacked=1;//\\');\u2028window.hacked=1;</script><script>window.hacked=1</script>",
    "right_to_left": "مرحبا بالعالم، الجواب \\boxed{7} \u202egnorw si siht\u202c שלום",
    "latex": "$\\frac{1}{ $ and \\(\\undefined{x}\\) and $$\\begin{array}$$ "
    "and $\\href{javascript:alert(1)}{x}$ \\boxed{",
    "nul": "a\u0000b\u0007c \\boxed{7}",
    "bomb": "$" + "\\def\\x{\\x\\x}" + "\\x$ " + "${{{{{{{{{{x}}}}}}}}}}$ ",
}
"""Name -> what a model might write to break the page."""
MEGABYTE = "word " * (1 << 18)


def number(value: Any, below: int) -> int:
    return int(digest(value), 16) % below


def solver(right: int) -> Callable[[Sequence[Message], SamplingParams], str]:
    """Replies in steps with formulas; about `right` of 10 first answers are right, more after reading others."""

    def script(messages: Sequence[Message], params: SamplingParams) -> str:
        question = next(one.text for one in messages if "apples" in one.text)
        gold = int(question.split("apples")[0].split()[-1]) * 2
        later = right + 2 * (len(messages) > 1)
        is_right = number((messages, params), 10) < later
        answer = gold if is_right else gold + 1 + number((params, question), 3)
        return (
            f"Each bag holds ${gold} / 2 = {gold // 2}$ apples, at $3 each and $4 for two.\n\n"
            f"Twice that is $2 \\times {gold // 2} = {answer}$.\n\nSo the answer is \\boxed{{{answer}}}."
        )

    return script


def choose(right: int) -> Callable[..., Choice]:
    def made(args: Namespace, model_name: str, flag: str = "--model_name") -> Choice:
        return Choice(cli.resolve_model(model_name, flag)[1], lambda lock: ScriptedEngine(script=solver(right)))

    return made


def dataset(folder: Path, n: int) -> Path:
    """GSM8K test rows of our own."""
    rows = [
        {"question": f"A bag holds {k + 2} apples. How many are in two bags?", "answer": f"Twice. #### {2 * (k + 2)}"}
        for k in range(n)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gsm8k_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def infer(data: Path, results: Path, method: str, right: int, *extra: str) -> Path:
    argv = ["--method_name", method, "--test_dataset_name", "GSM8K", "--model_name", BASE, "--data_dir", str(data)]
    assert inference.main([*argv, "--result_dir", str(results), *extra], choose_engine=choose(right)) == 0
    return results / "GSM8K" / BASE / f"{method}_infer.jsonl"


def make(folder: Path, n: int = 12) -> Path:
    """The study; returns the folder to report on."""
    data, results = dataset(folder / "data", n), folder / "results"
    for method, right, extra in (
        ("vanilla", 4, ()),
        ("self_consistency", 5, ()),
        ("llm_debate", 4, ("--method_config", "num_rounds=3")),
    ):
        path = infer(data, results, method, right, *extra)
        assert math_eval.main(["--input_file", str(path), "--dataset_name", "GSM8K"]) == 0
    assert label.main(["--input", str(path), "--dataset_name", "GSM8K", "--rules_only"]) == 0
    student(folder, data, results)
    score_steps(path)
    training(results)
    return results


def student(folder: Path, data: Path, results: Path) -> None:
    """A model folder that says what it was made of, and its evaluation."""
    model = results / "models" / STUDENT
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    about: dict[str, Any] = {"base_model": BASE, "train_ids": ["GSM8K/train/0"]}
    about["selection"] = {"strategy": "rsft", "dataset": "GSM8K"}
    (model / "manifest.json").write_text(json.dumps(about))
    argv = ["--dataset_name", "GSM8K", "--model_name_or_path", str(model), "--data_dir", str(data)]
    assert math_eval.main([*argv, "--output_dir", str(results / "outputs")], choose_engine=choose(8)) == 0


def score_steps(path: Path) -> None:
    """What prm.score writes, from a reward model that likes the number 2."""
    labels = path.with_name(f"{path.stem}_labeled_by_rules.jsonl")
    rows = [
        scored_row(one, [[number((one.id, text.text, k), 100) / 99 for k in range(3)] for text in one.candidates])
        for one in questions(labels, "--input")
    ]
    write(labels.with_name(f"{labels.stem}_scored.jsonl"), *rows)


def training(results: Path) -> None:
    """Curves in the layouts of both trainers (prm and on_trl), and an evaluation.json of prm.evaluate."""
    prm, rl = results / "prm" / "stage_1", results / "grpo"
    sessions = [{"command": "python prm/finetune2.py --x", "versions": {"commit": "abc123"}}]
    write(
        prm / "metrics.jsonl",
        *({"step": k, "epoch": k / 4, "loss": 1 / k, "loss_ce": 0.5 / k, "train_auroc": None} for k in range(1, 9)),
        {
            "step": 8,
            "epoch": 2.0,
            "eval_loss": 0.2,
            "eval_auroc": 0.8,
            "eval_calibration_error": 0.1,
            "eval_margin": 0.3,
        },
    )
    (prm.parent / "manifest.json").write_text(json.dumps({"train_ids": [], "base_model": BASE, "sessions": sessions}))
    (prm / "evaluation.json").write_text(
        json.dumps(
            {
                "processbench gsm8k": {"n": 2, "too_long": 0, "f1": 0.5},
                "probes": {"n": 3, "empty single step": {"gap": 0.2, "se": 0.01, "passed": False}},
            }
        )
    )
    rows = [
        {
            "step": k,
            "loss": 0.0,
            "process_reward": k / 10,
            "kl": 0.01 * k,
            "length": 40 - k,
            "steps": 3,
            "truncated": 0.0,
        }
        | {"guard/empty": float(k % 2), "guard/one_step": 0.0, "seconds/rollout": 1.0}
        for k in range(1, 7)
    ]
    write(rl / "metrics.jsonl", *rows)
    write(rl / "dev.jsonl", {"step": 3, "accuracy": 0.4, "se": 0.1}, {"step": 6, "accuracy": 0.5, "se": 0.1})


def piece(path: Path) -> Any:
    """What a piece of the samples hands to the page."""
    matched = re.fullmatch(r"AgentArk\.receive\('([\w-]+)','(.*)'\);\n", path.read_text(encoding="utf-8"), re.S)
    assert matched is not None, path
    assert matched[1] == path.stem
    return json.loads(re.sub(r"\\(['\\])", r"\1", matched[2]))


def full_samples(site: Path) -> dict[str, Any]:
    """Number -> sample, from all chunks."""
    return {at: one for path in (site / "samples").glob("chunk-*.js") for at, one in piece(path).items()}


def texts(sample: dict[str, Any]) -> str:
    """All that a search looks through."""
    own = [sample[name] or "" for name in ("id", "query", "gold", "answer", "error")]
    return " ".join([*own, *(text or "" for turn in sample["turns"] for text in (turn["text"], turn["reasoning"]))])


def hostile(folder: Path) -> Path:
    """A results file whose every text is an attack; the last sample is a megabyte of words."""
    records = [
        debate(
            f"GSM8K/test/{name}",
            "7",
            [[text, text + " then \\boxed{8}"], [text + " \\boxed{7}", text]],
            text,
            query=f"{name}: {text}",
            final_answer=text,
            info={"__proto__": {"polluted": text}, text[:20]: 1},
        )
        for name, text in HOSTILE.items()
    ]
    records.append(debate("GSM8K/test/megabyte", "7", [[MEGABYTE, "short \\boxed{7}"]], "\\boxed{7}"))
    write(folder / "results" / "hostile" / "llm_debate_infer.jsonl", *records)
    return folder / "results"
