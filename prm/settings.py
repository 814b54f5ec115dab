"""What prm/finetune2.py can be told: our flags beside all of transformers' TrainingArguments."""

import dataclasses
import os
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from pydantic import Field

from agentark.config import ROOT, Config, build, nearest, parse_overrides, read_yaml
from agentark.types import UserError
from prm.distributed import launch_alone
from prm.loss import LOSSES

TWO_STAGE = ROOT / "configs" / "prm" / "two_stage.yaml"
PER_STAGE = {
    *("learning_rate", "num_train_epochs", "weight_decay", "adam_beta2", "warmup_ratio"),
    "gradient_accumulation_steps",
}
"""Flags that a stage's settings decide with `--stage both`."""
BESIDE = {
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "report_to", "run_name", "disable_tqdm"),
    *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "logging_steps", "logging_strategy"),
    *("log_level", "logging_dir", "local_rank", "dataloader_num_workers", "dataloader_pin_memory", "use_cpu"),
    *("enable_nan_monitoring", "max_forward_tokens", "per_device_eval_batch_size", "eval_strategy", "eval_steps"),
    *("cache_features", "features_dir", "include_num_input_tokens_seen"),
}
"""Flags that do not decide what comes out."""


@dataclass
class PRMArguments:
    """Flags of our own."""

    model_name_or_path: str = field(metadata={"help": "base model: hub id, folder, or smollm2-135m-instruct"})
    train_data_path: str = field(
        metadata={"help": "labelled file of label.py, stepwise JSONL, or such a dataset's hub id"}
    )
    train_split: str = field(default="train", metadata={"help": "split, for a dataset on the hub"})
    eval_data_path: str | None = field(default=None, metadata={"help": "held-out data of the same kinds"})
    eval_ratio: float = field(default=0.0, metadata={"help": "share of the questions that is held out"})
    step_unit: str = field(
        default="step",
        metadata={
            "help": "solution: a question's whole solutions are the steps of one sequence",
            "choices": ["step", "solution"],
        },
    )
    step_label: str = field(
        default="inherit",
        metadata={
            "help": "inherit: the solution's verdict; judge: the row's step_labels",
            "choices": ["inherit", "judge"],
        },
    )
    require_mixed: bool | None = field(
        default=None, metadata={"help": "only questions with right and wrong ones (default: on unless --loss ce)"}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "solutions to train on, at most"})
    max_length: int | None = field(
        default=None, metadata={"help": "tokens of a sequence (default: the model's context)"}
    )
    overlong: str = field(
        default="cut", metadata={"help": "cut the prompt's middle, or drop the solution", "choices": ["cut", "drop"]}
    )
    step_separator_token: str = field(default="\n", metadata={"help": "text after each step; must be one token"})
    loss: str = field(default=LOSSES[0], metadata={"help": "objective", "choices": list(LOSSES)})
    contrastive_weight: float = field(default=0.5, metadata={"help": "weight of supcon beside the cross entropy"})
    tau: float = field(default=0.1, metadata={"help": "temperature of supcon and ranking"})
    fix_llm: bool | None = field(default=None, metadata={"help": "True: stage 1, False: stage 2"})
    stage: str | None = field(
        default=None,
        metadata={
            "help": "1: the head over a frozen backbone; 2: everything; both: 1, then 2 (default: 2, or --fix_llm)",
            "choices": ["1", "2", "both"],
        },
    )
    two_stage_config: Path = field(default=TWO_STAGE, metadata={"help": "settings of the stages with --stage both"})
    stage_1: list[str] = field(default_factory=list, metadata={"help": "key=value over that file's stage_1"})
    stage_2: list[str] = field(default_factory=list, metadata={"help": "key=value over that file's stage_2"})
    unfreeze_last_layer: bool = field(default=False, metadata={"help": "stage 1 trains the last layer too"})
    cache_features: bool = field(
        default=False, metadata={"help": "stage 1 runs the backbone once and keeps its states"}
    )
    features_dir: Path | None = field(default=None, metadata={"help": "where these states are (default: output_dir)"})
    lora_rank: int = field(default=0, metadata={"help": "stage 2 through adapters of this rank; 0: none"})
    lora_alpha: int | None = field(default=None, metadata={"help": "scale of the adapters (default: twice the rank)"})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "default: flash_attention_2 where it is installed, else sdpa"}
    )
    max_forward_tokens: int = field(default=1 << 16, metadata={"help": "tokens in one call of a frozen backbone"})
    enable_nan_monitoring: bool = field(
        default=False, metadata={"help": "watch loss, gradients and parameters for NaN"}
    )
    on_nan: str = field(
        default="stop",
        metadata={"help": "what the monitor does: exit 1, or skip the step", "choices": ["stop", "skip"]},
    )
    max_nan_skips: int = field(default=3, metadata={"help": "steps that may be skipped"})
    warmup_ratio: float = field(default=0.0, metadata={"help": "share of the steps that warm up"})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "replace the run in output_dir"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run code that comes with the base model"})


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
    """Of `configs/prm/two_stage.yaml` and `--stage_1 key=value ...`."""
    values = read_yaml(path)
    unknown = [key for key in values if key not in ("stage_1", "stage_2")]
    if unknown or not all(isinstance(values.get(key), dict) for key in ("stage_1", "stage_2")):
        raise UserError(f"{path}: expected the keys stage_1 and stage_2" + (f", found {unknown[0]}" if unknown else ""))
    where = f"--stage_{stage}" if overrides else f"{path}: stage_{stage}"
    return build(StageSettings, values[f"stage_{stage}"] | parse_overrides(overrides, f"--stage_{stage}"), where)


