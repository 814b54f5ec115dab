"""Fine-tune a student on chosen trajectories, thin over TRL's SFTTrainer.

    python -m distill.sft --model_name_or_path Qwen/Qwen3-0.6B --train_data_path data/gsm8k_rsft.jsonl \
        --output_dir outputs/gsm8k_rsft --learning_rate 1e-5 --num_train_epochs 3

Takes every flag of TRL's SFTConfig (`--config FILE` reads them from YAML) besides those below. The loss is on the
completion only, and k trajectories of one question weigh as one. A run that was stopped goes on from its last
checkpoint with the same command. The folder holds the model, plot.png and manifest.json, whose `train_ids` keep the
evaluation from scoring the model on what it has seen.
"""

# ruff: noqa: T201 -- an entry script: it prints what it found

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec
from msgspec import Struct

from agentark import cli, contamination
from agentark.config import nearest
from agentark.evaluation import manifest_of
from agentark.records import file_sha256, now, write_atomically
from agentark.types import RunError, UserError
from distill.exam import Exam

MANIFEST = "manifest.json"
NOT_DECIDING = (
    "output_dir", "logging_dir", "run_name", "report_to", "disable_tqdm", "resume_from_checkpoint", "hub_token",
    "logging_steps", "logging_strategy", "log_level", "log_level_replica", "push_to_hub", "project", "trackio_space_id",
    "save_total_limit", "dataloader_num_workers", "local_rank",
)  # fmt: skip
"""Settings of transformers that may change between two sessions of the same run."""


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


class Chat(Struct, frozen=True):
    """One message."""

    role: str
    content: str


class TrainRow(Struct, frozen=True):
    """What training reads of a row."""

    id: str
    prompt: list[Chat]
    completion: list[Chat]


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


# ---------------------------------------------------------------- data


def read_rows(path: Path) -> list[TrainRow]:
    """The rows of a training set.

    Raises:
        UserError: missing, empty, or a row that is no prompt-completion chat with an id.
    """
    if not path.is_file():
        raise UserError(f"--train_data_path {path}: no such file")
    decoder = msgspec.json.Decoder(TrainRow)
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            rows.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            raise UserError(
                f"--train_data_path {path}, row {number}: not a row of distill.select: id, prompt and completion as "
                f"lists of messages ({error})"
            ) from None
    if not rows:
        raise UserError(f"--train_data_path {path}: the file is empty")
    return rows


def fit(rows: list[TrainRow], tokenizer: Any, limit: int, cut: bool) -> tuple[list[TrainRow], dict[str, int]]:
    """(the rows to train on, how many were too long).

    Raises:
        UserError: every row is too long.
    """
    lengths = [_length(row, tokenizer) for row in rows]
    longer = sum(length > limit for length in lengths)
    kept = rows if cut else [row for row, length in zip(rows, lengths, strict=True) if length <= limit]
    if not kept:
        raise UserError(
            f"--max_length {limit}: every row is longer (the shortest: {min(lengths)} tokens); raise it, or use "
            "--too_long cut"
        )
    return kept, {"rows": len(kept), "cut": longer if cut else 0, "dropped": 0 if cut else longer}


def _length(row: TrainRow, tokenizer: Any) -> int:
    chat = msgspec.to_builtins([*row.prompt, *row.completion])
    return len(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"])


def context_of(model: str) -> int:
    """Tokens of context of a model."""
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model_name_or_path {model}: cannot be loaded ({' '.join(str(error).split())[:200]})"
        ) from None
    return int(getattr(found.get_text_config(), "max_position_embeddings", None) or 1 << 20)


# ---------------------------------------------------------------- the run


class Run(Struct, frozen=True, kw_only=True):
    """What this folder is for, and where it stands."""

    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    checkpoint: str | None
    done: bool

    def write(self, **more: Any) -> None:
        write_atomically(self.folder / MANIFEST, json.dumps({**self.manifest, **more}, indent=2).encode() + b"\n")


