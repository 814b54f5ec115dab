"""Training curves: reward model, RL, fine-tuning; told apart by the figures in a metrics.jsonl."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from agentark import jsonl
from agentark.files import file_sha256, json_of
from agentark.records import natural
from agentark.types import UserError
from eval.report.files import Origin, shown
from eval.report.samples import StepScores
from eval.report.study import Run, Study

Kind = Literal["prm", "rl", "sft", "opd"]
BINS = 10
POSITIONS = 20
"""Step positions that are told apart; later ones count as the last."""

PANELS: Mapping[Kind, Sequence[tuple[str, str, tuple[str, ...]]]] = {
    "prm": (
        ("Loss", "per labelled step", ("loss", "eval_loss", "loss_ce", "loss_supcon", "loss_ranking")),
        ("Right or wrong, by step", "share", ("train_accuracy", "eval_accuracy", "eval_f1_wrong")),
        ("AUROC", "chance that a right step scores above a wrong one", ("train_auroc", "eval_auroc")),
        ("Calibration error", "mean |p(right) - share right|", ("eval_calibration_error",)),
        ("Margin", "mean p(right) of right steps less that of wrong ones", ("train_margin", "eval_margin")),
    ),
    "rl": (
        ("Reward", "mean over responses", ("process_reward", "process_reward_min", "solved", "reward")),
        ("KL", "nats per token", ("kl",)),
        ("Length", "tokens per response", ("length", "completions/mean_length")),
        ("Steps", "per response", ("steps",)),
        ("Truncated", "share of responses", ("truncated",)),
        ("Held-out accuracy", "share", ("accuracy",)),
    ),
    "opd": (
        ("Loss", "of the divergence, mean over replies", ("loss",)),
        ("KL to the teacher", "nats per token", ("kl",)),
        ("Length", "tokens per reply", ("length",)),
        ("Truncated", "share of replies", ("truncated",)),
        ("Held-out accuracy", "share", ("accuracy",)),
    ),
    "sft": (
        ("Loss", "per token", ("loss", "eval_loss")),
        ("Token accuracy", "share", ("mean_token_accuracy", "eval_mean_token_accuracy")),
        ("Held-out questions", "the dataset's figure", ("eval_score",)),
    ),
}
GUARD = "guard/"
SE = "_se"
"""End of the key of a figure's standard error."""
DEV = "dev.jsonl"
"""Held-out accuracy beside the metrics of an RL run."""


