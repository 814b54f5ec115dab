"""inference.py as a user meets it, on real data, with the scripted engine; kill -9 included."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedEngine
from lora_cases import bare

import inference
from agentark import cli
from agentark.engines.choose import Choice
from agentark.journal import JournalEntry
from agentark.records import index, read_records
from agentark.types import RunError, SampleError, UserError, digest

DRIVER = Path(__file__).parent / "scripted_inference.py"
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run inference.main in a fresh folder; `engine=` gives another engine, other keywords become flags."""
    monkeypatch.chdir(tmp_path)

    def call(*extra: str, engine: Any = None, **flags: Any) -> int:
        defaults = {
            "method_name": "llm_debate",
            "test_dataset_name": "GSM8K",
            "model_name": "org/model",
            "max_samples": 3,
        }
        given = {**defaults, "data_dir": data_dir, **flags}
        argv = [word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))]

        def choose(args: Namespace, model_name: str) -> Choice:
            return Choice(cli.resolve_model(model_name)[1], lambda lock: engine or ScriptedEngine())

        return inference.main([*argv, *extra], choose_engine=choose)

    return call


def test_a_run_writes_records_and_manifest(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    path = tmp_path / "results/GSM8K/org/model/llm_debate_infer.jsonl"
    records = list(read_records(path))
    assert [record.id for record in records] == ["GSM8K/test/0", "GSM8K/test/1", "GSM8K/test/2"]
    assert all(len(record.trajectory) == 2 * 3 + 1 for record in records)
    assert all(record.guarantee == "exact" for record in records)
    assert records[0].response.count("===== Solution ") == 4
    manifest = json.loads(path.with_name(path.name + ".manifest.json").read_text())
    assert manifest["config"]["temperature"] == 0.5
    assert manifest["config"]["max_tokens"] == 4096
    assert manifest["sessions"][0]["done"] == 3
    assert len(manifest["sessions"][0]["data"]["sha256"]) == 64
    assert sorted(one.name for one in path.parent.iterdir()) == [path.name, path.name + ".manifest.json"]
    printed = capsys.readouterr().out
    assert re.search(r"^llm_debate +3 +3 +0 +\d+ +accuracy +\d\.\d{3} ± \d\.\d{3} +21 ", printed, re.M)


@pytest.mark.parametrize(
    ("dataset", "count"),
    [
        ("GSM8K", 1319),
        ("MATH-500", 500),
        ("MATH", 500),
        ("SVAMP", 1000),
        ("QMSum", 281),
        ("HotpotQA", 100),
        ("MMLU", 3018),
    ],
)
@pytest.mark.parametrize("method", ["vanilla", "cot", "self_consistency", "llm_debate"])
def test_every_method_on_every_dataset(run: Run, tmp_path: Path, dataset: str, count: int, method: str) -> None:
    assert run(test_dataset_name=dataset, method_name=method, start=count - 2) == 0
    records = list(read_records(tmp_path / f"results/{dataset}/org/model/{method}_infer.jsonl"))
    assert len(records) == 2
    assert all(record.error is None and record.trajectory for record in records)


def test_eight_samples_can_grow(run: Run, tmp_path: Path) -> None:
    run(max_samples=2)
    engine = ScriptedEngine()
    run(max_samples=5, engine=engine)
    assert {session for session, _, _ in engine.seen} == {f"GSM8K/test/{k}" for k in (2, 3, 4)}
    engine = ScriptedEngine()
    assert run("--start=1", "--end", "4", max_samples=None, engine=engine) == 0
    assert engine.seen == []


def test_a_clock_that_steps_back_makes_no_negative_seconds(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time, "time", (1e9 - 3600 * k for k in itertools.count()).__next__)
    assert run(output_path=tmp_path / "a.jsonl", max_samples=4) == 0
    records = list(read_records(tmp_path / "a.jsonl"))
    assert all(0 <= record.seconds < 60 for record in records)
    assert all(0 <= turn.completion.seconds < 60 for record in records for turn in record.trajectory)
    assert " -" not in capsys.readouterr().out


def test_hyphens_and_underscores_are_one(run: Run) -> None:
    assert run("--max-concurrency", "2", "--no-enable-thinking", "--model-temperature=0") == 0


def test_a_row_error_is_exit_1_and_a_retry_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    class Picky(ScriptedEngine):
        async def chat(self, *args: Any, session: str, **kwargs: Any) -> Any:
            if session.endswith("/1"):
                raise SampleError("prompt of 9 tokens leaves 1 of the context of 10, fewer than 64")
            return await super().chat(*args, session=session, **kwargs)

    assert run(engine=Picky()) == 1
    assert "1 of 3 samples carry an error; retry them with: python" in capsys.readouterr().out
    assert run() == 0


def test_debug_prints_one_debate_and_stores_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--debug", query="What is {2} + 2?") == 0
    printed = capsys.readouterr().out
    assert "What is {2} + 2?" in printed
    assert "-- round 2 | agent_3 | debater" in printed
    assert "no gold answer" in printed
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"method_name": "debate"}, "unknown method 'debate' .*did you mean llm_debate"),
        ({"test_dataset_name": "gsm8k"}, "unknown dataset 'gsm8k' .*did you mean GSM8K"),
        ({"method_config_name": "main"}, "unknown config of llm_debate 'main' .*config_main"),
        ({"method_config": "num_rounds=0"}, "--method_config: num_rounds = 0"),
        ({"method_config": "agents_num=3"}, "--method_config: key 'agents_num' is now called 'num_agents'"),
        ({"max_samples": -1}, "--max_samples: '-1' is not a whole number of at least 1"),
        ({"model_temperature": "hot"}, "--model_temperature: 'hot' is not a number"),
        ({"split": "dev"}, "GSM8K has no split 'dev'"),
        ({"start": 5000}, "--start 5000: leaves no sample"),
        ({"data_dir": "nowhere"}, "--data_dir nowhere: not a folder"),
        ({"task_config": "context=all"}, "--task_config: unknown key 'context'"),
        ({"model_name": "./nothing"}, "--model_name ./nothing: not a model folder"),
        ({"model_name": "../../etc/x y"}, "--model_name .*: not a model folder"),
        ({"model_name": "~nobody_knows/x"}, "--model_name ~nobody_knows/x: not a model folder"),
        ({"model_name": "a/b/c"}, "--model_name a/b/c: neither a folder nor a hub id"),
        ({"query": "why?"}, "--query 'why\\?': goes with --debug"),
        ({"use_modal": "1"}, "unknown argument --use_modal"),
        ({"verifier_models": "a/b"}, "--verifier_models a/b: llm_debate has no verifiers"),
        ({"method_name": "dylan", "method_config": "agents=3"}, "key 'agents' is now called 'num_agents'"),
    ],
)
def test_bad_input_is_one_line(run: Run, flags: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as raised:
        run(**flags)
    assert "\n" not in str(raised.value)


def test_flags_that_go_together(run: Run) -> None:
    with pytest.raises(UserError, match="--unsafe_no_isolation: goes with --allow_code_execution"):
        run("--unsafe_no_isolation")


def test_missing_flags_and_engines_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="required: --test_dataset_name, --model_name"):
        inference.parse(["--method_name", "cot"])
    base = ["--method_name", "cot", "--test_dataset_name", "GSMSymbolic", "--model_name", "a/b"]
    with pytest.raises(UserError, match="--use_modal_batch: does not go together with --launch ray"):
        inference.main([*base, "--use_modal_batch", "--launch", "ray"])


