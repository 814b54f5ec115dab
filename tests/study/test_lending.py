"""Steps that share an engine: which they are, and the engine's life around them, with a stand-in for vLLM."""

import argparse
import json
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import stub_engine
from script_parsers import parsed

from agentark.config import ROOT
from agentark.engines import choose as choosing
from agentark.engines.choose import choose_engine
from agentark.lock import RunLock
from agentark.records import read_records
from agentark.types import RunError
from study import __main__ as pipeline
from study import engine as study_engine
from study import lending
from study.lending import Lender, shared
from study.plan import Plan, PlannedStep
from study.recipe import load
from study.state import Memory

RECIPES = ROOT / "configs" / "studies"
TESTS = Path(__file__).parents[1]


def steps_of(recipe: str, *overrides: str) -> list[PlannedStep]:
    return Plan(load(RECIPES / f"{recipe}.yaml", overrides)).steps


def starts(steps: list[PlannedStep]) -> tuple[int, int]:
    """How often vLLM starts without sharing and with it."""
    alone = sum("--use_vllm" in step.flags for step in steps)
    return alone, alone - sum(len(one.steps) - 1 for one in shared(steps))


# ---------------------------------------------------------------- which steps share one


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("arith", (14, 4)),
        ("embedded", (9, 6)),
        ("sums", (8, 5)),
        ("gsm8k_qwen3_0.6b", (10, 6)),
        ("paper_qwen3_8b", (43, 8)),
        ("smoke", (0, 0)),
    ],
)
def test_starts_of_the_recipes(recipe: str, expected: tuple[int, int]) -> None:
    assert starts(steps_of(recipe)) == expected


def test_the_base_model_answers_for_all_teachers_and_each_student_has_its_own() -> None:
    base, *students = shared(steps_of("arith"))
    assert base.flags == ("--model_name", "smollm2-135m-instruct", "--use_vllm")
    assert base.steps[0] == "baselines base on held-out"
    assert base.steps[-2:] == ("inference majority of 5", "inference debate")
    assert [one.flags[1] for one in students] == [
        f"outputs/arith/students/{name}" for name in ("answer_only_sft", "r_sft", "da")
    ]
    assert [len(one.steps) for one in students] == [2, 2, 2]


def test_steps_of_two_models_are_sorted_by_model() -> None:
    small, large = shared(steps_of("gsm8k_qwen3_0.6b"))
    assert small.steps == ("baselines base on GSM8K", "baselines debate of students on GSM8K")
    assert large.steps == ("baselines debate on GSM8K", "baselines vote on GSM8K", "inference debate", "select DA")
    assert small.flags == ("--model_name", "Qwen/Qwen3-0.6B", "--no_enable_thinking", "--use_vllm")


def test_a_training_in_between_has_the_machine_to_itself() -> None:
    steps = {one.name: one for one in steps_of("arith")}
    names = ["evaluate R-SFT on held-out", "sft DA", "evaluate R-SFT on out of distribution"]
    assert shared([steps[name] for name in names]) == []
    light = [names[0], "label debate", "select DA", "baselines debate on held-out, graded", names[2]]
    assert [len(one.steps) for one in shared([steps[name] for name in light])] == [2]


@pytest.mark.parametrize("change", ["team: [1=org/m]", "method_config: ['verifier_models=[org/m]']"])
def test_a_team_of_models_has_the_machine_to_itself(change: str) -> None:
    steps = steps_of("arith", f"teachers.debate.flags={{{change}}}")
    names = [name for one in shared(steps) for name in one.steps]
    assert not any("debate" in name for name in names)
    assert ("inference majority of 5" in names) is False, "the debate is asked in between"


@pytest.mark.parametrize(
    "changes",
    [
        ["engine.use_vllm=false"],
        ["engine.launch=ray"],
        ["engine={use_vllm: true, use_modal_batch: true}"],
        ["evaluate.flags.no_apply_chat_template=true"],
        ["evaluate.launcher=[-m, torch.distributed.run]"],
        ["tests.held-out.flags={max_model_len: 512}"],
        ["tests.held-out.flags={lora_path: adapter}"],
        ["tests.held-out.flags={engine_args: [max_num_seqs=8]}"],
    ],
)  # fmt: skip
def test_other_engines_are_not_shared(changes: list[str]) -> None:
    steps = steps_of("arith", *changes)
    assert [one for one in shared(steps) if any(name.startswith("evaluate") for name in one.steps)] == []


