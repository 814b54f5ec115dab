"""Simulate the paper's data generation on 1 to 512 GPUs (bench/parts/replicas.py).

    python bench/simulate.py                                      the plan, a table and a JSON of ratios
    python bench/simulate.py --docs                               also docs/scaling.md and docs/scaling.svg
    python bench/simulate.py --fit A.jsonl --validate B.jsonl     speeds from recorded runs, checked on others

The plan compares our schedule with lockstep rounds, each with and without a shared order of answers, against a lower
bound. --records takes questions and reply lengths from a results file instead of drawing them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli
from agentark.config import load
from agentark.engines.launchers.modal import read_config
from agentark.types import UserError
from bench.parts import plan, report, validation

HARDWARE = report.ROOT / "configs" / "hardware" / "qwen3_32b_h100.yaml"


def main(argv: list[str] | None = None) -> int:
    parser = report.parser(__doc__, "simulate")
    group = parser.add_argument_group("plan")
    group.add_argument("--questions", type=cli.integer(1), default=342_000)
    group.add_argument("--agents", type=cli.integer(1), default=5)
    group.add_argument("--rounds", type=cli.integer(1), default=3)
    group.add_argument("--question_tokens", type=cli.integer(1), default=150)
    group.add_argument("--reply_tokens", type=cli.number(0), default=500, help="mean length of a reply")
    group.add_argument("--records", type=Path, help="results file to take debates from")
    group.add_argument("--hardware", type=Path, default=HARDWARE, help="file that describes a replica")
    group.add_argument("--gpus", type=cli.integer(1), nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
    group.add_argument("--cap", type=cli.integer(1), default=256, help="calls in flight per replica")
    group.add_argument(
        "--sample", type=cli.integer(1), default=800, help="simulated questions per replica, and twice as many"
    )
    group.add_argument("--seed", type=cli.integer(0), default=0)
    group.add_argument("--docs", action="store_true", help="write docs/scaling.md and its plot")
    group = parser.add_argument_group("validation")
    group.add_argument("--fit", type=Path, nargs="+", default=[], help="results files to take the speeds from")
    group.add_argument("--validate", type=Path, nargs="+", default=[], help="results files to predict")
    group.add_argument("--replicas", type=cli.integer(1), default=1, help="servers behind these runs")
    group.add_argument(
        "--kv_tokens", type=cli.integer(1), default=46_000, help="KV memory of each (SmolLM2-135M, 2 GiB, float32)"
    )
    group.add_argument("--kv_block", type=cli.integer(1), default=32, help="tokens per block of its prefix cache")
    args = parser.parse_args(argv)
    if bool(args.fit) != bool(args.validate):
        raise UserError("--fit and --validate go together: speeds are taken from some runs and tried on others")
    if set(args.fit) & set(args.validate):
        raise UserError(f"--validate {min(set(args.fit) & set(args.validate))}: the speeds come from it (--fit)")
    if args.fit:
        rows = validation.rows(args.fit, args.validate, args.replicas, args.kv_tokens, args.kv_block)
    else:
        hardware = load(plan.Hardware, args.hardware, [], "--hardware")
        shape = (args.questions, args.agents, args.rounds, args.question_tokens, args.reply_tokens)
        workload = plan.Workload(*shape, records=args.records, seed=args.seed)
        outcome = plan.make(workload, hardware, args.gpus, args.cap, args.sample)
        print(plan.table(outcome, hardware, read_config()))
        if args.docs:
            print(f"written to {plan.write_docs(outcome, hardware, workload, read_config(), args.cap)}")
        rows = plan.rows(outcome)
    return report.publish(rows, args.json)


if __name__ == "__main__":
    cli.entry(main)
