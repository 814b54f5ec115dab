"""The steps around a training: what eval.team is asked, the gate, and the ark card."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentark.config import ROOT
from agentark.types import UserError
from study import __main__ as pipeline
from study.plan import Plan, PlannedStep
from study.recipe import load

SMOKE = ROOT / "configs" / "studies" / "smoke.yaml"
VOTE = "teachers.vote={method: self_consistency, train: false}"
WORTH = "worth={team: debate, vote: vote}"
GATED = (VOTE, WORTH, "gate=true")
TRAINING = {"sft R-SFT", "sft DA", "prm prm", "grpo PAD", "grpo R-SFT+PAD"}


def plan_of(folder: Path, *changes: str) -> dict[str, PlannedStep]:
    return {step.name: step for step in Plan(load(SMOKE, [f"folder={folder}", *changes])).steps}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[str]]]:
    """Runs the smoke study with steps that only leave files. Returns its exit code and the steps that ran."""

    def run(verdict: str, *changes: str, flags: tuple[str, ...] = ()) -> tuple[int, list[str]]:
        changes = (*GATED, f"model={tmp_path}/m", *changes)
        steps = plan_of(tmp_path, *changes)
        ran = []

        def leave_files(step: PlannedStep, *_: Any) -> float:
            ran.append(step.name)
            read = [path for one in steps.values() for path in one.inputs if one.sources.get(path) == step.name]
            for path in map(Path, [*read, *step.outputs]):
                folder = path.suffix not in (".json", ".jsonl", ".md", ".png")
                (path if folder else path.parent).mkdir(parents=True, exist_ok=True)
                if not folder:
                    path.write_text(step.name)
            if step.name == "worth":
                teams = [{"dataset": "ChainSum", "team": "llm_debate", "file": "x/debate_infer.jsonl"}]
                teams[0] |= {"verdict": verdict, "words": "as measured"}
                Path(step.outputs[0], "team.json").write_text(json.dumps({"teams": teams}))
            return 1.0

        monkeypatch.setattr(pipeline, "run_step", leave_files)
        argv = ["--config", str(SMOKE), "--set", f"folder={tmp_path}", *changes, *flags]
        return pipeline.main(argv), ran

    return run


def test_what_eval_team_reads_and_the_ark_card(tmp_path: Path) -> None:
    steps = plan_of(tmp_path, *GATED)
    names = list(steps)
    assert names.index("baselines vote on held-out, graded") < names.index("worth") < names.index("inference debate")
    assert names[-3:] == ["table", "ark", "report"]
    base = f"{tmp_path}/eval/held_out/ChainSum/small-llama/math_eval/vanilla_infer.jsonl"
    files = [base, *(f"{tmp_path}/eval/held_out/{name}_infer.jsonl" for name in ("vote", "debate"))]
    worth, ark = steps["worth"], steps["ark"]
    assert worth.command == ["-m", "eval.team", *files, "--output_dir", f"{tmp_path}/worth"]
    assert {"baselines base on held-out", "baselines vote on held-out", "baselines debate on held-out"} == {
        *worth.after
    }
    rows = [word.partition("=")[0] for word in ark.flags["--rows"]]
    systems = ["base", "vote", "debate", "R-SFT", "DA", "PAD", "R-SFT+PAD"]
    assert rows == [f"held-out/{name}" for name in systems]
    assert {name: ark.flags[f"--{name}"] for name in ("best", "team", "vote", "worth", "output", "name")} == {
        "best": ["base"], "team": ["debate"], "vote": ["vote"], "worth": [f"{tmp_path}/worth/team.json"],
        "output": [f"{tmp_path}/ark/ark"], "name": [tmp_path.name],
    }  # fmt: skip
    assert "worth" in ark.after
    assert "--members" not in ark.flags
    assert f"{tmp_path}/ark" in steps["report"].flags["--results"]


def test_members_other_teams_and_flags(tmp_path: Path) -> None:
    more = ["teachers.B={method: vanilla, train: false}", "teachers.mixed={method: llm_debate, train: false}"]
    worth = "worth={team: vote, vote: vote, members: [B], others: [debate, mixed], flags: {set: [min_gain=0.1]}}"
    steps = plan_of(tmp_path, VOTE, *more, worth)
    files = [Path(word).name for word in steps["worth"].program[2:]]
    assert files == [f"{name}_infer.jsonl" for name in ("vanilla", "B".lower(), "vote", "debate", "mixed")]
    assert steps["worth"].flags["--set"] == ["min_gain=0.1"]
    assert steps["ark"].flags["--members"] == ["B"]
    rows = [word.partition("=")[0] for word in steps["ark"].flags["--rows"]]
    assert rows[:3] == ["held-out/base", "held-out/B", "held-out/vote"]
    assert "held-out/debate" not in rows, "neither team nor student"


def test_a_team_can_be_judged_on_the_training_questions(
    tmp_path: Path, study: Callable[..., tuple[int, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Then it need not be measured; without it in the table there is no ark card."""
    changes = ["teachers.vote.train=true", "teachers.debate.measured=false", "worth.questions=train"]
    by_vote = "worth={team: vote, vote: vote, others: [debate], questions: train}"
    for change, ark in (([], False), ([by_vote], True)):
        steps = plan_of(tmp_path, *GATED, *changes, *change)
        worth = steps["worth"]
        assert worth.program[2:] == [f"{tmp_path}/train/{name}_infer.jsonl" for name in ("vote", "debate")]
        assert worth.after == ["inference vote", "inference debate"]
        assert list(steps).index("worth") < list(steps).index("select R-SFT")
        assert ("ark" in steps) == ark == (f"{tmp_path}/ark" in steps["report"].flags["--results"])
    assert study("nothing_to_distil", *changes)[0] == 1
    assert "nothing_to_distil of debate on train (" in capsys.readouterr().out.splitlines()[-1]


