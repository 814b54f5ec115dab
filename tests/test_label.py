"""label.py as a user meets it, with a scripted judge; kill -9 included."""

import hashlib
import json
import os
import random
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
from label_cases import debate, judge, write
from lora_cases import bare

import inference
import label
from agentark import calibration
from agentark.engines.choose import Choice
from agentark.journal import JournalEntry
from agentark.labels import LabelRow, read_labels
from agentark.records import index
from agentark.rows import records
from agentark.tasks import get_task
from agentark.types import EngineFault, RunError, UserError, digest

DRIVER = Path(__file__).parent / "scripted_label.py"
RIGHT, WRONG, ODD = "So it is \\boxed{7}.", "So it is \\boxed{8}.", "seven RIGHT"
Run = Callable[..., int]


class Away(ScriptedEngine):
    """A judge that cannot be reached."""

    async def __aenter__(self) -> "Away":
        raise UserError("no endpoint of org/judge after 3 tries: refused")


@pytest.fixture
def infer(tmp_path: Path) -> Path:
    """A results file of three debates over GSM8K; the first has right and wrong solutions."""
    texts = [[RIGHT, WRONG, ODD], [WRONG, WRONG, WRONG], [ODD, RIGHT, ""]]
    records = [debate(f"GSM8K/test/{k}", "7", [one], one[0]) for k, one in enumerate(texts)]
    return write(tmp_path / "results/GSM8K/org/generator/llm_debate_infer.jsonl", *records)


