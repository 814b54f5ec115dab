"""From checked flags to a saved reward model: data, stages, manifest. `prm/finetune2.py` is the command line."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from agentark import checkpoints, cli, distributed, jsonl
from agentark.files import file_sha256, json_of, replacing, sessions_of, space_in, write_atomically
from agentark.hub import context_length, model_config
from agentark.records import now
from agentark.run_folder import RunFolder
from agentark.students import check_training
from agentark.types import RunError, UserError
from prm import data, features, loss, model
from prm.figures import plot
from prm.monitor import NanMonitor
from prm.settings import Flags, PRMConfig, stage_settings
from prm.steps import StepCodec, load_tokenizer
from prm.trainer import METRICS, PRMTrainer, without_negative_times

KIND = "process reward model"
PLOT = "curves.png"
DONE = "done.json"
"""File with a stage's figures, in its folder, if the run has two stages."""
SHOWN = ("accuracy", "f1_wrong", "auroc", "calibration_error", "margin")
Say = Callable[[str], None]


def run(flags: Flags, say: Say) -> Path:
    """Train as the flags say.

    Args:
        say: prints a line for the user; only the first process calls it.

    Returns:
        The folder of the reward model.

    Raises:
        UserError: bad input. RunError: NaN, or DeepSpeed was asked for but is not on.
    """
    prm = flags.prm
    out = Path(os.path.expanduser(flags.values["output_dir"]))
    main = int(os.environ.get("RANK", "0")) == 0
    tell: Say = say if main else lambda _: None
    base, _ = cli.resolve_model(prm.model_name_or_path, "--model_name_or_path")
    source = Path(prm.train_data_path)  # or a dataset on the hub, whose content has no hash
    identity = flags.identity() | {"train_data_sha256": file_sha256(source) if source.is_file() else None}
    output = RunFolder(
        out, identity, kind=KIND, flag="--output_dir", replace="--overwrite_output_dir True",
        replaces=prm.overwrite_output_dir,
    )  # fmt: skip
    if output.open(main):
        tell(f"{out} holds this run, finished; nothing to do")
        return out
    codec = make_codec(base, prm)
    train, held_out = data.load(flags, codec)
    for dataset in (train, held_out):
        if dataset is not None:
            tell(dataset.card.text())
    tell(data.check_batch(data.collate(train.items[:8]), codec))
    with space_in(out):
        metrics = Training(flags, base, output, codec, train, held_out, tell).run()
    output.write(status="done", metrics=metrics)
    tell(f"written to {out}")
    return out


def make_codec(base: str, prm: PRMConfig) -> StepCodec:
    """The codec of a run, with a checked separator and a length within the model's context."""
    context = context_length(model_config(base, "--model_name_or_path"))
    if prm.max_length is not None and context is not None and prm.max_length > context:
        raise UserError(f"--max_length {prm.max_length}: the model's context has {context} tokens")
    length = prm.max_length or context
    if length is None:
        raise UserError("--max_length: the model's configuration names no context length; give one")
    tokenizer = load_tokenizer(base, "--model_name_or_path")
    return StepCodec.of(tokenizer, prm.step_separator_token, prm.step_unit, length)


