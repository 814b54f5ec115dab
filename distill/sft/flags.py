"""The command line of distill.sft: its own flags, and all flags of TRL's SFTConfig."""

from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field

from agentark.config import Config
from agentark.flags import parser_beside, refuse_unknown, settings_of
from agentark.types import UserError

BESIDE = {
    *("train_data_path", "output_dir", "overwrite", "logging_dir", "run_name", "report_to", "disable_tqdm", "project"),
    *("resume_from_checkpoint", "hub_token", "logging_steps", "logging_strategy", "log_level", "log_level_replica"),
    *("push_to_hub", "trackio_space_id", "save_total_limit", "dataloader_num_workers", "local_rank"),
}
"""Flags that do not affect the result (the content of the data does, its path does not)."""


class SFTFlags(Config):
    """Flags of distill.sft that are not TRL's."""

    model_name_or_path: str
    """Student: hub id, local folder, or smollm2-135m-instruct."""
    train_data_path: str
    """Training set of distill.select (.jsonl)."""
    dtype: str = "float32"
    """Type of the weights: auto, float32, bfloat16 or float16."""
    attn_implementation: str | None = None
    """Attention, e.g. flash_attention_2."""
    too_long: Literal["drop", "cut"] = "drop"
    """Rows longer than --max_length (default: the model's context) are cut or dropped."""
    lora_rank: int | None = Field(None, ge=1, le=4096)
    """Train an adapter of this rank instead of all weights."""
    lora_alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Scale of the adapter (default: 2 x rank)."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of the adapter."""
    merge_lora: bool = False
    """Write the whole model with the adapter merged in."""
    eval_task: str | None = None
    """Dataset to evaluate on while training, e.g. GSM8K."""
    eval_samples: int = Field(200, ge=1)
    """Number of its questions, from the first on."""
    eval_every: int = Field(50, ge=1)
    """Optimizer steps between two evaluations."""
    eval_split: str | None = None
    """Split; default: the dataset's evaluation split."""
    eval_data_dir: str | None = None
    """Folder with the dataset's file."""
    eval_config: list[str] = Field([])
    """Options of the dataset, key=value."""
    eval_max_tokens: int = Field(256, ge=1)
    """New tokens per reply."""
    allow_contamination: bool = False
    """Allow evaluation on questions of the training set."""
    overwrite: bool = False
    """Train from the start even if output_dir holds another run."""


def parse(argv: list[str] | None = None) -> tuple[SFTFlags, Any]:
    """(our flags, TRL's SFTConfig).

    Raises:
        UserError: an unknown flag, a bad value, or a missing library.
    """
    if missing := [name for name in ("torch", "transformers", "trl", "peft", "datasets") if find_spec(name) is None]:
        raise UserError(f"distill.sft needs {missing[0]}, which is not installed (make .venv)")
    import torch
    from trl import SFTConfig, TrlParser

    parser = parser_beside(SFTFlags, TrlParser, SFTConfig, prog="python -m distill.sft")
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
    if "eval_task" in early:
        every = getattr(early, "eval_every", SFTFlags.model_fields["eval_every"].default)
        parser.set_defaults(
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            load_best_model_at_end=True,
            metric_for_best_model="eval_score",
            greater_is_better=True,
        )
    try:
        training, given, unknown = parser.parse_args_and_config(argv, return_remaining_strings=True)
    except (ValueError, OSError, OverflowError, TypeError, AttributeError) as error:
        raise UserError(" ".join(str(error).split())) from None
    refuse_unknown(unknown, parser)
    for name, value in vars(training).items():
        if name.endswith("_kwargs") and not isinstance(value, dict | None):
            raise UserError(f"--{name} {value!r:.200}: expected a JSON object")
    ours = settings_of(SFTFlags, vars(given))
    if ours.merge_lora and ours.lora_rank is None:
        raise UserError("--merge_lora: needs --lora_rank")
    if training.packing and find_spec("flash_attn") is None:
        raise UserError("--packing: needs flash-attention, which is not installed; leave it out")
    if training.packing and ours.attn_implementation is None:
        ours = ours.model_copy(update={"attn_implementation": "flash_attention_2"})
    if training.eval_strategy != "no" and ours.eval_task is None:
        raise UserError("--eval_strategy: needs a dataset to evaluate on (--eval_task)")
    return ours, training
