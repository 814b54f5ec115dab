"""TRL's SFT trainer with a weight per question: its k trajectories together weigh as much as a single one.

Source: AgentArk (arXiv 2602.03955), Eq. 2: the loss of a question is the mean over its trajectories of their negative
log-likelihoods. Each token's share is its trajectory's weight over the sum of weights of all learnt tokens of the
optimizer step, so that neither gradient accumulation nor the number of processes changes a step.

Needs torch, so it is imported only when training begins.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from trl import SFTTrainer, pack_dataset
from trl.trainer.utils import pad

from agentark.students import WithoutPickles

WEIGHT = "weight"
"""Column with a row's weight."""
TOKEN_WEIGHTS = "token_weights"
"""Column with the weights of its tokens, (T,)."""
IGNORED = -100


def question_weights(ids: Sequence[str]) -> list[float]:
    """A weight per row: the rows of every question have the same sum of weights, and the smallest weight is 1."""
    counts = Counter(ids)
    most = max(counts.values(), default=1)
    return [most / counts[id] for id in ids]


class WeightedSFTTrainer(WithoutPickles, SFTTrainer):  # type: ignore[misc]
    """Reads a `weight` column.

    Args:
        exam: the evaluation that `evaluate` runs instead of computing a loss; called with the trainer, returns metrics.
    """

    data_collator: Any
    control: Any

    def __init__(self, *, exam: Any = None, **upstream: Any) -> None:
        self.exam = exam
        super().__init__(**upstream)
        self.data_collator = Collator(self.data_collator)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        """Adds the weights before packing, because upstream drops all other columns when it packs."""
        prepared = super()._prepare_dataset(dataset, processing_class, args, False, formatting_func, dataset_name)
        prepared = prepared.map(lambda row: {TOKEN_WEIGHTS: [row[WEIGHT]] * len(row["input_ids"])})
        if packing:
            columns = prepared.select_columns(["input_ids", "labels", TOKEN_WEIGHTS])
            prepared = pack_dataset(columns, args.max_length, args.packing_strategy)
        return prepared

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if TOKEN_WEIGHTS not in self._signature_columns:
            self._signature_columns += [TOKEN_WEIGHTS]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Tensor:
        """The sum of weights of all learnt tokens of an optimizer step, over all processes."""
        learnt = [(batch["labels"] != IGNORED) * batch[TOKEN_WEIGHTS] for batch in batch_samples]
        total = torch.stack([weights[..., 1:].sum() for weights in learnt]).sum().to(device)
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            total = self.accelerator.gather(total).sum()
        return total

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        weights = inputs.pop(TOKEN_WEIGHTS)[:, 1:]

        def weighted(**kwargs: Any) -> Any:
            outputs = model(**kwargs)
            outputs.log_probs = outputs.log_probs * weights
            return outputs

        return super().compute_loss(weighted, inputs, return_outputs, num_items_in_batch)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Run the evaluation and log its figures."""
        metrics: dict[str, float] = self.exam(self)
        self.model.eval()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Collator:
    """Upstream's collator, which also pads the weights of the tokens."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self.inner(
            [{key: value for key, value in row.items() if key != TOKEN_WEIGHTS} for row in rows]
        )
        weights = [torch.tensor(row[TOKEN_WEIGHTS]) for row in rows]
        if self.inner.padding_free:
            weights = [torch.cat(weights)]
        batch[TOKEN_WEIGHTS] = pad(
            weights, padding_value=0.0, padding_side="right", pad_to_multiple_of=self.inner.pad_to_multiple_of
        )
        return batch
