"""distill.sft on an untrained small model: the loss, the weights, resuming, adapters, and what it refuses."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentark import contamination
from agentark.run_folder import aside
from agentark.types import UserError
from distill.sft import __main__ as sft
from distill.sft.data import read_rows
from eval.report.training import kind_of

Train = Callable[..., Path]
ROOT = Path(__file__).parents[3]


def row(id: str, question: str, reply: str) -> dict[str, Any]:
    prompt = [{"role": "user", "content": question}]
    return {"id": id, "prompt": prompt, "completion": [{"role": "assistant", "content": reply}], "source": "T"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


ROWS = [
    row(f"T/{k // 2}", f"What is {k} + 1?", f"{k} and one more is {k + 1}, so \\boxed{{{k + 1}}}.") for k in range(8)
]


@pytest.fixture
def train(small_model: Path, tmp_path: Path) -> Train:
    def run(*flags: str, rows: list[dict[str, Any]] = ROWS, out: str = "out") -> Path:
        data = write(tmp_path / "train.jsonl", rows)
        argv = ["--model_name_or_path", str(small_model), "--train_data_path", str(data)]
        argv += ["--output_dir", str(tmp_path / out), "--max_steps", "2", "--per_device_train_batch_size", "4"]
        assert sft.main([*argv, "--save_strategy", "no", "--disable_tqdm", "true", *flags]) == 0
        return tmp_path / out

    return run


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def test_a_run_leaves_a_model_that_says_what_it_has_seen(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = train("--logging_steps", "1")
    AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    about = manifest(folder)
    assert about["train_ids"] == ["T/0", "T/1", "T/2", "T/3"]
    assert contamination.trained_on(folder) == about["train_ids"]
    assert (about["steps"], bool(about["finished"])) == (2, True)
    assert (folder / "plot.png").stat().st_size > 1000
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all("loss" in row for row in rows)
    assert kind_of(rows) == "sft", "the report shows it without a checkpoint"
    assert not [key for row in rows for key in row if "runtime" in key]
    assert not [*folder.rglob("*.bin"), *folder.rglob("*.pt")], "no pickle that a push would publish"
    printed = capsys.readouterr().out
    example = printed.partition("between >>> and <<<:\n")[2].partition("<<<")[0]
    asked, _, learnt = example.partition(">>>")
    assert "What is" in asked
    assert learnt.rstrip().endswith("<|im_end|>")
    assert "\\boxed" in learnt
    assert "What is" not in learnt
    assert sft.main(_command(folder)) == 0
    assert "is finished" in capsys.readouterr().out


def _command(folder: Path) -> list[str]:
    """The same command again, from the manifest's own settings."""
    config = manifest(folder)["config"]
    flags = ["--save_strategy", "no", "--disable_tqdm", "true", "--logging_steps", "1"]
    names = ("model_name_or_path", "max_steps", "per_device_train_batch_size")
    data = manifest(folder)["data"]["path"]
    given = [word for name in names for word in (f"--{name}", str(config[name]))]
    return [*given, "--train_data_path", data, "--output_dir", str(folder), *flags]


