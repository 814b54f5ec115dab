"""Compare two evaluations of the same questions, paired.

python -m eval.compare --a outputs/GSM8K/base/math_eval/metrics.json --b outputs/GSM8K/tuned/math_eval/metrics.json
"""

from argparse import Namespace
from pathlib import Path

from agentark import cli
from agentark.evaluation import compare, read_graded
from agentark.files import write_atomically


def main(argv: list[str] | None = None) -> int:
    import msgspec

    parser = cli.Parser(prog="python -m eval.compare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--a", type=Path, required=True, help="baseline: a per_sample.jsonl or metrics.json")
    parser.add_argument("--b", type=Path, required=True, help="system to compare with the baseline")
    parser.add_argument("--metric", help="figure to compare (default: the dataset's own)")
    parser.add_argument("--seed", type=cli.integer(0), default=0, help="seed of bootstrap and permutation test")
    parser.add_argument("--output", type=cli.output_file, help="also write the result here, as JSON")
    args: Namespace = parser.parse_args(argv)
    compared = compare(read_graded(args.a), read_graded(args.b), args.metric, (args.a, args.b), args.seed)
    for key, value in compared.items():
        print(f"{key:12} {value:.4f}" if isinstance(value, float) else f"{key:12} {value}")
    if args.output is not None:
        write_atomically(args.output, msgspec.json.format(msgspec.json.encode(compared), indent=2) + b"\n")
    return 0


if __name__ == "__main__":
    cli.entry(main)
