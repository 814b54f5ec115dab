"""Guards behind the baseline: a guarded response is never ahead, whatever its length."""

from pathlib import Path
from typing import Any

import pytest
import torch
from grpo_cases import settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from distill.grpo import credit
from distill.grpo.guards import guarded_credit
from distill.grpo.guards import settings as credit_settings
from distill.grpo.reward import Scored, StepScores, guarded

GROUP = 4


def response(scores: list[float], size: int, hit: bool = False, solved: float | None = None) -> Scored:
    """Steps of `size` tokens each."""
    ends = [size * (k + 1) - 1 for k in range(len(scores))]
    hits: Any = ("one_step",) if hit else ()
    steps = StepScores(["x"] * len(scores), ends, scores)
    return Scored(text="", length=size * len(scores), steps=steps, solved=solved, hits=hits)


def made(**changes: Any) -> Any:
    values = {"no_advantage_norm": True, "init_kl_coef": 0.0, "reward_mode": "PRM"}
    return settings(Path("model"), Path("run"), **values | changes)


responses = st.builds(
    response,
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4),
    st.integers(2, 9),
    st.booleans(),
    st.sampled_from([None, 0.0, 1.0]),
)


@pytest.mark.parametrize("baseline", ["token", "step"])
@hypothesis_settings(max_examples=60, deadline=None)
@given(scored=st.lists(responses, min_size=2 * GROUP, max_size=2 * GROUP))
def test_a_guarded_response_is_never_ahead(scored: list[Scored], baseline: str) -> None:
    found = guarded_credit(made(reward_baseline=baseline), scored, None)
    for start in (0, GROUP):
        group = range(start, start + GROUP)
        free = [found.returns[place, 0].item() for place in group if not scored[place].hits]
        for place in group:
            if scored[place].hits:
                mine = found.returns[place, : scored[place].length]
                torch.testing.assert_close(mine, torch.full_like(mine, min(free) if free else 0.0))
                assert not found.returns[place, scored[place].length :].any()


@hypothesis_settings(max_examples=40, deadline=None)
@given(scored=st.lists(responses, min_size=2 * GROUP, max_size=2 * GROUP), estimator=st.sampled_from(
    ["rloo", "reinforce", "group_norm"]), mode=st.sampled_from(["PRM", "PRMVR", "VR"]))  # fmt: skip
def test_without_hits_it_is_credit_alone(scored: list[Scored], estimator: str, mode: str) -> None:
    import msgspec

    free = [msgspec.structs.replace(one, hits=()) for one in scored]
    config = made(advantage_estimator=estimator, reward_mode=mode, no_advantage_norm=False, init_kl_coef=0.1)
    kl = torch.rand(len(free), max(one.length for one in free))
    rollout = credit.pack(
        guarded(free, GROUP), [one.steps.ends for one in free], [one.length for one in free],
        [one.solved for one in free], [one.truncated for one in free], kl,
    )  # fmt: skip
    wanted = credit.assign(rollout, GROUP, credit_settings(config))
    torch.testing.assert_close(guarded_credit(config, free, kl).advantages, wanted.advantages)


def test_equal_scores_do_not_favour_the_short_one() -> None:
    """What a score alone lets through: the short guarded response would be ahead of three as good long ones."""
    scored = [response([0.7], 2, hit=True), *(response([0.7, 0.7], 5) for _ in range(3))]
    plain = credit.assign(
        credit.pack(guarded(scored, GROUP), [one.steps.ends for one in scored], [one.length for one in scored],
                    [None] * GROUP, [False] * GROUP),
        GROUP, credit_settings(made()),
    ).returns[:, 0]  # fmt: skip
    assert plain[0] > plain[1] + 0.1
    found = guarded_credit(made(), scored, None).returns[:, 0]
    torch.testing.assert_close(found[0], found[1:].min())


def test_a_group_of_hits_of_any_length_teaches_nothing() -> None:
    scored = [response([0.9] * (1 + k), 2 + k, hit=True) for k in range(GROUP)]
    assert not guarded_credit(made(), scored, None).advantages.any()


def test_the_verdict_of_a_guarded_response_stays() -> None:
    """A right answer in one step has the worst process return, and its verifiable reward all the same."""
    config = made(reward_mode="PRMVR")
    scored = [response([0.9], 3, hit=True, solved=1.0), *(response([0.7, 0.6], 3, solved=0.0) for _ in range(3))]
    verdict = guarded_credit(made(reward_mode="VR"), scored, None).returns[:, 0]
    process = guarded_credit(made(), scored, None).returns[:, 0]
    torch.testing.assert_close(guarded_credit(config, scored, None).returns[:, 0], verdict + process)
    assert verdict[0] > 0


def test_the_kl_of_a_guarded_response_stays() -> None:
    scored = [response([0.9], 3, hit=True), *(response([0.7, 0.6], 3) for _ in range(3))]
    kl = torch.rand(GROUP, 6)
    with_kl = guarded_credit(made(init_kl_coef=0.5), scored, kl).returns[0, :3]
    without = guarded_credit(made(), scored, None).returns[0, :3]
    torch.testing.assert_close(with_kl, without - 0.5 * credit.reverse_cumsum(kl[:1, :3])[0])
