"""Measure time and memory of the data stages on made-up debates, few and many.

    python bench/data_bench.py                                    # 500 and 3,000 debates: a minute
    python bench/data_bench.py --baseline 10000 --samples 100000  # the paper's order of size: 1.5 GB of debates

    label       label.py --rules_only --rounds all, all cores
    select      distill.select, DA with k = 3
    math_eval   eval.math_eval
    summary     agentark.summary
    report      eval.report over all of it

Each stage is a command of its own. Memory is the largest sum over the command and its worker processes, looked at
every 20 ms (pages that processes share count in each). Prints both sizes; writes the ratios to results/bench/data.json.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from agentark import cli
from bench.parts import debates, report

STAGES = ("label", "select", "math_eval", "summary", "report")
POLL = 0.02
"""Seconds between two looks at the memory."""
MEMORY = "<= 1.3"


def command(stage: str, folder: Path) -> list[str]:
    """The stage on the debates in a folder, after the stages before it."""
    results = folder / "results" / "llm_debate_infer.jsonl"
    labels, dataset = results.with_name(f"{results.stem}_labeled_by_rules.jsonl"), ("--dataset_name", "GSM8K")
    output = folder / "sets" / "da.jsonl"
    return [str(part) for part in {
        "label": ("label.py", "--input", results, *dataset, "--rules_only", "--rounds", "all"),
        "select": ("-m", "distill.select", "--input", labels, "--output", output, "--strategy", "da", "--k", 3),
        "math_eval": ("-m", "eval.math_eval", "--input_file", results, *dataset),
        "summary": ("-m", "agentark.summary", results),
        "report": ("-m", "eval.report", "--results", results.parent, "--output", folder / "report"),
    }[stage]]  # fmt: skip


def measure(words: list[str]) -> tuple[float, float]:
    """(seconds, megabytes) of a command.

    Raises:
        SystemExit: it failed.
    """
    start, most = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen([sys.executable, *words], cwd=report.ROOT, stdout=said, stderr=said)
        while child.poll() is None:
            most = max(most, _resident(child.pid))
            time.sleep(POLL)
        said.seek(0)
        if child.returncode:
            raise SystemExit(f"{' '.join(words)}: exit code {child.returncode}\n{said.read().decode()[-2000:]}")
    return time.perf_counter() - start, most / 1e6


def _resident(pid: int) -> int:
    """Resident bytes of a process and all below it."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


def run(count: int, folder: Path, stages: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Stage -> (seconds, megabytes) on `count` debates."""
    size = debates.write(folder / "results" / "llm_debate_infer.jsonl", count)
    print(f"{count} debates, {size / count / 1e3:.1f} kB each")
    found = {}
    for stage in stages:
        seconds, memory = found[stage] = measure(command(stage, folder))
        print(f"{stage:10} {seconds:7.1f} s  {1000 * seconds / count:6.2f} ms a debate  {memory:6.0f} MB", flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = report.parser(__doc__, "data")
    parser.add_argument("--samples", type=report.count, default=3_000)
    parser.add_argument("--baseline", type=report.count, default=500, help="debates of the small run")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="select needs label before it")
    parser.add_argument("--folder", type=cli.output_folder, help="for the debates (default: the system's)")
    args = parser.parse_args(argv)
    runs = []
    for count in (args.baseline, args.samples):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            runs.append(run(count, Path(folder), tuple(args.stages)))
    few, many = runs
    cores = len(os.sched_getaffinity(0))
    rows = []
    for stage in args.stages:
        (before, small), (seconds, large) = few[stage], many[stage]
        what = f"{stage}: {args.samples} debates over {args.baseline}"
        rows.append(report.Row(f"memory of {what}", large / small, small, large, "MB", MEMORY))
        each = 1000 * before / args.baseline, 1000 * seconds / args.samples
        rows.append(report.Row(f"time a debate of {what}, {cores} cores", each[1] / each[0], *each, "ms"))
    return report.publish(rows, args.json)


if __name__ == "__main__":
    cli.entry(main)
