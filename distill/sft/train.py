"""The training run of a student: its folder, its trainer and its output files."""

# ruff: noqa: T201 -- it prints its progress

import time
from pathlib import Path
from typing import Any

import msgspec

from agentark import checkpoints, cli, contamination
from agentark.files import file_sha256, json_of, manifest_of
from agentark.hub import check_weights, context_length, model_config, pretrained
from agentark.records import now
from agentark.run_folder import RunFolder
from agentark.types import UserError
from distill.sft.data import TrainRow, fit, read_rows, shown_example
from distill.sft.flags import BESIDE, SFTFlags
from distill.sft.in_training_eval import Exam
from prm.steps import load_tokenizer


def train(ours: SFTFlags, training: Any) -> int:
    """Train, evaluate, save. Returns the exit code."""
    path = Path(ours.train_data_path)
    rows = read_rows(path)
    sha256 = file_sha256(path)
    identity = {name: value for name, value in (training.to_dict() | ours.model_dump()).items() if name not in BESIDE}
    identity["data_sha256"] = sha256
    run = RunFolder(Path(training.output_dir), identity, kind="sft", flag="--output_dir", replaces=ours.overwrite)
    if run.open(training.process_index == 0):
        print(f"{run.folder} is finished; --overwrite trains it again")
        return 0
    model, label = cli.resolve_model(ours.model_name_or_path, "--model_name_or_path")
    check_weights(model, "--model_name_or_path")
    tokenizer = _tokenizer(model, training)
    context = context_length(model_config(model, "--model_name_or_path")) or 1 << 20
    limit = min(training.max_length or context, context)
    rows, counts = fit(rows, tokenizer, limit, ours.too_long == "cut")
    training.max_length = limit
    trained = sorted({row.id for row in rows} | set(contamination.of_model(ours.model_name_or_path, None)))
    exam = None
    if ours.eval_task is not None:
        exam = Exam.of(ours, ours.eval_task, training.per_device_eval_batch_size)
        contamination.check((sample.id for sample in exam.samples), trained, label, ours.allow_contamination)
    about = manifest_of(path)
    checkpoint = checkpoints.chosen(training.resume_from_checkpoint, run.folder, run, print)
    trainer = _trainer(model, tokenizer, rows, ours, training, exam)
    trainer.add_callback(checkpoints.marking(run, train_ids=trained))
    main_process = trainer.accelerator.is_main_process
    run.claim(
        print,
        kind="sft",
        base_model=label,
        adapter=ours.lora_rank is not None and not ours.merge_lora,
        data={"path": str(path), "sha256": sha256, "counts": counts},
        selection=json_of(about) if about.is_file() else None,
        config=run.identity,
        train_ids=trained,
        started=run.values.get("started") or now(),
        finished=None,
        command=cli.command_line(),
        versions=cli.provenance(),
    )
    if main_process:
        print(f"{counts['rows']} rows of {len({row.id for row in rows})} questions; too long: {counts}")
        print(shown_example(trainer.train_dataset[0], tokenizer))
        if checkpoint:
            print(f"going on from {checkpoint}")
    begun = time.perf_counter()
    with checkpoints.loading(checkpoint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - begun  # transformers' own figure goes by the wall clock, which may step back
    save(trainer, model, ours, run.folder)
    if main_process:
        run.write(
            finished=now(),
            steps=trainer.state.global_step,
            seconds=round(seconds, 1),
            best={"step": trainer.state.best_global_step, "score": trainer.state.best_metric} if exam else None,
            evaluations=[entry for entry in trainer.state.log_history if "eval_score" in entry],
        )
        from distill.sft.plot import training_curve

        drawn = training_curve(trainer.state.log_history, run.folder / "plot.png")
        print(f"written to {run.folder}" + ("" if drawn else " (no plot: matplotlib is not installed)"))
    return 0


def _tokenizer(model: str, training: Any) -> Any:
    tokenizer = load_tokenizer(model, "--model_name_or_path")
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


def _trainer(
    model: str,
    tokenizer: Any,
    rows: list[TrainRow],
    ours: SFTFlags,
    training: Any,
    exam: Exam | None,
) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from safetensors import SafetensorError

    from distill.sft.trainer import WEIGHT, WeightedSFTTrainer, question_weights

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
        "trust_remote_code": False,
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
            eval_dataset=data.select(range(1)) if exam is not None else None,  # upstream wants a set; we use exam
            processing_class=tokenizer,
            peft_config=lora,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"--model_name_or_path {model}: cannot be loaded ({said:.300})") from error
    except (ValueError, ImportError, TypeError) as error:
        raise UserError(f"TRL refuses {model} or these settings: {' '.join(str(error).split()):.300}") from error
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

    dtype = ours.dtype if ours.dtype == "auto" else getattr(torch, ours.dtype)
    model = pretrained("AutoModelForCausalLM", base, dtype=dtype)
    PeftModel.from_pretrained(model, str(target)).merge_and_unload().save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)
