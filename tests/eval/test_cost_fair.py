"""The comparison at equal cost, with every run in process and scripted replies."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import ScriptedEngine

import inference
from agentark import stats
from agentark.engines.choose import Choice
from agentark.records import read_records
from agentark.types import Message, SamplingParams, UserError
from eval import cost_fair

FLAGS = ["--dataset_name", "ChainSum", "--model_name", "org/model", "--max_samples", "12", "--output_dir", "out"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def script(messages: Sequence[Message], params: SamplingParams) -> str:
    """Right in three replies of five, by the seed."""
    assert params.seed is not None
    numbers = [int(word) for word in messages[-1].text.replace("=", " ").split() if word.isdigit()]
    right = sum(numbers[:2])
    return f"So it is \\boxed{{{right if params.seed % 5 < 3 else right + 1}}}."


def run(flags: Sequence[str]) -> int:
    def choose(args: Namespace, model_name: str, flag: str = "--model_name") -> Choice:
        return Choice(model_name, lambda lock: ScriptedEngine(script=script))

    return inference.main(list(flags), choose)


def test_each_method_stands_beside_as_many_votes_as_its_tokens_buy(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost_fair.main([*FLAGS, "--methods", "vanilla", "llm_debate", "--parallel_num", "6"], run) == 0
    report = json.loads(Path("out/cost_fair.json").read_text())
    points = {one["method"]: one for one in report["methods"]}
    voters = list(read_records(Path("out/ChainSum/self_consistency_infer.jsonl")))
    spent = [
        sum(turn.completion.prompt_tokens + turn.completion.completion_tokens for turn in record.trajectory)
        for record in voters
    ]
    whole = report["voting"][-1]
    assert len(report["voting"]) == 6
    assert whole["prompt_tokens"] + whole["completion_tokens"] == pytest.approx(sum(spent) / len(spent))
    assert whole["accuracy"] == points["self_consistency"]["accuracy"]  # all replies: the run's own answer
    assert points["vanilla"]["votes"] == 1

    debate, curve = points["llm_debate"], report["voting"]
    cost = debate["prompt_tokens"] + debate["completion_tokens"]
    affordable = [one for one in curve if one["prompt_tokens"] + one["completion_tokens"] <= cost]
    assert debate["votes"] == len(affordable)
    assert debate["voting"] == affordable[-1]["accuracy"]
    assert debate["difference"] == pytest.approx(debate["accuracy"] - debate["voting"])
    assert debate["beyond"] == (len(affordable) == 6)
    assert Path("out/cost_fair.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "| ChainSum | llm_debate | 12 |" in printed
    ps = [points[name]["p"] for name in ("vanilla", "llm_debate")]
    assert [points[name]["p_holm"] for name in ("vanilla", "llm_debate")] == stats.holm(ps)
    assert "| p | p (Holm, of 2) |" in printed
    assert len({line.count("|") for line in printed.splitlines() if line.startswith("|")}) == 1


def test_a_question_with_an_error_in_one_run_counts_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(flags: Sequence[str]) -> int:
        code = run(flags)
        path = Path(flags[flags.index("--output_path") + 1])
        if "vanilla" in path.name:
            lines = path.read_text().splitlines()
            row = json.loads(lines[0]) | {"error": "timed out", "solutions": [], "trajectory": []}
            path.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
            return 1
        return code

    assert cost_fair.main([*FLAGS, "--methods", "vanilla", "--parallel_num", "2"], failing) == 0
    report = json.loads(Path("out/cost_fair.json").read_text())
    assert {one["n"] for one in report["methods"]} == {11}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--methods", "debait"], "llm_debate"),
        (["--methods", "vanilla", "mapcoder"], "mapcoder: cannot do ChainSum"),
        (["--dataset_name", "QMSum"], "nothing to vote on"),
        (["--method_config", "num_agents=2"], "--method_config"),
    ],
)
def test_bad_input_is_refused_before_any_run(flags: list[str], named: str) -> None:
    def never(flags: Sequence[str]) -> int:
        raise AssertionError("nothing may run")

    with pytest.raises(UserError, match=named):
        cost_fair.main([*FLAGS, *flags], never)


def test_a_flag_that_inference_does_not_know_is_refused_by_the_first_run() -> None:
    with pytest.raises(UserError, match="unknown argument --max_token"):
        cost_fair.main([*FLAGS, "--max_token", "8"], run)
    assert not Path("out").exists()


def test_a_run_that_fails_ends_the_comparison_with_its_code() -> None:
    assert cost_fair.main(FLAGS, lambda flags: 130) == 130
    assert not Path("out/cost_fair.json").exists()
