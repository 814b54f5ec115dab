"""From a folder of results to the finished site."""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentark import answers, cli
from agentark.files import json_if_there, json_of, write_atomically, writing
from agentark.records import now
from agentark.run_folder import aside, check_replaceable, entries, set_aside
from agentark.trajectories import CLASSES
from agentark.types import Record, UserError
from eval.ark.show import LEGEND
from eval.report import ark, charts, export, overview, pages, training
from eval.report.files import MARKER, Origin
from eval.report.overview import Costs, Row
from eval.report.paper import load_paper
from eval.report.samples import CORRECTIVE, CORRUPTED, TRUNCATED, VOTE_ENOUGH, VOTE_LOST, Writer, detail
from eval.report.study import Run, Study, read
from eval.report.training import Curves, Scored
from eval.team.course import Course, opened, selection, votable
from eval.team.debate import STATES, Debate, Sampled, look, state
from eval.team.show import left
from eval.team.verdict import judged
from eval.team.worth import Thresholds, Worth, load_thresholds, measure

WRITTEN = (MARKER, "*.html", "*.csv", "tables.md", "assets", "samples", ".*")
"""Files and folders of a report."""


class Built(Struct, kw_only=True):
    """Counts for the last lines of the command."""

    rows: list[Row]
    debates: dict[int, Debate]
    samples: int
    problems: list[str]
    seconds: float


