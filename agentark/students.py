"""What all trainings of students with TRL share: their flags, how they load, and how they save."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field

from agentark import distributed
from agentark.config import Config, ConfigT
from agentark.files import content
from agentark.flags import refuse_infinite, refuse_unknown, settings_of
from agentark.hub import loaded, pretrained
from agentark.types import UserError

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets")
BESIDE = {
    *("output_dir", "overwrite", "logging_dir", "run_name", "report_to", "disable_tqdm", "project", "train_data_path"),
    *("resume_from_checkpoint", "hub_token", "logging_steps", "logging_strategy", "log_level", "log_level_replica"),
    *("push_to_hub", "trackio_space_id", "save_total_limit", "dataloader_num_workers", "local_rank"),
}
"""Flags that do not affect the result (the content of the data does, its path does not)."""

LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(("max_length", "pad_to_multiple_of", "dataloader_prefetch_factor"), 1),
    **dict.fromkeys(("dataloader_num_workers", "data_seed", "learning_rate", "weight_decay"), 0),
}
"""Smallest values of transformers' and TRL's settings that they check too late or not at all."""


class StudentFlags(Config):
    """Flags of every training of a student that are not TRL's."""

    model_name_or_path: str
    """Student: hub id, local folder, or smollm2-135m-instruct."""
    dtype: str = "float32"
    """Type of the weights: auto, float32, bfloat16 or float16."""
    attn_implementation: str | None = None
    """Attention, e.g. flash_attention_2."""
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


def check_installed(program: str) -> None:
    """Raises UserError when a library is missing."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"{program} needs {missing[0]}, which is not installed (make .venv)")


def set_defaults(parser: Any) -> None:
    """Defaults of TRL's settings that fit this machine."""
    import torch

    cuda = torch.cuda.is_available()
    parser.set_defaults(
        report_to="none",
        bf16=cuda and torch.cuda.is_bf16_supported(),
        gradient_checkpointing=cuda,
        dataloader_pin_memory=cuda,
        save_total_limit=2,
    )


def read(parser: Any, ours: type[ConfigT], words: list[str]) -> tuple[ConfigT, Any]:
    """(our flags, TRL's settings) of a command line.

    Raises:
        UserError: an unknown flag, or a bad value.
    """
    try:
        early = parser.parse_known_args(words)[0]
        parser.set_defaults(**distributed.settings(early.deepspeed is not None))
        training, given, unknown = parser.parse_args_and_config(words, return_remaining_strings=True)
    except (ValueError, OSError, ArithmeticError, TypeError, AttributeError) as error:
        raise UserError(" ".join(str(error).split())) from None
    refuse_unknown(unknown, parser)
    refuse_infinite(vars(training))
    for name, value in vars(training).items():
        if name.endswith("_kwargs") and not isinstance(value, dict | None):
            raise UserError(f"--{name} {value!r:.200}: expected a JSON object")
    check_training(training)
    flags = settings_of(ours, vars(given))
    if getattr(flags, "merge_lora", False) and getattr(flags, "lora_rank", None) is None:
        raise UserError("--merge_lora: needs --lora_rank")
    return flags, training


def check_training(args: Any) -> None:
    """Refuse what would otherwise end the training as it begins, when its folder is claimed already.

    Args:
        args: transformers' TrainingArguments, or TRL's.

    Raises:
        UserError: a number out of range, no step to train, or settings that the optimizer or its schedule refuses.
    """
    import torch
    from transformers import Trainer, get_scheduler

    for name, least in LEAST.items():
        if (value := getattr(args, name, None)) is not None and value < least:
            raise UserError(f"--{name} {value}: expected at least {least}")
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise UserError(f"--num_train_epochs {args.num_train_epochs:g}: expected more than 0 (or --max_steps)")
    optimizer, schedule = (getattr(name, "value", name) for name in (args.optim, args.lr_scheduler_type))
    if args.optim_target_modules is not None or "lomo" in optimizer:
        return  # such an optimizer is made for a model
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
        made = kind([torch.nn.Parameter(torch.zeros(1))], **options)
        get_scheduler(schedule, made, args.get_warmup_steps(100), 100, dict(args.lr_scheduler_kwargs or {}))
    except (ValueError, TypeError, ImportError, RuntimeError, KeyError, ArithmeticError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"optimizer {optimizer}, schedule {schedule}: refused ({said:.200})") from None


def identity(ours: StudentFlags, training: Any) -> dict[str, Any]:
    """All settings that decide a training, apart from its data."""
    return {name: value for name, value in (training.to_dict() | ours.model_dump()).items() if name not in BESIDE}


def load_tokenizer(model: str, template: str | None = None, flag: str = "--chat_template_path") -> Any:
    """The student's tokenizer.

    Args:
        template: a Jinja file that replaces its chat template.
        flag: the flag that names the file.

    Raises:
        UserError: there is none, or it has no chat template.
    """
    tokenizer = loaded("AutoTokenizer", model, "--model_name_or_path")
    if template is not None:
        try:
            tokenizer.chat_template = content(Path(template)).decode("utf-8")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{flag} {template!r:.200}: expected a Jinja file ({why})") from None
    if tokenizer.chat_template is None:
        raise UserError(
            f"--model_name_or_path {model}: its tokenizer has no chat template; name a Jinja file with {flag}"
        )
    return tokenizer


def model_options(ours: StudentFlags, given: dict[str, Any] | None) -> dict[str, Any]:
    """How TRL is to load the student."""
    return {
        "dtype": ours.dtype,
        "attn_implementation": ours.attn_implementation,
        "use_safetensors": True,
        "trust_remote_code": False,
        **(given or {}),
    }


def adapter(ours: StudentFlags) -> Any:
    """PEFT's settings of the adapter that the flags ask for, None for none."""
    if ours.lora_rank is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=ours.lora_rank,
        lora_alpha=ours.lora_alpha or 2 * ours.lora_rank,
        lora_dropout=ours.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


@contextmanager
def building(model: str) -> Iterator[None]:
    """Around the making of a trainer. Raises UserError for a model that cannot be loaded, or refused settings."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"--model_name_or_path {model}: cannot be loaded ({said:.300})") from error
    except (ValueError, ImportError, TypeError) as error:
        raise UserError(f"TRL refuses {model} or these settings: {' '.join(str(error).split()):.300}") from error


def check_deepspeed(trainer: Any) -> None:
    """Raises UserError when DeepSpeed was asked for and is off."""
    if trainer.args.deepspeed and trainer.accelerator.distributed_type.value != "DEEPSPEED":
        raise UserError("--deepspeed: accelerate would train without it (is ACCELERATE_USE_CPU set? unset it)")


def save(trainer: Any, base: str, ours: StudentFlags, folder: Path) -> None:
    """The model, or the adapter, or the model with the adapter merged in, and the tokenizer."""
    target = folder / "adapter" if ours.merge_lora else folder
    trainer.save_model(str(target))
    if not (ours.merge_lora and trainer.accelerator.is_main_process):
        return
    import torch
    from peft import PeftModel

    dtype = ours.dtype if ours.dtype == "auto" else getattr(torch, ours.dtype)
    model = pretrained("AutoModelForCausalLM", base, dtype=dtype)
    PeftModel.from_pretrained(model, str(target)).merge_and_unload().save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)


class WithoutPickles:
    """A trainer that leaves no pickle beside a model, and pushes no checkpoint."""

    args: Any

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)  # holds tokens

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Does nothing: a checkpoint holds pickles. The finished model is pushed."""
