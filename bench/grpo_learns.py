"""Test whether GRPO learns without gaming the reward: VR, PRM and PRMVR from one small policy and reward model.

    python bench/grpo_learns.py --output outputs/grpo_learns

The task: chains of one-digit additions and subtractions, a step per operation (bench/parts/chains.py). A model of about
3M parameters is trained on right solutions. When it solves --base_accuracy of new questions, it becomes the policy; at
the end, the reward model starts from it and learns from planted faults of all kinds. Then the real command runs for
each reward mode. Finished stages are skipped, so the same command continues after a kill. Prints a table, writes
table.json and accuracy.png.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli
from bench.parts import experiment
from bench.parts.chain_model import teach
from bench.parts.chains import FAULTS, task, write
from bench.parts.experiment import run
from distill.grpo.config import GUARDS
from distill.grpo.run import rows as read_rows

MODES = ("VR", "PRM", "PRMVR")
HELD_OUT, LABELLED, TAUGHT = 300, 1000, 1500
"""Number of questions: held out; for the reward model; for the first training."""
Row = dict[str, Any]


def data(out: Path, questions: int, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows to teach from, rows held out), and their files: labelled.jsonl, prompts.jsonl, held_out.jsonl."""
    made = task(TAUGHT + HELD_OUT, seed, FAULTS)
    train, held = made[HELD_OUT:], made[:HELD_OUT]
    asked = [{key: row[key] for key in ("id", "query", "gt")} | {"answer_type": "number"} for row in made]
    write(train[:LABELLED], out / "labelled.jsonl")
    write(asked[:HELD_OUT], out / "held_out.jsonl")
    write(asked[HELD_OUT:][:questions], out / "prompts.jsonl")
    return train, held


def train_reward_model(out: Path, base: Path) -> Path:
    folder = out / "reward_model"
    run("prm/finetune2.py", "--model_name_or_path", base, "--train_data_path", out / "labelled.jsonl",
        "--output_dir", folder, "--step_separator_token", "\n\n", "--step_label", "judge", "--stage", "both",
        "--eval_ratio", 0.1, "--cache_features", True, "--per_device_train_batch_size", 32, "--save_strategy", "no",
        "--eval_strategy", "epoch", "--logging_steps", 10, "--stage_1", "learning_rate=1e-3", "batch_size=32",
        "--stage_2", "learning_rate=5e-4", "batch_size=32", "num_train_epochs=3")  # fmt: skip
    return folder


def train(out: Path, base: Path, prm: Path, mode: str, steps: int, learning_rate: float) -> Path:
    folder = out / f"policy_{mode.lower()}"
    if not (folder / "manifest.json").is_file():
        run("-m", "openrlhf.cli.train_grpo", "--pretrain", base, "--reward_pretrain", prm, "--save_path", folder,
            "--backend", "trl", "--reward_mode", mode, "--prompt_data", out / "prompts.jsonl",
            "--eval_data", out / "held_out.jsonl", "--eval_samples", HELD_OUT, "--eval_steps", 10,
            "--rollout_batch_size", 16, "--micro_rollout_batch_size", 16, "--n_samples_per_prompt", 8,
            "--train_batch_size", 128, "--micro_train_batch_size", 32, "--generate_max_len", 120,
            "--prompt_max_len", 200, "--actor_learning_rate", learning_rate, "--max_steps", steps,
            "--guards", *GUARDS, "--num_episodes", 20, "--save_steps", 10, "--zero_stage", 0,
            "--lr_scheduler", "constant")  # fmt: skip
    return folder


def plot(out: Path, curves: dict[str, list[Row]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for mode, rows in curves.items():
        axis.errorbar([row["step"] for row in rows], [row["accuracy"] for row in rows], [row["se"] for row in rows],
                      capsize=2, label=mode)  # fmt: skip
    axis.set_xlabel("optimizer steps")
    axis.set_ylabel(f"accuracy on {HELD_OUT} held-out questions")
    axis.legend()
    figure.savefig(out / "accuracy.png", dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = experiment.parser(__doc__)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--questions", type=cli.integer(1), default=800, help="questions that GRPO trains on")
    parser.add_argument(
        "--base_accuracy", type=cli.number(0), default=0.45, help="about that of the policy before GRPO"
    )
    parser.add_argument("--steps", type=cli.integer(1), default=50, help="optimizer steps of GRPO per mode")
    parser.add_argument("--learning_rate", type=cli.number(0), default=3e-5)
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    train_rows, held = data(args.output, args.questions, args.seed)
    base, solver = args.output / "base", args.output / "solver"
    teach(solver, train_rows, held, hidden=192, layers=7, steps=700, learning_rate=1.5e-3, seed=args.seed,
          early=(base, args.base_accuracy))  # fmt: skip
    prm = train_reward_model(args.output, solver)
    rows: list[Row] = []
    curves: dict[str, list[Row]] = {}
    for mode in args.modes:
        folder = train(args.output, base, prm, mode, args.steps, args.learning_rate)
        dev, metrics = read_rows(folder / "dev.jsonl"), read_rows(folder / "metrics.jsonl")
        hits = {name: sum(row.get(name) or 0 for row in metrics) for name in metrics[0] if name.startswith("guard/")}
        curves[mode] = dev
        rows.append(
            {"mode": mode, "before": dev[0], "after": dev[-1], "seconds": experiment.metrics(folder)["seconds"],
             "hits": hits, "steps": [metrics[0]["steps"], metrics[-1].get("steps")]}
        )  # fmt: skip
    plot(args.output, curves)
    experiment.save_table(rows, args.output)
    print("| mode | before | after | minutes | guard hits |\n|---|---|---|--:|---|")
    for row in rows:
        before, after = (f"{row[key]['accuracy']:.3f} ± {row[key]['se']:.3f}" for key in ("before", "after"))
        hits = ", ".join(f"{name.removeprefix('guard/')} {count:.0f}" for name, count in row["hits"].items() if count)
        print(f"| {row['mode']} | {before} | {after} | {row['seconds'] / 60:.1f} | {hits or 'none'} |")
    return 0


if __name__ == "__main__":
    cli.entry(main)
