"""distill.select as a user meets it: debates labelled by label.py, then chosen from."""

import hashlib
import importlib
import json
import random
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import ScriptedEngine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_cases import debate, write

import label
from agentark import answers
from agentark.config import load
from agentark.engines.choose import Choice
from agentark.types import Completion, EngineFault, Message, Record, SamplingParams, UserError
from distill.select import __main__ as select
from distill.select.choose import CONFIG, SelectConfig

pytest.importorskip("datasketch")
Run = Callable[..., int]
CUT = "So far I have counted the hens but not the"


def says(value: int, words: str = "I count them one after the other and find") -> str:
    return f"{words} \\boxed{{{value}}}."


def records() -> list[Record]:
    """Questions 0 to 4: two corrective; only right ones; one correct agent; none; three of which two write the same."""
    right, wrong = says(7), says(8)
    return [
        debate(
            "GSM8K/train/0",
            "7",
            [[wrong, right, wrong], [says(7, "Adding up gives"), right, wrong]],
            says(7, "So all in all I get"),
        ),
        debate("GSM8K/train/1", "7", [[right, right], [right, says(7, "Three and four more make")]], "\\boxed{7}"),
        debate("GSM8K/train/2", "7", [[right, wrong], [wrong, right]], wrong),
        debate("GSM8K/train/3", "7", [[wrong, wrong], [wrong, wrong]], wrong),
        debate(
            "GSM8K/train/4",
            "7",
            [[right] * 4, [right, right, says(7, "Twice three is six, plus one gives"), "\\boxed{7}"]],
            says(7, "In the end all of them agree on"),
        ),
    ]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    answers.close_pool()


def labelled(folder: Path, rows: Sequence[Record], *flags: str, name: str = "llm_debate") -> Path:
    infer = write(folder / f"{name}_infer.jsonl", *rows)
    assert label.main(["--input", str(infer), "--dataset_name", "GSM8K", "--rules_only", *flags]) == 0
    return infer.with_name(f"{infer.stem}_labeled_by_rules.jsonl")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return labelled(tmp_path / "run", records())


