"""From step scores to token advantages: pure functions on tensors, whole groups at a time.

Source: PURE (arXiv 2504.15275), min-form credit assignment with leave-one-out baselines; AgentArk (arXiv 2602.03955),
Eq. 5, for the group-normalised variant. A response is tokens 0..L-1; step k ends at token c_k, which is a separator,
or the last token for the last step (end of sequence, or where the response was cut).

Differs from the published code: masked tokens don't take part in the mean and variance that advantages are normalised
with, and the end-of-sequence token keeps its advantage (`mask_eos` gives the published behaviour, in which stopping is
never trained).

Dimension letters: B samples (whole groups of G, one after the other), S steps, T tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distill.grpo.modes import MODES, Baseline, Estimator, ModeSpec

EPSILON = 1e-8
"""Added to standard deviations, so that nothing is divided by 0."""


class Rollout(NamedTuple):
    """The input of credit assignment."""

    rewards: Tensor
    """r_k = p(right) - p(wrong) of each step, in [-1, 1], 0 where padded; (B, S). Whole responses have one step."""
    ends: Tensor
    """c_k, the token that each step ends at; -1 where padded; (B, S), integers."""
    lengths: Tensor
    """L, tokens of each response, its end-of-sequence token included; (B,), integers >= 1."""
    solved: Tensor
    """Verdict of the verifiable reward in [0, 1]; nan where there is no gold answer; (B,)."""
    truncated: Tensor
    """Whether the response was cut before its end-of-sequence token; (B,), bool."""
    kl: Tensor | None = None
    """KL estimate of each token, to be subtracted from the reward; (B, T)."""
    values: Tensor | None = None
    """V of each token, for gae; (B, T)."""


class Settings(NamedTuple):
    """How credit is assigned."""

    estimator: Estimator = "rloo"
    mode: ModeSpec = MODES["PRMVR"]
    baseline: Baseline = "token"
    """Unit of the leave-one-out baseline of process rewards (rloo)."""
    temperature: float | None = 0.1
    """T of the min-form weights; None: every step weighs 1/K."""
    verifiable_coef: float = 1.0
    kl_coef: float = 0.0
    """beta."""
    mask_separators: bool = True
    mask_eos: bool = False
    normalise: bool = True
    """Normalise advantages over all unmasked tokens of the buffer."""
    gamma: float = 1.0
    """Discount of gae, per token."""
    lam: float = 1.0
    """Lambda of gae."""


class Credit(NamedTuple):
    """Per token; 0 outside a response."""

    advantages: Tensor
    """(B, T)."""
    returns: Tensor
    """Before masking and normalising; for gae, the targets of the value head; (B, T)."""
    rewards: Tensor
    """Token rewards after subtracting baselines and KL; (B, T)."""
    mask: Tensor
    """The tokens whose advantages are not set to 0; (B, T), bool."""


def pack(
    rewards: Sequence[Sequence[float]],
    ends: Sequence[Sequence[int]],
    lengths: Sequence[int],
    solved: Sequence[float | None],
    truncated: Sequence[bool],
    kl: Tensor | None = None,
    values: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Rollout:
    """Build a rollout from lists with one entry per response.

    Args:
        rewards, ends: S_i of each; see Rollout.
        solved: None without a gold answer.

    Raises:
        ValueError: a response without steps, ends that don't increase up to its last token, or lists that don't match.
    """
    for index, (scores, stops, length) in enumerate(zip(rewards, ends, lengths, strict=True)):
        rising = all(a < b for a, b in zip([-1, *stops], stops, strict=False))
        if not scores or len(scores) != len(stops) or not rising or stops[-1] != length - 1:
            raise ValueError(f"response {index}: {len(scores)} step rewards, ends {list(stops)}, {length} tokens")
    width = max(map(len, ends))
    return Rollout(
        torch.tensor([[*scores, *[0.0] * (width - len(scores))] for scores in rewards], dtype=dtype),
        torch.tensor([[*stops, *[-1] * (width - len(stops))] for stops in ends]),
        torch.tensor(list(lengths)),
        torch.tensor([float("nan") if verdict is None else verdict for verdict in solved], dtype=dtype),
        torch.tensor(list(truncated), dtype=torch.bool),
        kl,
        values,
    )


# ---------------------------------------------------------------- parts


def step_weights(rewards: Tensor, steps: Tensor, temperature: float | None) -> Tensor:
    """Min-form weights, which sum to one over a response: w_k = exp(-r_k/T) / sum_j exp(-r_j/T).

    Args:
        rewards: (B, S).
        steps: which of them are steps; (B, S), bool.
        temperature: T > 0; None: 1/K each.

    Returns:
        (B, S), 0 where padded.
    """
    if temperature is None:
        return steps / steps.sum(-1, keepdim=True).clamp(min=1)
    return torch.softmax((-rewards / temperature).masked_fill(~steps, -torch.inf), dim=-1)


def content_tokens(ends: Tensor, truncated: Tensor) -> Tensor:
    """t_k: tokens of each step without its last, which is content only if the response was cut there. (B, S)."""
    steps = ends >= 0
    before = torch.cat([torch.full_like(ends[:, :1], -1), ends[:, :-1]], dim=1)
    last = steps & (steps.sum(-1, keepdim=True) - 1 == torch.arange(ends.size(1), device=ends.device))
    return ((ends - before - 1) + (last & truncated[:, None])) * steps


def others(values: Tensor, group: int) -> Tensor:
    """For each sample, the sum over the other samples of its group. (B,) -> (B,).

    Raises:
        ValueError: B is not a multiple of the group, or the group has a single sample.
    """
    if group < 2:
        raise ValueError(f"a leave-one-out baseline needs groups of at least 2, not {group}")
    grouped = values.view(_groups(values, group), group)
    return (grouped.sum(1, keepdim=True) - grouped).flatten()


def _groups(values: Tensor, group: int) -> int:
    if values.size(0) % group:
        raise ValueError(f"{values.size(0)} samples are no whole groups of {group}")
    return int(values.size(0)) // group


def process_baseline(
    outcomes: Tensor, ends: Tensor, lengths: Tensor, truncated: Tensor, group: int, unit: Baseline
) -> Tensor:
    """The baseline subtracted from every step reward, computed from the other samples of the group.

    step: the mean of R_j / K_j. token: sum of R_j over sum of lengths, times the step's content tokens.

    Args:
        outcomes: R = sum_k w_k r_k; (B,).

    Returns:
        (B, S), 0 where padded.
    """
    steps = ends >= 0
    if unit == "step":
        baseline = others(outcomes / steps.sum(-1), group) / (group - 1)
        return baseline[:, None] * steps
    per_token = others(outcomes, group) / others(lengths.to(outcomes.dtype), group)
    return per_token[:, None] * content_tokens(ends, truncated)


def verifiable(solved: Tensor) -> Tensor:
    """v = solved - 1 in [-1, 0]; 0 without a gold answer. (B,)."""
    return torch.nan_to_num(solved - 1, nan=0.0)


def reverse_cumsum(values: Tensor) -> Tensor:
    """For each token, the sum from that token to the end. (B, T)."""
    return values.flip(-1).cumsum(-1).flip(-1)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation (arXiv 1506.02438) over response tokens; the value after the last one is 0.

    Args:
        rewards, values, mask: (B, T); mask is true on response tokens, which are a prefix.

    Returns:
        (B, T), 0 outside the mask.
    """
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = (rewards + gamma * following - values) * mask
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for token in range(deltas.size(1) - 1, -1, -1):
        running = deltas[:, token] + gamma * lam * running
        advantages[:, token] = running
    return advantages * mask


