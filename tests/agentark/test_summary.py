"""The table of a run, computed from its records."""

from pathlib import Path

import pytest

from agentark.records import read_records
from agentark.summary import Spans, debate, main, row, table
from agentark.types import Completion, MethodInfo, Record, Solution, TokenStats, Turn, merged

GOLDEN = Path(__file__).parent / "golden/records_schema_1.jsonl"


def record(started: float, seconds: float) -> Record:
    info = MethodInfo("m", "v", {})
    return Record(
        schema=1, id="a", source="GSM8K", query="q", gt="1", method=info, model="x", guarantee="exact",
        answer_type="number", started=started, seconds=seconds,
    )  # fmt: skip


def test_busy_seconds_are_the_union_of_the_episodes() -> None:
    spans = Spans()
    assert spans.busy_seconds() == 0
    for one in (record(3, 3), record(0, 4), record(100, 2), record(1, 1)):
        spans.add(one)
    assert spans.busy_seconds() == 8


def test_token_use_is_added_up_per_model_and_unknown_stays_unknown() -> None:
    spent = [{"b": TokenStats(1, 10, 4, 2)}, {"a": TokenStats(2, 3, None, 5), "b": TokenStats(1, 20, 6, 3)}]
    assert list(merged(spent).items()) == [("a", TokenStats(2, 3, None, 5)), ("b", TokenStats(2, 30, 10, 5))]


def write(path: Path, *answers: str | None) -> Path:
    import msgspec

    rows = []
    for place, answer in enumerate(answers):
        base = record(float(place), 1.0)
        if answer is None:
            rows.append(msgspec.structs.replace(base, id=f"{place}", error="no reply"))
            continue
        reply = Completion(
            text=answer,
            finish_reason="stop",
            prompt_tokens=10,
            completion_tokens=5,
            model="x",
            seconds=1.0,
            cached_tokens=4,
        )
        turn = Turn(id="a/1/s", agent="a", round=1, role="s", messages=(), completion=reply)
        rows.append(
            msgspec.structs.replace(
                base,
                id=f"{place}",
                trajectory=[turn],
                solutions=[Solution(id=1, agent="a", round=1, turn="a/1/s")],
                token_stats={"x": TokenStats(1, 10, 4, 5)},
                parse_failures=place,
            )
        )
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in rows))
    return path


def test_an_unanswered_sample_scores_0_and_an_error_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "\\boxed{1}", "\\boxed{2}", "no idea", None)
    found = row(path)
    assert found == {
        "method": "m", "n": "4", "answered": "2", "errors": "1", "unparsed": "3", "metric": "accuracy",
        "score": "0.333 ± 0.333",
        "calls": "3", "prompt": "30", "cached": "12", "completion": "15", "seconds": "4.0", "tokens/s": "3.8",
    }  # fmt: skip
    lines = table([path, path]).splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:3] == ["m", "4", "2"]
    assert str(path) in lines[3]


def test_a_debate_in_readable_form() -> None:
    text = debate(next(read_records(GOLDEN)))
    assert "sample GSM8K/test/0 | llm_debate | scripted" in text
    assert "-- round 2 | agent_1 | debater | 69 prompt tokens (0 cached), 10 new, stop" in text
    assert "asked: Go over your answer once more" in text
    assert text.endswith("final answer: '18' (gold '18', score 1.0)")


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["summary", str(GOLDEN)])
    assert main() == 0
    assert "llm_debate  1  1         0       0         accuracy  1.000  3" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["summary", str(GOLDEN), "--show", "9"])
    assert main() == 0
    assert "final answer: '18'" in capsys.readouterr().out
