"""What a team is worth: the table by hand, the verdicts, and the command with scripted runs."""

import json
import shlex
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedEngine
from label_cases import debate, write
from msgspec import structs
from script_parsers import parsed

import inference
import label
from agentark import stats
from agentark.engines.choose import Choice
from agentark.types import Message, MethodInfo, Record, SamplingParams, UserError, digest
from distill.select import __main__ as select
from eval.team import __main__ as entry
from eval.team import running
from eval.team.course import read
from eval.team.verdict import judge, judged, worth_of
from eval.team.worth import BEST, TEAM, VOTE, Gap, Worth, crossfit, load_thresholds

R, W = "Three and four make seven: \\boxed{7}.", "Three and four make eight: \\boxed{8}."
N = "no idea"
AGAIN = "Counting four on from three gives, after all, \\boxed{7}."


def said(right: bool) -> str:
    return R if right else W


def put(path: Path, records: Sequence[Record], temperature: float | None = 0.5) -> Path:
    write(path, *records)
    if temperature is not None:
        about = {"config": {"temperature": temperature}, "sessions": []}
        path.with_name(f"{path.name}.manifest.json").write_text(json.dumps(about))
    return path


def alone(path: Path, right: Sequence[bool], temperature: float = 0.5, model: str = "m") -> Path:
    """Single answers of a model."""
    info = MethodInfo("vanilla", "config_main", {})
    records = [debate(f"GSM8K/test/{k}", "7", [[said(one)]], method=info) for k, one in enumerate(right)]
    return put(path, [by(record, model) for record in records], temperature)


def votes(path: Path, right: Sequence[Sequence[bool]]) -> Path:
    """Replies of self-consistency."""
    info = MethodInfo("self_consistency", "config_main", {})
    rows = [debate(f"GSM8K/test/{k}", "7", [[*map(said, one)]], method=info) for k, one in enumerate(right)]
    return put(path, rows)


def by(record: Record, *models: str) -> Record:
    """The record with its agents' turns by these models."""
    turns = [
        structs.replace(turn, completion=structs.replace(turn.completion, model=models[index % len(models)]))
        for index, turn in enumerate(record.trajectory)
    ]
    return structs.replace(record, trajectory=turns)


def one(worths: Sequence[Worth]) -> Worth:
    (worth,) = worths
    return worth


def table(*paths: Path, **overrides: Any) -> Worth:
    thresholds = load_thresholds(overrides=[f"{key}={value}" for key, value in overrides.items()])
    return one(worth_of([read(path, thresholds.yielded()) for path in paths], thresholds))


def row(worth: Worth, name: str) -> Any:
    return next(line for line in worth.rows if line.name == name or (name == VOTE and line.name.startswith(name)))


# ---------------------------------------------------------------- the table by hand


def test_rounds_oracle_and_agreement_by_hand(tmp_path: Path) -> None:
    records = [
        debate("GSM8K/test/0", "7", [[R, W, W], [R, R, W]], R),
        debate("GSM8K/test/1", "7", [[W, W, N], [W, R, W]], W),
        debate("GSM8K/test/2", "7", [[R, R, R], [R, R, W]], W),
        debate("GSM8K/test/3", "7", [[W, W, W], [W, W, W]], W),
    ]
    worth = table(put(tmp_path / "a.jsonl", records))
    first, second = worth.rounds
    assert (first.right, first.known, first.gained, first.agree) == (4, 11, None, 0.5)
    assert (second.right, second.known, second.gained, second.lost, second.agree) == (5, 12, 2, 1, 0.25)
    assert row(worth, "any answer of round 1 right").accuracy == 0.5
    assert row(worth, "any answer of the team right").accuracy == 0.75
    assert row(worth, TEAM).accuracy == 0.25
    assert row(worth, "best member, sampled").accuracy == pytest.approx(4 / 12)
    assert row(worth, "mean member, sampled").accuracy == pytest.approx(4 / 12)
    assert row(worth, TEAM).tokens.calls == 7
    assert worth.paths == {"always_right": 3, "corrective": 2, "corrupted": 1, "always_wrong": 6, "unknown": 0}


