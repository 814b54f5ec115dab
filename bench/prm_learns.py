"""Does a reward model learn here? Every loss and stage of prm/finetune2.py on chains with planted errors.

    python bench/prm_learns.py --output outputs/prm_learns

The task: chains of one-digit additions and subtractions (bench/prm_chains.py), most of the solutions with a wrong
result somewhere. A small model is trained on right solutions of other questions first; from it the
reward models start. Held out are a tenth of the questions. What is done is not done again. Prints a table,
writes table.json.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.parts.chain_model import teach
from bench.prm_chains import rows as chains

ROOT = Path(__file__).resolve().parents[1]
OPERATIONS, LARGEST, PER_QUESTION, RIGHT = (2, 4), 2, 8, 2
"""Of a question: how many, the largest number in them, its solutions, and how many of these are right."""
TAUGHT, CHECKED = 1500, 100
"""Questions of the first training, and those it is checked on."""
ARMS = (("1", "ce+supcon"), ("1", "ce"), ("1", "ranking"), ("2", "ce+supcon"), ("both", "ce+supcon"))
"""Stage and loss of each reward model."""
FIGURES = ("auroc", "accuracy", "f1_wrong", "calibration_error")


def parse(argv: list[str] | None) -> argparse.Namespace:
    shape = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=shape)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--solutions", type=int, default=2000, help="labelled ones")
    parser.add_argument("--epochs", type=float, default=8, help="of stage 2")
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="of stage 2")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def flags_of(args: argparse.Namespace, stage: str, loss: str) -> list[str]:
    """The command line of prm/finetune2.py for one reward model."""
    folder = args.output / f"stage_{stage}_{loss.replace('+', '_')}"
    flags = {
        "model_name_or_path": args.output / "base", "train_data_path": args.output / "labelled.jsonl",
        "output_dir": folder, "step_label": "judge", "eval_ratio": 0.1, "stage": stage, "loss": loss,
        "step_separator_token": "\n\n", "per_device_train_batch_size": 32, "logging_steps": 10,
        "eval_strategy": "epoch", "save_strategy": "no",
        "seed": args.seed,
    }  # fmt: skip
    second = {"learning_rate": args.learning_rate, "num_train_epochs": args.epochs}
    if stage == "1":
        flags |= {"learning_rate": 1e-3, "num_train_epochs": 10}
    elif stage == "2":
        flags |= second
    if stage != "2":
        flags |= {"cache_features": True, "features_dir": args.output / "states"}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    if stage == "both":
        words += ["--stage_1", "learning_rate=1e-3", "batch_size=32", "num_train_epochs=10"]
        words += ["--stage_2", "batch_size=32", *(f"{name}={value}" for name, value in second.items())]
    return words


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    asked = args.solutions // PER_QUESTION
    solutions = (asked + CHECKED + TAUGHT) * PER_QUESTION
    made = chains(solutions, PER_QUESTION, OPERATIONS, args.seed, right=RIGHT, largest=LARGEST)
    labelled, checked, taught = made[:asked], made[asked : asked + CHECKED], made[asked + CHECKED :]
    text = "".join(json.dumps(row) + "\n" for row in labelled)
    (args.output / "labelled.jsonl").write_text(text, encoding="utf-8")
    start = time.perf_counter()
    teach(args.output / "base", taught, checked, hidden=128, layers=6, steps=900, learning_rate=2e-3, seed=args.seed)
    seconds = {"base": time.perf_counter() - start}
    rows: list[dict[str, Any]] = []
    for stage, loss in ARMS:
        words = flags_of(args, stage, loss)
        print("$ python prm/finetune2.py", *words, flush=True)
        start = time.perf_counter()
        subprocess.run([sys.executable, "prm/finetune2.py", *words], cwd=ROOT, check=True)
        seconds[f"{stage} {loss}"] = time.perf_counter() - start
        figures = json.loads((Path(words[5]) / "manifest.json").read_text())["metrics"]
        last = figures[f"stage_{stage.replace('both', '2')}"]
        rows.append({"stage": stage, "loss": loss, **{name: last[f"eval_{name}"] for name in FIGURES}})
    report = {"rows": rows, "seconds": seconds}
    (args.output / "table.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("| Stage | Loss | " + " | ".join(FIGURES) + " |\n|---|---|" + "--:|" * len(FIGURES))
    for row in rows:
        print(f"| {row['stage']} | {row['loss']} | " + " | ".join(f"{row[name]:.3f}" for name in FIGURES) + " |")
    print("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
