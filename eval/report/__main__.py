"""One static site over all results: overview, debate, reward model, RL, samples.

python -m eval.report --results results --output report
"""

import sys
from argparse import Namespace
from pathlib import Path

from agentark import cli
from agentark.files import space_in
from eval.report import build, export


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m eval.report", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--results", type=Path, nargs="+", required=True, help="folders to report on (results, outputs)")
    add(
        "--output",
        type=cli.output_folder,
        default=Path("report"),
        help="folder of the site; a report there is replaced",
    )
    add("--title", default="AgentArk", help="of the pages")
    add("--base", help="model to compare with (default: each student's base model, else the same model)")
    add("--markdown", action="store_true", help="print the tables as Markdown")
    args: Namespace = parser.parse_args(argv)
    with space_in(args.output):
        built = build.build(args.results, args.output, args.title, args.base)
    if args.markdown:
        print((args.output / export.MARKDOWN).read_text(encoding="utf-8"), end="")
    for line in built.problems:
        sys.stderr.write(f"warning: {line}\n")
    debates = sum(debate.is_debate for debate in built.debates.values())
    print(
        f"{len(built.rows)} results, {debates} debates, {built.samples} samples in {built.seconds:.1f} s\n"
        f"written to {args.output / 'index.html'}",
        file=sys.stderr if args.markdown else sys.stdout,
    )
    return 1 if built.problems else 0


if __name__ == "__main__":
    cli.entry(main)
