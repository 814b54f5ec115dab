"""What training and scoring a reward model cost, against doing it plainly.

    python bench/prm_bench.py --data_dir ../shared/data

    stage 1   3 epochs over a frozen backbone, each way in a process of its own: `literal` (the published flags taken at
              their word: gradients through the inputs, checkpointing), `frozen` (no gradient below the head), `cached`
              (the backbone runs once)
    stage 2   forward and backward: batches as our sampler and chunks make them, against padding to the longest sequence
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
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark.embedded import EMBEDDED
from bench.parts import chains, report

DEFAULT_JSON = report.ROOT / "results" / "bench" / "prm.json"
ARMS = ("literal", "frozen", "cached")
PARTS = ["stage1", "stage2", "scorer"]
EPOCHS = 3


def parse(argv: list[str] | None) -> argparse.Namespace:
    shape = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=shape)
    parser.add_argument("--model_name", default=EMBEDDED)
    parser.add_argument("--data_dir", type=Path, help="folder with gsm8k_train.jsonl")
    parser.add_argument("--solutions", type=int, default=48, help="in all")
    parser.add_argument("--batch_size", type=int, default=16, help="solutions per batch")
    parser.add_argument("--batches", type=int, default=4, help="of stage 2 and of the scorer, per repetition")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path, default=DEFAULT_JSON, help="where the ratios go")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--labelled", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def make_data(path: Path, data_dir: Path | None, solutions: int) -> Path:
    """A labelled file: per question the gold solution, shortened, and two spoiled copies of each."""
    if data_dir is None:
        made = chains.rows(solutions, 4, (3, 9), 0)
    else:
        draw = random.Random(0)
        lines = (data_dir / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[: solutions // 4]
        made = [_row(number, json.loads(line), draw) for number, line in enumerate(lines)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path


def _row(number: int, raw: dict[str, str], draw: random.Random) -> dict[str, Any]:
    gold = [re.sub(r"<<.*?>>", "", line) for line in raw["answer"].partition("####")[0].strip().splitlines()]
    steps = [*gold, f"The answer is {raw['answer'].rpartition('####')[2].strip()}."]

    def spoiled(one: list[str], place: int) -> list[str]:
        other = re.sub(r"\d+", lambda found: str(int(found[0]) + draw.randint(1, 9)), one[place])
        return [*one[:place], other, *one[place + 1 :]]

    texts = [steps, [*steps, "That is all."], spoiled(steps, 0), [*steps[:-1], "So 0."]]
    labels = [True, True, False, False]
    solutions = [
        {"id": place, "text": "\n\n".join(text), "is_correct": label}
        for place, (text, label) in enumerate(zip(texts, labels, strict=True), 1)
    ]
    return {"id": f"bench/{number}", "query": raw["question"], "gt": "", "solutions": solutions, "labels": labels}


# ---------------------------------------------------------------- stage 1


def run_arm(args: argparse.Namespace) -> dict[str, Any]:
    """Train one way in this process: seconds per epoch (the first with what comes before it), peak memory, losses."""
    import torch
    from accelerate import Accelerator
    from transformers import TrainerCallback

    from prm import model, training
    from prm.settings import parse as parse_flags
    from prm.trainer import METRICS, read_curves

    Accelerator()  # what is imported for seconds at its first use would be counted into the first epoch
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
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        training.run(parse_flags(words)[0], lambda line: None)
        losses = [line["loss"] for line in read_curves(Path(folder) / "prm" / METRICS) if "loss" in line]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / (1 << 20)
    return {"epochs": [b - a for a, b in pairwise(marks)], "peak_mib": peak, "losses": losses}


def stage_1(args: argparse.Namespace, labelled: Path) -> list[report.Row]:
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for number in range(args.repeats):
        for arm in ARMS:
            command = [sys.executable, __file__, "--arm", arm, "--labelled", str(labelled)]
            command += ["--model_name", args.model_name, "--batch_size", str(args.batch_size)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{arm}: {done.stderr[-2000:]}")
            found[arm].append(json.loads(done.stdout.splitlines()[-1]))
            one = found[arm][-1]
            print(f"{number + 1}, {arm}: {sum(one['epochs']):.1f} s, {one['peak_mib']:.0f} MiB", file=sys.stderr)
    worst = max(
        abs(a - b)
        for one, other in zip(found["frozen"], found["cached"], strict=True)
        for a, b in zip(one["losses"], other["losses"], strict=True)
    )
    print(f"losses of cached and frozen differ by {worst:.2g} at most", file=sys.stderr)

    def totals(arm: str) -> list[float]:
        return [sum(one["epochs"]) for one in found[arm]]

    later = [(sum(one["epochs"][1:]) / (EPOCHS - 1), one["epochs"][0]) for one in found["cached"]]
    cached = totals("cached")
    frozen = report.repeated("prm stage 1: frozen / cached, 3 epochs", totals("frozen"), cached, cached)
    memory = {arm: [one["peak_mib"] for one in found[arm]] for arm in ARMS}
    return [
        report.repeated("prm stage 1: literal / cached, 3 epochs", totals("literal"), cached, cached),
        replace(frozen, goal=">= 2.5"),
        report.measured("prm stage 1: cached, a later epoch / the first", later, "s", "<= 0.05"),
        *(
            report.measured(
                f"prm stage 1: peak memory, cached / {arm}",
                list(zip(memory["cached"], memory[arm], strict=True)),
                "MiB",
            )
            for arm in ("literal", "frozen")
        ),
    ]


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
        for chunk in chunked([len(items[place].ids) for place in batch], None, FILL)
    )
    real = sum(len(items[place].ids) for batch in plan for place in batch)
    longest = max(len(item.ids) for item in items)
    device = next(reward.parameters()).device

    def speed(widen: bool) -> float:
        reward.split = not widen
        tokens, start = 0, _done()
        for batch in plan[: args.batches]:
            made = {name: value.to(device) for name, value in collate([items[place] for place in batch]).items()}
            tokens += int(made["lengths"].sum())
            if widen:
                made["input_ids"] = _widened(made["input_ids"], longest)
                made["lengths"] = made["lengths"] * 0 + longest
            found = reward(made["rows"], made["ends"], made["input_ids"], made["lengths"])
            (found["logits"].sum() + found["embeddings"].sum()).backward()
            reward.zero_grad(set_to_none=True)
        return tokens / (_done() - start)

    speed(False)
    runs = [(speed(False), speed(True)) for _ in range(args.repeats)]
    return [
        report.Row("prm stage 2: real tokens / tokens computed", real / padded, padded, real, "tokens", ">= 0.9"),
        report.measured("prm stage 2: ours / padded to the longest", runs, "tokens/s"),
    ]


def _widened(ids: Any, width: int) -> Any:
    from torch.nn import functional

    return functional.pad(ids, (0, width - ids.shape[1]))


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
    args = parse(argv)
    if args.arm is not None:
        print(json.dumps(run_arm(args)))
        return 0
    parts = {"stage1": stage_1, "stage2": stage_2, "scorer": scorer}
    with tempfile.TemporaryDirectory() as folder:
        labelled = make_data(Path(folder) / "labeled.jsonl", args.data_dir, args.solutions)
        rows = [row for name in args.parts for row in parts[name](args, labelled)]
    print(report.table(rows))
    report.save(rows, args.json)
    print(f"\n{report.machine()}, commit {report.commit()}; ratios written to {args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