def stage_args(flags: Flags, stage: int, folder: Path) -> Any:
    changed: dict[str, Any] = {"output_dir": str(folder), "remove_unused_columns": False}
    if flags.prm.stage == "both":
        settings = stage_settings(flags.prm.two_stage_config, stage, getattr(flags.prm, f"stage_{stage}"))
        world = int(os.environ.get("WORLD_SIZE", "1"))
        size = max(1, min(flags.values["per_device_train_batch_size"], settings.batch_size // world))
        if settings.batch_size % (size * world):
            raise UserError(
                f"--stage_{stage} batch_size={settings.batch_size}: not a multiple of {world} processes x "
                f"--per_device_train_batch_size {size}"
            )
        changed |= settings.model_dump(exclude={"batch_size", "warmup_ratio"})
        changed["warmup_steps"] = settings.warmup_ratio
        changed["per_device_train_batch_size"] = size
        changed["gradient_accumulation_steps"] = settings.batch_size // (size * world)
    if stage == 1 and flags.values["gradient_checkpointing"]:
        changed["gradient_checkpointing"] = False  # no activations are kept below the head
    elif flags.values["gradient_checkpointing"] and not flags.values["gradient_checkpointing_kwargs"]:
        changed["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    args = flags.training_args(**changed, **distributed.settings(bool(flags.values["deepspeed"])))
    check_training(args)
    args._n_gpu = min(args.n_gpu, 1)  # no DataParallel, which would cut a batch in pieces: torchrun uses all GPUs
    return args


@dataclass
class Training:
    """The stages of a run; each starts from the model of the stage before."""

    flags: Flags
    base: str
    output: RunFolder
    codec: StepCodec
    train: data.Dataset
    held_out: data.Dataset | None
    tell: Say

    def run(self) -> dict[str, Any]:
        """Train every stage that is not done yet. Returns figures per stage."""
        main, out = int(os.environ.get("RANK", "0")) == 0, self.output.folder
        stages = self.flags.stages
        metrics: dict[str, Any] = {}
        for number in stages:
            folder = out if len(stages) == 1 else out / f"stage_{number}"
            start = self.base if number == stages[0] else str(out / f"stage_{stages[0]}")
            if self.output.continued and (folder / DONE).is_file():
                self.tell(f"stage {number} is done already")
                metrics |= json_of(folder / DONE)
                continue
            figures = {f"stage_{number}": self.stage(number, start, folder)}
            metrics |= figures
            if main and folder != out:
                write_atomically(folder / DONE, msgspec.json.encode(figures))
        self.claim()
        if main and len(stages) > 1:
            self.put_together(out / f"stage_{stages[-1]}")
        return metrics

    def put_together(self, last: Path) -> None:
        """Copy the last stage's model to where the run's model is expected."""
        for file in last.iterdir():
            if file.is_file() and file.name not in (METRICS, PLOT, DONE):
                with file.open("rb") as stage, replacing(self.output.folder / file.name) as stream:
                    shutil.copyfileobj(stage, stream)

    def claim(self) -> None:
        """Claim the folder, once everything is loaded; only the first call has an effect."""
        prm, output = self.flags.prm, self.output
        session = {"started": now(), "command": cli.command_line(), "versions": cli.provenance()}
        output.claim(
            self.tell,
            kind=KIND,
            config=output.identity,
            status="running",
            base_model=prm.model_name_or_path,
            train_data={
                "path": prm.train_data_path,
                "sha256": output.identity["train_data_sha256"],
                **self.train.card.figures(),
            },
            train_ids=self.train.questions,
            held_out_ids=self.held_out.questions if self.held_out else [],
            steps=msgspec.to_builtins(self.codec.settings),
            sessions=[*sessions_of(output.values), session],
        )

    def stage(self, stage: int, start: str, folder: Path) -> dict[str, Any]:
        """Train one stage and save its model.

        Args:
            start: the base model, or the folder of the stage before.
            folder: folder of this stage.

        Returns:
            Figures for the manifest.
        """
        from transformers import set_seed

        flags, prm, tell = self.flags, self.flags.prm, self.tell
        if stage == 1 and flags.values["gradient_checkpointing"]:
            tell("--gradient_checkpointing True: nothing to recompute while the backbone is frozen; off in stage 1")
        args = stage_args(flags, stage, folder)
        checkpoint = checkpoints.chosen(flags.values["resume_from_checkpoint"], folder, self.output, tell)
        if checkpoint:
            tell(f"resuming from {checkpoint}")
        set_seed(args.seed)
        objective = loss.Objective.named(prm.loss, prm.contrastive_weight, prm.tau)
        reward, scaling = _reward_model(prm, stage, args, start, checkpoint, objective)
        _liger(args, reward, tell)
        if prm.enable_nan_monitoring and prm.on_nan == "skip" and args.deepspeed:
            raise UserError("--on_nan skip: DeepSpeed steps before gradients can be seen; use --on_nan stop")
        if args.eval_strategy != "no" and self.held_out is None:
            raise UserError(f"--eval_strategy {args.eval_strategy.value}: needs --eval_data_path or --eval_ratio")
        self.claim()
        cached = self._states(args, reward, folder, start) if prm.cache_features and stage == 1 else None
        monitor = None
        if prm.enable_nan_monitoring:
            monitor = NanMonitor(folder / "nan", args.process_index, prm.on_nan, prm.max_nan_skips)
        held_out = self.held_out.items if self.held_out else None
        try:
            trainer = PRMTrainer(
                reward, args, objective, self.codec, self.train.items, held_out, cached, monitor, scaling
            )
        except (ValueError, RuntimeError, ImportError) as error:  # e.g. --report_to names what is not installed
            raise UserError(f"flags: {' '.join(str(error).split())}") from None
        engine = str(trainer.accelerator.distributed_type).rpartition(".")[2]
        if args.deepspeed and engine != "DEEPSPEED":
            raise RunError(f"--deepspeed {args.deepspeed}: was asked for, but the run would use {engine}")
        weights = [weight for weight in reward.parameters() if weight.requires_grad]
        trained = sum(getattr(weight, "ds_numel", weight.numel()) for weight in weights)
        tell(f"stage {stage}: {trained} parameters are trained with {prm.loss}, {args.world_size} processes ({engine})")
        trainer.add_callback(checkpoints.marking(trainer, self.output, checkpoint, train_ids=self.train.questions))
        begun = time.perf_counter()
        with checkpoints.loading(checkpoint):
            result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        figures = {"train_loss": result.training_loss, "optimizer_steps": result.global_step, "engine": engine}
        figures |= {"seconds": round(time.perf_counter() - begun, 3), "skipped": monitor.skipped if monitor else 0}
        if held_out is not None:
            figures |= without_negative_times(trainer.evaluate())
            shown = {name: f"{figures['eval_' + name]:.4f}" for name in SHOWN}
            tell("held out: " + ", ".join(f"{name} {value}" for name, value in shown.items()))
        trainer.save_model(str(folder))
        if find_spec("matplotlib") is None:
            tell(f"no {PLOT}: matplotlib is not installed")
        elif trainer.is_world_process_zero():
            plot([row for _, row in jsonl.objects(folder / METRICS, METRICS)], folder / PLOT)
        trainer.accelerator.wait_for_everyone()
        return figures

    def _states(
        self, args: Any, reward: model.RewardModel, folder: Path, origin: str
    ) -> tuple[features.Features, features.Features | None]:
        """The states of both sets; the first process computes them while the others wait."""
        if not reward.frozen:
            size = next(reward.backbone.parameters()).element_size()
            raise features.refuse_unfrozen(reward.config.get_text_config().hidden_size, self.train.items, size)
        if self.flags.values["deepspeed"]:
            raise UserError("--cache_features: the head needs no DeepSpeed; leave out --deepspeed")
        reward.to(args.device)
        states = self.flags.prm.features_dir or folder / "features"
        with args.main_process_first(desc="states"):
            made = [
                features.prepare(reward, dataset.items, states / name, args.device, origin)
                for name, dataset in (("train", self.train), ("held_out", self.held_out))
                if dataset is not None
            ]
        self.tell(f"the backbone's states are in {states}")
        return made[0], made[1] if self.held_out is not None else None


def _reward_model(
    prm: PRMConfig, stage: int, args: Any, start: str, checkpoint: Path | None, objective: loss.Objective
) -> tuple[model.RewardModel, float | None]:
    """(the model with this stage's parameters unfrozen, alpha / rank of its adapters if it has any)."""
    import torch

    lora = prm.lora_rank if stage == 2 else 0
    frozen = stage == 1 or bool(lora)
    reward = model.load(
        start if checkpoint is None or lora else str(checkpoint),
        "--model_name_or_path",
        projected=model.PROJECTED if objective.contrastive == "supcon" else 0,
        dtype="auto" if frozen and args.bf16 else torch.float32,
        attention=prm.attn_implementation or ("flash_attention_2" if args.bf16 and find_spec("flash_attn") else None),
    )
    reward.max_tokens = prm.max_forward_tokens
    if lora:
        alpha = prm.lora_alpha or 2 * lora
        model.add_lora(reward, lora, alpha)
        if checkpoint:
            model.restore_adapter(reward, checkpoint)
        return reward, alpha / lora
    model.freeze(reward, stage, prm.unfreeze_last_layer and stage == 1)
    return reward, None


def _liger(args: Any, reward: model.RewardModel, tell: Say) -> None:
    """Use liger's kernels in the backbone, if they are installed and there is a GPU."""
    import torch

    if find_spec("liger_kernel") is None:
        if args.use_liger_kernel:
            raise UserError("--use_liger_kernel: the package liger-kernel is not installed (pip install liger-kernel)")
        return
    if torch.cuda.is_available():
        import_module("liger_kernel.transformers")._apply_liger_kernel_to_instance(model=reward.classifier)
        tell("liger kernels are on")
    args.use_liger_kernel = False  # the Trainer would look for a PreTrainedModel
