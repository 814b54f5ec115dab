"""We read and continue the files of commit 770fa1f: results, labels, a training set, a model, a study.

tests/fixtures/written_by_770fa1f holds its files: `outputs/written` as its commands left them (12 debates of a small
model, their labels, the set chosen from them, a student of `outputs/micro` trained on it, and the study of recipe.yaml
without report and logs).
"""

import json
import shutil
from pathlib import Path

import pytest

import inference
import label
from agentark import contamination
from agentark.labels import read_labels
from agentark.records import read_records
from distill.select import __main__ as select
from distill.sft import __main__ as sft
from distill.sft.data import read_rows
from eval import math_eval
from study import layout, recipe, state
from study.plan import Plan

FIXTURE = Path(__file__).parent / "fixtures" / "written_by_770fa1f"
WRITTEN = Path("outputs", "written")
SET = ["--strategy", "rsft", "--min_correct", "1", "--set", "min_reasoning_words=1"]
TRAINING = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--save_strategy", "no", "--logging_steps", "1"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def test_results_are_read_and_graded_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    results = WRITTEN / "study" / "eval" / "held_out" / "debate_infer.jsonl"
    graded, before = (
        results.with_name(f"debate_infer.math_eval.{name}") for name in ("per_sample.jsonl", "metrics.json")
    )
    verdicts, figures = graded.read_bytes(), json.loads(before.read_bytes())
    assert len(list(read_records(WRITTEN / "debate_infer.jsonl"))) == 12
    assert math_eval.main(["--input_file", str(results), "--dataset_name", "ChainSum"]) == 0
    assert graded.read_bytes() == verdicts
    after = json.loads(before.read_bytes())
    assert {name: after[name] for name in ("counts", "tokens", "input")} == {
        name: figures[name] for name in ("counts", "tokens", "input")
    }


def test_a_finished_run_has_nothing_left_to_do() -> None:
    """Debate, labels and answers of the study, by its own commands: not a byte changes."""
    plan = Plan(recipe.load(Path("recipe.yaml")))
    commands = {step.name: step.command for step in plan.steps}
    before = {path: path.read_bytes() for path in WRITTEN.rglob("*.jsonl")}
    assert inference.main(commands["inference debate"][1:]) == 0
    assert label.main(commands["label debate"][1:]) == 0
    assert math_eval.main(commands["baselines base on held-out"][2:]) == 0
    assert {path: path.read_bytes() for path in WRITTEN.rglob("*.jsonl")} == before


def test_the_same_set_is_chosen_from_its_labels() -> None:
    assert {len(row.labels) for row in read_labels(WRITTEN / "debate_labels.jsonl")} == {4}
    argv = ["--input", str(WRITTEN / "debate_labels.jsonl"), "--output", "again.jsonl", *SET]
    assert select.main(argv) == 0
    assert Path("again.jsonl").read_bytes() == (WRITTEN / "set.jsonl").read_bytes()


def test_its_student_loads_and_is_known_to_be_finished(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM

    student = WRITTEN / "student"
    rows = read_rows(WRITTEN / "set.jsonl")
    assert contamination.trained_on(student) == [row.id for row in rows]
    assert AutoModelForCausalLM.from_pretrained(student).config.model_type == "llama"
    argv = ["--model_name_or_path", "outputs/micro", "--train_data_path", str(WRITTEN / "set.jsonl")]
    assert sft.main([*argv, "--output_dir", str(student), *TRAINING]) == 0
    assert "is finished" in capsys.readouterr().out


def test_its_study_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the table is made again: it has learnt to tell the times."""
    for module in (layout, state):
        monkeypatch.setattr(module, "ROOT", Path.cwd())
    plan = Plan(recipe.load(Path("recipe.yaml")))
    memory = state.Memory(plan.study.folder)
    changed = {
        step.name: [change.what for change in memory._settings(step, memory.steps[step.name])] for step in plan.steps
    }
    assert changed.pop("table") == ["--study was not given, now outputs/written/study/study.json"]
    assert not any(changed.values())
