"""The GRPO benchmark at its smallest, and the data of the learning experiment."""

import json
from pathlib import Path

import pytest
from script_parsers import parsed

from bench import grpo_bench, grpo_learns
from distill.grpo.questions import has_gold, questions


def test_parts_and_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grpo.json"
    words = ["--model", "small", "--prompts", "2", "--chunk", "1", "--samples", "2", "--tokens", "8", "--rollouts", "2"]
    assert grpo_bench.main([*words, "--solutions", "8", "--repeats", "1", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    for part in (*grpo_bench.PARTS, "step"):
        assert f"| {part} |" in out
    wait, scoring = json.loads(path.read_text())
    assert 0 <= wait["ratio"] < 1
    assert scoring["ratio"] < 1


def test_the_experiments_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpo_learns, "TAUGHT", 40)
    train, held = grpo_learns.data(tmp_path, 20, 0)
    assert (len(train), len(held)) == (40, grpo_learns.HELD_OUT)
    asked = questions([str(tmp_path / "prompts.jsonl")], None, None, "--prompt_data")
    assert {one.id for one in asked} == {row["id"] for row in train[:20]}
    assert not {one.query for one in asked} & {row["query"] for row in held}
    assert all(map(has_gold, asked))


def test_the_experiments_commands_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def run(*words: object) -> None:
        script, *flags = [str(word) for word in words if word != "-m"]
        taken.append(parsed(script, flags))

    monkeypatch.setattr(grpo_learns, "run", run)
    folders = [grpo_learns.train_reward_model(tmp_path, tmp_path / "base")]
    folders += [grpo_learns.train(tmp_path, tmp_path / "base", folders[0], mode, 5, 1e-5) for mode in grpo_learns.MODES]
    assert len(taken) == len(set(folders)) == 1 + len(grpo_learns.MODES)  # the reward model's folder is nobody else's