def test_nothing_is_trained_where_there_is_nothing_to_distil(
    study: Callable[..., tuple[int, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, ran = study("nothing_to_distil")
    assert code == 1
    assert ran[-1] == "select DA"
    assert not TRAINING & {*ran}
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(
        "gate: nothing is trained, as eval.team says nothing_to_distil of debate on held-out (as mea"
    )
    assert study("nothing_to_distil")[:1] == (1,), "the same command says the same"
    code, ran = study("nothing_to_distil", flags=("--force",))
    assert (code, TRAINING & {*ran}) == (0, TRAINING)
    assert study("nothing_to_distil") == (0, []), "what is trained is trained"


@pytest.mark.parametrize(
    ("verdict", "changes", "code"),
    [
        ("worth_distilling", (), 0),
        ("cannot_tell", (), 1),
        ("cannot_tell", ("gate=false",), 0),
        ("distil_the_vote", (), 1),
        ("distil_the_vote", ("teachers.vote.train=true",), 0),
        ("nothing_to_distil", ("teachers.vote.train=true",), 1),
    ],
)
def test_which_verdicts_open_the_gate(
    verdict: str, changes: tuple[str, ...], code: int, study: Callable[..., tuple[int, list[str]]]
) -> None:
    ended, ran = study(verdict, *changes)
    assert (ended, {*ran} >= TRAINING) == (code, code == 0)


def test_the_gate_wants_a_verdict_that_is_up_to_date(study: Callable[..., tuple[int, list[str]]]) -> None:
    with pytest.raises(UserError, match=r"sft R-SFT: the gate asks for worth, which is not run yet; run 'worth' first"):
        study("worth_distilling", flags=("--only", "sft"))
    study("worth_distilling", flags=("--until", "select"))
    with pytest.raises(UserError, match=r"which is stale: --set was not given, now min_gain=0\.5; run 'worth' first"):
        study("worth_distilling", "worth.flags={set: [min_gain=0.5]}", flags=("--from", "sft"))
    assert study("worth_distilling", flags=("--from", "sft"))[0] == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("gate=true",), "gate: needs worth"),
        (("worth={team: debait}",), r"worth\.team: no 'debait' .*did you mean debate"),
        ((VOTE, "worth={team: debate, members: [R-SFT]}"), r"worth\.members: no 'R-SFT'"),
        ((VOTE, "worth={team: debate, vote: debate}"), r"worth\.others: names no team beside which"),
        ((VOTE, "worth={team: debate, vote: vote, members: [vote]}"), r"worth: 'vote' is there twice"),
        ((VOTE, "teachers.vote.measured=false", WORTH), r"worth\.vote: no 'vote'"),
        ((VOTE, "worth={teem: debate}"), r"unknown key 'worth\.teem' .*did you mean team"),
        (("worth=[debate]",), r"worth"),
        ((VOTE, "worth={team: debate, vote: vote, questions: train}"), r"worth\.vote: no 'vote' \(known: debate\)"),
        ((VOTE, "worth={team: debate, questions: training}"), r"worth\.questions = 'training'"),
        (("tests.held-out.dataset=HotpotQA", "worth={team: debate}"), r"worth: held-out is reported in f1"),
    ],
)
def test_comparisons_that_cannot_be_made(changes: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected) as raised:
        plan_of(tmp_path, *changes)
    assert "\n" not in str(raised.value)
