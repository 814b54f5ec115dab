import itertools
import json
import logging
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from agentark import answers, hub
from agentark.tasks import TASKS, get_task
from agentark.tasks.base import Loaded, NoOptions
from agentark.tasks.gsm_symbolic import GSMSymbolicOptions
from agentark.tasks.hotpotqa import HotpotQAOptions
from agentark.types import Sample, UserError

ROWS: dict[str, dict[str, Any]] = {
    "GSM8K": {"question": "How many?", "answer": "She has 1,000 + 234.\n#### 1,234"},
    "MATH": {"problem": "What is $x$?", "level": "Level 3", "type": "Algebra", "solution": r"It is $\boxed{\frac12}$."},
    "MATH-500": {"problem": "What is $x$?", "answer": r"\pi", "subject": "Algebra", "unique_id": "test/algebra/7.json"},
    "SVAMP": {"ID": "chal-1", "Body": "He had 2 pens.", "Question": "How many pens?", "Answer": "2.0", "Type": "Sum"},
    "QMSum": {
        "general_query_list": [{"query": "Summarize.", "answer": "They met."}],
        "specific_query_list": [{"query": "Who spoke?", "answer": "Ann spoke.", "relevant_text_span": [["0", "1"]]}],
        "meeting_transcripts": [{"speaker": "Ann", "content": "Hello."}, {"speaker": "Bob", "content": "Grüezi."}],
    },
    "HotpotQA": {
        "id": "5a8b",
        "question": "Who?",
        "answer": "Ann",
        "type": "bridge",
        "supporting_facts": {"title": ["Ann"], "sent_id": [0]},
        "context": {"title": ["Bob", "Ann"], "sentences": [["Bob is.", " He was."], ["Ann is."]]},
    },
    "MMLU": {"question": "Which?", "subject": "logic", "choices": ["this", "that", "both", "none"], "answer": 2},
}
QUESTION = {"MATH": "problem", "MATH-500": "problem", "SVAMP": "Question", "QMSum": "meeting_transcripts"}


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    yield
    answers.close_pool()


def write(folder: Path, name: str, *rows: dict[str, Any] | str) -> Path:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes("\n".join(lines).encode())
    return path


def load_row(name: str, folder: Path, row: dict[str, Any], **options: Any) -> Loaded:
    task = get_task(name)
    write(folder, task.files(task.eval_split)[0], row)
    return task.load(data_dir=folder, **options)


