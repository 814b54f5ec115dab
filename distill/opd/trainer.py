"""TRL's trainers of on-policy distillation, as this project runs them: continued exactly, watched, with its curves.

`Itself` is TRL's SDFTTrainer, whose teacher is the student with a context in its prompt; `Other` is TRL's
DistillationTrainer, whose teacher is another model. Neither changes the loss.

Needs torch, so it is imported only when training begins.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback
from trl import DistillationTrainer
from trl.experimental.sdft import SDFTTrainer
from trl.experimental.sdft.sdft_trainer import DemonstrationTeacherContextBuilder

from agentark.exam import Exam
from agentark.files import append
from agentark.health import Watch
from agentark.students import WithoutPickles

METRICS, DEV = "metrics.jsonl", "dev.jsonl"
"""Files of the curves, as GRPO writes them."""
NAMES: Mapping[str, str] = {
    "completions/mean_length": "length",
    "completions/clipped_ratio": "truncated",
    "num_tokens": "tokens",
}
"""TRL's name of a figure -> GRPO's."""
TEACHER = "teacher.safetensors"
"""In a checkpoint: an averaged teacher."""


class OnPolicy(WithoutPickles):
    """What both trainers have in common.

    Args:
        folder: of the run; curves are written there.
        watch: compares every logged step with the bounds of the run.
    """

    state: Any
    model: Any
    accelerator: Any
    processing_class: Any
    _metrics: Any
    _step: int

    def __init__(self, *, folder: Path, watch: Watch, **upstream: Any) -> None:
        super().__init__(**upstream)
        self.folder = folder
        self.watch = watch
        self.stopped: list[str] = []
        self.sampler: Any = None
        self._total_train_tokens = 0
        self.add_callback(Log(self))  # type: ignore[attr-defined]

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self.sampler = super()._get_train_sampler(dataset)  # type: ignore[misc]
        return self.sampler

    def _ids(self, prompts: list[str]) -> list[list[int]]:
        """Token ids of prompts, which are rendered already and hold their special tokens."""
        ids: list[list[int]] = self.processing_class(text=prompts, add_special_tokens=False)["input_ids"]
        return ids

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Upstream's; also counts the tokens that are trained on, over all processes."""
        self._total_train_tokens += int(self.accelerator.gather(inputs["completion_mask"].sum()).sum())
        return super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training:
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        super().log(logs, start_time)  # type: ignore[misc]


class Prerendered(DemonstrationTeacherContextBuilder):  # type: ignore[misc]
    """The teacher's prompt is the column `privileged_context` as it stands: rendered, with its question."""

    def _compose_teacher_prompt(self, prompt: Any, privileged_context: Any) -> Any:
        return privileged_context


class Itself(OnPolicy, SDFTTrainer):  # type: ignore[misc]
    """The teacher is the student that has read a context."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.teacher_context_builder = Prerendered(self)

    def _tokenize_prompts(self, prompts: list[str]) -> list[list[int]]:
        return self._ids(prompts)

    def _log_self_distillation_metric(self, mode: str, value: float) -> None:
        self._metrics[mode]["kl"].append(value)


class Other(OnPolicy, DistillationTrainer):  # type: ignore[misc]
    """The teacher is another model."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self._ids(prompts), None, {}


class Log(TrainerCallback):  # type: ignore[misc]
    """Writes metrics.jsonl, warns and stops by the bounds, and puts a continued run where it was."""

    def __init__(self, trainer: OnPolicy) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A continued run counts its micro-batches from where it stopped, or rollouts would not match the data."""
        self.trainer._step = state.global_step * args.gradient_accumulation_steps

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The order of an epoch depends on its number alone; upstream's depends on the epochs of this process."""
        if (generator := getattr(self.trainer.sampler, "generator", None)) is not None:  # none: not shuffled
            generator.manual_seed(args.seed + int(state.epoch + 1e-6))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        figures = {NAMES.get(name, name): value for name, value in logs.items() if not name.startswith("completions/m")}
        figures |= {name: logs[old] for old, name in NAMES.items() if old in logs}
        figures.setdefault("kl", logs["loss"])
        if state.is_world_process_zero:
            row = {"step": state.global_step, **figures}
            append(self.trainer.folder / METRICS, json.dumps(row).encode() + b"\n")
        alarms, stops = self.trainer.watch.add(figures)
        self.trainer.stopped += stops
        for line in alarms if state.is_world_process_zero else ():
            print(f"alarm: step {state.global_step}: {line}", flush=True)  # noqa: T201 -- it says how the run goes on
        if stops:
            control.should_training_stop = control.should_save = True


class HeldOut(TrainerCallback):  # type: ignore[misc]
    """Asks the student the exam's questions before, while and after it trains; a line of dev.jsonl each time."""

    def __init__(self, trainer: OnPolicy, exam: Exam, every: int) -> None:
        self.trainer = trainer
        self.exam = exam
        self.every = every

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self.ask(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every == 0:
            self.ask(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every:
            self.ask(state)

    def ask(self, state: Any) -> None:
        training = self.trainer.model.training
        figures = self.exam(self.trainer)
        self.trainer.model.train(training)
        if not state.is_world_process_zero:
            return
        n = int(figures["eval_n"])
        unanswered = round(figures["eval_unanswered"] * n)
        row = {"step": state.global_step, "accuracy": figures["eval_score"], "se": figures["eval_score_se"], "n": n}
        append(self.trainer.folder / DEV, json.dumps(row | {"unanswered": unanswered}).encode() + b"\n")
        print(f"step {state.global_step}: {row['accuracy']:.3f} ± {row['se']:.3f} (n {n})", flush=True)  # noqa: T201


class AveragedTeacher(TrainerCallback):  # type: ignore[misc]
    """Keeps an averaged teacher (ema) in every checkpoint, where upstream would begin again with the first student."""

    def __init__(self, trainer: Itself, checkpoint: Path | None) -> None:
        self.teacher = trainer.accelerator.unwrap_model(trainer.teacher_model)
        self.checkpoint = checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.checkpoint is not None:
            weights = load_file(self.checkpoint / TEACHER)
            with torch.no_grad():
                for name, value in self.teacher.named_parameters():
                    value.copy_(weights[name])

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            weights: dict[str, Tensor] = {
                name: value.detach().contiguous() for name, value in self.teacher.named_parameters()
            }
            save_file(weights, folder / TEACHER)