def prepare(ours: Arguments, training: Any, data_sha256: str) -> Run:
    """Look at the output folder: a fresh one, one to go on with, or a finished one.

    Raises:
        UserError: it holds something else.
    """
    from transformers.trainer_utils import get_last_checkpoint

    folder = Path(training.output_dir)
    deciding = {name: value for name, value in training.to_dict().items() if name not in NOT_DECIDING}
    own = {name: value for name, value in vars(ours).items() if name not in ("overwrite", "train_data_path")}
    config = json.loads(json.dumps({**deciding, **own, "data_sha256": data_sha256}, default=str))
    manifest: dict[str, Any] = {}
    path = folder / MANIFEST
    if folder.is_dir() and any(folder.iterdir()):
        if not path.is_file():
            raise UserError(f"--output_dir {folder}: is not empty and no run of ours; choose another folder")
        if ours.overwrite:
            if training.process_index == 0:
                shutil.rmtree(folder)
        else:
            manifest = contamination.json_of(path)
            _check_same(folder, manifest.get("config", {}), config)
    folder.mkdir(parents=True, exist_ok=True)
    return Run(
        folder=folder,
        config=config,
        manifest=manifest,
        checkpoint=training.resume_from_checkpoint or (get_last_checkpoint(str(folder)) if manifest else None),
        done=bool(manifest.get("finished")),
    )


def _check_same(folder: Path, before: dict[str, Any], config: dict[str, Any]) -> None:
    changed = [
        f"{name} was {before.get(name)!r}, now {config.get(name)!r}"
        for name in sorted({*before, *config})
        if before.get(name) != config.get(name)
    ]
    if changed:
        raise UserError(
            f"--output_dir {folder}: holds a run of other settings ({'; '.join(changed)}); use --overwrite to "
            "replace it, or another folder"
        )


def train(ours: Arguments, training: Any) -> int:
    """Train, evaluate, save. Returns the exit code."""
    path = Path(ours.train_data_path)
    rows = read_rows(path)
    sha256 = file_sha256(path)
    run = prepare(ours, training, sha256)
    if run.done:
        print(f"{run.folder} is finished; --overwrite trains it anew")
        return 0
    model, label = cli.resolve_model(ours.model_name_or_path, "--model_name_or_path")
    tokenizer = _tokenizer(model, training)
    limit = min(training.max_length or context_of(model), context_of(model))
    rows, counts = fit(rows, tokenizer, limit, ours.too_long == "cut")
    training.max_length = limit
    trained = sorted({row.id for row in rows} | set(contamination.of_model(ours.model_name_or_path, None)))
    exam = _exam(ours, training, trained, label)
    about = manifest_of(path)
    run.manifest.update(
        {
            "kind": "sft",
            "base_model": label,
            "adapter": ours.lora_rank is not None and not ours.merge_lora,
            "data": {"path": str(path), "sha256": sha256, "counts": counts},
            "selection": contamination.json_of(about) if about.is_file() else None,
            "config": run.config,
            "train_ids": trained,
            "started": run.manifest.get("started") or now(),
            "finished": None,
            "command": cli.command_line(),
            "versions": cli.provenance(),
        }
    )
    trainer = _trainer(model, tokenizer, rows, ours, training, exam, run)
    main_process = trainer.accelerator.is_main_process
    if main_process:
        run.write()
        print(f"{counts['rows']} rows of {len({row.id for row in rows})} questions; too long: {counts}")
        print(shown_example(trainer.train_dataset[0], tokenizer))
        if run.checkpoint:
            print(f"going on from {run.checkpoint}")
    result = trainer.train(resume_from_checkpoint=run.checkpoint)
    save(trainer, model, ours, run.folder)
    if main_process:
        evals = [entry for entry in trainer.state.log_history if "eval_score" in entry]
        run.write(
            finished=now(),
            steps=trainer.state.global_step,
            seconds=round(result.metrics["train_runtime"], 1),
            best={"step": trainer.state.best_global_step, "score": trainer.state.best_metric} if exam else None,
            evaluations=evals,
        )
        from distill.plots import training_curve

        drawn = training_curve(trainer.state.log_history, run.folder / "plot.png")
        print(f"written to {run.folder}" + ("" if drawn else " (no plot: matplotlib is not installed)"))
    return 0


