"""The training run of a student: its folder, its trainer and its output files."""

# ruff: noqa: T201 -- it prints its progress

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from agentark import checkpoints, cli, contamination, health, jsonl, students
from agentark.curves import draw
from agentark.exam import Exam
from agentark.files import replacing
from agentark.hub import check_weights, context_length, loaded, model_config
from agentark.records import now
from agentark.run_folder import RunFolder
from agentark.types import RunError, UserError, digest
from distill.opd import data
from distill.opd.contexts import Asked
from distill.opd.flags import OPDFlags

BESIDE = {"trajectories", "contamination", "alarms", "stops"}
"""More flags that do not affect the result, or whose files do and not their names."""
PANELS = (
    ("loss", ("loss",)),
    ("KL to the teacher per token", ("kl",)),
    ("tokens per reply", ("length",)),
    ("truncated", ("truncated",)),
    ("entropy", ("entropy",)),
)


def train(ours: OPDFlags, training: Any) -> int:
    """Train, evaluate, save. Returns the exit code."""
    read = data.read(ours, training.seed)
    settings = students.identity(ours, training) | read.identity(ours)
    identity = {name: value for name, value in settings.items() if name not in BESIDE}
    run = RunFolder(Path(training.output_dir), identity, kind="opd", flag="--output_dir", replaces=ours.overwrite)
    if run.open(training.process_index == 0):
        print(f"{run.folder} is finished; --overwrite trains it again")
        return 0
    model, label = cli.resolve_model(ours.model_name_or_path, "--model_name_or_path")
    check_weights(model, "--model_name_or_path")
    tokenizer = students.load_tokenizer(model, ours.chat_template, "--chat_template")
    context = context_length(model_config(model, "--model_name_or_path")) or 1 << 20
    asked, left_out = data.fit(
        ours, read, tokenizer, context, training.max_completion_length, _questions_of_rollout(training), training.seed
    )
    trained = sorted({one.sample.id for one in asked} | set(contamination.of_model(ours.model_name_or_path, None)))
    exam = None
    if ours.eval_task is not None:
        exam = Exam.of(ours, ours.eval_task, training.per_device_eval_batch_size)
        contamination.check((sample.id for sample in exam.samples), trained, label, ours.allow_contamination)
    checkpoint = checkpoints.chosen(training.resume_from_checkpoint, run.folder, run, print)
    trainer = _trainer(model, tokenizer, asked, ours, training, run.folder)
    _callbacks(trainer, run, checkpoint, exam, ours, trained)
    run.claim(
        print,
        kind="opd",
        base_model=label,
        teacher=label if ours.itself else ours.teacher,
        adapter=ours.lora_rank is not None and not ours.merge_lora,
        data={
            "sources": [
                {"path": str(source.labels), "sha256": source.labels_sha256, "trajectories": str(source.trajectories)}
                for source in read.sources
            ],
            "questions": len(asked),
            "left_out": left_out,
        },
        context={"kind": ours.shown, "sha256": digest([one.teacher_prompt for one in asked]), **data.about(asked)},
        config=run.identity,
        train_ids=trained,
        started=run.values.get("started") or now(),
        finished=None,
        stopped=[],
        command=cli.command_line(),
        versions=cli.provenance(),
    )
    return _run(trainer, run, checkpoint, ours, model, asked)


def _questions_of_rollout(training: Any) -> int:
    rows = training.per_device_train_batch_size * training.world_size * training.gradient_accumulation_steps
    size = getattr(training, "generation_batch_size", rows)
    return int(size) // getattr(training, "num_generations", 1)


def _callbacks(
    trainer: Any, run: RunFolder, checkpoint: Path | None, exam: Exam | None, ours: OPDFlags, trained: list[str]
) -> None:
    """Evaluation and checkpoints; a checkpoint is marked last of all."""
    from distill.opd.trainer import AveragedTeacher, HeldOut

    if exam is not None:
        trainer.add_callback(HeldOut(trainer, exam, ours.eval_every))
    if getattr(trainer.args, "teacher_model_kind", "") == "ema":
        trainer.add_callback(AveragedTeacher(trainer, checkpoint))
    trainer.add_callback(checkpoints.marking(trainer, run, checkpoint, train_ids=trained))