def test_broken_data_is_named_by_row(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gsm8k_test.jsonl").write_text('{"question": "a", "answer": "#### 1"}\n{"answer": "#### 2"}\n')
    with pytest.raises(UserError, match=r"gsm8k_test.jsonl, row 2: .*question"):
        run(data_dir=tmp_path)
    (tmp_path / "gsm8k_test.jsonl").write_text('{"question": "a", "answer": "#### 1"}\n{"question": \n')
    with pytest.raises(UserError, match=r"gsm8k_test.jsonl, row 2: not valid JSON"):
        run(data_dir=tmp_path)


def test_results_of_another_configuration_are_not_touched(run: Run, tmp_path: Path) -> None:
    run()
    path = tmp_path / "results/GSM8K/org/model/llm_debate_infer.jsonl"
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"another configuration \(temperature was 0.5, now 0.9\)"):
        run(model_temperature=0.9)
    with pytest.raises(UserError, match=r"method_config was .*num_rounds"):
        run(method_config="num_rounds=3")
    assert path.read_bytes() == before
    assert run("--overwrite", model_temperature=0.9) == 0
    assert path.read_bytes() != before


def test_an_unwritable_output_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(UserError, match=r"results.*cannot be written"):
        run()


def test_local_models_are_named_by_their_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model/config.json").write_text("{}")
    assert run(model_name=tmp_path / "my-model") == 0
    path = tmp_path / "results/GSM8K/my-model/llm_debate_infer.jsonl"
    assert str(tmp_path) not in path.read_text()
    manifest = json.loads(path.with_name(path.name + ".manifest.json").read_text())
    assert manifest["config"]["model"] == "my-model"


