"""The reward: steps on a policy's own ids, the task's verdict, thinking text, the guards."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from grpo_cases import Scorer, settings, sums
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agentark.types import Sample
from distill.grpo import credit
from distill.grpo.config import GUARDS
from distill.grpo.reward import Rewarder, Scored, StepScores, counts, distinct, grade, guarded
from prm.steps import load_tokenizer

EOS = 2


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Any:
    return load_tokenizer(str(small_model), "--pretrain")


@pytest.fixture
def score(small_model: Path, tokenizer: Any, tmp_path: Path) -> Any:
    """(texts, changes of the settings, whether they end) -> what they are worth, all answers to 1+2=."""

    def of(*texts: str, cut: bool = False, sample: Sample | None = None, **changes: Any) -> list[Scored]:
        scorer = Scorer(tokenizer, lambda question, step, number: 0.75)
        config = settings(small_model, tmp_path, **changes)
        rewarder = Rewarder(config, scorer if config.mode.process else None, tokenizer, {EOS})
        ids = [tokenizer.encode(text, add_special_tokens=False) + [EOS] * (not cut) for text in texts]
        asked = [sample or sums(1)[0]] * len(texts)
        found = rewarder.finish(asked, ids, rewarder.steps([one.query for one in asked], ids))
        assert scorer.calls == int(config.mode.process)  # one batch, not one call each
        return found

    return of


def test_steps_and_verdict(score: Any, tokenizer: Any) -> None:
    (one,) = score("We add.\n\nThat is 3.\n\nAnswer: 3")
    assert one.steps.steps == ["We add.", "That is 3.", "Answer: 3"]
    assert one.steps.ends[-1] == one.length - 1
    assert one.rewards == [0.5] * 3
    assert (one.solved, one.hits, one.truncated) == (1.0, (), False)
    ids = [*tokenizer.encode("We add.\n\nThat is 3.\n\nAnswer: 3", add_special_tokens=False), EOS]
    for end in one.steps.ends[:-1]:
        assert tokenizer.decode(ids[: end + 1]).endswith("\n\n")


def test_wrong_and_unanswered_are_not_the_same(score: Any) -> None:
    wrong, none = score("So.\n\nAnswer: 4", "So.\n\nno idea")
    assert (wrong.solved, wrong.hits) == (0.0, ())
    assert (none.solved, none.hits) == (0.0, ("no_answer",))


def test_without_gold_there_is_no_verdict(score: Any) -> None:
    bare = msgspec.structs.replace(sums(1)[0], gt="")
    (one,) = score("So.\n\nAnswer: 4", sample=bare)
    assert one.solved is None


@pytest.mark.parametrize(
    ("text", "cut", "hits"),
    [
        ("", False, {"empty", "one_step", "no_answer"}),
        ("   \n\n ", False, {"empty", "one_step", "no_answer"}),
        ("Answer: 3", False, {"one_step"}),
        ("a b c d e f g h\n\nAnswer: 3", False, {"long_step"}),
        ("well\n\nwell", False, {"no_answer"}),
        ("So.\n\nAnswer: 3", True, {"truncated"}),
        ("<think>hm\n\nhm</think>", False, {"empty", "one_step", "no_answer"}),
        ("<think>so\n\nAnswer: 3", True, {"empty", "one_step", "no_answer", "truncated"}),
    ],
)
def test_guards(score: Any, text: str, cut: bool, hits: set[str]) -> None:
    (one,) = score(text, cut=cut, max_step_tokens=6)
    assert set(one.hits) == hits
    assert one.solved == (1.0 if hits <= {"one_step", "long_step"} else 0.0)
    assert counts([one]) == {name: int(name in hits) for name in GUARDS}
    (off,) = score(text, cut=cut, max_step_tokens=6, guards=[])
    assert off.hits == ()


@pytest.mark.parametrize(("text", "hits"), [("So.\n\nThat is 3.", ("unstated",)), ("So.\n\nAnswer: 3", ())])
def test_a_last_number_is_no_stated_answer_where_one_is_wanted(score: Any, text: str, hits: tuple[str, ...]) -> None:
    (usual,) = score(text)
    assert usual.hits == ()
    (strict,) = score(text, guards=list(GUARDS))
    assert (strict.hits, strict.solved) == (hits, 1.0)


def test_thinking_is_no_step(score: Any, tokenizer: Any) -> None:
    thought = "<think>first\n\nthen\n\nAnswer: 9</think>\n\n"
    (one,) = score(f"{thought}We add.\n\nAnswer: 3")
    assert one.steps.steps == ["We add.", "Answer: 3"]
    assert one.solved == 1.0
    assert one.steps.ends[0] > len(tokenizer.encode(thought, add_special_tokens=False))


def test_orm_has_one_score_at_the_end(score: Any) -> None:
    (one,) = score("We add.\n\nThat is 3.\n\nAnswer: 3", "", reward_mode="ORM")[:1]
    assert one.rewards == [0.5]
    assert one.steps.ends == [one.length - 1]
    assert one.hits == ()


def test_verifiable_reward_alone_asks_no_reward_model(score: Any) -> None:
    right, wrong = score("So.\n\nAnswer: 3", "So.\n\nAnswer: 4", reward_mode="VR")
    assert (right.solved, wrong.solved) == (1.0, 0.0)
    assert right.rewards == wrong.rewards == [0.0, 0.0]


def test_a_hit_gets_the_worst_of_its_group() -> None:
    def one(scores: list[float], *hits: Any) -> Scored:
        steps = StepScores(["x"] * len(scores), list(range(len(scores))), scores)
        return Scored(text="", length=len(scores), steps=steps, solved=None, hits=hits)

    found = guarded([one([0.9, 0.8]), one([0.99], "empty"), one([0.7, 0.6, 0.5]), one([0.1], "one_step"),
                     one([0.9, 0.3]), one([0.8, 0.8])], 2)  # fmt: skip
    expected = [[0.8, 0.6], [0.6], [0.4, 0.2, 0.0], [-0.8], [0.8, -0.4], [0.6, 0.6]]
    assert [pytest.approx(row) for row in expected] == found


def test_each_sample_is_graded_by_its_own_task() -> None:
    samples = [
        Sample(id="1", source="GSM8K", query="?", gt="7", answer_type="number"),
        Sample(id="2", source="HotpotQA", query="?", gt="new york", answer_type="text"),
        Sample(id="3", source="mine", query="?", gt="B", answer_type="choice", choices=("one", "two")),
        Sample(id="4", source="QMSum", query="?", gt="they agreed on the plan", answer_type="text"),
        Sample(id="5", source="HumanEval", query="?", gt="code", answer_type="code"),
    ]
    texts = ["#### 7", "Answer: New York City", "The answer is B", "they agreed", "def f(): pass"]
    right, overlap, letter, rouge, code = grade(samples, texts)
    assert (right, letter, code) == (1.0, 1.0, None)
    assert overlap == pytest.approx(0.8)
    assert rouge == pytest.approx(2 * (1.0 * 0.4) / 1.4)


def test_steps_in_one_token_are_one_step() -> None:
    found = distinct(StepScores(["a", "b", "c"], [3, 3, 5], [0.9, 0.2, 0.7]))
    assert found == StepScores(["a\n\nb", "c"], [3, 5], [0.2, 0.7])


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(0, 49151), min_size=1, max_size=25))
def test_any_ids_make_a_rollout(ids: list[int], small_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Whatever a policy writes, its steps end at rising tokens of its own, the last one at its last token."""
    rewarder = Rewarder(settings(small_model, tmp_path, reward_mode="VR"), None, tokenizer, {EOS})
    (one,) = rewarder.finish(sums(1), [ids], rewarder.steps(["?"], [ids]))
    rollout = credit.pack(
        [one.rewards] * 2, [one.steps.ends] * 2, [one.length] * 2, [one.solved] * 2, [one.truncated] * 2
    )
    found = credit.assign(rollout, 2, credit.Settings())
    assert found.advantages.isfinite().all()
