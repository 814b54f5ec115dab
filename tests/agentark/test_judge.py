"""The cascade, the judge's prompt and its probabilities, steps and rounds; one question at a time."""

import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import ScriptedEngine
from label_cases import debate, judge, shown

from agentark import answers
from agentark.episode import Defaults
from agentark.judge import Judge, LabelConfig, Labeller, by_rule, label_row, load_prompts, probability
from agentark.labels import LabelRow, answered, by_round, read_labels, summary
from agentark.progress import Progress
from agentark.records import Store
from agentark.runner import Runner
from agentark.steps import split_steps
from agentark.types import Completion, EngineFault, Message, MethodInfo, Record, SampleError, SamplingParams, UserError

GOLDEN = Path(__file__).parent / "golden"
RIGHT, WRONG, ODD = "So it is \\boxed{7}.", "So it is \\boxed{8}.", "seven RIGHT"


def label(record: Record, engine: ScriptedEngine, folder: Path, **config: Any) -> LabelRow:
    """The row of one record, through the real runner and store."""
    settings = LabelConfig(**{"judge": "org/judge", **config})
    path = folder / "labels.jsonl"

    async def run() -> None:
        store = Store(path, {}, overwrite=True)
        store.start({})
        runner = Runner(
            method=Labeller(settings, load_prompts()),
            info=MethodInfo("label", "solution", {}),
            model="org/judge",
            engines={"main": engine},
            defaults=Defaults(0.0, 1, 0),
            store=store,
            progress=Progress(1, quiet=True),
            row=label_row,
        )
        await runner.run([answered(record, settings.all_rounds)])
        store.close({record.id: 0})

    asyncio.run(run())
    (row,) = read_labels(path)
    return row


def test_rules_decide_what_is_right_and_the_judge_the_rest(tmp_path: Path) -> None:
    engine = judge(["RIGHT"])
    row = label(debate("T/0", "7", [[RIGHT, WRONG, ODD]]), engine, tmp_path)
    assert row.labels == [True, False, True]
    assert [one.by for one in row.solutions] == ["rule", "org/judge", "org/judge"]
    assert [one.rule for one in row.solutions] == [True, False, None]
    assert [one.judge for one in row.solutions] == [None, False, True]
    assert [one.p_correct for one in row.solutions] == [None, pytest.approx(0.1), pytest.approx(0.9)]
    assert [one.is_correct for one in row.solutions] == row.labels
    assert [(one.id, one.agent, one.round, one.answer) for one in row.solutions] == [
        (1, "agent_1", 1, "7"),
        (2, "agent_2", 1, "8"),
        (3, "agent_3", 1, None),
    ]
    assert sorted(shown(messages) for _, messages, _ in engine.seen) == sorted([WRONG, ODD])
    assert {(params.max_tokens, params.temperature, params.choices) for _, _, params in engine.seen} == {
        (1, 0.0, ("true", "false"))
    }
    assert row.token_stats["scripted"].num_llm_calls == 2
    assert (row.judge, row.error, row.gt) == ("org/judge", None, "7")


def test_judge_only_and_rules_only(tmp_path: Path) -> None:
    record = debate("T/0", "7", [[RIGHT, WRONG, ODD]])
    row = label(record, judge(["RIGHT"]), tmp_path, rules=False)
    assert row.labels == [False, False, True]
    assert [one.rule for one in row.solutions] == [None] * 3
    engine = judge()
    row = label(record, engine, tmp_path, judge=None)
    assert row.labels == [True, False, None]
    assert [one.by for one in row.solutions] == ["rule", "rule", None]
    assert row.solutions[2].note == "rules cannot tell"
    assert engine.seen == []


@pytest.mark.parametrize(
    ("answer_type", "gold", "text", "expected"),
    [
        ("number", "7", "\\boxed{7.0}", True),
        ("number", "7", "I give up", None),
        ("math", "\\frac{1}{2}", "\\boxed{0.5}", True),
        ("math", "(3,1)", "\\boxed{[3,1]}", False),
        ("choice", "B", "Answer: B", True),
        ("choice", "B", "Answer: C", False),
        ("text", "the Louvre", "Answer: Louvre", True),
        ("text", "the Louvre", "Answer: a museum in Paris", None),
        ("code", "def f(): ...", "def f(): ...", None),
    ],
)
def test_what_rules_can_tell(answer_type: Any, gold: str, text: str, expected: bool | None) -> None:
    sample = debate("T/0", gold, [[text]], answer_type=answer_type).sample()
    assert asyncio.run(by_rule(sample, text)) is expected
    answers.close_pool()