@pytest.fixture
def run(infer: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run label.main; `engine=` gives another judge, other keywords become flags."""
    monkeypatch.chdir(tmp_path)

    def call(*extra: str, engine: Any = None, **flags: Any) -> int:
        given = {"input": infer, "dataset_name": "GSM8K", "model": "org/judge", **flags}
        argv = [word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))]

        def choose(args: Namespace) -> Choice:
            return Choice(label.choose_judge(args).label, lambda lock: engine or judge(["RIGHT"]))

        return label.main([*argv, *extra], choose_engine=choose)

    return call


def labelled(infer: Path, by: str = "org_judge") -> Path:
    return infer.with_name(f"llm_debate_infer_labeled_by_{by}.jsonl")


def rows(path: Path) -> list[LabelRow]:
    return list(read_labels(path))


def test_rows_manifest_and_summary(run: Run, infer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    path = labelled(infer)
    raw = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["labels"] for one in raw] == [
        [True, False, True, True],
        [False, False, False, False],
        [True, True, None, True],
    ]
    assert [one["is_correct"] for one in raw[0]["solutions"]] == raw[0]["labels"]
    assert {"id", "source", "query", "gt", "solutions", "labels", "error"} <= raw[0].keys()
    assert {"id", "text", "is_correct", "p_correct", "verdict", "by", "agent"} <= raw[0]["solutions"][0].keys()
    manifest = json.loads(path.with_name(path.name + ".manifest.json").read_text())
    assert manifest["config"]["judge"] == "org/judge"
    session = manifest["sessions"][0]
    assert session["input"] == {"path": str(infer), "sha256": hashlib.sha256(infer.read_bytes()).hexdigest()}
    assert (session["done"], session["failed"]) == (3, 0)
    assert sorted(one.name for one in infer.parent.iterdir()) == [infer.name, path.name, path.name + ".manifest.json"]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "12 solutions of 3 questions: 6 true (50%), 5 false (42%), 1 null (8%)",
        "decided by org/judge: 8 (67%), rule: 3 (25%)",
        "rule and judge disagree on 0 of the 5 both looked at",
        "1 questions have both right and wrong solutions",
        "no verdict on 1: there is no reply to judge",
        f"written to {path}",
    ]


def test_the_places_of_output(run: Run, infer: Path, tmp_path: Path) -> None:
    assert run(output=tmp_path / "deep/labeled.jsonl") == 0
    assert len(rows(tmp_path / "deep/labeled.jsonl")) == 3
    assert (tmp_path / "deep/labeled.jsonl.manifest.json").exists()
    with pytest.raises(UserError, match=r"--output .*llm_debate_infer\.jsonl: is the input"):
        run("--overwrite", output=infer)
    assert infer.stat().st_size


def test_rules_only_needs_no_model(run: Run, infer: Path) -> None:
    assert run("--rules_only", model=None) == 0
    found = rows(labelled(infer, "rules"))
    assert [one.labels for one in found] == [[True, False, None, True], [False] * 4, [None, True, None, None]]
    assert {one.by for row in found for one in row.solutions} == {"rule", None}
    manifest = json.loads(
        labelled(infer, "rules").with_name(labelled(infer, "rules").name + ".manifest.json").read_text()
    )
    assert (manifest["config"]["judge"], manifest["sessions"][0]["guarantee"]) == (None, "exact")


def test_judge_only_steps_rounds_and_dropping(run: Run, infer: Path, tmp_path: Path) -> None:
    engine = judge(["RIGHT"])
    engine.script = lambda messages, params: (params.choices or ("",))[-1]
    flags = ("--judge_only", "--drop_unverified")
    assert run(*flags, engine=engine, granularity="step", rounds="all", output=tmp_path / "a.jsonl") == 0
    found = rows(tmp_path / "a.jsonl")
    assert [one.labels for one in found] == [[False] * 4, [False] * 4, [False] * 3]
    assert [one.id for one in found[2].solutions] == [1, 2, 4]
    assert found[0].solutions[0].step_labels == [1]
    assert found[2].round_labels == {"agent_1": [False], "agent_2": [False], "agent_3": [None]}
    assert {one.by for row in found for one in row.solutions} == {"org/judge"}


def test_start_and_end_and_growing(run: Run, infer: Path) -> None:
    assert run(start=1, end=2) == 0
    assert [row.id for row in rows(labelled(infer))] == ["GSM8K/test/1"]
    engine = judge(["RIGHT"])
    assert run(engine=engine) == 0
    assert {session for session, _, _ in engine.seen} == {"GSM8K/test/0", "GSM8K/test/2"}
    assert [row.id for row in rows(labelled(infer))] == [f"GSM8K/test/{k}" for k in range(3)]
    engine = judge()
    assert run(engine=engine) == 0
    assert engine.seen == []


def test_rows_whose_input_has_changed_are_made_again(run: Run, infer: Path) -> None:
    manifest = infer.with_name(infer.name + ".manifest.json")
    manifest.write_text('{"config_hash": "same run"}')
    records = [debate(f"GSM8K/test/{k}", "7", [[WRONG]]) for k in range(3)]
    write(infer, *records[:2], {**json.loads(_json(records[2])), "error": "no reply"})
    assert run() == 0
    assert [row.id for row in rows(labelled(infer))] == ["GSM8K/test/0", "GSM8K/test/1"]
    write(infer, records[0], debate("GSM8K/test/1", "7", [[RIGHT]]), records[2])
    engine = judge()
    assert run(engine=engine) == 0
    assert [session for session, _, _ in engine.seen] == ["GSM8K/test/2"]
    assert [row.labels for row in rows(labelled(infer))] == [[False], [True], [False]]


def _json(record: Any) -> bytes:
    import msgspec

    return msgspec.json.encode(record)


def test_labels_of_another_kind_are_not_touched(run: Run, infer: Path) -> None:
    assert run() == 0
    before = labelled(infer).read_bytes()
    with pytest.raises(UserError, match=r"another configuration \(rules was True, now False\)"):
        run("--judge_only")
    write(infer, debate("GSM8K/test/0", "7", [[WRONG]]))
    with pytest.raises(UserError, match=r"another configuration \(input was"):
        run()
    assert labelled(infer).read_bytes() == before
    assert run("--judge_only", "--overwrite") == 0
    assert len(rows(labelled(infer))) == 1


def test_rows_with_errors_are_skipped_and_counted(run: Run, infer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {**json.loads(_json(debate("GSM8K/test/1", "7", [[WRONG]]))), "error": "x", "solutions": []}
    write(infer, debate("GSM8K/test/0", "7", [[RIGHT]]), bad)
    assert run() == 0
    assert [row.id for row in rows(labelled(infer))] == ["GSM8K/test/0"]
    assert "1 rows of the input carry an error and were skipped" in capsys.readouterr().out


def test_a_failed_question_is_exit_1_and_tried_again(run: Run, infer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Picky(ScriptedEngine):
        async def chat(self, *args: Any, session: str, **kwargs: Any) -> Any:
            if session.endswith("/1"):
                raise EngineFault("no reply within 3 s")
            return await super().chat(*args, session=session, **kwargs)

    assert run(engine=Picky()) == 1
    assert "1 of 3 questions carry an error; retry them with: python" in capsys.readouterr().out
    assert [row.error for row in rows(labelled(infer))] == [None, "no reply within 3 s", None]
    engine = judge()
    assert run(engine=engine) == 0
    assert {session for session, _, _ in engine.seen} == {"GSM8K/test/1"}


def test_a_dead_judge_is_exit_1_with_everything_kept(run: Run, infer: Path) -> None:
    class Mortal(ScriptedEngine):
        async def chat(self, *args: Any, **kwargs: Any) -> Any:
            if len(self.seen) > 2:
                raise RunError("the engine died")
            return await super().chat(*args, **kwargs)

    with pytest.raises(RunError, match="the engine died"):
        run(engine=Mortal(capacity=1))
    assert len(rows(labelled(infer))) >= 1
    assert run() == 0


def test_a_judge_that_cannot_be_reached_writes_nothing(run: Run, infer: Path) -> None:
    with pytest.raises(UserError, match="no endpoint of org/judge"):
        run(engine=Away())
    assert [one.name for one in infer.parent.iterdir()] == [infer.name]


@pytest.mark.parametrize(
    ("extra", "flags", "expected"),
    [
        ((), {"input": "nowhere.jsonl"}, "--input nowhere.jsonl: no such file"),
        ((), {"dataset_name": "gsm8k"}, "unknown dataset 'gsm8k' .*did you mean GSM8K"),
        ((), {"dataset_name": "QMSum"}, r"--input .*: holds 3 rows of GSM8K, not of QMSum"),
        ((), {"dataset_name": "SRDD"}, "--dataset_name SRDD: has no gold answers"),
        ((), {"model": None}, "--model: the judge is missing"),
        ((), {"model": "a/b/c"}, "--model a/b/c: neither a folder nor a hub id"),
        ((), {"start": 3}, "--input .*: no row to label from --start 3"),
        ((), {"granularity": "token"}, "--granularity: invalid choice: 'token'"),
        (("--rules_only", "--judge_only"), {}, "--rules_only: does not go together with --judge_only"),
        (("--rules_only", "--calibrate"), {}, "--rules_only: does not go together with --calibrate"),
        (("--rules_only",), {"granularity": "step"}, "--rules_only: does not go together with --granularity step"),
        (("--rules_only",), {"dataset_name": "QMSum"}, "--rules_only: rules cannot check the answers of QMSum"),
        (("--calibrate",), {"dataset_name": "QMSum"}, "--calibrate: needs a dataset whose answers rules can check"),
        (("--use_modal_batch", "--launch", "ray"), {}, "--use_modal_batch: does not go together with --launch ray"),
        (("--judge",), {}, "unknown argument --judge .*did you mean --judge_only"),
    ],
)
def test_bad_input_is_one_line(run: Run, extra: tuple[str, ...], flags: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as raised:
        run(*extra, **flags)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        ("{", "row 1"),
        ('{"query": "q", "gt": "1"}\n', "none of its 1 rows has a solution"),
        ('{"query": "q", "gt": "1", "response": "Solution 1: 2"}\n{"query": "q", "gt": "1"}\n', "has no solutions"),
        ('{"query": "q", "response": "Solution 1: 2"}\n', "row 1: no 'gt'"),
    ],
)
def test_files_that_cannot_be_labelled(run: Run, infer: Path, content: str, expected: str) -> None:
    infer.write_text(content)
    with pytest.raises(UserError, match=expected) as raised:
        run()
    assert infer.name in str(raised.value)
    assert "\n" not in str(raised.value)


PUBLISHED = [
    {
        "query": "q1",
        "gt": "The sum.\n#### 7",
        "response": f"===== Solution 1 =====\n{RIGHT}\n\n===== Solution 2 =====\n{WRONG}",
    },
    {"query": "q2", "gt": "7", "response": f"Solution 1: {WRONG}\nSolution 2: {ODD}", "source": "GSM8K"},
    {"query": "q3", "gt": "7", "response": "", "error": "timed out"},
]


def test_files_of_the_published_code_are_read(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "old_infer.jsonl", *PUBLISHED)
    assert run(input=path) == 0
    found = rows(tmp_path / "old_infer_labeled_by_org_judge.jsonl")
    assert [one.labels for one in found] == [[True, False], [False, True]]
    assert [one.solutions[0].text for one in found] == [RIGHT, WRONG]
    assert [one.gt for one in found] == ["7", "7"]


def test_labelled_files_can_be_read_like_published_ones(run: Run, infer: Path) -> None:
    run()
    found = list(records(labelled(infer), get_task("GSM8K"), "--input"))
    assert [record.id for record in found] == [f"GSM8K/test/{k}" for k in range(3)]
    assert found[0].text_of(found[0].solutions[0]) == RIGHT


def test_calibration_writes_a_card(run: Run, infer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = judge(["RIGHT", "Solution"])
    assert run("--calibrate", engine=engine) == 0
    found = rows(labelled(infer))
    assert [one.judge for one in found[0].solutions] == [False, False, True, False]
    assert [one.by for one in found[0].solutions] == ["rule", "org/judge", "org/judge", "rule"]
    card = json.loads(labelled(infer).with_name(labelled(infer).name + ".card.json").read_text())
    assert (card["n"], card["judge"], card["dataset"]) == (8, "org/judge", "GSM8K")
    assert (card["precision"]["n"], card["recall"]["value"]) == (0, 0.0)
    assert card["adversarial"]["kinds"]["master_key"] == {"value": 1 / 8, "se": 0.0, "n": 24}
    assert card["poor"]
    text = labelled(infer).with_name(labelled(infer).name + ".card.md").read_text()
    assert "**This judge is poor. Do not use its labels.**" in text
    printed = capsys.readouterr().out
    assert text in printed
    assert "rule and judge disagree on 3 of the 8 both looked at" in printed


@pytest.mark.parametrize("unwritten", ["card.json", "card.md"])
def test_a_run_killed_before_its_card_is_ended_by_the_same_command(
    unwritten: str, run: Run, infer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--calibrate", output=infer.with_name("whole.jsonl"), engine=judge(["RIGHT", "Solution"])) == 0
    path, write_atomically = labelled(infer), calibration.write_atomically

    def killed(file: Path, content: bytes) -> None:
        if file.name.endswith(unwritten):
            raise KeyboardInterrupt
        write_atomically(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(calibration, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            run("--calibrate", engine=judge(["RIGHT", "Solution"]))
    assert not path.with_name(f"{path.name}.{unwritten}").exists()
    before = path.read_bytes()
    assert run("--calibrate", engine=Away()) == 0
    assert path.read_bytes() == before
    for name in ("card.json", "card.md"):
        other = infer.with_name(f"whole.jsonl.{name}").read_text().replace("whole.jsonl", path.name)
        assert path.with_name(f"{path.name}.{name}").read_text() == other
    assert "**This judge is poor." in capsys.readouterr().out


def test_an_adapter_is_looked_at_when_nothing_is_left_to_do(run: Run, infer: Path, tmp_path: Path) -> None:
    assert run(lora_path=bare(tmp_path / "adapter")) == 0
    assert run(lora_path=tmp_path / "adapter", engine=Away()) == 0
    before = labelled(infer).read_bytes()
    for more in ((), ("--rules_only", "--output", str(tmp_path / "rules.jsonl"))):
        with pytest.raises(UserError, match=r"^--lora_path .*missing: no such folder$"):
            run(*more, lora_path=tmp_path / "missing")
    for other in (bare(tmp_path / "other"), None):
        with pytest.raises(UserError, match="adapter was 'adapter', now"):
            run(lora_path=other)
    assert labelled(infer).read_bytes() == before
    assert not (tmp_path / "rules.jsonl").exists()


@pytest.mark.parametrize("dataset", ["GSM8K", "MATH-500", "QMSum", "HotpotQA", "MMLU"])
def test_the_chain_on_real_data(
    run: Run, data_dir: Path, tmp_path: Path, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a_infer.jsonl"
    flags = ["--method_name", "llm_debate", "--test_dataset_name", dataset, "--model_name", "org/model"]
    place = ["--data_dir", str(data_dir), "--max_samples", "2", "--output_path", str(output)]
    inference.main([*flags, *place], choose_engine=lambda *_: Choice("org/model", lambda lock: ScriptedEngine()))
    engine = judge(["boxed{1}"])
    assert run(input=output, dataset_name=dataset, engine=engine) == 0
    found = rows(tmp_path / "a_infer_labeled_by_org_judge.jsonl")
    assert [len(row.labels) for row in found] == [4, 4]
    assert all(row.gt in messages[0].text for session, messages, _ in engine.seen for row in found if row.id == session)


# ---------------------------------------------------------------- processes


def command(infer: Path, output: Path) -> list[str]:
    flags = ["--input", str(infer), "--dataset_name", "GSM8K", "--model", "org/judge", "--rounds", "all"]
    return [sys.executable, str(DRIVER), *flags, "--output", str(output)]


def seeds_paid(output: Path) -> set[str]:
    """`sample seed` of every call whose reply is in the journal."""
    import msgspec

    journal = output.with_name(output.name + ".journal.jsonl")
    paid = set()
    for line in journal.read_bytes().split(b"\n") if journal.exists() else []:
        try:
            entry = msgspec.json.decode(line, type=JournalEntry)
        except msgspec.DecodeError:
            continue  # the torn last line
        paid.add(f"{entry.sample} {int(digest((0, entry.sample, entry.turn))[:15], 16)}")
    return paid


def test_killed_five_times_equals_undisturbed(tmp_path: Path) -> None:
    """kill -9 at five random moments, continued each time: same file, and no finished call paid twice."""
    texts = [[f"{k} {agent} is \\boxed{{{k % 5}}}" for agent in range(4)] for k in range(60)]
    infer = write(tmp_path / "a_infer.jsonl", *(debate(f"GSM8K/test/{k}", "9", [one]) for k, one in enumerate(texts)))
    environment = {**os.environ, "LATENCY": "0.02"}
    undisturbed, calls = tmp_path / "undisturbed.jsonl", tmp_path / "calls"
    subprocess.run(command(infer, undisturbed), env={**environment, "CALLS": str(calls)}, check=True)
    assert calls.read_text().count("\n") == 60 * 4
    output, kills, paid = tmp_path / "killed.jsonl", 0, set()
    chance = random.Random(5)
    while True:
        log = tmp_path / f"calls-{kills}"
        log.touch()
        process = subprocess.Popen(
            command(infer, output), env={**environment, "CALLS": str(log)}, stdout=subprocess.DEVNULL
        )
        if kills < 5:
            target = chance.randint(5, 45)
            while process.poll() is None and log.read_text().count("\n") < target:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        assert not paid & set(log.read_text().splitlines()), "a call that was on disk was paid again"
        paid |= seeds_paid(output)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        assert not (output.exists() and index(output)[1])
    assert kills == 5
    assert output.read_bytes() == undisturbed.read_bytes()


def test_errors_of_the_real_script_are_one_line_and_exit_2(infer: Path) -> None:
    done = subprocess.run(
        [sys.executable, "label.py", "--input", str(infer), "--dataset-name", "QMSum", "--rules-only"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --rules_only: rules cannot check the answers of QMSum")
    assert done.stderr.count("\n") == 1
