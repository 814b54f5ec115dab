"""The flags of prm/finetune2.py: ours, and all of transformers' TrainingArguments."""

import dataclasses
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agentark.config import ROOT, Config, build, parse_overrides, read_yaml
from agentark.distributed import launch_alone
from agentark.files import check_folder
from agentark.flags import parser_beside, refuse_infinite, refuse_unknown, settings_of
from agentark.types import UserError
from prm.loss import LOSSES
from prm.reading import Overlong, StepLabel
from prm.steps import StepUnit

TWO_STAGE = ROOT / "configs" / "prm" / "two_stage.yaml"
PER_STAGE = {
    *("learning_rate", "num_train_epochs", "weight_decay", "adam_beta2", "warmup_ratio"),
    "gradient_accumulation_steps",
}
"""Flags that the settings of a stage replace with `--stage both`."""
BESIDE = {
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "report_to", "run_name", "disable_tqdm"),
    *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "logging_steps", "logging_strategy"),
    *("log_level", "logging_dir", "local_rank", "dataloader_num_workers", "dataloader_pin_memory", "use_cpu"),
    *("enable_nan_monitoring", "max_forward_tokens", "per_device_eval_batch_size", "eval_strategy", "eval_steps"),
    *("cache_features", "features_dir", "include_num_input_tokens_seen"),
}
"""Flags that do not affect the result."""


class PRMConfig(Config):
    """Our own flags."""

    model_name_or_path: str
    """Base model: hub id, folder, or smollm2-135m-instruct."""
    train_data_path: str
    """Labelled file of label.py, stepwise JSONL, or the hub id of such a dataset."""
    train_split: str = "train"
    """Split of a dataset on the hub."""
    eval_data_path: str | None = None
    """Held-out data of the same kinds."""
    eval_ratio: float = Field(0.0, ge=0, le=0.9)
    """Share of the questions to hold out."""
    step_unit: StepUnit = "step"
    """solution: each whole solution of a question is a step of one sequence."""
    step_label: StepLabel = "inherit"
    """inherit: the solution's verdict; judge: the row's step_labels."""
    require_mixed: bool | None = None
    """Only questions with right and wrong steps (default: on unless --loss ce)."""
    max_train_samples: int | None = Field(None, ge=1)
    """Most solutions to train on."""
    max_length: int | None = Field(None, ge=16)
    """Most tokens of a sequence (default: the model's context)."""
    overlong: Overlong = "cut"
    """If a sequence is too long: cut the prompt's middle, or drop the solution."""
    step_separator_token: str = "\n"
    """Text after each step; must be one token."""
    loss: Literal[LOSSES] = LOSSES[0]  # type: ignore[valid-type]
    """Objective."""
    contrastive_weight: float = Field(0.5, ge=0, le=1e6)
    """Weight of supcon next to the cross entropy."""
    tau: float = Field(0.1, ge=1e-4, le=1e4)
    """Temperature of supcon and ranking."""
    fix_llm: bool | None = None
    """True: stage 1, False: stage 2"""
    stage: Literal["1", "2", "both"] | None = None
    """1: only the head, on a frozen backbone; 2: everything; both: 1, then 2 (default: 2, or --fix_llm)."""
    two_stage_config: Path = TWO_STAGE
    """File with the settings of the two stages of --stage both."""
    stage_1: list[str] = Field([])
    """key=value changes of that file's stage_1."""
    stage_2: list[str] = Field([])
    """key=value changes of that file's stage_2."""
    unfreeze_last_layer: bool = False
    """Stage 1 also trains the last layer."""
    cache_features: bool = False
    """Stage 1 runs the backbone once and keeps its states."""
    features_dir: Path | None = None
    """Folder for these states (default: output_dir)."""
    lora_rank: int = Field(0, ge=0, le=4096)
    """Train stage 2 through adapters of this rank; 0: no adapters."""
    lora_alpha: int | None = None
    """Scale of the adapters (default: twice the rank)."""
    attn_implementation: str | None = None
    """default: flash_attention_2 if it is installed, else sdpa."""
    max_forward_tokens: int = Field(1 << 16, ge=1)
    """Most tokens in a call of a frozen backbone."""
    enable_nan_monitoring: bool = False
    """Watch loss, gradients and parameters for NaN."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What the monitor does on NaN: exit 1, or skip the step."""
    max_nan_skips: int = Field(3, ge=0)
    """Most steps that may be skipped."""
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    overwrite_output_dir: bool = False
    """Replace a run that is in output_dir."""


class StageSettings(Config):
    """One stage of `--stage both`."""

    learning_rate: float = Field(gt=0)
    num_train_epochs: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    """Sequences per optimiser step, over all processes and accumulated batches."""
    weight_decay: float = Field(ge=0)
    adam_beta2: float = Field(gt=0, lt=1)
    warmup_ratio: float = Field(ge=0, lt=1)


def stage_settings(path: Path, stage: int, overrides: list[str]) -> StageSettings:
    """The settings of `configs/prm/two_stage.yaml` and `--stage_1 key=value ...`."""
    values = read_yaml(path)
    unknown = [key for key in values if key not in ("stage_1", "stage_2")]
    if unknown or not all(isinstance(values.get(key), dict) for key in ("stage_1", "stage_2")):
        raise UserError(f"{path}: expected the keys stage_1 and stage_2" + (f", found {unknown[0]}" if unknown else ""))
    where = f"--stage_{stage}" if overrides else f"{path}: stage_{stage}"
    return build(StageSettings, values[f"stage_{stage}"] | parse_overrides(overrides, f"--stage_{stage}"), where)


