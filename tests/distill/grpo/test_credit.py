"""Credit assignment against the example worked out by hand, and against a slow reading of the formulas."""

import itertools
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as checking
from hypothesis import strategies as st

from distill.grpo.credit import (
    MODES,
    Rollout,
    Settings,
    assign,
    content_tokens,
    gae,
    masked_normalise,
    pack,
    step_weights,
)  # fmt: skip

PLAIN = Settings(normalise=False, mask_eos=True)
"""As published, less the normalisation."""


def example() -> Rollout:
    """Two samples: p(+) = .9, .2, .6 on 9 tokens, unsolved; p(+) = .7, .5 on 5 tokens, solved."""
    return pack([[0.8, -0.6, 0.2], [0.4, 0.0]], [[2, 6, 8], [1, 4]], [9, 5], [0.0, 1.0], [False, False])


def rounded(values: Any) -> list[float]:
    return [round(value, 4) + 0.0 for value in values]


def test_weights_and_outcomes_by_hand() -> None:
    rollout = example()
    parts = step_weights(rollout.rewards, rollout.ends >= 0, 0.1) * rollout.rewards
    assert parts[0].tolist() == pytest.approx([6.65e-7, -0.5998, 6.71e-5], rel=2e-3)
    assert rounded(parts[1].tolist()) == [0.0072, 0.0, 0.0]
    assert rounded(parts.sum(-1).tolist()) == [-0.5997, 0.0072]
    equal = step_weights(rollout.rewards, rollout.ends >= 0, None)
    assert rounded(equal[0].tolist()) == [0.3333] * 3
    assert rounded(equal[1].tolist()) == [0.5, 0.5, 0.0]
    assert content_tokens(rollout.ends, rollout.truncated).tolist() == [[2, 3, 1], [1, 2, 0]]


REWARDS: dict[tuple[str, str], tuple[dict[int, float], dict[int, float]]] = {
    ("step", "PRM"): ({2: -0.0036, 6: -0.6034, 8: -0.0035}, {1: 0.2071, 4: 0.1999}),
    ("step", "PRMVR"): ({2: -0.0036, 6: -0.6034, 8: -1.0035}, {1: 0.2071, 4: 1.1999}),
    ("token", "PRM"): ({2: -0.0029, 6: -0.6041, 8: -0.0014}, {1: 0.0738, 4: 0.1333}),
    ("token", "PRMVR"): ({2: -0.0029, 6: -0.6041, 8: -1.0014}, {1: 0.0738, 4: 1.1333}),
    ("token", "VR"): ({8: -1.0}, {4: 1.0}),
    ("step", "VR"): ({8: -1.0}, {4: 1.0}),
}


@pytest.mark.parametrize(("baseline", "mode"), list(REWARDS))
def test_rewards_by_hand(baseline: Any, mode: Any) -> None:
    credit = assign(example(), 2, PLAIN._replace(baseline=baseline, mode=MODES[mode]))
    for row, expected in zip(credit.rewards.tolist(), REWARDS[baseline, mode], strict=True):
        assert rounded(row) == [expected.get(place, 0.0) for place in range(9)]


def test_advantages_by_hand() -> None:
    settings = PLAIN._replace(baseline="step")
    published = assign(example(), 2, settings).advantages
    assert rounded(published[0].tolist()) == [-1.6105] * 2 + [0] + [-1.6069] * 3 + [0, -1.0035, 0]
    assert rounded(published[1].tolist()) == [1.4070, 0, 1.1999, 1.1999, 0, 0, 0, 0, 0]
    ours = assign(example(), 2, settings._replace(mask_eos=False)).advantages
    assert rounded(ours[0].tolist()) == [-1.6105] * 2 + [0] + [-1.6069] * 3 + [0, -1.0035, -1.0035]
    assert rounded(ours[1].tolist()) == [1.4070, 0, 1.1999, 1.1999, 1.1999, 0, 0, 0, 0]
    unmasked = assign(example(), 2, settings._replace(mask_eos=False, mask_separators=False)).advantages
    assert rounded(unmasked[0].tolist()) == [-1.6105] * 3 + [-1.6069] * 4 + [-1.0035] * 2


