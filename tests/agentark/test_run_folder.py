"""An output folder is claimed late, replaced without loss, and never taken from somebody else."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentark.lock import RunLock
from agentark.run_folder import RunFolder, aside, set_aside
from agentark.types import UserError


def folder_of(path: Path, seed: int = 0, replaces: bool = False, **more: Any) -> RunFolder:
    return RunFolder(path, {"seed": seed, **more}, kind="sft", flag="--output_dir", replaces=replaces)


def trained(path: Path, weights: str, finish: bool = True, **given: Any) -> RunFolder:
    run = folder_of(path, **given)
    assert not run.open()
    run.claim(print, kind="sft", config=run.identity, finished=None)
    (path / "model.safetensors").write_text(weights)
    (path / "checkpoint-1").mkdir(exist_ok=True)
    if finish:
        run.write(finished="now")
    return run


def weights_of(path: Path) -> str:
    return (path / "model.safetensors").read_text()


def test_new_continued_finished_and_other(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    run = folder_of(path)
    assert not run.open()
    assert not path.exists()  # looking changes nothing
    trained(path, "first", finish=False)
    again = folder_of(path)
    assert not again.open()
    assert again.continued
    with pytest.raises(UserError, match=r"--output_dir .*run: holds a run of other settings \(seed was 0, now 1\)"):
        folder_of(path, seed=1).open()
    with pytest.raises(UserError, match=r"lr was None, now 0.1"):
        folder_of(path, lr=0.1).open()
    trained(path, "first")
    assert folder_of(path).open()
    assert json.loads((path / "manifest.json").read_bytes())["config"] == {"seed": 0}


def test_the_old_run_stays_until_the_new_one_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    trained(path, "old")
    run = folder_of(path, 1, replaces=True)
    assert not run.open()
    assert weights_of(path) == "old"  # e.g. the data turns out to be bad
    for weights in ("killed", "killed again"):
        trained(path, weights, finish=False, seed=1, replaces=True)
        assert f"is kept in {aside(path)} until this run is complete" in capsys.readouterr().out
        assert weights_of(aside(path)) == "old"
        assert weights_of(path) == weights
    going_on = folder_of(path, 1)
    going_on.open()
    assert going_on.continued
    going_on.claim(print)
    going_on.write(finished="now")
    assert weights_of(path) == "killed again"
    assert not aside(path).exists()


def test_killed_after_the_end_and_before_the_old_run_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    trained(path, "second")
    aside(path).mkdir()
    (aside(path) / "model.safetensors").write_text("first")
    trained(path, "third", finish=False, seed=1, replaces=True)
    assert weights_of(aside(path)) == "second"


def test_a_lock_stays_where_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "run"
    trained(path, "old")
    with RunLock(path / "run") as lock:
        before = os.stat(lock.path).st_ino
        trained(path, "new", seed=1, replaces=True)
        assert os.stat(lock.path).st_ino == before
    assert sorted(one.name for one in path.iterdir()) == ["checkpoint-1", "manifest.json", "model.safetensors"]


@pytest.mark.parametrize("replaces", [False, True])
def test_folders_of_others(tmp_path: Path, replaces: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "manifest.json").write_text('{"title": "Mine"}')
    with pytest.raises(UserError, match="is not empty and holds no run of ours; choose another folder"):
        folder_of(tmp_path / "thesis", replaces=replaces).open()
    (tmp_path / "prm").mkdir()
    (tmp_path / "prm" / "manifest.json").write_text('{"kind": "process reward model", "config": {"seed": 0}}')
    with pytest.raises(UserError, match=r"no run of ours of this kind \(but: process reward model\)"):
        folder_of(tmp_path / "prm", replaces=replaces).open()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is a file; give a folder"):
        folder_of(tmp_path / "file", replaces=replaces).open()


def test_what_we_did_not_write_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    trained(path, "old")
    (path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"--overwrite would remove notes.txt, which is not ours; move it away"):
        folder_of(path, replaces=True).open()
    for hidden in (".env", ".git"):
        (path / hidden).touch()
        with pytest.raises(UserError, match=rf"--overwrite would remove \{hidden}, which is not ours"):
            folder_of(path, replaces=True).open()
        (path / hidden).unlink()
    assert folder_of(path).open()
    (path / "notes.txt").unlink()
    monkeypatch.chdir(path / "checkpoint-1")
    with pytest.raises(UserError, match="would remove the folder that this command was started in"):
        folder_of(path, replaces=True).open()


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run"
    trained(path, "old")
    before = {one.name for one in path.iterdir()}
    run = folder_of(path, 1, replaces=True)
    run.open(main=False)
    run.claim(print, kind="sft")
    run.write(finished="now")
    assert {one.name for one in path.iterdir()} == before
    assert not aside(path).exists()


def test_an_empty_folder_leaves_nothing_aside(tmp_path: Path) -> None:
    assert set_aside(tmp_path / "none", complete=False) is None
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.html").write_text("")
    assert set_aside(tmp_path / "link", complete=True) == tmp_path / ".real.replaced"
    assert list((tmp_path / "real").iterdir()) == []
    shutil.rmtree(tmp_path / ".real.replaced")


def test_half_a_file_of_weights_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    trained(tmp_path / "out", "half", finish=False)
    halves = [tmp_path / "out" / ".tmpRmHAW2", tmp_path / "out" / "stage_1" / ".tmpAb12Cd"]
    halves[1].parent.mkdir()
    for half in halves:
        half.write_bytes(b"weights")
    run = folder_of(tmp_path / "out")
    run.open()
    assert all(half.exists() for half in halves)
    run.claim(print)
    assert not any(half.exists() for half in halves)
    halves[0].write_bytes(b"weights")
    replacing = folder_of(tmp_path / "out", replaces=True)
    replacing.open()
    replacing.claim(print)
    assert not halves[0].exists()
