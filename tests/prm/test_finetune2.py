"""The training command as a user meets it, in process on the small random model."""

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prm_cases import chains, jsonl, published, words

from agentark.contamination import trained_on
from agentark.jsonl import objects
from agentark.types import RunError, UserError
from prm import finetune2, loss, training
from prm.data import collate
from prm.score import Scorer
from prm.settings import parse
from prm.trainer import PRMTrainer

ROOT = Path(__file__).parents[2]
README = {
    "num_train_epochs": 3, "per_device_train_batch_size": 64, "per_device_eval_batch_size": 16,
    "gradient_accumulation_steps": 1, "learning_rate": "1e-4", "weight_decay": 0.1, "adam_beta2": 0.95,
    "warmup_ratio": 0.0, "logging_steps": 1, "save_strategy": "steps", "save_steps": 500, "save_total_limit": 3,
    "bf16": "True", "gradient_checkpointing": "True", "fix_llm": "True", "enable_nan_monitoring": "True",
}  # fmt: skip
"""The user's command, less model, data and output."""
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chains(tmp_path_factory.mktemp("data") / "labeled.jsonl", 16)


@pytest.fixture
def train(small_model: Path, labelled: Path, tmp_path: Path) -> Train:
    """Run finetune2.main; keywords are flags, None leaves one out."""

    def call(name: str = "prm", **flags: Any) -> Path:
        given = {"model_name_or_path": small_model, "train_data_path": labelled, "output_dir": tmp_path / name}
        quick = {"disable_tqdm": True, "logging_steps": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
        assert finetune2.main(words({**quick, **given, **flags})) == 0
        return tmp_path / name

    return call


def curve_of(folder: Path) -> list[dict[str, Any]]:
    return [row for _, row in objects(folder / "metrics.jsonl", "metrics")]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in curve_of(folder) if "loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def test_a_clock_that_steps_back_makes_no_negative_seconds(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", (1e9 - 3600 * k for k in itertools.count()).__next__)
    folder = train(fix_llm=True, max_steps=2, eval_ratio=0.5)
    about = json.loads((folder / "manifest.json").read_text())
    timed = [about["metrics"]["stage_1"], *curve_of(folder)]
    found = {name: value for row in timed for name, value in row.items() if "second" in name or "runtime" in name}
    assert found["train_runtime"] == 0
    assert all(value is None or value >= 0 for value in found.values())
    assert 0 < found["seconds"] < 600


def test_the_users_command(train: Train, small_model: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(**README)
    printed = capsys.readouterr().out
    assert printed.count("--bf16 True: not supported by this machine; training in fp32") == (
        not torch.cuda.is_available()
    )
    assert "4 questions, 16 solutions" in printed
    assert "separator '\\n' is token 198" in printed
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["status"], manifest["train_ids"]) == ("done", [f"chains/{k}" for k in range(4)])
    assert trained_on(folder) == manifest["train_ids"]
    assert manifest["train_data"]["sha256"] == manifest["config"]["train_data_sha256"]
    assert manifest["metrics"]["stage_1"]["optimizer_steps"] == 3
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert len(losses(folder)) == 3

    from transformers import AutoModelForTokenClassification, AutoTokenizer

    plain, report = AutoModelForTokenClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert plain.num_labels == 2
    assert AutoTokenizer.from_pretrained(folder).chat_template
    before, after = weights(small_model), weights(folder)
    backbone = [name for name in after if not name.startswith("score.")]
    assert len(backbone) == len(before)
    assert all(torch.equal(after[name], before[name]) for name in backbone)
    assert set(after) - set(backbone) == {"score.weight", "score.bias"}
    assert (folder / "projector.safetensors").is_file()

    scorer = Scorer.load(folder, device="cpu")
    scores = scorer.score([("Start with 1.", "1 + 1 = 2\n\nSo 2."), ("Start with 1.", "")])
    assert [len(one or []) for one in scores] == [2, 1]
    encoded = scorer.codec.encode("Start with 1.", ["1 + 1 = 2", "So 2."])
    by_hand = plain.eval()(input_ids=torch.tensor([encoded.ids])).logits[0, encoded.ends].softmax(-1)[:, 1]
    assert scores[0] == pytest.approx(by_hand.tolist(), abs=1e-5)

    again = train(**README)  # finished: nothing is done twice
    assert "holds this run, finished" in capsys.readouterr().out
    assert json.loads((again / "manifest.json").read_text()) == manifest
    with pytest.raises(UserError, match=r"holds a run of other settings \(learning_rate was 0\.0001, now 0\.001\)"):
        train(**README | {"learning_rate": 1e-3})
    with pytest.raises(UserError, match=r"--eval_strategy epoch: needs --eval_data_path or --eval_ratio"):
        train(**README | {"overwrite_output_dir": True, "eval_strategy": "epoch"})
    assert json.loads((again / "manifest.json").read_text()) == manifest


