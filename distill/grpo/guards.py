"""From scored responses to token advantages: apply the guards, then credit.py. Both backends use this.

A guarded response gets the worst process score of its group (reward.py). With leave-one-out baselines that is
not enough: the amount they subtract grows with a response's tokens (or steps), so of two responses with equal positive
scores the shorter wins, and the shapes that guards catch are short. A policy then still collapses to single steps
(tests/distill/grpo/test_collapse.py shows it). So for rloo the rule is applied again after the baseline: each token of
a guarded response gets the lowest process return of the unguarded responses in its group, and a group without unguarded
responses teaches nothing about process. The other estimators have no baseline that depends on length.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distill.grpo import credit
from distill.grpo.config import GRPOConfig
from distill.grpo.reward import Scored, guarded


class GuardedCredit(NamedTuple):
    """Credit with the guards applied; B responses, T the width."""

    advantages: Tensor
    """(B, T)"""
    returns: Tensor
    """(B, T)"""
    outcomes: Tensor
    """R = sum_k w_k r_k after the guards, (B,)."""
    figures: dict[str, float]

    def rows(self, first: int, last: int, width: int) -> "GuardedCredit":
        """The credit of some responses, at another width (the tokens cut off or added lie outside every response)."""

        def resized(values: Tensor) -> Tensor:
            kept = values[first:last, :width]
            return torch.nn.functional.pad(kept, (0, width - kept.size(1)))

        return GuardedCredit(resized(self.advantages), resized(self.returns), self.outcomes[first:last], self.figures)


def settings(config: GRPOConfig) -> credit.Settings:
    """The settings of credit assignment, from the flags."""
    return credit.Settings(
        estimator=config.advantage_estimator,
        mode=config.mode,
        baseline=config.reward_baseline,
        temperature=None if config.disable_weighted_reward else config.weight_temperature,
        verifiable_coef=config.verifiable_reward_coef,
        kl_coef=0.0 if config.use_kl_loss else config.init_kl_coef,
        mask_separators=not config.nomask_separator_adv,
        mask_eos=config.mask_eos_adv,
        normalise=not config.no_advantage_norm,
        gamma=config.gamma,
        lam=config.lambd,
    )


def behind_baseline(
    rollout: credit.Rollout, group: int, chosen: credit.Settings, assigned: credit.Credit, hit: Tensor
) -> credit.Credit:
    """Credit in which guarded responses have the lowest process return of the unguarded responses in their group.

    Args:
        assigned: credit before the guards.
        hit: which responses are guarded; (B,), bool.
    """
    process_only = chosen._replace(mode=chosen.mode._replace(verified=False), normalise=False)
    process = credit.assign(rollout._replace(kl=None), group, process_only).returns
    if process.size(1) < assigned.returns.size(1):
        process = torch.nn.functional.pad(process, (0, assigned.returns.size(1) - process.size(1)))
    totals = process[:, 0].masked_fill(hit, torch.inf).view(-1, group)
    worst = totals.min(1, keepdim=True).values.expand(-1, group).flatten()  # (B,)
    worst = worst.masked_fill(worst.isinf(), 0.0)
    response = torch.arange(process.size(1)) < rollout.lengths[:, None]  # (B, T)
    change = torch.where(hit[:, None], worst[:, None] - process, 0.0) * response
    returns = assigned.returns + change
    rewards = returns - torch.nn.functional.pad(returns[:, 1:], (0, 1))
    masked = credit.masked_normalise(returns, assigned.mask) if chosen.normalise else returns * assigned.mask
    return credit.Credit(masked, returns, rewards, assigned.mask)


def guarded_credit(
    config: GRPOConfig, scored: Sequence[Scored], kl: Tensor | None, values: Tensor | None = None
) -> GuardedCredit:
    """Advantages of whole groups of `n_samples_per_prompt`, one after the other.

    Args:
        kl: per token, (B, T); None: no KL is subtracted from the reward.
        values: per token, for gae, (B, T).
    """
    group = config.n_samples_per_prompt
    rollout = credit.pack(
        guarded(scored, group),
        [response.steps.ends for response in scored],
        [response.length for response in scored],
        [response.solved for response in scored],
        [response.truncated for response in scored],
        kl,
        values,
    )
    chosen = settings(config)
    assigned = credit.assign(rollout, group, chosen)
    hit = torch.tensor([bool(response.hits) for response in scored])
    if config.advantage_estimator == "rloo" and config.mode.process and hit.any():
        assigned = behind_baseline(rollout, group, chosen, assigned, hit)
    weights = credit.step_weights(rollout.rewards, rollout.ends >= 0, chosen.temperature)
    outcomes = (weights * rollout.rewards).sum(-1)
    grouped = outcomes.view(-1, group)
    figures = {
        "outcome": outcomes.mean().item(),
        "outcome_spread": grouped.std(1, correction=0).mean().item(),
        "return": assigned.rewards.sum(-1).mean().item(),
    }
    return GuardedCredit(assigned.advantages, assigned.returns, outcomes, figures)
