"""Measure how much of the machine inference uses: our schedule, our runner's own cost, and real vLLM.

    python bench/inference_bench.py                                  all parts
    python bench/inference_bench.py --part virtual | runner | vllm   one of them

Prints a markdown table and writes the ratios to results/bench/inference.json.

Ratios of wall time are medians of alternated runs with their spread; the virtual clock is exact. See bench/parts.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli
from bench.parts import report, runner, virtual


def main(argv: list[str] | None = None) -> int:
    parser = report.parser(__doc__, "inference")
    parser.add_argument("--part", choices=("all", "virtual", "runner", "vllm", "memory"), default="all")
    group = parser.add_argument_group("virtual")
    group.add_argument("--slots", type=cli.integer(1), default=16, help="B, calls in flight")
    group.add_argument("--per_slot", type=cli.integer(1), nargs="+", default=[2, 20], help="samples per slot, n / B")
    group.add_argument("--seeds", type=cli.integer(1), default=3, help="draws of the reply lengths")
    group = parser.add_argument_group("runner")
    group.add_argument(
        "--samples", type=cli.integer(1), default=10_000, help="samples of 16 calls, for the time per call"
    )
    group.add_argument(
        "--stall_samples", type=cli.integer(1), default=60, help="samples of 16 calls with 4k-token prompts"
    )
    group.add_argument(
        "--memory_samples", type=cli.integer(1), default=10_000, help="samples, compared with ten times as many"
    )
    group = parser.add_argument_group("vllm")
    group.add_argument("--cap", type=cli.integer(1), default=8, help="calls in flight")
    group.add_argument("--vllm_samples", type=cli.integer(1), default=12)
    group.add_argument("--agents", type=cli.integer(1), default=3)
    group.add_argument("--rounds", type=cli.integer(1), default=2)
    group.add_argument("--repeats", type=cli.integer(1), default=3)
    group.add_argument(
        "--tokens", type=cli.integer(1), nargs=3, default=[12, 20, 48], metavar=("LOW", "MEDIAN", "HIGH")
    )
    group.add_argument(
        "--minutes", type=cli.number(0), default=10, help="time limit of the repetitions; fewer run if it is too short"
    )
    group.add_argument(
        "--block", type=cli.integer(1), help="tokens per block of vLLM's prefix cache; unset: vLLM's default"
    )
    args = parser.parse_args(argv)
    if args.part == "memory":  # the child process of the runner part
        print(json.dumps(runner.memory_child(args.samples)))
        return 0
    rows: list[report.Row] = []
    if args.part in ("all", "virtual"):
        for per_slot in args.per_slot:
            rows += virtual.rows(args.slots, per_slot, args.seeds)
    if args.part in ("all", "runner"):
        rows += runner.rows(args.samples, args.stall_samples, args.memory_samples)
    if args.part in ("all", "vllm"):
        from bench.parts import vllm

        rows += vllm.rows(args)
    return report.publish(rows, args.json)


if __name__ == "__main__":
    cli.entry(main)