def test_cached_states_give_the_same_losses(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"stage": 1, "num_train_epochs": 2, "eval_ratio": 0.25, "step_label": "judge"}
    plain = train("plain", **flags)
    cached = train("cached", **flags, cache_features=True)
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-4)
    assert all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(weights(plain).values(), weights(cached).values(), strict=True)
    )
    assert "held out: accuracy" in capsys.readouterr().out
    shared = plain.parent / "states"
    times = []
    for name in ("ce", "ranking"):  # one pass over the backbone serves all
        train(name, **flags, cache_features=True, features_dir=shared, loss=name)
        times.append({path: path.stat().st_mtime_ns for path in shared.rglob("*.safetensors")})
    assert times[0] == times[1]
    assert len(times[0]) == 2
    with pytest.raises(UserError, match=r"--cache_features: with --unfreeze_last_layer every token's state .* MiB"):
        train("last", **flags, cache_features=True, unfreeze_last_layer=True)


@pytest.mark.parametrize("name", ["ce", "ranking"])
def test_other_losses_need_no_projector(train: Train, name: str) -> None:
    folder = train(name, stage=1, num_train_epochs=1, loss=name, cache_features=True)
    assert not (folder / "projector.safetensors").exists()
    assert all(math.isfinite(value) for value in losses(folder))


def test_both_stages_learn_what_is_to_be_seen(train: Train, small_model: Path) -> None:
    stages = {
        "stage_1": ["learning_rate=0.003", "num_train_epochs=2", "batch_size=8"],
        "stage_2": ["learning_rate=0.003", "num_train_epochs=60", "batch_size=8"],
    }
    folder = train("both", stage="both", step_label="judge", learning_rate=None, **stages)
    metrics = json.loads((folder / "manifest.json").read_text())["metrics"]
    assert metrics["stage_2"]["train_loss"] < metrics["stage_1"]["train_loss"]
    assert (metrics["stage_1"]["optimizer_steps"], metrics["stage_2"]["optimizer_steps"]) == (4, 120)
    first, last = weights(folder / "stage_1"), weights(folder)
    assert all(torch.equal(first[name], one) for name, one in weights(small_model).items() if "score" not in name)
    assert any(not torch.equal(first[name], last[name]) for name in first if "score" not in name)
    assert Scorer.load(folder).codec.settings.separator_id == 198
    curve = curve_of(folder / "stage_2")
    assert curve[-2]["train_auroc"] > 0.9  # on what it was trained on: the point is that it can
    assert curve[-2]["train_margin"] > 0.5


def test_a_run_killed_while_its_model_is_put_together_ends_whole(train: Train) -> None:
    briefly = ["learning_rate=0.003", "num_train_epochs=1", "batch_size=8"]
    flags = {"stage": "both", "learning_rate": None, "stage_1": briefly, "stage_2": briefly}
    folder = train("both", **flags)
    whole = (folder / "model.safetensors").read_bytes()
    os.truncate(folder / "model.safetensors", 5000)
    (folder / "tokenizer.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    train("both", **flags)
    assert (folder / "model.safetensors").read_bytes() == whole
    assert (folder / "tokenizer.json").is_file()


def test_resume_gives_the_same_run(train: Train, tmp_path: Path) -> None:
    flags = {"stage": 2, "num_train_epochs": 4, "per_device_train_batch_size": 4, "save_steps": 6}
    whole = train("whole", **flags)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for name in ("model.safetensors", "projector.safetensors", "checkpoint-12", "checkpoint-16"):
        found = cut / name
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)
    manifest = json.loads((cut / "manifest.json").read_text())
    (cut / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    resumed = train("cut", **flags)
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-5)
    assert len(losses(resumed)) == 16
    a, b = weights(whole), weights(resumed)
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