def _trainer(small_model: Path, rows: list[dict[str, Any]], folder: Path, **options: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig

    from distill.sft.trainer import WEIGHT, WeightedSFTTrainer, question_weights

    weights = question_weights([one["id"] for one in rows])
    data = [
        {"prompt": one["prompt"], "completion": one["completion"], WEIGHT: weight}
        for one, weight in zip(rows, weights, strict=True)
    ]
    settings = {"report_to": "none", "bf16": False, "gradient_checkpointing": False, "shuffle_dataset": False}
    args = SFTConfig(output_dir=str(folder), save_strategy="no", disable_tqdm=True, **{**settings, **options})
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    return WeightedSFTTrainer(
        model=str(small_model), args=args, train_dataset=Dataset.from_list(data), processing_class=tokenizer
    )


def test_weights_of_a_question_have_the_same_sum() -> None:
    from distill.sft.trainer import question_weights

    assert question_weights(["a", "b", "a", "c", "a"]) == [1.0, 3.0, 1.0, 3.0, 1.0]
    assert question_weights(["a", "b"]) == [1.0, 1.0]
    assert question_weights([]) == []


def test_the_loss_is_the_weighted_mean_over_learnt_tokens(small_model: Path, tmp_path: Path) -> None:
    """Against a plain forward of each row: three rows of one question and one of another."""
    import torch

    replies = ("One, and I say \\boxed{1}.", "It is \\boxed{1}.", "I count a single thing: \\boxed{1}.")
    rows = [*(row("a", "Say one.", reply) for reply in replies), row("b", "Say two.", "Two: \\boxed{2}.")]
    trainer = _trainer(small_model, rows, tmp_path)
    data = list(trainer.train_dataset)
    batch = trainer.data_collator(data)
    total = trainer._get_num_items_in_batch([batch], "cpu")
    top = bottom = 0.0
    for one, weight in zip(data, (1.0, 1.0, 1.0, 3.0), strict=True):
        labels = torch.tensor([one["labels"]])
        learnt = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            logits = trainer.model(input_ids=torch.tensor([one["input_ids"]])).logits[0, :-1].log_softmax(-1)
        target = labels[0, 1:]
        chosen = logits[torch.arange(len(target)), target.clamp(min=0)][target != -100]
        top -= weight * float(chosen.sum())
        bottom += weight * learnt
    assert float(total) == pytest.approx(bottom)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=total)
    assert float(loss) == pytest.approx(top / bottom, rel=1e-4)