def test_normalisation_by_hand() -> None:
    credit = assign(example(), 2, PLAIN._replace(baseline="step"))
    kept = credit.advantages[credit.mask]
    assert rounded([kept.mean().item(), kept.std(correction=0).item()]) == [-0.5821, 1.3229]
    normal = assign(example(), 2, PLAIN._replace(baseline="step", normalise=True))
    assert round(normal.advantages[0, 0].item(), 4) == -0.7774
    assert normal.advantages[~normal.mask].tolist() == [0.0] * int((~normal.mask).sum())


def test_reinforce_has_no_baseline_and_group_norm_one_score_a_response() -> None:
    plain = assign(example(), 2, PLAIN._replace(estimator="reinforce"))
    assert rounded(plain.rewards[0].tolist()) == [0, 0, 0, 0, 0, 0, -0.5998, 0, -0.9999]
    assert rounded(plain.rewards[1].tolist()) == [0, 0.0072, 0, 0, 0, 0, 0, 0, 0]
    normed = assign(example(), 2, PLAIN._replace(estimator="group_norm", mask_eos=False))
    assert rounded(normed.advantages[0].tolist()) == [-1, -1, 0, -1, -1, -1, 0, -1, -1]
    assert rounded(normed.advantages[1].tolist()) == [1, 0, 1, 1, 1, 0, 0, 0, 0]
    same = pack([[0.5], [0.5]], [[3], [3]], [4, 4], [None, None], [False, True])
    assert assign(same, 2, Settings(estimator="group_norm")).advantages.abs().max() == 0


def test_orm_is_one_step() -> None:
    rollout = pack([[0.5], [-0.5]], [[3], [2]], [4, 3], [1.0, 0.0], [False, False])
    credit = assign(rollout, 2, PLAIN._replace(mode=MODES["ORM"], baseline="step"))
    assert credit.rewards.tolist() == [[0, 0, 0, 1.0], [0, 0, -1.0, 0]]


def test_gae_by_hand() -> None:
    rewards, values = torch.tensor([[0.0, 1.0, 9.0]]), torch.tensor([[0.5, 0.25, 9.0]])
    mask = torch.tensor([[True, True, False]])
    assert gae(rewards, values, mask, 1.0, 1.0).tolist() == [[0.5, 0.75, 0.0]]
    assert gae(rewards, values, mask, 1.0, 0.0).tolist() == [[-0.25, 0.75, 0.0]]
    assert gae(rewards, values, mask, 0.5, 1.0).tolist() == [[-0.375 + 0.5 * 0.75, 0.75, 0.0]]
    zero = torch.zeros(2, 9)
    with_values = assign(example()._replace(values=zero), 2, PLAIN._replace(estimator="gae"))
    without = assign(example(), 2, PLAIN._replace(estimator="reinforce"))
    assert torch.allclose(with_values.advantages, without.advantages, atol=1e-6)
    with pytest.raises(ValueError, match="gae needs the value"):
        assign(example(), 2, Settings(estimator="gae"))


def test_kl_is_taken_out_of_every_token() -> None:
    rollout = example()._replace(kl=torch.ones(2, 9))
    credit = assign(rollout, 2, PLAIN._replace(mode=MODES["VR"], kl_coef=0.1, mask_eos=False))
    assert rounded(credit.rewards[1].tolist()) == [-0.1] * 4 + [0.9] + [0] * 4
    assert rounded(credit.returns[1].tolist()) == [0.5, 0.6, 0.7, 0.8, 0.9, 0, 0, 0, 0]


def test_a_cut_response_ends_in_content() -> None:
    rollout = pack([[0.4, 0.1]], [[2, 5]], [6], [0.0], [True])
    assert content_tokens(rollout.ends, rollout.truncated).tolist() == [[2, 3]]
    pair = pack([[0.4, 0.1], [0.2]], [[2, 5], [1]], [6, 2], [0.0, 0.0], [True, False])
    assert assign(pair, 2, PLAIN).mask.tolist() == [[True, True, False, True, True, True], [True, False] + [False] * 4]