def test_the_vote_has_as_many_replies_as_the_teams_tokens_buy(tmp_path: Path) -> None:
    team = put(tmp_path / "a.jsonl", [debate(f"GSM8K/test/{k}", "7", [[R, W], [R, W]], R) for k in range(3)])  # 5 calls
    replies = [[False, False, True, True, True, False, False, False], [True] * 8, [False] * 8]
    worth = table(team, votes(tmp_path / "b.jsonl", replies), alone(tmp_path / "c.jsonl", [True, True, False]))
    assert [point.accuracy for point in worth.curve] == pytest.approx(
        [1 / 3, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3]
    )
    assert row(worth, VOTE).accuracy == pytest.approx(2 / 3)
    assert row(worth, VOTE).who == "5 replies of 8"
    assert worth.equal
    assert [line.name for line in worth.rows][2] == "vote at equal tokens"
    assert not worth.missing
    gap = worth.gap(TEAM, VOTE)
    assert gap is not None
    assert gap.difference == pytest.approx(1 / 3)
    assert gap.p == stats.mcnemar(0, 1)
    assert [one.p_holm for one in worth.gaps] == stats.holm([one.p for one in worth.gaps])


def test_each_member_of_a_mixed_team_has_a_vote_to_make(tmp_path: Path) -> None:
    records = [by(debate(f"GSM8K/test/{k}", "7", [[W, R, R], [R, R, R]], R), "a", "b", "b") for k in range(4)]
    path = put(tmp_path / "a.jsonl", records)
    command = (
        "python inference.py --team agent_1=a agent_2=b@x agent_3=b@x aggregator=a --seed 4 --method_name llm_debate"
    )
    said = {"config": {}, "sessions": [{"command": command}]}
    path.with_name("a.jsonl.manifest.json").write_text(json.dumps(said))
    start = "python inference.py --seed 4 --method_name self_consistency --team "
    assert [one.partition(" --method_config")[0] for one in table(path).missing] == [f"{start}'*=a'", f"{start}'*=b@x'"]


def test_of_two_votes_by_one_model_the_larger_counts(tmp_path: Path) -> None:
    team = put(tmp_path / "a.jsonl", [debate(f"GSM8K/test/{k}", "7", [[R, W], [R, W]], R) for k in range(3)])
    small = votes(tmp_path / "self_consistency_infer.jsonl", [[True] * 2] * 3)
    assert "self_consistency_of_5_infer.jsonl" in table(team, small).missing[0]  # the name is taken
    worth = table(team, small, votes(tmp_path / "c.jsonl", [[False] * 6] * 3))
    assert (row(worth, VOTE).accuracy, row(worth, VOTE).who, worth.equal) == (0.0, "5 replies of 6", True)


def test_several_independent_answers_are_no_team(tmp_path: Path) -> None:
    team = put(tmp_path / "a.jsonl", [debate(f"GSM8K/test/{k}", "7", [[R, W], [R, W]], R) for k in range(3)])
    info = MethodInfo("vanilla", "config_main", {})
    drawn = [debate(f"GSM8K/test/{k}", "7", [[W, R]], method=info, info={"samples": 2}) for k in range(3)]
    worth = table(team, put(tmp_path / "b.jsonl", drawn))
    assert (row(worth, "best member, sampled").accuracy, row(worth, "best member, sampled").who) == (1.0, "m, sampled")
    assert row(worth, "best member, sampled").tokens.calls == 1


