"""Choose training trajectories from labelled debates: R-SFT and DA (AgentArk, arXiv 2602.03955, phases 2 and 3).

    python -m distill.select --input results/GSM8K/<model>/llm_debate_infer_labeled_by_<judge>.jsonl \
        --output data/gsm8k_rsft.jsonl --strategy rsft

Writes prompt-completion rows for TRL, a dataset card beside them (<output>.card.md) and <output>.manifest.json. The
choice depends only on the labelled questions, never on the order of rows or files. The same command finishes a set
that was stopped in any way.
"""

# ruff: noqa: T201 -- an entry script: it prints its counts

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from agentark import answers, cli, config
from agentark.engines.choose import Choice, add_engine_flags, choose_engine
from agentark.files import Pending
from agentark.labelled import merge, read_all
from agentark.types import UserError
from distill.select import card
from distill.select.choose import CONFIG, K_MAX, SelectConfig, select


def parse(argv: list[str] | None = None) -> Namespace:
    parser = cli.Parser(prog="python -m distill.select", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="labelled files of one dataset")
    parser.add_argument("--output", type=cli.output_file, required=True, help="training set to write (.jsonl)")
    parser.add_argument("--strategy", choices=["rsft", "da"], required=True, help="rsft: 1 per question; da: up to k")
    parser.add_argument("--trajectories", type=Path, nargs="+", help="results files behind --input, in the same order")
    parser.add_argument("--min_correct", type=cli.integer(1), default=2, help="fewest right agents per question")
    parser.add_argument("--trace", choices=["single", "dialogue"], default="single", help="last reply, or all replies")
    parser.add_argument("--target", choices=["full", "answer"], default="full", help="answer: only the gold answer")
    parser.add_argument("--prefer", choices=["shortest"], help="among alike paths; default: drawn (settings' seed)")
    parser.add_argument("--thinking", choices=["strip", "keep"], default="strip", help="text between thinking tags")
    parser.add_argument(
        "--k", type=int, choices=range(1, K_MAX + 1), default=K_MAX, help="DA: most solutions per question"
    )
    parser.add_argument(
        "--diversity", choices=["llm", "embed", "ngram"], default="embed", help="DA: how solutions are told apart"
    )
    parser.add_argument("--distiller", help="DA with --diversity llm: the model that picks")
    parser.add_argument("--contamination", type=Path, nargs="+", default=[], help="evaluation files to avoid")
    parser.add_argument(
        "--match", type=Path, nargs="+", default=[], metavar="SET", help="keep only what these sets have, too"
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="settings of the selection")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change settings of that file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing training set")
    parser.add_argument("--push_to_hub", metavar="REPO", help="also upload set and card to this dataset repository")
    add_engine_flags(parser)
    parser.set_defaults(debug=False)
    args: Namespace = parser.parse_args(argv)
    llm = args.strategy == "da" and args.diversity == "llm"
    if llm and args.distiller is None:
        raise UserError("--diversity llm: the model that picks is missing (--distiller MODEL)")
    if not llm and args.distiller is not None:
        raise UserError(f"--distiller {args.distiller}: goes with --strategy da --diversity llm")
    if args.target == "answer" and args.strategy == "da":
        raise UserError("--target answer: one answer per question, so it goes with --strategy rsft")
    if args.trajectories is not None and len(args.trajectories) != len(args.input):
        raise UserError(f"--trajectories: {len(args.trajectories)} files for {len(args.input)} of --input")
    return args


def main(argv: list[str] | None = None, choose_engine: Callable[..., Choice] = choose_engine) -> int:
    args = parse(argv)
    settings = config.load(SelectConfig, args.config, args.set, "--set")
    card.check_output(args, settings)
    sources = read_all(args.input, args.trajectories)
    with Pending(args.output) as rows:
        try:
            counts, failed = select(args, settings, merge(sources), rows.add, choose_engine)
        finally:
            answers.close_pool()
        if failed:
            print(f"the distiller failed on {failed} questions; retry them with: {cli.command_line()}")
            return 1
        manifest = card.manifest(args, settings, sources, counts)
        paths = card.write(rows, manifest, args.overwrite)
    print(card.report(counts, args))
    print("\n".join(f"written to {path}" for path in paths))
    if args.push_to_hub:
        print(f"uploaded to {card.push(args.push_to_hub, *paths[:2])}")
    return 0


if __name__ == "__main__":
    cli.entry(main)
