"""A run continues only from checkpoints that it wrote itself; nothing else is unpickled."""

import json
import math
import pickle
import shutil
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from agentark import checkpoints
from agentark.run_folder import RunFolder
from agentark.types import UserError

IDENTITY = {"learning_rate": 0.1}


def folder_of(path: Path, identity: dict[str, Any] = IDENTITY) -> RunFolder:
    run = RunFolder(path, identity, kind="sft", flag="--output_dir", replaces=False)
    run.open()
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that was stopped after two checkpoints."""
    run = folder_of(tmp_path / "out")
    run.claim(print, kind="sft", config=run.identity, finished=None)
    for step in (5, 10):
        (run.folder / f"checkpoint-{step}").mkdir()
        (run.folder / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        checkpoints.mark(run.folder / f"checkpoint-{step}", run, train_ids=["a"])
    return folder_of(run.folder)


def test_the_newest_of_the_run_is_chosen(run: RunFolder) -> None:
    assert run.continued
    said: list[str] = []
    assert checkpoints.chosen(None, run.folder, run, said.append) == run.folder / "checkpoint-10"
    assert checkpoints.chosen("False", run.folder, run, said.append) is None
    named = str(run.folder / "checkpoint-5")
    assert checkpoints.chosen(named, run.folder, run, said.append) == Path(named)
    assert said == []


@pytest.mark.parametrize("manifest", [None, "", "{", "[]", "{}", '{"run": "other"}', '{"run": []}', '{"run": {}}'])
def test_one_of_another_run_is_left_out(run: RunFolder, manifest: str | None) -> None:
    planted = run.folder / "checkpoint-20"
    shutil.copytree(run.folder / "checkpoint-10", planted)
    (planted / "manifest.json").unlink()
    if manifest is not None:
        (planted / "manifest.json").write_text(manifest)
    said: list[str] = []
    assert checkpoints.newest(run.folder, run, said.append) == run.folder / "checkpoint-10"
    assert len(said) == 1
    assert said[0].startswith(
        f"{planted}: left out (its manifest does not name this run, so its pickles are not loaded"
    )
    with pytest.raises(
        UserError, match=r"--resume_from_checkpoint .*checkpoint-20: its manifest does not name this run"
    ):
        checkpoints.chosen(str(planted), run.folder, run, said.append)


def test_one_of_other_settings_is_left_out(run: RunFolder, tmp_path: Path) -> None:
    other = folder_of(tmp_path / "other", {"learning_rate": 0.2})
    assert checkpoints.newest(run.folder, other, print) is None


@pytest.mark.parametrize("name", ["checkpoint-x", "checkpoint-", "checkpoint-" + "9" * 400, "checkpoint-7.bak"])
def test_other_names_are_no_checkpoints(run: RunFolder, name: str) -> None:
    if len(name) < 256:
        shutil.copytree(run.folder / "checkpoint-10", run.folder / name)
    assert checkpoints.newest(run.folder, run, print) == run.folder / "checkpoint-10"


@pytest.mark.parametrize(
    "error",
    [pickle.UnpicklingError("weights only"), EOFError("ran out"), RuntimeError("PytorchStreamReader failed reading")],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(UserError, match=r"checkpoint-5: cannot be continued from"),
        checkpoints.loading(tmp_path / "checkpoint-5"),
    ):
        raise error
    with pytest.raises(type(error)), checkpoints.loading(None):
        raise error


def trained(out: Path, die_at: int | None = None) -> tuple[float, list[tuple[int, float]]]:
    """(the training's mean loss, the losses logged by step) of ten steps; a death at that step raises KeyError."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": ((self.weight * x) ** 2).mean()}

    class Death(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == die_at:
                raise KeyError(die_at)

    run = folder_of(out)
    run.claim(print, kind="sft", config=run.identity, finished=None)
    args = TrainingArguments(
        str(out), max_steps=10, logging_steps=4, save_steps=3, per_device_train_batch_size=1, use_cpu=True,
        report_to=[], disable_tqdm=True, learning_rate=0.01,
    )  # fmt: skip
    trainer = Trainer(Model(), args, train_dataset=[{"x": torch.tensor([float(value)])} for value in range(10)])
    checkpoint = checkpoints.newest(out, run, print)
    trainer.add_callback(checkpoints.marking(trainer, run, checkpoint))
    trainer.add_callback(Death())
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return result.training_loss, [(log["step"], log["loss"]) for log in trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize("die_at", [5, 8, 10])
def test_losses_go_on_where_a_killed_training_was(tmp_path: Path, die_at: int) -> None:
    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyError):
        trained(tmp_path / "killed", die_at)
    assert trained(tmp_path / "killed") == whole
    assert trained(tmp_path / "killed") == whole  # killed after the last checkpoint


def fake_trainer(loss: float, tokens: int, metrics: dict[str, list[float]]) -> Any:
    import torch

    return SimpleNamespace(
        accelerator=SimpleNamespace(reduce=lambda tensor, how: tensor),
        _tr_loss=torch.tensor(loss),
        _total_loss_scalar=3.5,
        _globalstep_last_logged=4,
        _total_train_tokens=tokens,
        _metrics={"train": defaultdict(list, metrics)},
    )


def test_sums_of_trl_go_on_too() -> None:
    sums = checkpoints.Sums.of(fake_trainer(math.nan, 1446, {"entropy": [0.5, math.nan]}))
    fresh = fake_trainer(0.0, 0, {})
    msgspec.convert(json.loads(msgspec.json.encode(sums)), checkpoints.Sums).restore(fresh)
    assert math.isnan(fresh._tr_loss)
    assert (fresh._total_loss_scalar, fresh._globalstep_last_logged, fresh._total_train_tokens) == (3.5, 4, 1446)
    entropy = fresh._metrics["train"]["entropy"]
    assert entropy[0] == 0.5
    assert math.isnan(entropy[1])


def test_damaged_sums_are_one_line(run: RunFolder) -> None:
    checkpoint = run.folder / "checkpoint-10"
    checkpoints.mark(checkpoint, run, sums={"loss": "high"})
    marking = checkpoints.marking(fake_trainer(0.0, 0, {}), run, checkpoint)
    with pytest.raises(UserError, match=r"checkpoint-10/manifest\.json: sums: .*; remove the checkpoint"):
        marking.on_train_begin(None, None, None)


def test_lines_after_a_checkpoint_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    checkpoints.rewind(path, 2)
    assert not path.exists()
    closing = '{"step": 2, "train_runtime": 0.5}'  # of a run that was killed before it could say that it was done
    path.write_text(f'{{"step": 1}}\n\n{{"step": 2, "kl": null}}\n{closing}\n{{"step": 3}}\n{{"ste')
    checkpoints.rewind(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2, "kl": null}\n'


@pytest.mark.parametrize("line", [b"\0\0\0", b"[1]", b'{"kl": 1}', b'{"step": "x"}', b"[" * 100_000, b'"\xff"', b"{"])
def test_a_damaged_line_of_metrics_is_named(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, row 2: not ") as raised:
        checkpoints.rewind(path, 2)
    assert "\n" not in str(raised.value)