def chosen(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(labels: Path | Sequence[Path], output: Path, *flags: str, strategy: str = "rsft", **options: Any) -> int:
    inputs = [labels] if isinstance(labels, Path) else labels
    argv = ["--input", *map(str, inputs), "--output", str(output), "--strategy", strategy, *flags]
    return select.main(argv, **options)


def manifest(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.with_name(output.name + ".manifest.json").read_text())
    return found


def test_rsft_prefers_the_corrective_path(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "set/rsft.jsonl"
    assert run(labels, output) == 0
    rows = chosen(output)
    assert [(row["id"], row["path"]) for row in rows] == [
        ("GSM8K/train/0", "corrective"),
        ("GSM8K/train/1", "always_right"),
        ("GSM8K/train/4", "always_right"),
    ]
    assert rows[0]["completion"] == [{"role": "assistant", "content": says(7, "Adding up gives")}]
    assert rows[0]["prompt"] == [{"role": "user", "content": "Question GSM8K/train/0?"}]
    counts = manifest(output)["counts"]
    assert counts["agent_paths"] == {
        "always_right": 7,
        "corrective": 2,
        "corrupted": 1,
        "always_wrong": 3,
        "unknown": 0,
    }
    assert counts["questions_by_correct_agents"] == {"0": 1, "1": 1, "2": 2, "4": 1}
    assert counts["dropped_trajectories"] == {"answer without reasoning": 2}
    printed = capsys.readouterr().out.splitlines()
    assert "5 questions; by number of correct agents: 0: 1, 1: 1, 2: 2, 4: 1" in printed
    assert "agents' paths: always right 7, corrective 2, corrupted 1, always wrong 3, unknown 0" in printed
    assert "3 questions with at least 2 correct agents; contaminated: none" in printed
    assert "3 rows of 3 questions: always right 2, corrective 1" in printed


def test_min_correct_and_preference(labels: Path, tmp_path: Path) -> None:
    assert run(labels, tmp_path / "a.jsonl", "--min_correct", "1") == 0
    assert [row["id"][-1] for row in chosen(tmp_path / "a.jsonl")] == ["0", "1", "2", "4"]
    first = "preference={corrective: 1.0, always_right: 2.0, aggregate: 3.0}"
    assert run(labels, tmp_path / "b.jsonl", "--set", first) == 0
    assert [row["path"] for row in chosen(tmp_path / "b.jsonl")] == ["aggregate", "always_right", "aggregate"]
    none = "preference={corrective: 1.0, always_right: 0.0, aggregate: 0.0}"
    assert run(labels, tmp_path / "c.jsonl", "--set", none) == 0
    assert [row["id"][-1] for row in chosen(tmp_path / "c.jsonl")] == ["0"]


def test_the_shortest_of_the_same_path_is_preferred(tmp_path: Path) -> None:
    corrected = says(7, "Now that I count all of them once more I find")
    replies = [says(7, "I count on and on and find"), says(7, "So there are"), says(7, "Three and four more make")]
    votes = labelled(tmp_path / "votes", [debate("GSM8K/train/0", "7", [replies])], name="self_consistency")
    debates = labelled(tmp_path / "debates", [debate("GSM8K/train/0", "7", [[says(8)], [corrected]])])
    flags = ["--prefer", "shortest", "--min_correct", "1"]
    texts = []
    for inputs, more in (([votes], []), ([votes], ["--set", "min_reasoning_words=5"]), ([votes, debates], [])):
        output = tmp_path / f"{len(texts)}.jsonl"
        assert run(inputs, output, *flags, *more) == 0
        texts += [row["completion"][0]["content"] for row in chosen(output)]
    assert texts == [replies[1], replies[2], corrected]
    assert manifest(tmp_path / "0.jsonl")["prefer"] == "shortest"
    with pytest.raises(UserError, match="prefer was 'shortest', now None"):
        run(votes, tmp_path / "0.jsonl", *flags[2:])


def test_dialogue_and_answer_only(labels: Path, tmp_path: Path) -> None:
    assert run(labels, tmp_path / "a.jsonl", "--trace", "dialogue") == 0
    text = chosen(tmp_path / "a.jsonl")[0]["completion"][0]["content"]
    settings = load(SelectConfig, CONFIG, [], "--set")
    assert any(joiner in text for joiner in settings.joiners.correcting)
    assert text.startswith(says(8).replace("\\boxed{8}", "8"))
    assert text.endswith(says(7, "Adding up gives"))
    assert run(labels, tmp_path / "b.jsonl", "--target", "answer") == 0
    rows = chosen(tmp_path / "b.jsonl")
    assert [row["completion"][0]["content"] for row in rows] == ["\\boxed{7}"] * 3
    assert {row["trace"] for row in rows} == {"answer"}


def test_peers_are_never_in_a_target(tmp_path: Path) -> None:
    secret = says(7, "PEER counts with fingers and finds")
    own = says(7, "Now I add and get")
    rows = [debate("GSM8K/train/0", "7", [[says(8), secret], [own, secret]])]
    path = labelled(tmp_path / "run", rows)
    for trace in ("single", "dialogue"):
        assert run(path, tmp_path / f"{trace}.jsonl", "--trace", trace) == 0
        (row,) = chosen(tmp_path / f"{trace}.jsonl")
        assert row["agent"] == "agent_1"
        assert "PEER" not in json.dumps(row)


@pytest.mark.parametrize("diversity", ["embed", "ngram"])
def test_da_takes_different_solutions_once(labels: Path, tmp_path: Path, diversity: str) -> None:
    output = tmp_path / "da.jsonl"
    assert run(labels, output, "--diversity", diversity, strategy="da") == 0
    rows = chosen(output)
    texts = [(row["id"], row["completion"][0]["content"]) for row in rows]
    assert len(set(texts)) == len(texts)
    assert [row["id"][-1] for row in rows] == ["0", "0", "0", "1", "1", "4", "4", "4"]
    assert rows[0]["path"] == "corrective"
    counts = manifest(output)["counts"]
    assert counts["trajectories_per_question"] == {"2": 1, "3": 2}
    assert counts["questions_with_fewer_than_k"] == 1
    assert counts["dropped_trajectories"]["near-duplicate"] == 1
    assert run(labels, tmp_path / "one.jsonl", "--k", "1", strategy="da") == 0
    assert len(chosen(tmp_path / "one.jsonl")) == 3


class Picker(ScriptedEngine):
    """Picks the last choice that is a number, or nothing more."""

    async def chat(self, messages: Sequence[Message], params: SamplingParams, **address: Any) -> Completion:
        assert params.choices is not None
        self.script = lambda messages, params: [one for one in params.choices or () if one != "none"][-1]
        if self.seen and len(self.seen) % 3 == 2 and "none" in params.choices:
            self.script = lambda messages, params: "none"
        return await super().chat(messages, params, **address)


def test_da_by_a_distiller(labels: Path, tmp_path: Path) -> None:
    engine = Picker(capacity=1)
    flags = ("--diversity", "llm", "--distiller", "org/distiller")

    def choose(args: Namespace, model: str, flag: str) -> Choice:
        assert (model, flag) == ("org/distiller", "--distiller")
        return Choice(model, lambda lock: engine)

    assert run(labels, tmp_path / "a.jsonl", *flags, strategy="da", choose_engine=choose) == 0
    rows = chosen(tmp_path / "a.jsonl")
    per = {id: [row["completion"][0]["content"] for row in rows if row["id"] == id] for id in {r["id"] for r in rows}}
    assert all(1 <= len(texts) <= 3 and len(set(texts)) == len(texts) for texts in per.values())
    _, messages, params = engine.seen[0]
    assert "Question GSM8K/train/0?" in messages[0].text
    assert "[Solution 3]" in messages[0].text
    assert params.choices == ("1", "2", "3")
    assert (engine.seen[1][2].choices or ())[-1] == "none"
    assert len(engine.seen[1][1]) == 3
    before = len(engine.seen)
    flags = (*flags, "--overwrite")
    (tmp_path / "a.jsonl").unlink()
    picks = tmp_path / "a.jsonl.picks.jsonl"
    assert picks.exists()
    assert run(labels, tmp_path / "a.jsonl", *flags[:-1], strategy="da", choose_engine=choose) == 0
    assert len(engine.seen) == before, "picks are not asked for again"
    assert chosen(tmp_path / "a.jsonl") == rows


def test_a_failing_distiller_writes_no_set(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(ScriptedEngine):
        async def chat(self, *args: Any, **kwargs: Any) -> Any:
            raise EngineFault("no reply")

    flags = ("--diversity", "llm", "--distiller", "org/distiller")
    choice = Choice("org/distiller", lambda lock: Failing())
    assert run(labels, tmp_path / "a.jsonl", *flags, strategy="da", choose_engine=lambda *_: choice) == 1
    assert not (tmp_path / "a.jsonl").exists()
    assert "the distiller failed on 3 questions" in capsys.readouterr().out


def test_a_control_beside_the_debate_asks_the_same_questions(labels: Path, tmp_path: Path) -> None:
    beside = [msgspec.structs.replace(record, decoy="Another question?") for record in records()]
    assert run([labels, labelled(tmp_path / "control", beside)], tmp_path / "a.jsonl") == 0
    assert not any("Another question?" in json.dumps(row) for row in chosen(tmp_path / "a.jsonl"))


def test_several_inputs_add_up_in_any_order(labels: Path, tmp_path: Path) -> None:
    info = msgspec.structs.replace(records()[2].method, name="self_consistency")
    more = [
        msgspec.structs.replace(
            debate("GSM8K/train/2", "7", [[says(7, "Four plus three gives"), says(8)]]), method=info
        )
    ]
    second = labelled(tmp_path / "more", more, name="self_consistency")
    assert run([labels, second], tmp_path / "a.jsonl") == 0
    assert run([second, labels], tmp_path / "b.jsonl") == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert [row["id"][-1] for row in chosen(tmp_path / "a.jsonl")] == ["0", "1", "2", "4"]
    with pytest.raises(UserError, match="--input: the same file twice"):
        run([labels, labels], tmp_path / "c.jsonl")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(tmp_path_factory: pytest.TempPathFactory, chance: random.Random) -> None:
    """Neither that of the results (another concurrency writes them in another order) nor that of the labels."""
    folder = tmp_path_factory.mktemp("order")
    plain = labelled(folder / "plain", records())
    rows = records()
    chance.shuffle(rows)
    mixed = labelled(folder / "mixed", rows)
    lines = mixed.read_bytes().splitlines(keepends=True)
    chance.shuffle(lines)
    mixed.write_bytes(b"".join(lines))
    for strategy in ("rsft", "da"):
        outputs = [folder / f"{strategy}-{name}.jsonl" for name in ("plain", "mixed")]
        for source, output in zip((plain, mixed), outputs, strict=True):
            assert run(source, output, strategy=strategy) == 0
        assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_filters_are_counted(tmp_path: Path) -> None:
    long = says(7, "word " * 80)
    thought = f"<think>well</think>{says(7, 'After some thought I find')}"
    parrot = f"Both agree.\n\n[Answer of agent 1]\n{says(7)}"
    texts = [says(7), long, "\\boxed{7}", thought, parrot]
    record = debate("GSM8K/train/0", "7", [texts])
    cut = [
        msgspec.structs.replace(turn, completion=msgspec.structs.replace(turn.completion, finish_reason="length"))
        if turn.text == says(7)
        else turn
        for turn in record.trajectory
    ]
    path = labelled(tmp_path / "run", [msgspec.structs.replace(record, trajectory=cut)])
    assert run(path, tmp_path / "a.jsonl", "--set", "max_characters=200", strategy="da") == 0
    counts = manifest(tmp_path / "a.jsonl")["counts"]
    assert counts["dropped_trajectories"] == {
        "answer without reasoning": 1,
        "near-duplicate": 0,
        "repeats a peer": 1,
        "too long": 1,
        "truncated": 1,
    }
    assert counts["thinking"] == {"thinking stripped": 1}
    assert [row["completion"][0]["content"] for row in chosen(tmp_path / "a.jsonl")] == [
        says(7, "After some thought I find")
    ]
    assert run(path, tmp_path / "b.jsonl", "--thinking", "keep", "--set", "drop_truncated=false") == 0
    assert manifest(tmp_path / "b.jsonl")["counts"]["thinking"] == {"thinking kept": 1}


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("llm_debate", "PEER"),
        ("llm_debate", "AGENT_ANSWER"),
        ("self_consistency", "CANDIDATE"),
        ("camel", "PROPOSAL"),
        ("camel", "SOLUTION"),
        ("dylan", "PEER"),
        ("dylan", "PROGRAM"),
        ("dylan", "REVIEW"),
        ("macnet", "CANDIDATE"),
        ("evomac", "PART"),
    ],
)
def test_peer_heading_knows_the_headings_of_the_prompts(method: str, name: str) -> None:
    heading = load(SelectConfig, CONFIG, [], "--set").peer_heading
    prompts = importlib.import_module(f"methods.{method}.prompts")
    assert heading.match(getattr(prompts, name).format(number=2).strip())
    assert not heading.match("[Answer]")  # a heading of its own


def test_contaminated_questions_are_left_out_and_counted(labels: Path, tmp_path: Path) -> None:
    held_out = write(tmp_path / "test.jsonl", {"question": "question gsm8k/train/1?"}, {"question": "other"})
    assert run(labels, tmp_path / "a.jsonl", "--contamination", str(held_out)) == 0
    assert [row["id"][-1] for row in chosen(tmp_path / "a.jsonl")] == ["0", "4"]
    assert manifest(tmp_path / "a.jsonl")["counts"]["contaminated"] == {"exact": 1}


def test_datasets_loads_it_and_the_card_tells_its_sources(labels: Path, tmp_path: Path) -> None:
    import datasets

    output = tmp_path / "rsft.jsonl"
    assert run(labels, output) == 0
    loaded = datasets.load_dataset("json", data_files=str(output), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names[:3] == ["id", "prompt", "completion"]
    assert loaded[0]["completion"][0]["role"] == "assistant"
    card = (tmp_path / "rsft.jsonl.card.md").read_text()
    about = manifest(output)
    source = about["sources"][0]
    for said in (source["labels_sha256"], source["trajectories_sha256"], "org/generator", "MIT", "always right 7"):
        assert said in card
    assert about["sha256"] == __import__("hashlib").sha256(output.read_bytes()).hexdigest()


# ---------------------------------------------------------------- bad input


def test_trajectories_that_were_not_labelled_are_refused(labels: Path, tmp_path: Path) -> None:
    infer = labels.with_name("llm_debate_infer.jsonl")
    before = infer.read_bytes()
    infer.write_bytes(before + b"\n")
    with pytest.raises(UserError, match=r"--trajectories .*is not the file that was labelled"):
        run(labels, tmp_path / "a.jsonl")
    infer.unlink()
    with pytest.raises(UserError, match=r"--trajectories .*no such file \(the label manifest names it\)"):
        run(labels, tmp_path / "a.jsonl")
    (tmp_path / "elsewhere.jsonl").write_bytes(before)
    assert run(labels, tmp_path / "a.jsonl", "--trajectories", str(tmp_path / "elsewhere.jsonl")) == 0


def test_files_that_moved_together_are_found(labels: Path, tmp_path: Path) -> None:
    moved = labels.parent.rename(tmp_path / "moved") / labels.name
    assert run(moved, tmp_path / "a.jsonl") == 0


def test_labels_of_another_run(labels: Path, tmp_path: Path) -> None:
    lines = labels.read_text().splitlines()
    row = json.loads(lines[0])
    for change, expected in (
        ({"id": "GSM8K/train/99"}, "GSM8K/train/99 is not in the trajectories; these labels are of another run"),
        ({"solutions": [{**row["solutions"][0], "text": "x"}]}, "solution 1 of GSM8K/train/0 has another text"),
    ):
        labels.write_text("\n".join([json.dumps({**row, **change}), *lines[1:]]) + "\n")
        with pytest.raises(UserError, match=expected):
            run(labels, tmp_path / "a.jsonl")


def test_too_few_correct_agents_says_how_many_there_were(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        run(labels, tmp_path / "a.jsonl", "--min_correct", "5")
    assert str(raised.value) == (
        "--min_correct 5: no question has that many correct agents (of 5: 1 with 0, 1 with 1, 2 with 2, 1 with 4); "
        "lower it, or label more"
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--k", "4"], "--k: invalid choice: 4"),
        (["--strategy", "pad"], "--strategy: invalid choice: 'pad'"),
        (["--strategy", "da", "--diversity", "llm"], r"--diversity llm: the model that picks is missing"),
        (["--distiller", "m"], "--distiller m: goes with --strategy da"),
        (["--strategy", "da", "--target", "answer"], "--target answer: one answer per question"),
        (["--set", "ngrm=3"], "unknown key 'ngrm'.*did you mean ngram"),
        (["--set", "near_duplicate=2.0"], "--set: near_duplicate = 2.0"),
        (["--trajectories", "a", "b"], "--trajectories: 2 files for 1 of --input"),
        (["--set", "max_characters=5"], r"nothing is left to train on \(.*too long.*\)"),
        (
            ["--strategy", "da", "--set", "embedding_model=some/model"],
            "embedding_model = 'some/model': needs sentence-transformers",
        ),
        (["--min-correct", "0"], "'0' is not a whole number of at least 1"),
    ],
)
def test_bad_flags_are_one_line(labels: Path, tmp_path: Path, flags: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as raised:
        run(labels, tmp_path / "a.jsonl", *flags)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "a.jsonl").exists()


def test_inputs_that_are_no_labels(labels: Path, tmp_path: Path) -> None:
    infer = labels.with_name("llm_debate_infer.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    bare = tmp_path / "bare.jsonl"
    bare.write_bytes(labels.read_bytes())
    for path, expected in (
        (infer, r"is not labelled; run python label\.py --input"),
        (tmp_path / "gone.jsonl", "no such file"),
        (tmp_path / "empty.jsonl", "the file is empty"),
        (bare, r"no bare\.jsonl\.manifest\.json beside it"),
    ):
        with pytest.raises(UserError, match=expected):
            run(path, tmp_path / "a.jsonl")


def test_an_existing_output_is_left_alone(labels: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    output.write_text("mine")
    with pytest.raises(UserError, match=r"--output .*a\.jsonl: exists; use --overwrite"):
        run(labels, output)
    assert output.read_text() == "mine"
    assert run(labels, output, "--overwrite") == 0
    assert len(chosen(output)) == 3


FILES = ("a.jsonl", "a.jsonl.card.md", "a.jsonl.manifest.json")
KILLED = """
import os, signal, sys
from pathlib import Path
from agentark import answers
from distill.select.__main__ import main
plain, left = Path.replace, int(sys.argv.pop(1))
def replace(self, target):
    global left
    left -= 1
    if left < 0:
        answers.close_pool()
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, target)
Path.replace = replace
main()
"""


@pytest.mark.parametrize("written", [0, 1, 2])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_killed_selection_is_finished_by_the_same_command(
    labels: Path, tmp_path: Path, written: int, overwrite: bool
) -> None:
    output = tmp_path / "set" / "a.jsonl"
    command = [sys.executable, "-c", KILLED, str(written), "--input", str(labels), "--output", str(output)]
    command += ["--strategy", "rsft", *["--overwrite"] * overwrite]
    if overwrite:
        assert run(labels, output, "--min_correct", "1") == 0
    killed = subprocess.run(command, cwd=Path(select.__file__).parents[2], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = {name: (output.parent / name).read_bytes() for name in FILES if (output.parent / name).is_file()}
    assert len(left) == (3 if overwrite else written)
    assert run(labels, output, *["--overwrite"] * overwrite) == 0
    ended = {path.name: path.read_bytes() for path in output.parent.iterdir()}
    assert sorted(ended) == sorted(FILES), "nothing else is left"
    if written and not overwrite:
        assert left.items() <= ended.items(), "what stood already is the same"
    assert manifest(output)["sha256"] == hashlib.sha256(ended["a.jsonl"]).hexdigest()
    assert run(labels, output) == 0
    assert {path.name: path.read_bytes() for path in output.parent.iterdir()} == ended
    assert run(labels, tmp_path / "other.jsonl") == 0
    assert (tmp_path / "other.jsonl").read_bytes() == ended["a.jsonl"]


def test_an_identical_set_is_accepted_and_another_is_not(labels: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    assert run(labels, output) == 0
    content = output.read_bytes()
    for name in FILES[1:]:
        (tmp_path / name).unlink()
    assert run(labels, output) == 0, "a set from before the manifest came first"
    assert all((tmp_path / name).is_file() for name in FILES)
    with pytest.raises(UserError, match=r"exists \(min_correct was 2, now 1\); use --overwrite"):
        run(labels, output, "--min_correct", "1")
    output.write_bytes(content + b"{}\n")
    with pytest.raises(UserError, match="exists; use --overwrite"):
        run(labels, output)