@pytest.mark.parametrize(
    ("rewards", "ends", "length"),
    [([], [], 3), ([0.1], [1], 3), ([0.1, 0.2], [2, 2], 3), ([0.1, 0.2], [2], 3), ([0.1, 0.2], [2, 1], 2)],
)
def test_steps_must_reach_the_end(rewards: list[float], ends: list[int], length: int) -> None:
    with pytest.raises(ValueError, match="response 0"):
        pack([rewards], [ends], [length], [None], [False])


def test_groups_must_be_whole() -> None:
    with pytest.raises(ValueError, match="2 samples are no whole groups of 3"):
        assign(example(), 3, Settings())
    for estimator in ("rloo", "group_norm"):
        with pytest.raises(ValueError, match="group"):
            assign(example(), 1, Settings(estimator=estimator))
    assert assign(example(), 1, Settings(estimator="reinforce")).advantages.shape == (2, 9)


# ---------------------------------------------------------------- a slow reading


def slow(samples: list[dict[str, Any]], group: int, chosen: Settings) -> list[list[float]]:
    """Advantages by loops over the formulas, sharing no code with the module."""
    width = max(one["length"] for one in samples)
    outcome, part = [], []
    for one in samples:
        if chosen.temperature is None:
            weights = [1 / len(one["rewards"])] * len(one["rewards"])
        else:
            low = min(one["rewards"])
            raw = [math.exp(-(reward - low) / chosen.temperature) for reward in one["rewards"]]
            weights = [value / sum(raw) for value in raw]
        part.append([weight * reward for weight, reward in zip(weights, one["rewards"], strict=True)])
        outcome.append(sum(part[-1]))
    verified = [0.0 if one["solved"] is None else one["solved"] - 1.0 for one in samples]
    scores = []
    advantages, masks = [], []
    for i, one in enumerate(samples):
        first = i // group * group
        rest = [j for j in range(first, first + group) if j != i]
        token_rewards = [0.0] * one["length"]
        process, check = list(part[i]), verified[i]
        if chosen.estimator == "rloo":
            check -= sum(verified[j] for j in rest) / len(rest)
            start = 0
            for k, end in enumerate(one["ends"]):
                final = k == len(one["ends"]) - 1
                content = end - start + (1 if final and one["truncated"] else 0)
                start = end + 1
                if chosen.baseline == "step":
                    process[k] -= sum(outcome[j] / len(samples[j]["ends"]) for j in rest) / len(rest)
                else:
                    lengths = sum(samples[j]["length"] for j in rest)
                    process[k] -= sum(outcome[j] for j in rest) / lengths * content
        if chosen.mode.process:
            for k, end in enumerate(one["ends"]):
                token_rewards[end] += process[k]
        if chosen.mode.verified:
            token_rewards[-1] += chosen.verifiable_coef * check
        scores.append(sum(token_rewards))
        if chosen.estimator == "group_norm":
            token_rewards = [0.0] * one["length"]
        token_rewards = [r - chosen.kl_coef * k for r, k in zip(token_rewards, one["kl"], strict=False)]
        if chosen.estimator == "gae":
            found = []
            for t in range(one["length"]):
                total = 0.0
                for u in range(t, one["length"]):
                    after = one["values"][u + 1] if u + 1 < one["length"] else 0.0
                    delta = token_rewards[u] + chosen.gamma * after - one["values"][u]
                    total += (chosen.gamma * chosen.lam) ** (u - t) * delta
                found.append(total)
        else:
            found = [sum(token_rewards[t:]) for t in range(one["length"])]
        advantages.append(found)
        kept = [True] * one["length"]
        if chosen.mask_separators:
            for end in one["ends"][:-1]:
                kept[end] = False
        if chosen.mask_eos and not one["truncated"]:
            kept[-1] = False
        masks.append(kept)
    if chosen.estimator == "group_norm":
        for i, found in enumerate(advantages):
            own = scores[i // group * group : i // group * group + group]
            mean = sum(own) / group
            deviation = math.sqrt(sum((score - mean) ** 2 for score in own) / group)
            advantages[i] = [value + (scores[i] - mean) / (deviation + 1e-8) for value in found]
    if chosen.normalise:
        values = [
            v for found, kept in zip(advantages, masks, strict=True) for v, k in zip(found, kept, strict=True) if k
        ]
        mean = sum(values) / max(1, len(values))
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values)))
        advantages = [[(value - mean) / (deviation + 1e-8) for value in found] for found in advantages]
    return [
        [value if keep else 0.0 for value, keep in zip(found, kept, strict=True)] + [0.0] * (width - len(found))
        for found, kept in zip(advantages, masks, strict=True)
    ]


