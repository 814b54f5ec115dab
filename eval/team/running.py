"""Runs of inference.py that an evaluation needs: their flags, the datasets they may be of, one after the other."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence

from agentark.config import ROOT
from agentark.rows import AGGREGATORS
from agentark.tasks import get_task
from agentark.team import EVERYBODY, FLAG, Teamed, read_team
from agentark.types import UserError
from methods import check_kind, load_method

OURS = {"--method_name", "--test_dataset_name", "--output_path", "--method_config", "--method_config_name"}
"""Flags of inference.py that differ from run to run."""
Run = Callable[[Sequence[str]], int]
"""inference.py with these flags; returns its exit code."""


def child(flags: Sequence[str]) -> int:
    return subprocess.run([sys.executable, str(ROOT / "inference.py"), *flags], check=False).returncode


def check_rest(rest: Sequence[str]) -> None:
    """Raises UserError where flags for all runs name one that differs from run to run."""
    for flag in OURS & {word.partition("=")[0] for word in rest}:
        raise UserError(f"{flag}: is set by this comparison, run by run")


def check_votable(datasets: Iterable[str]) -> None:
    """Raises UserError for a dataset whose answers are not right or wrong."""
    for dataset in datasets:
        if (metric := get_task(dataset).metric) != "accuracy":
            raise UserError(f"--dataset_name {dataset}: is reported in {metric}, nothing to vote on")


def check_method(method: str, dataset: str) -> None:
    """Raises UserError for a method that is unknown or not for this dataset."""
    check_kind(load_method(method, dataset=dataset)[0], method, dataset, get_task(dataset).kind)


def members(words: Sequence[str], methods: Sequence[str], dataset: str) -> list[list[str]]:
    """For each member of the teams the flags with which it answers alone; no flags: --model_name itself.

    Args:
        words: what --team says.
        methods: the teams; a generator that only makes the final answer is no member.
    """
    if not words:
        return [[]]
    entries = read_team(words)
    given = {name: f"{entry.model or ''}{f'@{entry.adapter}' * bool(entry.adapter)}" for name, entry in entries.items()}
    answering = {name: who for name, who in given.items() if who}
    agents: dict[str, Sequence[str]] = {}
    for method in methods:
        speakers = load_method(method, dataset=dataset)[0]
        agents |= speakers.agents() if isinstance(speakers, Teamed) else {method: ()}
    listed = (
        name in answering or (roles and answering.keys() >= {*roles})
        for name, roles in agents.items()
        if name not in AGGREGATORS
    )
    alone = [] if EVERYBODY in answering or all(listed) else [list[str]()]
    heard = {who for name, who in answering.items() if name not in AGGREGATORS}
    return alone + [[FLAG, f"{EVERYBODY}={who}"] for who in dict.fromkeys(answering.values()) if who in heard]


def all_of(plans: Iterable[Iterable[Sequence[str]]], run: Run) -> int:
    """Run them; 0, or the exit code of the first that had to stop.

    1 is none of these: some rows carry an error, and those questions are left out for all.
    """
    codes = (run(flags) for plan in plans for flags in plan)
    return next((code for code in codes if code not in (0, 1)), 0)
