"""The training run of a student: its folder, its trainer and its output files."""

# ruff: noqa: T201 -- it prints its progress

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agentark import checkpoints, cli, contamination, students
from agentark.exam import Exam
from agentark.files import file_sha256, json_of, manifest_of, write_atomically
from agentark.hub import check_weights, context_length, model_config
from agentark.records import now
from agentark.run_folder import RunFolder
from distill.sft.data import TrainRow, fit, read_rows, shown_example
from distill.sft.flags import SFTFlags

METRICS = "metrics.jsonl"


def train(ours: SFTFlags, training: Any) -> int:
    """Train, evaluate, save. Returns the exit code."""
    path = Path(ours.train_data_path)
    rows = read_rows(path)
    sha256 = file_sha256(path)
    identity = students.identity(ours, training) | {"data_sha256": sha256}
    run = RunFolder(Path(training.output_dir), identity, kind="sft", flag="--output_dir", replaces=ours.overwrite)
    if run.open(training.process_index == 0):
        print(f"{run.folder} is finished; --overwrite trains it again")
        return 0
    model, label = cli.resolve_model(ours.model_name_or_path, "--model_name_or_path")
    check_weights(model, "--model_name_or_path")
    tokenizer = students.load_tokenizer(model, training.chat_template_path)
    training.chat_template_path = None  # TRL would look for a name that is no file on the hub
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
    trainer.add_callback(checkpoints.marking(trainer, run, checkpoint, train_ids=trained))
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
    students.save(trainer, model, ours, run.folder)
    if main_process:
        write_atomically(run.folder / METRICS, _metrics(trainer.state.log_history))
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


def _metrics(history: Sequence[Mapping[str, Any]]) -> bytes:
    """The trainer's log as lines of JSON, without the summary, times, and tokens counted since the last start."""
    left_out = ("_runtime", "_per_second", "num_tokens")
    rows = [
        {key: value for key, value in row.items() if not key.endswith(left_out)}
        for row in history
        if "train_runtime" not in row
    ]
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def _trainer(
    model: str,
    tokenizer: Any,
    rows: list[TrainRow],
    ours: SFTFlags,
    training: Any,
    exam: Exam | None,
) -> Any:
    from datasets import Dataset

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
    training.model_init_kwargs = students.model_options(ours, training.model_init_kwargs)
    with students.building(model):
        trainer = WeightedSFTTrainer(
            exam=exam,
            model=model,
            args=training,
            train_dataset=data,
            eval_dataset=data.select(range(1)) if exam is not None else None,  # upstream wants a set; we use exam
            processing_class=tokenizer,
            peft_config=students.adapter(ours),
        )
    students.check_deepspeed(trainer)
    return trainer
