"""The study runner: which steps are done, stale, to be continued or chosen, and how a study ends early."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentark.config import ROOT
from agentark.lock import RunLock
from agentark.types import RunError, UserError
from study import __main__ as pipeline
from study import step as study_child
from study.__main__ import choose, commands
from study.plan import Plan, PlannedStep
from study.recipe import load
from study.state import Memory, Status
from study.step import Step

RECIPES = ROOT / "configs" / "studies"
COPY = "import sys; open(sys.argv[4], 'w').write(open(sys.argv[2]).read() + sys.argv[6])"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.txt").write_text("d")
    return tmp_path


def step(name: str, folder: Path, source: str, *, say: str = "x", code: str = COPY, **traits: Any) -> PlannedStep:
    """A step that writes its input and a word to <folder>/<name>.txt."""
    output, path = str(folder / f"{name}.txt"), str(folder / f"{source}.txt")
    flags = {"--input": [path], "--output": [output], "--say": [say]}
    words = [word for key, values in flags.items() for word in (key, *values)]
    made = {path: source} if source != "data" else {}
    return PlannedStep(
        name, ["-c", code, *words], stage=name, program=["-c", code], flags=flags, inputs=[path], outputs=[output],
        sources=made, after=list(made.values()), **traits,
    )  # fmt: skip


def chain(folder: Path, **changed: dict[str, Any]) -> list[PlannedStep]:
    """Three steps, each on the one before."""
    names = {"one": "data", "two": "one", "three": "two"}
    return [step(name, folder, source, **changed.get(name, {})) for name, source in names.items()]


def run(folder: Path, steps: Sequence[PlannedStep], chosen: Sequence[PlannedStep] | None = None) -> list[str]:
    memory = Memory(str(folder))
    with RunLock(memory.path) as lock:
        return pipeline.run(steps, steps if chosen is None else chosen, memory, lock)


def statuses(folder: Path, steps: Sequence[PlannedStep]) -> list[str]:
    memory = Memory(str(folder))
    return [memory.status(one).text for one in steps]


# ---------------------------------------------------------------- done and stale


def test_a_finished_study_is_done_and_its_state_is_one_file(folder: Path) -> None:
    steps = chain(folder)
    assert run(folder, steps) == ["one", "two", "three"]
    assert (folder / "three.txt").read_text() == "dxxx"
    assert run(folder, steps) == []
    assert statuses(folder, steps) == ["done", "done", "done"]
    state = json.loads((folder / "study.json").read_bytes())
    assert [one["status"] for one in state["steps"].values()] == ["done"] * 3
    assert not (folder / "replaced").exists()
    assert sorted(one.name for one in (folder / "logs").iterdir()) == ["one.log", "three.log", "two.log"]


def test_a_changed_setting_runs_its_step_and_all_after_it(folder: Path) -> None:
    run(folder, chain(folder))
    steps = chain(folder, two={"say": "y"})
    assert statuses(folder, steps)[:2] == ["done", "stale: --say was x, now y"]
    assert run(folder, steps) == ["two", "three"]
    assert (folder / "three.txt").read_text() == "dxyx"
    replaced = {one.parent.name: one.read_text() for one in folder.glob("replaced/*/*.txt")}
    assert replaced == {"001_two": "dxx", "002_three": "dxxx"}, "nothing was deleted"


def test_even_a_step_that_makes_the_same_again_counts_as_run_again(folder: Path) -> None:
    run(folder, chain(folder))
    same = chain(folder, one={"code": COPY + " # as before"})
    assert run(folder, same) == ["one", "two", "three"]


def test_changed_content_is_named(folder: Path) -> None:
    steps = chain(folder)
    run(folder, steps)
    (folder / "two.txt").write_text("by hand")
    assert statuses(folder, steps) == ["done", "done", f"stale: {folder}/two.txt has changed"]
    assert run(folder, steps) == ["three"]
    assert (folder / "three.txt").read_text() == "by handx"
    os.utime(folder / "data.txt")
    assert run(folder, steps) == [], "a new date is no new content"
    (folder / "data.txt").write_text("e")
    assert run(folder, steps) == ["one", "two", "three"]


def test_a_lost_output_is_made_again(folder: Path) -> None:
    steps = chain(folder)
    run(folder, steps)
    (folder / "one.txt").unlink()
    assert statuses(folder, steps)[0] == f"stale: {folder}/one.txt is gone"
    assert run(folder, steps) == ["one", "two", "three"]


def test_flags_that_only_say_where_it_runs_change_nothing(folder: Path) -> None:
    steps = chain(folder)
    run(folder, steps)
    faster = [
        PlannedStep(**{name: getattr(one, name) for name in one.__struct_fields__} | {"flags": one.flags | more})
        for one in steps
        for more in ({"--max_concurrency": ["8"], "--use_vllm": []},)
    ]
    assert run(folder, faster) == []


@pytest.mark.parametrize(
    ("program", "flag", "decides"),
    [
        (["-m", "distill.sft"], "--save_total_limit", False),
        (["-m", "distill.sft"], "--max_steps", True),
        (["-m", "torch.distributed.run", "prm/finetune2.py"], "--max_forward_tokens", False),
        (["-m", "openrlhf.cli.train_grpo"], "--max_ckpt_num", False),
        (["-m", "openrlhf.cli.train_grpo"], "--max_steps", True),
        (["inference.py"], "--max_ckpt_num", True),
    ],
)
def test_trainings_say_which_flags_do_not_decide(folder: Path, program: list[str], flag: str, decides: bool) -> None:
    (folder / "one.txt").write_text("")
    given = step("one", folder, "data")
    fields = {name: getattr(given, name) for name in given.__struct_fields__} | {"program": program}
    memory = Memory(str(folder))
    memory.begin(PlannedStep(**fields), Status(kind="new"))
    memory.finish(PlannedStep(**fields), 1.0)
    changed = PlannedStep(**fields | {"flags": given.flags | {flag: ["7"]}})
    assert memory.status(changed).kind == ("stale" if decides else "done")


def growing(folder: Path, count: int, judge: str = "a") -> list[PlannedStep]:
    """A step that appends up to `count` lines to its file, one that does so for each of these, and one on top."""
    append = "import sys; f = sys.argv[4]; open(f, 'a').write('+' + sys.argv[6])"
    first = step("one", folder, "data", say=str(count), code=append, grows=True)
    flags = {("--max_samples" if name == "--say" else name): value for name, value in first.flags.items()}
    first = PlannedStep(**{name: getattr(first, name) for name in first.__struct_fields__} | {"flags": flags})
    second = step("two", folder, "one", say=judge, code=append, absorbs=True)
    return [first, second, step("three", folder, "two")]


def test_more_samples_add_to_what_is_there(folder: Path) -> None:
    run(folder, growing(folder, 5))
    assert statuses(folder, growing(folder, 9))[0] == "stale: --max_samples was 5, now 9"
    assert run(folder, growing(folder, 9)) == ["one", "two", "three"]
    assert (folder / "one.txt").read_text() == "+5+9"
    assert (folder / "two.txt").read_text() == "+a+a", "labels of the old ones stay"
    assert [one.name for one in (folder / "replaced").iterdir()] == ["001_three"]
    assert run(folder, growing(folder, 7)) == ["one", "two", "three"]
    assert (folder / "one.txt").read_text() == "+7", "fewer are another run"
    assert (folder / "two.txt").read_text() == "+a"


def test_growth_with_another_setting_is_no_growth(folder: Path) -> None:
    run(folder, growing(folder, 5))
    run(folder, growing(folder, 9, judge="b"))
    assert (folder / "two.txt").read_text() == "+b"


# ---------------------------------------------------------------- stopping and going on


def test_a_failure_names_command_log_and_last_lines_and_goes_on_later(folder: Path) -> None:
    code = f"import sys; sys.argv[6] == 'x' or (print('one\\ntwo'), sys.exit(3)); {COPY}"
    steps = chain(folder, two={"code": code, "say": "bad"})
    with pytest.raises(RunError) as raised:
        run(folder, steps)
    first, command, *tail = str(raised.value).splitlines()
    assert first == f"two ended with exit code 3 ({folder}/logs/two.log): two"
    assert shlex.split(command) == [study_child.interpreter(), *steps[1].command]
    assert tail == ["    | one", "    | two"]
    assert statuses(folder, steps)[:2] == ["done", "to be continued"]
    assert run(folder, chain(folder, two={"code": code})) == ["two", "three"]


def test_a_step_killed_by_the_system_says_so(folder: Path) -> None:
    kill = "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(RunError, match=r"one ended with signal SIGKILL \("):
        run(folder, chain(folder, one={"code": kill}))


def test_a_step_that_was_not_finished_goes_on_and_keeps_what_it_made(folder: Path) -> None:
    steps = chain(folder, one={"code": f"import sys, os; n = os.path.exists(sys.argv[4]); {COPY}; n or sys.exit(1)"})
    with pytest.raises(RunError):
        run(folder, steps)
    assert run(folder, steps) == ["one", "two", "three"]
    entry = Memory(str(folder)).steps["one"]
    assert (entry.attempts, entry.runs, entry.made) == (2, 1, 1)
    assert not (folder / "replaced").exists()
    strict = chain(folder, one={"code": f"import sys, os; assert not os.path.exists(sys.argv[4]); {COPY}; sys.exit(1)"})
    strict[0] = PlannedStep(
        **{name: getattr(strict[0], name) for name in strict[0].__struct_fields__} | {"restarts": True}
    )
    for _ in range(2):
        with pytest.raises(RunError, match="exit code 1"):
            run(folder, strict[:1])


DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
from agentark import cli
import test_study
folder = Path({folder!r})
cli.entry(lambda: len(test_study.run(folder, test_study.slow(folder))) * 0)
"""
WAIT = "import sys, time; print('ready', flush=True); time.sleep(float(sys.argv[6])); "


