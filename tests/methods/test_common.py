"""What methods share: replies of a form, their repair, JSON in prose, code blocks, executions."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from fakes import FakeSandbox, ScriptedEngine
from method_cases import play, program_question, question

from agentark.sandbox_engine import Ran, SandboxEngine
from agentark.types import Chat, Message, Outcome, Sample, SamplingParams, Solution, message
from methods.common import ask, object_schema, read_json, run_program, run_tests

SCHEMA = object_schema(score={"type": "integer"})


class Score(msgspec.Struct):
    score: int


def score_of(text: str) -> int | None:
    found = read_json(text, Score)
    return found.score if found else None


class Asking:
    """A method that asks one thing."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        request = [message("user", "How good is it?")]
        asked = await ask(chat, request, score_of, agent="a", round=1, role="rater", **self.options)
        solutions = [Solution(id=1, agent="a", round=1, turn=asked.turn.id)]
        return Outcome(solutions=solutions, parse_failures=asked.failures, info={"value": asked.value})


def asked(replies: Sequence[str], **options: Any) -> tuple[Any, ScriptedEngine]:
    waiting = list(replies)
    engine = ScriptedEngine(script=lambda messages, params: waiting.pop(0))
    return asyncio.run(play(Asking(**{"guided": True, "schema": SCHEMA, **options}), engine)), engine


def test_a_reply_of_the_form_needs_one_call() -> None:
    result, engine = asked(['{"score": 3}'])
    assert (result.calls, result.outcome.parse_failures, result.outcome.info["value"]) == (1, 0, 3)
    assert engine.seen[0][2].schema == SCHEMA


def test_the_repair_goes_on_in_the_same_dialogue_and_says_the_form() -> None:
    result, engine = asked(["good {x}", 'It is {"score": 4}.'])
    assert (result.calls, result.outcome.parse_failures, result.outcome.info["value"]) == (2, 1, 4)
    assert result.seen["a/1/rater_repair"][:2] == [("user", "How good is it?"), ("assistant", "good {x}")]
    assert '"score": {"type": "integer"}' in result.seen["a/1/rater_repair"][2][1]
    assert engine.seen[1][2].schema == SCHEMA


@pytest.mark.parametrize("reply", ["", "I can't help with that.", '{"score": "high"}', "}{"])
def test_nothing_is_invented(reply: str) -> None:
    result, _ = asked([reply, reply])
    assert (result.calls, result.outcome.parse_failures, result.outcome.info["value"]) == (2, 2, None)


def test_unguided_calls_are_free_and_choices_guide_the_repair() -> None:
    _, engine = asked(["?", "?"], guided=False, choices=('{"score": 1}', '{"score": 2}'))
    assert [(params.schema, params.choices) for _, _, params in engine.seen] == [(None, None)] * 2
    assert "exactly one of" in engine.seen[1][1][-1].text
    _, engine = asked(["?", "?"], choices=('{"score": 1}', '{"score": 2}'), form="Wanted is a number.")
    first, second = (params for _, _, params in engine.seen)
    assert (first.schema, first.choices) == (SCHEMA, None)
    assert (second.schema, second.choices) == (None, ('{"score": 1}', '{"score": 2}'))
    assert engine.seen[1][1][-1].text.startswith("Your reply could not be read. Wanted is a number. Reply again")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"score": 1}', 1),
        ('{x} then ```json\n{"score": 2}\n``` and {"score": 3}', 2),
        ('{"other": {"score": 5}}', 5),
        ('{"score": 1.5}', None),
        ('{"score": 1', None),
        ("{" * 5000, None),
        ("[" * 5000 + "{", None),
    ],
)
def test_json_in_prose(text: str, expected: int | None) -> None:
    assert score_of(text) == expected


class Running:
    """A method that runs a program and the visible tests."""

    def __init__(self, code: str, **options: Any) -> None:
        self.code, self.options = code, options

    async def run(self, sample: Sample, chat: Chat) -> Outcome:
        turn, ran = await run_program(chat, self.code, agent="a", round=1, **self.options)
        _, passed = await run_tests(chat, sample, self.code, agent="a", round=2)
        solutions = [Solution(id=1, agent="a", round=1, turn=turn.id)]
        return Outcome(solutions=solutions, info={"ran": msgspec.to_builtins(ran), "passed": passed})


CODE = "import sys\ndef double(x):\n    return x + 2\nprint(sys.stdin.read(), open('a/b.txt').read())"


def test_executions_are_turns_and_cost_nothing() -> None:
    """In the real sandbox; `play` replays the record, which takes the executions from it."""
    method = Running(CODE, stdin="in", files={"a/b.txt": "file"})
    result = asyncio.run(play(method, ScriptedEngine(), sample=program_question(), models={"sandbox": SandboxEngine()}))
    ran = result.outcome.info["ran"]
    assert (ran["status"], ran["stdout"], ran["seconds"]) == ("ok", "in file\n", 0.0)
    assert ran["isolation"] in ("bwrap", "namespaces")
    assert [turn.id for turn in result.record.trajectory] == ["a/1/execution", "a/2/tests"]
    assert result.record.token_stats == {}
    assert result.record.models == ("main", "sandbox")


def test_tests_run_after_the_preamble_and_only_visible_ones() -> None:
    box = FakeSandbox(tests=lambda request: [False, True], program=lambda request: Ran("ok", 0, "", "", "bwrap"))
    sample = program_question(preamble="import math")
    result = asyncio.run(play(Running("CODE"), ScriptedEngine(), sample=sample, models={"sandbox": box}))
    assert result.outcome.info["passed"] == [False, True]
    request = box.seen[1]
    assert (request.solution, request.tests) == ("import math\n\nCODE\n", sample.visible_tests)  # type: ignore[union-attr]


def test_without_the_flag_no_code_runs() -> None:
    with pytest.raises(AssertionError, match="a wants to run code, which needs --allow_code_execution"):
        asyncio.run(play(Running("x"), ScriptedEngine(), sample=question()))


def test_schemas_reach_the_engine_and_change_the_request(tmp_path: Any) -> None:
    def script(messages: Sequence[Message], params: SamplingParams) -> str:
        return '{"score": 1}' if params.schema else "free"

    guided = asyncio.run(play(Asking(guided=True, schema=SCHEMA), ScriptedEngine(script=script)))
    assert guided.outcome.info["value"] == 1
    free = asyncio.run(play(Asking(guided=False, schema=SCHEMA), ScriptedEngine(script=script)))
    assert free.outcome.info["value"] is None


def test_half_a_surrogate_pair_is_no_reading() -> None:
    """It decodes, but no record could hold it: the run would end where the row is written."""

    class Said(msgspec.Struct):
        text: str

    assert read_json('{"text": "\\ud83d"}', Said) is None
    assert read_json('{"text": "\\ud83d"} {"text": "\\ud83d\\ude00"}', Said) == Said("\N{GRINNING FACE}")
