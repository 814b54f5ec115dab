"""Scoring and evaluating, with a reward model whose every score is known."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from label_cases import debate, write
from prm_cases import chains, jsonl, published

from agentark import rows
from agentark.types import UserError
from prm import evaluate, model, score
from prm.score import Scorer
from prm.steps import StepCodec, load_tokenizer


@pytest.fixture(scope="module")
def folder(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model's folder; its head is random."""
    place = tmp_path_factory.mktemp("models") / "prm"
    torch.manual_seed(3)
    reward = model.load(str(small_model), "--x")
    torch.nn.init.normal_(reward.head.weight, std=0.5)
    model.save(reward, place, None, None)
    StepCodec.of(load_tokenizer(str(small_model), "--x"), "\n", "step", 256).save(place)
    return place


class Oracle(Scorer):
    """Scores each step by its text."""

    def __init__(self, codec: StepCodec, judge: Callable[[str], float]) -> None:
        super().__init__(codec, None)
        self.judge = judge

    def score_encoded(self, sequences: Sequence[Any]) -> list[list[float] | None]:
        decode = self.codec.tokenizer.decode
        return [
            None if one is None else [self.judge(decode(one.ids[start:end])) for start, end in one.spans]
            for one in sequences
        ]


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Callable[[Callable[[str], float]], Oracle]:
    codec = StepCodec.load(folder)
    return lambda judge: Oracle(codec, judge)


def test_scores_are_those_of_one_forward_pass_each(folder: Path) -> None:
    scorer = Scorer.load(folder, device="cpu", max_tokens=300)
    pairs = [("Why?", "word " * count + "\n\nso") for count in (1, 40, 3, 90, 41)]
    together = scorer.score(pairs)
    alone = [scorer.score([pair])[0] for pair in pairs]
    for one, other in zip(together, alone, strict=True):
        assert one is not None
        assert one == pytest.approx(other, abs=1e-5)
    assert len({round(one[0], 6) for one in together if one}) == 5
    assert scorer.score([("Why?", "word " * 400), ("Why?", "")])[0] is None
    assert scorer.score([]) == []


def test_a_policys_ids_get_the_scores_of_its_text(folder: Path) -> None:
    scorer = Scorer.load(folder, device="cpu")
    text = "We add.\n\nThen 🙂\n\nstop."
    ids = scorer.codec.tokenizer.encode(text, add_special_tokens=False)
    [(scores, response)] = scorer.score_responses(["Why?"], [[*ids, scorer.codec.tokenizer.eos_token_id]])
    assert scores == pytest.approx(scorer.score([("Why?", text)])[0], abs=1e-6)
    assert response.steps == ["We add.", "Then 🙂", "stop."]
    assert response.ends[-1] == len(ids)


def test_aggregates_and_the_best_of_several() -> None:
    totals = {name: aggregate([0.5, 0.4, 0.9]) for name, aggregate in score.AGGREGATES.items()}
    assert totals == pytest.approx({"min": 0.4, "product": 0.18, "last": 0.9})
    listed = [[0.5, 0.9], None, [0.6, 0.6], [0.6, 0.7], []]
    assert [score.best(listed, name) for name in ("min", "product", "last")] == [2, 0, 0]
    assert score.best([None], "min") is None


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = chains(tmp_path / "a.jsonl", 8)
    assert score.main(["--prm", str(folder), "--input", str(path)]) == 0
    assert "8 solutions of 2 questions scored" in capsys.readouterr().out
    found = [json.loads(line) for line in (tmp_path / "a_scored.jsonl").read_text().splitlines()]
    assert [one["id"] for one in found] == ["chains/0", "chains/1"]
    for one in found:
        least = {entry["id"]: min(entry["steps"]) for entry in one["scores"]}
        assert least[one["best"]["min"]] == max(least.values())
    with pytest.raises(UserError, match=r"--prm .*: not a reward model"):
        score.main(["--prm", str(tmp_path), "--input", str(path)])
    with pytest.raises(UserError, match=r"--input none: no such file"):
        score.main(["--prm", str(folder), "--input", "none"])


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    record = debate("GSM8K/test/0", "7", [["It is 7.", "It is 8."]], "7.", document="Long text.", instruction="Box it.")
    stepwise = {"prompt": "p", "completions": ["a\n\nb", "c"], "labels": [True, False]}
    response = {"query": "q", "response": "===== Solution 1 =====\na\n===== Solution 2 =====\nb"}
    path = jsonl(tmp_path / "b.jsonl", [published(["a"], [True]), stepwise, response, response | {"error": "x"}])
    ours = list(rows.questions(write(tmp_path / "a.jsonl", record), "--x"))
    assert ours[0].prompt == "Long text.\n\nQuestion GSM8K/test/0?\n\nBox it."
    assert [one.text for one in ours[0].candidates] == ["It is 7.", "It is 8.", "7."]
    found = list(rows.questions(path, "--x"))
    assert [[one.text for one in question.candidates] for question in found] == [
        *(["a"], ["a\nb\n\nc"], ["a", "b"], ["a", "b"])
    ]
    assert [question.candidates[0].verdict for question in found] == [True, False, None, None]
    assert [question.error for question in found] == [None, None, None, "x"]
    with pytest.raises(UserError, match=r"row 1: neither a results row"):
        list(rows.questions(jsonl(tmp_path / "c.jsonl", [{"x": 1}]), "--x"))


