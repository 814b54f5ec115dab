"""Measure the parts of a GRPO step, and the cost of scoring: batched or one call per step, and the part not hidden.

    python bench/grpo_bench.py --model smollm2-135m-instruct

Trains a few rollouts with the TRL backend on GSMSymbolic questions, with a reward model of the policy's own size and an
untrained head (its scores mean nothing, but its cost is real). Prints markdown tables, writes results/bench/grpo.json.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli
from agentark.cli import resolve_model
from agentark.embedded import EMBEDDED, small_random_model
from agentark.tasks import get_task
from bench.parts import report
from bench.parts.chains import rows as chains
from distill.grpo.config import GRPOConfig
from distill.grpo.on_trl import run as grpo_trl
from distill.grpo.questions import render
from distill.grpo.run import Inputs, Run
from distill.grpo.run import rows as read_rows
from distill.grpo.scorer import LocalScorer
from prm.steps import StepCodec, load_tokenizer

PARTS = ("rollout", "reward", "reference", "credit", "update")
GOALS = {"cpu": 0.10, "cuda": 0.05}
"""Largest share of a step that may be spent waiting for the reward model."""


def make_reward_model(base: str, folder: Path) -> Path:
    """A reward model of the policy's size with an untrained head."""
    from prm.model import load, save

    model = load(base, "--model")
    save(model, folder, None, None)
    StepCodec.of(load_tokenizer(base, "--model"), "\n", "step", 2048).save(folder)
    return folder


def steps_of_training(args: argparse.Namespace, base: str, prm: Path, folder: Path) -> list[dict[str, float]]:
    """Seconds of each part per rollout, without the first rollout."""
    total = args.prompts * args.samples
    config = GRPOConfig(
        pretrain=base, save_path=str(folder), reward_pretrain=str(prm), rollout_batch_size=args.prompts,
        micro_rollout_batch_size=args.chunk, n_samples_per_prompt=args.samples, train_batch_size=total,
        micro_train_batch_size=args.samples, generate_max_len=args.tokens, generation="hf", zero_stage=0,
        stops={"kl": None, "length_drop": None}, force_small_groups=True,
    )  # fmt: skip
    run = Run(config)
    run.open()
    task = get_task("GSMSymbolic")
    options = task.options(size=args.prompts * (args.rollouts + 1))  # type: ignore[call-arg]
    tokenizer = load_tokenizer(base, "--model")
    prompts = render(task.load(options=options).samples, tokenizer, None, 2048)
    inputs = Inputs(base, base, tokenizer, None, prompts, [], 2048, frozenset({tokenizer.eos_token_id}))
    trainer = grpo_trl.build(config, inputs, run, LocalScorer.load(prm, grpo_trl.device(), False, 1 << 14))
    grpo_trl.fit(config, inputs, run, trainer)
    rollouts = []
    for row in read_rows(run.metrics)[1:]:
        seconds = {name: row[f"seconds/{name}"] for name in ("rollout", "reward", "reference", "credit")}
        update = row["step_time"] - sum(seconds.values())
        rollouts.append(seconds | {"update": update, "step": row["step_time"], "wait": row["seconds/score_wait"]})
    return rollouts


def scoring(args: argparse.Namespace, prm: Path) -> list[tuple[float, float]]:
    """(seconds of one batched call, seconds with one call per step) for the same solutions, alternating."""
    scorer = LocalScorer.load(prm, grpo_trl.device(), False, 1 << 14)
    codec = scorer.scorer.codec
    made = chains(args.solutions, 4, (3, 6), 0)
    solved = [(row["query"], solution["text"]) for row in made for solution in row["solutions"]]
    asked = [query for query, _ in solved]
    ids = [codec.tokenizer.encode(text, add_special_tokens=False) for _, text in solved]

    def batched() -> list[list[float]]:
        return [scored.scores for scored in scorer(asked, ids)]

    def one_by_one() -> list[list[float]]:
        scores = []
        for query, text in solved:
            steps = codec.steps(text)
            prefixes = [codec.encode(query, steps[: last + 1]) for last in range(len(steps))]
            scores.append([scorer.scorer.score_encoded([prefix])[0][-1] for prefix in prefixes])
        return scores

    for ours, plain in zip(batched(), one_by_one(), strict=True):
        gaps = [abs(score - other) for score, other in zip(ours, plain, strict=True)]
        assert max(gaps) < 1e-3, "the two ways do not give the same scores"
    return [(timed(batched), timed(one_by_one)) for _ in range(args.repeats)]


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def parts_table(rollouts: Sequence[dict[str, float]]) -> str:
    lines = ["| part | seconds of a step | spread | share |", "|---|--:|---|--:|"]
    step = median(seconds["step"] for seconds in rollouts)
    for name in (*PARTS, "step"):
        values = [seconds[name] for seconds in rollouts]
        middle = median(values)
        lines.append(f"| {name} | {middle:.2f} | {min(values):.2f} to {max(values):.2f} | {middle / step:.1%} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = report.parser(__doc__, "grpo")
    parser.add_argument("--model", default=EMBEDDED, help="folder, hub id, or `small` for the random one of the tests")
    parser.add_argument("--prompts", type=cli.integer(1), default=4, help="of a rollout")
    parser.add_argument("--samples", type=cli.integer(1), default=4, help="of a prompt")
    parser.add_argument("--chunk", type=cli.integer(1), default=2, help="prompts per chunk of a rollout")
    parser.add_argument("--tokens", type=cli.integer(1), default=96, help="most new tokens per response")
    parser.add_argument("--rollouts", type=cli.integer(1), default=4, help="measured rollouts; another goes first")
    parser.add_argument(
        "--solutions", type=cli.integer(1), default=32, help="solutions, scored --repeats times each way"
    )
    parser.add_argument("--repeats", type=cli.integer(1), default=3)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = args.model == "small"
        base = str(small_random_model(folder / "small")) if small else resolve_model(args.model, "--model")[0]
        prm = make_reward_model(base, folder / "prm")
        rollouts = steps_of_training(args, base, prm, folder / "run")
        runs = scoring(args, prm)
    print(parts_table(rollouts))
    goal = GOALS["cuda" if grpo_trl.device() != "cpu" else "cpu"]
    waits = [(seconds["wait"], seconds["step"]) for seconds in rollouts]
    rows = [
        report.measured("grpo: PRM time not hidden behind rollout / a step", waits, "s", f"<= {goal}"),
        report.measured("grpo: scoring batched / one call per step", runs, "s"),
    ]
    print("\n" + report.table(rows))
    report.save(rows, args.json)
    return 0


if __name__ == "__main__":
    cli.entry(main)