@dataclass
class Flags:
    """A checked command line."""

    prm: PRMConfig
    values: dict[str, Any]
    """Of TrainingArguments."""

    def training_args(self, **changed: Any) -> Any:
        """transformers' TrainingArguments. Raises UserError if these refuse a value."""
        from transformers import TrainingArguments

        try:
            return TrainingArguments(**{**self.values, **changed})
        except (ValueError, OSError, ImportError, OverflowError, TypeError) as error:
            raise UserError(f"flags: {' '.join(str(error).split())}") from None

    @property
    def stages(self) -> list[int]:
        return {"1": [1], "2": [2], "both": [1, 2]}[self.prm.stage or "2"]

    @property
    def mixed(self) -> bool:
        return self.prm.loss != "ce" if self.prm.require_mixed is None else self.prm.require_mixed

    def identity(self) -> dict[str, Any]:
        """The settings that decide the result: all our flags, and transformers' flags that are not at their default."""
        from transformers import TrainingArguments

        default = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
        ours = self.prm.model_dump() | {"trust_remote_code": False}  # older manifests have this flag
        path = ours.pop("two_stage_config")
        overrides = {stage: ours.pop(f"stage_{stage}") for stage in (1, 2)}
        if self.prm.stage == "both":
            ours["stages"] = [stage_settings(path, stage, given).model_dump() for stage, given in overrides.items()]
        theirs = {
            name: value
            for name, value in self.values.items()
            if value != default.get(name) and isinstance(value, str | int | float)
        }
        return {name: value for name, value in (theirs | ours).items() if name not in BESIDE}


def parse(argv: list[str] | None) -> tuple[Flags, list[str]]:
    """(flags, lines that say how they were adapted to the machine).

    Raises:
        UserError: unknown flags, or flags that do not go together.
    """
    from transformers import HfArgumentParser, TrainingArguments

    parser = parser_beside(PRMConfig, HfArgumentParser, TrainingArguments, description=__doc__)
    namespace, unknown = parser.parse_known_args(argv)
    refuse_unknown(unknown, parser)
    values = vars(namespace)
    own = {name: values.pop(name) for name in PRMConfig.model_fields if name in values}
    flags = Flags(settings_of(PRMConfig, own), values)
    return flags, check(flags, argv)


def check(flags: Flags, argv: list[str] | None) -> list[str]:
    """Refuse flags that do not go together, adapt them to this machine. Returns lines to print."""
    prm, values = flags.prm, flags.values
    if values["output_dir"] is None:
        raise UserError("--output_dir: where the reward model goes is missing")
    refuse_infinite(values)
    if not 0 <= values["seed"] < 1 << 32:
        raise UserError(f"--seed {values['seed']}: expected a number from 0 to {(1 << 32) - 1}")
    if prm.features_dir is not None:
        check_folder(prm.features_dir, f"--features_dir {prm.features_dir}")
    if prm.fix_llm is not None:
        said = "1" if prm.fix_llm else "2"
        if prm.stage not in (None, said):
            raise UserError(f"--fix_llm {prm.fix_llm}: means --stage {said}, but --stage is {prm.stage}")
        flags.prm = prm = prm.model_copy(update={"stage": said})
    if prm.stage == "both":
        words = sys.argv[1:] if argv is None else argv
        given = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("--")}
        if clash := sorted(given & PER_STAGE):
            raise UserError(
                f"--{clash[0]}: with --stage both it is set per stage, with --stage_1 {clash[0]}=... (batch_size for "
                f"accumulation) or in {prm.two_stage_config}"
            )
        for stage in (1, 2):
            stage_settings(prm.two_stage_config, stage, getattr(prm, f"stage_{stage}"))
    elif prm.stage_1 or prm.stage_2:
        raise UserError("--stage_1 and --stage_2: go with --stage both")
    if 1 not in flags.stages:
        for name in ("unfreeze_last_layer", "cache_features"):
            if getattr(prm, name):
                raise UserError(f"--{name}: belongs to stage 1 (--stage 1 or --fix_llm True)")
    if prm.lora_rank and 2 not in flags.stages:
        raise UserError("--lora_rank: belongs to stage 2; stage 1 trains no layer")
    if prm.warmup_ratio:
        if values["warmup_steps"]:
            raise UserError("--warmup_ratio: does not go together with --warmup_steps")
        values["warmup_steps"] = prm.warmup_ratio
    if values["deepspeed"]:
        _check_deepspeed(values)
    return _precision(values)


def _check_deepspeed(values: dict[str, Any]) -> None:
    path = values["deepspeed"]
    if find_spec("deepspeed") is None:
        raise UserError("--deepspeed: the package deepspeed is not installed (pip install deepspeed)")
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "t", "on") or values["use_cpu"]:
        raise UserError("--deepspeed: ACCELERATE_USE_CPU (or --use_cpu) would silently switch DeepSpeed off; unset it")
    if not path.startswith("{") and not Path(path).is_file():
        raise UserError(f"--deepspeed {path}: no such file; configs/deepspeed/ has zero2.json and zero3.json")
    if "RANK" not in os.environ:  # one process without a launcher
        launch_alone()


def _precision(values: dict[str, Any]) -> list[str]:
    import torch
    from transformers.utils import is_torch_bf16_gpu_available

    notes = []
    if values["bf16"] and (values["use_cpu"] or not is_torch_bf16_gpu_available()):
        values["bf16"] = False
        notes.append("--bf16 True: not supported by this machine; training in fp32")
    if values["fp16"] and (values["use_cpu"] or not torch.cuda.is_available()):
        values["fp16"] = False
        notes.append("--fp16 True: needs a GPU; training in fp32")
    return notes
