"""Run a whole study from one file: debate, labels, R-SFT, DA, PAD, evaluation of every system, table and report.

    python -m study --config configs/studies/smoke.yaml

Every step is a command of this repository, run as a child process with a log in <folder>/logs. Finished steps do
not run again; changed steps do, and so do all steps that build on them. The same command continues a study, however it
was stopped. --dry_run prints the commands, ready to paste into a shell in the repository's root. Exit code 1 also where
the recipe's gate stopped the study before a training.
"""

# ruff: noqa: T201 -- an entry script: it prints its progress

import shlex
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from agentark import cli
from agentark.config import ROOT, nearest
from agentark.lock import RunLock
from agentark.types import UserError
from study.gate import Closed, Gate
from study.lending import Lender
from study.plan import STAGES, Plan, PlannedStep
from study.recipe import load
from study.state import Memory, Status
from study.step import run as run_step
from study.step import shown

ENGINE = "engine"


def parse(argv: list[str] | None = None) -> Namespace:
    parser = cli.Parser(prog="python -m study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="the study, e.g. configs/studies/smoke.yaml")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of that file, keys dotted")
    names = f"{', '.join(STAGES)}, or a step as --dry_run names it"
    parser.add_argument("--only", nargs="+", metavar="STAGE", help=f"run only these: {names}")
    parser.add_argument("--from", dest="first", metavar="STAGE", help="begin there")
    parser.add_argument("--until", dest="last", metavar="STAGE", help="end with it")
    parser.add_argument("--force", action="store_true", help="train even if the recipe's gate says no")
    parser.add_argument("--dry_run", action="store_true", help="print the commands and stop")
    args: Namespace = parser.parse_args(argv)
    if args.only and (args.first or args.last):
        raise UserError("--only: does not go together with --from and --until")
    return args


def choose(
    steps: Sequence[PlannedStep], only: Sequence[str] | None, first: str | None, last: str | None
) -> list[PlannedStep]:
    """The steps that the flags ask for, in order.

    Raises:
        UserError: the study has no such stage or step, or there is nothing between the two.
    """

    def positions(flag: str, name: str) -> list[int]:
        indices = [index for index, step in enumerate(steps) if name in (step.stage, step.name)]
        if not indices:
            known = dict.fromkeys([*(step.stage for step in steps), *(step.name for step in steps)])
            raise UserError(f"{flag} {name!r}: no such stage or step in this study ({nearest(name, known)})")
        return indices

    if only:
        wanted = {index for name in only for index in positions("--only", name)}
        return [step for index, step in enumerate(steps) if index in wanted]
    begin = min(positions("--from", first)) if first else 0
    end = max(positions("--until", last)) if last else len(steps) - 1
    if begin > end:
        raise UserError(f"--from {first}: comes after --until {last}")
    return list(steps[begin : end + 1])


class View:
    """Reports on the terminal: a line per step, and while a step runs, its time and the last line of its log."""

    def __init__(self, steps: Sequence[PlannedStep]) -> None:
        self._total = len(steps)
        self._numbers = {step.name: number for number, step in enumerate(steps, 1)}
        self._live = sys.stdout.isatty()

    def say(self, step: PlannedStep, text: str) -> None:
        width = len(str(self._total))
        print(f"[{self._numbers[step.name]:{width}}/{self._total}] {step.name}: {text}", flush=True)

    def detail(self, text: str) -> None:
        print(f"    {text}", flush=True)

    def watch(self, seconds: float, line: str) -> None:
        if self._live:
            room = shutil.get_terminal_size().columns - 12
            shown = "".join(sign if sign.isprintable() else " " for sign in line)[:room]
            sys.stdout.write(f"\r\x1b[K    {clock(seconds)}  {shown}")
            sys.stdout.flush()

    def clear(self) -> None:
        """Erase the last state of a running step."""
        if self._live:
            sys.stdout.write("\r\x1b[K")