def test_processbench_by_hand(oracle: Any, tmp_path: Path) -> None:
    scorer = oracle(lambda step: 0.1 if "bad" in step else 0.9)
    problems = [
        {"id": "1", "problem": "p", "steps": ["a", "bad", "c"], "label": 1},
        {"id": "2", "problem": "p", "steps": ["a", "bad", "c"], "label": 0},
        {"id": "3", "problem": "p", "steps": ["a", "b\n\nc"], "label": -1},
        {"id": "4", "problem": "p", "steps": ["bad"], "label": -1},
        {"id": "5", "problem": "p", "steps": ["a"], "label": -1},
    ]
    found = evaluate.processbench(scorer, problems, "x")
    assert (found["accuracy_wrong"], found["accuracy_right"]) == (0.5, pytest.approx(2 / 3))
    assert found["f1"] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    (tmp_path / "processbench_gsm8k.json").write_text(json.dumps(problems))
    assert evaluate.benchmark_rows("processbench", tmp_path) == {"gsm8k": problems}
    with pytest.raises(UserError, match=r"x: 'label' must be a int, found None"):
        evaluate.processbench(scorer, [problems[0] | {"label": None}], "x")
    with pytest.raises(UserError, match=r"--data_dir .*: no file prmbench"):
        evaluate.benchmark_rows("prmbench", tmp_path)
    (tmp_path / "prmbench.jsonl").write_text("")
    with pytest.raises(UserError, match=r"prmbench.jsonl: holds no problems"):
        evaluate.benchmark_rows("prmbench", tmp_path)
    for grade, row in (
        (evaluate.processbench, {"problem": "p", "steps": []}),
        (evaluate.prmbench, {"question": "p", "modified_process": []}),
    ):
        with pytest.raises(UserError, match=r"must have at least one step"):
            grade(scorer, [row], "x")


def test_processbench_without_a_kind_of_solutions_has_no_figure_for_it(oracle: Any) -> None:
    found = evaluate.processbench(oracle(lambda step: 0.9), [{"problem": "p", "steps": ["a"], "label": -1}], "x")
    assert (found["accuracy_wrong"], found["accuracy_right"], found["f1"]) == (None, 1.0, None)