class Curves(Struct, frozen=True, kw_only=True):
    """One training run."""

    name: str
    kind: Kind
    rows: list[dict[str, Any]]
    origins: list[Origin]
    about: dict[str, Any]
    """Facts from its manifest, where there is one."""

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of a figure where it is known."""
        points = [(row["step"], row[key]) for row in self.rows if _number(row.get(key))]
        return [step for step, _ in points], [value for _, value in points]

    @property
    def guards(self) -> list[str]:
        return sorted({key for row in self.rows for key in row if key.startswith(GUARD)})

    @property
    def others(self) -> list[str]:
        """Figures that no panel shows."""
        known = {key for _, _, keys in PANELS[self.kind] for key in keys}
        known |= {"step", "epoch", *self.guards, *(key + SE for key in known)}
        return sorted({key for row in self.rows for key, value in row.items() if _number(value)} - known)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def kind_of(rows: Iterable[Mapping[str, Any]]) -> Kind:
    """Which training wrote these rows."""
    keys = {key for row in rows for key in row}
    if "process_reward" in keys or "kl" in keys or any(key.startswith(GUARD) for key in keys):
        return "rl"
    return "prm" if any(key.endswith(("_auroc", "_margin")) or key == "loss_ce" for key in keys) else "sft"


def read_curves(study: Study) -> list[Curves]:
    """The training runs of a study; a file that cannot be read becomes a problem of the study."""
    curves = []
    for path in study.found.curves:
        try:
            rows = [*_rows(path), *map(_dev, _rows(path.with_name(DEV)))]
        except UserError as error:
            study.problems.append(str(error))
            continue
        if rows:
            kind: Kind = "opd" if _about(path.parent).get("kind") == "opd" else kind_of(rows)
            curves.append(_curves(path, path.parent, kind, rows, study))
    told = {path.parent for path in study.found.curves}
    for path in study.found.manifests:
        if path.name == "manifest.json" and path.parent not in told and json_of(path).get("kind") == "sft":
            try:
                file, rows = _history(path)
            except (UserError, KeyError, TypeError, AttributeError) as error:
                study.problems.append(f"{path}: its log of the training cannot be read ({error})")
                continue
            if rows:
                curves.append(_curves(file, path.parent, "sft", rows, study))
    return curves


def _curves(path: Path, folder: Path, kind: Kind, rows: list[dict[str, Any]], study: Study) -> Curves:
    about = _about(folder)
    kept = ("base_model", "reward_model", "status", "stopped")
    return Curves(
        name=shown(folder, study.folders),
        kind=kind,
        rows=rows,
        origins=[Origin(shown(path, study.folders), file_sha256(path), about.get("command"), about.get("commit"))],
        about={key: about[key] for key in kept if key in about and (about[key] or key != "stopped")},
    )


def _dev(row: dict[str, Any]) -> dict[str, Any]:
    """A row of dev.jsonl with its standard error under the name that matches the figure."""
    return {f"accuracy{SE}" if key == "se" else key: value for key, value in row.items()}


def _history(manifest: Path) -> tuple[Path, list[dict[str, Any]]]:
    """(file, log lines) of a fine-tuning run: of its latest checkpoint, and the evaluations after it."""
    states = sorted(manifest.parent.glob("checkpoint-*/trainer_state.json"), key=lambda path: natural(path.parent.name))
    history = json_of(states[-1]).get("log_history", []) if states else []
    last = max((row["step"] for row in history), default=-1)
    later = json_of(manifest).get("evaluations") or []
    rows = [*history, *(row for row in later if row["step"] > last)]
    return (states[-1] if states else manifest), rows


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for number, row in jsonl.objects(path, str(path)):
        if not _number(row.get("step")):
            raise UserError(f"{path}, row {number}: expected an object with a 'step'")
        rows.append(row)
    return rows


def _about(folder: Path) -> dict[str, Any]:
    """The manifest of a training folder (of a stage: the folder above), command and commit flattened."""
    for manifest in (folder / "manifest.json", folder.parent / "manifest.json"):
        if manifest.is_file():
            content = json_of(manifest)
            last = content.get("sessions")
            session = last[-1] if isinstance(last, list) and last and isinstance(last[-1], dict) else content
            versions = session.get("versions")
            commit = versions.get("commit") if isinstance(versions, dict) else None
            return content | {"command": session.get("command"), "commit": commit}
    return {}


# ---------------------------------------------------------------- step scores


class Scored(Struct, frozen=True, kw_only=True):
    """Step scores of a results or labelled file beside the verdicts of their solutions."""

    name: str
    origins: list[Origin]
    solutions: int
    steps: int
    bins: list[tuple[float, float, int]]
    """(mean p(right), share of steps in right solutions, steps) of BINS bins of equal width, empty ones left out."""
    positions: dict[str, list[tuple[int, float, int]]]
    """`right`, `wrong` solutions -> (step position, mean p(right), steps)."""


def read_scores(run: Run) -> dict[str, list[StepScores]]:
    """Id -> step scores by prm.score of a question's solutions; those it could not score are left out.

    Raises:
        UserError: a row of another kind.
    """
    if run.scores is None:
        return {}
    return {
        row.id: [StepScores(one.id, one.steps, one.verdict) for one in row.scores if one.steps is not None]
        for row in jsonl.decoded(run.scores, _ScoredRow, "a scored row")
    }


class _ScoredSolution(Struct, frozen=True):
    id: int
    steps: list[float] | None
    verdict: bool | None = None


class _ScoredRow(Struct, frozen=True):
    id: str
    scores: list[_ScoredSolution]


def score_figures(
    name: str, origins: list[Origin], scored: Sequence[tuple[Sequence[float], bool | None]]
) -> Scored | None:
    """Calibration and score by position.

    Args:
        scored: (p(right) of each step, verdict on the solution) of each solution; those without a verdict don't count.
    """
    known = [(scores, verdict) for scores, verdict in scored if verdict is not None and scores]
    if not known:
        return None
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    positions: dict[str, dict[int, list[float]]] = {"right": defaultdict(list), "wrong": defaultdict(list)}
    for scores, verdict in known:
        for position, score in enumerate(scores, 1):
            bins[min(BINS - 1, int(score * BINS))].append((score, verdict))
            positions["right" if verdict else "wrong"][min(position, POSITIONS)].append(score)
    return Scored(
        name=name,
        origins=origins,
        solutions=len(known),
        steps=sum(len(scores) for scores, _ in known),
        bins=[
            (sum(score for score, _ in steps) / len(steps), sum(right for _, right in steps) / len(steps), len(steps))
            for _, steps in sorted(bins.items())
        ],
        positions={
            kind: [(position, sum(values) / len(values), len(values)) for position, values in sorted(of.items())]
            for kind, of in positions.items()
        },
    )


# ---------------------------------------------------------------- results of prm.evaluate


def check_tables(study: Study) -> list[dict[str, Any]]:
    """Benchmarks, best of n and probes of every evaluated reward model, as tables of name and figures."""
    tables = []
    for path in study.found.checks:
        try:
            content = json_of(path)
        except UserError as error:
            study.problems.append(str(error))
            continue
        origins = [study.origin(path)]
        for name, figures in content.items():
            if isinstance(figures, dict):
                tables += [table | {"origins": origins} for table in _tables(f"{path.parent.name}: {name}", figures)]
    return tables


def _tables(title: str, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Plain figures as one row; figures of parts (probes, ways to choose, classes) as a row each."""
    plain = {key: value for key, value in figures.items() if not isinstance(value, dict)}
    row = [_shown(value) for value in plain.values()]
    tables = [{"title": title, "head": list(plain), "rows": [row]}] if len(plain) > 1 else []
    n = f" (n = {figures['n']})" if "n" in figures else ""
    classes = figures.get("classes")
    parts = {key: value for key, value in figures.items() if isinstance(value, dict) and key != "classes"}
    for name, of in ((title + n, parts), (f"{title}, by class", classes if isinstance(classes, dict) else {})):
        if of:
            keys = list(dict.fromkeys(key for values in of.values() for key in values))
            rows = [[part, *(_shown(values.get(key)) for key in keys)] for part, values in of.items()]
            tables.append({"title": name, "head": ["", *keys], "rows": rows})
    return tables


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "passed" if value else "NOT passed"
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