def masked_normalise(values: Tensor, mask: Tensor) -> Tensor:
    """Scale to zero mean and unit (population) variance over the masked-in entries; the others are 0. (B, T)."""
    count = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / count
    deviation = (((values - mean) * mask) ** 2).sum().div(count).sqrt()
    return (values - mean) / (deviation + EPSILON) * mask


def group_normalise(scores: Tensor, group: int) -> Tensor:
    """Scale to zero mean and unit (population) variance within each group. (B,). Source: AgentArk, Eq. 5."""
    grouped = scores.view(_groups(scores, group), group)
    mean, deviation = grouped.mean(1, keepdim=True), grouped.std(1, keepdim=True, correction=0)
    return ((grouped - mean) / (deviation + EPSILON)).flatten()


def trained_tokens(rollout: Rollout, response: Tensor, settings: Settings) -> Tensor:
    """The tokens whose advantages are not set to 0.

    Args:
        response: true on the tokens of a response; (B, T), bool.

    Returns:
        (B, T), bool.
    """
    ends, last = rollout.ends, (rollout.lengths - 1)[:, None]
    mask = response.clone()
    if settings.mask_separators:
        separators = ((ends >= 0) & (ends != last)).to(rollout.rewards.dtype)
        mask &= torch.zeros_like(response, dtype=separators.dtype).scatter_add_(1, ends.clamp(min=0), separators) == 0
    if settings.mask_eos:
        mask &= (torch.arange(response.size(1), device=ends.device) != last) | rollout.truncated[:, None]
    return mask