def draw(chance: random.Random, groups: int, group: int) -> list[dict[str, Any]]:
    made = []
    for _ in range(groups * group):
        length = chance.randint(1, 9)
        ends = sorted({length - 1, *(chance.randrange(length) for _ in range(chance.randint(0, 3)))})
        made.append(
            {
                "rewards": [chance.uniform(-1, 1) for _ in ends],
                "ends": ends,
                "length": length,
                "solved": chance.choice([None, 0.0, 1.0, 0.5]),
                "truncated": chance.random() < 0.3,
                "kl": [chance.uniform(-0.1, 0.3) for _ in range(9)],
                "values": [chance.uniform(-1, 1) for _ in range(9)],
            }
        )
    return made


def packed(samples: list[dict[str, Any]], shift: float = 0.0) -> Rollout:
    width = max(one["length"] for one in samples)
    tensors = [torch.tensor([one[name][:width] for one in samples], dtype=torch.float64) for name in ("kl", "values")]
    columns = [[one[name] for one in samples] for name in ("rewards", "ends", "length", "solved", "truncated")]
    rollout = pack(*columns, dtype=torch.float64)._replace(kl=tensors[0], values=tensors[1])
    return rollout._replace(solved=rollout.solved + shift)


CHANCE = st.randoms(use_true_random=False)
SETTINGS = st.builds(
    Settings,
    estimator=st.sampled_from(["rloo", "reinforce", "gae", "group_norm"]),
    mode=st.sampled_from(list(MODES.values())),
    baseline=st.sampled_from(["token", "step"]),
    temperature=st.sampled_from([None, 0.05, 0.1, 1.0]),
    verifiable_coef=st.sampled_from([0.0, 1.0, 2.5]),
    kl_coef=st.sampled_from([0.0, 0.1]),
    mask_separators=st.booleans(),
    mask_eos=st.booleans(),
    normalise=st.booleans(),
    gamma=st.sampled_from([1.0, 0.9]),
    lam=st.sampled_from([1.0, 0.95]),
)


@checking(max_examples=300, deadline=None)
@given(CHANCE, SETTINGS, st.integers(1, 3), st.integers(2, 4))
def test_against_the_slow_reading(chance: random.Random, chosen: Settings, groups: int, group: int) -> None:
    samples = draw(chance, groups, group)
    expected = torch.tensor(slow(samples, group, chosen), dtype=torch.float64)
    assert torch.allclose(assign(packed(samples), group, chosen).advantages, expected, atol=1e-6)


@checking(max_examples=60, deadline=None)
@given(CHANCE, st.integers(2, 5))
def test_verifiable_credit_sums_to_zero_over_a_group_and_ignores_a_shift(chance: random.Random, group: int) -> None:
    samples = [{**one, "solved": chance.choice([0.0, 1.0])} for one in draw(chance, 2, group)]
    chosen = Settings(mode=MODES["VR"], normalise=False)
    rewards = assign(packed(samples), group, chosen).rewards
    assert torch.allclose(rewards.sum(-1).view(2, group).sum(-1), torch.zeros(2, dtype=torch.float64), atol=1e-9)
    shifted = assign(packed(samples, shift=0.7), group, chosen).rewards
    assert torch.allclose(rewards, shifted, atol=1e-9)