def test_prmbench_by_hand(oracle: Any) -> None:
    scorer = oracle(lambda step: 0.1 if "bad" in step else 0.9)
    problems = [
        {"question": "p", "modified_process": ["a", "bad", "c"], "error_steps": [2, 3], "classification": "one"},
        {"question": "p", "modified_process": ["a", "bad"], "error_steps": [], "classification": "two"},
    ]
    found = evaluate.prmbench(scorer, problems, "x")
    assert found["f1_right"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["f1_wrong"] == pytest.approx(2 * 1 / (2 + 2))
    assert found["prm_score"] == pytest.approx((2 / 3 + 0.5) / 2)
    assert found["classes"]["two"]["f1_wrong"] == 0.0


def test_best_of_n_by_hand(oracle: Any, tmp_path: Path) -> None:
    listed = [
        published(["good\n\n#### 2", "fine\n\n#### 3", "fine\n\n#### 3"], [True, False, False], "1?"),
        published(["fine\n\n#### 2", "fine\n\n#### 2", "good\n\n#### 3"], [True, True, False], "2?"),
        published(["good\n\n#### 2", "a"], [True, None], "3?"),
    ]
    asked = list(rows.questions(jsonl(tmp_path / "a.jsonl", listed), "--x"))
    found = evaluate.best_of_n(oracle(lambda step: 0.9 if "good" in step or "#" in step else 0.5), asked)
    assert (found["n"], found["without_verdicts"]) == (2, 1)
    shares = {name: one["accuracy"] for name, one in found.items() if isinstance(one, dict)}
    assert shares["best by min"] == 0.5
    assert shares["best by last"] == 1.0
    assert shares["majority vote"] == 0.5
    assert shares["random"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert shares["oracle"] == 1.0


def test_the_aggregate_is_no_candidate(oracle: Any, tmp_path: Path) -> None:
    """It would win by its score, by the vote, and for the oracle; it is scored all the same."""
    scorer = oracle(lambda step: 0.9 if "good" in step else 0.5)
    record = debate("GSM8K/test/0", "7", [["fine, 8", "fine, 9"]], "good, 7")
    lab = {
        "labels_schema": 1, "id": "a", "source": "GSM8K", "query": "q", "gt": "7", "answer_type": "number",
        "labels": [False, False, True], "judge": "rule", "input": "", "token_stats": {}, "solutions": [
            {"id": k, "text": text, "verdict": text == "good, 7", "is_correct": text == "good, 7",
             "by": "rule", "p_correct": None, "mass": None,
             "rule": None, "judge": None, "agent": agent, "round": 1, "answer": text[-1], "note": None}
            for k, (agent, text) in enumerate(
                (("agent_1", "fine, 8"), ("agent_2", "fine, 9"), ("aggregator", "good, 7")), 1
            )
        ],
    }  # fmt: skip
    for path in (write(tmp_path / "r.jsonl", record), jsonl(tmp_path / "l.jsonl", [lab])):
        [asked] = rows.questions(path, "--x")
        assert [one.aggregate for one in asked.candidates] == [False, False, True]
        scores = scorer.score([(asked.prompt, one.text) for one in asked.candidates])
        row = score.scored_row(asked, scores)
        assert len(row["scores"]) == 3
        assert row["best"]["min"] == 1
    found = evaluate.best_of_n(scorer, [asked])
    assert found["oracle"]["accuracy"] == found["majority vote"]["accuracy"] == found["best by min"]["accuracy"] == 0.0


def test_probes_tell_a_reader_from_a_blind_model(oracle: Any, tmp_path: Path) -> None:
    asked = list(rows.questions(chains(tmp_path / "a.jsonl", 40), "--x"))

    def reads(step: str) -> float:
        digits = [int(one) for one in step if one.isdigit()]
        if len(digits) != 3:
            return 0.9 if step.startswith("The answer is") else 0.05
        return 0.9 if any(digits[a] + digits[b] == digits[c] for a, b, c in ((0, 1, 2), (2, 1, 0), (2, 0, 1))) else 0.1

    good = evaluate.probe(oracle(reads), asked, 100, 0)
    assert good["n"] == 20
    assert good["empty single step"]["passed"]
    assert good["wrong middle"]["passed"]
    assert good["duplicated steps"] == {"gap": 0.0, "se": 0.0, "passed": True}
    blind = evaluate.probe(oracle(lambda step: 0.99 if not step else 0.5), asked, 100, 0)
    assert not blind["empty single step"]["passed"]
    assert blind["empty single step"]["gap"] == pytest.approx(-0.49)
    assert not blind["wrong middle"]["passed"]
    assert evaluate.probe(oracle(reads), [], 100, 0) == {"n": 0}


def test_probes_spoil_what_they_say() -> None:
    steps = ["1 + 1 = 2", "2 + 2 = 4", "4 + 1 = 5", "so 5"]
    found = evaluate.probes(steps, "a stranger", random.Random(0))
    assert found["empty single step"] == [""]
    assert found["shuffled steps"] != steps
    assert sorted(found["shuffled steps"]) == sorted(steps)
    assert found["duplicated steps"][:4] == [steps[0], steps[0], steps[1], steps[1]]
    assert found["truncated"] == steps[:2]
    assert [a == b for a, b in zip(found["wrong middle"], steps, strict=True)] == [True, False, True, True]
    assert evaluate.probes(["a", "b"], "a stranger", random.Random(0))["wrong middle"] == ["a stranger", "b"]


def test_the_evaluation_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = chains(tmp_path / "a.jsonl", 8)
    jsonl(tmp_path / "prmbench.jsonl", [{"question": "p", "modified_process": ["a"], "error_steps": [1]}])
    flags = ["--prm", str(folder), "--input", str(path), "--benchmark", "prmbench", "--data_dir", str(tmp_path)]
    assert evaluate.main([*flags, "--output", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert "best of n (n = 2)" in printed
    assert "wrong middle: gap" in printed
    assert set(json.loads((tmp_path / "out.json").read_text())) == {"prmbench prmbench", "best of n", "probes"}
    with pytest.raises(UserError, match=r"--benchmark or --input: say what to evaluate on"):
        evaluate.main(["--prm", str(folder)])


@pytest.mark.slow
def test_vllm_gives_the_same_scores(folder: Path) -> None:
    pytest.importorskip("vllm")
    scorer = Scorer.load(folder, device="cpu")
    pairs = [("Why?", "word " * count + "\n\nso it is") for count in (1, 40, 3)]
    sequences = [score.fitting(scorer.codec, *pair) for pair in pairs]
    ours, theirs = scorer.score_encoded(sequences), score.vllm_scores(folder, [*sequences, None])
    assert theirs[-1] is None
    for one, other in zip(ours, theirs, strict=False):
        assert one == pytest.approx(other, abs=1e-4)
