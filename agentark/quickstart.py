"""A first look: one model alone, voting with itself, and debating, on the same 8 problems. Runs inference.py.

    python -m agentark.quickstart [--data_dir FOLDER]

Every figure it prints is computed from the records that the run has written; a second call only reads them.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from agentark import cli, summary
from agentark.answers import close_pool
from agentark.embedded import EMBEDDED, THINKING, prepare
from agentark.records import read_records
from agentark.types import UserError

SCRIPT = Path(__file__).parents[1] / "inference.py"
METHODS = ("vanilla", "self_consistency", "llm_debate")
PROBLEMS = 8
LINE = 100
"""Characters of a line of the command that is shown."""

STORIES = ("wording=story", "min_terms=4", "max_terms=4", "min_digits=2", "max_digits=2")
"""Made problems of which the model solves a part alone: 11 of 16, and 3 of 16 of GSMSymbolic's (temperature 0.5)."""

MAX_TOKENS = 224
"""New tokens of a reply; few replies of the models here are longer."""


def run_flags(model: str, data_dir: Path | None) -> list[str]:
    """The flags of inference.py: word problems from a file of the folder, else made on the spot."""
    data = ["SVAMP", "--data_dir", str(data_dir)] if data_dir else ["ChainSum", "--task_config", *STORIES]
    return [
        *("--method_name", *METHODS, "--test_dataset_name", *data, "--model_name", model, "--use_vllm"),
        *("--max_samples", str(PROBLEMS), "--model_max_tokens", str(MAX_TOKENS), "--max_model_len", "4096"),
    ]


def choose_model() -> str:
    """The model that can think where its file can be had; else, with a line that says why, the one that is here."""
    try:
        prepare(THINKING)
    except UserError as error:
        print(f"using {EMBEDDED} instead, which solves few problems: {error}")
        return EMBEDDED
    return THINKING


def next_steps(debates: Path, dataset: str) -> list[str]:
    """Three commands to try next."""
    return [
        f"python -m agentark.summary {debates} --show 1",
        f"python label.py --input {debates} --dataset_name {dataset} --rules_only --rounds all",
        "python -m eval.report --results results --output report",
    ]


def run(model: str, data_dir: Path | None) -> list[Path]:
    """Run all methods in one command, and say which. Returns their results files.

    Raises:
        UserError: the command refused; it has said why.
    """
    flags = run_flags(model, data_dir)
    lines = ["$ python inference.py"]
    for part in re.split(r" (?=--)", shlex.join(flags)):  # a flag and its values stay together
        if len(lines[-1]) + len(part) < LINE:
            lines[-1] += f" {part}"
        else:
            lines.append(f"    {part}")
    print(" \\\n".join(lines), flush=True)
    done = subprocess.run([sys.executable, str(SCRIPT), *flags], stdout=subprocess.PIPE, text=True)
    files = [Path("results", flags[flags.index("--test_dataset_name") + 1], model, f"{m}_infer.jsonl") for m in METHODS]
    if done.returncode not in (0, 1) or not all(file.is_file() for file in files):
        raise UserError(f"inference.py ended with exit code {done.returncode}")
    if done.returncode == 1:
        print(done.stdout.splitlines()[-1])
    return files


def show(files: list[Path]) -> None:
    """The methods beside each other, a debate worth reading, what to try next."""
    print(f"\n{summary.comparison(files)}")
    print(f"{PROBLEMS} problems leave wide intervals; --max_samples 200 narrows them.")
    records = list(read_records(files[-1]))
    found = summary.changed(records)
    print(
        f"\n{'A debate in which an agent changed its answer' if found else 'No agent changed its answer; a debate'}:\n"
    )
    print(summary.debate(found or records[0], fold=True))
    print("\nTo try next:", *next_steps(files[-1], records[0].source), sep="\n  ")


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m agentark.quickstart", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_dir", type=Path, help="folder with svamp_test.jsonl: its problems, not generated ones")
    args = parser.parse_args(argv)
    if args.data_dir is not None and not (args.data_dir / "svamp_test.jsonl").is_file():
        raise UserError(f"--data_dir {args.data_dir}: no svamp_test.jsonl in it")
    show(run(choose_model(), args.data_dir))
    close_pool()
    return 0


if __name__ == "__main__":
    cli.entry(main)