def test_three_copies_of_a_trajectory_train_like_one(small_model: Path, tmp_path: Path) -> None:
    once = [row("a", "Say one.", "It is \\boxed{1}."), row("b", "Say two.", "Two: \\boxed{2}.")]
    thrice = [once[0], once[0], once[0], once[1]]
    losses = []
    for name, rows in (("once", once), ("thrice", thrice)):
        trainer = _trainer(small_model, rows, tmp_path / name)
        batch = trainer.data_collator(list(trainer.train_dataset))
        trainer.model.train()
        total = trainer._get_num_items_in_batch([batch], "cpu")
        losses.append(float(trainer.compute_loss(trainer.model, batch, num_items_in_batch=total)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_gradient_accumulation_makes_the_same_step(small_model: Path, tmp_path: Path) -> None:
    """1 x 8 and 4 x 2 rows of unequal length and weight give the same weights after a step."""
    import torch

    rows = [row("a" if k < 4 else f"b{k}", f"Say {k}.", "so " * (k + 1) + f"\\boxed{{{k}}}") for k in range(8)]
    after = []
    for name, size, steps in (("whole", 8, 1), ("parts", 2, 4)):
        trainer = _trainer(
            small_model,
            rows,
            tmp_path / name,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            learning_rate=0.1,
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
        )
        before = [p.detach().clone() for p in trainer.model.parameters()]
        trainer.train()
        after.append(torch.cat([(p - b).flatten() for p, b in zip(trainer.model.parameters(), before, strict=True)]))
    assert float(after[0].norm()) > 1e-3
    assert torch.allclose(after[0], after[1], atol=1e-6, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_make_the_same_step_as_one(small_model: Path, tmp_path: Path) -> None:
    """8 rows of unequal length and weight: once in one process, once 4 in each of two."""
    import torch
    from safetensors.torch import load_file

    rows = [row("a" if k < 4 else f"b{k}", f"Say {k}.", "so " * (k + 1) + f"\\boxed{{{k}}}") for k in range(8)]
    data = write(tmp_path / "train.jsonl", rows)
    flags = ["--model_name_or_path", str(small_model), "--train_data_path", str(data), "--max_steps", "1"]
    flags += ["--optim", "sgd", "--learning_rate", "0.1", "--lr_scheduler_type", "constant", "--max_grad_norm", "0"]
    flags += ["--save_strategy", "no", "--use_cpu", "--disable_tqdm", "true"]
    found = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        command = [*launch, "-m", "distill.sft", *flags, "--per_device_train_batch_size", str(8 // count)]
        done = subprocess.run(
            [*command, "--output_dir", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("an example;") == 1
        found.append(load_file(folder / "model.safetensors"))
    before = load_file(small_model / "model.safetensors")
    assert max(float((found[0][name] - before[name]).abs().max()) for name in before) > 1e-4
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in before)


def test_packed_rows_keep_their_weights(small_model: Path, tmp_path: Path) -> None:
    """Packing is for flash-attention; the columns it needs are the same without."""
    plain = _trainer(small_model, ROWS, tmp_path / "a")
    packed = _trainer(small_model, ROWS, tmp_path / "b", packing=True, max_length=512)
    from distill.sft.trainer import TOKEN_WEIGHTS

    assert len(packed.train_dataset) < len(plain.train_dataset)
    totals = []
    for trainer in (plain, packed):
        batch = trainer.data_collator(list(trainer.train_dataset))
        assert batch[TOKEN_WEIGHTS].shape == batch["labels"].shape
        totals.append(float(trainer._get_num_items_in_batch([batch], "cpu")))
    assert totals[0] == totals[1]


def test_a_run_goes_on_from_its_checkpoint(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from safetensors.torch import load_file

    flags = ("--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--learning_rate", "1e-3")
    whole = train(*flags, out="whole")
    broken = train(*flags, out="broken")
    about = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps({**about, "finished": None}))
    shutil.rmtree(broken / "checkpoint-4")
    (broken / "model.safetensors").unlink()
    assert json.loads((broken / "checkpoint-2" / "manifest.json").read_text())["train_ids"] == about["train_ids"]
    capsys.readouterr()
    train(*flags, out="broken")
    assert "going on from" in capsys.readouterr().out
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, broken))
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


class Attack:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_planted_checkpoint_is_not_unpickled(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2")
    folder = train(*flags)
    assert not [*folder.rglob("training_args.bin")], "a pickle that nothing needs"
    about = manifest(folder)
    (folder / "manifest.json").write_text(json.dumps({**about, "finished": None}))
    planted = folder / "checkpoint-9"
    shutil.copytree(folder / "checkpoint-4", planted)
    (planted / "manifest.json").unlink()
    (planted / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (planted / name).write_bytes(pickle.dumps(Attack(tmp_path / "attacked")))
    shutil.rmtree(folder / "checkpoint-4")
    capsys.readouterr()
    train(*flags)
    said = capsys.readouterr().out
    assert f"{planted}: left out (its manifest does not name this run, so its pickles are not loaded" in said
    assert "going on from" in said
    (folder / "manifest.json").write_text(json.dumps({**about, "finished": None}))
    for path in folder.glob("checkpoint-[24]/optimizer.pt"):
        path.write_bytes(pickle.dumps(Attack(tmp_path / "attacked")))
    with pytest.raises(UserError, match=r"checkpoint-4: cannot be continued from \(.*\); remove it"):
        train(*flags)
    assert not (tmp_path / "attacked").exists()


def test_evaluation_while_training_keeps_the_best(train: Train, data_dir: Path) -> None:
    flags = ["--eval_task", "GSM8K", "--eval_samples", "3", "--eval_every", "1", "--eval_max_tokens", "4"]
    folder = train(*flags, "--eval_data_dir", str(data_dir), "--save_strategy", "steps")
    about = manifest(folder)
    assert [entry["step"] for entry in about["evaluations"]] == [1, 2]
    assert all(entry["eval_n"] == 3 and 0 <= entry["eval_score"] <= 1 for entry in about["evaluations"])
    assert all(entry["eval_truncated"] == 1.0 for entry in about["evaluations"])
    assert about["best"]["step"] == 1
    assert (folder / "checkpoint-1").is_dir()


def test_training_questions_are_not_evaluated_on(train: Train, data_dir: Path) -> None:
    rows = [row("GSM8K/test/1", "What is 1 + 1?", "It is \\boxed{2}.")]
    flags = [
        "--eval_task",
        "GSM8K",
        "--eval_samples",
        "3",
        "--eval_data_dir",
        str(data_dir),
        "--save_strategy",
        "steps",
    ]
    with pytest.raises(UserError, match=r"was trained on 1 of these questions \(GSM8K/test/1\)"):
        train(*flags, rows=rows)


def test_adapters_and_merging(train: Train, small_model: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    flags = ("--lora_rank", "4", "--learning_rate", "1e-2", "--max_steps", "3")
    adapter = train(*flags, out="adapter")
    assert (adapter / "adapter_model.safetensors").is_file()
    assert not (adapter / "model.safetensors").exists()
    assert manifest(adapter)["adapter"] is True
    merged = AutoModelForCausalLM.from_pretrained(train(*flags, "--merge_lora", out="merged"))
    base = AutoModelForCausalLM.from_pretrained(small_model)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain = base(ids).logits
        apart = PeftModel.from_pretrained(base, adapter)(ids).logits
        together = merged(ids).logits
    assert torch.allclose(apart, together, atol=1e-4)
    assert not torch.allclose(plain, together, atol=1e-3)


def test_long_rows_are_dropped_or_cut_and_counted(train: Train) -> None:
    rows = [*ROWS, row("T/9", "Why?", "because " * 400)]
    dropped = train("--max_length", "128", rows=rows)
    assert manifest(dropped)["data"]["counts"] == {"rows": 8, "cut": 0, "dropped": 1}
    assert "T/9" not in manifest(dropped)["train_ids"]
    cut = train("--max_length", "128", "--too_long", "cut", rows=rows, out="cut")
    assert manifest(cut)["data"]["counts"] == {"rows": 9, "cut": 1, "dropped": 0}
    with pytest.raises(UserError, match=r"--max_length 5: every row is longer \(the shortest: \d+ tokens\)"):
        train("--max_length", "5", out="none")


def test_a_folder_of_another_run_is_left_alone(train: Train, tmp_path: Path) -> None:
    folder = train()
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"holds a run of other settings \(learning_rate was 2e-05, now 0.1\)"):
        train("--learning_rate", "0.1")
    with pytest.raises(UserError, match="--max_length 5: every row is longer"):
        train("--max_length", "5", "--overwrite")
    assert (folder / "model.safetensors").read_bytes() == before
    train("--learning_rate", "0.1", "--overwrite")
    assert (folder / "model.safetensors").read_bytes() != before
    assert not aside(folder).exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for extra in ((), ("--overwrite",)):
        with pytest.raises(UserError, match="is not empty and holds no run of ours"):
            train(*extra, out="mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--merge_lora"], "--merge_lora: needs --lora_rank"),
        (["--packing"], "--packing: needs flash-attention"),
        (["--learning_rat", "1"], "unknown argument --learning_rat .*did you mean --learning_rate"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--logging_steps=-inf"], "--logging_steps -inf: expected a finite number"),
        (["--weight_decay", "nan"], "--weight_decay nan: expected a finite number"),
        (["--eval_strategy", "steps", "--eval_steps", "1"], "needs a dataset to evaluate on"),
        (["--eval_task", "GSM9K", "--save_strategy", "steps"], "unknown dataset 'GSM9K'.*did you mean GSM8K"),
        (
            ["--eval_task", "HumanEval", "--save_strategy", "steps"],
            r"--eval_task HumanEval: its replies cannot be graded",
        ),
        (["--model_name_or_path", "a/b/c"], "--model_name_or_path a/b/c: neither a folder nor a hub id"),
        (["--train_data_path", "gone.jsonl"], "--train_data_path gone.jsonl: no such file"),
        (["--too_long", "fold"], "invalid choice: 'fold'"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0: expected at least 1"),
        (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps 0: expected at least 1"),
        (["--dataloader_num_workers=-1"], "--dataloader_num_workers -1: expected at least 0"),
        (["--max_length", "0"], "--max_length 0: expected at least 1"),
        (["--max_steps=-1", "--num_train_epochs", "0"], "--num_train_epochs 0: expected more than 0"),
        (["--num_train_epochs", "1e300"], r"--num_train_epochs 1e\+300: expected a smaller number"),
        (["--seed", "9" * 400], "--seed .*: expected a smaller number"),
        (["--learning_rate=-1"], "--learning_rate -1.0: expected at least 0"),
        (["--weight_decay=-1"], "--weight_decay -1.0: expected at least 0"),
        (["--adam_beta1", "2"], "optimizer adamw.*: refused .*Invalid beta"),
        (["--optim_args", "x"], "optimizer adamw.*: refused"),
        (["--lr_scheduler_kwargs", '{"a": 1}'], "schedule linear: refused .*unexpected keyword"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "schedule cosine_with_min_lr: refused"),
        (["--eval_task", "GSM8K", "--eval_steps=null"], "--eval_steps null: expected a number"),
        (["--eval_task", "GSM8K", "--save_steps", "None"], "--save_steps"),
        (["--config"], "--config: expected one argument"),
    ],
)
def test_bad_flags_are_one_line(train: Train, tmp_path: Path, flags: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as raised:
        train(*flags)
    assert "\n" not in str(raised.value)


def test_bad_data_and_a_model_without_template(train: Train, small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 2: not a row of distill\.select"):
        train(rows=[ROWS[0], {"prompt": "x", "completion": "y"}])
    with pytest.raises(UserError, match="the file is empty"):
        train(rows=[])
    garbled = tmp_path / "garbled.jsonl"
    garbled.write_bytes(b'{"id": "\xff", "prompt": [], "completion": []}\n')
    with pytest.raises(UserError, match=r"--train_data_path .*garbled\.jsonl, row 1"):
        read_rows(garbled)
    bare = tmp_path / "bare"
    shutil.copytree(small_model, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"its tokenizer has no chat template; name a Jinja file"):
        train("--model_name_or_path", str(bare), out="x")
    assert train(
        "--model_name_or_path", str(bare), "--chat_template_path", str(small_model / "chat_template.jinja"), out="y"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate: null", "--config: learning_rate = None: Input should be a valid number"),
        ("max_steps: [1]", r"--config: max_steps = \[1\]"),
        ("max_steps: true", "--config: max_steps = True"),
        ("per_device_train_batch_size: 1.5", "--config: per_device_train_batch_size = 1.5"),
        ("run_name: {a: 1}", "--config: run_name = "),
        ("seed: 2026-01-01", "--config: seed = "),
        ("eval_samples: null", "eval_samples = None"),
        ("1: 2", r"config\.yaml: key 1: expected the name of a flag"),
        ("a: [1", r"config\.yaml: not valid YAML"),
        ("learning_rat: 1", "--config: unknown key 'learning_rat' .*did you mean --learning_rate"),
        ("env: 3", "env"),
        ("eval_task: GSM8K\neval_steps: null", "--eval_steps null: expected a number"),
    ],
)
def test_a_file_of_flags_is_checked_like_flags(train: Train, tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    for words in (["--config", str(file)], [f"--config={file}"]):
        with pytest.raises(UserError, match=expected) as raised:
            train(*words)
        assert "\n" not in str(raised.value)


def test_a_file_of_flags_is_taken(train: Train, data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    about = {"eval_task": "GSM8K", "eval_data_dir": str(data_dir), "eval_samples": 1, "eval_every": 1}
    file.write_text(
        json.dumps(about | {"eval_max_tokens": 2, "learning_rate": "1e-3", "gradient_accumulation_steps": 2.0})
    )
    found = manifest(train(f"--config={file}", "--save_strategy", "steps", "--learning_rate", "1e-4"))
    assert [row["step"] for row in found["evaluations"]] == [1, 2]
    assert (found["config"]["learning_rate"], found["config"]["gradient_accumulation_steps"]) == (1e-4, 2)


def test_a_chat_template_is_a_file(train: Train, small_model: Path, tmp_path: Path) -> None:
    """A name is not looked for on the hub, and no tokenizer is loaded for its template."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "fifo")
    names = ("x", "org/model", str(small_model), str(tmp_path / "binary"), str(tmp_path / "fifo"), "\0", "x" * 5000, "")
    for name in names:
        started = time.perf_counter()
        with pytest.raises(UserError, match=r"chat_template_path|fifo") as raised:
            train("--chat_template_path", name)
        assert "\n" not in str(raised.value)
        assert time.perf_counter() - started < 3
