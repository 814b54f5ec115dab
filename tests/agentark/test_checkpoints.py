"""A run continues only from checkpoints that it wrote itself; nothing else is unpickled."""

import pickle
import shutil
from pathlib import Path
from typing import Any

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
