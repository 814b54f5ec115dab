"""How much of a team's gain do its students keep, and was that foreseen? The ark card, and a picture.

    python -m eval.ark --name denoise --best base --vote vote --team debate --worth outputs/lab/denoise/worth/team.json
        --rows held-out/base=.../per_sample.jsonl held-out/vote=... held-out/debate=... held-out/R-SFT=...
        longer/base=... --output outputs/lab/denoise/ark/ark
    python -m eval.ark --merge outputs/lab/*/ark/ark.json --output outputs/lab/ark

The first form makes the card of one cell: systems without a role are students of the best member. The second puts the
cells of several cards together and asks whether the teams' gains and the verdicts foretold what students gained.
Both write <output>.json, <output>.md and <output>.png.
"""

from argparse import Namespace
from pathlib import Path

from agentark import cli
from agentark.files import check_file, write_atomically
from agentark.records import now
from agentark.systems import parse_rows
from agentark.types import UserError
from eval.ark import show
from eval.ark.card import Card, encoded, merged
from eval.ark.cell import Roles, make

ONE_CELL = ("name", "rows", "best", "team")
"""Flags that a cell needs."""
BESIDE = ("vote", "members", "worth")


def parse(argv: list[str] | None) -> Namespace:
    parser = cli.Parser(prog="python -m eval.ark", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="path of the files, without .json, .md and .png")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="ARK.json", help="put these cards together")
    cell = parser.add_argument_group("the card of one cell")
    cell.add_argument("--name", help="of the cell")
    cell.add_argument("--rows", nargs="+", metavar="SET/SYSTEM=FILE", help="per_sample.jsonl of a system on a set")
    cell.add_argument("--best", metavar="SYSTEM", help="best member: what the students were before training")
    cell.add_argument("--team", metavar="SYSTEM", help="the team; the vote's name if the vote is what is distilled")
    cell.add_argument("--vote", metavar="SYSTEM", help="vote at equal tokens")
    cell.add_argument("--members", nargs="+", metavar="SYSTEM", help="the other members; what is left are students")
    cell.add_argument("--worth", type=Path, metavar="team.json", help="verdict of eval.team before training")
    cell.add_argument("--seed", type=cli.integer(0), default=0, help="seed of the bootstrap")
    args: Namespace = parser.parse_args(argv)
    given = [flag for flag in (*ONE_CELL, *BESIDE) if getattr(args, flag) is not None]
    if args.merge is not None and given:
        raise UserError(f"--{given[0]}: goes with one cell, not with --merge")
    if args.merge is None and (missing := [flag for flag in ONE_CELL if flag not in given]):
        raise UserError(f"--{missing[0]}: is needed for the card of one cell (or give --merge)")
    return args


def card(args: Namespace) -> Card:
    if args.merge is not None:
        return merged(args.merge)
    roles = Roles(best=args.best, team=args.team, vote=args.vote, members=args.members or ())
    return Card(cells=[make(args.name, parse_rows(args.rows), roles, args.worth, args.seed)])


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if not args.output.name:
        raise UserError(f"--output {args.output}: expected a path that ends in a name, e.g. outputs/ark")
    paths = {kind: args.output.with_name(f"{args.output.name}.{kind}") for kind in ("json", "md", "png")}
    if args.name is not None and not (args.name.isprintable() and args.name.strip() and "|" not in args.name):
        raise UserError(f"--name {args.name!r:.60}: expected a word or a few, without |")
    for path in paths.values():
        check_file(path, f"--output {args.output}: {path.name}")
    if paths["json"].resolve() in [path.resolve() for path in args.merge or ()]:
        raise UserError(f"--output {args.output}: {paths['json']} is one of the cards to merge; choose another path")
    made = card(args)
    text = show.markdown(made)
    about: dict[str, object] = {"written": now(), "command": cli.command_line(), "versions": cli.provenance()}
    show.plot(made, paths["png"])
    write_atomically(paths["md"], text.encode() + b"\n")
    write_atomically(paths["json"], encoded(made, about))
    print(text)
    print(f"\nwritten to {paths['json'].parent}: {', '.join(path.name for path in paths.values())}")
    return 0


if __name__ == "__main__":
    cli.entry(main)