def slow(folder: Path, seconds: str = "30") -> list[PlannedStep]:
    return [
        step("one", folder, "data"),
        step("two", folder, "one", say=seconds, code=WAIT + COPY),
    ]


def driver(folder: Path) -> "subprocess.Popen[str]":
    here = Path(__file__).parent
    text = DRIVER.format(root=str(ROOT), tests=str(here.parent), here=str(here), folder=str(folder))
    return subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def waits(folder: Path) -> bool:
    """Whether step two has come to its sleep (its command, in the log's first line, holds the word too)."""
    log = folder / "logs" / "two.log"
    return log.is_file() and "ready" in log.read_text().splitlines()


def sleeping(folder: Path) -> list[psutil.Process]:
    """Steps of this study that are running."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        line = one.info["cmdline"] or []
        if line[1:2] == ["-c"] and str(folder / "two.txt") in line and one.status() != psutil.STATUS_ZOMBIE:
            found.append(one)
    return found


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_child_and_the_study_goes_on(folder: Path, name: signal.Signals) -> None:
    process = driver(folder)
    until(lambda: waits(folder))
    process.send_signal(name)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; finished samples are kept; continue with: " in output
    assert not sleeping(folder)
    assert statuses(folder, slow(folder)) == ["done", "to be continued"]


def test_a_killed_study_leaves_a_child_that_the_next_one_ends(folder: Path) -> None:
    process = driver(folder)
    until(lambda: waits(folder))
    process.kill()
    process.wait()
    [child] = sleeping(folder)
    assert run(folder, slow(folder, "0")) == ["two"]
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert (folder / "two.txt").read_text() == "dx0"


def test_the_time_of_a_stopped_attempt_counts(folder: Path) -> None:
    memory = Memory(str(folder))
    [one, *_] = chain(folder)
    memory.begin(one, memory.status(one))
    memory.log("one").parent.mkdir(exist_ok=True)
    memory.log("one").touch()
    began = datetime.fromisoformat(memory.steps["one"].started).timestamp()
    os.utime(memory.log("one"), (began + 40, began + 40))
    memory.begin(one, memory.status(one))
    memory.finish(one, 2.5)
    assert memory.steps["one"].seconds == 42.5


def test_two_studies_do_not_write_to_one_folder(folder: Path) -> None:
    process = driver(folder)
    until(lambda: waits(folder))
    with pytest.raises(UserError, match=rf"process {process.pid} on .* is writing"):
        run(folder, slow(folder))
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)


def test_the_log_shows_a_progress_bar_as_it_ended(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"before\nstart\n 10%\r 50%\r100%\r\n\nend\xff")
    assert study_child.last_lines(log, 7, 9) == ["start", "100%", "end\ufffd"]
    assert study_child.last_lines(log, 7, 1) == ["end\ufffd"]


def test_the_view_follows_the_child(tmp_path: Path) -> None:
    seen: list[tuple[float, str]] = []
    say = "import time; print('10%', flush=True); time.sleep(1)"
    with RunLock(tmp_path / "study.json") as lock:
        seconds = study_child.run(
            Step("say", ["-c", say]), tmp_path / "say.log", lock, lambda at, line: seen.append((at, line))
        )
    assert seconds >= 1
    assert seen[-1][1] == "10%"
    assert [pipeline.clock(value) for value in (0, 61.4, 3723)] == ["0:00", "1:01", "1:02:03"]


def test_on_a_terminal_a_running_step_has_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    view = pipeline.View(chain(folder))
    view.watch(5, "loss\x1b[31m " + "x" * 99)
    view.clear()
    view.say(chain(folder)[1], "done")
    assert capsys.readouterr().out == f"\r\x1b[K    0:05  loss [31m {'x' * 18}\r\x1b[K[2/3] two: done\n"


# ---------------------------------------------------------------- choosing


def names(steps: Sequence[PlannedStep]) -> list[str]:
    return [one.name for one in steps]


def test_choosing_stages_and_steps() -> None:
    asking = [
        "teachers.vote={method: self_consistency, train: false}",
        "worth={team: debate, vote: vote, recovery: {}}",
    ]
    every = Plan(load(RECIPES / "smoke.yaml", asking)).steps
    steps = Plan(load(RECIPES / "smoke.yaml")).steps
    stages = list(dict.fromkeys(one.stage for one in every))
    assert stages == [stage for stage in pipeline.STAGES if stage != "opd"], "no student of smoke.yaml is of that kind"
    assert names(choose(steps, ["sft DA", "label"], None, None)) == ["label debate", "sft DA"]
    assert names(choose(steps, None, "grpo R-SFT+PAD", "evaluate"))[:2] == [
        "grpo R-SFT+PAD",
        "evaluate R-SFT on held-out",
    ]
    assert {one.stage for one in choose(steps, None, "label", "prm")} == {"label", "select", "sft", "prm"}
    assert choose(steps, None, None, None) == steps


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--only", "selct"], r"--only 'selct': no such stage or step in this .*did you mean select\?"),
        (["--from", "report", "--until", "label"], "--from report: comes after --until label"),
        (["--only", "label", "--from", "sft"], "--only: does not go together with --from and --until"),
        (["--set", "label.flag.rounds=last"], r"--set: unknown key 'label\.flag' .*did you mean flags\?"),
        (["--set", "policies.PAD.start=RSFT"], r"policies\.PAD\.start: no 'RSFT' \(known: base, R-SFT, DA; did"),
        (["--set", "policies.PAD.prm=big"], r"policies\.PAD\.prm: no 'big' \(known: prm"),
        (["--set", "students.R-SFT.teachers=[mad]"], r"students\.R-SFT\.teachers: no 'mad' \(known: debate"),
        (["--set", "teachers.debate.method=llm_debat"], r"unknown method 'llm_debat' .*did you mean llm_debate\?"),
        (["--set", "train.dataset=ChainSums"], r"unknown dataset 'ChainSums' .*did you mean ChainSum\?"),
        (["--set", "tests.held-out.dataset=SRDD"], r"tests\.held-out: nothing grades answers to SRDD"),
        (["--set", "teachers.debate.train=false"], r"teachers: none has train: true"),
        (["--set", "policies.r_sft={}"], r"system 'r_sft': another one would be written to the same place"),
        (["--set", "students.a/b={select: {strategy: da}}"], r"system 'a/b': a name has letters or digits"),
        (["--set", "model=outputs/pad"], r"model: outputs/pad: a system has the same name"),
        (["--set", "students.X={}"], r"students\.X: needs either select .* or opd"),
        (["--set", "students.DA.opd={}"], r"students\.DA: needs either select .* or opd"),
        (["--set", "students.X={opd: {}, trained: false}"], r"students\.X: match, sft and trained"),
        (["--set", "seed=-1"], r"--set: seed = -1: .*greater than or equal to 0"),
        (["--set", "seed"], r"--set 'seed': expected key=value"),
        (["--dryrun"], r"unknown argument --dryrun \(did you mean --dry_run\?"),
    ],
)  # fmt: skip
def test_bad_input(words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as raised:
        pipeline.main(["--config", str(RECIPES / "smoke.yaml"), *words, "--dry_run"])
    assert "\n" not in str(raised.value)


def test_a_missing_input_names_the_step_that_makes_it(folder: Path) -> None:
    steps = chain(folder)
    with pytest.raises(UserError, match=r"two: .*one\.txt is missing; run 'one' first, which makes it"):
        run(folder, steps, steps[1:2])
    run(folder, steps)
    changed = chain(folder, one={"say": "y"})
    assert pipeline.stale(changed, changed[1:2], Memory(str(folder))) == [
        "warning: one is left out though it is stale: --say was x, now y"
    ]


def test_many_changes_are_not_all_told() -> None:
    assert Status(kind="stale", why=[*"abc"]).text == "stale: a; b; c"
    assert Status(kind="stale", why=[*"abcde"]).text == "stale: a; b; c; and 2 more"


def test_a_broken_state_is_refused(folder: Path) -> None:
    (folder / "study.json").write_text("{")
    with pytest.raises(UserError, match=r"study\.json: is not the state of a study"):
        Memory(str(folder))


# ---------------------------------------------------------------- dry run


def test_what_a_dry_run_prints_works_when_it_is_pasted(folder: Path) -> None:
    steps = chain(folder)
    for _ in range(2):
        pasted = "\n".join(commands(steps, Memory(str(folder))))
        subprocess.run(["bash", "-euc", pasted], cwd=ROOT, check=True)
    assert (folder / "three.txt").read_text() == "dxxx"
    run(folder, steps)
    assert all(line.startswith("# ") for line in commands(steps, Memory(str(folder))))
    changed = chain(folder, two={"say": "it's"})
    subprocess.run(["bash", "-euc", "\n".join(commands(changed, Memory(str(folder))))], cwd=ROOT, check=True)
    assert (folder / "three.txt").read_text() == "dxit'sx"
    assert (folder / "replaced" / "001_two" / "two.txt").read_text() == "dxx"


def test_a_dry_run_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "study"
    argv = ["--config", str(RECIPES / "smoke.yaml"), "--set", f"folder={target}", "--dry_run"]
    assert pipeline.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    steps = Plan(load(RECIPES / "smoke.yaml", [f"folder={target}"])).steps
    assert lines[::2] == [f"# {one.name} (not run yet)" for one in steps]
    assert lines[1::2] == [study_child.shown(one.command) for one in steps]
    assert not target.exists()


# ---------------------------------------------------------------- the judge


def test_a_judge_setting_runs_label_and_all_after_it_and_nothing_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real plan of smoke.yaml; the children are replaced by something that leaves their files."""
    argv = ["--config", str(RECIPES / "smoke.yaml"), "--set", f"folder={tmp_path}", f"model={tmp_path}/small"]
    argv.append(f"label.flags.model={tmp_path}/small")
    ran: list[str] = []

    def child(one: PlannedStep, *_: Any) -> float:
        ran.append(one.name)
        for path in map(Path, one.outputs):
            target = path if path.suffix else path / "config.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(one.stage)
            if not path.suffix:
                (path / "vanilla_infer.jsonl").write_text("")
                (path / "per_sample.jsonl").write_text("")
        return 1.0

    monkeypatch.setattr(pipeline, "run_step", child)
    steps = names(Plan(load(RECIPES / "smoke.yaml")).steps)
    assert pipeline.main(argv) == 0
    assert ran == steps
    for change in ("label.flags.rounds=last", "label.flags.judge_only=true", "label.flags.model=smollm2-135m-instruct"):
        ran.clear()
        argv.append(change)
        assert pipeline.main(argv) == 0
        assert ran == steps[steps.index("label debate") :], change
    ran.clear()
    assert pipeline.main([*argv, "sft.flags.learning_rate=3.0e-4"]) == 0
    first = ["sft R-SFT", "sft DA", "grpo R-SFT+PAD"]
    assert ran == [*first, *(f"evaluate {one} on held-out" for one in ("R-SFT", "DA", "R-SFT+PAD")), "table", "report"]
    assert "label debate: done, in 0:01" in capsys.readouterr().out
