"""Measure the cost of training and scoring a reward model, compared with the plain way.

    python bench/prm_bench.py --data_dir ../shared/data

    stage 1   3 epochs over a frozen backbone, each way in a separate process: `literal` (the published flags taken at
              their word: gradients through the inputs, checkpointing), `frozen` (no gradient below the head), `cached`
              (the backbone runs once)
    stage 2   forward and backward: batches from our sampler and chunks, against padding to the longest sequence
    scorer    `Scorer.score_encoded` against a bare forward of as many tokens without any padding

Solutions are GSM8K's own (each line a step) and spoiled copies; without --data_dir, chains of operations. On a GPU in
bf16 with gradient checkpointing. Prints a markdown table and writes the ratios to results/bench/prm.json.
"""

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli, jsonl
from agentark.embedded import EMBEDDED
from agentark.tasks import get_task
from bench.parts import chains, experiment, report

ARMS = ("literal", "frozen", "cached")
PARTS = ["stage1", "stage2", "scorer"]
EPOCHS = 3


def make_data(path: Path, data_dir: Path | None, solutions: int) -> Path:
    """A labelled file: per question the gold solution, shortened, and two spoiled copies of each."""
    if data_dir is None:
        made = chains.rows(solutions, 4, (3, 9), 0)
    else:
        draw = random.Random(0)
        count = max(1, solutions // 4)
        get_task("GSM8K").load("train", data_dir, limit=count)  # checks the rows
        path = data_dir / "gsm8k_train.jsonl"
        made = [_row(number, row, draw) for number, row in islice(jsonl.objects(path, str(path)), count)]
    return chains.write(made, path)


def _row(number: int, raw: dict[str, str], draw: random.Random) -> dict[str, Any]:
    gold = [re.sub(r"<<.*?>>", "", line) for line in raw["answer"].partition("####")[0].strip().splitlines()]
    steps = [*gold, f"The answer is {raw['answer'].rpartition('####')[2].strip()}."]
    spoiled = re.sub(r"\d+", lambda digits: str(int(digits[0]) + draw.randint(1, 9)), steps[0])
    texts = [steps, [*steps, "That is all."], [spoiled, *steps[1:]], [*steps[:-1], "So 0."]]
    labels = [True, True, False, False]
    solutions = [
        {"id": id, "text": "\n\n".join(text), "is_correct": label}
        for id, (text, label) in enumerate(zip(texts, labels, strict=True), 1)
    ]
    return {"id": f"bench/{number}", "query": raw["question"], "gt": "", "solutions": solutions, "labels": labels}


# ---------------------------------------------------------------- stage 1


def run_arm(args: argparse.Namespace) -> dict[str, Any]:
    """Train one way in this process: seconds per epoch (the first includes the start), peak memory, losses."""
    import torch
    from accelerate import Accelerator
    from transformers import TrainerCallback

    from prm import model, training
    from prm.settings import parse as parse_flags
    from prm.trainer import METRICS

    Accelerator()  # its slow first import would otherwise count into the first epoch
    if find_spec("deepspeed") is not None:
        import_module("deepspeed")
    marks: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_epoch_end(self, *given: Any, **named: Any) -> None:
            marks.append(time.perf_counter())

    class Timed(training.PRMTrainer):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.add_callback(Clock())

    training.PRMTrainer = Timed  # type: ignore[misc]
    freeze = model.freeze

    def frozen_and_timed(reward: model.RewardModel, stage: int, last_layer: bool) -> None:
        freeze(reward, stage, last_layer)
        if args.arm == "literal":
            reward.classifier.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            reward.classifier.enable_input_require_grads()
            model.RewardModel.frozen = property(lambda self: False)  # type: ignore[assignment]
        marks.append(time.perf_counter())

    model.freeze = frozen_and_timed
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "model_name_or_path": args.model_name, "train_data_path": args.labelled, "output_dir": f"{folder}/prm",
            "num_train_epochs": EPOCHS, "per_device_train_batch_size": args.batch_size, "learning_rate": 1e-4,
            "logging_steps": 1, "save_strategy": "no", "fix_llm": True, "bf16": torch.cuda.is_available(),
            "cache_features": args.arm == "cached", "disable_tqdm": True,
        }  # fmt: skip
        training.run(parse_flags(experiment.words(flags))[0], lambda line: None)
        losses = [row["loss"] for _, row in jsonl.objects(Path(folder) / "prm" / METRICS, METRICS) if "loss" in row]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / (1 << 20)
    return {"epochs": [b - a for a, b in pairwise(marks)], "peak_mib": peak, "losses": losses}


