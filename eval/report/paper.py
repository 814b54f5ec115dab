"""The paper's figures (paper.yaml), and our figures that they may stand beside."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct
from pydantic import Field

from agentark.config import Config, load
from eval.report.students import BASE_METHOD, Student, same_model
from eval.report.study import Evaluation

PAPER = Path(__file__).parent / "paper.yaml"


class Paper(Struct, frozen=True, kw_only=True):
    """A figure of the paper beside one of ours."""

    value: float
    what: str
    differs: list[str]
    """Known differences in the setting; the paper's decoding settings and prompts may always differ."""


class Cell(Config):
    """A published figure and its setting."""

    dataset: str
    """Dataset name, as registered here."""
    model: str
    """Hub id; its last part is compared."""
    strategy: Literal["single", "rsft", "da", "pad", "rsft+pad"]
    """`single`: the model as it is, without training."""
    trained_on: str | None = None
    value: float = Field(ge=0, le=100)
    """Accuracy in percent."""
    full_size: int | None = Field(default=None, ge=1)
    """Questions in the evaluation split."""


class PaperFigures(Config):
    """The content of eval/report/paper.yaml."""

    source: str
    note: str
    cells: list[Cell]

    def beside(self, evaluation: Evaluation, students: Mapping[str, Student]) -> Paper | None:
        """The published figure of the same dataset, model and strategy; None where there is none."""
        student = students.get(evaluation.model)
        if evaluation.method != BASE_METHOD or (evaluation.trained and student is None):
            return None
        model = student.base if student and student.base else evaluation.model
        strategy = (student.strategy or "?").casefold() if student else "single"
        wanted = (evaluation.dataset, strategy, student.data if student else None)
        n = evaluation.report.get("questions") or evaluation.report["counts"]["n"]
        for cell in self.cells:
            if (cell.dataset, cell.strategy, cell.trained_on) == wanted and same_model(cell.model, model):
                partly = cell.full_size not in (None, n)
                differs = [f"ours is over {n} of {cell.full_size} questions"] if partly else []
                return Paper(value=cell.value / 100, what=f"{cell.strategy}, {self.source}", differs=differs)
        return None


def load_paper() -> PaperFigures:
    return load(PaperFigures, PAPER, [], str(PAPER))