def test_resume_with_adapters(train: Train, tmp_path: Path) -> None:
    flags = {"stage": 2, "num_train_epochs": 2, "per_device_train_batch_size": 4, "lora_rank": 4, "save_steps": 4}
    whole = train("whole", **flags)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoint-8")
    manifest = json.loads((cut / "manifest.json").read_text())
    (cut / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    assert losses(train("cut", **flags)) == pytest.approx(losses(whole), rel=1e-5)


# ---------------------------------------------------------------- gradients


def trainer_for(small_model: Path, labelled: Path, folder: Path, **flags: Any) -> PRMTrainer:
    """A trainer that has not begun."""
    given = {
        "model_name_or_path": small_model,
        "train_data_path": labelled,
        "output_dir": folder,
        "stage": 2,
        "step_label": "judge",
        "require_mixed": True,
        **flags,
    }
    found, _ = parse(words(given))
    codec = training.make_codec(str(small_model), found.prm)
    items = training.data.load(found, codec)[0].items
    torch.manual_seed(0)
    reward = training.model.load(str(small_model), "--x", projected=16)
    training.model.freeze(reward, 2, False)
    return PRMTrainer(reward, training.stage_args(found, 2, folder), loss.Objective.named(found.prm.loss), codec, items)


@pytest.mark.parametrize("name", loss.LOSSES)
def test_accumulated_batches_give_the_same_gradient(
    small_model: Path, labelled: Path, tmp_path: Path, name: str
) -> None:
    """8 solutions at once, or 4 and 4, or 4, 2 and 2 (two questions of four): the questions decide, not the cut."""
    found = []
    for number, sizes in enumerate(([8], [4, 4])):
        trainer = trainer_for(small_model, labelled, tmp_path / str(number), loss=name)
        items = [item for _, item in trainer.train_dataset[:8]]
        batches, start = [], 0
        for size in sizes:
            batches.append(collate(items[start : start + size]))
            start += size
        samples, counted = trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
        trainer.current_gradient_accumulation_steps = len(samples)
        value = sum(float(trainer.training_step(trainer.model, batch, counted)) for batch in samples)
        gradients = {key: one.grad for key, one in trainer.model.named_parameters() if one.grad is not None}
        found.append((value, gradients))
    (whole, one), (cut, other) = found
    assert cut == pytest.approx(whole, rel=1e-5)
    assert one.keys() == other.keys()
    assert any("projector" in key for key in one) == (name == "ce+supcon")
    assert all(float((one[key] - other[key]).abs().max()) < 1e-5 for key in one)
    assert max(float(value.abs().max()) for value in one.values()) > 1e-3


def test_one_batch_of_8_is_four_of_2(small_model: Path, tmp_path: Path) -> None:
    """Pairs of one right and one wrong solution, two questions each: cross entropy over all separators alike."""
    found = []
    for sizes in ([8], [2, 2, 2, 2]):
        trainer = trainer_for(small_model, chains(tmp_path / "a.jsonl", 16), tmp_path / "out", loss="ce")
        items = [item for _, item in trainer.train_dataset[:8]]
        batches = [collate(items[sum(sizes[:k]) : sum(sizes[: k + 1])]) for k in range(len(sizes))]
        assert len({len(batch["labels"]) for batch in batches}) > 1 or len(sizes) == 1
        samples, counted = trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
        for batch in samples:
            trainer.training_step(trainer.model, batch, counted)
        found.append(torch.cat([one.grad.flatten() for one in trainer.model.parameters() if one.grad is not None]))
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert float(found[0].abs().max()) > 1e-3


# ---------------------------------------------------------------- NaN


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Losses of the steps listed here are NaN."""
    steps: list[int] = []
    real = loss.total

    def total(*given: Any) -> torch.Tensor:
        poisoned.count += 1  # type: ignore[attr-defined]
        value = real(*given)
        return value * math.nan if poisoned.count in steps else value  # type: ignore[attr-defined]

    poisoned.count = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(loss, "total", total)
    return steps


def test_the_nan_monitor_stops_and_says_where(train: Train, poisoned: list[int], tmp_path: Path) -> None:
    poisoned.append(2)
    with pytest.raises(RunError, match=r"step 2: gradient of classifier\..* is not finite; batch and state saved in"):
        train(stage=2, enable_nan_monitoring=True)
    place = tmp_path / "prm" / "nan" / "step-2-rank-0"
    report = json.loads((place / "report.json").read_text())
    assert (report["step"], report["action"]) == (2, "stop")
    from safetensors.torch import load_file

    assert load_file(place / "batch.safetensors")["input_ids"].dim() == 2
    assert "classifier.score.weight" in load_file(place / "trained.safetensors")


def test_the_nan_monitor_skips_at_most_k_steps(train: Train, poisoned: list[int]) -> None:
    poisoned += [2, 3]
    folder = train(stage=2, enable_nan_monitoring=True, on_nan="skip", max_nan_skips=2)
    assert json.loads((folder / "manifest.json").read_text())["metrics"]["stage_2"]["skipped"] == 2
    assert all(bool(torch.isfinite(one).all()) for one in weights(folder).values())
    poisoned += [7, 8, 9, 10]
    with pytest.raises(RunError, match=r"after 1 skipped steps"):
        train("more", stage=2, enable_nan_monitoring=True, on_nan="skip", max_nan_skips=1, num_train_epochs=9)


def test_nan_in_the_model_is_found_in_the_loss(small_model: Path, train: Train, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(small_model, broken)
    values = load_file(broken / "model.safetensors")
    values["model.norm.weight"][0] = math.nan
    save_file(values, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"step 1: loss ce is not finite"):
        train(model_name_or_path=broken, stage=1, enable_nan_monitoring=True)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"fix_llm": True, "stage": 2}, r"--fix_llm True: means --stage 1, but --stage is 2"),
        ({"stage": "both", "learning_rate": 1e-4}, r"--learning_rate: with --stage both it is set per stage"),
        ({"stage": "both", "learning_rate": None, "stage_1": ["rate=1"]}, r"--stage_1: unknown key 'rate'"),
        ({"stage": 1, "stage_1": ["batch_size=1"]}, r"--stage_1 and --stage_2: go with --stage both"),
        ({"stage": 2, "cache_features": True}, r"--cache_features: belongs to stage 1"),
        ({"stage": 1, "lora_rank": 4}, r"--lora_rank: belongs to stage 2"),
        ({"tau": 0}, r"tau = 0\.0: Input should be greater than or equal to 0\.0001"),
        ({"loss": "mse"}, r"argument --loss: invalid choice: 'mse'"),
        ({"learning_rat": 1}, r"unknown argument --learning_rat \(did you mean --learning_rate\?; see --help\)"),
        ({"step_separator_token": "two words here"}, r"--step_separator_token 'two words here': .*tokens of it"),
        ({"max_length": 100000}, r"--max_length 100000: the model's context has 8192 tokens"),
        ({"train_data_path": "nothing.jsonl"}, r"--train_data_path nothing\.jsonl: no such file"),
        ({"model_name_or_path": "./nothing"}, r"--model_name_or_path \./nothing: not a model folder"),
        ({"logging_steps": "inf"}, r"--logging_steps inf: expected a finite number"),
        ({"save_steps": "nan"}, r"--save_steps nan: expected a finite number"),
        ({"seed": -1}, r"--seed -1: expected a number from 0 to 4294967295"),
        ({"seed": 1 << 63}, r"--seed 9223372036854775808: expected a smaller number"),
        ({"gradient_accumulation_steps": 0}, r"--gradient_accumulation_steps 0: expected at least 1"),
        ({"adam_beta1": 2}, r"optimizer adamw.*: refused .*Invalid beta"),
        ({"accelerator_config": "x"}, r"flags: .*x"),
        ({"deepspeed": "nothing.json"}, r"--deepspeed nothing\.json: no such file"),
        ({"warmup_ratio": 0.1, "warmup_steps": 3}, r"--warmup_ratio: does not go together with --warmup_steps"),
        ({"resume_from_checkpoint": "nothing"}, r"--resume_from_checkpoint nothing: not a checkpoint"),
        ({"eval_strategy": "epoch"}, r"--eval_strategy epoch: needs --eval_data_path or --eval_ratio"),
        ({"report_to": "no_such_tracker"}, r"flags: no_such_tracker is not supported"),
        ({"stage": "both", "learning_rate": None, "stage_1": ["batch_size=9"]}, r"batch_size=9: not a multiple of"),
    ],
)  # fmt: skip
def test_bad_flags(train: Train, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(**flags)


def test_deepspeed_is_never_silently_off(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ROOT / "configs" / "deepspeed" / "zero2.json"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(UserError, match=r"ACCELERATE_USE_CPU .* would silently switch DeepSpeed off"):
        train(deepspeed=config)
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr("prm.settings.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--deepspeed: the package deepspeed is not installed"):
        train(deepspeed=config)


def test_folders_of_others_are_left_alone(train: Train, tmp_path: Path, labelled: Path) -> None:
    (tmp_path / "prm").mkdir()
    (tmp_path / "prm" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"--output_dir .*prm: is not empty and holds no run of ours"):
        train()
    same = jsonl(tmp_path / "same.jsonl", [published(["a", "b"], [True, True])])
    with pytest.raises(UserError, match=r"without right and wrong ones: --loss ce or --require_mixed False"):
        train("other", train_data_path=same)
    with pytest.raises(UserError, match=r"is not empty and holds no run of ours"):
        train(overwrite_output_dir=True)
    assert (tmp_path / "prm" / "thesis.txt").read_text() == "mine"


def test_warmup_ratio_still_works(small_model: Path, labelled: Path, tmp_path: Path) -> None:
    given = {"model_name_or_path": small_model, "train_data_path": labelled, "output_dir": tmp_path}
    flags, _ = parse(words({**given, "warmup_ratio": 0.25}))
    assert flags.training_args().get_warmup_steps(40) == 10
    assert flags.training_args().report_to == []


def test_bad_input_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "prm/finetune2.py", "--model_name_or_path", "x/y", "--train_data_path", "none.jsonl"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"error: --output_dir: .* is missing", last)