# ---------------------------------------------------------------- variants, other models, code


def test_the_variant_made_for_a_dataset_runs_and_is_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(method_name="dylan", test_dataset_name="MATH-500", max_samples=2) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("dylan runs on MATH-500 as dylan_math (config_math)\n")
    assert re.search(r"^dylan_infer: importance: agent_1 \d", printed, re.M)
    path = tmp_path / "results/MATH-500/org/model/dylan_infer.jsonl"
    record = next(read_records(path))
    assert (record.method.name, record.method.variant) == ("dylan_math", "config_math")
    assert run(method_name="dylan_math", test_dataset_name="MATH-500", max_samples=1) == 0
    assert path.with_name("dylan_math_infer.jsonl").exists()
    assert run("--method_config_name", "config_main", "--overwrite", method_name="dylan", max_samples=1) == 0
    assert "as dylan_math" not in capsys.readouterr().out.split("dylan_math_infer")[-1]


def test_a_trial_is_told_of_with_its_cost(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--method_config", "team_optimization={top_k: 2, trial_samples: 2}", method_name="dylan") == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"dylan_infer: decided before the first sample: team agent_\d agent_\d, importance agent_1 \d.*"
        r"\(\d+ calls, \d+ tokens of scripted, not in the table\)",
        printed,
    )


def test_a_task_the_method_cannot_do_is_refused_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--method_name mapcoder: cannot do GSM8K .* it can do: HumanEval, MBPP"):
        run(method_name="mapcoder")
    assert not (tmp_path / "results").exists()


def test_verifiers_may_be_other_models(run: Run, tmp_path: Path, data_dir: Path) -> None:
    asked: list[tuple[str, bool, Any]] = []

    def choose(args: Namespace, model_name: str) -> Choice:
        asked.append((model_name, args.use_vllm, args.lora_path))
        return Choice(model_name, lambda lock: ScriptedEngine())

    (tmp_path / "endpoints.yaml").write_text("org/served: {model_name: a, model_url: http://localhost:1/v1}\n")
    base = ["--method_name", "mav", "--test_dataset_name", "GSM8K", "--model_name", "org/model", "--max_samples", "2"]
    more = ["--data_dir", str(data_dir), "--use_vllm", "--model_api_config", str(tmp_path / "endpoints.yaml")]
    verifiers = ["--verifier_models", "org/served", "org/model", "org/other", "--method_config", "n_max_verifiers=3"]
    assert (
        inference.main([*base, *more, *verifiers, "--lora_path", str(bare(tmp_path / "lora"))], choose_engine=choose)
        == 0
    )
    assert asked == [("org/model", True, tmp_path / "lora"), ("org/served", False, None), ("org/other", True, None)]
    record = next(read_records(tmp_path / "results/GSM8K/org/model/mav_infer.jsonl"))
    assert record.models == ("main", "org/model", "org/other", "org/served")
    assert record.method.config["verifier_models"] == ["org/served", "org/model", "org/other"]