def test_any_reference_will_do() -> None:
    sample = debate("T/0", "Paris", [[""]], answer_type="text", references=("Paris", "City of Light")).sample()
    assert asyncio.run(by_rule(sample, "Answer: the city of light")) is True


@pytest.mark.parametrize("text", ["", "  \n", "<think>and then I", "<think>so</think>  "])
def test_no_reply_is_null_and_no_call(text: str, tmp_path: Path) -> None:
    engine = judge(["RIGHT"])
    row = label(debate("T/0", "7", [[text]]), engine, tmp_path)
    assert row.labels == [None]
    assert row.solutions[0].note == "there is no reply to judge"
    assert engine.seen == []


def test_the_judge_does_not_see_thinking(tmp_path: Path) -> None:
    engine = judge()
    label(debate("T/0", "7", [["<think>RIGHT</think>eight"]]), engine, tmp_path)
    assert [shown(messages) for _, messages, _ in engine.seen] == ["eight"]


def test_probabilities_are_renormalised_and_null_below_the_floor(tmp_path: Path) -> None:
    assert probability({"true": math.log(0.03), "false": math.log(0.01)}) == (
        pytest.approx(0.75),
        pytest.approx(0.04),
    )
    assert probability({"true": math.log(0.0006), "false": math.log(0.0002)}) == (None, pytest.approx(0.0008))
    assert probability(None) == (None, None)
    record = debate("T/0", "7", [[ODD]])
    faint = label(record, judge(["RIGHT"], mass=0.0009), tmp_path).solutions[0]
    assert (faint.verdict, faint.p_correct, faint.by) == (None, None, None)
    assert faint.mass == pytest.approx(0.0009)
    assert faint.note == "the judge wants to say neither true nor false"
    mute = label(record, judge(["RIGHT"], mass=0), tmp_path).solutions[0]
    assert (mute.verdict, mute.p_correct, mute.mass, mute.by) == (True, None, None, "org/judge")


def test_a_reply_that_is_neither_is_null_never_false(tmp_path: Path) -> None:
    class Chatty(ScriptedEngine):
        async def chat(self, messages: Sequence[Message], params: SamplingParams, **address: Any) -> Completion:
            raise SampleError("the reply 'Well' is not one of ['true', 'false']")

    row = label(debate("T/0", "7", [[RIGHT, WRONG]]), Chatty(), tmp_path)
    assert row.labels == [True, None]
    assert row.error is None
    assert "'Well' is not one of" in (row.solutions[1].note or "")
    row = label(debate("T/0", "7", [[RIGHT, WRONG]]), Chatty(), tmp_path, drop_unverified=True)
    assert row.labels == [True]
    assert [one.id for one in row.solutions] == [1]
    assert row.dropped == [False]
    assert "1 solutions without a verdict were left out" in summary([row])


def test_an_engine_fault_is_an_error_of_the_row(tmp_path: Path) -> None:
    class Broken(ScriptedEngine):
        async def chat(self, messages: Sequence[Message], params: SamplingParams, **address: Any) -> Completion:
            raise EngineFault("no reply within 3 s")

    row = label(debate("T/0", "7", [[RIGHT, WRONG]]), Broken(), tmp_path)
    assert (row.error, row.solutions, row.labels) == ("no reply within 3 s", [], [])


def test_candidates_share_everything_up_to_themselves(tmp_path: Path) -> None:
    engine = judge()
    record = debate(
        "T/0",
        "7",
        [[WRONG, "nine {x}", "ten"]],
        document="A long story. " * 50,
        query="How many {braces}?",
        references=("7", "seven"),
    )
    label(record, engine, tmp_path, steps=True)
    texts = [messages[0].text for _, messages, _ in engine.seen]
    prefix = texts[0].partition("[Candidate]")[0]
    assert len(texts) == 6
    assert all(text.startswith(prefix + "[Candidate]\n") for text in texts)
    order = [prefix.index(one) for one in ("You check answers", "A long story", "How many {braces}?", "\n7", "\nseven")]
    assert order == sorted(order)
    for _, (prompt,), _ in engine.seen:
        assert [part.text[:6] for part in prompt.parts if part.truncate] == ["A long"]
    assert any("nine {x}" in text for text in texts)


def test_a_choice_is_shown_with_its_text() -> None:
    record = debate("T/0", "B", [["Answer: B"]], answer_type="choice", choices=("cat", "dog"))
    prompt = Judge(load_prompts(), record.sample(), ScriptedEngine).asking("x", "y")  # type: ignore[arg-type]
    assert "[Reference]\nB. dog\n" in prompt[0].text


