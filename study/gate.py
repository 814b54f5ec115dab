"""The gate of a study: training starts only if eval.team says that there is something to distil."""

from pathlib import Path

from agentark.config import ROOT
from agentark.types import UserError
from agentark.verdicts import promising, read_verdicts, verdict_on
from study.plan import Plan, PlannedStep
from study.state import Memory

TRAINING = ("sft", "opd", "prm", "grpo")
"""Stages that do not start while the gate is closed."""


class Closed(Exception):
    """The verdict is that there is nothing to distil."""


class Gate:
    """Asks for the verdict before the first training. `force`: opens it whatever the verdict is."""

    def __init__(self, plan: Plan, memory: Memory, force: bool) -> None:
        self._plan, self._memory = plan, memory
        self._open = force or not plan.study.gate

    def pass_through(self, step: PlannedStep) -> None:
        """Let a step that will run pass.

        Raises:
            Closed: it trains, and the verdict is no. UserError: there is no verdict yet, or it is out of date.
        """
        if self._open or step.stage not in TRAINING:
            return
        worth = next(one for one in self._plan.steps if one.stage == "worth")
        if (status := self._memory.status(worth)).kind != "done":
            raise UserError(f"{step.name}: the gate asks for worth, which is {status.text}; run 'worth' first")
        self._judge(ROOT / worth.outputs[0] / "team.json")
        self._open = True

    def _judge(self, path: Path) -> None:
        study = self._plan.study
        worth = study.worth
        assert worth is not None
        by_vote = worth.vote is not None and study.teachers[worth.vote].train
        results = Path(self._plan.judged(worth.team)).name
        said = verdict_on(read_verdicts(path), results, worth.team == worth.vote)
        if said is None:
            raise UserError(f"{path}: holds no single verdict on {worth.team}; run 'worth' again")
        if not promising(said.verdict, by_vote):
            raise Closed(
                f"gate: nothing is trained, as eval.team says {said.verdict} of {worth.team} on {self._plan.judged_on} "
                f"({said.words}); --force goes on"
            )