def build(results: Sequence[Path], output: Path, title: str, base: str | None) -> Built:
    """Write the report.

    Args:
        results: folders with everything to be reported.
        output: the site's folder; an earlier report there is replaced.
        title: of the pages.
        base: model that everything is compared with; None: see `overview.find_base`.

    Raises:
        UserError: bad folders, or a missing library.
        RunError: the site cannot be written.
    """
    started = time.perf_counter()
    for name in pages.LIBRARIES:
        pages.library(name)
    _check(output)
    study = read(results)
    _claim(output)
    costs: dict[int, Costs] = {}
    debates: dict[int, Debate] = {}
    courses, thresholds = dict[int, Course](), load_thresholds()
    scored: list[Scored] = []
    folder = output / "samples"
    folder.mkdir()
    writer = Writer(folder)
    try:
        for run in study.runs:
            try:
                courses[run.number] = opened(run.path, run.dataset, run.method, run.model, thresholds.yielded())
                costs[run.number], figures = _read_run(run, courses[run.number], writer)
                debates[run.number] = courses[run.number].debate
                scored += [figures] if figures else []
            except UserError as error:
                study.problems.append(str(error))
    finally:
        answers.close_pool()
    writer.finish([_about(run) for run in study.runs])
    rows = overview.rows(study, costs, base)
    curves = training.read_curves(study)
    exports = export.write(output, rows, study, debates, curves, writer)
    writer.close()
    about = {"written": now(), "command": cli.command_line(), "samples": len(writer), "problems": study.problems}
    pages.write(
        output,
        {
            "index.html": _overview(study, rows, exports),
            "debate.html": _debate(study, debates, _worths(study, courses, thresholds)),
            "prm.html": {"groups": [_prm(study, curves, scored)]},
            "rl.html": {"groups": [_curves(kind, curves) for kind in ("rl", "opd", "sft")]},
            "samples.html": {},
        },
        about | {"title": title, "commit": cli.provenance().get("commit")},
    )
    write_atomically(output / MARKER, msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n")
    shutil.rmtree(aside(output), ignore_errors=True)
    return Built(
        rows=rows, debates=debates, samples=len(writer), problems=study.problems, seconds=time.perf_counter() - started
    )


def _check(output: Path) -> None:
    """Raises UserError where files that are no report would be lost."""
    name = f"--output {output}"
    if entries(output, name) and not (output / MARKER).is_file():
        raise UserError(f"{name}: holds files that are no report of ours; choose an empty or a new folder")
    check_replaceable(output, WRITTEN, name, "a new report")


def _claim(output: Path) -> None:
    """Make an empty folder, marked as a report; an earlier report is set aside until this one is finished."""
    with writing(output):
        set_aside(output, "written" in json_if_there(output / MARKER))
    write_atomically(output / MARKER, b"{}\n")


def _about(run: Run) -> dict[str, Any]:
    return {
        "dataset": run.dataset,
        "model": run.model,
        "method": run.method,
        "file": run.origin.file,
        "sha256": run.origin.sha256,
        "command": run.origin.command,
    }


# ---------------------------------------------------------------- one pass over a run


def _read_run(run: Run, course: Course, writer: Writer) -> tuple[Costs, Scored | None]:
    """Read every record once: its costs, its verdicts, its place on the samples page."""
    costs, settings = Costs(), selection() if votable(run.dataset) else None
    labels, grades = run.label_rows(), run.grades()
    steps = training.read_scores(run)
    judged: list[tuple[Sequence[float], bool | None]] = []
    for record in run.records():
        row, grade, scores = labels.get(record.id), grades.get(record.id), steps.get(record.id, [])
        seen = look(record, row, grade) if record.error is None and record.solutions else None
        costs.add(record)
        if seen is not None:
            course.add(record, seen, row, settings)
        verdicts = {solution.id: solution.verdict for solution in row.solutions} if row else {}
        judged += [(scored.scores, verdicts.get(scored.solution, scored.verdict)) for scored in scores]
        verdict = state(seen.final) if seen else "error"
        writer.add(run.number, record, detail(record, row, seen, grade, scores), verdict, _flags(record, seen))
    return costs, training.score_figures(run.name, [run.origin], judged)


def _flags(record: Record, seen: Sampled | None) -> int:
    """Bits for the events of a sample."""
    kinds = set(seen.paths.values()) if seen else set()
    flags = CORRECTIVE * ("corrective" in kinds) + CORRUPTED * ("corrupted" in kinds)
    flags += TRUNCATED * any(turn.completion.finish_reason == "length" for turn in record.trajectory)
    if seen is not None and seen.votes and seen.votes[min(seen.votes)]:
        flags += VOTE_ENOUGH * (seen.final is True) + VOTE_LOST * (seen.final is False)
    return flags


# ---------------------------------------------------------------- pages


def _overview(study: Study, rows: Sequence[Row], exports: Sequence[str]) -> dict[str, Any]:
    datasets: dict[str, list[Row]] = {}
    for row in rows:
        datasets.setdefault(row.dataset, []).append(row)
    return {
        "rows": rows,
        "datasets": datasets,
        "charts": {
            name: [chart for chart in (charts.accuracy(name, of), charts.cost(name, of)) if chart]
            for name, of in datasets.items()
        },
        "origins": {
            name: list({origin.file: origin for row in of for origin in row.origins}.values())
            for name, of in datasets.items()
        },
        "arks": ark.cards(study),
        "legend": LEGEND,
        "reasoning": overview.reasoning_rows(study),
        "cards": overview.label_cards(study),
        "paper": load_paper(),
        "matched": sum(row.paper is not None for row in rows),
        "exports": exports,
    }


def _worths(study: Study, courses: Mapping[int, Course], thresholds: Thresholds) -> dict[int, Worth]:
    """Number of a run -> the worth of its team, beside the other runs of its questions as `eval.team` compares them."""
    worths: dict[int, Worth] = {}
    for setting in dict.fromkeys((run.dataset, run.setting) for run in study.runs):
        numbers = [run.number for run in study.runs if (run.dataset, run.setting) == setting]
        own = {number: courses[number] for number in numbers if number in courses and courses[number].asked}
        teams = {number: team for number, team in own.items() if team.kind == "team" and team.debate.is_debate}
        measured = [measure(team, _beside(team, own.values()), thresholds) for team in teams.values()]
        worths |= zip(teams, judged(measured, thresholds), strict=True)
    return worths


def _beside(team: Course, courses: Iterable[Course]) -> list[Course]:
    """The files of single answers and votes by its members that leave at least half of its questions in common."""
    common, chosen = set(team.asked), list[Course]()
    for course in courses:
        if course.kind == "team" or not set(course.members) <= set(team.members):
            continue
        if 2 * len(left := common & course.asked.keys()) >= len(team.asked):
            common, chosen = left, [*chosen, course]
    return chosen


def _debate(study: Study, debates: Mapping[int, Debate], worths: Mapping[int, Worth]) -> dict[str, Any]:
    shown = []
    for run in study.runs:
        debate = debates.get(run.number)
        if debate is None or not debate.is_debate:
            continue
        key = f"run-{run.number}"
        origins = [run.origin, *([study.origin(run.labels)] if run.labels else [])]
        makers = (charts.flows, charts.agreement, charts.importance)
        shown.append(
            {
                "key": key,
                "name": run.name,
                "debate": debate,
                "worth": worths.get(run.number),
                "left": left(worths[run.number]) if run.number in worths else "",
                "judged_by": f"the labels in {run.labels.name}, and rules where these leave out earlier rounds"
                if run.labels
                else "rules, where they can tell (nobody has labelled this run)",
                "rounds": [
                    (round, {name: counts[name] for name in STATES}) for round, counts in sorted(debate.rounds.items())
                ],
                "agreement": debate.agreed(),
                "flows": export.flows(debate),
                "paths": debate.path_counts(),
                "voting": debate.voting(),
                "charts": [chart for make in makers if (chart := make(run.name, key, debate, origins))],
                "origins": origins,
            }
        )
    return {"runs": shown, "selections": _selections(study)}


def _selections(study: Study) -> list[dict[str, Any]]:
    """Training sets of distill.select: the paths found and the rows chosen."""
    sets = []
    for path in study.found.manifests:
        content = json_of(path)
        counts = content.get("counts")
        if not isinstance(counts, dict) or not isinstance(counts.get("agent_paths"), dict):
            continue
        file = path.with_name(path.name.removesuffix(".manifest.json"))
        origin = study.origin(file if file.is_file() else path)
        versions = content.get("versions")
        commit = versions.get("commit") if isinstance(versions, dict) else None
        sets.append(
            {
                "file": origin.file,
                "strategy": content.get("strategy"),
                "questions": counts.get("questions"),
                "rows": counts.get("rows"),
                "paths": _listed(counts["agent_paths"]),
                "chosen": _listed(counts.get("chosen_paths") or {}),
                "origins": [Origin(origin.file, origin.sha256, str(content.get("command") or "") or None, commit)],
            }
        )
    return sets


def _listed(counts: Any) -> str:
    if not isinstance(counts, dict):
        return "unknown"
    ordered = sorted(counts, key=lambda name: CLASSES.index(name) if name in CLASSES else len(CLASSES))
    return ", ".join(f"{name.replace('_', ' ')} {counts[name]}" for name in ordered) or "none"


GROUPS = {
    "prm": ("Process reward model", "No reward model was trained;", "python prm/finetune2.py --help"),
    "rl": ("RL", "No policy was trained with rewards;", "python -m openrlhf.cli.train_grpo --help"),
    "opd": ("On-policy distillation", "No student was taught on its own samples;", "python -m distill.opd --help"),
    "sft": ("Fine-tuning", "No student was fine-tuned;", "python -m distill.sft --help"),
}


def _curves(kind: str, curves: Sequence[Curves]) -> dict[str, Any]:
    runs = [run for run in curves if run.kind == kind]
    title, missing, how = GROUPS[kind]
    panels = charts.panels(kind, runs)
    return {"title": title, "missing": missing, "how": how, "runs": runs, "charts": panels, "tables": []}


def _prm(study: Study, curves: Sequence[Curves], scored: Sequence[Scored]) -> dict[str, Any]:
    group = _curves("prm", curves)
    more = [chart for number, figures in enumerate(scored) for chart in charts.scores(number, figures)]
    return group | {"charts": [*group["charts"], *more], "tables": training.check_tables(study)}
