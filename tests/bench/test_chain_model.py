"""The small model of the learning experiments, and the commands of the reward model's experiment."""

from pathlib import Path

import pytest
from script_parsers import parsed

from bench import prm_learns
from bench.parts import chain_model
from bench.parts.chains import rows
from study.lab import model
from study.lab.model import make_tokenizer


def test_a_blank_line_is_one_token() -> None:
    tokenizer = make_tokenizer(["3 + 4 = 7\n\nThe answer is 7."])
    assert len(tokenizer.encode("\n\n", add_special_tokens=False)) == 1  # the reward models' separator


def test_a_model_is_saved_early_where_it_is_good_enough_and_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model, "EVERY", 1)
    made = rows(160, 4, (2, 4), 0)

    def teach(name: str, goal: float) -> None:
        chain_model.teach(
            tmp_path / name, made, made[:4], hidden=32, layers=1, steps=2, learning_rate=1e-3, seed=0,
            early=(tmp_path / f"{name}_early", goal),
        )  # fmt: skip

    teach("a", 0.0)
    teach("a", 0.0)
    assert capsys.readouterr().out.count("base, step") == 2
    with pytest.raises(SystemExit, match="never answered 100%"):
        teach("b", 1.0)
    assert {folder.name for folder in tmp_path.iterdir()} == {"a", "a_early"}


def test_the_reward_models_commands_are_taken(tmp_path: Path) -> None:
    taken = [parsed("prm/finetune2.py", prm_learns.flags_of(tmp_path, *arm, 0)) for arm in prm_learns.ARMS]
    assert len({prm_learns.folder_of(tmp_path, *arm) for arm in prm_learns.ARMS}) == len(taken)