@checking(max_examples=60, deadline=None)
@given(CHANCE, st.integers(2, 5))
def test_step_baselines_leave_nothing_over_in_a_group(chance: random.Random, group: int) -> None:
    """sum over i of (R_i - baselines of i) / K_i is 0."""
    samples = draw(chance, 1, group)
    credit = assign(packed(samples), group, Settings(mode=MODES["PRM"], baseline="step", normalise=False))
    counts = torch.tensor([len(one["ends"]) for one in samples], dtype=torch.float64)
    assert abs(float((credit.rewards.sum(-1) / counts).sum())) < 1e-9


@checking(max_examples=80, deadline=None)
@given(CHANCE, SETTINGS, st.integers(2, 4))
def test_the_order_of_samples_is_irrelevant(chance: random.Random, chosen: Settings, group: int) -> None:
    samples = draw(chance, 2, group)
    order = chance.sample(range(group), group) + [group + place for place in chance.sample(range(group), group)]
    straight = assign(packed(samples), group, chosen).advantages
    mixed = assign(packed([samples[place] for place in order]), group, chosen).advantages
    assert torch.allclose(straight[order], mixed, atol=1e-9)
    swapped = assign(packed(samples[group:] + samples[:group]), group, chosen).advantages
    assert torch.allclose(torch.cat([straight[group:], straight[:group]]), swapped, atol=1e-9)


@checking(max_examples=80, deadline=None)
@given(CHANCE, SETTINGS)
def test_masked_tokens_and_padding_are_zero(chance: random.Random, chosen: Settings) -> None:
    samples = draw(chance, 2, 3)
    credit = assign(packed(samples), 3, chosen)
    assert credit.advantages[~credit.mask].abs().sum() == 0
    for row, one in zip(credit.mask.tolist(), samples, strict=True):
        assert not any(row[one["length"] :])
        if chosen.mask_separators:
            assert not any(row[end] for end in one["ends"][:-1])
        assert row[one["length"] - 1] is not (chosen.mask_eos and not one["truncated"])


def test_normalising_ignores_what_is_masked() -> None:
    values = torch.tensor([[1.0, 100.0, 3.0]])
    mask = torch.tensor([[True, False, True]])
    assert torch.allclose(masked_normalise(values, mask), torch.tensor([[-1.0, 0.0, 1.0]]))
    assert masked_normalise(values, torch.zeros_like(mask)).tolist() == [[0.0, 0.0, 0.0]]


def test_low_scores_decide_the_min_form() -> None:
    rewards = torch.tensor([[0.9, -0.9, 0.9]])
    weights = step_weights(rewards, torch.ones_like(rewards, dtype=torch.bool), 0.1)
    assert weights[0, 1] > 0.999
    assert math.isclose(float((weights * rewards).sum()), -0.9, abs_tol=1e-5)
    for mild, hard in itertools.pairwise((1.0, 0.5, 0.2)):
        of = [float(step_weights(rewards, torch.ones(1, 3, dtype=torch.bool), t)[0, 1]) for t in (mild, hard)]
        assert of[0] < of[1]


TWO_PROCESSES = """
import sys, torch, torch.distributed as dist
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
from distill.grpo.credit import Settings, assign, pack
rows = [([.8, -.6, .2], [2, 6, 8], 9, 0., False), ([.4, 0.], [1, 4], 5, 1., False), ([.1], [2], 3, 1., True)] * 2
mine = rows[rank * 3 : rank * 3 + 3]
parts = [None, None]
dist.all_gather_object(parts, mine)
columns = list(zip(*[row for part in parts for row in part]))
found = assign(pack(*columns), 6, Settings()).advantages
whole = assign(pack(*zip(*rows)), 6, Settings()).advantages
assert torch.equal(found[rank * 3 : rank * 3 + 3], whole[rank * 3 : rank * 3 + 3])
alone = assign(pack(*zip(*mine)), 3, Settings()).advantages
assert not torch.allclose(alone, whole[rank * 3 : rank * 3 + 3, : alone.size(1)])
dist.destroy_process_group()
"""


def test_a_group_that_straddles_two_processes(tmp_path: Path) -> None:
    """Rows are gathered before credit is assigned; half a group by itself would give something else."""
    command = [sys.executable, "-c", TWO_PROCESSES]
    root = Path(__file__).parents[3]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path / "store")], cwd=root) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
