"""Make the models of a laboratory world: a base that can debate, and the members of a team, who know different things.

    python -m study.lab --world denoise --output outputs/lab/denoise/models

The base (0.3M parameters) learns to add up digits, to revise a solution after reading peers, and to read a team's
transcript; it has never seen a true digit. Each member is the base, taught what it believes about every noun.
Members are numbered by how much they get right alone, so that member_1 is the best. Models that are there stay.
"""

# ruff: noqa: T201 -- an entry script: it prints its progress

import shutil
import time
from argparse import Namespace

import msgspec

from agentark import cli
from agentark.files import check_folder, json_if_there, space_in, write_atomically
from agentark.lock import RunLock
from agentark.types import UserError
from study.lab import school
from study.lab.worlds import WORLDS, members

TOLD = "lab.json"
"""How the models beside it were made."""


def make(args: Namespace) -> None:
    """The base, unless it is there, and the members."""
    base = {"seed": args.seed, "steps": args.base_steps, "members": args.members}
    if args.base.exists():
        if (there := json_if_there(args.base / TOLD)) != base:
            made = f"was made with {there}, not with {base}" if there else "is there, and no base of the laboratory"
            raise UserError(f"--base {args.base}: {made}; choose another folder")
    else:
        partial_base = args.base.with_name(f".{args.base.name}.partial")
        shutil.rmtree(partial_base, ignore_errors=True)
        school.make_base(partial_base, args.base_steps, args.seed, args.members - 1)
        write_atomically(partial_base / TOLD, msgspec.json.encode(base) + b"\n")
        partial_base.rename(args.base)
    tables = members(args.world, args.seed, args.members)
    making = args.output.with_name(f".{args.output.name}.partial")
    shutil.rmtree(making, ignore_errors=True)
    folders = [making / f"taught_{number}" for number in range(args.members)]
    school.in_parallel(
        [
            (folder, args.base, table, args.member_steps, args.seed * 100 + number, args.members - 1)
            for number, (folder, table) in enumerate(zip(folders, tables, strict=True))
        ]
    )
    shares = {folder: school.right_alone(folder) for folder in folders}
    ranked = sorted(folders, key=lambda folder: -shares[folder])
    about = {f"member_{number}": {"right_alone": shares[folder]} for number, folder in enumerate(ranked, 1)}
    for number, folder in enumerate(ranked, 1):
        folder.rename(making / f"member_{number}")
        print(f"member_{number}: {shares[folder]:.1%} of {school.ASKED} training questions right alone")
    told = {"world": args.world, "seed": args.seed, "members": about}
    write_atomically(making / TOLD, msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
    making.rename(args.output)


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m study.lab", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--world", choices=WORLDS, required=True, help="how the members differ")
    parser.add_argument("--output", type=cli.output_folder, required=True, help="folder of the members")
    parser.add_argument(
        "--members", type=cli.integer(3, 5), default=3, help="of the team; its base has learnt no other size"
    )
    parser.add_argument("--base", type=cli.output_folder, help="folder of the base (default: base beside --output)")
    parser.add_argument(
        "--base_steps", type=cli.integer(1), default=school.BASE_STEPS, help=f"of {school.BATCH} dialogues or more"
    )
    parser.add_argument("--member_steps", type=cli.integer(1), default=school.MEMBER_STEPS, help="of each member")
    parser.add_argument(
        "--seed", type=cli.integer(0, 2**16), default=0, help="of models, lessons, and who is wrong about what"
    )
    args: Namespace = parser.parse_args(argv)
    args.base = args.base or args.output.with_name("base")
    check_folder(args.base, f"--base {args.base}")
    if there := json_if_there(args.output / TOLD):
        made = {"world": there.get("world"), "seed": there.get("seed"), "members": len(there.get("members") or ())}
        wanted = {"world": args.world, "seed": args.seed, "members": args.members}
        if made != wanted:
            raise UserError(f"--output {args.output}: was made with {made}, not with {wanted}; choose another folder")
        print(f"{args.output} is there already")
        return 0
    if args.output.exists():
        raise UserError(f"--output {args.output}: is there, and no models of the laboratory; choose another folder")
    began = time.monotonic()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with RunLock(args.base), space_in(args.output):
        make(args)
    print(f"written to {args.output}, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    cli.entry(main)
