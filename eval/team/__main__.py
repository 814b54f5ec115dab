"""Is there anything to distil? A team beside its best member and a vote at equal tokens, with a verdict.

    python -m eval.team results/GSM8K/M/llm_debate_infer.jsonl results/GSM8K/M/vanilla_infer.jsonl ...
    python -m eval.team --dataset_name GSM8K --model_name M --use_vllm

The first form reads results files: teams, single answers of their members (greedy and sampled) and votes
(self-consistency). Without single answers the team's first round stands for them; without a vote at equal tokens the
command that makes one is printed. The second form makes what is missing through inference.py (all its flags work here
too, and a run that was stopped goes on with the same command).
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agentark import answers, cli
from agentark.files import write_atomically
from agentark.records import now
from agentark.types import UserError
from eval.team import running
from eval.team.course import VOTING, read
from eval.team.running import Run, child
from eval.team.show import markdown, plot
from eval.team.verdict import worth_of
from eval.team.worth import THRESHOLDS, Worth, load_thresholds

RUN_FLAGS = ("methods", "team", "parallel_num", "max_samples")


def parse(argv: list[str] | None) -> tuple[Namespace, list[str]]:
    """(our flags, those for inference.py)."""
    words = sys.argv[1:] if argv is None else argv
    to_run = any(word.partition("=")[0].replace("-", "_") == "__dataset_name" for word in words)
    parser = cli.Parser(prog="python -m eval.team", description=(__doc__ or "").split("\n")[0])
    if not to_run:
        parser.add_argument("files", nargs="+", type=Path, help="results of teams, of members alone and of votes")
    parser.add_argument("--output_dir", type=cli.output_folder, default=Path("outputs/team"), help="table and plot")
    parser.add_argument("--thresholds", type=Path, default=THRESHOLDS, help="thresholds of the verdict")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change settings of that file")
    run = parser.add_argument_group("instead of files, runs of inference.py, whose flags these are too")
    run.add_argument("--dataset_name", nargs="+", default=[], help="datasets with answers that can be voted on")
    run.add_argument("--methods", nargs="+", help="methods that are judged as teams (default: llm_debate)")
    run.add_argument("--team", nargs="+", metavar="FILE.yaml|NAME=MODEL[@ADAPTER]", help="members of the teams")
    run.add_argument("--parallel_num", type=cli.integer(1, 1024), help="replies of the vote, at most (default: 16)")
    run.add_argument("--max_samples", type=cli.integer(1), help="questions of each dataset (default: 64)")
    if not to_run:
        args = parser.parse_args(words)
        for flag in RUN_FLAGS:
            if getattr(args, flag) is not None:
                raise UserError(f"--{flag}: goes with --dataset_name, not with results files")
        return args, []
    args, rest = parser.parse_some(words)
    running.check_rest(rest)
    return args, rest


def runs(args: Namespace, rest: Sequence[str], dataset: str) -> dict[Path, list[str]]:
    """Results file -> the flags of its run. Raises UserError for a method that is unknown or not for this dataset."""
    methods = args.methods or ["llm_debate"]
    for method in methods:
        running.check_method(method, dataset)
    team = ["--team", *args.team] if args.team else []
    votes = ["--method_config", f"parallel_num={args.parallel_num or 16}"]
    named = []
    for number, member in enumerate(running.members(args.team or [], methods, dataset), 1):
        end = f"_{number}" if number > 1 else ""
        named += [("vanilla", f"vanilla_greedy{end}", [*member, "--model_temperature", "0"])]
        named += [("vanilla", f"vanilla{end}", member), (VOTING, f"{VOTING}{end}", [*member, *votes])]
    named += [(method, method, team) for method in methods]
    flags: dict[Path, list[str]] = {}
    for method, name, more in named:
        path = args.output_dir / dataset / f"{name}_infer.jsonl"
        flags[path] = [
            *("--method_name", method, "--test_dataset_name", dataset, "--max_samples", str(args.max_samples or 64)),
            *("--output_path", str(path), *rest, *more),
        ]
    return flags


def write(worths: Sequence[Worth], folder: Path, about: dict[str, object]) -> None:
    """team.json, team.md and team.png."""
    report = msgspec.json.encode({"command": cli.command_line(), "written": now(), **about, "teams": worths})
    write_atomically(folder / "team.json", msgspec.json.format(report, indent=2) + b"\n")
    write_atomically(folder / "team.md", markdown(worths).encode() + b"\n")
    plot(worths, folder / "team.png")


def main(argv: list[str] | None = None, run: Run = child) -> int:
    args, rest = parse(argv)
    thresholds = load_thresholds(args.thresholds, args.set)
    running.check_votable(args.dataset_name)
    plans = [runs(args, rest, dataset) for dataset in dict.fromkeys(args.dataset_name)]
    if code := running.all_of([plan.values() for plan in plans], run):
        return code
    files = [path for plan in plans for path in plan] or list(dict.fromkeys(args.files))
    try:
        courses = [read(path, thresholds.yielded()) for path in files]
        worths = worth_of(courses, thresholds)
    finally:
        answers.close_pool()
    if not worths:
        raise UserError(f"{', '.join(map(str, files))}: none of them is of a team (all are single answers or votes)")
    write(worths, args.output_dir, {"thresholds": thresholds.model_dump()})
    print(markdown(worths))
    print(f"\nwritten to {args.output_dir}: team.md, team.json, team.png")
    return 0


if __name__ == "__main__":
    cli.entry(main)