def refused(name: str, **arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        get_task(name).load(**arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- gold grades itself, on real rows -------------------------------------------------------------------------------

REAL = [("GSM8K", 1319), ("MATH", 500), ("MATH-500", 500), ("SVAMP", 1000), ("MMLU", 3018), ("HotpotQA", 100)]


@pytest.mark.parametrize(("name", "size"), REAL)
def test_gold_grades_itself(name: str, size: int, data_dir: Path) -> None:
    task = get_task(name)
    samples = task.load(data_dir=data_dir).samples
    assert len(samples) == size
    assert len({sample.id for sample in samples}) == size
    for form in (r"I tried 1 first. So it is \boxed{{{}}}.", "I tried 1 first.\nAnswer: {}"):
        scores = task.score_many([(sample, form.format(sample.gt)) for sample in samples])
        missed = [sample.gt for sample, score in zip(samples, scores, strict=True) if score != 1.0]
        assert missed == []


@pytest.mark.parametrize(("name", "size"), [pair for pair in REAL if pair[0] != "MATH"])
def test_another_gold_is_wrong(name: str, size: int, data_dir: Path) -> None:
    """The counterpart: a grader that says yes to everything would pass the test above."""
    task = get_task(name)
    samples = task.load(data_dir=data_dir).samples
    shifted = [(sample, rf"\boxed{{{other.gt}}}") for sample, other in itertools.pairwise(samples)]
    scores = task.score_many(shifted)
    if task.metric == "accuracy":
        passed = {
            (sample.gt, other.gt)
            for (sample, other), score in zip(itertools.pairwise(samples), scores, strict=True)
            if score == 1.0 and sample.gt != other.gt
        }
        assert passed <= {("x=5", "5"), ("5", "x=5")}
    assert sum(score == 1.0 for score in scores) < size / 3


def test_published_solutions_grade_right(data_dir: Path) -> None:
    """Whole worked solutions, not just golds: GSM8K's end in `#### x`, MATH's in a box."""
    for name, file, key in (("GSM8K", "gsm8k_test.jsonl", "answer"), ("MATH-500", "math500_test.jsonl", "solution")):
        task = get_task(name)
        rows = [json.loads(line) for line in (data_dir / file).read_text("utf-8").split("\n") if line]
        samples = task.load(data_dir=data_dir).samples
        scores = task.score_many([(sample, row[key]) for sample, row in zip(samples, rows, strict=True)])
        assert sum(score == 1.0 for score in scores) == len(rows)


def test_math_gold_is_the_solutions_last_box(data_dir: Path, tmp_path: Path) -> None:
    """MATH rows carry no `answer`: what we take from the solution must be what MATH-500 published as answer."""
    rows = [json.loads(line) for line in (data_dir / "math500_test.jsonl").read_text("utf-8").split("\n") if line]
    published = [row.pop("answer") for row in rows]
    write(tmp_path, "math_test.jsonl", *rows)
    ours = [sample.gt for sample in get_task("MATH").load(data_dir=tmp_path).samples]
    assert all(answers.quick_same(a, b, "math") for a, b in zip(ours, published, strict=True))


def test_gsm8k_golds_have_all_their_digits(data_dir: Path) -> None:
    samples = get_task("GSM8K").load("train", data_dir).samples
    assert len(samples) == 7473
    assert all(sample.gt.lstrip("-").replace(".", "").isdigit() for sample in samples)
    assert {"109200000", "2520000"} <= {sample.gt for sample in samples}


@pytest.mark.parametrize(("split", "queries"), [("test", 281), ("validation", 272)])
def test_qmsum_real(split: str, queries: int, data_dir: Path) -> None:
    task = get_task("QMSum")
    samples = task.load(split, data_dir).samples
    assert len(samples) == queries
    assert len({sample.id for sample in samples}) == queries
    assert len({sample.document for sample in samples}) == 35
    some = samples[:40]
    assert task.score_many([(sample, sample.gt) for sample in some]) == [1.0] * 40
    others = task.score_many([(sample, other.gt) for sample, other in itertools.pairwise(some)])
    assert all(score is not None and 0 <= score < 0.6 for score in others)
    assert task.score(some[0], "<think>endless") is None


def test_gsm_symbolic_is_seeded_and_grows_at_its_end() -> None:
    task = get_task("GSMSymbolic")
    loaded = task.load()
    assert (len(loaded.samples), loaded.sha256) == (100, None)
    assert "seed 0" in loaded.origin
    longer = task.load(options=GSMSymbolicOptions(seed=0, size=120)).samples
    assert longer[:100] == loaded.samples
    other = task.load(options=GSMSymbolicOptions(seed=1, size=120)).samples
    shared = {sample.query for sample in other} & {sample.query for sample in longer}
    assert len(shared) <= 6  # a few templates have little to vary
    assert not {sample.id for sample in other} & {sample.id for sample in longer}
    assert task.score_many([(sample, f"Answer: {sample.gt}") for sample in longer]) == [1.0] * 120
    assert len(task.load(limit=3).samples) == 3


# --- rows to samples ------------------------------------------------------------------------------------------------


def test_samples_of_every_dataset(tmp_path: Path) -> None:
    made = {name: load_row(name, tmp_path, row).samples for name, row in ROWS.items()}
    expected = {
        "GSM8K": [("GSM8K/test/0", "How many?", "1234", None)],
        "MATH": [("MATH/test/0", "What is $x$?", r"\frac12", "Algebra")],
        "MATH-500": [("MATH-500/test/algebra/7", "What is $x$?", r"\pi", "Algebra")],
        "SVAMP": [("SVAMP/test/chal-1", "He had 2 pens. How many pens?", "2", "Sum")],
        "QMSum": [
            ("QMSum/test/0-general-0", "Summarize.", "They met.", "general"),
            ("QMSum/test/0-specific-0", "Who spoke?", "Ann spoke.", "specific"),
        ],
        "HotpotQA": [("HotpotQA/validation/5a8b", "Who?", "Ann", "bridge")],
        "MMLU": [("MMLU/test/0", "Which?\n\nA. this\nB. that\nC. both\nD. none", "C", "logic")],
    }
    assert {name: [(s.id, s.query, s.gt, s.tag) for s in samples] for name, samples in made.items()} == expected
    assert {sample.document for sample in made["QMSum"]} == {"Ann: Hello.\nBob: Grüezi."}
    assert made["MMLU"][0].choices == ("this", "that", "both", "none")
    assert all(sample.source == name and sample.instruction for name in made for sample in made[name])


def test_hotpotqa_contexts(tmp_path: Path) -> None:
    full = load_row("HotpotQA", tmp_path, ROWS["HotpotQA"]).samples[0]
    assert full.document == "Bob\nBob is. He was.\n\nAnn\nAnn is."
    oracle = load_row("HotpotQA", tmp_path, ROWS["HotpotQA"], options=HotpotQAOptions(context="supporting")).samples[0]
    assert oracle.document == "Ann\nAnn is."


def test_registry() -> None:
    assert {name: get_task(name).name for name in TASKS} == {name: name for name in TASKS}
    assert {get_task(name).grader for name in TASKS} == {"math", "choice", "short_answer", "code", None}
    assert get_task("GSM8K").options is NoOptions
    with pytest.raises(UserError, match=r"unknown dataset 'gsm8k'.*did you mean GSM8K"):
        get_task("gsm8k")


def test_scores(tmp_path: Path) -> None:
    def score(name: str, text: str) -> float | None:
        return get_task(name).score(load_row(name, tmp_path, ROWS[name]).samples[0], text)

    assert [score("GSM8K", text) for text in ("1,234 dollars", "the answer is 234", "no idea")] == [1.0, 0.0, None]
    assert [score("MATH", text) for text in (r"\boxed{0.5}", r"\boxed{2x}", "")] == [1.0, 0.0, None]
    assert [score("MMLU", text) for text in ("both", "(A)", "A or B?")] == [1.0, 0.0, None]
    assert [score("HotpotQA", text) for text in ("Answer: the Ann!", "Ann Lee", "Bob", " ")] == [1.0, 2 / 3, 0.0, None]
    assert [score("QMSum", text) for text in ("They met.", "xyz", "<think>They met.")] == [1.0, 0.0, None]


# --- files ----------------------------------------------------------------------------------------------------------


def test_files_are_tried_in_order_and_a_stand_in_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert get_task("MATH").files("test") == ("math_test.jsonl", "math500_test.jsonl")
    assert get_task("MATH").files("train") == ("math_train.jsonl",)
    assert get_task("MMLU").files("dev") == ("mmlu_dev.jsonl", "mmlu_stem_dev.jsonl")
    write(tmp_path, "math500_test.jsonl", ROWS["MATH-500"])
    with caplog.at_level(logging.WARNING):
        stand_in = get_task("MATH").load(data_dir=tmp_path)
    assert caplog.messages == [f"MATH: no math_test.jsonl in {tmp_path}, using math500_test.jsonl"]
    assert stand_in.samples[0].id == "MATH/test/algebra/7"
    write(tmp_path, "math_test.jsonl", ROWS["MATH"])
    assert get_task("MATH").load(data_dir=tmp_path).origin == str(tmp_path / "math_test.jsonl")


def test_line_endings_byte_order_mark_blank_lines_and_unicode(tmp_path: Path) -> None:
    first = ROWS["GSM8K"] | {"question": "Wie viel\u2028kostet’s?"}
    path = write(tmp_path, "gsm8k_test.jsonl", first, "", ROWS["GSM8K"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    loaded = get_task("GSM8K").load(data_dir=tmp_path)
    assert [(s.id, s.query) for s in loaded.samples] == [
        ("GSM8K/test/0", "Wie viel\u2028kostet’s?"),
        ("GSM8K/test/1", "How many?"),
    ]
    assert loaded.sha256 is not None
    assert len(loaded.sha256) == 64
    assert len(get_task("GSM8K").load(data_dir=tmp_path, limit=1).samples) == 1


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("broken", ["missing", "blank"])
def test_row_without_a_question(name: str, broken: str, tmp_path: Path) -> None:
    task, key = get_task(name), QUESTION.get(name, "question")
    bad = {k: v for k, v in ROWS[name].items() if k != key} | ({key: ""} if broken == "blank" else {})
    other = ROWS[name] | {"ID": "other", "id": "other", "unique_id": "other"}
    path = write(tmp_path, task.files(task.eval_split)[0], other, "", bad)
    message = refused(name, data_dir=tmp_path)
    assert message.startswith(f"{path}, row 3: ")
    assert f"'{key}'" in message


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("GSM8K", {"answer": "She has 5."}, "no gold number after ####"),
        ("GSM8K", {"question": 5}, "'question' is no text but 5"),
        ("MATH", {"solution": "No box."}, "no 'answer', and no \\boxed{}"),
        ("SVAMP", {"Answer": None}, "no 'Answer'"),
        ("MMLU", {"answer": 4}, "0 to 3, not 4"),
        ("MMLU", {"answer": True}, "'answer' is no integer but True"),
        ("MMLU", {"answer": "London"}, "'answer' is none of the options but 'London'"),
        ("MMLU", {"choices": []}, "no 'choices'"),
        ("MMLU", {"choices": ["this"], "answer": 0}, "1 option with text; a choice needs at least 2"),
        ("MMLU", {"choices": list("abcdefghijk")}, "11 options; there are letters for 10"),
        ("QMSum", {"general_query_list": [], "specific_query_list": None}, "no query in"),
        ("QMSum", {"general_query_list": ["Summarize."]}, "not in QMSum's schema"),
        ("HotpotQA", {"context": None}, "no 'context'"),
        ("HotpotQA", {"context": {"title": ["a", "b"], "sentences": []}}, "not in HotpotQA's schema"),
    ],
)
def test_broken_rows(name: str, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    task = get_task(name)
    path = write(tmp_path, task.files(task.eval_split)[0], ROWS[name] | change)
    message = refused(name, data_dir=tmp_path)
    assert message.startswith(f"{path}, row 1: ")
    assert said in message


def test_options_that_are_null_are_none(tmp_path: Path) -> None:
    gold = {"choices": ["this", None, "that", " "], "answer": 2}
    sample = load_row("MMLU", tmp_path, ROWS["MMLU"] | gold).samples[0]
    assert (sample.choices, sample.gt) == (("this", "that"), "B")
    assert "None" not in sample.query


@pytest.mark.parametrize("gold", [1, "1", "B", "(b)", "that", " That. "])
def test_golds_as_index_letter_or_text(gold: object, tmp_path: Path) -> None:
    row = ROWS["MMLU"] | {"choices": ["this", "that", "other"], "answer": gold}
    assert load_row("MMLU", tmp_path, row).samples[0].gt == "B"


def test_same_id_twice(tmp_path: Path) -> None:
    path = write(tmp_path, "svamp_test.jsonl", ROWS["SVAMP"], ROWS["SVAMP"])
    assert refused("SVAMP", data_dir=tmp_path) == f"{path}, row 2: id 'SVAMP/test/chal-1' was row 1's already"


@pytest.mark.parametrize("line", [b'{"question": "a', b"[1, 2]", b'{"question": "\xff"}', b"null"])
def test_malformed_line(line: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, "gsm8k_test.jsonl", ROWS["GSM8K"])
    path.write_bytes(path.read_bytes() + b"\n" + line)
    assert refused("GSM8K", data_dir=tmp_path).startswith(f"{path}, row 2: ")


def test_unknown_split_and_no_folder(tmp_path: Path) -> None:
    message = refused("HotpotQA", split="test", data_dir=tmp_path)
    assert message == "HotpotQA has no split 'test' (known: train, validation)"
    assert "did you mean validation" in refused("MMLU", split="valid")
    file = write(tmp_path, "gsm8k_test.jsonl", ROWS["GSM8K"])
    assert refused("GSM8K", data_dir=file) == f"--data_dir {file}: not a folder"
    assert "not a folder" in refused("GSM8K", data_dir=tmp_path / "gone")


# --- the hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that cannot be reached, and nothing in its cache."""
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")


@pytest.mark.usefixtures("offline")
def test_found_nowhere_names_both_places_at_once(tmp_path: Path) -> None:
    import datasets

    start = time.perf_counter()
    message = refused("MATH", data_dir=tmp_path)
    assert f"put math_test.jsonl or math500_test.jsonl into {tmp_path}, or make EleutherAI/hendrycks_math" in message
    assert "put gsm8k_train.jsonl into a folder given as --data_dir" in refused("GSM8K", split="train")
    assert time.perf_counter() - start < 10  # not the half minute of the client's retries
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_with_an_error_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise urllib.error.HTTPError("url", 401, "who are you", Message(), None)

    monkeypatch.setattr(urllib.request, "urlopen", refuses)
    assert hub.answers("https://hub.invalid")


def test_without_the_datasets_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refused("SVAMP", data_dir=tmp_path)
    assert "svamp_test.jsonl" in message
    assert "ChilleD/SVAMP" in message
    assert "datasets is not installed" in message


def fake_hub(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Stands in for `datasets`; returns the calls it gets."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(
        path: str, config: str | None, *, split: str, data_files: Any, revision: str | None
    ) -> list[dict[str, Any]]:
        assert revision is None
        calls.append((path, config, split, data_files))
        return rows

    fake = types.SimpleNamespace(
        load_dataset=load_dataset,
        exceptions=types.SimpleNamespace(DatasetsError=type("DatasetsError", (Exception,), {})),
        config=types.SimpleNamespace(HF_HUB_OFFLINE=True),
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return calls


def test_rows_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{k: v for k, v in ROWS["MATH"].items() if k != "unique_id"}]
    calls = fake_hub(monkeypatch, rows)
    loaded = get_task("MATH").load()
    assert [sample.id for sample in loaded.samples] == [f"MATH/test/{index}" for index in range(7)]
    assert (loaded.origin, loaded.sha256, loaded.split) == ("EleutherAI/hendrycks_math", None, "test")
    assert [call[:3] for call in calls][:2] == [
        ("EleutherAI/hendrycks_math", "algebra", "test"),
        ("EleutherAI/hendrycks_math", "counting_and_probability", "test"),
    ]


def test_qmsum_from_its_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_hub(monkeypatch, [ROWS["QMSum"]])
    samples: list[Sample] = list(get_task("QMSum").load("validation").samples)
    assert [sample.id for sample in samples] == ["QMSum/validation/0-general-0", "QMSum/validation/0-specific-0"]
    ((path, config, split, files),) = calls
    assert (path, config, split) == ("json", None, "validation")
    assert files["validation"].endswith("/val.jsonl")


def test_broken_hub_rows_name_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, [ROWS["GSM8K"], {"answer": "#### 1"}])
    assert refused("GSM8K") == "openai/gsm8k (main), row 2: no 'question'"