def _run(
    trainer: Any, run: RunFolder, checkpoint: Path | None, ours: OPDFlags, model: str, asked: Sequence[Asked]
) -> int:
    from distill.opd.trainer import DEV, METRICS

    main = trainer.accelerator.is_main_process
    metrics, dev = run.folder / METRICS, run.folder / DEV
    if main:
        for path in (metrics, dev):
            checkpoints.rewind(path, int(checkpoint.name.rpartition("-")[2]) if checkpoint else -1)
        with replacing(run.folder / "prompts.jsonl") as stream:
            for one in asked:
                row = {"id": one.sample.id, "context_of": one.context_of, "context_tokens": one.context_tokens}
                row |= {"cut": one.cut, "teacher_prompt": one.teacher_prompt}
                stream.write(msgspec.json.encode(row) + b"\n")
        print(f"{len(asked)} questions; the teacher reads, beside the first: {ours.shown}\n{asked[0].teacher_prompt}")
        if checkpoint:
            print(f"going on from {checkpoint}")
    trainer.accelerator.wait_for_everyone()
    trainer.watch.history = [row for row in _rows(metrics) if "kl" in row]
    begun = time.perf_counter()
    with checkpoints.loading(checkpoint), taking_weights():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - begun
    students.save(trainer, model, ours, run.folder)
    if main:
        drawn = draw(PANELS, _rows(metrics), _rows(dev), run.folder / "curves.png")
        run.write(
            finished=now(),
            stopped=trainer.stopped,
            steps=trainer.state.global_step,
            seconds=round(seconds, 1),
            trained_tokens=trainer._total_train_tokens,
            held_out=_rows(dev),
        )
        print(f"written to {run.folder}" + ("" if drawn else " (no curves: matplotlib is not installed)"))
        for line in trainer.stopped:
            print(f"stopped: {line}")
    return health.STOPPED if trainer.stopped else 0


@contextmanager
def taking_weights() -> Iterator[None]:
    """Around a training. Raises RunError where vLLM, which samples, cannot take the student's new weights."""
    try:
        yield
    except AttributeError as error:
        if "weight_loader" not in str(error):
            raise
        raise RunError(
            "--use_vllm: this vLLM repacks weights as it starts and takes no new ones (its CPU build on AVX-512 does); "
            "leave --use_vllm out"
        ) from error


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(jsonl.decoded(path, dict[str, Any], "a JSON object")) if path.is_file() else []


def _trainer(model: str, tokenizer: Any, asked: Sequence[Asked], ours: OPDFlags, training: Any, folder: Path) -> Any:
    from datasets import Dataset

    from distill.opd.trainer import Itself, Other

    rows = [{"prompt": one.prompt, "privileged_context": one.teacher_prompt} for one in asked]
    training.model_init_kwargs = students.model_options(ours, training.model_init_kwargs)
    if training.use_vllm and training.vllm_max_model_length is None:
        longest = max(len(tokenizer.encode(one.prompt, add_special_tokens=False)) for one in asked)
        training.vllm_max_model_length = longest + training.max_completion_length
    options = {
        "folder": folder,
        "watch": health.Watch(*ours.bounds()),
        "model": model,
        "args": training,
        "train_dataset": Dataset.from_list(rows if ours.itself else [{"prompt": row["prompt"]} for row in rows]),
        "processing_class": tokenizer,
        "peft_config": students.adapter(ours),
    }
    if not ours.itself:
        options["teacher_model"] = _teacher(ours, model, tokenizer)
    with students.building(model):
        trainer = Itself(**options) if ours.itself else Other(**options)
    students.check_deepspeed(trainer)
    return trainer


def _teacher(ours: OPDFlags, student: str, tokenizer: Any) -> Any:
    """Another model that reads the same tokens.

    Raises:
        UserError: it cannot be loaded, or has another vocabulary.
    """
    import torch

    model, _ = cli.resolve_model(ours.teacher, "--teacher")
    check_weights(model, "--teacher")
    named = (student, "--model_name_or_path"), (model, "--teacher")
    own = loaded("AutoTokenizer", model, "--teacher")
    sizes = [model_config(name, flag).get_text_config().vocab_size for name, flag in named]
    if own.get_vocab() != tokenizer.get_vocab() or sizes[0] != sizes[1]:
        raise UserError(
            f"--teacher {ours.teacher}: has another vocabulary ({len(own)} tokens, {sizes[1]} outputs) than the "
            f"student ({len(tokenizer)}, {sizes[0]}), so that their probabilities cannot be compared"
        )
    dtype = ours.dtype if ours.dtype == "auto" else getattr(torch, ours.dtype)
    return loaded(
        "AutoModelForCausalLM", model, "--teacher", dtype=dtype, attn_implementation=ours.attn_implementation
    ).eval()
