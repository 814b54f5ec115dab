"""The small model of the learning experiments, and the commands of the reward model's experiment."""

from pathlib import Path

import pytest
from script_parsers import parsed

from bench import prm_learns
from bench.parts import chain_model
from bench.parts.chains import rows


def test_the_tokenizer_knows_words_and_keeps_digits_apart() -> None:
    tokenizer = chain_model.make_tokenizer(rows(80, 4, (2, 4), 0))
    assert len(tokenizer) <= chain_model.VOCABULARY
    ids, start = chain_model.encode(tokenizer, "Start with 3.", "3 + 4 = 7\n\nThe answer is 7.")
    assert tokenizer.decode(ids[start:]) == "3 + 4 = 7\n\nThe answer is 7.<|im_end|>"
    assert tokenizer.decode(ids[:start]).endswith("assistant\n")
    assert [tokenizer.decode(one) for one in ids[start : start + 5]] == ["3", " +", " 4", " =", " 7"]
    assert len(tokenizer.encode("\n\n", add_special_tokens=False)) == 1  # the reward models' separator


def test_a_model_is_saved_early_where_it_is_good_enough_and_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chain_model, "CHECK_EVERY", 1)
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
