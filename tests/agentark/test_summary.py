"""The table of a run, computed from its records."""

from pathlib import Path

import pytest
from msgspec import structs

from agentark.records import read_records
from agentark.summary import Spans, changed, comparison, debate, main, row, table
from agentark.types import Completion, MethodInfo, Record, Solution, TokenStats, Turn, UserError, merged, message

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


def test_a_team_of_the_gateway_is_shown_by_its_name() -> None:
    method = MethodInfo("gateway", "my_team", {})
    assert "| gateway (my_team) | scripted" in debate(structs.replace(next(read_records(GOLDEN)), method=method))


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["summary", str(GOLDEN)])
    assert main() == 0
    assert "llm_debate  1  1         0       0         accuracy  1.000  3" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["summary", str(GOLDEN), "--show", "9"])
    assert main() == 0
    assert "final answer: '18'" in capsys.readouterr().out


# ---- methods beside each other, and debates worth reading ----


def test_methods_beside_each_other(tmp_path: Path) -> None:
    """Wilson's interval of 1 of 3, by hand: middle (1/3 + z2/6) / (1 + z2/3), z2 = 3.8415."""
    path = write(tmp_path / "a.jsonl", "\\boxed{1}", "\\boxed{2}", "no idea", None)
    head, one, two = comparison([path, path]).splitlines()
    assert head.split("  ")[0] == "method"
    assert one == two
    assert one.split() == ["m", "1", "of", "3", "0.33", "0.06", "to", "0.79", "0.8", "3.8"]


def test_only_what_is_right_or_wrong_is_compared(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match=r"empty\.jsonl: no records of a dataset whose answers are right or wrong"):
        comparison([tmp_path / "empty.jsonl"])


def debated(id: str, *rounds: tuple[str, ...]) -> Record:
    """A debate on a question whose answer is 1; each round has one reply per agent."""
    import msgspec

    turns = []
    for number, replies in enumerate(rounds, start=1):
        for agent, text in enumerate(replies, start=1):
            reply = Completion(
                text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1, model="x", seconds=1.0
            )
            name = f"agent_{agent}"
            turns.append(
                Turn(
                    id=f"{name}/{number}/d", agent=name, round=number, role="d",
                    messages=(message("user", "q"),), completion=reply,
                )
            )  # fmt: skip
    last = [turn for turn in turns if turn.round == len(rounds)]
    solutions = [Solution(id=i, agent=turn.agent, round=turn.round, turn=turn.id) for i, turn in enumerate(last, 1)]
    return msgspec.structs.replace(record(0.0, 1.0), id=id, trajectory=turns, solutions=solutions)


ONE, TWO, SAME, NONE = "\\boxed{1}", "\\boxed{2}", "\\boxed{2.0}", "I cannot say"


def test_the_debate_to_show_is_one_that_put_an_agent_right() -> None:
    firm = debated("firm", (ONE, TWO), (ONE, SAME))
    lost = debated("lost", (ONE, TWO), (TWO, TWO))
    won = debated("won", (ONE, TWO), (ONE, ONE))
    outvoted = debated("outvoted", (TWO, ONE), (ONE, TWO))  # the last reply is the team's
    quiet = debated("quiet", (ONE, NONE), (ONE, ONE))
    late = debated("late", (TWO, ONE), (NONE, ONE), (ONE, ONE))
    for records, expected in (
        ([firm, lost, won, late], "won"),
        ([outvoted, won], "won"),
        ([lost, outvoted], "outvoted"),
        ([firm, lost], "lost"),
        ([firm, quiet], None),
        ([firm, late], "late"),
        ([], None),
    ):
        found = changed(records)
        assert (found and found.id) == expected


def test_long_replies_are_folded() -> None:
    text = "\n".join(f"line {i}" for i in range(40)) + f"\n{ONE}"
    shown = debate(debated("long", (text, "short\n" * 9)), fold=True)
    assert "line 5\n    [... 32 lines]\n    line 38" in shown
    assert shown.count("short") == 9
    assert "[..." not in debate(debated("long", (text,)))