def clock(seconds: float) -> str:
    """`1:02:03`, `4:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def run(
    steps: Sequence[PlannedStep],
    chosen: Sequence[PlannedStep],
    memory: Memory,
    lock: RunLock,
    check: Callable[[PlannedStep], None] = lambda step: None,
) -> list[str]:
    """Run the chosen steps that are not done, in order.

    Args:
        steps: steps of the whole study.
        check: called with each step before it starts; raises where it may not.

    Returns:
        Names of the steps that ran.

    Raises:
        UserError: a step's input is missing, and the step that makes it was not chosen. RunError: a step failed.
    """
    view = View(steps)
    ran = []
    ahead = [step for step, status in statuses(chosen, memory) if status.kind != "done"]
    with Lender(ahead, memory.log(ENGINE), lock, view.detail, view.watch) as lender:
        for step in chosen:
            status = memory.status(step)
            if status.kind == "done":
                view.say(step, f"done, in {clock(memory.steps[step.name].seconds)}")
                continue
            check(step)
            for path in step.inputs:
                if not (ROOT / path).exists():
                    maker = f"; run {step.sources[path]!r} first, which makes it" if path in step.sources else ""
                    raise UserError(f"{step.name}: {path} is missing{maker}")
            view.say(step, status.text)
            for origin, target in memory.begin(step, status):
                view.detail(f"{_below(origin)} is now {_below(target)}")
            view.detail(shown(step.command))
            try:
                seconds = lender.start_for(step)
                environment = lender.environment(step)
                seconds += run_step(step, memory.log(step.name), lock, view.watch, environment)
            finally:
                view.clear()
            lender.end_after(step)
            memory.finish(step, seconds)
            view.say(step, clock(seconds))
            ran.append(step.name)
    return ran


def stale(steps: Iterable[PlannedStep], chosen: Sequence[PlannedStep], memory: Memory) -> list[str]:
    """Warnings about steps that have changed and are not chosen, though chosen steps build on them."""
    names = {step.name for step in chosen}
    needed = {name for step in chosen for name in step.after} - names
    statuses = [(step.name, memory.status(step)) for step in steps if step.name in needed]
    return [f"warning: {name} is left out though it is {status.text}" for name, status in statuses if status.why]


def statuses(steps: Iterable[PlannedStep], memory: Memory) -> Iterator[tuple[PlannedStep, Status]]:
    """Each step, and the status that it will have when its turn comes."""
    ahead: dict[str, Status] = {}
    for step in steps:
        status = memory.status(step, ahead)
        if status.kind != "done":
            ahead[step.name] = status
        yield step, status


def commands(steps: Iterable[PlannedStep], memory: Memory) -> list[str]:
    """The commands `run` would start, as lines for a shell; finished steps are comments."""
    lines = []
    for step, status in statuses(steps, memory):
        lines.append(f"# {step.name} ({status.text})")
        if status.kind == "done":
            lines.append(f"# {shown(step.command)}")
            continue
        for origin, target in memory.to_move(step, status):
            lines.append(shlex.join(["mkdir", "-p", _below(target.parent)]))
            lines.append(shlex.join(["mv", _below(origin), _below(target)]))
        lines.append(shown(step.command))
    return lines


def _below(path: Path) -> str:
    """The path relative to the repository's root."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def outcome(plan: Plan, memory: Memory) -> str:
    """The table, the ark card, the times and the path of the report."""
    page = ROOT / plan.at("report", "index.html")
    shown = [ROOT / plan.at(*parts) for parts in (("table.md",), ("ark", "ark.md"))]
    times: dict[str, float] = {}
    for step in plan.steps:
        entry = memory.steps.get(step.name)
        times[step.stage] = times.get(step.stage, 0.0) + (entry.seconds if entry else 0.0)
    listed = ", ".join(f"{stage} {clock(seconds)}" for stage, seconds in times.items())
    lines = [line for path in shown if path.is_file() for line in (path.read_text(encoding="utf-8").rstrip(), "")]
    lines.append(f"times: {listed}; in all {clock(sum(times.values()))}")
    return "\n".join([*lines, f"report: {_below(page)}"] if page.is_file() else lines)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    plan = Plan(load(args.config, args.set))
    chosen = choose(plan.steps, args.only, args.first, args.last)
    memory = Memory(plan.study.folder)
    if args.dry_run:
        print("\n".join(commands(chosen, memory)))
        return 0
    with RunLock(memory.path) as lock:
        memory = Memory(plan.study.folder)  # as the last owner left it
        memory.save(config=plan.study.model_dump(), versions=cli.provenance())
        for line in stale(plan.steps, chosen, memory):
            print(line)
        started = time.perf_counter()
        try:
            ran = run(plan.steps, chosen, memory, lock, Gate(plan, memory, args.force).pass_through)
        except Closed as closed:
            memory.save()
            print(closed)
            return 1
        memory.save()
    print(f"{len(ran)} of {len(chosen)} steps were run, in {clock(time.perf_counter() - started)}")
    print(outcome(plan, memory))
    return 0


if __name__ == "__main__":
    cli.entry(main)
