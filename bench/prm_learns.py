"""Test whether a reward model learns: every loss and stage of prm/finetune2.py on chains with planted errors.

    python bench/prm_learns.py --output outputs/prm_learns

The task: chains of one-digit additions and subtractions (bench/parts/chains.py), most of the solutions with a wrong
result somewhere. First a small model is trained on right solutions of other questions; the
reward models start from it. A tenth of the questions is held out. Finished parts are skipped. Prints a table, writes
table.json.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli
from bench.parts import experiment
from bench.parts.chain_model import teach
from bench.parts.chains import PER_QUESTION, task, write

LABELLED, CHECKED, TAUGHT = 2000 // PER_QUESTION, 100, 1500
"""Number of questions: for the reward models (a tenth held out); to check the first training; for that training."""
ARMS = (("1", "ce+supcon"), ("1", "ce"), ("1", "ranking"), ("2", "ce+supcon"), ("both", "ce+supcon"))
"""Stage and loss of each reward model."""
STAGES = {"1": {"learning_rate": 1e-3, "num_train_epochs": 10}, "2": {"learning_rate": 5e-4, "num_train_epochs": 8}}
BATCH = 32
FIGURES = ("auroc", "accuracy", "f1_wrong", "calibration_error")


def folder_of(out: Path, stage: str, loss: str) -> Path:
    return out / f"stage_{stage}_{loss.replace('+', '_')}"


def flags_of(out: Path, stage: str, loss: str, seed: int) -> list[str]:
    """The command line of prm/finetune2.py for one reward model."""
    flags: dict[str, Any] = {
        "model_name_or_path": out / "base", "train_data_path": out / "labelled.jsonl",
        "output_dir": folder_of(out, stage, loss), "step_label": "judge", "eval_ratio": 0.1, "stage": stage,
        "loss": loss, "step_separator_token": "\n\n", "per_device_train_batch_size": BATCH, "logging_steps": 10,
        "eval_strategy": "epoch", "save_strategy": "no", "seed": seed,
    }  # fmt: skip
    if stage != "2":
        flags |= {"cache_features": True, "features_dir": out / "states"}
    words = experiment.words(flags | STAGES.get(stage, {}))
    if stage == "both":
        for number, settings in STAGES.items():
            words += [
                f"--stage_{number}",
                f"batch_size={BATCH}",
                *(f"{key}={value}" for key, value in settings.items()),
            ]
    return words


def main(argv: list[str] | None = None) -> int:
    args = experiment.parser(__doc__).parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    made = task(LABELLED + CHECKED + TAUGHT, args.seed)
    labelled, checked, taught = made[:LABELLED], made[LABELLED:][:CHECKED], made[LABELLED + CHECKED :]
    write(labelled, args.output / "labelled.jsonl")
    teach(args.output / "base", taught, checked, hidden=128, layers=6, steps=900, learning_rate=2e-3, seed=args.seed)
    rows: list[dict[str, Any]] = []
    for stage, loss in ARMS:
        experiment.run("prm/finetune2.py", *flags_of(args.output, stage, loss, args.seed))
        stages = experiment.metrics(folder_of(args.output, stage, loss))
        last = stages[f"stage_{stage.replace('both', '2')}"]
        seconds = sum(figures["seconds"] for figures in stages.values())
        rows.append({"stage": stage, "loss": loss, **{name: last[f"eval_{name}"] for name in FIGURES},
                     "seconds": seconds})  # fmt: skip
    experiment.save_table(rows, args.output)
    print("| Stage | Loss | " + " | ".join(FIGURES) + " | seconds |\n|---|---|" + "--:|" * (len(FIGURES) + 1))
    for row in rows:
        shown = " | ".join(f"{row[name]:.3f}" for name in FIGURES)
        print(f"| {row['stage']} | {row['loss']} | {shown} | {row['seconds']:.0f} |")
    return 0


if __name__ == "__main__":
    cli.entry(main)