def test_each_text_is_judged_once(tmp_path: Path) -> None:
    engine = judge(["RIGHT"])
    row = label(debate("T/0", "7", [[ODD, ODD, WRONG]], ODD), engine, tmp_path)
    assert row.labels == [True, True, False, True]
    assert len(engine.seen) == 2


def test_every_round_gets_a_verdict(tmp_path: Path) -> None:
    record = debate("T/0", "7", [[WRONG, RIGHT], [ODD, WRONG], [RIGHT, ""]], RIGHT)
    row = label(record, judge(["RIGHT"]), tmp_path, all_rounds=True)
    assert row.round_labels == {"agent_1": [False, True, True], "agent_2": [True, False, None]}
    assert row.labels == [True, None, True]
    plain = label(record, judge(["RIGHT"]), tmp_path)
    assert plain.round_labels is msgspec.UNSET
    assert b"round_labels" not in msgspec.json.encode(plain)


def test_an_agent_that_left_has_null_in_that_round() -> None:
    candidates = answered(debate("T/0", "7", [["a", "b"], ["c"]]), all_rounds=True).answers
    assert by_round(candidates, [True, False, True]) == {"agent_1": [True, True], "agent_2": [False, None]}


def test_a_method_of_one_call_has_one_round() -> None:
    assert [one.text for one in answered(debate("T/0", "7", [["a"]]), all_rounds=True).answers] == ["a"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("1", [0, 0, 0]), ("3", [1, 1, 0]), ("none", [1, 1, 1])],
)
def test_the_first_wrong_step(reply: str, expected: list[int], tmp_path: Path) -> None:
    engine = judge()
    verdict = engine.script
    engine.script = lambda messages, params: reply if "none" in (params.choices or ()) else verdict(messages, params)
    row = label(debate("T/0", "7", [["one\n\ntwo\n  \n\nthree"]]), engine, tmp_path, steps=True)
    assert row.solutions[0].step_labels == expected
    asked = next((messages, params) for _, messages, params in engine.seen if "none" in (params.choices or ()))
    assert asked[1].choices == ("1", "2", "3", "none")
    assert shown(asked[0]) == "[Step 1]\none\n[Step 2]\ntwo\n[Step 3]\nthree"


def test_steps_that_the_judge_cannot_name_are_null(tmp_path: Path) -> None:
    class NoNumbers(ScriptedEngine):
        async def chat(self, messages: Sequence[Message], params: SamplingParams, **address: Any) -> Completion:
            if "none" in (params.choices or ()):
                raise SampleError("the reply 'the second' is not one of ...")
            return await super().chat(messages, params, **address)

    row = label(debate("T/0", "7", [["one\n\ntwo", ""]]), NoNumbers(), tmp_path, steps=True)
    assert [one.step_labels for one in row.solutions] == [None, None]
    assert b'"step_labels":null' in msgspec.json.encode(row)
    assert b"step_labels" not in msgspec.json.encode(label(debate("T/0", "7", [[RIGHT]]), judge(), tmp_path))


def test_steps_are_split_at_blank_lines() -> None:
    assert split_steps("\n\na\nb\n\n\nc\n \t\n  d\n") == ["a\nb", "c", "d"]
    assert split_steps("a\r\n\r\nb") == ["a", "b"]
    assert split_steps(" \n ") == []


def test_the_golden_file_of_schema_1_is_read() -> None:
    path = GOLDEN / "labels_schema_1.jsonl"
    (row,) = read_labels(path)
    raw, again = json.loads(path.read_bytes()), json.loads(msgspec.json.encode(row))
    assert {key: again[key] for key in raw} == raw
    assert [one.by for one in row.solutions] == ["rule", "org/judge", None]


def test_rows_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, row 1: not a labelled row"):
        list(read_labels(tmp_path / "a.jsonl"))
    with pytest.raises(UserError, match="no such file"):
        list(read_labels(tmp_path / "none.jsonl"))


def test_the_summary_counts() -> None:
    rows = list(read_labels(GOLDEN / "labels_schema_1.jsonl"))
    assert summary(rows).splitlines()[:4] == [
        "3 solutions of 1 questions: 1 true (33%), 1 false (33%), 1 null (33%)",
        "decided by org/judge: 1 (33%), rule: 1 (33%)",
        "rule and judge disagree on 0 of the 1 both looked at",
        "1 questions have both right and wrong solutions",
    ]