def test_code_runs_only_with_the_flag_and_that_is_part_of_the_run(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "```python\nassert True\ndef f(*args):\n    return 1\n```"
    coder = ScriptedEngine(script=lambda messages, params: program)
    flags = {"method_name": "dylan", "test_dataset_name": "MBPP", "max_samples": 1, "engine": coder}
    assert run(**flags) == 0
    printed = capsys.readouterr().out
    assert "dylan runs on MBPP as dylan_humaneval" in printed
    assert "without --allow_code_execution: dylan runs no tests" in printed
    path = tmp_path / "results/MBPP/org/model/dylan_infer.jsonl"
    assert next(read_records(path)).models == ("main",)
    with pytest.raises(UserError, match=r"another configuration .code_execution was None, now True"):
        run("--allow_code_execution", **flags)
    assert run("--allow_code_execution", "--overwrite", **flags) == 0
    assert "without --allow_code_execution" not in capsys.readouterr().out
    record = next(read_records(path))
    assert record.models == ("main", "sandbox")
    tested = [turn for turn in record.trajectory if turn.role == "final_tests"]
    assert tested
    assert all(json.loads(turn.text)["isolation"] in ("bwrap", "namespaces") for turn in tested)
    assert record.token_stats.keys() == {"scripted"}


# ---------------------------------------------------------------- processes


def command(data_dir: Path, output: Path, *extra: str) -> list[str]:
    flags = ["--method_name", "llm_debate", "--test_dataset_name", "GSM8K", "--model_name", "org/model"]
    place = ["--data_dir", str(data_dir), "--output_path", str(output), "--max_concurrency", "6"]
    return [sys.executable, str(DRIVER), *flags, *place, *extra]


def timeless(path: Path) -> list[bytes]:
    return [re.sub(rb'"(started|seconds)":[0-9.e-]+', b"", line) for line in path.read_bytes().splitlines()]


def seeds_paid(output: Path) -> set[str]:
    """`sample seed` of every call that is on disk, in the records or in the journal."""
    import msgspec

    paid = set()
    journal = output.with_name(output.name + ".journal.jsonl")
    for line in journal.read_bytes().split(b"\n") if journal.exists() else []:
        try:
            entry = msgspec.json.decode(line, type=JournalEntry)
        except msgspec.DecodeError:
            continue  # the torn last line
        paid.add(f"{entry.sample} {int(digest((0, entry.sample, entry.turn))[:15], 16)}")
    return paid


def test_killed_ten_times_equals_undisturbed(tmp_path: Path, data_dir: Path) -> None:
    """kill -9 at ten random moments of one run, continued each time: same file, and no finished call paid twice."""
    environment = {**os.environ, "LATENCY": "0.02"}
    undisturbed = tmp_path / "undisturbed.jsonl"
    calls = tmp_path / "calls"
    subprocess.run(
        command(data_dir, undisturbed, "--max_samples", "60"), env={**environment, "CALLS": str(calls)}, check=True
    )
    total = calls.read_text().count("\n")
    assert total == 60 * 7
    output, kills, paid = tmp_path / "killed.jsonl", 0, set()
    chance = random.Random(5)
    while True:
        log = tmp_path / f"calls-{kills}"
        log.touch()
        process = subprocess.Popen(
            command(data_dir, output, "--max_samples", "60"),
            env={**environment, "CALLS": str(log)},
            stderr=subprocess.PIPE,
        )
        if kills < 10:
            target = chance.randint(5, 45)
            while process.poll() is None and log.read_text().count("\n") < target:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, stderr = process.communicate()
        again = paid & set(log.read_text().splitlines())
        assert not again, "a call that was on disk was paid again"
        paid |= seeds_paid(output)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, stderr.decode()
        assert not (output.exists() and output.read_bytes().endswith(b"\n") and index(output)[1])
    assert kills == 10
    assert timeless(output) == timeless(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, data_dir: Path, number: int) -> None:
    output, log = tmp_path / "a.jsonl", tmp_path / "calls"
    log.touch()
    process = subprocess.Popen(
        command(data_dir, output),
        env={**os.environ, "LATENCY": "0.02", "CALLS": str(log)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while log.read_text().count("\n") < 40:
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; finished samples are kept; continue with: python" in stderr
    assert "Traceback" not in stderr
    assert all(record.error is None for record in read_records(output))
    manifest = json.loads(output.with_name(output.name + ".manifest.json").read_text())
    assert manifest["sessions"][0]["done"] == len(list(read_records(output)))


def test_a_dead_engine_is_exit_1_with_everything_kept(run: Run, tmp_path: Path) -> None:
    class Mortal(ScriptedEngine):
        async def chat(self, *args: Any, **kwargs: Any) -> Any:
            if len(self.seen) > 15:
                raise RunError("the engine died")
            return await super().chat(*args, **kwargs)

    with pytest.raises(RunError, match="the engine died"):
        run(engine=Mortal(capacity=1), max_samples=8)
    path = tmp_path / "results/GSM8K/org/model/llm_debate_infer.jsonl"
    assert len(list(read_records(path))) >= 1
    assert run(max_samples=8) == 0


def test_errors_of_the_real_script_are_one_line_and_exit_2(tmp_path: Path) -> None:
    base = [sys.executable, "inference.py", "--method_name", "cot", "--test_dataset_name", "GSMSymbolic"]
    done = subprocess.run(
        [*base, "--model_name", "smollm", "--method_config", "x=1"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --method_config: unknown key 'x'")
    assert done.stderr.count("\n") == 1


def test_several_methods_share_one_engine(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    starts = []

    class Counted(ScriptedEngine):
        async def __aenter__(self) -> Any:
            starts.append(self)
            return self

    engine = Counted()
    assert run("--method_name", "vanilla", "self_consistency", "llm_debate", method_name=None, engine=engine) == 0
    assert len(starts) == 1
    assert len(engine.seen) == 3 * (1 + 5 + 7)
    folder = tmp_path / "results/GSM8K/org/model"
    lines = capsys.readouterr().out.splitlines()
    for line, (method, turns) in zip(
        lines[1:4], (("vanilla", 1), ("self_consistency", 5), ("llm_debate", 7)), strict=True
    ):
        records = list(read_records(folder / f"{method}_infer.jsonl"))
        assert [len(record.trajectory) for record in records] == [turns] * 3
        assert line.startswith(method)
        assert not (folder / f"{method}_infer.jsonl.lock").exists()
    assert run(method_name="self_consistency", engine=ScriptedEngine(script=lambda *_: pytest.fail("run again"))) == 0
    assert run("--method_name", "vanilla", "cot", method_name=None, engine=(again := Counted())) == 0
    assert len(again.seen) == 3


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--output_path", "a.jsonl"], "--output_path: goes with one --method_name, not with 2"),
        (["--debug"], "--debug: goes with one --method_name"),
        (["--method_config", "num_rounds=2"], "--method_config: goes with one --method_name"),
        (["--method_name", "cot", "vanilla", "cot"], "--method_name cot vanilla cot: a method is named twice"),
        (["--method_name", "cot", "debate"], "unknown method 'debate'"),
    ],
)
def test_flags_of_one_method_are_refused_for_several(run: Run, flags: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        run("--method_name", "cot", "vanilla", *flags, method_name=None)


def test_a_run_against_unrelated_peers_can_grow_and_be_labelled(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert run("--method_config", "peers=unrelated", output_path=path, max_samples=2) == 0
    before = path.read_bytes()
    assert run("--method_config", "peers=unrelated", output_path=path, max_samples=4) == 0
    assert path.read_bytes().startswith(before)
    records = list(read_records(path))
    queries = {record.query for record in records}
    decoys = {str(record.decoy) for record in records}
    assert len(decoys) == 4
    assert not any(decoy.startswith(query) for decoy in decoys for query in queries)  # of the 1,319, not of these four
    assert all(record.method.config["peers"] == "unrelated" for record in records)
    with pytest.raises(UserError, match="holds results of another configuration"):
        run("--method_config", "peers=none", output_path=path)