def stage_1(args: argparse.Namespace, labelled: Path) -> list[report.Row]:
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for number in range(args.repeats):
        for arm in ARMS:
            command = [sys.executable, __file__, "--arm", arm, "--labelled", str(labelled)]
            command += ["--model_name", args.model_name, "--batch_size", str(args.batch_size)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{arm}: {done.stderr[-2000:]}")
            result = json.loads(done.stdout.splitlines()[-1])
            results[arm].append(result)
            print(f"{number + 1}, {arm}: {sum(result['epochs']):.1f} s, {result['peak_mib']:.0f} MiB", file=sys.stderr)
    losses = [[loss for result in results[arm] for loss in result["losses"]] for arm in ("frozen", "cached")]
    worst = max(abs(frozen - cached) for frozen, cached in zip(*losses, strict=True))
    print(f"losses of cached and frozen differ by {worst:.2g} at most", file=sys.stderr)
    later = [(sum(result["epochs"][1:]) / (EPOCHS - 1), result["epochs"][0]) for result in results["cached"]]
    times, memory = [], []
    for arm, goal in (("literal", ""), ("frozen", ">= 2.5")):
        pairs = list(zip(results["cached"], results[arm], strict=True))
        seconds = [(sum(cached["epochs"]), sum(other["epochs"])) for cached, other in pairs]
        times.append(report.measured(f"prm stage 1: {arm} / cached, 3 epochs", seconds, "s", goal, over_ours=True))
        peaks = [(cached["peak_mib"], other["peak_mib"]) for cached, other in pairs]
        memory.append(report.measured(f"prm stage 1: peak memory, cached / {arm}", peaks, "MiB"))
    return [*times, report.measured("prm stage 1: cached, a later epoch / the first", later, "s", "<= 0.05"), *memory]


# ---------------------------------------------------------------- stage 2 and the scorer


def load(args: argparse.Namespace, labelled: Path) -> tuple[Any, list[Any], Any]:
    """(reward model, its sequences, its codec)."""
    import torch

    from agentark.cli import resolve_model
    from prm import data, model
    from prm.settings import Flags, PRMConfig
    from prm.steps import StepCodec, load_tokenizer

    name, _ = resolve_model(args.model_name)
    codec = StepCodec.of(load_tokenizer(name, "--model_name"), "\n", "step", 8192)
    flags = Flags(PRMConfig(model_name_or_path=name, train_data_path=str(labelled)), {"seed": 0})
    items = data.load(flags, codec)[0].items
    on_gpu = torch.cuda.is_available()
    reward = model.load(name, "--model_name", projected=256, dtype=torch.bfloat16 if on_gpu else torch.float32)
    if on_gpu:
        reward.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return reward.to("cuda" if on_gpu else "cpu"), items, codec


def _done() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def stage_2(args: argparse.Namespace, labelled: Path) -> list[report.Row]:
    from torch.nn import functional

    from prm.data import collate
    from prm.model import FILL, chunked
    from prm.sampler import QuestionBatches

    reward, items, _ = load(args, labelled)
    reward.train()
    sampler = QuestionBatches([len(item.ids) for item in items], [item.question for item in items], args.batch_size)
    plan = list(sampler)
    padded = sum(
        len(chunk) * max(len(items[batch[row]].ids) for row in chunk)
        for batch in plan
        for chunk in chunked([len(items[index].ids) for index in batch], None, FILL)
    )
    real = sum(len(items[index].ids) for batch in plan for index in batch)
    longest = max(len(item.ids) for item in items)
    device = next(reward.parameters()).device

    def speed(widen: bool) -> float:
        reward.split = not widen
        tokens, start = 0, _done()
        for batch in plan[: args.batches]:
            made = {name: value.to(device) for name, value in collate([items[index] for index in batch]).items()}
            tokens += int(made["lengths"].sum())
            if widen:
                made["input_ids"] = functional.pad(made["input_ids"], (0, longest - made["input_ids"].shape[1]))
                made["lengths"] = made["lengths"] * 0 + longest
            scored = reward(made["rows"], made["ends"], made["input_ids"], made["lengths"])
            (scored["logits"].sum() + scored["embeddings"].sum()).backward()
            reward.zero_grad(set_to_none=True)
        return tokens / (_done() - start)

    speed(False)
    runs = [(speed(False), speed(True)) for _ in range(args.repeats)]
    return [
        report.Row("prm stage 2: real tokens / tokens computed", real / padded, padded, real, "tokens", ">= 0.9"),
        report.measured("prm stage 2: ours / padded to the longest", runs, "tokens/s"),
    ]


def scorer(args: argparse.Namespace, labelled: Path) -> list[report.Row]:
    import torch

    from prm.score import Scorer
    from prm.steps import Encoded

    reward, items, codec = load(args, labelled)
    ours = Scorer(codec, reward.requires_grad_(False).eval(), max_tokens=4096)
    chosen = items[: args.batches * args.batch_size]
    encoded = [Encoded(item.ids, [(end, end) for end in item.ends]) for item in chosen]
    tokens = sum(len(item.ids) for item in chosen)
    width = tokens // len(chosen)
    device = next(reward.parameters()).device
    rows = max(1, ours.max_tokens // width)
    bare = torch.randint(0, 1000, (len(chosen), width), device=device)

    def scored() -> float:
        start = _done()
        ours.score_encoded(encoded)
        return tokens / (_done() - start)

    def forwarded() -> float:
        start = _done()
        with torch.inference_mode():
            for part in bare.split(rows):
                reward.backbone(input_ids=part, use_cache=False)
        return bare.numel() / (_done() - start)

    scored(), forwarded()
    runs = [(scored(), forwarded()) for _ in range(args.repeats)]
    return [report.measured("prm scorer / bare forward without padding", runs, "tokens/s", ">= 0.9")]


def main(argv: list[str] | None = None) -> int:
    parser = report.parser(__doc__, "prm")
    parser.add_argument("--model_name", default=EMBEDDED)
    parser.add_argument("--data_dir", type=Path, help="folder with gsm8k_train.jsonl")
    parser.add_argument("--solutions", type=report.count, default=48, help="in all")
    parser.add_argument("--batch_size", type=report.count, default=16, help="solutions per batch")
    parser.add_argument(
        "--batches", type=report.count, default=4, help="batches of stage 2 and the scorer, per repetition"
    )
    parser.add_argument("--repeats", type=report.count, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--labelled", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.arm is not None:
        print(json.dumps(run_arm(args)))
        return 0
    parts = {"stage1": stage_1, "stage2": stage_2, "scorer": scorer}
    with tempfile.TemporaryDirectory() as folder:
        labelled = make_data(Path(folder) / "labeled.jsonl", args.data_dir, args.solutions)
        rows = [row for name in args.parts for row in parts[name](args, labelled)]
    return report.publish(rows, args.json)


if __name__ == "__main__":
    cli.entry(main)
