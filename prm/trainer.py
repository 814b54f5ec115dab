"""transformers' Trainer with our batches, losses, evaluation and folders."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from agentark.checkpoints import rewind
from agentark.files import append
from prm import loss, model
from prm.data import Item, collate
from prm.features import Features
from prm.figures import step_figures
from prm.monitor import NanMonitor
from prm.sampler import QuestionBatches
from prm.steps import StepCodec

METRICS = "metrics.jsonl"


Rows = Sequence[tuple[int, Item]]
"""Sequences with their indices."""


def batch_of(features: Features | None, rows: Rows) -> dict[str, Tensor]:
    """A batch: token ids, or the cached states instead of them; `indices` says which sequences."""
    batch = collate([item for _, item in rows])
    if features is not None:
        del batch["input_ids"], batch["lengths"]
        batch["states"] = torch.cat([features[index] for index, _ in rows])
    return batch | {"indices": torch.tensor([index for index, _ in rows])}


class PRMTrainer(Trainer):  # type: ignore[misc]
    """Trains a RewardModel.

    Args:
        reward: the model.
        args: TrainingArguments; a batch has at most `per_device_train_batch_size` solutions.
        objective: the losses.
        codec: saved beside the model.
        train, held_out: sequences.
        cached: their states, if these were computed beforehand.
        monitor: for NaN, or None.
        scaling: alpha / rank of the adapters, if there are any.
    """

    def __init__(
        self, reward: model.RewardModel, args: Any, objective: loss.Objective, codec: StepCodec, train: Sequence[Item],
        held_out: Sequence[Item] | None = None, cached: tuple[Features, Features | None] | None = None,
        monitor: NanMonitor | None = None, scaling: float | None = None,
    ) -> None:  # fmt: skip
        self.objective = objective
        self.codec = codec
        self.cached = cached or (None, None)
        self.monitor = monitor
        self.scaling = scaling
        self.seen: dict[str, list[Any]] = defaultdict(list)
        self.control: Any
        super().__init__(
            model=reward,
            args=args,
            train_dataset=list(enumerate(train)),
            eval_dataset=list(enumerate(held_out)) if held_out else None,
        )
        self.model_accepts_loss_kwargs = True  # the loss is divided by the terms of the whole step, here
        self.add_callback(Hooks(self))
        reward.split = not (self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3)

    # ------------------------------------------------------------ batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        args = self.args
        epochs = math.ceil(args.num_train_epochs) if args.max_steps <= 0 else 8
        self.sampler = self._batches(self.train_dataset, self._train_batch_size, epochs, True)
        return self._loader(self.train_dataset, self.sampler, self.cached[0])

    def _batches(self, data: Rows, size: int, epochs: int, shuffle: bool) -> QuestionBatches:
        return QuestionBatches(
            [len(item.ids) for _, item in data],
            [item.question for _, item in data],
            size,
            self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            self.args.process_index,
            self.args.world_size,
            epochs,
            shuffle,
        )

    def _loader(self, data: Rows, sampler: QuestionBatches, features: Features | None) -> DataLoader[Any]:
        return DataLoader(
            data,
            batch_sampler=sampler,
            collate_fn=partial(batch_of, features),
            num_workers=self.args.dataloader_num_workers if features is None else 0,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
        )

    # ------------------------------------------------------------ loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: Any) -> Tensor:
        """Number of terms of each loss in an optimiser step, over all its batches and all ranks: (2,)."""
        counted = sum(
            (loss.counts(batch["labels"], batch["questions"], self.objective) for batch in batch_samples),
            torch.zeros(2, dtype=torch.long),
        ).to(device)
        if self.args.world_size > 1:
            counted = self.accelerator.gather(counted[None]).sum(0)
        return counted

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Tensor], return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:  # fmt: skip
        inputs = dict(inputs)
        labels, questions = inputs.pop("labels"), inputs.pop("questions")
        inputs.pop("indices", None)
        outputs = model(**inputs)
        terms = loss.terms(self.objective, outputs["logits"], outputs.get("embeddings"), labels, questions)
        if num_items_in_batch is None:
            num_items_in_batch = loss.counts(labels, questions, self.objective)
        value = loss.total(self.objective, terms, num_items_in_batch)
        if self.monitor is not None:
            parts = {name: term.total for name, term in terms.items()}
            self.monitor.loss(parts, self.state.global_step + 1, self.model)
        if model.training:
            for name, term in terms.items():
                self.seen[f"loss_{name}"].append(float(term.total.detach()) / max(1, term.terms))
            self.seen["scores"] += outputs["logits"].detach().softmax(-1)[:, 1].tolist()
            self.seen["labels"] += labels.tolist()
        value = value * self.args.world_size  # the ranks' gradients are averaged
        return (value, outputs) if return_outputs else value

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        if self.monitor is not None:
            self.monitor.batch = inputs
        return super().training_step(model, inputs, num_items_in_batch)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        self._watch_gradients()
        return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if self.args.max_grad_norm <= 0:
            self._watch_gradients()
        norm = super()._get_grad_norm(model, grad_norm)
        if self.monitor is not None and self.is_deepspeed_enabled:
            self.monitor.gradient_norm(norm, self.model, self.state.global_step + 1)
        return norm

    def _watch_gradients(self) -> None:
        if self.monitor is not None and not self.is_deepspeed_enabled:
            self.monitor.gradients(self.model, self.state.global_step + 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.seen["labels"]:
            scores, labels = self.seen.pop("scores"), self.seen.pop("labels")
            logs |= {name: statistics.fmean(values) for name, values in self.seen.items() if values}
            figures = step_figures(scores, labels)
            logs |= {f"train_{name}": figures[name] for name in ("accuracy", "auroc", "margin")}
            self.seen.clear()
        super().log(logs, start_time)

    # ------------------------------------------------------------ evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Figures of the steps of the held-out data; each sequence counts once, whatever the number of ranks."""
        data = eval_dataset or self.eval_dataset
        features = self.cached[1] if data is self.eval_dataset else None
        sampler = self._batches(data, self.args.per_device_eval_batch_size, 1, False)
        reward = self.model_wrapped if self.is_deepspeed_enabled else self.model
        was_training = reward.training
        reward.eval()
        mine: dict[int, tuple[list[float], list[int]]] = {}
        sums = torch.zeros(2, dtype=torch.float64)
        for batch in self._loader(data, sampler, features):
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                value, outputs = self.compute_loss(reward, inputs, True)
            known = len(batch["labels"])
            sums += torch.tensor([float(value) / self.args.world_size * known, known])
            scores = outputs["logits"].softmax(-1)[:, 1].tolist()
            for row, index in enumerate(batch["indices"].tolist()):
                at = (batch["rows"] == row).nonzero().squeeze(1).tolist()
                mine[index] = ([scores[k] for k in at], [int(batch["labels"][k]) for k in at])
        reward.train(was_training)
        if self.args.world_size > 1:
            from accelerate.utils import gather_object

            for other in gather_object([mine]):
                mine |= other
            sums = self.accelerator.gather(sums.to(self.args.device)[None]).sum(0).cpu()
        scores = [score for index in sorted(mine) for score in mine[index][0]]
        labels = [label for index in sorted(mine) for label in mine[index][1]]
        figures = {"loss": float(sums[0] / sums[1]), **step_figures(scores, labels)}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ------------------------------------------------------------ folders

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        model.save(self.model, folder, state_dict, self.scaling)
        self.codec.save(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Does nothing: a checkpoint holds pickles. The finished model is pushed."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Does nothing: the model was already made from the checkpoint's folder."""


class Hooks(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler its epoch, checks the parameters after each step, and writes metrics.jsonl."""

    def __init__(self, trainer: PRMTrainer) -> None:
        self.trainer = trainer
        self.path = Path(trainer.args.output_dir) / METRICS

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Cut off the lines that a resumed run will write again."""
        if state.is_world_process_zero:
            rewind(self.path, state.global_step)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.sampler.epoch = int(state.epoch or 0)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.monitor is not None:
            self.trainer.monitor.parameters(self.trainer.model, state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero:
            values = {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in without_negative_times(logs or {}).items()
            }
            line = json.dumps({"step": state.global_step, "epoch": state.epoch, **values})
            append(self.path, line.encode() + b"\n")


def without_negative_times(figures: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' figures, its times and rates at least 0: it goes by the wall clock, which may step back."""
    timed = ("_runtime", "_per_second")
    return {name: max(0.0, value) if name.endswith(timed) else value for name, value in figures.items()}