@dataclass
class Flags:
    """A checked command line."""

    prm: PRMArguments
    values: dict[str, Any]
    """Of TrainingArguments."""

    def training_args(self, **changed: Any) -> Any:
        """transformers' TrainingArguments. Raises UserError where these refuse."""
        from transformers import TrainingArguments

        try:
            return TrainingArguments(**{**self.values, **changed})
        except (ValueError, ImportError) as error:
            raise UserError(f"flags: {' '.join(str(error).split())}") from None

    @property
    def stages(self) -> list[int]:
        return {"1": [1], "2": [2], "both": [1, 2]}[self.prm.stage or "2"]

    @property
    def mixed(self) -> bool:
        return self.prm.loss != "ce" if self.prm.require_mixed is None else self.prm.require_mixed

    def identity(self) -> dict[str, Any]:
        """What decides the outcome: of ours everything, of transformers' what is not its default."""
        from transformers import TrainingArguments

        default = {one.name: one.default for one in dataclasses.fields(TrainingArguments)}
        ours = dataclasses.asdict(self.prm)
        path, one, two = ours.pop("two_stage_config"), ours.pop("stage_1"), ours.pop("stage_2")
        if self.prm.stage == "both":
            ours["stages"] = [stage_settings(path, stage, given).model_dump() for stage, given in ((1, one), (2, two))]
        theirs = {
            name: value
            for name, value in self.values.items()
            if value != default.get(name) and isinstance(value, str | int | float)
        }
        return {name: value for name, value in (theirs | ours).items() if name not in BESIDE}


def parse(argv: list[str] | None) -> tuple[Flags, list[str]]:
    """(flags, lines that say where they were adapted to the machine).

    Raises:
        UserError: unknown flags, or flags that do not go together.
    """
    from transformers import HfArgumentParser, TrainingArguments

    class Parser(HfArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise UserError(message)

    parser = Parser((PRMArguments, TrainingArguments), allow_abbrev=False, description=__doc__)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
        hint = nearest(unknown[0], known).rpartition("; ")[2] if unknown[0].startswith("--") else "see --help"
        raise UserError(f"unknown argument {unknown[0]} ({hint if 'mean' in hint else 'see --help'})")
    values = vars(namespace)
    own = {one.name for one in dataclasses.fields(PRMArguments)}
    flags = Flags(PRMArguments(**{name: values.pop(name) for name in own}), values)
    notes = check(flags, argv)
    return flags, notes


def check(flags: Flags, argv: list[str] | None) -> list[str]:
    """Refuse what does not go together, adapt what this machine lacks. Returns lines to print."""
    prm, values = flags.prm, flags.values
    if values["output_dir"] is None:
        raise UserError("--output_dir: where the reward model goes is missing")
    if prm.fix_llm is not None:
        said = "1" if prm.fix_llm else "2"
        if prm.stage not in (None, said):
            raise UserError(f"--fix_llm {prm.fix_llm}: means --stage {said}, but --stage is {prm.stage}")
        prm.stage = said
    _check_numbers(prm)
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
    return _check_deepspeed(values) + _precision(values)


def _check_numbers(prm: PRMArguments) -> None:
    bounds = {
        "eval_ratio": (0, 0.9), "contrastive_weight": (0, 1e6), "tau": (1e-4, 1e4), "warmup_ratio": (0, 0.999),
        "lora_rank": (0, 4096), "max_length": (16, 1 << 24), "max_train_samples": (1, 1 << 40),
        "max_nan_skips": (0, 1 << 20), "max_forward_tokens": (1, 1 << 30),
    }  # fmt: skip
    for name, (least, most) in bounds.items():
        value = getattr(prm, name)
        if value is not None and not least <= value <= most:
            raise UserError(f"--{name} {value}: must be from {least} to {most}")


def _check_deepspeed(values: dict[str, Any]) -> list[str]:
    if not values["deepspeed"]:
        return []
    path = values["deepspeed"]
    if find_spec("deepspeed") is None:
        raise UserError("--deepspeed: the package deepspeed is not installed (pip install deepspeed)")
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "t", "on") or values["use_cpu"]:
        raise UserError("--deepspeed: ACCELERATE_USE_CPU (or --use_cpu) would silently switch DeepSpeed off; unset it")
    if not path.startswith("{") and not Path(path).is_file():
        raise UserError(f"--deepspeed {path}: no such file; configs/deepspeed/ has zero2.json and zero3.json")
    if "RANK" not in os.environ:  # one process without a launcher
        launch_alone()
    return []


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
