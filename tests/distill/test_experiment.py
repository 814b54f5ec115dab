"""The study runner: its commands, its memory, and its table."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

import label
from agentark import config, stats
from agentark.evaluation import Graded
from agentark.types import RunError, UserError
from distill import experiment
from distill.experiment import BASE, Plan, Step, Study
from distill.select import __main__ as select

CONFIG = Path(__file__).parents[2] / "configs" / "experiments" / "arith.yaml"


def study(tmp_path: Path, *overrides: str) -> Study:
    return config.load(Study, CONFIG, [f"folder={tmp_path / 'arith'}", *overrides], "--set")


@pytest.mark.parametrize("file", sorted(CONFIG.parent.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_command_of_a_checked_in_study_is_one_that_its_program_takes(tmp_path: Path, file: Path) -> None:
    import inference
    from distill.sft import flags as sft_flags
    from eval import common

    plan = Plan(config.load(Study, file, [f"folder={tmp_path}"], "--set"), ["--use_vllm"])
    steps = plan.steps()
    assert len({step.name for step in steps}) == len(steps)
    seen = set()
    for step in steps:
        program = step.command[1] if step.command[0] == "-m" else step.command[0]
        flags = step.command[2 if step.command[0] == "-m" else 1 :]
        seen.add(program)
        if program == "inference.py":
            inference.parse(flags)
        elif program == "label.py":
            label.parse(flags)
        elif program == "distill.select":
            select.parse(flags)
        elif program == "distill.sft":
            ours, training = sft_flags.parse(flags)
            assert (training.seed, ours.model_name_or_path) == (plan.study.seed, plan.study.model)
        else:
            assert program == "eval.math_eval"
            common.new_parser("math_eval", "").parse_args(flags)
    assert seen == {"inference.py", "label.py", "distill.select", "distill.sft", "eval.math_eval"}
    names = [step.name for step in steps]
    assert names.index("base: heldout") < names.index("R-SFT: select") < names.index("R-SFT: sft")


def test_training_and_evaluation_questions_are_apart(tmp_path: Path) -> None:
    from agentark.tasks import get_task

    settings = study(tmp_path)
    task = get_task(settings.dataset)

    def load(questions: experiment.Questions) -> list[str]:
        options = config.build(task.options, config.parse_overrides(questions.task_config, "x"), "x")
        return [one.id for one in task.load(questions.split, None, options).samples[: questions.samples]]

    trained = {id.rpartition("/")[2] for id in load(settings.train)}
    measured = {name: load(questions) for name, questions in settings.sets.items()}
    assert len(trained) == settings.train.samples
    assert {name: len(ids) for name, ids in measured.items()} == {"heldout": 300, "other": 300}
    assert not trained & {id.rpartition("/")[2] for ids in measured.values() for id in ids}
    for column in ("held-out", "out of distribution"):
        assert sum(len(measured[name]) for name in settings.table[column]) >= 300


def test_steps_run_once_and_a_failure_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(study(tmp_path), [])
    log = tmp_path / "ran"
    append = f"open({str(log)!r}, 'a').write('x')"
    steps = [Step("one", ["-c", append]), Step("two", ["-c", "import sys; print('bad luck'); sys.exit(3)"])]
    monkeypatch.setattr(plan, "steps", lambda: steps)
    for _ in range(2):
        with pytest.raises(RunError, match=r"two ended with exit code 3 \(.*02_two\.log\): bad luck"):
            experiment.run(plan)
    assert log.read_text() == "x"
    steps[1] = Step("two", ["-c", append])
    assert set(experiment.run(plan)) == {"one", "two"}
    assert log.read_text() == "xx"
    steps[0] = Step("one", ["-c", "pass"])
    with pytest.raises(UserError, match="one was run with other settings"):
        experiment.run(plan)


def graded(path: Path, right: list[bool], tokens: int) -> None:
    rows = [
        Graded(
            id=f"q{k}", number=0, metric="accuracy", verdict="correct" if one else "wrong", answer="1", gt="1",
            figures={"accuracy": float(one)}, truncated=False, tag=None,
        )
        for k, one in enumerate(right)
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    report: dict[str, Any] = {"tokens": {"m": {"completion_tokens": tokens}}}
    path.with_name(path.name.replace("per_sample.jsonl", "metrics.json")).write_text(json.dumps(report))


def test_the_table_compares_with_base_question_by_question(tmp_path: Path) -> None:
    settings = study(tmp_path, "table={held-out: [heldout], both: [heldout, other]}")
    plan = Plan(settings, [])
    for row in plan.rows:
        better = row == "R-SFT"
        for name in ("heldout", "other"):
            graded(plan.graded(row, name), [better or k % 2 == 0 for k in range(40)], 400)
    found = experiment.cells(plan, {"base: heldout": 10.0, "R-SFT: sft": 99.0})
    cell = found["R-SFT"]["held-out"]
    assert (cell.n, cell.accuracy, cell.difference, cell.tokens) == (40, 1.0, 0.5, 10.0)
    assert cell.p == pytest.approx(stats.mcnemar(0, 20))
    assert (found[BASE]["both"].n, found[BASE]["both"].p, found["DA"]["both"].p) == (80, None, 1.0)
    text = experiment.table(found, {"base: heldout": 10.0, "R-SFT: sft": 99.0}, settings)
    assert "| base | 50.0 ± 8.0 | 50.0 ± 5.6 | 10 | 10 | - |" in text
    assert "| R-SFT | 100.0 ± 0.0 (p 1.9e-06) | 100.0 ± 0.0 (p 1.8e-12) | 10 | 0 | 99 |" in text
    assert "held-out 40, both 80" in text


def test_a_dry_run_prints_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "arith"
    assert experiment.main(["--config", str(CONFIG), "--set", f"folder={folder}", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(Plan(study(tmp_path), []).steps())
    assert all(line.startswith("python ") for line in lines)
    assert not folder.exists()


def test_bad_studies(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"table: no set 'heldot' .*did you mean heldout"):
        Plan(study(tmp_path, "table={a: [heldot]}"), [])
    with pytest.raises(UserError, match=r"unknown key 'modle'"):
        study(tmp_path, "modle=x")
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read"):
        experiment.main(["--config", str(tmp_path / "nowhere.yaml")])