def _tokenizer(model: str, training: Any) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--model_name_or_path {model}: no tokenizer ({' '.join(str(error).split())[:200]})") from None
    template = training.chat_template_path
    if template is not None and Path(template).is_file():
        tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
        training.chat_template_path = None
    if tokenizer.chat_template is None:
        raise UserError(
            f"--model_name_or_path {model}: its tokenizer has no chat template; name a Jinja file with "
            "--chat_template_path"
        )
    return tokenizer


def _exam(ours: Arguments, training: Any, trained: list[str], label: str) -> Exam | None:
    if ours.eval_task is None:
        return None
    exam = Exam.of(
        ours.eval_task,
        split=ours.eval_split,
        data_dir=Path(ours.eval_data_dir) if ours.eval_data_dir else None,
        options=ours.eval_config,
        count=ours.eval_samples,
        max_new_tokens=ours.eval_max_tokens,
        batch_size=training.per_device_eval_batch_size,
    )
    exam.check(trained, label, ours.allow_contamination)
    return exam


def _trainer(
    model: str, tokenizer: Any, rows: list[TrainRow], ours: Arguments, training: Any, exam: Exam | None, run: Run
) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback

    from distill.weighted import WEIGHT, WeightedSFTTrainer, question_weights

    class Manifests(TrainerCallback):  # type: ignore[misc]
        """A checkpoint is a model, too: it says what it has seen."""

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and checkpoint.is_dir():
                write_atomically(checkpoint / MANIFEST, json.dumps({"train_ids": run.manifest["train_ids"]}).encode())

    weights = question_weights([row.id for row in rows])
    data = Dataset.from_list(
        [
            {
                "prompt": msgspec.to_builtins(row.prompt),
                "completion": msgspec.to_builtins(row.completion),
                WEIGHT: weight,
            }
            for row, weight in zip(rows, weights, strict=True)
        ]
    )
    training.model_init_kwargs = {
        "dtype": ours.dtype,
        "attn_implementation": ours.attn_implementation,
        "use_safetensors": True,
        **(training.model_init_kwargs or {}),
    }
    lora = None
    if ours.lora_rank is not None:
        lora = LoraConfig(
            r=ours.lora_rank,
            lora_alpha=ours.lora_alpha or 2 * ours.lora_rank,
            lora_dropout=ours.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    try:
        trainer = WeightedSFTTrainer(
            exam=exam,
            model=model,
            args=training,
            train_dataset=data,
            eval_dataset=data.select(range(1)) if exam is not None else None,  # upstream asks for one; exam is asked
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[Manifests()],
        )
    except (ValueError, ImportError) as error:
        raise UserError(f"TRL refuses these settings: {' '.join(str(error).split())}") from error
    if training.deepspeed and trainer.accelerator.distributed_type.value != "DEEPSPEED":
        raise UserError("--deepspeed: accelerate would train without it (is ACCELERATE_USE_CPU set? unset it)")
    return trainer


def shown_example(row: dict[str, Any], tokenizer: Any) -> str:
    """A tokenised row as text, with what the loss is on between >>> and <<<."""
    learnt = [label != -100 for label in row["labels"]]
    first = learnt.index(True)
    last = len(learnt) - learnt[::-1].index(True)
    pieces = [tokenizer.decode(row["input_ids"][a:b]) for a, b in ((0, first), (first, last), (last, None))]
    return f"an example; the loss is on what stands between >>> and <<<:\n{pieces[0]}>>>{pieces[1]}<<<{pieces[2]}"


def save(trainer: Any, base: str, ours: Arguments, folder: Path) -> None:
    """The model, or the adapter, or the model with the adapter merged in, and the tokenizer."""
    target = folder / "adapter" if ours.merge_lora else folder
    trainer.save_model(str(target))
    if not (ours.merge_lora and trainer.accelerator.is_main_process):
        return
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    dtype = ours.dtype if ours.dtype == "auto" else getattr(torch, ours.dtype)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    PeftModel.from_pretrained(model, str(target)).merge_and_unload().save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)


def main(argv: list[str] | None = None, run: Callable[[Arguments, Any], int] = train) -> int:
    ours, training = parse(argv)
    try:
        return run(ours, training)
    except OSError as error:
        if error.errno in (28, 122):
            raise RunError(f"{training.output_dir}: the disk is full") from error
        raise


if __name__ == "__main__":
    cli.entry(main)
