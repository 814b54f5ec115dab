"""The training run of a student: its folder, its trainer, and what it leaves behind."""

# ruff: noqa: T201 -- it prints what it found

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentark import cli, contamination
from agentark.evaluation import manifest_of
from agentark.records import file_sha256, now, write_atomically
from agentark.types import UserError
from distill.sft.data import TrainRow, context_of, fit, read_rows, shown_example
from distill.sft.flags import SFTFlags
from distill.sft.in_training_eval import Exam

MANIFEST = "manifest.json"
NOT_DECIDING = (
    "output_dir", "logging_dir", "run_name", "report_to", "disable_tqdm", "resume_from_checkpoint", "hub_token",
    "logging_steps", "logging_strategy", "log_level", "log_level_replica", "push_to_hub", "project", "trackio_space_id",
    "save_total_limit", "dataloader_num_workers", "local_rank",
)  # fmt: skip
"""Settings of transformers that may change between two sessions of the same run."""


class Run(Struct, frozen=True, kw_only=True):
    """What this folder is for, and where it stands."""

    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    checkpoint: str | None
    done: bool

    def write(self, **more: Any) -> None:
        write_atomically(self.folder / MANIFEST, json.dumps({**self.manifest, **more}, indent=2).encode() + b"\n")


def prepare(ours: SFTFlags, training: Any, data_sha256: str) -> Run:
    """Look at the output folder: a fresh one, one to go on with, or a finished one.

    Raises:
        UserError: it holds something else.
    """
    from transformers.trainer_utils import get_last_checkpoint

    folder = Path(training.output_dir)
    deciding = {name: value for name, value in training.to_dict().items() if name not in NOT_DECIDING}
    own = {name: value for name, value in ours.model_dump().items() if name not in ("overwrite", "train_data_path")}
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


def train(ours: SFTFlags, training: Any) -> int:
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
        from distill.sft.plot import training_curve

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


def _exam(ours: SFTFlags, training: Any, trained: list[str], label: str) -> Exam | None:
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
    model: str, tokenizer: Any, rows: list[TrainRow], ours: SFTFlags, training: Any, exam: Exam | None, run: Run
) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback

    from distill.sft.trainer import WEIGHT, WeightedSFTTrainer, question_weights

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


def save(trainer: Any, base: str, ours: SFTFlags, folder: Path) -> None:
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
