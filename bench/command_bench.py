"""Measure where the time of a whole inference.py command goes: the engine's start, the run, and the process's end.

    python bench/command_bench.py [--samples 1 8 64] [--repeat 1] [--baseline CHECKOUT] [--data_dir ../shared/data]
                                  [--flags "--method_config num_agents=5"]
                                  [--variant "--engine_args enforce_eager=False"]

llm_debate (3 agents, 2 rounds, an aggregator) with vLLM and the small embedded model, 64 new tokens a call, on GSM8K
(without --data_dir: generated problems). The run begins when its journal appears and ends when its manifest is written
last. With --baseline, the same command runs in that checkout too, in turn; with --variant, with those flags too.
Prints a markdown table and writes the ratios to results/bench/command.json.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentark import cli
from agentark.files import manifest_of
from agentark.tasks import get_task
from agentark.types import UserError
from bench.parts import report

FLAGS = (
    "--method_name",
    "llm_debate",
    "--model_name",
    "smollm2-135m-instruct",
    "--use_vllm",
    "--model_max_tokens",
    "64",
)


@dataclass(frozen=True)
class Phases:
    """Seconds of a command."""

    start: float
    """Until the first call can be made."""
    run: float
    exit: float

    @property
    def command(self) -> float:
        return self.start + self.run + self.exit


def measured(command: Sequence[str], output: Path, checkout: Path) -> Phases:
    """Run a command that writes `output`; raises CalledProcessError with what it said when it fails."""
    journal = output.with_name(f"{output.name}.journal.jsonl")
    began, ready = time.time(), None
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=checkout, stdout=said, stderr=said)
        while process.poll() is None:
            if ready is None and journal.exists():
                ready = time.time()
            time.sleep(0.02)
        ended = time.time()
        if process.returncode or ready is None:
            said.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, said.read())
    finished = manifest_of(output).stat().st_mtime
    return Phases(ready - began, finished - ready, ended - finished)


def command_of(samples: int, output: Path, data_dir: Path | None, more: Sequence[str] = ()) -> list[str]:
    data = ("GSM8K", "--data_dir", str(data_dir.resolve())) if data_dir else ("GSMSymbolic",)
    flags = (*FLAGS, "--test_dataset_name", *data, "--max_samples", str(samples), *more)
    return [sys.executable, "inference.py", *flags, "--output_path", str(output)]


def words(text: str) -> list[str]:
    """An argparse type: flags in one word, as a shell reads them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.60} cannot be read as flags ({error})") from None


def medians(every: Sequence[Phases]) -> Phases:
    return Phases(*(median(values) for values in zip(*map(astuple, every), strict=True)))


def main(argv: list[str] | None = None) -> int:
    parser = report.parser(__doc__, "command")
    parser.add_argument("--samples", type=report.count, nargs="+", default=[1, 8, 64])
    parser.add_argument("--repeat", type=report.count, default=1)
    parser.add_argument("--baseline", type=Path, help="another checkout, to compare with")
    parser.add_argument("--flags", type=words, default=[], help="further flags of every command, as one word")
    parser.add_argument("--variant", type=words, help="flags of a further command, as one word, to compare with")
    parser.add_argument("--data_dir", type=Path, help="folder with gsm8k_test.jsonl (default: generated problems)")
    args = parser.parse_args(argv)
    if args.baseline is not None and not (args.baseline / "inference.py").is_file():
        raise UserError(f"--baseline {args.baseline}: no inference.py in it")
    if args.data_dir is not None:
        if not (args.data_dir / "gsm8k_test.jsonl").is_file():
            raise UserError(f"--data_dir {args.data_dir}: no gsm8k_test.jsonl in it")
        get_task("GSM8K").load("test", args.data_dir, limit=max(args.samples))
    commands: dict[str, tuple[Path, list[str]]] = {"ours": (report.ROOT, args.flags)}
    if args.baseline:
        commands[args.baseline.name] = (args.baseline.resolve(), args.flags)
    if args.variant:
        commands[shlex.join(args.variant)] = (report.ROOT, args.flags + args.variant)
    rows = []
    print("| samples | | start | run | exit | command |\n|--:|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for samples in args.samples:
            every: dict[str, list[Phases]] = {name: [] for name in commands}
            for repetition in range(args.repeat):
                for number, (name, (checkout, flags)) in enumerate(commands.items()):
                    output = Path(folder, f"{number}_{samples}_{repetition}.jsonl")
                    every[name].append(measured(command_of(samples, output, args.data_dir, flags), output, checkout))
            for name, phases in every.items():
                of = medians(phases)
                figures = (*astuple(of), of.command)
                print(f"| {samples} | {name} | {' | '.join(f'{seconds:.1f} s' for seconds in figures)} |", flush=True)
            rows += compared(samples, every)
    print(report.table(rows))
    report.save(rows, args.json)
    return 0


def compared(samples: int, every: Mapping[str, Sequence[Phases]]) -> list[report.Row]:
    """Our command over its run, and each phase of the others over ours.

    Args:
        every: name -> repetitions; `ours` among them.
    """
    ours = medians(every["ours"])
    title = f"{samples} debates: command over its run"
    rows = [report.Row(title, ours.command / ours.run, ours.run, ours.command, "s")]
    for name, repetitions in every.items():
        for phase in ("start", "run", "command") if name != "ours" else ():
            pairs = [(getattr(o, phase), getattr(r, phase)) for o, r in zip(every["ours"], repetitions, strict=True)]
            rows.append(report.measured(f"{samples} debates, {phase}: {name} over ours", pairs, "s", over_ours=True))
    return rows


if __name__ == "__main__":
    cli.entry(main)
