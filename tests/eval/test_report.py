"""The report without a browser: what it finds, what it counts, what it writes."""

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import report_cases
from label_cases import debate, write
from msgspec import structs

from agentark import stats
from agentark.labels import LabelRow
from agentark.run_folder import aside
from agentark.types import Message, MethodInfo, Part, UserError
from eval import math_eval
from eval.report import __main__ as entry
from eval.report import charts, export, overview, pages, samples, training
from eval.report.files import MARKER
from eval.report.paper import load_paper
from eval.report.students import Student, nearest, read_students
from eval.report.study import read
from eval.team import __main__ as team
from eval.team.debate import Debate, look

R, W, N = "It is \\boxed{7}.", "It is \\boxed{8}.", "no idea"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_cases.make(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def site(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site") / "report"
    assert entry.main(["--results", str(study), "--output", str(output)]) == 0
    return output


def added(*records: Any) -> Debate:
    found = Debate()
    for record in records:
        found.add(record, look(record, None, None))
    return found


# ---------------------------------------------------------------- debate


def test_flows_paths_agreement_and_voting_by_hand() -> None:
    found = added(
        debate("GSM8K/test/0", "7", [[R, W, W], [R, R, W]], R),
        debate("GSM8K/test/1", "7", [[W, W, N], [W, R, W]], W),
        debate("GSM8K/test/2", "7", [[R, R, R], [R, R, W]], W),
    )
    assert found.flows[1, 2] == {
        ("right", "right"): 3,
        ("wrong", "right"): 2,
        ("wrong", "wrong"): 2,
        ("null", "wrong"): 1,
        ("right", "wrong"): 1,
    }
    assert export.flow((1, 2), found.flows[1, 2]) == {
        "before": 1, "after": 2, "kept": 3, "gained": 2, "lost": 1, "missed": 2, "unknown": 1, "n": 9,
    }  # fmt: skip
    assert found.path_counts() == {
        "always_right": 3, "corrective": 2, "corrupted": 1, "always_wrong": 3, "unknown": 0,
    }  # fmt: skip
    assert list(zip(*found.agreement[1], strict=True)) == [(False, 2 / 3), (False, 2 / 3), (True, 1.0)]
    assert found.rounds[1] == {"right": 4, "wrong": 4, "null": 1}
    first = found.voting()["first"]
    assert (first["vote_right"], first["answer_right"], first["both_right"], first["only_vote"]) == (1, 1, 0, 1)
    assert found.voting()["last"]["both_right"] == 1
    for vote in found.voting().values():
        assert vote["both_right"] + vote["only_vote"] + vote["only_answer"] + vote["neither"] == vote["known"]


def test_rules_judge_a_single_round_that_nobody_labelled() -> None:
    found = added(debate("GSM8K/test/0", "7", [[R, R, W]], R), debate("GSM8K/test/1", "7", [[W, W, R]], R))
    assert found.rounds[1] == {"right": 3, "wrong": 3}
    vote = found.voting()["only"]
    assert (vote["vote_right"], vote["answer_right"], vote["both_right"], vote["only_answer"]) == (1, 2, 1, 1)


def test_one_agent_alone_has_no_vote_and_importance_is_summed() -> None:
    alone = debate("GSM8K/test/0", "7", [[W]], R)
    assert not added(alone).is_debate
    scored = [
        debate(f"GSM8K/test/{k}", "7", [[R, W]], R, info={"importance": {"agent_1": k, "agent_2": 1}}) for k in (0, 2)
    ]
    assert added(*scored).importance == {"agent_1": 2.0, "agent_2": 2.0}
    assert added(*scored).scored == 2
    chart = charts.importance("x", "x", added(*scored), [])
    assert chart is not None
    assert dict(zip(chart.data[0]["y"], chart.data[0]["x"], strict=True)) == {"agent_1": 1.0, "agent_2": 1.0}


def test_agents_that_answer_in_turns_are_a_team() -> None:
    record = debate("GSM8K/test/0", "7", [[W], [R]], None)
    first, second = record.trajectory
    checked = structs.replace(second, id="checker/2/debater", agent="checker")
    final = structs.replace(record.solutions[-1], agent="checker", turn=checked.id)
    chain = structs.replace(record, trajectory=[first, checked], solutions=[final])
    found = added(chain)
    assert {round: dict(states) for round, states in found.rounds.items()} == {1: {"wrong": 1}, 2: {"right": 1}}
    assert found.is_debate
    row = LabelRow(
        **chain.fields(), solutions=[], labels=[True], judge="rules", input="", token_stats={},
        round_labels={"agent_1": [False, None], "checker": [None, True]},
    )  # fmt: skip
    seen = look(chain, row, None)
    assert seen.verdicts == {("agent_1", 1): False, ("checker", 2): True}, "who said nothing has no verdict"
    assert not added(debate("GSM8K/test/0", "7", [[R]], None)).is_debate


def test_the_debate_page_says_of_a_team_what_eval_team_says(tmp_path: Path) -> None:
    data, results = report_cases.dataset(tmp_path / "data", 12), tmp_path / "results"
    runs = [("vanilla", 4, ()), ("self_consistency", 5, ("--method_config", "parallel_num=40")), ("llm_debate", 4, ())]
    files = [str(report_cases.infer(data, results, method, right, *more)) for method, right, more in runs]
    assert team.main([*files, "--output_dir", str(tmp_path / "team")]) == 0
    assert entry.main(["--results", str(results / "GSM8K"), "--output", str(tmp_path / "report")]) == 0
    (worth,) = json.loads((tmp_path / "team" / "team.json").read_text())["teams"]
    page = (tmp_path / "report" / "debate.html").read_text()
    assert f"Verdict: {worth['words']}." in page
    assert page.count("(python -m eval.team)") == 1
    for line in worth["rows"]:
        assert f"<td>{line['name']}</td><td>{line['who']}</td>" in page
    for gap in worth["gaps"]:
        assert f'<td>{gap["of"]} − {gap["over"]}</td><td class="n">{100 * gap["difference"]:+.1f}</td>' in page


# ---------------------------------------------------------------- overview


def test_rows_have_base_delta_cost_and_origin(study: Path) -> None:
    found = read([study])
    rows = {(row.model, row.method): row for row in overview.rows(found, {}, None)}
    base, student = rows["org/base", "vanilla"], rows[report_cases.STUDENT, "vanilla"]
    debated = rows["org/base", "llm_debate"]
    assert base.is_base
    assert base.delta is None
    assert not base.trained
    assert student.trained
    assert student.delta is not None
    assert student.delta.base == "org/base"
    assert student.delta.value == pytest.approx((student.value or 0) - (base.value or 0))
    assert student.delta.low <= student.delta.value <= student.delta.high
    assert student.delta.n == 12
    assert debated.delta is not None
    assert debated.delta.base == "org/base, vanilla"
    compared = [row.delta for row in rows.values() if row.delta]
    assert len(compared) > 1
    assert [delta.p_holm for delta in compared] == stats.holm([delta.p for delta in compared])
    assert debated.calls == pytest.approx(10)
    assert debated.completion_tokens
    assert all(row.low is not None and row.value is not None and row.low <= row.value for row in rows.values())
    assert debated.origins[0].command
    assert len(debated.origins[0].sha256) == 64


def test_base_can_be_chosen_and_chains_of_students_end_at_their_root(study: Path) -> None:
    found = read([study])
    rows = overview.rows(found, {}, report_cases.STUDENT)
    assert {row.delta.base for row in rows if row.delta} == {report_cases.STUDENT}
    student = next(one for one in found.evaluations if one.trained)
    chain = {
        report_cases.STUDENT: Student("middle", None, None),
        "middle": Student("org/base", None, None),
    }
    base = overview.find_base(student, found.evaluations, None, chain)
    assert base is not None
    assert base.model == "org/base"


def test_models_of_one_name_in_several_studies_have_each_the_base_of_their_own(study: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(study, tmp_path / name)
    found = read([tmp_path])
    for evaluation in found.evaluations:
        base = overview.find_base(evaluation, found.evaluations, None, {})
        if base is not None:
            assert base.path.relative_to(tmp_path).parts[0] == evaluation.path.relative_to(tmp_path).parts[0]
    rows = [row for row in overview.rows(found, {}, None) if row.metric]
    assert Counter(row.where for row in rows) == {"one": len(rows) // 2, "two": len(rows) // 2}
    assert sum(row.is_base for row in rows) == 2
    assert not [name for name in overview.names(rows) if not name.endswith((" · one", " · two"))]


def test_students_of_one_name_in_several_studies_are_each_found_by_their_own_files(tmp_path: Path) -> None:
    manifests = []
    for name, base in (("one", "org/base"), ("two", "org/other"), ("three", "org/third")):
        manifests.append(tmp_path / name / "students" / "r_sft" / "manifest.json")
        manifests[-1].parent.mkdir(parents=True)
        manifests[-1].write_text(json.dumps({"kind": "sft", "base_model": base}))
    for name, base in (("one", "org/base"), ("two", "org/other"), ("three", "org/third")):
        of_study = nearest(read_students(manifests), tmp_path / name / "eval" / "metrics.json")
        assert of_study == {"r_sft": Student(base, None, None)}


def test_paper_stands_beside_the_same_setting_only(study: Path) -> None:
    found = read([study])
    single = next(one for one in found.evaluations if one.method == "vanilla" and not one.trained)
    student = next(one for one in found.evaluations if one.trained)
    paper = load_paper()
    assert paper.beside(single, {}) is None
    single.report["model"] = "Qwen/Qwen3-0.6B"
    beside = paper.beside(single, {})
    assert beside is not None
    assert beside.value == pytest.approx(0.4193)
    assert beside.differs == ["ours is over 12 of 1319 questions"]
    tuned = Student("Qwen/Qwen3-0.6B", "da", "MetaMathQA")
    assert paper.beside(student, {report_cases.STUDENT: tuned}).value == pytest.approx(0.5337)  # type: ignore[union-attr]
    other = Student("Qwen/Qwen3-0.6B", "da", "GSM8K")
    assert paper.beside(student, {report_cases.STUDENT: other}) is None


def test_ungraded_run_says_how_to_grade_it(tmp_path: Path) -> None:
    path = write(tmp_path / "x_infer.jsonl", debate("GSM8K/test/0", "7", [[R, W]], R))
    (row,) = overview.rows(read([tmp_path]), {}, None)
    assert row.value is None
    assert row.grade_with == f"python -m eval.math_eval --dataset_name GSM8K --input_file {path}"


def test_teams_of_the_gateway_are_told_apart(tmp_path: Path) -> None:
    record = debate("GSM8K/test/0", "7", [[R, W]], R)
    pair, trio = (
        write(tmp_path / f"{name}_infer.jsonl", structs.replace(record, method=MethodInfo("gateway", name, {})))
        for name in ("pair", "trio")
    )
    assert math_eval.main(["--input_file", str(pair), "--dataset_name", "GSM8K"]) == 0
    assert {run.path: run.method for run in read([tmp_path]).runs} == {pair: "gateway (pair)", trio: "gateway (trio)"}
    rows = {row.method: row.value for row in overview.rows(read([tmp_path]), {}, None)}
    assert rows == {"gateway (pair)": 1.0, "gateway (trio)": None}


def test_results_of_the_published_code_are_listed_and_shown(tmp_path: Path) -> None:
    results = tmp_path / "results"
    row = {"query": "3 + 4?", "gt": "It is 7.\n#### 7", "response": f"===== Solution 1 =====\n{R}\n\nSolution 2:\n{W}"}
    used = {"org/model": {"num_llm_calls": 4, "prompt_tokens": 20, "completion_tokens": 10}}
    graded = write(
        results / "graded.jsonl", row | {"response": f"Solution 1: {W}\nSolution 2: {R}", "token_stats": used}
    )
    bare = write(results / "bare.jsonl", row, row | {"error": "engine died"})
    assert math_eval.main(["--input_file", str(graded), "--dataset_name", "GSM8K"]) == 0
    found = {run.path: run for run in read([results]).runs}
    assert (found[graded].name, found[bare].name) == ("GSM8K · published · org/model", "unknown · published · unknown")
    assert [record.id for record in found[graded].records()] == list(found[graded].grades()) == ["GSM8K/published/0"]
    assert entry.main(["--results", str(results), "--output", str(tmp_path / "report")]) == 0
    rows = {row.dataset: row for row in overview.rows(read([results]), {}, None)}
    assert (rows["GSM8K"].value, rows["GSM8K"].calls, rows["unknown"].value) == (1.0, 4.0, None)
    shown = list(report_cases.full_samples(tmp_path / "report").values())
    (own,) = (one for one in shown if one["id"] == "GSM8K/published/0")
    assert [(turn["text"], turn["verdict"]) for turn in own["turns"]] == [(W, False), (R, True)]
    assert (own["gold"], own["figures"]) == ("7", {"accuracy": 1.0})
    assert Counter(one["error"] for one in shown) == {None: 2, "engine died": 1}


def test_a_student_keeps_what_its_training_set_says(tmp_path: Path) -> None:
    about = {
        "kind": "sft",
        "base_model": "org/base",
        "train_ids": [],
        "selection": {"strategy": "da", "dataset": "GSM8K"},
    }
    folder = tmp_path / "outputs" / "da"
    (folder / "checkpoint-4").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(about | {"evaluations": [{"step": 6, "eval_score": 0.5}]}))
    history = [{"step": 2, "loss": 1.5}, {"step": 4, "loss": 1.0, "eval_score": 0.25, "eval_score_se": 0.1}]
    (folder / "checkpoint-4" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    write(tmp_path / "x_infer.jsonl", debate("GSM8K/test/0", "7", [[R]], None))
    found = read([tmp_path])
    assert nearest(read_students(found.found.manifests), tmp_path) == {"da": Student("org/base", "da", "GSM8K")}
    (curves,) = training.read_curves(found)
    assert (curves.kind, curves.series("eval_score")) == ("sft", ([4, 6], [0.25, 0.5]))
    assert curves.name.endswith("outputs/da")
    assert curves.others == []


def test_a_student_taught_on_its_own_samples_has_its_curves(tmp_path: Path) -> None:
    folder = tmp_path / "opd"
    folder.mkdir()
    (folder / "manifest.json").write_text(
        json.dumps({"kind": "opd", "base_model": "org/base", "stopped": None, "train_ids": []})
    )
    rows = [{"step": step, "loss": 1 / step, "kl": 0.5 / step, "length": 20.0, "truncated": 0.1} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dev.jsonl").write_text('{"step": 0, "accuracy": 0.25, "se": 0.1, "n": 20, "unanswered": 0}\n')
    write(tmp_path / "x_infer.jsonl", debate("GSM8K/test/0", "7", [[R]], None))
    found = read([tmp_path])
    assert nearest(read_students(found.found.manifests), tmp_path) == {"opd": Student("org/base", "opd", None)}
    (curves,) = training.read_curves(found)
    assert curves.about == {"base_model": "org/base"}
    assert (curves.kind, curves.series("kl"), curves.series("accuracy")) == (
        "opd",
        ([1, 2], [0.5, 0.25]),
        ([0], [0.25]),
    )


def test_equal_names_are_told_apart() -> None:
    rows = [
        overview.Row(dataset="D", model="m", method="vanilla", trained=False, setting=setting, origins=[])
        for setting in ("test", "train", "train")
    ]
    assert overview.names(rows) == ["vanilla · m · test", "vanilla · m · train", "vanilla · m · train (2)"]
    assert overview.names(rows[:1]) == ["vanilla · m"]


# ---------------------------------------------------------------- training


def test_curves_are_told_apart_and_keep_every_figure(study: Path) -> None:
    prm, rl = sorted(training.read_curves(read([study])), key=lambda one: one.kind)
    assert (prm.kind, rl.kind) == ("prm", "rl")
    assert prm.series("train_auroc") == ([], [])  # null is no point
    assert prm.origins[0].command == "python prm/finetune2.py --x"
    assert prm.origins[0].commit == "abc123"
    assert rl.guards == ["guard/empty", "guard/one_step"]
    assert "seconds/rollout" in rl.others
    assert rl.series("accuracy") == ([3, 6], [0.4, 0.5])


def test_calibration_and_positions_by_hand() -> None:
    found = training.score_figures("x", [], [([0.92, 0.98], True), ([0.95, 0.12], False), ([0.5], None)])
    assert found is not None
    assert found.solutions == 2
    assert found.steps == 4
    assert found.bins == [(0.12, 0.0, 1), (pytest.approx(0.95), pytest.approx(2 / 3), 3)]
    assert found.positions["wrong"] == [(1, 0.95, 1), (2, 0.12, 1)]
    assert training.score_figures("x", [], [([0.5], None)]) is None


# ---------------------------------------------------------------- samples


def test_pieces_hold_every_sample_once_and_the_words_lead_to_them(site: Path) -> None:
    index = report_cases.piece(site / "samples/index.js")
    columns = index["columns"]
    total = len(columns["id"])
    assert total == 4 * 12
    assert {len(values) for values in columns.values()} == {total}
    seen = report_cases.full_samples(site)
    assert sorted(map(int, seen)) == list(range(total))
    assert all(seen[str(at)]["id"] == columns["id"][at] for at in range(total))
    places, at = set(), 0
    for step in report_cases.piece(site / f"samples/words-{samples.shard('apples')}.js")["apples"]:
        at += step
        places.add(at)
    expected = {int(at) for at, one in seen.items() if "apples" in samples.words(report_cases.texts(one))}
    assert places == expected
    assert len(places) == total


def test_chunks_are_closed_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CHUNK", 2000)
    writer = samples.Writer(tmp_path)
    for k in range(6):
        record = debate(f"GSM8K/test/{k}", "7", [["x" * 900]], None)
        writer.add(0, record, samples.detail(record, None, None, None), "null", 0)
    writer.finish([])
    assert report_cases.piece(tmp_path / "index.js")["columns"]["chunk"] == [0, 0, 1, 1, 2, 2]
    assert sorted(path.name for path in tmp_path.glob("chunk-*")) == ["chunk-0.js", "chunk-1.js", "chunk-2.js"]


def test_step_marks_count_in_utf16_and_fit_the_text_or_are_left_out() -> None:
    text = "<think>a\n\nb</think>one 😀 step\n\ntwo"
    marks = samples._marks(text, [0.25, 0.75], None)
    units = text.encode("utf-16-le")
    assert [units[2 * one["start"] : 2 * one["end"]].decode("utf-16-le") for one in marks] == ["one 😀 step", "two"]
    assert [one["p"] for one in marks] == [0.25, 0.75]
    assert samples._marks(text, [0.1, 0.2, 0.3], None) == []
    assert [one["p"] for one in samples._marks(text, [0.4], None)] == [0.4]  # the whole reply is the step


def test_what_a_turn_was_shown_is_carried_by_reference() -> None:
    message = Message("user", (Part("Look: "), Part("", ref="agent_1/1/debater")))
    assert samples._message(message) == {"role": "user", "parts": [{"text": "Look: "}, {"ref": "agent_1/1/debater"}]}


# ---------------------------------------------------------------- pages and exports


def test_pages_are_sealed_and_escape_what_models_wrote(tmp_path: Path) -> None:
    results = report_cases.hostile(tmp_path)
    output = tmp_path / "report"
    assert entry.main(["--results", str(results), "--output", str(output)]) == 0
    for name in pages.PAGES:
        text = (output / name).read_text(encoding="utf-8")
        assert f'http-equiv="Content-Security-Policy" content="{pages.POLICY}"'.replace("'", "&#39;") in text
        assert "hacked" not in text
        assert "http://" not in text
        assert "https://" not in text
        assert not re.search(r"<script(?![^>]*(?:src=\"assets/|type=\"application/json\"))", text)
    for path in (output / "samples").glob("*.js"):
        report_cases.piece(path)


def test_embedded_json_cannot_end_its_element() -> None:
    assert "<" not in pages.embed({"a": "</script><script>"})
    assert json.loads(pages.embed({"a": "</script>"})) == {"a": "</script>"}


def test_every_figure_names_file_hash_and_command(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    rows = list(csv.DictReader((site / "results.csv").open(encoding="utf-8")))
    assert len(rows) == 4
    for row in rows:
        assert row["file"] in text
        assert row["sha256"] in text
    assert text.count("Where this comes from") >= text.count("<figure>") > 1


def test_absent_parts_say_not_run(tmp_path: Path) -> None:
    write(tmp_path / "results/x_infer.jsonl", debate("GSM8K/test/0", "7", [[R]], None))
    output = tmp_path / "report"
    assert entry.main(["--results", str(tmp_path / "results"), "--output", str(output)]) == 0
    for name, count in (("debate.html", 1), ("prm.html", 1), ("rl.html", 3)):
        assert (output / name).read_text(encoding="utf-8").count("Not run.") == count


def test_markdown_is_printed_and_names_cannot_break_it(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["--results", str(study), "--output", str(tmp_path / "r"), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| dataset | questions | method |")
    assert lines[1].startswith("|---|")
    assert len(lines[2:6]) == 4
    assert all(line.count("|") == lines[0].count("|") for line in lines[2:6])
    assert " | p | p (Holm, of) | " in lines[0]
    assert any(re.search(r" \| [\d.e-]+, 3 \| ", line) for line in lines[2:6])
    assert export._table(("a",), [["x|y\nz"]], set()).splitlines()[-1] == "| x\\|y z |"


def test_csv_cells_are_no_formulas() -> None:
    assert export.cell("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert export.cell("-5") == "-5"
    assert export.cell(-5) == -5
    assert export.cell("a\0b") == "a\u2400b"


# ---------------------------------------------------------------- bad input


def test_changed_results_labels_and_broken_files_are_named(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(study, copy)
    changed = copy / "GSM8K/org/base/llm_debate_infer.jsonl"
    changed.write_bytes(b"".join(changed.read_bytes().splitlines(keepends=True)[:-1]))
    (copy / "torn_infer.jsonl").write_text('{"schema": 1, "traj')
    (copy / "grpo/metrics.jsonl").write_text('{"loss": 1}\n')
    assert entry.main(["--results", str(copy), "--output", str(tmp_path / "report")]) == 1
    told = capsys.readouterr().err
    assert told.count("warning: ") == 5
    assert "labels of a results file that is not here or has changed since" in told
    assert "grades llm_debate_infer.jsonl, which is not here or has changed since" in told
    assert "step scores of" in told
    assert "torn_infer.jsonl" in told
    assert "expected an object with a 'step'" in told
    assert "Could not be used" in (tmp_path / "report/index.html").read_text(encoding="utf-8")


def test_output_is_never_taken_from_somebody_else(study: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds files that are no report of ours"):
        entry.main(["--results", str(study), "--output", str(other)])
    assert (other / "thesis.txt").exists()
    assert entry.main(["--results", str(study), "--output", str(tmp_path / "r")]) == 0
    (tmp_path / "r" / "samples" / "old.js").write_text("")
    assert entry.main(["--results", str(study), "--output", str(tmp_path / "r")]) == 0
    assert not (tmp_path / "r" / "samples" / "old.js").exists()
    assert (tmp_path / "r" / MARKER).is_file()
    assert not aside(tmp_path / "r").exists()
    with pytest.raises(UserError, match="no such folder"):
        entry.main(["--results", str(tmp_path / "none"), "--output", str(tmp_path / "r")])
    assert (tmp_path / "r" / "index.html").is_file()
    (tmp_path / "r" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"--output .*: a new report would remove thesis\.txt, which is not ours"):
        entry.main(["--results", str(study), "--output", str(tmp_path / "r")])


def test_a_report_stays_until_its_successor_is_finished(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--results", str(study), "--output", str(tmp_path / "r")]
    assert entry.main(argv) == 0
    with monkeypatch.context() as patch:
        patch.setattr(pages, "write", lambda *_: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                entry.main(argv)
            assert (aside(tmp_path / "r") / "index.html").is_file()
    assert entry.main(argv) == 0
    assert not aside(tmp_path / "r").exists()


def test_nothing_to_report_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        entry.main(["--results", str(tmp_path / "none")])
    with pytest.raises(UserError, match="holds no results, evaluations, ark cards or training curves"):
        entry.main(["--results", str(tmp_path), "--output", str(tmp_path / "r")])


def test_missing_library_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pages.LIBRARIES, "plotly.min.js", ("plotly", "nowhere.js"))
    with pytest.raises(UserError, match=r"needs plotly\.min\.js of the package plotly"):
        pages.library("plotly.min.js")


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_words_put_aside_lead_to_the_same_samples(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "POSTINGS", most)
    index = samples.Words(tmp_path)
    for number, text in enumerate(["b ax ay", "ax", "c ax b", "ay b"]):
        for word in text.split():
            index.add(word, number)
    found = list(index.finished())
    assert found == [("b_", {"b": [0, 2, 1]}), ("ax", {"ax": [0, 1, 1]}), ("ay", {"ay": [0, 3]}), ("c_", {"c": [2]})]
    assert list(tmp_path.iterdir()) == []


def test_a_column_is_an_array(tmp_path: Path) -> None:
    column = samples.Column(tmp_path)
    assert b"".join(column.parts()) == b"[]"
    for value in ("it's\n", None, 3):
        column.append(value)
    assert list(column) == ["it's\n", None, 3]
    assert b"".join(column.parts()) == b'["it\'s\\n",null,3]'
    column.close()


def test_an_axis_of_tokens_has_ticks_on_both_sides_of_the_figures() -> None:
    for tokens, ends in (([140, 170], (100, 200)), ([100], (50, 200)), ([8, 491], (5, 500))):
        found = charts.tokens_axis("tokens", tokens)["range"]
        assert [round(10**end) for end in found] == [*ends]