# ---------------------------------------------------------------- all of it


def assign(rollout: Rollout, group: int, settings: Settings) -> Credit:
    """Token advantages of whole groups.

    rloo: leave-one-out baselines on process and verifiable rewards; reinforce: none; gae: V of each token;
    group_norm: the response's score, normalised within its group, on every token.

    Args:
        group: G, samples per question; consecutive rows.

    Returns:
        Credit, with T the longest response of the rollout (or the width of `kl` or `values`).

    Raises:
        ValueError: B is not a multiple of G, G < 2 where groups are compared, or gae without values.
    """
    rewards, ends, lengths, solved, truncated, kl, values = rollout
    steps = ends >= 0
    width = next((given.size(1) for given in (kl, values) if given is not None), int(lengths.max()))
    response = torch.arange(width, device=ends.device) < lengths[:, None]  # (B, T)
    _groups(lengths, group)

    parts = step_weights(rewards, steps, settings.temperature) * rewards  # (B, S): w_k r_k
    outcomes = parts.sum(-1)  # (B,)
    checked = verifiable(solved)  # (B,)
    if settings.estimator == "rloo":
        if settings.mode.process:
            parts = parts - process_baseline(outcomes, ends, lengths, truncated, group, settings.baseline)
        checked = checked - others(checked, group) / (group - 1)
    process = torch.zeros(response.shape, dtype=rewards.dtype, device=rewards.device)
    verified = process.clone()
    if settings.mode.process:
        process.scatter_add_(1, ends.clamp(min=0), parts * steps)
    if settings.mode.verified:
        verified.scatter_(1, (lengths - 1)[:, None], settings.verifiable_coef * checked[:, None])
    penalty = settings.kl_coef * kl * response if kl is not None else torch.zeros_like(process)

    if settings.estimator == "group_norm":
        if group < 2:
            raise ValueError(f"group_norm compares the samples of a question; a group of {group} has none")
        scores = group_normalise((process + verified).sum(-1), group)
        per_token = torch.zeros_like(process).scatter(1, (lengths - 1)[:, None], scores[:, None]) - penalty
        advantages = returns = reverse_cumsum(per_token)
    else:
        per_token = process + verified - penalty
        if settings.estimator == "gae":
            if values is None:
                raise ValueError("gae needs the value of each token")
            advantages = gae(per_token, values, response, settings.gamma, settings.lam)
            returns = advantages + values
        else:
            advantages = returns = reverse_cumsum(per_token)

    mask = trained_tokens(rollout, response, settings)
    advantages = masked_normalise(advantages, mask) if settings.normalise else advantages * mask
    return Credit(advantages, returns * response, per_token * response, mask)
