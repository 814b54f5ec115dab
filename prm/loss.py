"""Losses over the separators of a batch. Pure: each gives a sum and its number of terms, never a mean.

The trainer divides by the number of terms in all batches of an optimiser step, on all ranks; so 1 batch of 8 and 4
batches of 2 give the same gradient. S separators; label 1 right, 0 wrong, -100 unknown, which never contributes.

    cross entropy  -log softmax(z_i)[y_i]
    supcon         -mean over j of log( exp(e_i.e_j / tau) / sum over k != i of exp(e_i.e_k / tau) ),
                   e_i = P h_i / |P h_i|, j of the same label as i
    ranking        -log( exp(s_i / tau) / (exp(s_i / tau) + sum over n of exp(s_n / tau)) ),  s = p(right),
                   i right, n wrong

Separator i is compared with the others of its own question if these have both labels (for ranking: if one is wrong),
else with all others of the batch.

Source: AgentArk, arXiv 2602.03955, eq. 7 (ranking); Khosla et al. 2020, arXiv 2004.11362 (supcon).
Differs from the published code: the projector P is part of the model and trained, and comparisons stay within the
question if they can, so that they do not depend on how a batch is divided.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from prm.reading import IGNORED


class Term(NamedTuple):
    """The sum of a loss, not divided yet."""

    total: Tensor
    """(), with gradient."""
    terms: int


class Objective(NamedTuple):
    """What `--loss` names."""

    ce: float
    """Weight of the cross entropy."""
    contrastive: str | None
    """`supcon` or `ranking`."""
    weight: float
    """Temperature of the contrastive term."""
    tau: float

    @classmethod
    def named(cls, name: str, weight: float = 0.5, tau: float = 0.1) -> "Objective":
        """`ce`, `ce+supcon` (weight applies to supcon) or `ranking` (alone, weight 1)."""
        known = {
            "ce": cls(1.0, None, 0.0, tau),
            "ce+supcon": cls(1.0, "supcon", weight, tau),
            "ranking": cls(0.0, "ranking", 1.0, tau),
        }
        return known[name]


LOSSES = ("ce+supcon", "ce", "ranking")


def cross_entropy(logits: Tensor, labels: Tensor) -> Term:
    """Args: logits (S, 2), labels (S,)."""
    known = labels != IGNORED
    total = functional.cross_entropy(logits[known].float(), labels[known], reduction="sum")
    return Term(total, int(known.sum()))


def compared(labels: Tensor, questions: Tensor, wrong_only: bool = False) -> Tensor:
    """(S, S) booleans: the separators that i is compared with, without itself and without unlabelled ones.

    Args:
        labels, questions: (S,).
        wrong_only: for ranking, which needs no separators with the same label.
    """
    known = labels != IGNORED
    others = known[:, None] & known[None, :] & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    alike = labels[:, None] == labels[None, :]
    own = others & (questions[:, None] == questions[None, :])
    enough = (own & ~alike).any(1)
    if not wrong_only:
        enough &= (own & alike).any(1)
    return torch.where(enough[:, None], own, others)


def anchors(labels: Tensor, questions: Tensor, kind: str) -> Tensor:
    """(S,) booleans: which separators have a term in this contrastive loss. No model is needed to count them."""
    among = compared(labels, questions, kind == "ranking")
    alike = labels[:, None] == labels[None, :]
    if kind == "ranking":
        return (labels == 1) & (among & ~alike).any(1)
    return (among & alike).any(1)


def supcon(embeddings: Tensor, labels: Tensor, questions: Tensor, tau: float) -> Term:
    """Args: embeddings (S, P), of any length; labels and questions (S,); tau > 0."""
    mine = anchors(labels, questions, "supcon")
    unit = functional.normalize(embeddings.float(), dim=-1)
    similar = unit @ unit.T / tau  # (S, S)
    among = compared(labels, questions)
    norm = torch.logsumexp(similar[mine].masked_fill(~among[mine], -torch.inf), 1, keepdim=True)
    chance = similar[mine] - norm
    positive = (among & (labels[:, None] == labels[None, :]))[mine]
    per_anchor = -(chance * positive).sum(1) / positive.sum(1)
    return Term(per_anchor.sum() + 0.0 * unit.sum(), int(mine.sum()))


def ranking(logits: Tensor, labels: Tensor, questions: Tensor, tau: float) -> Term:
    """Args: logits (S, 2), labels and questions (S,), tau > 0."""
    mine = anchors(labels, questions, "ranking")
    scores = logits.float().softmax(-1)[:, 1] / tau
    wrong = compared(labels, questions, True) & (labels[None, :] == 0)
    against = scores[None, :].expand(len(scores), -1).masked_fill(~wrong, -torch.inf)
    against = torch.logsumexp(torch.cat([scores[:, None], against], 1)[mine], 1)
    return Term((against - scores[mine]).sum() + 0.0 * scores.sum(), int(mine.sum()))


def counts(labels: Tensor, questions: Tensor, objective: Objective) -> Tensor:
    """(2,): terms of the cross entropy and of the contrastive loss in a batch."""
    known = (labels != IGNORED).sum()
    if objective.contrastive is None:
        return torch.stack([known, torch.zeros_like(known)])
    return torch.stack([known, anchors(labels, questions, objective.contrastive).sum()])


def terms(
    objective: Objective, logits: Tensor, embeddings: Tensor | None, labels: Tensor, questions: Tensor
) -> dict[str, Term]:
    """The terms of an objective, by name.

    Args:
        logits: (S, 2). embeddings: (S, P), needed for supcon. labels, questions: (S,).
    """
    parts = {"ce": cross_entropy(logits, labels)} if objective.ce else {}
    if objective.contrastive == "supcon":
        assert embeddings is not None, "supcon needs a projector"
        parts["supcon"] = supcon(embeddings, labels, questions, objective.tau)
    elif objective.contrastive == "ranking":
        parts["ranking"] = ranking(logits, labels, questions, objective.tau)
    return parts


def total(objective: Objective, named: dict[str, Term], counted: Tensor) -> Tensor:
    """The loss: weighted sums over the counted terms. Args: counted (2,), of the whole optimiser step."""
    weights = {"ce": objective.ce, "supcon": objective.weight, "ranking": objective.weight}
    columns = {"ce": 0, "supcon": 1, "ranking": 1}
    parts = [weights[name] * term.total / counted[columns[name]].clamp(min=1) for name, term in named.items()]
    return torch.stack(parts).sum()