def test_without_votes_the_first_round_votes_and_the_command_for_more_is_named(tmp_path: Path) -> None:
    records = [debate(f"GSM8K/test/{k}", "7", [[W, R, R], [R, R, R]], R) for k in range(4)]
    path = put(tmp_path / "a.jsonl", records)
    about = {"command": "python inference.py --method_name llm_debate --test_dataset_name GSM8K --model_name m "
             "--method_config num_rounds=2 num_agents=3 --seed 4 --output_path 'a b.jsonl'"}  # fmt: skip
    path.with_name("a.jsonl.manifest.json").write_text(json.dumps({"config": {}, "sessions": [about]}))
    worth = table(path)
    assert (row(worth, VOTE).accuracy, row(worth, VOTE).who) == (1.0, "3 replies of 3, 43% of the team's tokens")
    assert not worth.equal
    assert [line.name for line in worth.rows][2] == "vote at fewer tokens"
    assert worth.missing == [
        "python inference.py --test_dataset_name GSM8K --model_name m --seed 4 --method_name self_consistency "
        f"--method_config parallel_num=7 --output_path {tmp_path}/self_consistency_infer.jsonl"
    ]


def test_a_team_of_the_gateway_has_a_vote_to_make_too(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", [debate(f"GSM8K/test/{k}", "7", [[W, R], [R, R]], R) for k in range(4)])
    about = {"command": "python -m agentark.gateway --output a.jsonl --dataset_name GSM8K --split train --model_name m "
             "--replay --use_vllm --port=8100"}  # fmt: skip
    path.with_name("a.jsonl.manifest.json").write_text(json.dumps({"config": {}, "sessions": [about]}))
    (command,) = table(path).missing
    assert command.partition(" --method_config")[0] == (
        "python inference.py --test_dataset_name GSM8K --split train --model_name m --use_vllm "
        "--method_name self_consistency"
    )
    parsed("inference.py", shlex.split(command)[2:])


def test_members_come_from_files_greedy_and_sampled_else_from_the_first_round(tmp_path: Path) -> None:
    records = [debate(f"GSM8K/test/{k}", "7", [[R, W, R], [R, R, R]], R) for k in range(4)]
    mixed = put(tmp_path / "a.jsonl", [by(record, "m", "other", "third") for record in records])
    greedy = alone(tmp_path / "b.jsonl", [True, True, True, False], temperature=0)
    sampled = alone(tmp_path / "c.jsonl", [True, False, False, False])
    stranger = alone(tmp_path / "d.jsonl", [True] * 4, model="stranger")
    worth = table(mixed, greedy, sampled, stranger)
    assert (row(worth, "best member, greedy").accuracy, row(worth, "best member, greedy").who) == (0.75, "m, greedy")
    assert row(worth, "best member, sampled").who == "third, sampled, in round 1"
    assert row(worth, "mean member, sampled").accuracy == pytest.approx((0.25 + 0 + 1) / 3)
    assert worth.notes == [f"{stranger} is of other models or questions and was left out"]


def test_members_that_answer_in_turns_stand_for_one(tmp_path: Path) -> None:
    records = [by(debate(f"GSM8K/test/{k}", "7", [[said(k > 0)], [R]], R), "ab"[k % 2]) for k in range(4)]
    worth = table(put(tmp_path / "a.jsonl", records))
    assert (worth.n, worth.members) == (4, ["a", "b"])
    best = row(worth, "best member, sampled")
    assert (best.accuracy, best.who) == (0.75, "a or b, sampled, in round 1")


def test_the_best_member_is_measured_on_questions_it_was_not_chosen_on() -> None:
    ids = [f"GSM8K/test/{k}" for k in range(40)]
    even = {id: float(int(digest(("half", id)), 16) % 2 == 0) for id in ids}
    odd = {id: 1 - value for id, value in even.items()}
    assert crossfit(ids, {"even": even, "odd": odd}) == ([0.0] * 40, ["even", "odd"])  # luck alone
    assert crossfit(ids, {"always": dict.fromkeys(ids, 1.0), "even": even}) == ([1.0] * 40, ["always"])


def test_errors_and_missing_questions_count_for_nobody(tmp_path: Path) -> None:
    records = [debate(f"GSM8K/test/{k}", "7", [[R, W], [R, R]], R) for k in range(5)]
    records[4] = structs.replace(records[4], error="timed out", solutions=[], trajectory=[])
    team = put(tmp_path / "a.jsonl", records)
    worth = table(team, alone(tmp_path / "b.jsonl", [True, False, True]))
    assert worth.n == 3
    assert worth.notes == [
        "1 of the team's 4 questions are not in all files",
        f"1 rows of {team} carry an error and were left out",
    ]
    elsewhere = put(tmp_path / "c.jsonl", [debate("GSM8K/test/9", "7", [[R]], method=MethodInfo("vanilla", "", {}))])
    with pytest.raises(UserError, match=r"a\.jsonl: no question was answered without an error in all of .*c\.jsonl"):
        table(team, elsewhere)


def test_selection_takes_what_the_table_says(tmp_path: Path) -> None:
    records = [
        debate("GSM8K/train/0", "7", [[W, R, R], [AGAIN, R, R]], R),
        debate("GSM8K/train/1", "7", [[R, W, W], [R, W, W]], W),
        debate("GSM8K/train/2", "7", [[R, R, W], [R, AGAIN, N]], N),
        debate("GSM8K/train/3", "7", [[W, W, W], [W, W, W]], W),
    ]
    infer = put(tmp_path / "a.jsonl", records, temperature=None)
    yielded = table(infer).yielded
    assert (yielded.questions, yielded.enough, yielded.corrective) == (4, 2, 1)
    labels = tmp_path / "labels.jsonl"
    argv = ["--input", str(infer), "--dataset_name", "GSM8K", "--rules_only", "--output", str(labels)]
    assert label.main(argv) == 0
    for strategy, rows in (("rsft", yielded.rsft), ("da", yielded.da)):
        output = tmp_path / f"{strategy}.jsonl"
        assert select.main(["--input", str(labels), "--output", str(output), "--strategy", strategy]) == 0
        assert len(output.read_text().splitlines()) == rows > 0


# ---------------------------------------------------------------- verdicts


def test_it_rejects_todays_debate(tmp_path: Path) -> None:
    """As SmolLM2 on one-digit sums: one call 0.469, debate 0.312, a vote of 16 0.641."""
    single = [k < 30 for k in range(64)]
    team = [k < 12 or 50 <= k < 58 for k in range(64)]
    poll = [k < 41 for k in range(64)]
    records = [
        debate(f"GSM8K/test/{k}", "7", [[said(single[k])] * 3, [said(right)] * 3], said(right))
        for k, right in enumerate(team)
    ]
    files = put(tmp_path / "a.jsonl", records), votes(tmp_path / "b.jsonl", [[right] * 16 for right in poll])
    worth = table(*files, alone(tmp_path / "c.jsonl", single))
    accuracies = [round(row(worth, name).accuracy, 3) for name in (TEAM, "best member, sampled", VOTE)]
    assert accuracies == [0.312, 0.469, 0.641]
    assert worth.verdict == "distil_the_vote"
    assert worth.words.startswith("distil the vote instead: +17.2 points over the best member (95% ")
    alone_beside = table(files[0], alone(tmp_path / "d.jsonl", single))
    assert alone_beside.verdict == "nothing_to_distil"
    assert alone_beside.words.startswith("nothing to distil: the team ")


def gap(of: str, over: str, difference: float, half: float, p: float = 0.001) -> Gap:
    return Gap(of=of, over=over, difference=difference, low=difference - half, high=difference + half, p=p, p_holm=p)


@pytest.mark.parametrize(
    ("member", "poll", "instead", "change", "verdict", "words"),
    [
        ((0.142, 0.06), (0.05, 0.03), (0.09, 0.05), {}, "worth_distilling",
         "worth distilling: +14.2 points over its best member (95% 8.2 to 20.2), +5.0 points over the vote at equal "
         "tokens (95% 2.0 to 8.0), 61 questions with corrective paths"),
        ((0.142, 0.06), (-0.02, 0.03), (0.16, 0.05), {}, "distil_the_vote",
         "distil the vote instead: +16.0 points over the best member (95% 11.0 to 21.0), the team -2.0 "),
        ((-0.1, 0.05), (-0.3, 0.05), (0.2, 0.05), {}, "distil_the_vote", "distil the vote instead: +20.0 points"),
        ((-0.1, 0.05), (-0.3, 0.05), (0.0, 0.1), {}, "nothing_to_distil",
         "nothing to distil: the team is below its best member: -10.0 points (95% -15.0 to -5.0); n = 300 is too few "
         "to judge the vote: +0.0 points over the best member (95% -10.0 to 10.0)"),
        ((-0.1, 0.05), (-0.1, 0.05), (0.0, 0.015), {}, "nothing_to_distil",
         "nothing to distil: the team is below its best member: -10.0 points (95% -15.0 to -5.0)"),
        ((0.0, 0.015), (0.0, 0.1), (0.0, 0.015), {}, "nothing_to_distil",
         "nothing to distil: the team gains nothing over its best member: +0.0 points"),
        ((0.035, 0.115), (0.03, 0.1), (0.01, 0.1), {"n": 40}, "cannot_tell",
         "cannot tell: n = 40 is too few: +3.5 points over its best member (95% -8.0 to 15.0)"),
        ((0.142, 0.06), (0.03, 0.1), (0.11, 0.05), {}, "cannot_tell",
         "cannot tell: n = 300 is too few: +14.2 points over its best member (95% 8.2 to 20.2), but +3.0 points over "),
        ((0.142, 0.06), (0.0, 0.015), (0.03, 0.05), {}, "cannot_tell",
         "cannot tell: n = 300 is too few: +3.0 points over the best member (95% -2.0 to 8.0) of a vote "),
        ((0.142, 0.06), (0.05, 0.03), (0.09, 0.05), {"equal": False}, "cannot_tell",
         "cannot tell: +14.2 points over its best member (95% 8.2 to 20.2), but no vote at equal tokens"),
        ((0.142, 0.06), None, None, {}, "cannot_tell", "cannot tell: +14.2 points over its best member "),
        ((0.142, 0.06), (0.05, 0.03), (0.09, 0.05), {"rsft": 12}, "cannot_tell",
         "cannot tell: n = 300 is too few: +14.2 points over its best member (95% 8.2 to 20.2), but 12 of 300 "),
        ((0.142, 0.06), (0.05, 0.03), (0.09, 0.05), {"rsft": 3}, "nothing_to_distil",
         "nothing to distil: 3 of 300 questions leave a solution to learn from (at least 2 right agents)"),
    ],
)  # fmt: skip
def test_verdicts(
    member: Any, poll: Any, instead: Any, change: dict[str, Any], verdict: str, words: str, tmp_path: Path
) -> None:
    worth = table(put(tmp_path / "a.jsonl", [debate("GSM8K/test/0", "7", [[R, W], [R, W]], R)]))
    worth.gaps = [gap(TEAM, BEST, *member)]
    worth.gaps += [gap(TEAM, VOTE, *poll), gap(VOTE, BEST, *instead)] if poll else []
    worth.n, worth.equal = change.get("n", 300), change.get("equal", True)
    worth.yielded = structs.replace(worth.yielded, questions=300, corrective=61, rsft=change.get("rsft", 100))
    found, text = judge(worth, load_thresholds())
    assert found == verdict
    assert text.startswith(words)
    assert ("judge the vote" in text) == ("judge the vote" in words)


def test_a_gain_that_holm_does_not_leave_is_none(tmp_path: Path) -> None:
    worth = table(put(tmp_path / "a.jsonl", [debate("GSM8K/test/0", "7", [[R, W], [R, W]], R)]))
    worth.gaps = [gap(TEAM, BEST, 0.1, 0.09, 0.02), gap(TEAM, VOTE, 0.1, 0.09, 0.02), gap(VOTE, BEST, 0.0, 0.1, 0.9)]
    worth.equal, worth.yielded = True, structs.replace(worth.yielded, questions=10, rsft=10)
    assert one(judged([worth], load_thresholds())).verdict == "cannot_tell"
    assert one(judged([worth], load_thresholds(overrides=["alpha=0.1"]))).verdict == "worth_distilling"


def test_three_questions_prove_nothing(tmp_path: Path) -> None:
    same = put(tmp_path / "a.jsonl", [debate(f"GSM8K/test/{k}", "7", [[R, R], [R, R]], R) for k in range(3)])
    assert table(same).verdict == "cannot_tell"
    assert table(same).words.startswith("cannot tell: n = 3 is too few: +0.0 points over its best member (95% ")


def test_a_team_that_is_worth_it(tmp_path: Path) -> None:
    records = [
        debate(f"GSM8K/test/{k}", "7", [[said(k % 3 == a) for a in range(3)], [AGAIN, R, R]], R) for k in range(120)
    ]
    polls = votes(tmp_path / "b.jsonl", [[k % 3 == 0] * 8 for k in range(120)])
    worth = table(
        put(tmp_path / "a.jsonl", records), polls, alone(tmp_path / "c.jsonl", [k % 3 == 0 for k in range(120)])
    )
    assert worth.verdict == "worth_distilling"
    assert worth.yielded.corrective == 120
    assert "120 questions with corrective paths" in worth.words


# ---------------------------------------------------------------- the command


def script(messages: Sequence[Message], params: SamplingParams) -> str:
    """Right in three replies of five, by the seed; greedy in none."""
    numbers = [int(word) for word in messages[0].text.replace("=", " ").split() if word.isdigit()]
    right = params.temperature > 0 and (params.seed or 0) % 5 < 3
    return f"So it is \\boxed{{{sum(numbers[:2]) + (not right)}}}."


def run(flags: Sequence[str]) -> int:
    def choose(args: Namespace, model_name: str, flag: str = "--model_name") -> Choice:
        return Choice(model_name, lambda lock: ScriptedEngine(script=script))

    return inference.main(list(flags), choose)


FLAGS = ["--dataset_name", "ChainSum", "--model_name", "org/model", "--max_samples", "12", "--output_dir", "out"]


def test_it_runs_what_the_table_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert entry.main([*FLAGS, "--parallel_num", "20"], run) == 0
    report = json.loads(Path("out/team.json").read_text())
    (worth,) = report["teams"]
    names = [line["name"] for line in worth["rows"]]
    assert names[:4] == ["best member, greedy", "mean member, greedy", "best member, sampled", "mean member, sampled"]
    assert worth["rows"][0]["accuracy"] == 0
    assert worth["equal"]
    assert worth["verdict"] in ("worth_distilling", "distil_the_vote", "nothing_to_distil", "cannot_tell")
    assert report["thresholds"]["min_gain"] == 0.02
    assert Path("out/team.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert worth["words"] in printed
    assert printed.count("| team − best member |") == 1
    files = sorted(map(str, Path("out/ChainSum").glob("*.jsonl")))
    assert len(files) == 4
    assert entry.main([*files, "--output_dir", "again"], never) == 0
    assert json.loads(Path("again/team.json").read_text())["teams"] == report["teams"]


def test_the_team_is_run_and_each_of_its_members_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    args, rest = entry.parse([*FLAGS, "--team", "agent_1=org/a", "agent_2=org/b", "--use_vllm"])
    planned = {path.name: flags for path, flags in entry.runs(args, rest, "ChainSum").items()}
    assert "--team" not in planned["vanilla_infer.jsonl"]  # agent_3 is the generator
    assert planned["vanilla_2_infer.jsonl"][-2:] == ["--team", "*=org/a"]
    assert planned["self_consistency_3_infer.jsonl"][-4:-2] == ["--team", "*=org/b"]
    assert planned["llm_debate_infer.jsonl"][-3:] == ["--team", "agent_1=org/a", "agent_2=org/b"]
    assert all("--use_vllm" in flags for flags in planned.values())


@dataclass
class Signed(ScriptedEngine):
    """Signs its replies, as engines do."""

    label: str = ""

    async def chat(self, messages: Any, params: SamplingParams, *, session: str, priority: int) -> Any:
        reply = await super().chat(messages, params, session=session, priority=priority)
        return structs.replace(reply, model=self.label)


def test_each_member_of_a_mixed_team_is_asked_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def choose(args: Namespace, model_name: str, flag: str = "--model_name") -> Choice:
        right = "good" in model_name
        reply = lambda messages, params: script(messages, params) if right else "no idea"  # noqa: E731
        return Choice(model_name, lambda lock: Signed(script=reply, label=model_name))

    def signed(flags: Sequence[str]) -> int:
        return inference.main(list(flags), choose)

    team = ["--team", "agent_1=org/good", "agent_2=org/bad", "agent_3=org/bad"]
    assert entry.main([*FLAGS, *team, "--parallel_num", "3"], signed) == 0
    (worth,) = json.loads(Path("out/team.json").read_text())["teams"]
    assert worth["members"] == ["org/good", "org/bad"]
    assert [line["who"] for line in worth["rows"][:4]] == ["org/good, greedy", "of 2", "org/good, sampled", "of 2"]
    names = sorted(path.name.removesuffix("_infer.jsonl") for path in Path("out/ChainSum").glob("*.jsonl"))
    kinds = ("self_consistency", "vanilla", "vanilla_greedy")
    assert names == sorted(["llm_debate", *kinds, *(f"{kind}_2" for kind in kinds)])  # org/model only sums up


def test_a_team_says_who_is_greedy(tmp_path: Path) -> None:
    said = {"agent_1": {"model": "a", "temperature": 0.0}, "*": {"temperature": 0.7}}
    records = [by(debate(f"GSM8K/test/{k}", "7", [[R, W], [R, R]], R, team=said), "a", "b") for k in range(3)]
    worth = table(put(tmp_path / "a.jsonl", records, temperature=0))
    assert row(worth, "best member, greedy").who == "a, greedy, in round 1"
    assert row(worth, "best member, sampled").who == "b, sampled, in round 1"


@pytest.mark.parametrize(
    ("words", "alone"),
    [
        ([], [[]]),
        (["*=a"], [["--team", "*=a"]]),
        (["debater=a"], [["--team", "*=a"]]),
        (["agent_1=a", "agent_2=a@x"], [[], ["--team", "*=a"], ["--team", "*=a@x"]]),
        (["agent_1=a", "agent_2=a", "agent_3=@x", "aggregator=z"], [["--team", "*=a"], ["--team", "*=@x"]]),
    ],
)
def test_who_answers_alone(words: list[str], alone: list[list[str]]) -> None:
    assert running.members(words, ["llm_debate"], "ChainSum") == alone


def never(flags: Sequence[str]) -> int:
    raise AssertionError("nothing may run")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([*FLAGS, "--methods", "debait"], "llm_debate"),
        ([*FLAGS[2:], "--dataset_name", "QMSum"], "nothing to vote on"),
        ([*FLAGS, "--method_config", "num_agents=2"], "--method_config: is set by this comparison"),
        ([*FLAGS, "--set", "min_gian=0"], "did you mean min_gain"),
        (["a.jsonl", "--parallel_num", "4"], "--parallel_num: goes with --dataset_name"),
        (["gone.jsonl"], r"gone\.jsonl: no such file"),
        ([], "required: files"),
        (["a.jsonl", "--model_name", "m"], "unknown argument --model_name"),
    ],
)
def test_bad_input_is_refused_before_any_run(flags: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        entry.main(flags, never)


def test_files_without_a_team_or_right_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of them is of a team"):
        entry.main([str(alone(tmp_path / "a.jsonl", [True]))], never)
    text = put(tmp_path / "b.jsonl", [debate("QMSum/test/0", "7", [[R, W]], R, answer_type="text")])
    with pytest.raises(UserError, match="QMSum is reported in rougeL, so there is nothing to vote on"):
        entry.main([str(text)], never)


def test_a_run_that_fails_ends_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stop: Callable[[Sequence[str]], int] = lambda flags: 130  # noqa: E731
    assert entry.main(FLAGS, stop) == 130
    assert not Path("out/team.json").exists()
