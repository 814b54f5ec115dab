"""The command line of distill.sft: its own flags, and every one of TRL's SFTConfig."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, NoReturn

from agentark.config import nearest
from agentark.types import UserError

BESIDE = {
    *("train_data_path", "output_dir", "overwrite", "logging_dir", "run_name", "report_to", "disable_tqdm", "project"),
    *("resume_from_checkpoint", "hub_token", "logging_steps", "logging_strategy", "log_level", "log_level_replica"),
    *("push_to_hub", "trackio_space_id", "save_total_limit", "dataloader_num_workers", "local_rank"),
}
"""Flags that do not decide what comes out (of the data, its content does)."""


@dataclass
class Arguments:
    """Flags of distill.sft that are not TRL's."""

    model_name_or_path: str = field(metadata={"help": "student: hub id, local folder, or smollm2-135m-instruct"})
    train_data_path: str = field(metadata={"help": "training set of distill.select (.jsonl)"})
    dtype: str = field(default="float32", metadata={"help": "of the weights: auto, float32, bfloat16 or float16"})
    attn_implementation: str | None = field(default=None, metadata={"help": "attention, e.g. flash_attention_2"})
    too_long: Literal["drop", "cut"] = field(
        default="drop", metadata={"help": "rows longer than --max_length (default: the model's context)"}
    )
    lora_rank: int | None = field(default=None, metadata={"help": "train an adapter of this rank instead of all"})
    lora_alpha: float | None = field(default=None, metadata={"help": "scale of the adapter (default: 2 x rank)"})
    lora_dropout: float = field(default=0.0, metadata={"help": "dropout of the adapter"})
    merge_lora: bool = field(default=False, metadata={"help": "write the whole model with the adapter merged in"})
    eval_task: str | None = field(default=None, metadata={"help": "dataset to evaluate on while training, e.g. GSM8K"})
    eval_samples: int = field(default=200, metadata={"help": "its first so many questions"})
    eval_every: int = field(default=50, metadata={"help": "optimizer steps between two evaluations"})
    eval_split: str | None = field(default=None, metadata={"help": "default: the dataset's evaluation split"})
    eval_data_dir: str | None = field(default=None, metadata={"help": "folder with the dataset's file"})
    eval_config: list[str] = field(default_factory=list, metadata={"help": "options of the dataset, key=value"})
    eval_max_tokens: int = field(default=256, metadata={"help": "new tokens per reply"})
    allow_contamination: bool = field(default=False, metadata={"help": "evaluate on questions that are trained on"})
    overwrite: bool = field(default=False, metadata={"help": "train anew where output_dir holds another run"})


def parse(argv: list[str] | None = None) -> tuple[Arguments, Any]:
    """(our flags, TRL's SFTConfig).

    Raises:
        UserError: an unknown flag, a bad value, or a missing library.
    """
    if missing := [name for name in ("torch", "transformers", "trl", "peft", "datasets") if find_spec(name) is None]:
        raise UserError(f"distill.sft needs {missing[0]}, which is not installed (make .venv)")
    import torch
    from trl import SFTConfig, TrlParser

    class Parser(TrlParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise UserError(message)

    parser = Parser((Arguments, SFTConfig), prog="python -m distill.sft", allow_abbrev=False)
    cuda = torch.cuda.is_available()
    parser.set_defaults(
        report_to="none",
        bf16=cuda and torch.cuda.is_bf16_supported(),
        gradient_checkpointing=cuda,
        dataloader_pin_memory=cuda,
        max_length=None,
        save_total_limit=2,
    )
    early, _ = parser.parse_known_args(argv)
    if early.eval_task is not None:
        parser.set_defaults(
            eval_strategy="steps",
            eval_steps=early.eval_every,
            save_strategy="steps",
            save_steps=early.eval_every,
            load_best_model_at_end=True,
            metric_for_best_model="eval_score",
            greater_is_better=True,
        )
    try:
        ours, training, unknown = parser.parse_args_and_config(argv, return_remaining_strings=True)
    except (ValueError, OSError) as error:
        raise UserError(" ".join(str(error).split())) from None
    if unknown:
        flags = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
        raise UserError(f"unknown argument {unknown[0]} ({nearest(unknown[0], flags).rpartition('; ')[2]}; see --help)")
    if ours.merge_lora and ours.lora_rank is None:
        raise UserError("--merge_lora: needs --lora_rank")
    if training.packing and find_spec("flash_attn") is None:
        raise UserError("--packing: needs flash-attention, which is not installed; leave it out")
    if training.packing and ours.attn_implementation is None:
        ours.attn_implementation = "flash_attention_2"
    if training.eval_strategy != "no" and ours.eval_task is None:
        raise UserError("--eval_strategy: needs a dataset to evaluate on (--eval_task)")
    return ours, training