def test_a_flag_is_the_same_with_hyphens() -> None:
    changes = {"tests.held-out.flags": "max-model-len", "tests.out of distribution.flags": "max_model_len"}
    steps = steps_of("arith", *(f"{key}={{{name}: 512}}" for key, name in changes.items()))
    [one] = shared([step for step in steps if step.name.startswith("evaluate DA")])
    assert one.flags == ("--model_name", "outputs/arith/students/da", "--max_model_len", "512", "--use_vllm")


def test_a_long_path_for_temporary_files_does_no_harm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ("long" * 30)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / ("long" * 30)))
    with lender(folder, []) as one:
        assert one.start_for(asking(folder)[0]) > 0


@pytest.mark.parametrize("recipe", ["arith", "embedded", "sums", "gsm8k_qwen3_0.6b", "paper_qwen3_8b"])
def test_the_engine_has_the_settings_of_its_steps(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else no step would borrow it, and two engines would run at once."""
    monkeypatch.setattr(choosing, "resolve_model", lambda name, flag: (name, name))
    monkeypatch.delenv(lending.VARIABLE, raising=False)

    def settings(args: argparse.Namespace, model: str) -> Any:
        engine: Any = choose_engine(args, model).make(RunLock(Path("unused")))
        return engine.config

    steps = {one.name: one for one in steps_of(recipe)}
    for one in shared(list(steps.values())):
        lent = study_engine.parse(["--socket", "s", *one.flags])
        for name in one.steps:
            step = steps[name]
            args = parsed(step.program[-1], step.command[len(step.program) :])
            assert settings(args, one.flags[1]) == settings(lent, one.flags[1]), name


# ---------------------------------------------------------------- its life


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder with a model that the stand-in serves."""
    monkeypatch.setattr(lending, "PROGRAM", stub_engine.PROGRAM)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    return tmp_path


def asking(folder: Path, count: int = 2, samples: int = 2) -> list[PlannedStep]:
    """Runs of inference.py that ask the stand-in."""
    steps = []
    for number in range(count):
        output = str(folder / f"{number}.jsonl")
        flags = {"--method_name": ["vanilla"], "--test_dataset_name": ["ChainSum"], "--use_vllm": []}
        flags |= {"--model_name": [str(folder / "m")], "--output_path": [output], "--max_samples": [str(samples)]}
        words = [word for name, texts in flags.items() for word in (name, *texts)]
        steps.append(
            PlannedStep(
                f"ask {number}", ["inference.py", *words], stage="inference", program=["inference.py"], flags=flags,
                inputs=[], outputs=[output], sources={}, after=[],
            )
        )  # fmt: skip
    return steps


def run(folder: Path, count: int = 2) -> list[str]:
    memory = Memory(str(folder))
    with RunLock(memory.path) as lock:
        return pipeline.run(asking(folder, count), asking(folder, count), memory, lock)


def engines(folder: Path) -> list[psutil.Process]:
    """Engines of this study, and what they started."""
    found = []
    for one in psutil.process_iter(["cmdline", "status"]):
        words = one.info["cmdline"] or []
        if str(folder / "m") in words and "--socket" in words and one.info["status"] != psutil.STATUS_ZOMBIE:
            found += [one, *one.children(recursive=True)]
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def begun(folder: Path) -> int:
    """How often an engine was started."""
    log = folder / "logs" / "engine.log"
    return sum(line.startswith("# ") for line in log.read_text().splitlines()) if log.exists() else 0


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_engine_for_all_steps_and_their_files_do_not_show_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = Path(tempfile.mkdtemp())
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert run(folder) == ["ask 0", "ask 1"]
    assert begun(folder) == 1
    out = capsys.readouterr().out
    assert re.search(rf"^    {folder}/m is ready in \d s, for 2 steps \({folder}/logs/engine.log\)$", out, re.M), out
    assert not engines(folder)
    temporary.rmdir()  # nothing is left in it
    step = asking(folder)[0]
    [session] = json.loads((folder / "0.jsonl.manifest.json").read_bytes())["sessions"]
    assert session["command"] == shlex.join(["python", *step.command])
    assert (session["engine"], session["guarantee"], session["capacity"]) == ("vllm", "engine", 4)
    [row, _] = read_records(folder / "0.jsonl")
    assert (row.model, row.error) == ("m", None)
    again = subprocess.run([sys.executable, *step.command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr  # the same run by hand: nothing is left to do


def test_a_single_step_has_its_engine_for_itself(folder: Path) -> None:
    assert shared(asking(folder, 1)) == []
    with RunLock(folder / "study.json") as lock:
        lender = Lender(asking(folder, 1), folder / "logs" / "engine.log", lock, print, lambda *_: None)
        assert lender.start_for(asking(folder)[0]) == 0.0
        assert lender.environment(asking(folder)[0]) == {}
    assert begun(folder) == 0


@contextmanager
def lender(folder: Path, told: list[str]) -> Iterator[Lender]:
    log = folder / "logs" / "engine.log"
    steps = asking(folder, 3)
    with RunLock(folder / "study.json") as lock, Lender(steps, log, lock, told.append, lambda *_: None) as one:
        yield one


def test_an_engine_that_died_is_started_again_for_the_next_step(folder: Path) -> None:
    told: list[str] = []
    steps = asking(folder, 3)
    with lender(folder, told) as one:
        assert one.start_for(steps[0]) > 0
        assert str(engines(folder)[0].pid) in (folder / "study.json.lock").read_text()
        first, before = one.environment(steps[0]), engines(folder)
        assert len(before) == 2
        one.end_after(steps[0])
        assert one.start_for(steps[1]) == 0
        assert one.environment(steps[1]) == first
        before[0].kill()
        until(lambda: not alive(before[:1]))
        assert one.start_for(steps[2]) > 0
        assert one.environment(steps[2]) != first
        assert not alive(before), "nor is its child left"
        one.end_after(steps[2])
        assert not engines(folder)
    assert told[1] == f"the engine of {folder}/m has ended (signal SIGKILL): starting it again"


def test_an_engine_whose_model_dies_between_steps_is_started_again(folder: Path) -> None:
    told: list[str] = []
    steps = asking(folder)
    with lender(folder, told) as one:
        one.start_for(steps[0])
        (folder / "m" / "dead").write_text("")
        until(lambda: not engines(folder))
        (folder / "m" / "dead").unlink()
        assert one.start_for(steps[1]) > 0
    assert told[1] == f"the engine of {folder}/m has ended (exit code 1): starting it again"
    assert "died while nobody asked it" in (folder / "logs" / "engine.log").read_text()


def test_an_engine_that_dies_under_a_step_stops_the_study_which_goes_on_later(folder: Path) -> None:
    (folder / "m" / "dies").write_text("")
    with pytest.raises(RunError, match=r"ask 0 ended with exit code 1 .*(?s:.*)the engine of this study has ended"):
        run(folder)
    assert not engines(folder)
    assert run(folder) == ["ask 0", "ask 1"]
    assert [row.error for row in read_records(folder / "0.jsonl")] == [None, None]


def test_an_engine_that_cannot_start_says_why(folder: Path) -> None:
    (folder / "m" / "broken").write_text("")
    with pytest.raises(RunError) as raised:
        run(folder)
    first = f"the engine of {folder}/m ended with exit code 2 ({folder}/logs/engine.log): error: vLLM cannot serve"
    assert str(raised.value).startswith(first)
    assert not engines(folder)


DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
from agentark import cli
from study import lending
import stub_engine, test_lending
lending.PROGRAM = stub_engine.PROGRAM
cli.entry(lambda: len(test_lending.run(Path({folder!r}))) * 0)
"""


def study(folder: Path) -> "subprocess.Popen[str]":
    """A study in a process of its own."""
    here = Path(__file__).parent
    text = DRIVER.format(root=str(ROOT), tests=str(TESTS), here=str(here), folder=str(folder))
    return subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_engine_starts_ends_it(folder: Path, name: signal.Signals) -> None:
    (folder / "m" / "slow").write_text("60")
    process = study(folder)
    until(lambda: len(engines(folder)) == 2)
    left = engines(folder)
    process.send_signal(name)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert not alive(left)


@pytest.mark.parametrize("loading", [True, False])
def test_a_killed_study_leaves_no_engine(folder: Path, loading: bool) -> None:
    (folder / "m" / "slow").write_text("60" if loading else "0")
    process = study(folder)
    until(lambda: (len(engines(folder)) == 2 and loading) or (folder / "logs" / "ask_0.log").exists())
    left = engines(folder)
    process.kill()
    process.wait()
    until(lambda: not alive(left))
    (folder / "m" / "slow").unlink()
    assert run(folder)[-1] == "ask 1"
    assert all(row.error is None for number in range(2) for row in read_records(folder / f"{number}.jsonl"))


def test_the_next_study_ends_an_engine_that_is_left(folder: Path) -> None:
    (folder / "m" / "deaf").write_text("")
    process = study(folder)
    until((folder / "logs" / "ask_0.log").exists)
    left = engines(folder)
    assert len(left) == 2
    process.kill()
    process.wait()
    time.sleep(0.5)
    assert alive(left) == left
    (folder / "m" / "deaf").unlink()
    run(folder)
    assert not alive(left)
